"""Distil a frozen sentence encoder into a static one: see :mod:`cr2fast.encoders.distill`."""

from cr2fast.encoders.distill import distill, token_vectors

__all__ = ["distill", "token_vectors"]
