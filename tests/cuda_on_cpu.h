// CUDA on a CPU: enough of it to run this project's kernels, unaltered, in tests. Compiled with g++ or clang++, before them.
//
// Blocks run one after the other. Each thread of a block is a fibre that runs until it waits: at __syncthreads for its block, in
// a warp function for its warp. Which goes next is drawn from a seed, so that what depends on luck fails for some seed. A barrier
// that some threads of the block never reach is an error. Shared memory begins with arbitrary bytes in every block.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <utility>
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
struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned int x, y;
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
inline unsigned int __float_as_uint(float number) {
    unsigned int bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned int bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}
inline unsigned int __byte_perm(unsigned int a, unsigned int b, unsigned int which) {
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned int found = 0;
    for (int i = 0; i < 4; i++) found |= (unsigned int)(bytes >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    return found;
}
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
    std::vector<std::pair<void*, const void*>> copies;  // on their way
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

namespace simulated {

// float16 as numbers and back, to the nearest, ties to even.
inline double half_value(unsigned int bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return bits >> 15 & 1 ? -size : size;
}
inline unsigned int nearest_half(double number) {
    const unsigned int sign = std::signbit(number) ? 0x8000u : 0;
    int exponent;
    std::frexp(number, &exponent);
    exponent = max(exponent - 1, -14);
    const double steps = std::nearbyint(std::ldexp(std::fabs(number), 10 - exponent));
    // The steps of the first binade count from 0, those of others from 1024, which the exponent stands for.
    const unsigned int bits = number == 0 ? 0 : (unsigned int)(steps + 1024.0 * (exponent + 14));
    if (bits >= 0x7c00u) fprintf(stderr, "float16 overflows\n"), abort();
    return sign | bits;
}

// To a multiple of a power of two, towards zero.
inline double cut(double number, double step) { return std::trunc(number / step) * step; }

// A sum as the worst of tensor cores may take it: every term is cut to 24 bits of the greatest, the sum again.
inline float harshly_summed(std::initializer_list<double> first, const std::vector<double>& terms) {
    std::vector<double> all(first);
    all.insert(all.end(), terms.begin(), terms.end());
    double greatest = 0, sum = 0;
    for (double term : all) greatest = max(greatest, std::fabs(term));
    int exponent;
    std::frexp(greatest, &exponent);
    for (double term : all) sum += cut(term, std::ldexp(1.0, exponent - 24));
    std::frexp(sum, &exponent);
    sum = cut(sum, std::ldexp(1.0, exponent - 24));
    return std::fabs(sum) < 0x1p-126 ? 0.0f : (float)sum;
}

// Numbers of a word, those below the normal as zeros: what becomes of them is not said.
inline int numbers_of(unsigned int word, bool halves, double* found) {
    if (halves) {
        for (int i = 0; i < 2; i++) {
            const double number = half_value(word >> 16 * i & 0xffff);
            found[i] = std::fabs(number) < 0x1p-14 ? 0 : number;
        }
        return 2;
    }
    found[0] = __uint_as_float(word & ~0x1fffu);
    if (std::fabs(found[0]) < 0x1p-126) found[0] = 0;
    return 1;
}

// The float product of tensor cores, PTX ISA 9.2; words lie as those of the binary product of 256 bits.
inline void float_mma(float* d, std::initializer_list<unsigned int> given, bool halves) {
    const int lane = threadIdx.x % WARP;
    const auto lanes = exchange(given);
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        std::vector<double> terms;
        for (int word = 0; word < 8; word++) {
            double a[2], b[2];
            const int n = numbers_of(lanes.of(row % 8 * 4 + word % 4, row / 8 + 2 * (word / 4)), halves, a);
            numbers_of(lanes.of(column * 4 + word % 4, 4 + word / 4), halves, b);
            for (int j = 0; j < n; j++) terms.push_back(a[j] * b[j]);
        }
        d[i] = harshly_summed({(double)d[i]}, terms);
    }
}

}  // namespace simulated

inline void mma_f16(float* d, unsigned int a0, unsigned int a1, unsigned int a2, unsigned int a3, unsigned int b0,
                    unsigned int b1) {
    simulated::float_mma(d, {a0, a1, a2, a3, b0, b1}, true);
}
inline void mma_tf32(float* d, unsigned int a0, unsigned int a1, unsigned int a2, unsigned int a3, unsigned int b0,
                     unsigned int b1) {
    simulated::float_mma(d, {a0, a1, a2, a3, b0, b1}, false);
}
inline unsigned int fma_halves(unsigned int a, unsigned int b, unsigned int c) {
    unsigned int found = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        using simulated::half_value;
        const double exact = half_value(a >> shift & 0xffff) * half_value(b >> shift & 0xffff) + half_value(c >> shift & 0xffff);
        found |= simulated::nearest_half(exact) << shift;
    }
    return found;
}
// Late: what was asked for is there when it was waited for, not before.
inline void copy_ahead(uint4* to, const uint4* from) {
    if ((size_t)from % 16) fprintf(stderr, "unaligned load\n"), abort();
    simulated::fibres[simulated::running].copies.push_back({to, from});
}
inline void wait_for_copies() {
    auto& copies = simulated::fibres[simulated::running].copies;
    for (const auto& copy : copies) *(uint4*)copy.first = *(const uint4*)copy.second;
    copies.clear();
}

extern char __start_shared_memory[], __stop_shared_memory[];
__shared__ __attribute__((used)) int some_shared_memory;  // the section is there even if no kernel has any

// Run a kernel whose arguments are all 64 bits wide, sixteen at most. 0 if a barrier was not reached by all.
extern "C" int simulate(void* kernel, unsigned int blocks_x, unsigned int blocks_y, unsigned int threads,
                        const simulated::Argument* arguments, unsigned int seed) {
    using namespace simulated;
    fibres.assign(threads, Fibre());
    stacks.resize(threads * STACK_BYTES);
    simulated::kernel = kernel;
    simulated::arguments = arguments;
    call = [](void* f, const Argument* a) {
        typedef Argument A;
        ((void (*)(A, A, A, A, A, A, A, A, A, A, A, A, A, A, A, A))f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9],
                                                                a[10], a[11], a[12], a[13], a[14], a[15]);
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
