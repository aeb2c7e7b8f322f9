"""What tests and benches share: plain-NumPy twins of the kernels, timing, re-splits."""
