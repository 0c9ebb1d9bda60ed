// Arrays that lie on the device in somebody else's order: made into rows without gaps, and looked at.
//
// Compiled by itself; every argument is 64 bits wide.

// Rows of row_bytes bytes, zero beyond the last item. Item i of row r begins at from + r * row_step + i * item_step; steps are in
// bytes, and may be negative. One thread a byte: neighbours write neighbours, and this is done once for an array.
extern "C" __global__ void pack_rows(const unsigned char* from, long long n, long long items, long long item_bytes,
                                     long long row_step, long long item_step, unsigned char* rows, long long row_bytes) {
    for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < n * row_bytes;
         at += (long long)gridDim.x * blockDim.x) {
        const long long row = at / row_bytes, byte = at % row_bytes, item = byte / item_bytes;
        rows[at] = item < items ? from[row * row_step + item * item_step + byte % item_bytes] : 0;
    }
}

// Adds to found how many rows have a bit of mask in one of their bytes.
extern "C" __global__ void count_marked(const unsigned char* rows, long long n, long long row_bytes, long long byte,
                                        long long mask, unsigned long long* found) {
    unsigned long long mine = 0;
    for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < n; row += (long long)gridDim.x * blockDim.x) {
        mine += (rows[row * row_bytes + byte] & mask) != 0;
    }
    if (mine) atomicAdd(found, mine);
}
