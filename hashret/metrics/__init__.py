"""Scores of rankings: exact, tie-aware; arrays in, scores out."""
