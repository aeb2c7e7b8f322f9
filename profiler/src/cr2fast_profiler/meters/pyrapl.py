"""CPU and memory energy through pyRAPL, where it works.

In: ``pyRAPL.Sensor.energy()``: µJ as [package 0, DRAM 0, package 1, ...], -1 where it has none.
Out: the meter's cumulative joules, unwrapped and judged by the code that serves
:mod:`~cr2fast_profiler.meters.rapl`, with ranges from the same tree.

pyRAPL's constructor fails where a package has several dies or zones are numbered with gaps (it
wants as many packages as sockets), and where a CPU is offline (it reads every present CPU's
topology). Where one socket has no DRAM zone it leaves DRAM out on all: right on AMD, which has
none, wrong elsewhere. Its own differences are wrong at a wrap and are not used.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters import powercap
from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.counters import Counter
from cr2fast_profiler.meters.powercap import PLAUSIBLE_W, Zone
from cr2fast_profiler.meters.rapl import poll_s

KINDS = (("package", "cpu"), ("dram", "dram"))
REMEDY = 'use the meter "rapl", which reads the same counters without pyRAPL'


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep an import from configuring the root logger, logging and warning.

    pyRAPL warns about its optional outputs through the root logger, which installs a handler for
    the whole process; its source warns when compiled, and it leaves files to the collector.
    """
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        logging.disable(disabled)


class PyraplMeter:
    """Packages and DRAM of this host, by pyRAPL.

    Parameters
    ----------
    root : Path
        Of the powercap tree, for the counters' ranges; pyRAPL itself knows one root only.
    clock : callable
        Monotonic ns.

    Raises
    ------
    MeterError
        When pyRAPL is not installed or its constructor fails.
    """

    def __init__(
        self, root: Path = powercap.ROOT, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._clock = clock
        with quiet():
            self._sensor, raw_uj = _open(root)
        zones = {z.name: z for z in _zones(root)}
        self._columns = [i for i, value in enumerate(raw_uj) if value >= 0]
        self.domains = tuple(_domain(i) for i in self._columns)
        known = [zones[d.name] for d in self.domains if d.name in zones]
        self._counters = [
            Counter(
                d.name,
                zones[d.name].range_j if d.name in zones else None,
                zones[d.name].max_power_w if d.name in zones else PLAUSIBLE_W[d.kind],
            )
            for d in self.domains
        ]
        self.poll_s = poll_s(known)
        self.faults: list[Fault] = []
        self.read()

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        t_ns = self._clock()
        try:
            raw_uj = self._sensor.energy()
            values = [counter.update(t_ns, raw_uj[i] * 1e-6) for i, counter in self._each()]
        except (OSError, ValueError) as error:
            values = [c.lose(t_ns, f"pyRAPL cannot read: {error}") for _, c in self._each()]
        self.faults += [fault for _, fault in values if fault]
        return t_ns, np.array([joules for joules, _ in values])

    def close(self) -> None:
        """Let go of pyRAPL's files, which it has no way to close."""
        with quiet():
            self._sensor = None

    def _each(self) -> list[tuple[int, Counter]]:
        return list(zip(self._columns, self._counters, strict=True))


def _domain(column: int) -> Domain:
    label, kind = KINDS[column % 2]
    return Domain(f"{label}-{column // 2}", kind, "pyrapl")


def _zones(root: Path) -> list[Zone]:
    """Zones that tell the ranges; none where the tree cannot be listed."""
    try:
        return powercap.find_zones(root)
    except MeterError:
        return []


def _open(root: Path) -> tuple[Any, list[float]]:
    """(pyRAPL's sensor, its first µJ)."""
    try:
        import pyRAPL
    except ImportError as error:
        why = Unavailable(
            "pyrapl", Reason.MISSING_PACKAGE, f"pyRAPL: {error}", "pip install pyRAPL"
        )
        raise MeterError(why) from None
    try:
        sensor = pyRAPL.Sensor()
        return sensor, list(sensor.energy())
    except PermissionError as error:
        why = powercap.unavailable("pyrapl", Path(error.filename or "energy_uj"), error)
    except pyRAPL.PyRAPLException:
        why = _unfit(
            root,
            "pyRAPL finds not one package zone for each socket (several dies, or zones numbered "
            "with gaps)",
        )
    except (OSError, ValueError, IndexError) as error:
        why = _unfit(root, f"pyRAPL's constructor failed: {error} (a CPU may be offline)")
    raise MeterError(why)


def _unfit(root: Path, detail: str) -> Unavailable:
    """Tell a host without counters from one whose layout pyRAPL cannot read."""
    try:
        powercap.find_zones(root)
    except MeterError as error:
        return replace(error.unavailable, source="pyrapl")
    return Unavailable("pyrapl", Reason.NOT_SUPPORTED, detail, REMEDY)
