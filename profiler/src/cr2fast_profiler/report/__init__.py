"""What people and the router read of a run: summary, cost table, plots."""
