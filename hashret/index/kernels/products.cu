// Rows whose product with a query may be large enough, by tensor cores: device_features.py says what their products may be off by.
//
// Compiled once for a kind of rows: KIND is 0 for float32, 1 for float16, 2 for int8. Rows stand one after the other, zero up to
// a whole number of stages; a stage is what a tile of rows and queries meets at a time, 16 words of 32 bits of each in shared
// memory: 16 numbers as TF32, or 32 as float16, which int8 becomes on the way. Every argument is 64 bits wide: a pointer or an i64.
//
// A block meets 128 rows with 128 queries, or where there are few queries 256 rows with 8. Each of its eight warps keeps its
// sums in registers. While a stage is multiplied, the next one is on its way from memory, into the other half of shared memory.
//
// Which lane holds what is that of hamming/gpu/fragments.py, of words: registers a0 and a2, or b0 and b1, of a product are the
// words t and t + 4 of 8. A sum takes its terms in any order, so a lane takes words 4 t to 4 t + 3 of a stage instead, in one load:
// the first two for one product, the others for the next.
//
// Arithmetic of an H200, 512 numbers: docs/kernels.md.

typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;
typedef unsigned char u8;

constexpr int FLOAT32 = 0, INT8 = 2;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int CHUNKS = 4;  // of 16 bytes, in a stage; int8 rows are kept in 8

#if KIND == 2
typedef uint2 Kept;
#else
typedef uint4 Kept;
#endif

#ifdef __CUDACC__
// d += A B of 16 rows and 8 queries: 16 numbers of float16, or 8 of TF32.
__device__ inline void mma_f16(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma_tf32(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// a b + c of two float16 in a word each.
__device__ inline u32 fma_halves(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
// 16 bytes into shared memory on their way; they are there when they were waited for, by the threads that asked for them.
__device__ inline void copy_ahead(uint4* to, const uint4* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

__device__ inline void mma(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    if constexpr (KIND == FLOAT32) {
        mma_tf32(d, a0, a1, a2, a3, b0, b1);
    } else {
        mma_f16(d, a0, a1, a2, a3, b0, b1);
    }
}

// A float32 rounded to the 11 bits of TF32.
__device__ inline u32 tf32(u32 bits) { return (bits + 0x1000u) & ~0x1fffu; }

// Two int8, moved up to be the bytes 128 + number, as float16: 0x6400 | byte is 1024 + byte.
__device__ inline u32 halves_of(u32 moved, u32 which) {
    return fma_halves(__byte_perm(moved, 0x64646464u, which), 0x3c003c00u, 0xe480e480u);
}

// 16 bytes of a stage, of a row as it is kept; float16 times a power of two (twice in `factor`) that leaves none below the normal.
__device__ inline uint4 for_product(Kept kept, u32 factor) {
    uint4 made;
#if KIND == 0
    made.x = tf32(kept.x);
    made.y = tf32(kept.y);
    made.z = tf32(kept.z);
    made.w = tf32(kept.w);
#elif KIND == 1
    made.x = fma_halves(kept.x, factor, 0);
    made.y = fma_halves(kept.y, factor, 0);
    made.z = fma_halves(kept.z, factor, 0);
    made.w = fma_halves(kept.w, factor, 0);
#else
    const u32 low = kept.x ^ 0x80808080u, high = kept.y ^ 0x80808080u;
    made.x = halves_of(low, 0x4140u);
    made.y = halves_of(low, 0x4342u);
    made.z = halves_of(high, 0x4140u);
    made.w = halves_of(high, 0x4342u);
#endif
    return made;
}

// Keys sort by value, then by row: a row is below 2^32.
__device__ inline u64 key_of(float value, u32 row) {
    const u32 bits = __float_as_uint(value);
    return (u64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | row;
}
__device__ inline float value_of(u64 key) {
    const u32 bits = (u32)(key >> 32);
    return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

struct Rows {
    const Kept* numbers;  // chunks of rows, below 2^32
    const float* scales;  // of int8
    const u8* alive;      // a flag a row, all are where there are none
    u32 n;
    u32 stages;
    u32 stride;  // every so many-th row is looked at
    u32 first;   // the number of the first among all rows
    u32 factor;
};

// What queries take: every living row whose value is at least their limit. It is appended in any order; counts goes on counting
// when the room for keys is full.
struct Taken {
    const float* limits;
    u64 *keys, *counts;
    i64 capacity;

    __device__ void take(u32 query, float value, u32 row, const Rows& rows) const {
        if (row >= rows.n || (rows.alive != nullptr && !rows.alive[row])) return;
        const u64 place = atomicAdd(&counts[query], 1ull);
        if (place < (u64)capacity) keys[query * (u64)capacity + place] = key_of(value, rows.first + row);
    }
};

// One warp: ROW_TILES of 16 rows times QUERY_TILES of 8 queries; ROW_WARPS of the warps have other rows, the rest other queries.
template <int ROW_TILES, int QUERY_TILES, int ROW_WARPS>
struct Shape {
    static constexpr int ROWS = 16 * ROW_TILES * ROW_WARPS;
    static constexpr int QUERIES = 8 * QUERY_TILES * (WARPS / ROW_WARPS);
    static constexpr int ROW_CHUNKS = ROWS * CHUNKS / THREADS;  // a thread
    static constexpr int QUERY_CHUNKS = (QUERIES * CHUNKS + THREADS - 1) / THREADS;

    // Shared memory: near_rows and near_queries, two stages each. Blocks (lots of queries, any).
    static __device__ void scan(const Rows& rows, const uint4* queries, u32 n_queries, const Taken& taken,
                                uint4 (*near_rows)[ROWS][CHUNKS], uint4 (*near_queries)[QUERIES][CHUNKS]) {
        const int lane = threadIdx.x % 32, group = lane / 4, in_group = lane % 4;
        const int row_tile = threadIdx.x / 32 % ROW_WARPS * ROW_TILES;
        const int query_tile = threadIdx.x / 32 / ROW_WARPS * QUERY_TILES;
        const u32 first_query = blockIdx.x * QUERIES;
        const u32 looked_at = (rows.n + rows.stride - 1) / rows.stride;
        const u32 query_from = (first_query + threadIdx.x / CHUNKS) * rows.stages * CHUNKS + threadIdx.x % CHUNKS;
        for (u32 start = blockIdx.y * ROWS; start < looked_at; start += gridDim.y * ROWS) {
            u32 row_from[ROW_CHUNKS];
#pragma unroll
            for (int c = 0; c < ROW_CHUNKS; c++) {
                // Rows that are not there are the last one; nothing takes them.
                const u32 i = threadIdx.x + c * THREADS;
                row_from[c] = min((start + i / CHUNKS) * rows.stride, rows.n - 1) * rows.stages * CHUNKS + i % CHUNKS;
            }
            Kept kept[ROW_CHUNKS];
            // Rows go through registers, where they become what a product takes; queries are that already.
            auto fetch = [&](u32 stage) {
#pragma unroll
                for (int c = 0; c < ROW_CHUNKS; c++) kept[c] = rows.numbers[row_from[c] + stage * CHUNKS];
#pragma unroll
                for (int c = 0; c < QUERY_CHUNKS; c++) {
                    const int i = threadIdx.x + c * THREADS;
                    if (i < QUERIES * CHUNKS) {
                        copy_ahead(&near_queries[stage % 2][i / CHUNKS][i % CHUNKS],
                                   queries + query_from + (c * THREADS / CHUNKS * rows.stages + stage) * CHUNKS);
                    }
                }
            };
            auto put = [&](u32 stage) {
#pragma unroll
                for (int c = 0; c < ROW_CHUNKS; c++) {
                    const int i = threadIdx.x + c * THREADS;
                    near_rows[stage % 2][i / CHUNKS][i % CHUNKS] = for_product(kept[c], rows.factor);
                }
                wait_for_copies();
            };
            float d[ROW_TILES][QUERY_TILES][4] = {};
            fetch(0);
            put(0);
            __syncthreads();
#pragma unroll 1
            for (u32 stage = 0; stage < rows.stages; stage++) {
                if (stage + 1 < rows.stages) fetch(stage + 1);
                uint4 b[QUERY_TILES];
#pragma unroll
                for (int j = 0; j < QUERY_TILES; j++) b[j] = near_queries[stage % 2][8 * (query_tile + j) + group][in_group];
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) {
                    const uint4 upper = near_rows[stage % 2][16 * (row_tile + i) + group][in_group];
                    const uint4 lower = near_rows[stage % 2][16 * (row_tile + i) + group + 8][in_group];
#pragma unroll
                    for (int j = 0; j < QUERY_TILES; j++) mma(d[i][j], upper.x, lower.x, upper.y, lower.y, b[j].x, b[j].y);
#pragma unroll
                    for (int j = 0; j < QUERY_TILES; j++) mma(d[i][j], upper.z, lower.z, upper.w, lower.w, b[j].z, b[j].w);
                }
                if (stage + 1 < rows.stages) put(stage + 1);
                __syncthreads();
            }
            // Hardly any reaches its limit.
            const float infinity = __uint_as_float(0x7f800000u);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const u32 row = (start + 16 * (row_tile + i) + group + 8 * half) * rows.stride;
                    const float scale = KIND == INT8 ? rows.scales[min(row, rows.n - 1)] : 1.0f;
#pragma unroll
                    for (int j = 0; j < QUERY_TILES; j++) {
#pragma unroll
                        for (int c = 0; c < 2; c++) {
                            const u32 query = first_query + 8 * (query_tile + j) + 2 * in_group + c;
                            const float limit = query < n_queries ? taken.limits[query] : infinity;
                            const float sum = d[i][j][2 * half + c];
                            const float value = KIND == INT8 ? sum * scale : sum;
                            if (value >= limit) taken.take(query, value, row, rows);
                        }
                    }
                }
            }
        }
    }
};

// keys (queries, capacity) and counts (queries), zero before. queries (queries, stages, CHUNKS), of float16 or
// TF32, zeros up to a whole number of 128.
#define SCAN(NAME, BLOCKS_AT_ONCE, ...)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS_AT_ONCE)                                                         \
        NAME(const Kept* numbers, const float* scales, const u8* alive, i64 n, i64 stages, i64 stride, i64 first, i64 factor,   \
             const uint4* queries, i64 n_queries, const float* limits, u64* keys, u64* counts, i64 capacity) {                \
        typedef Shape<__VA_ARGS__> Tile;                                                                                      \
        __shared__ uint4 near_rows[2][Tile::ROWS][CHUNKS];                                                                    \
        __shared__ uint4 near_queries[2][Tile::QUERIES][CHUNKS];                                                              \
        const Rows rows{numbers, scales, alive, (u32)n, (u32)stages, (u32)stride, (u32)first, (u32)factor};                                      \
        Tile::scan(rows, queries, (u32)n_queries, Taken{limits, keys, counts, capacity}, near_rows, near_queries);                 \
    }
SCAN(scan_few, 3, 2, 1, 8)
SCAN(scan_many, 2, 4, 4, 2)

// Of each query: the value of its rank-th key of those that found room, -infinity where there are fewer; what a row has to reach
// that may be among `rank` nearest, values off by `errors` and cut off at `caps`; and how many of the keys do. One block a query.
extern "C" __global__ void __launch_bounds__(256)
    reach_of_rank(const u64* keys, const u64* counts, i64 capacity, i64 rank, const float* errors, const float* caps,
                  float* values, float* limits, u64* reaching) {
    __shared__ u32 bins[256];
    __shared__ u32 known;    // the upper bits of the key that is looked for
    __shared__ i64 further;  // its rank among those that share them
    __shared__ u32 enough;
    const i64 query = blockIdx.x;
    const i64 held = min((i64)counts[query], capacity);
    const u64* found = keys + query * capacity;
    if (threadIdx.x == 0) {
        known = 0;
        further = rank;
        enough = 0;
    }
    for (int shift = 24; shift >= 0 && held >= rank; shift -= 8) {
        for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) bins[bin] = 0;
        __syncthreads();
        for (i64 i = threadIdx.x; i < held; i += blockDim.x) {
            const u64 bits = found[i] >> 32;
            if (bits >> shift >> 8 == known) atomicAdd(&bins[bits >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int bin = 255;
            for (; bins[bin] < further; bin--) further -= bins[bin];
            known = known << 8 | (u32)bin;
        }
        __syncthreads();
    }
    __syncthreads();
    const float value = held >= rank ? value_of((u64)known << 32) : -__uint_as_float(0x7f800000u);
    const float limit = min(value - errors[query], caps[query]) - errors[query];
    u32 mine = 0;
    for (i64 i = threadIdx.x; i < held; i += blockDim.x) mine += value_of(found[i]) >= limit;
    atomicAdd(&enough, mine);
    __syncthreads();
    if (threadIdx.x == 0) {
        values[query] = value;
        limits[query] = limit;
        reaching[query] = enough;
    }
}

// Rows of the keys that reach the limits, in any order, those of query i from offsets[i] to offsets[i + 1]: nothing where that is
// no room. One block a query.
extern "C" __global__ void __launch_bounds__(256) gather_rows(const u64* keys, const u64* counts, i64 capacity,
                                                              const float* limits, const i64* offsets, u32* rows) {
    __shared__ u32 n_taken;
    const i64 query = blockIdx.x;
    if (offsets[query] == offsets[query + 1]) return;
    if (threadIdx.x == 0) n_taken = 0;
    __syncthreads();
    for (i64 i = threadIdx.x; i < min((i64)counts[query], capacity); i += blockDim.x) {
        const u64 key = keys[query * capacity + i];
        if (value_of(key) >= limits[query]) rows[offsets[query] + atomicAdd(&n_taken, 1u)] = (u32)key;
    }
}
