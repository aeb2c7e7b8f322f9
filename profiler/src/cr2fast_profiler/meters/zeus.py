"""Boards that Zeus knows: Jetson INA3221 rails, Apple silicon (optional: ``[zeus]``).

In: ``zeus.device.soc.get_soc().get_total_energy_consumption()``: cumulative mJ of the board's
subsystems, None where it has no such rail. Out: cumulative joules.

On a Jetson the input rail contains the others: where there is one, it alone adds up. On Apple
silicon the CPU total, GPU, its SRAM, neural engine and DRAM add up; cores and clusters, part of
the CPU total, are left out.
"""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.counters import Counter
from cr2fast_profiler.meters.pyrapl import quiet

RAILS = {
    "total_energy_mj": ("board", "board"),
    "cpu_energy_mj": ("cpu", "cpu"),
    "gpu_energy_mj": ("gpu", "gpu"),
    "cpu_total_mj": ("cpu", "cpu"),
    "gpu_mj": ("gpu", "gpu"),
    "gpu_sram_mj": ("gpu-sram", "gpu"),
    "ane_mj": ("ane", "gpu"),
    "dram_mj": ("dram", "dram"),
}
"""Zeus's field: (domain, kind)."""
MAX_POWER_W = 500.0
"""More than any of these boards draws, W."""
MODEL_FILE = Path("/proc/device-tree/model")


class ZeusMeter:
    """The board of this host, by Zeus.

    Parameters
    ----------
    clock : callable
        Monotonic ns.
    model_file : Path
        Where a device tree names its board.

    Attributes
    ----------
    board : str
        Its model, else the platform.
    rails : tuple of str
        (D,) Zeus's names of what is read.

    Raises
    ------
    MeterError
        When Zeus is not installed, knows no such board, or reads none of its rails.
    """

    def __init__(
        self, clock: Callable[[], int] = time.perf_counter_ns, model_file: Path = MODEL_FILE
    ) -> None:
        self._clock = clock
        self._soc = _soc()
        try:
            self.board = model_file.read_text().rstrip("\0\n ")
        except OSError:
            self.board = platform.platform()
        try:
            first = self._soc.get_total_energy_consumption()
        except (Empty, OSError, RuntimeError, ValueError) as error:
            detail = f"{self.board}: Zeus cannot read it: {type(error).__name__} {error}"
            raise MeterError(Unavailable("zeus", Reason.LOST, detail)) from None
        present = [f.name for f in fields(first) if getattr(first, f.name) is not None]
        self.rails = tuple(name for name in RAILS if name in present)
        if not self.rails:
            detail = f"{self.board}: Zeus finds no rail it can read"
            raise MeterError(Unavailable("zeus", Reason.NOT_SUPPORTED, detail))
        whole = self.rails[0] == "total_energy_mj"
        self.domains = tuple(
            Domain(*RAILS[r], "zeus", in_total=not whole or r == "total_energy_mj")
            for r in self.rails
        )
        self._counters = [
            Counter(d.name, None, MAX_POWER_W, decrease=Reason.RESET) for d in self.domains
        ]
        self.poll_s = 0.1
        self.faults: list[Fault] = []
        self.read()

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        try:
            energy = self._soc.get_total_energy_consumption()
        except (Empty, OSError, RuntimeError, ValueError) as error:
            t_ns = self._clock()
            detail = f"{self.board}: {type(error).__name__} {error}"
            return self._note(t_ns, [c.lose(t_ns, detail) for c in self._counters])
        # Zeus's process integrates up to its answer, so the answer's time is the reading's.
        t_ns = self._clock()
        values = []
        for rail, counter in zip(self.rails, self._counters, strict=True):
            raw_mj = getattr(energy, rail)
            lost = raw_mj is None
            values.append(
                counter.lose(t_ns, f"{rail} is gone")
                if lost
                else counter.update(t_ns, float(raw_mj) * 1e-3)
            )
        return self._note(t_ns, values)

    def close(self) -> None:
        """Zeus keeps one reader for the process and ends it at exit."""

    def _note(
        self, t_ns: int, values: list[tuple[float, Fault | None]]
    ) -> tuple[int, npt.NDArray[np.float64]]:
        self.faults += [fault for _, fault in values if fault]
        return t_ns, np.array([joules for joules, _ in values])


def _soc() -> Any:
    try:
        with quiet():
            module = importlib.import_module("zeus.device.soc")
    except ImportError as error:
        raise MeterError(
            Unavailable(
                "zeus",
                Reason.MISSING_PACKAGE,
                f"Zeus: {error}",
                "install zeus, or cr2fast-profiler's extra `zeus`",
            )
        ) from None
    try:
        return module.get_soc()
    except module.ZeusSoCInitError as error:
        detail = f"{error} (Zeus reads Jetson and Apple silicon)"
        raise MeterError(Unavailable("zeus", Reason.NOT_PRESENT, detail)) from None
