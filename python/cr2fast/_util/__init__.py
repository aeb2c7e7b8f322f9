"""What several stages need and none of them is about."""
