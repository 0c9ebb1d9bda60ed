// Rows of a gallery become the ids of their codes.

// Of `count` rows, those of one piece (n rows from number `base` on) become its ids, or first_id and so on where it has none;
// others are left as they are. One thread a row.
extern "C" __global__ void ids_of_rows(const i64* rows, i64 count, i64 base, i64 n, const i64* ids, i64 first_id, i64* found) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const i64 row = rows[i] - base;
    if (row >= 0 && row < n) found[i] = ids == nullptr ? first_id + row : ids[row];
}
