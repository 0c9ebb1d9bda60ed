"""Scores of rankings: exact and tie-aware; arrays in, scores out.

groups.py      rankings as groups of equal distance      expectation.py  closed forms: expected, worst, best tie order
scores.py      many queries, names and signatures        intervals.py    bootstrap interval of a mean
histograms.py  codes, pair by pair counted by a kernel
"""

from hashret.metrics.histograms import Curve, Histograms, distance_histograms
from hashret.metrics.intervals import bootstrap_interval
from hashret.metrics.scores import Choices, RetrievalScores, Score, leave_one_out_top1, retrieval_scores

__all__ = [
    "Choices",
    "Curve",
    "Histograms",
    "RetrievalScores",
    "Score",
    "bootstrap_interval",
    "distance_histograms",
    "leave_one_out_top1",
    "retrieval_scores",
]
