"""What there is to know: splits, prices, link states; and the test split, sealed.

In: a routing table's splits. Out: :class:`Queries`, what a decision may see, with no answers in
them, and :class:`Truth`. The test split comes out of :class:`Sealed`, once, after everything that
will be tried on it is fixed.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

import numpy as np

import cr2fast

MODES = ("predicted", "known")
_NUMBER, _WORD, _OPTION = re.compile(r"\d+"), re.compile(r"\w+"), re.compile(r"^[A-J]\. ", re.M)


@dataclass(frozen=True)
class Queries:
    """What a decision may know of N queries: no answers, no recorded lengths by themselves.

    ``costs[mode]`` is c (N, M) as the edge sees it in a mode, ``constant`` the mean of the recorded
    costs over the training split, (M,).
    """

    embeddings: np.ndarray
    features: np.ndarray
    n_input_tokens: np.ndarray
    costs: dict
    constant: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What happened to N queries: answers, and true costs under the sampled states."""

    correct: np.ndarray
    cost: np.ndarray
    latency_s: np.ndarray
    energy_j: np.ndarray
    usd: np.ndarray
    categories: np.ndarray
    reference: int

    @property
    def answerable(self):
        return self.correct.any(axis=1)


def text_features(table):
    """Cheap features of the text, (N, 9): counts on a log scale, and shares of characters.

    Without texts, (N, 1): the input tokens.
    """
    texts = table.extra.get("text", [None])
    if not all(isinstance(text, str) for text in texts):
        return np.log1p(table.n_input_tokens[:, None]).astype(np.float32)
    rows = []
    for text, tokens in zip(texts, table.n_input_tokens.tolist(), strict=True):
        words = _WORD.findall(text)
        n = max(len(text), 1)
        rows.append(
            [
                np.log1p(tokens),
                np.log1p(len(words)),
                len(_OPTION.findall(text)),
                np.log1p(len(_NUMBER.findall(text))),
                sum(c.isdigit() for c in text) / n,
                sum(c in "=+-*/^\\$<>_{}" for c in text) / n,
                sum(c.isupper() for c in text) / n,
                text.count("?"),
                sum(map(len, words)) / max(len(words), 1),
            ]
        )
    return np.asarray(rows, dtype=np.float32)


class Sealed:
    """A split that opens once, and only for a plan that is fixed: its digest is kept."""

    def __init__(self, table):
        self._table = table
        self.record = {"queries": len(table), "opened": 0, "plan_sha256": None}

    def open(self, plan):
        if self.record["opened"]:
            raise RuntimeError("the test split is open already: everything is tried in one go")
        text = json.dumps(plan, sort_keys=True)
        self.record["opened"] += 1
        self.record["plan_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return self._table


class Pricer:
    """Costs of queries, fitted on a training split: T0, E0, the length predictor, mean costs."""

    def __init__(self, train, costs, seed):
        # One epoch: of this router only the length predictor and the normalizers are used.
        self.router = cr2fast.fit(
            train,
            costs,
            seed=seed,
            recipe="paper",
            lam_range=(0.1, 20.0),
            teacher_epochs=1,
            gate_epochs=1,
            progress=False,
        )
        self.costs = self.router.costs
        states = self.costs.sample_states(len(train), 7_000_003 + seed)
        recorded = self.costs.cost(train.n_input_tokens, train.n_output_tokens, states)
        self.constant = recorded.mean(axis=0, dtype=np.float64)

    def split(self, table, states_seed):
        """Queries and truth of a split under states of a seed."""
        states = self.costs.sample_states(len(table), states_seed)
        true = (table.n_input_tokens, table.n_output_tokens, states)
        known = self.costs.cost(*true)
        predicted = self.router.decision_costs(table, states, "predicted")
        unknown = np.full(known.shape, np.nan)
        queries = Queries(
            table.embeddings,
            text_features(table),
            table.n_input_tokens,
            {"predicted": predicted, "known": known},
            self.constant,
        )
        truth = Truth(
            table.correct,
            known.astype(np.float64),
            self.costs.latency_s(*true) if self.costs.has_latency else unknown,
            self.costs.energy_j(*true) if self.costs.has_energy else unknown,
            self.costs.usd(*true) if self.costs.has_prices else unknown,
            np.asarray(table.categories or ("none",) * len(table)),
            self.costs.models.index(self.costs.reference_model),
        )
        return queries, truth
