// The row kernel: every code that is near enough, for up to four queries at once. Bound by reading memory.
//
// A thread loads 16 bytes at a time, several times before it uses the first, XORs and counts; the smallest of its distances
// decides whether it looks at single codes, and hardly ever one is near enough.
//
// Arithmetic of an H200, codes of 64 bits: 4.8 TB/s bring 600 M codes a millisecond, 2.6 a clock to each of 132 multiprocessors.
// A code and a query take 2 XOR, 2 POPC (16 a clock), an addition and a minimum: 8 codes a clock, so up to three queries hide
// behind memory. 1,536 threads with 64 bytes on the way each are 96 KB a multiprocessor; 4.8 TB/s at 0.8 us need 29 KB.

constexpr int UNIT_ROWS = WORDS == 1 ? 2 : 1;  // rows of one load of 16 bytes, or a row of several
constexpr int UNIT_WORDS = UNIT_ROWS * WORDS;
constexpr int UNROLL = UNIT_WORDS >= 8 ? 1 : 8 / UNIT_WORDS;

__device__ inline void load_unit(const u64* codes, i64 unit, u64* held) {
    const u64* from = codes + unit * UNIT_WORDS;
    if constexpr (UNIT_WORDS % 2 == 0) {
#pragma unroll
        for (int w = 0; w < UNIT_WORDS; w += 2) {
            const ulonglong2 pair = __ldcs((const ulonglong2*)(from + w));
            held[w] = pair.x;
            held[w + 1] = pair.y;
        }
    } else {
#pragma unroll
        for (int w = 0; w < UNIT_WORDS; w++) held[w] = __ldcs(from + w);
    }
}

// What queries take: every living code nearer than their reach, and of those at their reach the ones before row ties_end (all
// without it). What is taken is appended in any order; counts goes on counting when the room for keys is full. Rows are those of
// a piece of the gallery, of which the first is number `base`; keys and ties_end have numbers.
struct Taken {
    const u8* alive;
    const i64 *reach, *ties_end;
    u64 *keys, *counts;
    i64 capacity, base;

    __device__ void take(i64 query, int distance, i64 row) const {
        if (distance > reach[query] || !is_alive(alive, row)) return;
        if (ties_end != nullptr && distance == reach[query] && base + row >= ties_end[query]) return;
        const u64 place = atomicAdd(&counts[query], 1ull);
        if (place < (u64)capacity) keys[query * capacity + (i64)place] = key_of(distance, base + row);
    }
};

template <int LOT>
__device__ void scan(const u64* codes, i64 n, const u64* queries, i64 first, const Taken& taken) {
    u64 query[LOT][WORDS];
    int far[LOT];
    const i64 first_query = first + (i64)blockIdx.y * LOT;
#pragma unroll
    for (int q = 0; q < LOT; q++) {
#pragma unroll
        for (int w = 0; w < WORDS; w++) query[q][w] = queries[(first_query + q) * WORDS + w];
        far[q] = (int)taken.reach[first_query + q];
    }
    const i64 units = n / UNIT_ROWS;
    const i64 tile = (i64)blockDim.x * UNROLL;
    for (i64 start = blockIdx.x * tile; start < units; start += gridDim.x * tile) {
        u64 held[UNROLL][UNIT_WORDS];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            // A last tile that is not whole loads the last unit again and leaves it out below.
            load_unit(codes, min(start + u * blockDim.x + threadIdx.x, units - 1), held[u]);
        }
#pragma unroll
        for (int q = 0; q < LOT; q++) {
            int nearest = BITS;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
#pragma unroll
                for (int r = 0; r < UNIT_ROWS; r++) nearest = min(nearest, distance_between(held[u] + r * WORDS, query[q]));
            }
            if (nearest > far[q]) continue;
            // Not unrolled, and loaded again: few registers and little code for what is rare.
#pragma unroll 1
            for (int i = 0; i < UNROLL * UNIT_ROWS; i++) {
                const i64 unit = start + i / UNIT_ROWS * blockDim.x + threadIdx.x;
                const i64 row = unit * UNIT_ROWS + i % UNIT_ROWS;
                if (unit < units) taken.take(first_query + q, distance_between(codes + row * WORDS, query[q]), row);
            }
        }
    }
    // Rows that fill no unit.
    const i64 row = units * UNIT_ROWS + threadIdx.x;
    if (blockIdx.x == 0 && row < n) {
        for (int q = 0; q < LOT; q++) taken.take(first_query + q, distance_between(codes + row * WORDS, query[q]), row);
    }
}

// The queries from `first` on, LOT to a row of blocks. As many as a thread has registers for: 8 words.
#define SCAN_ROWS(LOT)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 4)                                                                      \
        scan_rows_##LOT(const u64* codes, i64 n, const u8* alive, const u64* queries, const i64* reach, const i64* ties_end,  \
                        u64* keys, u64* counts, i64 capacity, i64 base, i64 first) {                                          \
        scan<LOT>(codes, n, queries, first, Taken{alive, reach, ties_end, keys, counts, capacity, base});                     \
    }
SCAN_ROWS(1)
#if WORDS <= 4
SCAN_ROWS(2)
#endif
#if WORDS <= 2
SCAN_ROWS(4)
#endif
