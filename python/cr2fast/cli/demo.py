"""The demonstration: outcomes and costs in, a routed test split out.

fit -> calibrate -> save -> load on a "device" and on an "edge" -> route -> evaluate -> report.
All of it twice: with predicted output lengths, as deployed, and with known ones, as in the paper.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._core import Cr2Error, DeviceRouter, EdgeSelector, OperatingPointError
from cr2fast._util import seeds
from cr2fast._util.progress import Shows
from cr2fast.calibration import ALPHA, ALPHAS, CalibrationReport
from cr2fast.calibration.point import OperatingPoint
from cr2fast.data.datasets import RoutingProblem
from cr2fast.data.table import RoutingTable
from cr2fast.evaluation import Evaluation, InfeasibleWishError, evaluate, report
from cr2fast.fitted import Lengths
from cr2fast.fitting import fit
from cr2fast.router import Router

MODES: tuple[Lengths, ...] = ("predicted", "known")


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration gives back.

    Attributes
    ----------
    router : Router
        The saved router: fitted and calibrated with predicted lengths.
    evaluations : dict of str to Evaluation
        Evaluations by mode of output lengths.
    files : list of Path
        Artifact, plots, JSON.
    summary : dict
        Timings, sizes, and what the live part did.
    """

    router: Router
    evaluations: dict[str, Evaluation]
    files: list[Path]
    summary: dict[str, Any]


def run(
    problem: RoutingProblem,
    out: str | Path,
    *,
    source: str,
    lam: float | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    progress: Shows = True,
    say: Callable[[str], None] = print,
    **options: Any,
) -> DemoResult:
    """Run the demonstration.

    Parameters
    ----------
    problem : RoutingProblem
    out : path
        Folder for ``router.safetensors``, plots, ``report.html`` and ``report.json``.
    source : str
        Where the data come from, for the report.
    lam, alpha : float
        Operating point of the live part; without `lam`, the one that is chosen on a validation
        part for nine tenths of the big model's accuracy. `alpha` is also the level of the tables.
    seed : int
        Seed of split, training and link states.
    progress : bool
        Draw progress bars.
    say : callable
        Called with each part of the text.
    **options
        Passed to :func:`cr2fast.fit`.
    """
    if alpha not in ALPHAS:
        raise OperatingPointError(
            f"alpha={alpha}: expected a level of the demonstration's grid, one of {ALPHAS}"
        )
    if lam is not None and not 0 < lam < np.inf:
        raise OperatingPointError(f"lam: expected a positive, finite cost weight, got {lam}")
    seeds.check_seed(seed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    parts = problem.table.split((0.6, 0.2, 0.1, 0.1), seed=seed)
    train, calibration, validation, test = parts
    say(
        f"data: {source}; {len(train)} train, {len(calibration)} calibration, "
        f"{len(validation)} validation, {len(test)} test"
    )
    routers: dict[str, Router] = {}
    reports: dict[str, CalibrationReport] = {}
    seconds: dict[str, dict[str, float]] = {}
    for lengths in MODES:
        start = time.perf_counter()
        routers[lengths] = fit(
            train, problem.costs, seed=seed, lengths=lengths, progress=progress, **options
        )
        middle = time.perf_counter()
        reports[lengths] = routers[lengths].calibrate(
            calibration, problem.costs, seed=seed, on_infeasible="defer"
        )
        end = time.perf_counter()
        seconds[lengths] = {"fit_s": middle - start, "calibrate_s": end - middle}
        say(f"{lengths} lengths: fit {middle - start:.1f} s, calibrate {end - middle:.2f} s")
    router, calibrated = routers["predicted"], reports["predicted"]
    artifact = out / "router.safetensors"
    router.save(artifact)
    sizes = ", ".join(f"{k} {v:,}" for k, v in router.parameters.items())
    say(f"{artifact}: {artifact.stat().st_size / 1e6:.2f} MB; parameters: {sizes}")
    if (peak := peak_memory_bytes()) is not None:
        say(f"peak memory so far: {peak / 1e9:.2f} GB")
    say(calibrated.statement)

    held = {k: evaluate(r, validation, problem.costs, seed=seed) for k, r in routers.items()}
    if lam is not None:
        at = (lam, alpha)
    else:
        point = _chosen(held["predicted"], say)
        at = (point.lam, point.alpha)
        say(str(point))
    live = _live(artifact, router, test, *at, seed)
    say(f"device at lam={at[0]:g}, alpha={at[1]:g}: kept {live['kept']} of {len(test)} queries; "
        f"the edge gave the rest to {live['edge']}")  # fmt: skip
    evaluations: dict[str, Evaluation] = {
        k: evaluate(r, test, problem.costs, seed=seed) for k, r in routers.items()
    }
    for mode, e in evaluations.items():
        say(
            f"\n{mode} lengths, alpha = {alpha:g}, {e.n} test queries ({e.n_answerable} answerable)"
        )
        say(report.table(e, alpha))
        say(report.words(e))
        say(report.compatibility(e))
        alone = e.baselines["alone"]
        pairs = zip(router.models, alone["accuracy"], alone["cost"], strict=True)
        say("alone: " + ", ".join(f"{m} accuracy {a:.3f} cost {c:.3f}" for m, a, c in pairs))
    summary = {
        "source": source,
        "seed": seed,
        "cost_table_source": problem.costs.source,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "artifact_bytes": artifact.stat().st_size,
        "parameters": router.parameters,
        "live": live,
        "calibration": {k: r.to_dict() for k, r in reports.items()},
        "training": {k: r.training for k, r in routers.items()},
    }
    files = [
        artifact,
        *report.write(out, evaluations, summary, source=source, validation=held),
    ]
    return DemoResult(router, evaluations, files, summary)


def _chosen(held: Evaluation, say: Callable[[str], None]) -> OperatingPoint:
    """The cheapest point with nine tenths of the big model's accuracy, or nearly the best."""
    try:
        return held.choose(relative_accuracy=0.9)
    except InfeasibleWishError as error:
        say(str(error))
        return held.choose(min_accuracy=0.95 * float(held.accuracy.max()))


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far, or None where the system does not say it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _live(
    artifact: Path, router: Router, test: RoutingTable, lam: float, alpha: float, seed: int
) -> dict[str, Any]:
    """Load the file as a device and as an edge would, and route the test split."""
    device = DeviceRouter.load(artifact, lam, alpha)
    edge = EdgeSelector.load(artifact, lam)
    rows_in = router.inputs(test)
    local = device.route_batch(rows_in)
    if device.route(rows_in[0]).local != local[0]:
        raise Cr2Error("device: expected one answer from the single and the batched call, got two")
    rows = np.flatnonzero(~local)
    share: dict[str, int] = {}
    if rows.size:
        deferred = test.take(rows)
        states = router.costs.sample_states(len(deferred), seeds.LIVE + seed)
        chosen = edge.select_batch(rows_in[rows], deferred.n_input_tokens, states)
        names, counts = np.unique(np.asarray(edge.models)[chosen.index], return_counts=True)
        share = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return {"lam": lam, "alpha": alpha, "kept": int(local.sum()), "edge": share}
