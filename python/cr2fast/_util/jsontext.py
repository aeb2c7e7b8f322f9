"""Values in the types that JSON has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def json_ready(value: Any) -> Any:
    """The same value in plain types, NaN and infinities as null.

    Parameters
    ----------
    value : Any
        Mappings, lists, tuples, NumPy scalars and arrays, plain values.
    """
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return json_ready(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
