"""Kernels for NVIDIA GPUs (Pallas, Triton), each beside a reference in plain JAX.

All are exact up to rounding and add in a fixed order, so two runs give the same bits.
"""
