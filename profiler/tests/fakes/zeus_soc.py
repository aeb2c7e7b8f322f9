"""``zeus.device.soc`` with its real names, fields and signatures (Zeus 0.16)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


class ZeusSoCInitError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)


@dataclass
class JetsonMeasurement:
    cpu_energy_mj: float | None = None
    gpu_energy_mj: float | None = None
    total_energy_mj: float | None = None


@dataclass
class AppleSiliconMeasurement:
    cpu_total_mj: int | None = None
    efficiency_cores_mj: list[int] | None = None
    performance_cores_mj: list[int] | None = None
    efficiency_cluster_mj: list[int] | None = None
    performance_cluster_mj: list[int] | None = None
    efficiency_core_manager_mj: int | None = None
    performance_core_manager_mj: int | None = None
    dram_mj: int | None = None
    gpu_mj: int | None = None
    gpu_sram_mj: int | None = None
    ane_mj: int | None = None


class Soc:
    """A board that answers with what ``measure`` returns."""

    def __init__(self, measure: Callable[[], Any]) -> None:
        self.measure = measure

    def get_total_energy_consumption(self, timeout: float = 15.0) -> Any:
        return self.measure()


def serve(monkeypatch: pytest.MonkeyPatch, get_soc: Callable[[], Soc]) -> None:
    """Make ``import zeus.device.soc`` find this."""
    for name in ("zeus", "zeus.device", "zeus.device.soc"):
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    module.get_soc = get_soc  # type: ignore[attr-defined]
    module.ZeusSoCInitError = ZeusSoCInitError  # type: ignore[attr-defined]
