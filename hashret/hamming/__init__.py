"""Exact Hamming search: packed codes in, neighbours out. numba is loaded when a search is large enough to need it.

reference.py   the oracle: plain numpy          exact.py    the public functions: checks, and who computes
plain.py       np.bitwise_count, no numba       rows.py     the row kernel
words.py       codes as 64-bit words            threads.py  our own pool
merge.py       parts of a gallery into one answer
"""

from hashret.hamming.exact import distances, search, search_radius
from hashret.hamming.merge import merge

__all__ = ["distances", "merge", "search", "search_radius"]
