"""Benchmarks run on optimised builds alone, and say on what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cr2fast import _core

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def pytest_configure(config):
    if _core.build_profile() != "release":
        raise pytest.UsageError("benches: expected a release build, got debug: run make bench")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["cr2fast"] = {
        "version": _core.__version__,
        "profile": _core.build_profile(),
        "simd": _core.simd_level(),
    }
