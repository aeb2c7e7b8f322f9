"""What a static encoder costs in routing quality: cost at accuracy, against MiniLM's embeddings.

    CR2FAST_DATA=DIR python -m benches.static_encoder [--seeds 5] [--modes predicted,known]
    CR2FAST_DATA=DIR python -m benches.static_encoder --choose

For each seed the table is split; the static encoder is distilled only on the training texts;
either embedding is fitted, calibrated and evaluated on the same splits and link states. Printed:
the least cost at eight accuracies, from that of the best cheap model + .03 to the largest model's
- .01. `--choose` compares distillations by three-fold cross-validation inside the training split of
seed 0: the squared error of a kernel regression on the models' answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import cr2fast
from cr2fast.datasets import load_folder
from cr2fast.encoders.distill import distill, token_vectors

# Where the trade takes place on MMLU-Pro.
LAMS = (0.02, 2.0)
TARGETS = 8


def cached_vectors(encoder, folder):
    """The vocabulary's vectors, computed once (about a minute)."""
    path = folder / f"vocabulary-{encoder.info.sha256[:16]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, token_vectors(encoder))
    return np.load(path)


def matched(evaluation, targets):
    """Least cost of an operating point, or of always using the largest model, at each accuracy."""
    accuracy = np.append(evaluation.accuracy.ravel(), evaluation.baselines["alone"]["accuracy"])
    cost = np.append(evaluation.cost.ravel(), evaluation.baselines["alone"]["cost"])
    return np.array([cost[accuracy >= t].min() for t in targets])


def one(table, costs, seed, lengths):
    train, calibration, test = table.split(seed=seed)
    # Embeddings only: what is compared is encoders, whether a table names them or not.
    router = cr2fast.fit(
        train, costs, seed=seed, lengths=lengths, lam_range=LAMS, features=False, progress=False
    )
    router.calibrate(calibration, costs, seed=seed)
    return cr2fast.evaluate(router, test, costs, seed=seed)


def compare(problem, encoder, vectors, seeds, modes):
    rows = {}
    for seed in range(seeds):
        train = problem.table.split(seed=seed)[0]
        static = distill(
            encoder, train.extra["text"], vectors=vectors, targets=train.embeddings, progress=False
        )
        tables = {"MiniLM": problem.table, "static": problem.table.embed(static)}
        for lengths in modes:
            results = {k: one(t, problem.costs, seed, lengths) for k, t in tables.items()}
            alone = results["MiniLM"].baselines["alone"]["accuracy"]
            targets = np.linspace(max(alone[:-1]) + 0.03, alone[-1] - 0.01, TARGETS)
            got = {k: matched(e, targets) for k, e in results.items()}
            rows.setdefault(lengths, []).append([targets, got["MiniLM"], got["static"]])
            change = got["static"].mean() / got["MiniLM"].mean() - 1
            risk = results["static"].risk[:, list(results["static"].alphas).index(0.01)]
            print(
                f"{lengths} lengths, seed {seed}: mean cost MiniLM {got['MiniLM'].mean():.3f}, "
                f"static {got['static'].mean():.3f} ({100 * change:+.1f} %); "
                f"highest risk at alpha .01: {risk.max():.4f}",
                flush=True,
            )
    for lengths, values in rows.items():
        mean = np.mean(values, axis=0)
        by_seed = np.array([v[2].mean() / v[1].mean() - 1 for v in values])
        print(f"{lengths} lengths, mean of {len(values)} seeds")
        for name, row in zip(("accuracy", "MiniLM", "static"), mean, strict=True):
            print(f"  {name:9s}" + " ".join(f"{v:.3f}" for v in row) + f"  mean {row.mean():.3f}")
        print(
            f"  static against MiniLM: {100 * by_seed.mean():+.1f} % "
            f"(seeds {100 * by_seed.min():+.1f} to {100 * by_seed.max():+.1f})",
            flush=True,
        )
    return {k: np.array(v) for k, v in rows.items()}


def regression_error(train, held_out):
    """Least squared error of kernel ridge regressions of answers y on embeddings x."""
    (x, y), (x1, y1) = train, held_out
    mean = x.mean(axis=0)
    x, x1 = ((v - mean) / np.linalg.norm(v - mean, axis=1, keepdims=True) for v in (x, x1))
    best = np.inf
    for gamma in (1.0, 2.0):
        kernel, cross = (np.exp(gamma * (v @ x.T - 1) * 2) for v in (x, x1))
        for ridge in (1.0, 3.0, 10.0):
            solved = np.linalg.solve(kernel + ridge * np.eye(len(x)), y - y.mean(axis=0))
            best = min(best, ((cross @ solved + y.mean(axis=0) - y1) ** 2).mean())
    return best


def choose(problem, encoder, vectors):
    train = problem.table.split(seed=0)[0]
    options = [{"ridge": r} for r in (0.1, 0.3, 1.0, 3.0)]
    options += [{"ridge": 0.3, "sif": a} for a in (1e-3, 1e-2)]
    options += [{"ridge": 0.3, "dim": d} for d in (256, 128)]
    folds = np.array_split(np.random.default_rng(0).permutation(len(train)), 3)
    errors = {}
    for k, fold in enumerate(folds):
        rest = train.take(np.concatenate([f for j, f in enumerate(folds) if j != k]))
        out = train.take(fold)
        answers = [t.correct.astype(float) for t in (rest, out)]
        tables = {"MiniLM": (rest.embeddings, out.embeddings)}
        plain = distill(encoder, vectors=vectors, progress=False)
        tables["tokens' own vectors"] = [plain.encode(t.extra["text"]) for t in (rest, out)]
        for o in options:
            made = distill(
                encoder, rest.extra["text"], vectors=vectors, targets=rest.embeddings,
                progress=False, **o,
            )  # fmt: skip
            tables[json.dumps(o)] = [made.encode(t.extra["text"]) for t in (rest, out)]
        for name, x in tables.items():
            error = regression_error(*zip(x, answers, strict=True))
            errors.setdefault(name, []).append(error)
            print(f"fold {k}: {name}: {error:.5f}", flush=True)
    for name, values in errors.items():
        print(f"{name}: {np.mean(values):.5f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("CR2FAST_DATA"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--modes", default="predicted", help="predicted, known, or both")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("target/static"))
    args = parser.parse_args()
    if not args.data:
        sys.exit("static_encoder: --data DIR or CR2FAST_DATA is needed: real outcomes")
    encoder = cr2fast.Encoder.load("minilm")
    problem = load_folder(args.data)
    problem = replace(problem, table=replace(problem.table, encoder=encoder.info))
    vectors = cached_vectors(encoder, args.cache)
    if args.choose:
        choose(problem, encoder, vectors)
    else:
        compare(problem, encoder, vectors, args.seeds, args.modes.split(","))


if __name__ == "__main__":
    main()
