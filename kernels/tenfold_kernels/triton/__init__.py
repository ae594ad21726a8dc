"""Triton kernels, one operation a module; `tenfold_kernels.device` loads them."""
