"""What exact statements about counts share."""

from __future__ import annotations

from math import lgamma

import numpy as np
import numpy.typing as npt


def log_gamma(x: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The logarithm of the gamma function, element by element."""
    return np.array([lgamma(v) for v in x.tolist()])
