"""What a cost may be counted in, for plots, tables and pages. In: evaluations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cr2fast.evaluation.result import Evaluation


@dataclass(frozen=True)
class Unit:
    """A figure of :class:`Evaluation` as people read it: `scale` times the figure is a `label`."""

    figure: str
    label: str
    scale: float = 1

    def known(self, e: Evaluation) -> bool:
        """Whether the cost table gives this figure."""
        return not bool(np.isnan(getattr(e, self.figure)).all())


UNITS = (
    Unit("usd", "dollars per 1,000 queries", 1000),
    Unit("latency_s", "seconds per query"),
    Unit("energy_j", "joules per query"),
    Unit("cost", "normalised cost"),
)


def big_model(e: Evaluation) -> int:
    """Which model a random mix sends queries to, by its index."""
    return e.models.index(e.big_model)
