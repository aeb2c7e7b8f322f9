"""Problems to route: a synthetic one with known truth, and folders of real outcomes.

In: a seed, or a folder. Out: a :class:`RoutingProblem`, table and costs together.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import CostTable, CostTableError, Cr2Error
from cr2fast._util.checks import shown
from cr2fast._util.progress import Shows
from cr2fast._util.seeds import check_seed
from cr2fast.data import source
from cr2fast.data.embedding import Cache
from cr2fast.data.table import RoutingTable
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    from cr2fast._core import StaticEncoder
    from cr2fast.encoders.onnx import Encoder


@dataclass(frozen=True, eq=False)
class RoutingProblem:
    """A routing table and the cost table of its models.

    Attributes
    ----------
    table : RoutingTable
    costs : CostTable
    probabilities : ndarray of float64, (N, M), or None
        True p_m(x) of a synthetic problem.
    """

    table: RoutingTable
    costs: CostTable
    probabilities: npt.NDArray[np.float64] | None = None


# Made-up hardware: seconds per decoded token and watts grow with the model. Link and UE constants
# are those of Table I of arXiv 2605.12001.
_LINK = {
    "kind": "shannon",
    "bits_per_input_token": 32,
    "bits_per_output_token": 32,
    "bandwidth_ul_hz": 10e6,
    "bandwidth_dl_hz": 40e6,
    "tx_power_ue_w": 0.5,
    "tx_power_ap_w": 2.0,
    "noise_psd_dbm_hz": -174.0,
    "reference_gain_db": -43.3,
    "path_loss_exponent": 4.0,
    "distance_m": {"distribution": "uniform", "low": 30.0, "high": 150.0},
    "fading": {"distribution": "exponential", "mean": 1.0},
    "rtt_s": 0.018,
}
_UE = {"p_tx_w": 1.2, "p_rx_w": 0.9, "p_idle_w": 0.05}


def synthetic_costs(models: int = 4) -> CostTable:
    """Cost table of a made-up testbed: one device model, `models` - 1 ever larger edge models."""
    names = model_names(models)
    rows = [
        {
            "name": name,
            "tier": "edge" if k else "device",
            "tau0_s": 0.0,
            "beta_pre_s": 2e-4 * (1 + k),
            "beta_dec_s": 0.012 * 1.5**k if k else 0.015,
            "phi_pre": "linear",
            "phi_dec": "linear",
            "p_active_w": 40.0 + 40.0 * k if k else 15.0,
        }
        for k, name in enumerate(names)
    ]
    note = "Made up for tests and demonstrations; link of arXiv 2605.12001, Table I."
    return _table("synthetic testbed", note, rows)


# Published figures of the machines that the standard pool is thought to run on: bytes per
# parameter, parameters, memory bandwidth (B/s), dense half-precision throughput (FLOP/s), board
# power (W).
_MACHINES: dict[str, tuple[float, float, float, float, float]] = {
    "Phi-3-mini-4k-instruct": (0.6, 3.8e9, 204.8e9, 10.6e12, 15.0),  # Jetson AGX Orin, 30 W mode
    "mathstral-7B": (1.0, 7.2e9, 504e9, 80e12, 150.0),  # RTX 4070 Ti
    "Meta-Llama-3_1-8B-Instruct": (2.0, 8.0e9, 1008e9, 165e12, 300.0),  # RTX 4090
    "Meta-Llama-3_1-70B-Instruct": (0.6, 70.6e9, 696e9, 150e12, 200.0),  # A40
}
# Shares of bandwidth and throughput that inference is thought to reach.
_OF_BANDWIDTH, _OF_FLOPS = 0.65, 0.5


def estimated_costs() -> CostTable:
    """Cost table of the models of :func:`fetch_mmlu_pro`, ESTIMATED: nothing of it was measured.

    A decoded token reads every weight once: beta_dec = bytes / (0.65 bandwidth). A prompt token
    takes two operations per parameter: beta_pre = 2 parameters / (0.5 throughput). Machines: a
    Jetson AGX Orin (30 W), an RTX 4070 Ti, an RTX 4090, an A40, at their makers' figures. Link and
    UE constants: Table I of arXiv 2605.12001.
    """
    rows = [
        {
            "name": name,
            "tier": "edge" if k else "device",
            "tau0_s": 0.0,
            "beta_pre_s": 2 * parameters / (_OF_FLOPS * flops),
            "beta_dec_s": size * parameters / (_OF_BANDWIDTH * bandwidth),
            "phi_pre": "linear",
            "phi_dec": "linear",
            "p_active_w": watts,
        }
        for k, (name, (size, parameters, bandwidth, flops, watts)) in enumerate(_MACHINES.items())
    ]
    note = (
        "Estimated from published bandwidth and throughput; see cr2fast.datasets.estimated_costs."
    )
    return _table("estimated testbed of the standard pool", note, rows)


def _table(name: str, note: str, rows: list[dict[str, Any]]) -> CostTable:
    """An estimated cost table over the paper's link; the last model is the unit model."""
    document = {
        "schema": "cr2fast.cost_table/1",
        "name": name,
        "source": "estimated",
        "note": note,
        "weights": {"latency": 0.5, "energy": 0.5},
        "reference_model": rows[-1]["name"],
        "normalizers": {"T0_s": None, "E0_j": None},
        "link": _LINK,
        "ue": _UE,
        "models": rows,
    }
    return CostTable.from_json(json.dumps(document))


def model_names(models: int) -> list[str]:
    """Names of the synthetic models, the local one first."""
    return ["device-s", *(f"edge-{k}" for k in range(1, models))]


def make_routing_problem(
    n: int = 6000, d: int = 384, models: int = 4, topics: int = 8, seed: int = 0
) -> RoutingProblem:
    """Make a routing problem whose true probabilities are known.

    The generative model, all draws from ``numpy.random.default_rng(seed)``:

    - topic t ~ uniform; embedding e = normalise(a_t + g), a_t and g Gaussian, |g| about 1.2 |a_t|;
    - difficulty h = sqrt(d) <v, e> of one random unit v, shared by all models;
    - ability b_m from -2.0 (local) to 1.6 (largest), plus a Gaussian topic skill of deviation 0.8;
    - p_m(x) = sigmoid(b_m + skill_{m,t} - 0.8 h), y_m ~ Bernoulli(p_m), independent;
    - L_in ~ lognormal(4.9, 0.6); L_out,m ~ lognormal(4.6 + 0.25 h, 0.5); both at least 1, rounded.

    Parameters
    ----------
    n, d, models, topics : int
        Queries N, embedding width, models M (at least 2), topics (the table's categories).
    seed : int
        Seed of all draws; the same seed gives the same problem.

    Returns
    -------
    RoutingProblem
    """
    if n < 1 or d < 2 or models < 2 or topics < 1:
        raise Cr2Error(
            f"routing problem: expected n >= 1, d >= 2, models >= 2, topics >= 1, "
            f"got {n}, {d}, {models}, {topics}"
        )
    rng = np.random.default_rng(check_seed(seed))
    anchors = rng.normal(size=(topics, d))
    topic = rng.integers(topics, size=n)
    e = np.empty((n, d))
    for start in range(0, n, 65_536):  # by parts: a million queries make no copies of gigabytes
        part = e[start : start + 65_536]
        part[:] = anchors[topic[start : start + 65_536]] + 1.2 * rng.normal(size=part.shape)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    v = rng.normal(size=d)
    difficulty = np.sqrt(d) * (e @ (v / np.linalg.norm(v)))
    ability = np.linspace(-2.0, 1.6, models) + 0.8 * rng.normal(size=(topics, models))[topic]
    p = 1 / (1 + np.exp(-(ability - 0.8 * difficulty[:, None])))
    correct = rng.random((n, models)) < p
    n_input = np.maximum(rng.lognormal(4.9, 0.6, n).round(), 1)
    mean = np.repeat(4.6 + 0.25 * difficulty[:, None], models, axis=1)
    n_output = np.maximum(rng.lognormal(mean, 0.5).round(), 1)
    table = RoutingTable(
        query_ids=tuple(f"synthetic/{seed}/{i}" for i in range(n)),
        embeddings=e.astype(np.float32),
        correct=correct,
        n_input_tokens=n_input.astype(np.uint32),
        n_output_tokens=n_output.astype(np.uint32),
        models=tuple(model_names(models)),
        categories=tuple(f"topic {t}" for t in topic),
        encoder=EncoderInfo(f"synthetic embeddings, d={d}"),
    )
    return RoutingProblem(table, synthetic_costs(models), p)


def load_folder(
    folder: str | Path,
    costs: str | Path | None = None,
    encoder: EncoderInfo | Encoder | StaticEncoder | None = None,
    *,
    embed: bool = False,
    cache: Cache = True,
    progress: Shows = True,
) -> RoutingProblem:
    """Read ``*queries.parquet``, ``*outcomes.parquet`` and ``cost_table*.json`` of a folder.

    The cost table names the models to use and their order. In place of Parquet, CSV, JSON Lines and
    Arrow IPC will do.

    Parameters
    ----------
    folder : path
        Holds exactly one file of each kind.
    costs : path, optional
        The cost table, where it is not in the folder.
    encoder, embed, cache, progress
        As of :meth:`RoutingTable.read`.

    Returns
    -------
    RoutingProblem
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"data: expected a folder, got {folder}")
    table = read_costs(costs or _only(folder, "cost_table*.json"))
    files = {kind: _table_of(folder, kind) for kind in ("queries", "outcomes")}
    try:
        read = RoutingTable.read(
            files["queries"],
            files["outcomes"],
            local=table.models[0],
            edge=table.models[1:],
            encoder=encoder,
            embed=embed,
            cache=cache,
            progress=progress,
        )
    except Cr2Error as error:
        # A folder's columns are called by our names.
        text = re.sub(r"; pass columns=.*$", "; call the column so in the file", str(error))
        told = {"queries": "queries", "embedding": "queries", "outcomes": "outcomes"}
        kind = next((told[k] for k in told if text.startswith(k)), None)
        if kind is not None and str(files[kind]) not in text:
            text = f"{files[kind]}: {text}"
        raise type(error)(text) from None
    return RoutingProblem(read, table)


def read_costs(path: str | Path) -> CostTable:
    """A cost table; what is wrong with it is said of its file."""
    try:
        return CostTable.read(path)
    except CostTableError as error:
        known = str(path) in str(error)
        raise CostTableError(str(error) if known else f"{path}: {error}") from None


def _table_of(folder: Path, kind: str) -> Path:
    """The one file of this kind: Parquet, where there is one, else another that is read."""
    if next(folder.glob(f"*{kind}.parquet"), None) is not None:
        return _only(folder, f"*{kind}.parquet")
    others = [p for p in sorted(folder.glob(f"*{kind}.*")) if source.reads(p)]
    return others[0] if len(others) == 1 else _only(folder, f"*{kind}.parquet")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Cr2Error(
            f"data: expected one file {pattern} in {folder}, got {shown([p.name for p in found])}"
        )
    return found[0]
