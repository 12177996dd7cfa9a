"""Kernels on a GPU: a recording printed as CUDA text, compiled at run time and launched."""
