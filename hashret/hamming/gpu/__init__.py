"""Exact Hamming search on a CUDA GPU: the same contract and the same bytes as the kernels of the CPU.

device.py      the GPU: found, compiled for, brought arrays to; nothing else knows of one
arrays.py      arrays of torch, CuPy, JAX used where they lie on the device
feeding.py     copying the next piece of an array while kernels work on this one
streaming.py   a gallery that is larger than the device's memory
pieces.py      a gallery on the device: consecutive rows, array by array
costs.py       what searches cost on it, measured
once.py        one search among codes that lie in memory
search.py      how far to reach, who is there, which are nearest
kernels/       the device code, CUDA C++: codes.cuh what all share, rows.cu few queries, tensor.cu batches,
               reach.cu distances counted, select.cu the nearest in order, ids.cu rows into ids,
               pack.cu arrays of others into rows
fragments.py   the tensor cores' matrix products in numpy: which lane holds which bits, or numbers

Nothing is loaded until a device is asked for. tests/cuda_on_cpu.h runs the same device code on the CPU.
"""
