"""How a linear search is split over threads: by rows, by queries, or both.

Rows are the better split where there is little to find: a block is turned over once and serves all queries. But every part of
the rows finds its own k nearest, and the parts are then merged; queries need neither. `query_groups` weighs that up by what
costs.py measured.
"""

from __future__ import annotations

from hashret.hamming.costs import Costs, candidates
from hashret.hamming.sample import BLOCK_ROWS, samples


def query_groups(costs: Costs, n: int, n_words: int, n_queries: int, k: int, threads: int) -> int:
    """Into how many groups the queries are split, a divisor of `threads`; a group's threads split the rows."""

    def thread_cost(groups: int) -> float:
        """Nanoseconds of one thread, but for comparing, which any split shares out alike."""
        parts = threads // groups
        turned = n / parts / BLOCK_ROWS * n_words * costs.block
        taken = n_queries / groups * taken_of_part(n, k, parts) * costs.table_take
        return turned + taken + n_queries * merged(n, k, parts) * costs.merge

    possible = [groups for groups in range(1, threads + 1) if threads % groups == 0 and groups <= max(1, n_queries)]
    return min(possible, key=thread_cost)


def taken_of_part(n: int, k: int, parts: int) -> float:
    """Candidates that are taken in for a query from one of so many parts of the rows; all have the limit of one sample."""
    return candidates(n, k) / parts if samples(n, k) else candidates(n / parts, k)


def merged(n: int, k: int, parts: int) -> float:
    """Neighbours of a query that are put in order when so many parts of the rows are merged."""
    return min(k * parts, n) if parts > 1 else 0.0
