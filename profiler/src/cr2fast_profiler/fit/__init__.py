"""Coefficients and their intervals, from rows."""
