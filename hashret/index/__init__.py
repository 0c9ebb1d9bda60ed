"""Indexes in memory and on disk: codes or features, ids and records. docs/format.md has the rules of a folder.

hamming.py, cosine.py  the two indexes, on base.py     store.py     a folder with codes and features side by side
contents.py            what is there at one moment     storage.py   commits: contents to a folder and back
manifest.py            the one file that commits       segments.py  a segment's files, written and mapped
generations.py         who reads which generation      durable.py   every change on disk, the writer lock
checksums.py           of files and their blocks       records.py   ids, paths, labels, attributes (SQLite)
where.py               conditions on records           damage.py    what is damaged, and what is left of it
info.py                what an index holds and takes
features.py            rows of features, exact sums    tiled.py     float search tile by tile
candidates.py, dots.py   what a tile leaves over, its products
device_features.py, kernels/   the same on a GPU, which finds candidates
inner_products.py      exact inner products with an array, no index
product.py             locally optimised product quantisation: approximate, few bytes a vector
near_duplicates.py     pairs and groups of ids
"""

from hashret.index.cosine import CosineIndex, InnerProductIndex
from hashret.index.hamming import HammingIndex
from hashret.index.store import Store

__all__ = ["CosineIndex", "HammingIndex", "InnerProductIndex", "Store"]
