"""Data to fit, calibrate and evaluate on: routing tables, folders, published answers."""
