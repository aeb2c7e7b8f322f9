"""Energy meters: timestamped cumulative joules of named domains, or the reason there are none."""
