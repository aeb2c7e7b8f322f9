"""How often a call overruns the limit that it was routed under, and what one call costs in time.

    CR2FAST_DATA=DIR python -m benches.budgets            # overruns on both pools
    CR2FAST_DATA=DIR python -m benches.budgets --timing   # one call beside its two stages

A limit is kept by a bound of the output length that at most 5 % of a model's answers exceed. Here
it is set at quantiles of what the models' bounds take, so that it binds; a call overruns when its
true output length, at the link state it was routed with, takes more than the limit.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

import cr2fast
from cr2fast._core import build_profile, simd_isa
from cr2fast.data.datasets import load_folder
from cr2fast.encoders.distill import _vocabulary
from testing.timing import compare, unit

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
ALPHA = 0.05
# Dollars per token of hosted models of these sizes: 1 $ per million tokens for 10^10 parameters.
SIZES = {
    "Phi-3-mini-4k-instruct": 3.8, "mathstral-7B": 7.2, "Meta-Llama-3_1-8B-Instruct": 8.0,
    "Meta-Llama-3_1-70B-Instruct": 70.6, "llama3.2-1b": 1.2, "llama3.2-3b": 3.2,
    "llama3.1-8b": 8.0, "llama3.1-70b": 70.6,
}  # fmt: skip


def priced(costs: cr2fast.CostTable) -> cr2fast.CostTable:
    """The same table under schema /2 with a price per token, so that dollars can be limited too."""
    table = json.loads(costs.to_json())
    shares = table.pop("weights")
    for m in table["models"]:
        price = SIZES[m["name"]] * 1e-7
        m |= {"usd_per_input_token": price, "usd_per_output_token": price}
    table |= {"schema": "cr2fast.cost_table/2", "shares": shares | {"price": 0.0}}
    return cr2fast.CostTable.from_json(json.dumps(table))


def overruns(folder: Path, lam: float, seed: int) -> list[tuple[str, float, int, int, int]]:
    """(quantity, quantile of the limit, calls routed, calls that overran, calls refused)."""
    problem = load_folder(folder)
    costs = priced(problem.costs)
    train, calibration, test = problem.table.split(seed=seed)
    router = cr2fast.fit(
        train,
        costs,
        seed=seed,
        progress=False,
        lam_range=(0.1, 20.0),
        teacher_epochs=4,
        gate_epochs=4,
    )
    router.calibrate(calibration, lams=[lam], alphas=[ALPHA], seed=seed)
    two = router.two_stage(lam, ALPHA)
    states = costs.sample_states(len(test), 1000 + seed)
    predicted = router.predict_lengths(test.embeddings, test.n_input_tokens)
    bound = (predicted + 1) * router.calibration["length_factors"] - 1
    exceeded = (test.n_output_tokens > bound).mean(axis=0)
    print(f"{folder.name}, seed {seed}: answers longer than their bound: {exceeded.round(4)}")
    out = []
    rows = np.arange(len(test))
    for name in ("latency_s", "energy_j", "usd"):
        of = getattr(costs, name)
        takes = of(test.n_input_tokens, bound, states)
        truly = of(test.n_input_tokens, test.n_output_tokens, states)
        for q in QUANTILES:
            limit = float(np.quantile(takes, q))
            limited = {f"max_{name}": limit}
            model = [chosen_model(two, test, states, int(i), limited) for i in rows]
            chosen = np.array(model)
            routed = chosen >= 0
            over = int((truly[rows[routed], chosen[routed]] > limit).sum())
            out.append((name, q, int(routed.sum()), over, int((~routed).sum())))
    return out


def chosen_model(two, test, states, i: int, limits: dict[str, float]) -> int:
    """Index of the model of query i, -1 where none keeps the limits."""
    try:
        choice = two.route(test.embeddings[i], test.n_input_tokens[i], states[i], **limits)
    except cr2fast.BudgetError:
        return -1
    return two.models.index(choice.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lam", type=float, default=0.2)
    parser.add_argument("--timing", action="store_true")
    args = parser.parse_args()
    if args.timing:
        timing(args.lam)
        return
    data = Path(os.environ["CR2FAST_DATA"])
    for folder in (data, data / "llama_family"):
        for seed in range(args.seeds):
            print(f"{'limit on':>10} {'quantile':>8} {'routed':>7} {'refused':>7} {'overran':>8}")
            for name, q, routed, over, refused in overruns(folder, args.lam, seed):
                print(f"{name:>10} {q:8.1f} {routed:7d} {refused:7d} {over / max(routed, 1):8.2%}")


def timing(lam: float) -> None:
    """Times of a text and of an embedding, in one call and stage by stage."""
    folder = Path(os.environ["CR2FAST_DATA"])
    problem = load_folder(folder)
    # Any vectors take the same time.
    words = _vocabulary(cr2fast.Encoder.load("minilm").tokenizer_json)
    static = cr2fast.StaticEncoder.from_vectors(
        np.random.default_rng(0).normal(size=(len(words), 384)).astype(np.float32), words,
        id="random", source=("", ""), max_tokens=256, truncation="head-tail", record="{}",
    )  # fmt: skip
    part = problem.table.take(range(3000)).embed(static)
    train, calibration, test = part.split(seed=0)
    router = cr2fast.fit(
        train,
        problem.costs,
        features=False,
        progress=False,
        lam_range=(0.1, 20.0),
        teacher_epochs=1,
        gate_epochs=1,
    )
    router.calibrate(calibration, lams=[lam], alphas=[ALPHA])
    two, device, edge = router.two_stage(lam, ALPHA), router.device(lam, ALPHA), router.edge(lam)
    state = problem.costs.sample_states(1, 0)[0]
    local = two.route_batch(test.embeddings, test.n_input_tokens).local
    print(f"{build_profile()} build, {simd_isa()}; {local.mean():.0%} accepted", flush=True)
    for word, kept in (("accepted", True), ("deferred", False)):
        i = int(np.flatnonzero(local == kept)[0])
        x, n, text = test.embeddings[i], float(test.n_input_tokens[i]), test.extra["text"][i]

        def apart_x(x=x, n=n, kept=kept):
            device.route(x)
            if not kept:
                edge.select(x, n, state)

        def apart_text(text=text, kept=kept):
            device.route_text(text, static)
            if not kept:
                edge.select_text(text, static, state)

        def by_hand(text=text, kept=kept):
            x = static.encode(text)
            device.route(x)
            if not kept:
                edge.select(x, static.count_tokens(text), state)

        times = compare(
            {
                "embedding, one call": lambda x=x, n=n: two.route(x, n, state),
                "embedding, two stages apart": apart_x,
                "text, one call": lambda text=text: two.route_text(text, static, state),
                "text, two stages apart": apart_text,
                "text, encoded once by hand": by_hand,
            },
            seconds=3.0,
        )
        for name, t in times.items():
            print(f"{word:>9}  {name:<28} {unit(t.median):>9} (least {unit(t.least)})")
        for a, b in (
            ("embedding, one call", "embedding, two stages apart"),
            ("text, one call", "text, two stages apart"),
            ("text, one call", "text, encoded once by hand"),
        ):
            print(f"{word:>9}  {a} / {b}: {times[a].median / times[b].median:.3f}"
                  f" (least {times[a].least / times[b].least:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
