"""Sums of table entries: every byte of a code looks up a number in a table of its own. What product quantisation scans.

A row's similarity to a query is a number for all rows of its cell plus M entries, added in order in float32; so equal codes of a
cell tie exactly, and no answer depends on threads or on who is asked beside whom. Tables of a cell (32 KB at 32 parts and 256
centroids) fit into the first-level cache.

Shape suffixes: N codes, M parts, V centroids of a part, S numbers of a part, D = M x S dimensions.
"""

from __future__ import annotations

import numpy as np

from hashret.hamming.compiled import kernel
from hashret.hamming.lookup_scan import sink


@kernel
def fill_tables(  # type: ignore[no-untyped-def]
    query_D, coarse_D, rotation_DD, centroids_MSV, squares_MV, by_distance, turned_D, tables_MV
):
    """Fill the tables of one query for one cell; what comes back is what all rows of the cell have.

    by_distance: 1 less half of the squared distance, which is the cosine of vectors of length 1; otherwise the inner product.
    squares: half of the squared length of each centroid. All sums are taken in one order.
    """
    n_parts, width, n_centroids = centroids_MSV.shape
    first = 0.0
    turned_D[:] = np.float32(0)
    for d in range(query_D.size):
        x = query_D[d]
        if by_distance:
            x -= coarse_D[d]
            first += np.float64(x) * np.float64(x)
        else:
            first += np.float64(x) * np.float64(coarse_D[d])
        row = rotation_DD[d]
        for j in range(turned_D.size):
            turned_D[j] += x * row[j]
    for m in range(n_parts):
        table = tables_MV[m]
        for v in range(n_centroids):
            table[v] = -squares_MV[m, v] if by_distance else np.float32(0)
        for s in range(width):
            x = turned_D[m * width + s]
            numbers = centroids_MSV[m, s]
            for v in range(n_centroids):
                table[v] += x * numbers[v]
    return np.float32(1 - first / 2) if by_distance else np.float32(first)


@kernel
def scan(codes_NM, numbers_N, first, tables_MV, j, k, similarities_QK, rows_QK, held_Q):  # type: ignore[no-untyped-def]
    """Take in the codes of a cell that belong among the k most similar of query j, a heap once there are k.

    numbers: the row numbers of the codes, in any order. first: what `fill_tables` gave.
    """
    n_parts = codes_NM.shape[1]
    for r in range(len(codes_NM)):
        code = codes_NM[r]
        total = np.float32(first)
        for m in range(n_parts):
            total += tables_MV[m, code[m]]
        number = np.int64(numbers_N[r])
        if held_Q[j] < k:
            similarities_QK[j, held_Q[j]], rows_QK[j, held_Q[j]] = total, number
            held_Q[j] += 1
            if held_Q[j] == k:
                for i in range(k // 2 - 1, -1, -1):
                    sink(i, j, k, similarities_QK, rows_QK)
        elif total > similarities_QK[j, 0] or (total == similarities_QK[j, 0] and number < rows_QK[j, 0]):
            similarities_QK[j, 0], rows_QK[j, 0] = total, number
            sink(0, j, k, similarities_QK, rows_QK)
