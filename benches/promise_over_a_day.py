"""A day whose mix of queries shifts: risk per hour and deferrals of four ways to serve.

    CR2FAST_DATA=DIR python -m benches.promise_over_a_day [--runs 20] [--out target/promise]

On queries that training did not see, at one operating point. Night is the five categories in which
the gate errs least, noon those in which it errs most, the hours between are mixtures; a router
calibrated on the night before serves 24 hours of 1,000 queries, drawn with replacement. Ways to
serve: the night's threshold all day; RollingThreshold from there; that, started again when the
hour's RiskAlarm says so; a recalibration every hour on the last 3,000 labelled queries. Labels are
the teacher's, which need no answers. Prints a table, writes a plot and the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

import cr2fast
from cr2fast import RiskAlarm, RollingThreshold, _core, crc_thresholds
from cr2fast.datasets import load_folder

LAM, ALPHA, DELTA = 0.3, 0.02, 0.01
HOURS, RATE, WINDOW = 24, 1000, 3000
WAYS = ("fixed", "rolling", "rolling, restarted by the alarm", "recalibrated hourly")


def pool(folder):
    """Margins, labels and categories of the queries outside training."""
    problem = load_folder(folder)
    train, *rest = problem.table.split()
    router = cr2fast.fit(train, problem.costs, progress=False)
    where = {q: i for i, q in enumerate(problem.table.query_ids)}
    table = problem.table.take([where[q] for part in rest for q in part.query_ids])
    states = router.costs.sample_states(len(table), 5)
    c = router.decision_costs(table, states, "predicted")
    prefers = _core.choice_margins(router.accuracies(table.embeddings), c, [LAM])[0] < 0
    return router.margins(table.embeddings, [LAM])[0], prefers, np.array(table.categories)


def threshold(margins, prefers):
    found = crc_thresholds(margins[None], prefers[None], [ALPHA], on_infeasible="defer")[0, 0]
    return float(found)


def sides(margins, prefers, categories):
    """The categories of night and of noon: where the pooled threshold errs least and most."""
    wrong = prefers & (margins >= threshold(margins, prefers))
    names = np.unique(categories)
    order = names[np.argsort([wrong[categories == c].mean() for c in names])]
    return order[:5], order[-5:]


def night(margins, prefers, where, rng):
    """A calibration of the night before, on half of its queries, so that others are new."""
    rows = rng.permutation(where)[: len(where) // 2]
    return threshold(margins[rows], prefers[rows]), rows


def a_day(margins, prefers, categories, rng):
    """Losses and acceptances (ways, HOURS * RATE), and the query at which an alarm was raised."""
    calm, busy = (np.isin(categories, side) for side in sides(margins, prefers, categories))
    start, rows = night(margins, prefers, np.flatnonzero(calm), rng)
    calm = np.setdiff1d(np.flatnonzero(calm), rows)
    noon = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(HOURS * RATE) / (HOURS * RATE))
    drawn = np.where(
        rng.random(HOURS * RATE) < noon,
        rng.choice(np.flatnonzero(busy), HOURS * RATE),
        rng.choice(calm, HOURS * RATE),
    )
    m, r = margins[drawn], prefers[drawn]
    ends = {"low": float(margins.min()), "high": float(margins.max())}
    first = float(np.clip(start, ends["low"], ends["high"]))
    rolling, alarmed = (
        RollingThreshold(ALPHA, first, **ends),
        RollingThreshold(ALPHA, first, **ends),
    )
    fixed_alarm = RiskAlarm(ALPHA, DELTA)
    local = np.empty((len(WAYS), len(drawn)), bool)
    hourly = start
    for t, (margin, prefer) in enumerate(zip(m.tolist(), r.tolist(), strict=True)):
        if t % RATE == 0:
            # Each hour an alarm of its own, with its share of delta.
            alarm = RiskAlarm(ALPHA, DELTA / HOURS)
            seen = np.concatenate([rows, drawn[:t]])[-WINDOW:] if t else rows
            hourly = threshold(margins[seen], prefers[seen])
        local[:, t] = [
            margin >= start,
            margin >= rolling.threshold,
            margin >= alarmed.threshold,
            margin >= hourly,
        ]
        rolling.update(margin, prefer)
        was = alarm.alarmed
        loss = float(prefer and local[2, t])
        alarmed.update(margin, prefer)
        if alarm.update(loss) and not was:
            alarmed.restart()
        fixed_alarm.update(float(prefer and local[0, t]))
    return local & r, local, fixed_alarm.alarmed_at, rolling.long_run_bound()


def plot(risk, deferred, path):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    fig, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    hours = np.arange(HOURS) + 0.5
    for way, a, b in zip(WAYS, risk, deferred, strict=True):
        top.plot(hours, 100 * a, label=way)
        bottom.plot(hours, 100 * b, label=way)
    top.axhline(100 * ALPHA, color="black", lw=0.8, ls="--", label="alpha, as promised")
    top.set_ylabel("risk in the hour, %")
    bottom.set_ylabel("deferred, %")
    bottom.set_xlabel("hour (night at both ends, noon in the middle)")
    top.legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("CR2FAST_DATA"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("target/promise"))
    args = parser.parse_args()
    if args.data is None:
        parser.error("expected a data folder: pass --data DIR, or set CR2FAST_DATA")
    margins, prefers, categories = pool(args.data)
    days = [a_day(margins, prefers, categories, np.random.default_rng(i)) for i in range(args.runs)]
    lost, local = (
        np.mean([d[i].reshape(len(WAYS), HOURS, RATE).mean(2) for d in days], axis=0)
        for i in (0, 1)
    )
    days_of = f"{HOURS} hours of {RATE} queries, mean of {args.runs} days"
    print(f"lam = {LAM:g}, alpha = {ALPHA:g}, {days_of}")
    print(f"{'':34}{'risk of the day':>16}{'worst hour':>12}{'deferred':>10}")
    for way, a, b in zip(WAYS, lost, local, strict=True):
        print(f"{way:34}{a.mean():16.4f}{a.max():12.4f}{1 - b.mean():10.3f}")
    raised = sorted(d[2] or HOURS * RATE for d in days)
    print(
        f"alarm over the fixed threshold: raised in {sum(d[2] is not None for d in days)} days, "
        f"at the median after {raised[len(raised) // 2]} queries; long-run bound of the rolling "
        f"one, for any sequence of {HOURS * RATE} queries: {days[0][3]:.3f}"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "ways": WAYS,
        "risk": lost.tolist(),
        "deferred": (1 - local).tolist(),
        "raised": raised,
    }
    (args.out / "promise.json").write_text(json.dumps(figures))
    plot(lost, 1 - local, args.out / "promise-in-service.png")
    print(f"wrote {args.out}/promise.json and promise-in-service.png")


if __name__ == "__main__":
    main()
