"""Table IV: parameters, operations and measured time of each router's head, one query at a time.

In: the training split of seed 0. Out: rows. Sizes and speed do not depend on how long a head was
trained, so each is trained briefly. The baselines are NumPy or scikit-learn, whose products of one
row are too small to spread over threads.
"""

from __future__ import annotations

import time

import jax
import numpy as np

import cr2fast
from benches.paper import baselines, cr2, neural
from benches.paper.world import Pricer, text_features

ROUNDS = 300


def _median_us(call, rounds):
    for _ in range(20):
        call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e3


def measure(table, costs, rounds=ROUNDS):
    """Rows of (name, parameters, multiply-adds x 2, median microseconds of `rounds` calls)."""
    train = table.split(seed=0)[0]
    pricer = Pricer(train, costs, 0)
    queries, _ = pricer.split(train.take(range(1)), 1)
    features = text_features(train)
    n, d = train.embeddings.shape
    models = len(train.models)

    def baseline(name, **config):
        fit = next(b.fit for b in baselines.BASELINES if b.name == name)
        predict = fit(train, features, config, 0)
        return lambda: predict(queries)

    key = jax.random.PRNGKey(0)
    inputs = d + features.shape[1]
    sizes = {
        "MLP": models * (d * 100 + 100 + 100 + 1),
        "EmbedLLM": neural.count(neural.embedllm_params(key, d, models)),
        "LLMRank": neural.count(neural.rank_params(key, inputs, models)),
    }
    if (d, models) == (384, 4):
        assert sizes["EmbedLLM"] == 90_714, "the published head"
    small, other = train.take(range(min(1200, n))).split((0.5, 0.5))
    whole = table.extra.get("text") if cr2.has_texts(table) else None
    router = cr2fast.fit(
        small, costs, lam_range=(0.1, 20.0), teacher_epochs=1, gate_epochs=1, progress=False,
        features=whole is not None, smoother_share=cr2.SHARE,
    )  # fmt: skip
    router.calibrate(other, lams=[1.0], alphas=(0.05,))
    device, edge = router.device(1.0, 0.05), router.edge(1.0)
    rows = router.inputs(train.take(range(2)))
    x, tokens = rows[0], int(train.n_input_tokens[0])
    state = cr2fast.LinkState(rate_ul_bps=20e6, rate_dl_bps=80e6, rtt_s=0.018)
    calls = {
        "KNN (k = 100)": (0, 2 * n * d, baseline("KNN", k=100)),
        "MLP": (sizes["MLP"], 2 * sizes["MLP"], baseline("MLP", early_stopping=True)),
        "EmbedLLM": (
            sizes["EmbedLLM"],
            2 * (d * neural.EMBEDLLM_WIDTH + 3 * models * neural.EMBEDLLM_WIDTH),
            baseline("EmbedLLM", epochs=1),
        ),
        "LLMRank style": (
            sizes["LLMRank"], 2 * sizes["LLMRank"], baseline("LLMRank", lr=1e-3, epochs=1)
        ),
        "CR² edge (selection)": (
            router.parameters["teacher"] + router.parameters["smoother"],
            2 * models * (len(x) * 256 + 256) + 2 * len(small) * (len(x) + models),
            lambda: edge.select(x, tokens, state),
        ),
        "CR² gate (decision)": (
            router.parameters["gate"], 2 * (len(x) * 256 + 256), lambda: device.route(x)
        ),
    }  # fmt: skip
    if whole is not None:
        text = [whole[0]]
        calls["text features"] = (0, 0, lambda: cr2fast.text_features(text))
    # The same answer from one query as from many, before anything is timed.
    assert device.route(x).local == device.route_batch(rows)[0]
    return [
        {"name": name, "parameters": size, "flops": flops, "median_us": _median_us(call, rounds)}
        for name, (size, flops, call) in calls.items()
    ]
