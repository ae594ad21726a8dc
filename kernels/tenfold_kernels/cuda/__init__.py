"""CUDA C++ kernels, one operation a .cu file; `tenfold_kernels.device` compiles them."""
