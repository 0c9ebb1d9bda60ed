"""Scores of rankings: exact and tie-aware; arrays in, scores out.

groups.py      rankings as groups of equal distance      expectation.py  closed forms: expected, worst, best tie order
scores.py      many queries, names and signatures        intervals.py    bootstrap interval of a mean
histograms.py  codes, pair by pair counted by a kernel
class_lists.py lists of classes: MAP@k                 detection.py    one score for two kinds: AUROC, FPR at TPR
"""

from hashret.metrics.class_lists import ap_at_k_of_list, map_at_k_of_lists
from hashret.metrics.detection import auroc, fpr_at_tpr
from hashret.metrics.histograms import Curve, Histograms, distance_histograms
from hashret.metrics.intervals import bootstrap_interval
from hashret.metrics.scores import Choices, RetrievalScores, Score, leave_one_out_top1, retrieval_scores

__all__ = [
    "Choices",
    "Curve",
    "Histograms",
    "RetrievalScores",
    "Score",
    "ap_at_k_of_list",
    "auroc",
    "bootstrap_interval",
    "distance_histograms",
    "fpr_at_tpr",
    "leave_one_out_top1",
    "map_at_k_of_lists",
    "retrieval_scores",
]
