"""From text to decision: MiniLM int8 against a static encoder, in one run, taking turns.

    python -m benches.text_path [--seconds 4]

One thread; a prompt of 32 tokens and one of 256, both encoders of full size (d = 384, 30,522
tokens). The vectors of the static one are random: its work does not depend on them. Before a time
is reported, each contender's decision is compared with that of its parts: encode, then route.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

import cr2fast
from cr2fast import _core
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.distill import _vocabulary
from testing.timing import compare, unit

PROMPT = (
    "A farmer wants to know which of the following crops grow best in sandy soil with little "
    "rain: maize, millet, rice or wheat? Explain your answer."
)


def device_for(problem, encoder):
    """A router on embeddings that say they are this encoder's."""
    train, calibration, _ = replace(problem.table, encoder=encoder.info).split()
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        recipe="paper",
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )
    router.calibrate(calibration, on_infeasible="defer")
    return router.device(1.0, 0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="a contender")
    args = parser.parse_args()
    if _core.build_profile() != "release":
        sys.exit("text_path: expected a release build: run make bench-text")
    minilm = cr2fast.Encoder.load("minilm")
    vocabulary = _vocabulary(minilm.tokenizer_json)
    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), minilm.dim))
    static = cr2fast.StaticEncoder.from_vectors(
        vectors.astype(np.float32),
        vocabulary,
        id="random",
        source=minilm.info,
        max_tokens=256,
        truncation="head-tail",
        record="{}",
    )
    problem = make_routing_problem(n=2000, d=minilm.dim)
    texts = {32: PROMPT, 256: "\n".join([PROMPT] * 12)}
    contenders = {}
    encoders = {"MiniLM int8": minilm, "static": static}
    devices = {name: device_for(problem, encoder) for name, encoder in encoders.items()}
    for n, text in texts.items():
        for name, encoder in encoders.items():
            device = devices[name]
            assert len(encoder.tokens(text)) == n + (2 if n == 32 else 0)
            decision = device.route_text(text, encoder)
            assert decision == device.route(encoder.encode(text)), name
            contenders[name, n] = (device.route_text, text, encoder)
    contenders["gate alone", 0] = (devices["static"].route, static.encode(PROMPT))
    calls = {k: (lambda f=f, a=a: f(*a)) for k, (f, *a) in contenders.items()}
    times = compare(calls, seconds=args.seconds, rounds=25)
    print(f"cr2fast on {_core.simd_isa()}, medians of 25 turns")
    medians = {key: t.median for key, t in times.items()}
    for (name, n), t in medians.items():
        ratio = medians["MiniLM int8", n] / t if n else float("nan")
        words = f", {ratio:.0f} times faster than MiniLM" if name == "static" else ""
        print(f"  {name}, {n} tokens: {unit(t)}{words}" if n else f"  {name}: {unit(t)}")


if __name__ == "__main__":
    main()
