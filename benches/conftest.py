"""Benchmarks run only on optimised builds, and say on what."""

from __future__ import annotations

import pytest

from cr2fast import _core


def pytest_configure(config):
    if _core.build_profile() != "release":
        raise pytest.UsageError("benches: expected a release build, got debug: run make bench")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["cr2fast"] = {
        "version": _core.__version__,
        "profile": _core.build_profile(),
        "simd": _core.simd_isa(),
    }
