"""One seed, from the split to the numbers.

In: a data folder's problem and a seed. Out: a JSON-able document and bootstrap replicates. Order
matters: configurations are chosen on parts of the training split (:func:`select`), everything that
will be tried is fitted and written down (:func:`prepare`), then the test split is opened, once
(:func:`examine`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benches.paper import cr2, metrics
from benches.paper.baselines import BASELINES, ROWS, choose, learnable
from benches.paper.metrics import Points
from benches.paper.world import MODES, Pricer, Sealed, Truth, text_features


@dataclass(frozen=True)
class Scope:
    """How much is run: hold-outs behind each choice of a configuration (0: the usual one of each
    method is taken), ablations or none, resamples, and the most queries of a pool (None: all).
    """

    repeats: int = 2
    ablations: bool = True
    bootstrap: int = 1000
    queries: int | None = None

    def part(self, table):
        """What of a pool is used: splits are drawn from a part that is the same for all seeds."""
        if self.queries is None or len(table) <= self.queries:
            return table
        rows = np.random.default_rng(0).permutation(len(table))[: self.queries]
        return table.take(np.sort(rows))


QUICK = Scope(repeats=0, ablations=False, bootstrap=200, queries=4000)
LEVELS = (0.35, 0.45, 0.55)
INNER = (0.7, 0.1, 0.2)
VARIANTS = ("constant", "true costs")
OURS, FULL = "CR² (device-edge)", "CR² (edge, full information)"


def operating_lams(count):
    """λ of the full-information methods: as many points as CR² pools."""
    return np.geomspace(0.01, 8, count)


def _cost_of(queries, variant, mode):
    return queries.constant if variant == "constant" else queries.costs[mode]


def _score(points, truth):
    """What every configuration is chosen by: mean cost of the hull at the eight targets."""
    accuracy, cost = points.means()
    return float(metrics.hull_cost(accuracy, cost, metrics.targets(truth)).mean())


def _points(p, queries, truth, variant, mode, count):
    lams = operating_lams(count)
    choices = choose(p, _cost_of(queries, variant, mode), lams)
    return Points.of([(float(lam), None) for lam in lams], choices, truth)


def select(train, costs, seed, repeats, tick):
    """Choose every method's configuration within the training split, by repeated hold-out."""
    count = len(cr2.LAMS) * len(cr2.ALPHAS)
    scores = {}
    for repeat in range(repeats):
        inner, calibration, held = train.split(INNER, seed=1000 * seed + repeat)
        pricer = Pricer(inner, costs, seed)
        states_seed = 9_000_011 + 1000 * seed + repeat
        queries, truth = pricer.split(held, states_seed)
        features = {rows: text_features(learnable(inner, rows)) for rows in ROWS}
        for baseline in BASELINES:
            for i, config in enumerate(baseline.configs):
                rows = config["rows"]
                p = baseline.fit(learnable(inner, rows), features[rows], config, seed)(queries)
                for variant in VARIANTS:
                    for mode in MODES:
                        points = _points(p, queries, truth, variant, mode, count)
                        key = f"{baseline.name}, {variant}, {mode}"
                        scores.setdefault(key, {}).setdefault(i, []).append(_score(points, truth))
                tick(f"choosing: {baseline.name}")
        states = pricer.costs.sample_states(len(held), states_seed)
        wide = _with_return(truth, cr2.detour(held, states, pricer.costs, truth))
        for i, config in enumerate(cr2.CONFIGS):
            teacher = None
            for mode in MODES:
                router = cr2.fit(inner, pricer.costs, config, mode, seed, teacher)
                teacher = teacher or router
                view = cr2.Calibrated(router, calibration, mode, seed).view(held, states)
                for j, path in enumerate(cr2.PATHS):
                    labels, choices, _ = view.choices(path=path)
                    score = _score(Points.of(labels, choices, wide), truth)
                    key = len(cr2.PATHS) * i + j
                    scores.setdefault(f"CR², {mode}", {}).setdefault(key, []).append(score)
            tick("choosing: CR²")
    ours = [config | {"path": path} for config in cr2.CONFIGS for path in cr2.PATHS]
    configs = {b.name: b.configs for b in BASELINES} | {"CR²": ours}
    chosen, record = {}, {}
    for key, tried in scores.items():
        means = {i: float(np.mean(costs)) for i, costs in tried.items()}
        own = configs[key.split(",")[0]]
        chosen[key] = own[min(means, key=means.get)]
        record[key] = [{"config": own[i], "cost": cost} for i, cost in means.items()]
    return chosen, record


def usual():
    """Every method's usual configuration, where none is chosen."""
    names = [(b.name, b.usual) for b in BASELINES]
    chosen = {
        f"{name}, {v}, {m}": config for name, config in names for v in VARIANTS for m in MODES
    }
    return chosen | {f"CR², {mode}": cr2.CONFIGS[0] | {"path": cr2.EDGE_ONLY} for mode in MODES}


def prepare(train, calibration, costs, chosen, seed, tick, ablations=True):
    """Fit everything that will be tried, with the chosen configurations."""
    pricer = Pricer(train, costs, seed)
    predictors, fitted = {}, {}
    for baseline in BASELINES:
        for variant in VARIANTS:
            for mode in MODES:
                config = chosen[f"{baseline.name}, {variant}, {mode}"]
                key = (baseline.name, *sorted(config.items()))
                if key not in fitted:
                    part = learnable(train, config["rows"])
                    fitted[key] = baseline.fit(part, text_features(part), config, seed)
                predictors[baseline.name, variant, mode] = fitted[key]
        tick(f"fitting: {baseline.name}")
    routers, teachers = {}, {}
    for mode in MODES:
        config = chosen[f"CR², {mode}"]
        key = cr2.fit_key(config)
        router = cr2.fit(train, pricer.costs, config, mode, seed, teachers.get(key))
        teachers.setdefault(key, router)
        routers[mode, "chosen"] = router
        tick("fitting: CR²")
        if not ablations:
            continue
        for name, options in cr2.GATES.items():
            routers[mode, name] = cr2.fit(
                train, pricer.costs, config, mode, seed, router, **options
            )
            tick(f"ablation: {name}")
        other = {"smoothed": "paper", "paper": "smoothed"}[config["recipe"]]
        for name, changes in {f"{other} recipe": {"recipe": other}, **cr2.PARTS}.items():
            changed = config | changes
            key = cr2.fit_key(changed)
            routers[mode, name] = cr2.fit(
                train, pricer.costs, changed, mode, seed, teachers.get(key)
            )
            teachers.setdefault(key, routers[mode, name])
            tick(f"ablation: {name}")
    calibrated = {
        (mode, name): cr2.Calibrated(
            router, calibration, mode, seed, chosen[f"CR², {mode}"]["path"]
        )
        for (mode, name), router in routers.items()
    }
    return pricer, predictors, calibrated


def _describe(points, choices, truth, at):
    """A method's numbers; `truth` has the column of queries sent back, after the reference's."""
    accuracy, cost = points.means()
    everyone = np.arange(choices.shape[1])
    found = metrics.matched(accuracy, cost, at)
    # The operating point behind each matched cost; -1 where only the unit model is used.
    used = []
    for t in at:
        reaches = np.where(accuracy >= t, cost, np.inf)
        used.append(int(reaches.argmin()) if reaches.min() <= 1 else -1)
    reference = np.full(choices.shape[1], truth.reference)
    in_units = [
        {
            unit: {
                "mean": float(values.mean()),
                "p50": float(np.quantile(values, 0.5)),
                "p95": float(np.quantile(values, 0.95)),
            }
            for unit, values in (
                ("latency_s", truth.latency_s[everyone, picked]),
                ("energy_j", truth.energy_j[everyone, picked]),
                ("usd", truth.usd[everyone, picked]),
            )
        }
        for picked in (choices[i] if i >= 0 else reference for i in used)
    ]
    by_category = {}
    categories = truth.categories[truth.answerable]
    spanning = points.with_ends(truth)
    for level in LEVELS:
        mixed = metrics.mix_at_cost(spanning, level) @ spanning.right
        by_category[str(level)] = {
            "all": float(mixed.mean()),
            **{str(c): float(mixed[categories == c].mean()) for c in _by_frequency(categories)},
        }
    return {
        "labels": points.labels,
        "accuracy": accuracy,
        "cost": cost,
        "accuracy_all_queries": truth.correct[everyone, choices].mean(axis=1),
        "cost_all_queries": truth.cost[everyone, choices].mean(axis=1),
        "matched": found,
        "matched_point": used,
        "matched_units": in_units,
        "hull": metrics.hull_cost(accuracy, cost, at),
        "area": metrics.area(accuracy, cost, metrics.ends(truth)),
        "by_category": by_category,
    }


def _by_frequency(values):
    """Distinct values, the most frequent first."""
    names, counts = np.unique(values, return_counts=True)
    return names[np.argsort(-counts, kind="stable")]


def _with_return(truth, detour):
    """Truth with one more column: sent to the edge and back to the device's model."""

    def wide(x, more):
        return np.concatenate([x, (x[:, 0] + more)[:, None]], axis=1)

    cost, latency_s, energy_j = detour
    return Truth(
        np.concatenate([truth.correct, truth.correct[:, :1]], axis=1),
        wide(truth.cost, cost),
        wide(truth.latency_s, latency_s),
        wide(truth.energy_j, energy_j),
        wide(truth.usd, 0.0),
        truth.categories,
        truth.reference,
    )


def examine(test, pricer, predictors, calibrated, seed, tick, bootstrap):
    """Everything on the test split."""
    states_seed = 10_000_019 + seed
    queries, truth = pricer.split(test, states_seed)
    states = pricer.costs.sample_states(len(test), states_seed)
    at = metrics.targets(truth)
    wide = _with_return(truth, cr2.detour(test, states, pricer.costs, truth))
    draws = metrics.draw_counts(int(truth.answerable.sum()), bootstrap, seed)
    count = len(cr2.LAMS) * len(cr2.ALPHAS)
    document = {
        "targets": at, "alone": _alone(truth), "reference": truth.reference, "modes": {},
    }  # fmt: skip
    replicates = {}
    for mode in MODES:
        methods = {}

        def add(name, labels, choices, keep=True, methods=methods, mode=mode):
            points = Points.of(labels, choices, wide)
            methods[name] = _describe(points, choices, wide, at)
            if keep:
                replicates[f"{mode}|{name}"] = metrics.bootstrap(points, at, draws)
            return methods[name]

        lams = operating_lams(count)
        labels = [(float(lam), None) for lam in lams]
        for (name, variant, of), predict in predictors.items():
            if of == mode:
                cost = _cost_of(queries, variant, mode)
                add(f"{name}, {variant}", labels, choose(predict(queries), cost, lams))
        add("oracle", labels, choose(truth.correct.astype(float), truth.cost, lams), keep=False)
        rng = np.random.default_rng(seed)
        share = np.linspace(0, 1, count)[:, None]
        draw = rng.random(len(test))
        add(
            "random mix",
            [(float(s), None) for s in share.ravel()],
            # Where the unit model is the device's: the most accurate edge model.
            np.where(draw < share, truth.reference or 1 + truth.correct[:, 1:].mean(0).argmax(), 0),
        )
        ours = {k[1]: c.view(test, states) for k, c in calibrated.items() if k[0] == mode}
        view = ours["chosen"]
        add(FULL, labels, view.full_information(lams))
        labels, choices, local = view.choices()
        add(OURS, labels, choices)
        for path in cr2.PATHS:
            add(f"CR² ({path})", *view.choices(path=path)[:2])
        ablations = {rule: view.choices(rule)[:2] for rule in cr2.RULES}
        for name, other in ours.items():
            if name != "chosen":
                ablations[name] = other.choices()[:2]
        described = {}
        for name, (labels, choices) in ablations.items():
            points = Points.of(labels, choices, wide)
            described[name] = _describe(points, choices, wide, at)
            if name in cr2.PARTS:
                replicates[f"{mode}|{name}"] = metrics.bootstrap(points, at, draws)
        false, needless = view.errors(local)
        document["modes"][mode] = {
            "methods": methods,
            "ablations": {
                name: {k: d[k] for k in ("matched", "hull", "area")} | _risk(ours, name, view)
                for name, d in described.items()
            },
            "gate": {
                "lams": view.of.lams, "alphas": view.of.alphas, "n": len(test),
                "n_calibration": view.of.report.n, "false_acceptances": false,
                "needless_deferrals": needless, "local_rate": local.mean(axis=2),
                "cost": methods[OURS]["cost_all_queries"],
            },
        }  # fmt: skip
        tick(f"testing: {mode} lengths")
    return document, replicates


def _risk(ours, name, view):
    """Realised risk and local rate of an ablation with its own gate or rule."""
    if name in ours:
        other, rule = ours[name], "CRC"
    else:
        other, rule = view, name
    _, _, local = other.choices(rule)
    false, _ = other.errors(local)
    out = {"risk_highest": float(false.max()), "local_rate": float(local.mean())}
    if rule in ("CRC", "empirical"):
        out["risk_by_alpha"] = false.mean(axis=0)
    return out


def _alone(truth):
    rows = truth.answerable
    return {
        "accuracy": truth.correct[rows].mean(axis=0),
        "cost": truth.cost[rows].mean(axis=0),
        "accuracy_all_queries": truth.correct.mean(axis=0),
        "latency_s": truth.latency_s[rows].mean(axis=0),
        "energy_j": truth.energy_j[rows].mean(axis=0),
        "usd": truth.usd[rows].mean(axis=0),
    }


def steps(scope):
    """How many times `tick` is called for one seed."""
    tried = sum(len(b.configs) for b in BASELINES) + len(cr2.CONFIGS)
    parts = 1 + len(cr2.GATES) + len(cr2.PARTS)
    ours = 2 + parts * scope.ablations
    return scope.repeats * tried + len(BASELINES) + len(MODES) * ours


def run(problem, seed, scope, tick):
    """The document and the replicates of one seed."""
    start = time.perf_counter()
    train, calibration, test = scope.part(problem.table).split(seed=seed)
    sealed = Sealed(test)
    if scope.repeats:
        chosen, scores = select(train, problem.costs, seed, scope.repeats, tick)
    else:
        chosen, scores = usual(), {}
    prepared = prepare(train, calibration, problem.costs, chosen, seed, tick, scope.ablations)
    plan = {
        "seed": seed, "chosen": chosen, "targets": metrics.TARGETS, "alphas": cr2.ALPHAS,
        "lams": cr2.LAMS.tolist(), "gates": cr2.GATES,
        "routers": [c.report.thresholds.tolist() for c in prepared[2].values()],
    }  # fmt: skip
    document, replicates = examine(sealed.open(plan), *prepared, seed, tick, scope.bootstrap)
    document |= {
        "seed": seed,
        "chosen": chosen,
        "choosing": scores,
        "test_split": sealed.record,
        "queries": {"train": len(train), "calibration": len(calibration), "test": len(test)},
        "seconds": time.perf_counter() - start,
    }
    return document, replicates
