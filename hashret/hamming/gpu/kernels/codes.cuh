// Codes, distances and keys: what every kernel shares.
//
// Compiled once a code size: WORDS is how many words of 64 bits a code fills; codes stand row after row, zero beyond their last
// bit. Every argument of a kernel is 64 bits wide: a pointer or an i64.

typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;
typedef unsigned char u8;

constexpr int BITS = 64 * WORDS;  // the largest distance
constexpr int BINS = BITS + 1;    // so many distances there are

// A row at a distance as one number, so that sorting numbers sorts by (distance, row).
constexpr int ROW_BITS = 53;
constexpr u64 NO_KEY = ~0ull;

__device__ inline u64 key_of(int distance, i64 row) { return (u64)distance << ROW_BITS | (u64)row; }
__device__ inline int distance_of(u64 key) { return (int)(key >> ROW_BITS); }
__device__ inline i64 row_of(u64 key) { return (i64)(key & ((1ull << ROW_BITS) - 1)); }

__device__ inline int distance_between(const u64* code, const u64* query) {
    int differ = 0;
#pragma unroll
    for (int w = 0; w < WORDS; w++) differ += __popcll(code[w] ^ query[w]);
    return differ;
}

// All rows are alive where there are no flags.
__device__ inline bool is_alive(const u8* alive, i64 row) { return alive == nullptr || alive[row]; }
