// The k nearest of what a scan took, in order: one block of threads a query.
//
// A scan takes several times k codes. Counting their distances tells which can be among the k nearest; mostly those fit into
// shared memory and are sorted there, else all are sorted where they are. No two keys are equal, so the answer does not depend on
// which was taken first.

constexpr int NEAR_KEYS = 4096;  // 32 KB of shared memory

// Sort size keys, a power of two, ascending: Batcher's bitonic network. All threads of a block, memory of any kind.
__device__ inline void sort_keys(u64* keys, i64 size) {
    for (i64 length = 2; length <= size; length *= 2) {
        for (i64 step = length / 2; step > 0; step /= 2) {
            __syncthreads();
            for (i64 i = threadIdx.x; i < size / 2; i += blockDim.x) {
                const i64 low = 2 * i - (i & (step - 1)), high = low + step;
                const u64 a = keys[low], b = keys[high];
                if ((a > b) == ((low & length) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

__device__ inline i64 power_of_two_from(i64 n) {
    i64 power = 1;
    while (power < n) power *= 2;
    return power;
}

// distances, rows (queries, k), padded with -1, of keys (queries, capacity), of which counts are in use; capacity is a power of
// two. Of a query with more than capacity nothing is written: its keys are not all there.
extern "C" __global__ void __launch_bounds__(512)
    select_nearest(u64* keys, const u64* counts, i64 capacity, i64 k, int* distances, i64* rows) {
    __shared__ u32 bins[BINS];
    __shared__ u64 near[NEAR_KEYS];
    __shared__ int kth;
    __shared__ u32 n_near, n_kept;
    const i64 query = blockIdx.x;
    const i64 held = (i64)counts[query];
    if (held > capacity) return;
    u64* found = keys + query * capacity;
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();
    for (i64 i = threadIdx.x; i < held; i += blockDim.x) atomicAdd(&bins[distance_of(found[i])], 1u);
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 below = 0;
        int distance = 0;
        for (; distance < BINS; distance++) {
            below += bins[distance];
            if (below >= k) break;
        }
        kth = distance;
        n_near = below;
        n_kept = 0;
    }
    __syncthreads();
    i64 size;
    if (n_near <= NEAR_KEYS) {
        for (i64 i = threadIdx.x; i < held; i += blockDim.x) {
            if (distance_of(found[i]) <= kth) near[atomicAdd(&n_kept, 1u)] = found[i];
        }
        found = near;
        size = power_of_two_from(n_near);
        for (i64 i = n_near + threadIdx.x; i < size; i += blockDim.x) near[i] = NO_KEY;
    } else {
        size = power_of_two_from(held);
        for (i64 i = held + threadIdx.x; i < size; i += blockDim.x) found[i] = NO_KEY;
    }
    sort_keys(found, size);
    for (i64 i = threadIdx.x; i < k; i += blockDim.x) {
        const bool is_there = i < n_near;
        distances[query * k + i] = is_there ? distance_of(found[i]) : -1;
        rows[query * k + i] = is_there ? row_of(found[i]) : -1;
    }
}
