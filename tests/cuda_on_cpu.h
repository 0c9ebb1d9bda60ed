// CUDA on a CPU: enough of it to run this project's kernels, unaltered, in tests. Compiled with g++ or clang++, before them.
//
// Blocks run one after the other. Each thread of a block is a fibre that runs until it waits: at __syncthreads for its block, in
// a warp function for its warp. Which goes next is drawn from a seed, so that what depends on luck fails for some seed. A barrier
// that some threads of the block never reach is an error. Shared memory begins with arbitrary bytes in every block.

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// A section of their own, so that all of it can be filled with arbitrary bytes.
#define __shared__ static __attribute__((section("shared_memory")))

struct ulonglong2 {
    unsigned long long x, y;
};
struct int4 {
    int x, y, z, w;
};
struct Place {
    unsigned int x, y, z;
};

static Place threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

template <class T>
T __ldcs(const T* from) {
    if ((size_t)from % sizeof(T)) fprintf(stderr, "unaligned load\n"), abort();
    return *from;
}
inline int __popc(unsigned int bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <class T>
T atomicAdd(T* to, T by) {
    const T before = *to;
    *to = before + by;
    return before;
}

namespace simulated {

enum Waits { FOR_NOTHING, FOR_WARP, FOR_BLOCK, FOREVER };
constexpr int WARP = 32;
constexpr size_t STACK_BYTES = 1 << 17;
typedef void (*Kernel)(...);
typedef unsigned long long Argument;

struct Fibre {
    ucontext_t context;
    Waits waits;
    int steps;                 // warp functions it has begun
    unsigned int given[2][6];  // to the last two of them
};

static std::vector<Fibre> fibres;
static std::vector<char> stacks;
static ucontext_t scheduler;
static int running;
static void (*call)(void*, const Argument*);
static void* kernel;
static const Argument* arguments;

inline void wait(Waits what) {
    fibres[running].waits = what;
    swapcontext(&fibres[running].context, &scheduler);
}

// Every lane gives some numbers; when all have, each may see those of the others.
struct Lanes {
    const Fibre* first;
    int step;
    unsigned int of(int lane, int which = 0) const { return first[lane].given[step][which]; }
};
inline Lanes exchange(std::initializer_list<unsigned int> given) {
    Fibre& mine = fibres[running];
    const int step = mine.steps++ % 2;
    std::copy(given.begin(), given.end(), mine.given[step]);
    wait(FOR_WARP);
    return {&fibres[running / WARP * WARP], step};
}

static void body() {
    call(kernel, arguments);
    wait(FOREVER);
}

// Fibres begin.to end that all wait for the same may go on; 0 if there are none that wait for it, -1 if only some do.
inline int released(int begin, int end, Waits what) {
    int waiting = 0;
    for (int i = begin; i < end; i++) waiting += fibres[i].waits == what;
    if (waiting == end - begin) {
        for (int i = begin; i < end; i++) fibres[i].waits = FOR_NOTHING;
        return 1;
    }
    return waiting ? -1 : 0;
}

inline bool run_block(std::mt19937& random) {
    const int n = (int)fibres.size();
    for (int i = 0; i < n; i++) {
        Fibre& fibre = fibres[i];
        fibre.waits = FOR_NOTHING;
        fibre.steps = 0;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = stacks.data() + i * STACK_BYTES;
        fibre.context.uc_stack.ss_size = STACK_BYTES;
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, body, 0);
    }
    std::vector<int> order(n);
    for (int i = 0; i < n; i++) order[i] = i;
    for (;;) {
        std::shuffle(order.begin(), order.end(), random);
        for (int i : order) {
            if (fibres[i].waits != FOR_NOTHING) continue;
            running = i;
            threadIdx = {(unsigned)i, 0, 0};
            swapcontext(&scheduler, &fibres[i].context);
        }
        bool any = false;
        for (int warp = 0; warp < n; warp += WARP) any |= released(warp, min(warp + WARP, n), FOR_WARP) == 1;
        if (any) continue;
        if (released(0, n, FOREVER) == 1) return true;
        if (released(0, n, FOR_BLOCK) != 1) return false;
    }
}

}  // namespace simulated

inline void __syncthreads() { simulated::wait(simulated::FOR_BLOCK); }
inline void __syncwarp(unsigned int = 0xffffffffu) { simulated::wait(simulated::FOR_WARP); }

inline unsigned int __ballot_sync(unsigned int, int holds) {
    const auto lanes = simulated::exchange({holds != 0});
    unsigned int found = 0;
    for (int lane = 0; lane < simulated::WARP; lane++) found |= lanes.of(lane) << lane;
    return found;
}

// The binary product of tensor cores, PTX ISA 9.2: A has words_a registers a lane, B half as many.
inline void simulated_mma(int* d, int words_a, std::initializer_list<unsigned int> given, const int* c) {
    const int lane = threadIdx.x % simulated::WARP;
    const int begin[4] = {c[0], c[1], c[2], c[3]};
    const auto lanes = simulated::exchange(given);
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        d[i] = begin[i];
        for (int word = 0; word < 2 * words_a; word++) {
            const unsigned int of_a = lanes.of(row % 8 * 4 + word % 4, row / 8 + 2 * (word / 4));
            const unsigned int of_b = lanes.of(column * 4 + word % 4, words_a + word / 4);
            d[i] += __builtin_popcount(of_a & of_b);
        }
    }
}
inline void mma_256(int* d, const unsigned int* a, unsigned int b0, unsigned int b1, const int* c) {
    simulated_mma(d, 4, {a[0], a[1], a[2], a[3], b0, b1}, c);
}
inline void mma_128(int* d, const unsigned int* a, unsigned int b, const int* c) {
    simulated_mma(d, 2, {a[0], a[1], b}, c);
}

extern char __start_shared_memory[], __stop_shared_memory[];
__shared__ __attribute__((used)) int some_shared_memory;  // the section is there even if no kernel has any

// Run a kernel whose arguments are all 64 bits wide, twelve at most. 0 if a barrier was not reached by all.
extern "C" int simulate(void* kernel, unsigned int blocks_x, unsigned int blocks_y, unsigned int threads,
                        const simulated::Argument* arguments, unsigned int seed) {
    using namespace simulated;
    fibres.assign(threads, Fibre());
    stacks.resize(threads * STACK_BYTES);
    simulated::kernel = kernel;
    simulated::arguments = arguments;
    call = [](void* f, const Argument* a) {
        typedef Argument A;
        ((void (*)(A, A, A, A, A, A, A, A, A, A, A, A))f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
    };
    blockDim = {threads, 1, 1};
    gridDim = {blocks_x, blocks_y, 1};
    std::mt19937 random(seed);
    std::vector<unsigned int> order(blocks_x * blocks_y);
    for (unsigned int i = 0; i < order.size(); i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (unsigned int block : order) {
        blockIdx = {block % blocks_x, block / blocks_x, 0};
        memset(__start_shared_memory, (int)random(), __stop_shared_memory - __start_shared_memory);
        if (!run_block(random)) return 0;
    }
    return 1;
}
