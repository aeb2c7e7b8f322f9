"""Whole runs against a known server on a virtual clock."""

from __future__ import annotations

from pathlib import Path

from fakes.virtual import World

from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.workload.grid import Grid

GRID = Grid.cross((64, 256, 512), (4, 12, 24))
SMALL = Grid.cross((40, 80), (3, 6))


def run(world: World, out: Path, *, meter=None, **options) -> str:
    asked = {"grid": GRID, "least_rounds": 3, "most_rounds": 6, "precision": 0.015} | options
    with world.endpoint() as endpoint:
        return profile_model(
            endpoint, out, Options(**asked), meter=meter, progress=False, clock=world.clock
        )
