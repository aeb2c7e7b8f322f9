"""Decision logs as a gateway would have written them, of queries with embeddings.

In: a calibrated router and queries. Out: records (plain dictionaries) and files of them.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import numpy as np

import cr2fast
from cr2fast.encoders.info import sha256_of

# Long ago: a watch on this machine's clock looks back, whatever its date.
START = datetime(2024, 11, 1, tzinfo=timezone.utc)


def stamp(seconds, start=START):
    return (start + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def request_id(i, prefix="a"):
    """An id as a gateway gives: 32 hexadecimal digits."""
    return f"{prefix}{i:0{32 - len(prefix)}x}"


def number(value):
    """A threshold as the log has it: JSON knows no infinity."""
    return float(value) if np.isfinite(value) else ("inf" if value > 0 else "-inf")


def records(
    router, embeddings, n_input_tokens, lam, alpha, *, sha256="a" * 64, start_s=0.0, every_s=1.0,
    prefix="a",
):  # fmt: skip
    """What a device gateway logs, a record per query, with its embedding."""
    device = router.device(lam, alpha)
    edge = router.edge(lam)
    n = len(embeddings)
    states = router.costs.sample_states(n, 77)
    margins = device.margins(embeddings, states=states)
    local = device.route_batch(embeddings, states=states)
    picked = edge.select_batch(embeddings, n_input_tokens, states)
    out = []
    for i in range(n):
        place = "device" if local[i] else "edge"
        seconds = 0.5 + (i % 7) / 10
        state = states[i]
        measured = ["rtt_s", "rate_ul_bps", "rate_dl_bps"] if not local[i] else []
        out.append(
            {
                "schema": "cr2fast.decision_log/1",
                "kind": "request",
                "id": request_id(i, prefix),
                "ts": stamp(start_s + i * every_s),
                "lam": lam,
                "alpha": device.alpha,
                # The shortest text that is this float32, as the gateway writes it.
                "margin": float(str(np.float32(margins[i]))),
                "threshold": number(np.float32(device.threshold)),
                "place": place,
                "model": router.models[0] if local[i] else router.models[picked.index[i]],
                "why": "accepted" if local[i] else "deferred",
                "outcome": "answered",
                "status": 200,
                "stream": bool(i % 2),
                "n_input_tokens_estimated": int(n_input_tokens[i]),
                "n_input_tokens": int(n_input_tokens[i]) + 3,
                "n_output_tokens": 20 + i % 50,
                "ttft_s": seconds / 2,
                "total_s": seconds,
                "link": {
                    "rtt_s": state.rtt_s,
                    "rate_ul_bps": state.rate_ul_bps,
                    "rate_dl_bps": state.rate_dl_bps,
                },
                "link_measured": measured,
                "budget": None,
                "p_value": None,
                "endpoint": "chat",
                "available": None,
                "n_output_tokens_estimated": 40.5,
                "latency_s_estimated": seconds,
                "energy_j_estimated": 3.0,
                "usd_estimated": None,
                "usd": None,
                "energy_j_measured": None,
                "shadow": None,
                "failed": [],
                "router": sha256,
                "propensity": 1.0,
                "embedding": [float(str(x)) for x in embeddings[i]],
            }
        )
    return out


def served(path, table, rows, *, lam=1.0, alpha=0.05, start_s=0.0, prefix="a"):
    """Records of a table's rows, ten seconds apart, as the router of this file decided them."""
    return records(
        cr2fast.Router.load(path), table.embeddings[rows], table.n_input_tokens[rows], lam, alpha,
        sha256=sha256_of(path), start_s=start_s, every_s=10.0, prefix=prefix,
    )  # fmt: skip


def write(path, records):
    """A file of records, a line each; returns the path."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path
