"""Registrations of the kernels, one module a tool; see tenfold_kernels.registry."""
