"""Exact Hamming search: arrays in, neighbours out."""
