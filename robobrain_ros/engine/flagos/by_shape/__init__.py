"""Operators by shape: a measured table of matrix products and their kernels."""
