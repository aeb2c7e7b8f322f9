"""What each query of an evaluation came to, at every operating point.

In: recorded answers, priced costs, decisions. Out: :class:`Queries`, from which a choice of an
operating point takes intervals and tests; :class:`Grid`, the means of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cr2fast.data.content import U64

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Queries:
    """N queries and what M models make of them.

    Attributes
    ----------
    chosen : ndarray of int, (L, A, N)
        The model that each operating point gives each query to.
    by_model : dict of str to ndarray, (N, M)
        What each model comes to on each query: "accuracy" (0, 1, or a grade between), and
        "latency_s", "energy_j", "usd" and "cost", NaN where the cost table does not know.
    content : ndarray of uint64, (N, K)
        Keys of what the queries say.
    """

    chosen: npt.NDArray[np.unsignedinteger]
    by_model: Mapping[str, npt.NDArray[Any]]
    content: U64

    def __len__(self) -> int:
        return int(self.chosen.shape[-1])

    def line(self, figure: str, i: int) -> F64:
        """A figure of each query at the i-th cost weight, (A, N)."""
        rows = np.arange(len(self))
        return np.asarray(self.by_model[figure][rows, self.chosen[i]], dtype=np.float64)

    def of(self, figure: str, i: int, j: int) -> F64:
        """A figure of each query at one operating point, (N,)."""
        rows = np.arange(len(self))
        return np.asarray(self.by_model[figure][rows, self.chosen[i, j]], dtype=np.float64)


class Grid(NamedTuple):
    """What a choice among operating points looks at.

    Attributes
    ----------
    lams, alphas : ndarray, (L,), (A,)
    figures : dict of str to ndarray, (L, A)
        Means and quantiles over the queries, by the names of :class:`cr2fast.Evaluation`.
    queries : Queries
    false_acceptances : ndarray of int, (L, A)
    local_rate : ndarray, (L, A)
    big_model : (str, int)
        What relative accuracies are relative to: a model's name and index.
    router : str
        Hash of the router's file.
    """

    lams: F64
    alphas: F64
    figures: Mapping[str, F64]
    queries: Queries
    false_acceptances: npt.NDArray[np.int64]
    local_rate: F64
    big_model: tuple[str, int]
    router: str
