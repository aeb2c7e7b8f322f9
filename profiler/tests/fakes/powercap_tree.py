"""A powercap tree in a folder, with a writer that counts and wraps as the kernel's counters do."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.clock import FakeClock

RANGE_UJ = 262_143_328_850


@dataclass
class FakeZone:
    folder: Path
    power_w: int
    range_uj: int | None
    start_ns: int
    offset_uj: int = 0

    def raw_uj(self, now_ns: int) -> int:
        value = self.offset_uj + self.power_w * (now_ns - self.start_ns) // 1000
        return value % self.range_uj if self.range_uj else value


class PowercapTree:
    """Zones as sysfs shows them: nested in their control type, and flat as links."""

    def __init__(self, base: Path, clock: FakeClock) -> None:
        self.root = base / "powercap"
        self.root.mkdir()
        self.cpus = base / "cpu"
        self.cpus.mkdir()
        self.clock = clock
        self.zones: dict[str, FakeZone] = {}
        clock.listeners.append(lambda _: self.write())

    def add(
        self,
        zone: str,
        name: str,
        power_w: int = 0,
        start_uj: int = 0,
        range_uj: int | None = RANGE_UJ,
        limit_w: int | None = None,
    ) -> FakeZone:
        control, *ids = zone.split(":")
        folder = self.root / control
        for depth in range(len(ids)):
            folder = folder / ":".join([control, *ids[: depth + 1]])
        folder.mkdir(parents=True)
        (self.root / zone).symlink_to(folder)
        (folder / "name").write_text(name + "\n")
        if range_uj is not None:
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        if limit_w is not None:
            (folder / "constraint_0_power_limit_uw").write_text(f"{limit_w}000000\n")
        fake = FakeZone(folder, power_w, range_uj, self.clock(), start_uj)
        self.zones[zone] = fake
        self.write()
        return fake

    def write(self) -> None:
        for zone in self.zones.values():
            (zone.folder / "energy_uj").write_text(f"{zone.raw_uj(self.clock())}\n")

    def sockets(self, *packages: int | None) -> None:
        """One CPU a package; None is a CPU that is present and offline."""
        (self.cpus / "present").write_text(f"0-{len(packages) - 1}\n")
        for i, package in enumerate(packages):
            topology = self.cpus / f"cpu{i}" / "topology"
            topology.mkdir(parents=True)
            if package is not None:
                (topology / "physical_package_id").write_text(f"{package}\n")

    def serve_pyrapl(
        self, monkeypatch: pytest.MonkeyPatch, errors: dict[str, int] | None = None
    ) -> None:
        """Let pyRAPL, which knows one root only, read this tree."""
        from cr2fast_profiler.meters.pyrapl import quiet

        with quiet():
            from pyRAPL import device_api

        def moved(path: str) -> str:
            path = path.replace("/sys/class/powercap", str(self.root))
            return path.replace("/sys/devices/system/cpu", str(self.cpus))

        def open_moved(path: str, mode: str = "r") -> Any:
            for ending, code in (errors or {}).items():
                if path.endswith(ending):
                    raise OSError(code, os.strerror(code), path)
            return open(moved(path), mode)

        path = SimpleNamespace(exists=lambda p: os.path.exists(moved(p)))
        monkeypatch.setattr(device_api, "open", open_moved, raising=False)
        monkeypatch.setattr(device_api, "os", SimpleNamespace(path=path))


class Opener:
    """Content of a file, or the error it is told to fail with."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    def __call__(self, path: Path) -> str:
        for ending, code in self.errors.items():
            if str(path).endswith(ending):
                raise OSError(code, os.strerror(code), str(path))
        return path.read_text()


EACCES, ENOENT, ENODATA, EIO = errno.EACCES, errno.ENOENT, errno.ENODATA, errno.EIO
