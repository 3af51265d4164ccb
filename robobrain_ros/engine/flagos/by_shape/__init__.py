"""Matrix products by shape: Triton kernels, and measured tables of the shapes for which they are faster."""
