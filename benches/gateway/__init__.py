"""The gateway's bars, in one run: see `__main__`."""
