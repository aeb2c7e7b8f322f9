"""What is asked of a model, and what comes back with times on it."""
