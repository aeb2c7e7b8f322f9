"""The gateway with a router that looks at features of the text, and at its smoother: Python's bits."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem
from testing.gateways import needed, running
from testing.letters import LETTERS, letters

pytestmark = needed
D = 24
LAMS, ALPHAS = [0.1, 1.0, 20.0], (0.05, 0.3)


def text(rng: random.Random) -> str:
    """With what features look at: options, digits, code, scripts, length."""
    words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 30))]
    parts = ["?", "\nA. yes\nB. no\n", " 3.14 + 2 = ", " `def f(x): return x` ", " 漢字 ", "É!", ""]
    return " ".join(words) + rng.choice(parts) + rng.choice(parts)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_margins_and_choices_are_pythons_bit_for_bit(tmp_path: Path, share: float) -> None:
    rng = random.Random(5)
    encoder = letters(D)
    problem = make_routing_problem(n=400, d=D, models=3, seed=5)
    texts = [f"{text(rng)} {i}" for i in range(400)]
    table = replace(
        problem.table,
        encoder=encoder.info,
        extra={"text": texts},
        embeddings=encoder.encode(texts),
    )
    train, calibration, _ = table.split()
    router = cr2fast.fit(
        train,
        problem.costs,
        features=True,
        smoother_share=share,
        lam_range=(0.1, 20.0),
        hidden=16,
        teacher_epochs=2,
        gate_epochs=2,
        progress=False,
    )
    router.calibrate(calibration, alphas=ALPHAS, lams=LAMS)
    assert ("smoother" in router.parameters) == (share > 0)
    encoder.save(tmp_path / "static.safetensors")
    router.save(tmp_path / "router.safetensors")
    shared = (
        'listen = "127.0.0.1:0"\n'
        '[router]\npath = "router.safetensors"\nencoder = "static.safetensors"\n'
        "lam = 1.0\nalpha = 0.05\n"
    )
    (tmp_path / "device.toml").write_text(
        f'{shared}[local]\nurl = "http://127.0.0.1:1"\n'
        '[edge]\nurl = "http://127.0.0.1:1"\ntoken_env = "EDGE_TOKEN"\n'
    )
    (tmp_path / "edge.toml").write_text(
        f"{shared}[health]\nevery_ms = 0\n"
        + "".join(f'[[models]]\nname = "{m}"\nurl = "http://127.0.0.1:1"\n' for m in router.models[1:])
    )  # fmt: skip
    places, chosen = set(), set()
    with running(tmp_path) as (_, device), running(tmp_path, "edge") as (_, edge):
        for _ in range(600):
            lam, alpha, asked = rng.choice(LAMS), rng.choice(ALPHAS), text(rng)
            body = json.dumps(
                {
                    "model": f"cr2fast:lam={lam},alpha={alpha}",
                    "messages": [{"role": "user", "content": asked}],
                }
            )
            told = []
            for connection in (device, edge):
                connection.request("POST", "/v1/route", body)
                told.append(json.loads(connection.getresponse().read()))
            decision = router.device(lam, alpha).route_text(asked, encoder)
            margin, threshold = told[0]["margin"], np.float32(float(told[0]["threshold"]))
            assert np.float32(margin).tobytes() == np.float32(decision.margin).tobytes()
            assert threshold.tobytes() == np.float32(decision.threshold).tobytes()
            assert told[0]["why"] == ("accepted" if decision.local else "deferred")
            selection = router.edge(lam).select_text(asked, encoder)
            assert told[1]["model"] == selection.model
            assert told[1]["accuracy"] == selection.accuracy
            assert told[1]["utility"] == selection.utility
            assert told[1]["cost"] == selection.cost
            places.add(decision.local)
            chosen.add(selection.model)
    assert places == {True, False}
    assert chosen == set(router.models[1:])
