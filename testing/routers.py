"""A small calibrated router of an encoder, for tests that need some router and not a good one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cr2fast
from cr2fast.datasets import make_routing_problem


def small(
    encoder: cr2fast.EncoderInfo,
    d: int,
    *,
    alphas: Sequence[float],
    lams: Sequence[float],
    seed: int = 5,
) -> cr2fast.Router:
    """Of three models, on made-up queries whose embeddings are said to be that encoder's."""
    problem = make_routing_problem(n=400, d=d, models=3, seed=seed)
    train, calibration, _ = replace(problem.table, encoder=encoder).split()
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=16,
        teacher_epochs=2,
        gate_epochs=2,
        progress=False,
    )
    router.calibrate(calibration, alphas=alphas, lams=lams)
    return router
