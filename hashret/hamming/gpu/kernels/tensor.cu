// The tensor-core kernel: every code that is near enough, for batches of queries. fragments.py says in numpy which lane holds
// what.
//
// A warp keeps ROW_TILES tiles of 16 codes in registers and meets all queries of its block, eight at a time, in shared memory.
// The binary product of [c, ~c] and [~q, q] is the distance; begun at -(reach + 1) it is negative where a code is within reach.
// Hardly any is, so up to 32 results are ORed and one sign bit decides for all of them; a code that passes is looked at again, by
// its row.
//
// Arithmetic of an H200 at 64 bits, to be measured: 1,024 pairs take 8 BMMA.168128, 16 LOP3 (64 lanes, that is two warps, a
// clock) and a dozen other instructions, of which 4 issue a clock: 8 to 9 clocks in each of 132 multiprocessors, 26 to 29 T
// pairs/s at 1.76 GHz, if the tensor cores bring one BMMA.168128 a clock as those of an A100 do (4,992 T operations/s by its
// datasheet).
// Where a BMMA.168256 takes two clocks, 128 bits run at half of that. 8 bytes a code for 1,000 queries are nothing to memory.

constexpr int STEPS = (WORDS + 1) / 2;  // instructions along a code: 128 bits each, the last of an odd number of words 64
constexpr int A_REGISTERS = 2 * WORDS;
constexpr int ROW_TILES = WORDS <= 4 ? 8 : WORDS <= 8 ? 4 : 2;
constexpr int WARPS = 8;
constexpr int QUERY_BYTES = 128 * STEPS + 64;  // shared memory of a tile of eight queries
constexpr int QUERY_TILES = 40960 / QUERY_BYTES < 128 ? 40960 / QUERY_BYTES : 128;

#ifdef __CUDACC__
__device__ inline void mma_256(int* d, const u32* a, u32 b0, u32 b1, const int* c) {
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

__device__ inline void mma_128(int* d, const u32* a, u32 b, const int* c) {
    asm volatile("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
#endif

// A lane's word of a code at a step: 128 bits are a word a lane of a group; of 64 bits, lanes 2 and 3 have those of 0 and 1.
__device__ inline u32 word_of_step(const u32* code, int step, int in_group) {
    return code[4 * step + (WORDS % 2 && step == STEPS - 1 ? in_group & 1 : in_group)];
}

// [c, ~c] of 16 codes from `row` on; rows that are not there hold the last one.
__device__ inline void load_codes(const u32* codes, i64 row, i64 n, int group, int in_group, u32* a) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const u32* code = codes + min(row + group + 8 * half, n - 1) * (2 * WORDS);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const u32 word = word_of_step(code, step, in_group);
            if (WORDS % 2 && step == STEPS - 1) {
                a[4 * step + half] = in_group < 2 ? word : ~word;
            } else {
                a[4 * step + half] = word;
                a[4 * step + 2 + half] = ~word;
            }
        }
    }
}

// Blocks of 32 WARPS threads, as many as run at once: each takes its rows for as many queries as fit into shared memory, then for
// the next.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    scan_batch(const u32* codes, i64 n, const u8* alive, const u32* queries, const i64* reach, const i64* ties_end, u64* keys,
               u64* counts, i64 capacity, i64 base, i64 n_queries) {
    __shared__ u32 query_words[QUERY_TILES][STEPS][32];
    // Four accumulators in one load: begun from single numbers, the compiler moves all four into place before every product.
    __shared__ int4 begins[QUERY_TILES][4];
    const int lane = threadIdx.x % 32, group = lane / 4, in_group = lane % 4;
    const int warp = threadIdx.x / 32;
    const i64 rows_at_once = 16 * ROW_TILES;
    const Taken taken{alive, reach, ties_end, keys, counts, capacity, base};
    for (i64 first = 0; first < n_queries; first += 8 * QUERY_TILES) {
        const int tiles = (int)min((n_queries - first + 7) / 8, (i64)QUERY_TILES);
        __syncthreads();
        // ~q first, then q: of 128 bits q is kept, and complemented when it is used. Queries that are not there reach nobody.
        for (int tile = warp; tile < tiles; tile += WARPS) {
            const u32* query = queries + min(first + 8 * tile + group, n_queries - 1) * (2 * WORDS);
            for (int step = 0; step < STEPS; step++) {
                const u32 word = word_of_step(query, step, in_group);
                const bool complemented = WORDS % 2 && step == STEPS - 1 && in_group < 2;
                query_words[tile][step][lane] = complemented ? ~word : word;
            }
            if (lane < 4) {
                const i64 column = first + 8 * tile + 2 * lane;
                const int even = column < n_queries ? (int)(-1 - reach[column]) : 0;
                const int odd = column + 1 < n_queries ? (int)(-1 - reach[column + 1]) : 0;
                begins[tile][lane] = int4{even, odd, even, odd};
            }
        }
        __syncthreads();

        for (i64 row = (blockIdx.x * WARPS + warp) * rows_at_once; row < n; row += gridDim.x * WARPS * rows_at_once) {
            u32 a[ROW_TILES][A_REGISTERS];
#pragma unroll
            for (int t = 0; t < ROW_TILES; t++) load_codes(codes, row + 16 * t, n, group, in_group, a[t]);
            for (int tile = 0; tile < tiles; tile++) {
                u32 q[STEPS];
#pragma unroll
                for (int step = 0; step < STEPS; step++) q[step] = query_words[tile][step][lane];
                const int4 quad = begins[tile][in_group];
                const int begin[4] = {quad.x, quad.y, quad.z, quad.w};
                int d[ROW_TILES][4];
                int any = 0;
#pragma unroll
                for (int t = 0; t < ROW_TILES; t++) {
#pragma unroll
                    for (int step = 0; step < STEPS; step++) {
                        const int* c = step == 0 ? begin : d[t];
                        if (WORDS % 2 && step == STEPS - 1) {
                            mma_128(d[t], a[t] + 4 * step, q[step], c);
                        } else {
                            mma_256(d[t], a[t] + 4 * step, ~q[step], q[step], c);
                        }
                    }
                    any |= d[t][0] | d[t][1] | d[t][2] | d[t][3];
                }
                if (any < 0) {
                    // Which of them: few registers and little code. The code is then looked at again, by its row.
                    u32 hits = 0;
#pragma unroll
                    for (int t = 0; t < ROW_TILES; t++) {
#pragma unroll
                        for (int i = 0; i < 4; i++) hits |= (u32)d[t][i] >> 31 << (4 * t + i);
                    }
                    for (; hits; hits &= hits - 1) {
                        const int hit = __ffs(hits) - 1;
                        const i64 near = row + group + 16 * (hit / 4) + 8 * (hit % 4 / 2);
                        if (near >= n) continue;
                        const i64 query = first + 8 * tile + 2 * in_group + hit % 2;
                        const int distance =
                            distance_between((const u64*)codes + near * WORDS, (const u64*)queries + query * WORDS);
                        taken.take(query, distance, near);
                    }
                }
                __syncwarp();
            }
        }
    }
}
