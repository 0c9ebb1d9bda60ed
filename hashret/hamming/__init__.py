"""Exact Hamming search: packed codes in, neighbours out. numba is loaded when a search is large enough to need it.

reference.py   the oracle: plain numpy           exact.py     the public functions: checks, and who computes
plain.py       np.bitwise_count, no numba        linear.py    a kernel over all rows, on threads
rows.py        the row kernel: few queries       tables.py    the table kernel: batches
sliced.py      a block as planes of bits         vectors.py   512-bit vectors in LLVM IR
nearest.py     the k nearest so far              merge.py     parts of a gallery into one answer
words.py       codes as 64-bit words             threads.py   our own pool
planner.py     which kernel, how many threads    costs.py     measured on the machine
sample.py      a first limit for large k         splitting.py over threads: rows or queries
multi_index.py buckets for near neighbours       self_join.py all near pairs, components.py their groups
asymmetric.py  logits against codes              lookup_scan.py, lookups.py   its kernel
substrings.py  near pairs through equal parts    cache.py     the user's cache folder
histograms.py  codes counted at each distance    table_sums.py  bytes that look up numbers (index/product.py)
compiled.py    numba, with a cache that knows when a source changed
arguments.py   what comes into a search, checked once
"""

from hashret.hamming.exact import distances, search, search_radius, search_ties
from hashret.hamming.merge import merge
from hashret.hamming.planner import Explanation

__all__ = ["Explanation", "distances", "merge", "search", "search_radius", "search_ties"]
