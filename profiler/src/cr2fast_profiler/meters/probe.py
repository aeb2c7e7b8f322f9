"""Which meters this host has.

In: a spec as a user writes it. Out: an open meter, or :class:`MeterError`; and the survey of all
sensors that a doctor prints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.clock import SYSTEM, Now
from cr2fast_profiler.meters import powercap
from cr2fast_profiler.meters.base import Domain, Fault, Meter, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.constant import ConstantMeter
from cr2fast_profiler.meters.nvml import NvmlMeter
from cr2fast_profiler.meters.pyrapl import PyraplMeter
from cr2fast_profiler.meters.rapl import RaplMeter
from cr2fast_profiler.meters.replay import ReplayMeter
from cr2fast_profiler.meters.zeus import ZeusMeter

SPECS = "auto, nvml, nvml:INDEX, nvml:UUID, rapl, pyrapl, zeus, replay:FILE, constant:WATTS"


class CombinedMeter:
    """Several meters as one; a slower one is read at its own pace.

    Parameters
    ----------
    parts : sequence of Meter
        At least one; closed with this one.
    absent : sequence of Unavailable
        Sensors that were looked for and are not part of it.

    Raises
    ------
    ValueError
        When two parts name a domain alike.
    """

    def __init__(self, parts: list[Meter], absent: tuple[Unavailable, ...] = ()) -> None:
        self.parts = sorted(parts, key=lambda m: m.poll_s)
        self.absent = absent
        self.domains = tuple(d for m in self.parts for d in m.domains)
        names = [d.name for d in self.domains]
        if not parts or len(set(names)) < len(names):
            raise ValueError(f"parts must have domains of different names; got {names}")
        self.poll_s = self.parts[0].poll_s
        self.faults: list[Fault] = []
        self._seen = [0] * len(self.parts)
        self._last: list[tuple[int, npt.NDArray[np.float64]]] = [m.read() for m in self.parts]

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        t_ns, _ = self._last[0] = self.parts[0].read()
        for i, part in enumerate(self.parts[1:], start=1):
            if t_ns - self._last[i][0] >= 0.9e9 * part.poll_s:
                self._last[i] = part.read()
        for i, part in enumerate(self.parts):
            self.faults += part.faults[self._seen[i] :]
            self._seen[i] = len(part.faults)
        return t_ns, np.concatenate([joules for _, joules in self._last])

    def close(self) -> None:
        """Release all parts."""
        for part in self.parts:
            part.close()


def open_meter(spec: str = "auto", root: Path = powercap.ROOT, clock: Now = SYSTEM) -> Meter:
    """Open the meter that a spec names.

    Parameters
    ----------
    spec : str
        "auto" (GPUs and CPU of this host, else its board by Zeus), "nvml", "nvml:0",
        "nvml:GPU-...", "rapl", "pyrapl", "zeus", "replay:FILE", "constant:15" (watts).
    root : Path
        Of the powercap tree.
    clock : callable
        Monotonic ns, of meters that need no hardware.

    Raises
    ------
    MeterError
        When the spec is unknown or its meter cannot be had.
    """
    kind, colon, argument = spec.partition(":")
    plain: dict[str, Callable[[], Meter]] = {
        "auto": lambda: _auto(root),
        "nvml": NvmlMeter,
        "rapl": lambda: RaplMeter(root),
        "pyrapl": lambda: PyraplMeter(root),
        "zeus": ZeusMeter,
    }
    if not colon and kind in plain:
        return plain[kind]()
    if argument and kind == "nvml":
        return NvmlMeter(argument)
    if argument and kind == "replay":
        return ReplayMeter(argument, clock)
    if argument and kind == "constant":
        try:
            return ConstantMeter(float(argument), clock)
        except ValueError:
            pass
    detail = f"no meter is called {spec!r}"
    raise MeterError(Unavailable("meter", Reason.NOT_SUPPORTED, detail, f"one of: {SPECS}"))


def open_rapl(root: Path = powercap.ROOT, pyrapl: bool | None = None) -> PyraplMeter | RaplMeter:
    """CPU and memory by pyRAPL where it sees all that the tree holds, else read here.

    Parameters
    ----------
    root : Path
        Of the powercap tree.
    pyrapl : bool, optional
        Whether to try pyRAPL; by default only on the kernel's own tree, which alone it knows.

    Raises
    ------
    MeterError
        When the tree's own reader cannot be had.
    """
    own = RaplMeter(root)
    if pyrapl is None:
        pyrapl = root == powercap.ROOT
    if not pyrapl:
        return own
    try:
        other = PyraplMeter(root)
    except MeterError:
        return own
    counted = {d.name for d in own.domains if d.in_total}
    if {d.name for d in other.domains} == counted:
        return other
    other.close()
    return own


def survey(root: Path = powercap.ROOT) -> list[Domain | Unavailable]:
    """Sensors of this host, and those it lacks with the reason and the remedy.

    Parameters
    ----------
    root : Path
        Of the powercap tree.
    """
    found: list[Domain | Unavailable] = []
    makers: list[Callable[[], Meter]] = [NvmlMeter, lambda: RaplMeter(root), ZeusMeter]
    # pyRAPL knows one root only; where that is missing, RAPL's own reason is the one to read.
    if root == powercap.ROOT and root.exists():
        makers.insert(2, lambda: PyraplMeter(root))
    for make in makers:
        meter = _try(make)
        if isinstance(meter, Unavailable):
            found.append(meter)
            continue
        found += meter.domains
        found += getattr(meter, "absent", ())
        meter.close()
    return found


def _try(make: Callable[[], Meter]) -> Meter | Unavailable:
    try:
        return make()
    except MeterError as error:
        return error.unavailable


def _auto(root: Path) -> Meter:
    found = [_try(NvmlMeter), _try(lambda: open_rapl(root))]
    if all(isinstance(f, Unavailable) for f in found):
        found.append(_try(ZeusMeter))
    parts = [f for f in found if not isinstance(f, Unavailable)]
    absent = [f for f in found if isinstance(f, Unavailable)]
    if not parts:
        named = ", ".join(f"{u.source}: {u.reason.value}" for u in absent)
        detail = f"no energy sensor of this host can be read ({named})"
        remedy = "`cr2fast-profile doctor` says why, and what to do about each"
        reasons = {u.reason for u in absent}
        reason = Reason.PERMISSION if Reason.PERMISSION in reasons else Reason.NOT_PRESENT
        raise MeterError(Unavailable("auto", reason, detail, remedy))
    return CombinedMeter(parts, tuple(absent))
