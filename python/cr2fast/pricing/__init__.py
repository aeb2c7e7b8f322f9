"""Cost tables from price lists and from logs.

In: prices by model, or a log of calls. Out: a :class:`cr2fast.CostTable` of schema /2. What a table
costs is computed in the compiled module.
"""
