"""The testbed's questions through a device and an edge gateway.

The gateways embed with a static encoder. This one holds the questions' own words with MiniLM's
vectors: made in seconds, and enough for questions of these words.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import openai
from gateways import Gateway, files
from questions import SHOTS, Question, grade

import cr2fast


def words_encoder(asked: list[Question], encoder: cr2fast.Encoder) -> cr2fast.StaticEncoder:
    """Each word of the questions, with MiniLM's embedding of it alone."""
    words = sorted({w for q in asked for w in re.findall(r"[a-z]+|\d+|[^\sa-z\d]", q.text.lower())})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vectors = encoder.encode(words)
    return cr2fast.StaticEncoder.from_vectors(
        np.concatenate([np.zeros((len(special), vectors.shape[1]), np.float32), vectors]),
        [*special, *words], id="words of the testbed",
        source=(encoder.info.id, encoder.info.sha256 or sha256(b"").hexdigest()), max_tokens=64,
        truncation="head-tail", record="{}",
    )  # fmt: skip


def through(
    binary: Path,
    out: Path,
    table: cr2fast.RoutingTable,
    costs: cr2fast.CostTable,
    asked: list[Question],
    urls: tuple[str, str],
    alphas: tuple[float, ...],
    n: int,
) -> dict[str, object]:
    """Fit on the words' embeddings, start both gateways, and ask `n` questions as chats.

    The figures are of chats, not of the traces' few-shot prompts: they show that the way is open.
    """  # fmt: skip
    folder = out / "gateways"
    folder.mkdir(exist_ok=True)
    encoder = words_encoder(asked, cr2fast.Encoder.load("minilm"))
    encoder.save(folder / "static.safetensors")
    texts = [asked[int(i.removeprefix("q"))].text for i in table.query_ids]
    own = replace(table, embeddings=encoder.encode(texts), encoder=encoder.info)
    train, calibration, test = own.split((0.5, 0.3, 0.2), seed=0)
    router = cr2fast.fit(train, costs, seed=0, progress=False)
    router.calibrate(calibration, costs, alphas=alphas)
    router.save(folder / "router.safetensors")
    assert router.calibration is not None
    lams, kept = (router.calibration[key].tolist() for key in ("lams", "alphas"))
    lam, alpha = lams[len(lams) // 2], kept[-1]
    device_router = router.device(lam=lam, alpha=alpha)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    device_name, edge_name = table.models
    device_file, edge_file = files(
        folder, lam, alpha, (device_name, urls[0]), (edge_name, urls[1]), port, edge_name
    )
    edge = Gateway.start(binary, "edge", edge_file)
    device = Gateway.start(binary, "device", device_file)
    # Turns, since not every chat template takes a system's word. The last one is what is embedded.
    roles = {"Q": "user", "A": "assistant"}
    shots = [{"role": roles[line[0]], "content": line[3:]} for line in SHOTS.splitlines()]
    told: Counter[str] = Counter()
    right = 0
    try:
        client = openai.OpenAI(base_url=device.url + "/v1", api_key="none", max_retries=0)
        for query in test.query_ids[:n]:
            question = asked[int(query.removeprefix("q"))]
            raw = client.chat.completions.with_raw_response.create(
                model="cr2fast",
                max_tokens=12,
                messages=[*shots, {"role": "user", "content": question.text}],
            )
            decision = device_router.route_text(question.text, encoder)
            margin = np.float32(raw.headers["x-cr2fast-margin"])
            why = "accepted" if decision.local else "deferred"
            if margin != np.float32(decision.margin) or raw.headers["x-cr2fast-why"] != why:
                raise SystemExit(
                    f"the gateway and Python differ on {question.text!r}: {raw.headers}"
                )
            told[why] += 1
            right += grade(question, raw.parse().choices[0].message.content or "")
    finally:
        device.stop()
        edge.stop()
    asked_n = sum(told.values())
    print(f"{asked_n} questions through the gateways: {dict(told)}, {right} answered as expected")
    return {"asked": asked_n, **told, "right": right}
