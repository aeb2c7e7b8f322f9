"""The opponents: what each believes of a model on a query, from what it may know.

In: a training split. Out: ``fit(...) -> predict(queries) -> p (N, M)``. The rule is the same for
all: argmax of p - λ·c, with c a constant per model (as published) or c(x, ξ) of the mode. Each
method says which configurations may be tried; which is taken is decided only on the training split.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor

from benches.paper import neural

ROWS = ("all", "answerable")


def learnable(table, rows):
    """Whether to learn from the queries that no model answers too."""
    return table if rows == "all" else table.take(table.answerable)


@dataclass(frozen=True)
class Baseline:
    """A name, the configurations to try, how to fit one, and which is taken unchosen."""

    name: str
    configs: list
    fit: Any
    usual: dict


def _knn(train, features, config, seed):
    k = min(config["k"], len(train))
    index = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    index.fit(train.embeddings)
    correct = train.correct.astype(np.float32)

    def predict(queries):
        near = index.kneighbors(queries.embeddings, return_distance=False)
        return correct[near].mean(axis=1)

    return predict


def _mlp(train, features, config, seed):
    def one(m):
        net = MLPRegressor(
            hidden_layer_sizes=(100,),
            activation="relu",
            solver="adam",
            learning_rate_init=1e-3,
            max_iter=200,
            early_stopping=config["early_stopping"],
            random_state=seed,
        )
        return net.fit(train.embeddings, train.correct[:, m].astype(np.float32))

    with ThreadPoolExecutor(2) as pool:
        nets = list(pool.map(one, range(train.correct.shape[1])))
    return lambda queries: np.stack([net.predict(queries.embeddings) for net in nets], axis=1)


def _neural(make):
    def fit(train, features, config, seed):
        options = {k: v for k, v in config.items() if k != "rows"}
        return make(train, features, seed, **options)

    return fit


def _grid(**choices):
    configs = [{}]
    for name, values in choices.items():
        configs = [c | {name: v} for c in configs for v in values]
    return configs


BASELINES = [
    Baseline("KNN", _grid(rows=ROWS, k=(5, 10, 40, 100)), _knn, {"rows": "all", "k": 40}),
    Baseline(
        "MLP",
        _grid(rows=ROWS, early_stopping=(False, True)),
        _mlp,
        {"rows": "all", "early_stopping": True},
    ),
    # 1e-4 is the published rate, for far more pairs than there are here.
    Baseline(
        "EmbedLLM",
        _grid(rows=ROWS, lr=(1e-4, 1e-3)),
        _neural(neural.embedllm),
        {"rows": "all", "lr": 1e-3},
    ),
    Baseline(
        "LLMRank",
        _grid(rows=ROWS, lr=(3e-4, 1e-3)),
        _neural(neural.llmrank),
        {"rows": "all", "lr": 1e-3},
    ),
]


def choose(p, cost, lams):
    """argmax of p - λ·c for each λ, (L, N); a tie goes to the earlier, cheaper model."""
    return np.stack([np.argmax(p - lam * cost, axis=1) for lam in lams])
