"""Our side: routers, threshold rules, deferral paths, and the ablations of each.

In: training and calibration splits, then queries. Out: choices (P, N) with labels (λ, α).
"""

from __future__ import annotations

import json

import numpy as np

import cr2fast
from benches.paper.baselines import ROWS, learnable
from cr2fast import _core
from cr2fast._util import seeds

ALPHAS = (0.002, 0.005, 0.01, 0.02, 0.05)
# Reaching the highest targets takes a λ below the paper's range; above 4 nearly all is local.
LAM_RANGE = (0.03, 4.0)
# Dense, so that what is compared is methods and not the spacing of their operating points.
LAMS = np.array([float(f"{x:.4g}") for x in np.geomspace(*LAM_RANGE, 256)])
# The features' weight is chosen by cost here: squared error, by which `fit` chooses it, likes more.
CONFIGS = [
    {"rows": rows, "recipe": "smoothed", "features": True, "smoother": True, "weight": weight}
    for weight in (1.0, 2.0)
    for rows in ROWS
]
# What becomes of a deferred query. The fit is the same, so each is tried with every configuration.
EDGE_ONLY, INCLUSIVE, FALLBACK = "edge-only", "inclusive", "fallback"
PATHS = (EDGE_ONLY, INCLUSIVE, FALLBACK)
LOCAL_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
# What each ablation changes in the gate's fit; the teacher stays.
GATES = {
    "no FiLM (λ only shifts)": {"film": False},
    "no monotone penalty": {"w_mono": 0.0},
    "margin loss alone": {"w_sign": 0.0},
    "sign loss alone": {"w_margin": 0.0},
}
# What each leaves out of the teacher, and so of the gate that learns from it.
PARTS = {
    "no text features": {"features": False},
    "no smoother in the teacher": {"smoother": False},
    "neither": {"features": False, "smoother": False},
}
SHARE = 0.75
RULES = ("empirical", "fixed local rate", "sign of the margin")


def fit(train, costs, config, mode, seed, teacher=None, **options):
    """A router by one of CONFIGS; `teacher` shares a fitted one's."""
    smoothed = config["recipe"] == "smoothed"
    return cr2fast.fit(
        learnable(train, config["rows"]), costs, seed=seed, recipe=config["recipe"], lengths=mode,
        features=config["features"] and has_texts(train),
        feature_weight=config["weight"],
        smoother_share=SHARE if smoothed and config["smoother"] else 0.0,
        lam_range=LAM_RANGE, teacher=teacher, progress=False, **options,
    )  # fmt: skip


def fit_key(config):
    """What two configurations of one fit share: the deferral path is no part of it."""
    return tuple(sorted((k, v) for k, v in config.items() if k != "path"))


def has_texts(table):
    return all(isinstance(text, str) for text in table.extra.get("text", [None]))


class Calibrated:
    """A router with thresholds and a deferral path, ready to choose."""

    def __init__(self, router, calibration, mode, seed, path=EDGE_ONLY):
        self.router, self.mode, self.alphas, self.path = router, mode, ALPHAS, path
        self.report = router.calibrate(
            calibration, alphas=ALPHAS, lams=LAMS, lengths=mode, seed=seed, on_infeasible="defer"
        )
        self.lams = self.report.lams
        rows = router.inputs(calibration)
        self._margins = router.margins(rows, self.lams)
        states = router.costs.sample_states(len(calibration), seeds.CALIBRATION + seed)
        costs = router.decision_costs(calibration, states, mode)
        p = router.accuracies(rows)
        self._prefers_edge = _core.choice_margins(p, costs, self.lams) < 0

    def thresholds(self, rule):
        """(L, A') thresholds of a rule, and a label per column."""
        n = self._margins.shape[1]
        if rule == "CRC":
            return self.report.thresholds, list(self.alphas)
        if rule == "empirical":
            # d/N <= alpha on the calibration set, without the correction for the query to come.
            levels = [(np.floor(a * n) + 1.5) / (n + 1) for a in self.alphas]
            found = _core.crc_thresholds(self._margins, self._prefers_edge, levels, "defer")
            return found, list(self.alphas)
        if rule == "fixed local rate":
            cuts = np.quantile(self._margins, 1 - np.array(LOCAL_RATES), axis=1)
            return cuts.T.astype(np.float32), list(LOCAL_RATES)
        if rule == "sign of the margin":
            return np.zeros((len(self.lams), 1), np.float32), [None]
        raise ValueError(rule)

    def view(self, table, states):
        """What the two stages see of a split."""
        costs = self.router.decision_costs(table, states, self.mode)
        rows = self.router.inputs(table)
        p = self.router.accuracies(rows)
        return View(self, p, costs, self.router.margins(rows, self.lams))


class View:
    """A split through one router's eyes."""

    def __init__(self, calibrated, p, costs, margins):
        self.of, self.p, self.costs, self.margins = calibrated, p, costs, margins
        self.prefers_edge = _core.choice_margins(p, costs, calibrated.lams) < 0

    def choices(self, rule="CRC", path=None):
        """Labels [(λ, α)], choices (L·A, N), local (L, A, N). Index M: sent back to the device.

        By the router's own path, unless another is named; `fallback` takes the unit model, or the
        last edge model where the unit model is the device's.
        """
        path = path or self.of.path
        thresholds, columns = self.of.thresholds(rule)
        local = self.margins[:, None, :] >= thresholds[:, :, None]
        lams, models = self.of.lams, self.p.shape[1]
        if path == FALLBACK:
            costs = self.of.router.costs
            unit = costs.models.index(costs.reference_model)
            edge = np.full((len(lams), len(self.p)), unit or models - 1)
        else:
            first = 0 if path == INCLUSIVE else 1
            edge = _core.choices(self.p, self.costs, lams, first).astype(np.int64)
            edge = np.where(edge == 0, models, edge)
        picked = np.where(local, 0, edge[:, None, :])
        labels = [(float(lam), a) for lam in lams for a in columns]
        return labels, picked.reshape(-1, picked.shape[-1]), local

    def full_information(self, lams):
        """(L, N): the teacher's choice among all models, link and lengths seen."""
        return _core.choices(self.p, self.costs, lams).astype(np.int64)

    def errors(self, local):
        """False acceptances and needless deferrals (L, A), fractions of all queries."""
        edge = self.prefers_edge[:, None, :]
        return (local & edge).mean(axis=2), (~local & ~edge).mean(axis=2)


def detour(table, states, costs, truth):
    """What a query pays on top of its local cost when it went to the edge and was sent back.

    The uplink and round trip before it (equations 6-18, our reading: the paper does not price the
    way back; no price list has a price for it, either), as normalised cost, seconds and joules,
    (N,) each.
    """
    doc = json.loads(costs.to_json())
    bits = doc["link"].get("bits_per_input_token", 0)
    ul_s = bits * table.n_input_tokens / np.asarray(states.rate_ul_bps)
    rtt_s = np.asarray(states.rtt_s)
    time_s = ul_s + rtt_s
    energy_j = np.full(len(table), np.nan)
    if costs.has_energy:
        energy_j = doc["ue"]["p_tx_w"] * ul_s + doc["ue"]["p_idle_w"] * rtt_s
    unit = truth.reference
    parts = (
        ("latency", time_s, truth.latency_s), ("energy", energy_j, truth.energy_j),
        ("price", np.zeros(len(table)), truth.usd),
    )  # fmt: skip
    more, reference = np.zeros(len(table)), np.zeros(len(table))
    for (share, added, whole), scale in zip(parts, costs.normalizers, strict=False):
        if costs.shares[share]:
            more += costs.shares[share] * added / scale
            reference += costs.shares[share] * whole[:, unit] / scale
    return more / reference, time_s, energy_j
