"""The zones of a powercap tree, as the kernel lays them out under ``/sys/class/powercap``.

In: the tree's root. Out: :class:`Zone` for each counter that belongs to the host's energy, named
"package-0", "package-0-die-1", "dram-0", "psys", and the duplicates that were left out.

A control type (``intel-rapl``, which serves AMD too, ``intel-rapl-mmio``, ...) holds zones
``intel-rapl:0`` with a ``name``, subzones ``intel-rapl:0:1`` among them. Core and uncore are part
of their package and are left out. One name met in two control types is one counter twice; the
first is kept, ``intel-rapl`` before any other.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cr2fast_profiler.meters.base import MeterError, Reason, Unavailable

ROOT = Path("/sys/class/powercap")
PLAUSIBLE_W = {"cpu": 1000.0, "dram": 400.0, "psys": 2500.0}
"""The most a zone draws, by kind, where its power limits cannot be read, W."""
LEAST_BOUND_W = 400.0
LIMIT_RANGE_W = (1.0, 2000.0)
"""Power limits outside are the firmware's way to say "none", W."""

ReadText = Callable[[Path], str]


@dataclass(frozen=True)
class Zone:
    """One counter.

    Attributes
    ----------
    name : str
        "package-0", "dram-0", "psys".
    kind : str
        "cpu", "dram" or "psys".
    path : Path
        Its folder.
    range_j : float or None
        Where ``energy_uj`` wraps, J (to one unit of the hardware, some 60 µJ).
    max_power_w : float
        More than it can draw, W.
    """

    name: str
    kind: str
    path: Path
    range_j: float | None
    max_power_w: float


def read_text(path: Path) -> str:
    """Content of a sysfs file."""
    return path.read_text()


def unavailable(source: str, path: Path, error: OSError) -> Unavailable:
    """Say why a file of the tree cannot be read, and what to do."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unavailable(
            source,
            Reason.PERMISSION,
            f"{path} may be read by root only: kernels since 5.10 close it because fine-grained "
            "energy readings leak what other programs compute (PLATYPUS, CVE-2020-8694)",
            "run as root, or on a machine whose users you trust open it until the next boot with "
            "`sudo chmod a+r /sys/class/powercap/*/energy_uj` (a udev rule on the subsystem "
            "powercap does so at every boot)",
        )
    name = errno.errorcode.get(error.errno or 0, "error")
    return Unavailable(
        source, Reason.LOST, f"{path} cannot be read: {name}, {error.strerror}", "see dmesg"
    )


def find_zones(root: Path = ROOT, read: ReadText = read_text) -> list[Zone]:
    """Zones that count the host's energy, each once, in the order package, dram, psys.

    Raises
    ------
    MeterError
        When there is no powercap tree, no package in it, or a zone's name cannot be read.
    """
    remedy = (
        "on bare metal load the driver (`sudo modprobe intel_rapl_msr`); virtual machines and "
        "containers rarely see these counters: measure on their host"
    )
    if not root.is_dir():
        raise MeterError(Unavailable("rapl", Reason.NOT_PRESENT, f"there is no {root}", remedy))
    zones: dict[str, Zone] = {}
    for path, parent in _folders(root):
        zone = _zone(path, parent, read)
        if zone and zone.name not in zones:
            zones[zone.name] = zone
    if not any(z.kind == "cpu" for z in zones.values()):
        detail = f"{root} holds no package zone"
        raise MeterError(Unavailable("rapl", Reason.NOT_PRESENT, detail, remedy))
    order = list(PLAUSIBLE_W)
    return sorted(zones.values(), key=lambda z: (order.index(z.kind), _natural(z.name)))


def _natural(name: str) -> list[int]:
    return [int(d) for d in re.findall(r"\d+", name)]


def _folders(root: Path) -> list[tuple[Path, Path | None]]:
    """(zone, its parent zone) of each control type; sysfs shows a zone nested, and flat as a link.

    ``intel-rapl`` comes first, whose counters the others repeat.
    """
    found: dict[str, Path] = {}
    pending = [root]
    while pending:
        for entry in sorted(pending.pop().iterdir()):
            control = entry.name.split(":")[0]
            if "rapl" not in control or not entry.is_dir() or entry.name in found:
                continue
            if ":" in entry.name:
                found[entry.name] = entry
            pending.append(entry)
    ordered = sorted(
        found, key=lambda n: (n.split(":")[0] != "intel-rapl", n.split(":")[0], _natural(n))
    )
    return [(found[n], found.get(n.rpartition(":")[0])) for n in ordered]


def _zone(path: Path, parent: Path | None, read: ReadText) -> Zone | None:
    try:
        label = read(path / "name").strip()
        owner = read(parent / "name").strip() if parent else ""
    except FileNotFoundError:
        return None
    except OSError as error:
        # It may be a package: a total without it would lie.
        raise MeterError(unavailable("rapl", path / "name", error)) from None
    if re.fullmatch(r"package-\d+(-die-\d+)?", label):
        name, kind = label, "cpu"
    elif label == "dram":
        name, kind = f"dram{owner.removeprefix('package')}", "dram"
    elif label == "psys":
        name, kind = "psys", "psys"
    else:
        return None
    limits = _numbers(path.glob("constraint_*_power_limit_uw"), read)
    limits += _numbers(path.glob("constraint_*_max_power_uw"), read)
    limits = [w for w in limits if LIMIT_RANGE_W[0] < w < LIMIT_RANGE_W[1]]
    # Limits are averages and desktop boards ignore them: what is plausible lies well above.
    bound = max(LEAST_BOUND_W, 3 * max(limits)) if limits and kind == "cpu" else PLAUSIBLE_W[kind]
    ranges = [r for r in _numbers([path / "max_energy_range_uj"], read) if r > 0]
    return Zone(name, kind, path, ranges[0] if ranges else None, bound)


def _numbers(paths: Iterable[Path], read: ReadText) -> list[float]:
    """Micro-units in files, in units; files that hold no number are left out."""
    values = [_number(path, read) for path in paths]
    return [v for v in values if v is not None]


def _number(path: Path, read: ReadText) -> float | None:
    try:
        return int(read(path)) * 1e-6
    except (OSError, ValueError):
        return None


def energy_j(zone: Zone, read: ReadText = read_text) -> float:
    """Raw counter of a zone, J.

    Raises
    ------
    OSError
        When the file cannot be read.
    ValueError
        When it holds no number.
    """
    return int(read(zone.path / "energy_uj")) * 1e-6
