"""Make the golden artifact anew: python tests/golden/make.py. Only when the format changes on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import cr2fast
from cr2fast.datasets import make_routing_problem

HERE = Path(__file__).parent
LAMS = [0.1, 1.0, 20.0]


def main() -> None:
    problem = make_routing_problem(n=300, d=8, models=3, seed=5)
    train, calibration, test = problem.table.split()
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=8,
        teacher_epochs=2,
        gate_epochs=2,
        progress=False,
    )
    router.calibrate(calibration, alphas=(0.05, 0.1), lams=LAMS)
    router.save(HERE / "router.safetensors")
    x = test.embeddings[:16]
    answers = {
        "embeddings": [v.hex() for v in x.astype(float).ravel().tolist()],
        "margins": [v.hex() for v in router.margins(x, LAMS).astype(float).ravel().tolist()],
        "accuracies": [v.hex() for v in router.accuracies(x).astype(float).ravel().tolist()],
        "thresholds": [
            v.hex() for v in router.calibration["thresholds"].astype(float).ravel().tolist()
        ],
    }
    (HERE / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    assert np.isfinite(x).all()
    static_encoder()


def static_encoder() -> None:
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "un",
        "##aff",
        "##able",
        "the",
        "!",
        "漢",
        "e",
        "a",
        "##b",
    ]
    vectors = np.random.default_rng(0).normal(size=(len(tokens), 5)).astype(np.float32)
    encoder = cr2fast.StaticEncoder.from_vectors(
        vectors,
        tokens,
        id="golden",
        source=("none", "0" * 64),
        max_tokens=16,
        truncation="head-tail",
        record="{}",
    )
    encoder.save(HERE / "static.safetensors")
    texts = ["", "The unaffable!", "é漢 ab x", "a the " * 20]
    answers = {t: [v.hex() for v in encoder.encode(t).tolist()] for t in texts}
    (HERE / "static.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
