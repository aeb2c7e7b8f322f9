"""The link between a device and an edge: round trips and rates, as a distribution.

Reading order: `probe` sends, `rows` keeps, `estimate` fits, `measurement` is what comes out,
`run` joins them.
"""

from cr2fast_profiler.link.measurement import Estimate, Flag, LinkMeasurement, LinkSample
from cr2fast_profiler.link.run import LinkOptions, measure_link

__all__ = [
    "Estimate",
    "Flag",
    "LinkMeasurement",
    "LinkOptions",
    "LinkSample",
    "measure_link",
]
