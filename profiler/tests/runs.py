"""Whole runs against a test's server."""

from __future__ import annotations

from pathlib import Path

from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.grid import Grid

GRID = Grid.cross((64, 256, 512), (4, 12, 24))
SMALL = Grid.cross((40, 80), (3, 6))


def run(url: str, out: Path, **options) -> str:
    asked = {"grid": GRID, "least_rounds": 3, "most_rounds": 6, "precision": 0.015} | options
    with Endpoint(url) as endpoint:
        return profile_model(endpoint, out, Options(**asked), progress=False)
