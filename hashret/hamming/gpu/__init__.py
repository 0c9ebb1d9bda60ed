"""Exact Hamming search on a CUDA GPU: the same contract and the same bytes as the kernels of the CPU.

fragments.py   the tensor cores' binary matrix product in numpy: which lane holds which bits
"""
