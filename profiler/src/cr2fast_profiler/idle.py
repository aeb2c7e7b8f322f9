"""Idle power of a host before the model is loaded.

In: a meter and seconds. Out: ``idle.json``, schema ``cr2fast.idle/1``. Idle has two values: this
one, and the resident one that ``model`` measures and subtracts; both are recorded.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import RunError
from cr2fast_profiler.files import write_json
from cr2fast_profiler.fit.energy import idle_power
from cr2fast_profiler.host import host
from cr2fast_profiler.meters.base import Meter
from cr2fast_profiler.meters.recorder import Recorder

SCHEMA = "cr2fast.idle/1"


def measure_idle(
    meter: Meter,
    seconds: float,
    progress: bool = True,
    clock: Clock = SYSTEM,
) -> dict[str, Any]:
    """Mean power over a while in which the host serves nothing.

    Parameters
    ----------
    meter : Meter
        Of the host.
    seconds : float
        How long.
    progress : bool
        Draw a bar.
    clock : Clock
        The meter's own.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    steps = 20
    with Recorder(meter, clock) as recorder:
        for _ in tqdm(range(steps), desc="idle", disable=None if progress else True):
            clock.sleep(seconds / steps)
        trace = recorder.stop()
    watts, interval = idle_power(trace)
    return {
        "schema": SCHEMA,
        "p_idle_w": watts,
        "interval": list(interval),
        "seconds": seconds,
        "sources": sorted({d.source for d in meter.domains if d.in_total}),
        "estimated": any(d.estimated for d in meter.domains if d.in_total),
        "started": started,
        "host": host(),
    }


def write_idle(path: str | Path, measured: dict[str, Any]) -> None:
    """Write ``idle.json`` atomically."""
    write_json(Path(path), measured)


def read_idle(path: str | Path) -> dict[str, Any]:
    """Read ``idle.json``; RunError when it is none."""
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
        good = said["schema"] == SCHEMA and isinstance(said["estimated"], bool)
        watts = [said["p_idle_w"], *said["interval"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f'{path}: expected schema "{SCHEMA}" (`cr2fast-profile idle` writes it): {error!r}'
        ) from error
    if not (good and len(watts) == 3 and all(_is_power(w) for w in watts)):
        raise RunError(f'{path}: expected schema "{SCHEMA}" and finite watts of at least 0')
    return dict(said)


def _is_power(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= float(value) < math.inf  # type: ignore[arg-type]
