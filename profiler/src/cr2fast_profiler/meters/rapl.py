"""CPU and memory energy from the kernel's powercap tree, read here.

In: ``energy_uj`` of the zones of :mod:`~cr2fast_profiler.meters.powercap`. Out: the meter's
cumulative joules: packages and DRAM add up, psys (which contains them) stands apart.

Dies of one package can show one counter twice. Two dies A, B are one counter when, over several
readings A, B, A in which the counter moved, B always lies between the two of A: independent
counters do so with a chance of a tick over the range. The later die is then left out.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters import powercap
from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.counters import Counter
from cr2fast_profiler.meters.powercap import ReadText, Zone, read_text

POLL_S = 0.02
"""Package counters tick each millisecond; this resolves the phases of a request."""
READS_PER_WRAP = 4
MIRROR_ROUNDS = 5
MIRROR_WAIT_S = 0.003
"""Longer than a tick of the package counter."""


def poll_s(zones: list[Zone], longest_s: float = POLL_S) -> float:
    """How often to read zones: four times a wrap at their most plausible power, s."""
    wraps = [z.range_j / z.max_power_w for z in zones if z.range_j is not None]
    return min([longest_s, *(w / READS_PER_WRAP for w in wraps)])


class RaplMeter:
    """Packages, DRAM and psys of this host.

    Parameters
    ----------
    root : Path
        Of the powercap tree.
    clock : callable
        Monotonic ns.
    sleep : callable
        Waits s, between the readings that look for mirrored dies.
    read : callable
        Content of a file.

    Attributes
    ----------
    absent : list of Unavailable
        DRAM or psys zones that exist and cannot be read.
    mirrors : dict of str to str
        Dies left out, and the die whose counter they repeat.

    Raises
    ------
    MeterError
        When there are no package zones, or one of them cannot be read.
    """

    def __init__(
        self,
        root: Path = powercap.ROOT,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
        read: ReadText = read_text,
    ) -> None:
        self._clock = clock
        self._read = read
        self.absent: list[Unavailable] = []
        zones = [z for z in powercap.find_zones(root, read) if self._readable(z)]
        self.mirrors = self._find_mirrors(zones, sleep)
        self._zones = [z for z in zones if z.name not in self.mirrors]
        self._counters = [Counter(z.name, z.range_j, z.max_power_w) for z in self._zones]
        self.domains = tuple(
            Domain(z.name, z.kind, "rapl", in_total=z.kind != "psys") for z in self._zones
        )
        self.poll_s = poll_s(self._zones)
        self.faults: list[Fault] = []
        self.read()

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        start_ns = self._clock()
        joules = np.empty(len(self._zones))
        for i, (zone, counter) in enumerate(zip(self._zones, self._counters, strict=True)):
            try:
                raw_j = powercap.energy_j(zone, self._read)
            except OSError as error:
                why = powercap.unavailable("rapl", zone.path / "energy_uj", error)
                joules[i], fault = counter.lose(start_ns, why.detail, why.reason)
            except ValueError as error:
                joules[i], fault = counter.lose(start_ns, f"{zone.path}/energy_uj: {error}")
            else:
                joules[i], fault = counter.update(start_ns, raw_j)
            if fault:
                self.faults.append(fault)
        return start_ns, joules

    def close(self) -> None:
        """Files are opened for each reading; nothing is held."""

    def _readable(self, zone: Zone) -> bool:
        """Whether a zone counts; a package that does not is no meter, for its total would lie."""
        path = zone.path / "energy_uj"
        try:
            powercap.energy_j(zone, self._read)
        except OSError as error:
            why = powercap.unavailable("rapl", path, error)
        except ValueError:
            why = Unavailable("rapl", Reason.NOT_SUPPORTED, f"{path} holds no whole number")
        else:
            return True
        if zone.kind == "cpu" or (why.reason is Reason.PERMISSION and zone.kind == "dram"):
            raise MeterError(why)
        self.absent.append(why)
        return False

    def _raw_j(self, zone: Zone) -> float:
        try:
            return powercap.energy_j(zone, self._read)
        except (OSError, ValueError):
            return math.nan

    def _find_mirrors(self, zones: list[Zone], sleep: Callable[[float], None]) -> dict[str, str]:
        dies = [z for z in zones if re.fullmatch(r".*-die-\d+", z.name)]
        pairs = [
            (a, b)
            for i, a in enumerate(dies)
            for b in dies[i + 1 :]
            if a.name.split("-die-")[0] == b.name.split("-die-")[0]
        ]
        same = {(a.name, b.name): True for a, b in pairs}
        seen: dict[str, set[float]] = {a.name: set() for a, _ in pairs}
        for _ in range(MIRROR_ROUNDS if pairs else 0):
            sleep(MIRROR_WAIT_S)
            for a, b in pairs:
                first_j, other_j, last_j = (self._raw_j(z) for z in (a, b, a))
                same[a.name, b.name] &= first_j <= other_j <= last_j
                seen[a.name].add(last_j)
        # The first round's value and at least two moves: a counter that rests proves nothing.
        moved = {name for name, values in seen.items() if len(values) >= 3}
        return {b.name: a.name for a, b in pairs if same[a.name, b.name] and a.name in moved}
