// How far a query has to reach, and for which rows: distances of rows counted, all of them or those of a sample.

constexpr int SAMPLE_ROWS = 512;  // rows of a block, of which every stride-th is looked at, from that of row `begin` on

// Living rows at each distance, added to histogram (queries, BINS). Blocks (any, queries).
extern "C" __global__ void count_distances(const u64* codes, i64 n, const u8* alive, const u64* queries, i64 begin, i64 stride,
                                           u64* histogram) {
    __shared__ u32 bins[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();
    const u64* query = queries + (i64)blockIdx.y * WORDS;
    for (i64 first = begin + blockIdx.x * stride * SAMPLE_ROWS; first < n; first += gridDim.x * stride * SAMPLE_ROWS) {
        const i64 end = min(first + SAMPLE_ROWS, n);
        for (i64 row = first + threadIdx.x; row < end; row += blockDim.x) {
            if (is_alive(alive, row)) atomicAdd(&bins[distance_between(codes + row * WORDS, query)], 1u);
        }
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
        if (bins[bin]) atomicAdd(&histogram[(i64)blockIdx.y * BINS + bin], (u64)bins[bin]);
    }
}

// The distance of a rank: the smallest with so many rows at or below it, BITS where there are fewer. One thread a query.
extern "C" __global__ void reach_of_rank(const u64* histogram, i64 n_queries, i64 rank, i64* reach) {
    const i64 query = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (query >= n_queries) return;
    u64 nearer = 0;
    i64 distance = 0;
    for (; distance < BITS; distance++) {
        nearer += histogram[query * BINS + distance];
        if (nearer >= (u64)rank) break;
    }
    reach[query] = distance;
}

// Living rows exactly at each query's reach, in every chunk of rows: ties (queries, chunks). Blocks (chunks, queries).
extern "C" __global__ void count_ties(const u64* codes, i64 n, const u8* alive, const u64* queries, const i64* reach,
                                      i64 chunk_rows, u64* ties) {
    __shared__ u32 found;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    const u64* query = queries + (i64)blockIdx.y * WORDS;
    const i64 first = blockIdx.x * chunk_rows, end = min(first + chunk_rows, n);
    u32 mine = 0;
    for (i64 row = first + threadIdx.x; row < end; row += blockDim.x) {
        mine += distance_between(codes + row * WORDS, query) == reach[blockIdx.y] && is_alive(alive, row);
    }
    atomicAdd(&found, mine);
    __syncthreads();
    if (threadIdx.x == 0) ties[(i64)blockIdx.y * gridDim.x + blockIdx.x] = found;
}
