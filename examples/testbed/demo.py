"""Two servers behind a device and an edge gateway, asked with the `openai` client.

    make gateway-demo

The servers are the testbed's two live models where llama-cpp-python is installed, as in the
environment of `make testbed`, and stubs that say their own names elsewhere. The router is fitted on
made-up outcomes: the demo shows how the gateways behave, not what routing saves. Each step is
asserted.
"""

from __future__ import annotations

import argparse
import random
import shutil
import socket
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openai
import servers
import stub
from gateways import Gateway, files
from questions import KINDS, questions
from servers import DEVICE, EDGE

import cr2fast
from cr2fast.datasets import model_names, synthetic_costs

ALPHA, OTHER_ALPHA, LAM = 0.1, 0.2, 0.3
HEADERS = ("place", "model", "why", "margin")


def made_up(folder: Path) -> tuple[cr2fast.Router, cr2fast.RoutingTable]:
    """A router for which the device answers some kinds of questions well and others badly."""
    costs, names = synthetic_costs(2), model_names(2)
    asked = questions(900)
    words = sorted({word for q in asked for word in q.text.lower().replace("?", " ?").split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    rng = np.random.default_rng(0)
    encoder = cr2fast.StaticEncoder.from_vectors(
        rng.normal(size=(len(tokens), 64)).astype(np.float32), tokens, id="demo",
        source=("none", "0" * 64), max_tokens=64, truncation="head-tail", record="{}",
    )  # fmt: skip
    encoder.save(folder / "static.safetensors")
    easy = np.array([q.kind in {k.__name__.strip("_") for k in KINDS[::2]} for q in asked])
    correct = np.stack([rng.random(len(asked)) < np.where(easy, 0.9, 0.2),
                        rng.random(len(asked)) < 0.9], 1)  # fmt: skip
    table = cr2fast.RoutingTable(
        query_ids=tuple(str(i) for i in range(len(asked))),
        embeddings=encoder.encode([q.text for q in asked]),
        correct=correct,
        n_input_tokens=np.full(len(asked), 12, np.uint32),
        n_output_tokens=np.full((len(asked), 2), 12, np.uint32),
        models=names,
        encoder=encoder.info,
    )
    train, rest = table.split((0.6, 0.4), seed=0)
    router = cr2fast.fit(train, costs, lam_range=(0.1, 3.0), seed=0, progress=False)
    return router, rest


def recalibrate(
    router: cr2fast.Router, table: cr2fast.RoutingTable, alpha: float, to: Path
) -> None:
    """Calibrate for one risk level more, and put the router where the gateways read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the little data cannot promise
        router.calibrate(table, alphas=sorted({ALPHA, alpha}), lams=[LAM])
    router.save(to.with_suffix(".part"))
    to.with_suffix(".part").rename(to)


def ask(client: openai.OpenAI, text: str, model: str = "cr2fast") -> tuple[str, dict[str, str]]:
    """One answer, and what the gateway says of it."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=12
    )
    told = {key: raw.headers.get(f"x-cr2fast-{key}", "") for key in HEADERS}
    answer = raw.parse().choices[0].message.content or ""
    print(f"  {text[:44]:44}  {told['place']:6} {told['why']:11} {answer.strip()[:40]!r}")
    return answer, told


def free_port() -> int:
    """One that the edge keeps when it is started again: no system gives these out by itself."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("expected a free port from 20000 to 29999, got none in 100 tries")


def run(binary: Path, out: Path, stack: ExitStack) -> None:
    """The whole demo."""
    live = find_spec("llama_cpp") is not None
    print(
        f"servers: {'two live llama.cpp models' if live else 'stubs (llama-cpp-python is missing)'}"
    )

    def serve(name: str) -> str:
        return stack.enter_context(servers.serve(name, out) if live else stub.serve(name))

    device_url, edge_url = serve(DEVICE), serve(EDGE)
    print("router: fitted on made-up outcomes")
    router, table = made_up(out)
    path = out / "router.safetensors"
    recalibrate(router, table, ALPHA, path)
    device_file, edge_file = files(
        out, LAM, ALPHA, (DEVICE, device_url), (EDGE, edge_url), free_port(), router.models[1]
    )
    edge = Gateway.start(binary, "edge", edge_file)
    stack.callback(edge.kill)
    device = Gateway.start(binary, "device", device_file)
    stack.callback(device.kill)
    client = openai.OpenAI(base_url=device.url + "/v1", api_key="none", max_retries=0)
    asked = [q.text for q in questions(60, seed=7)]

    print("\nquestions, routed:")
    told = [ask(client, text)[1] for text in asked[:8]]
    places = Counter(t["place"] for t in told)
    assert all(t["why"] in ("accepted", "deferred") for t in told), told
    deferred = next(text for text in asked if decision(client, text) == "edge")

    print("\na model's name goes there directly:")
    for name, place in zip(router.models, ("device", "edge"), strict=True):
        assert ask(client, asked[0], name)[1]["place"] == place

    print("\na stream:", end=" ", flush=True)
    words = stream(client, deferred)
    assert words, "a stream has content"

    print("\n\nthe edge is killed in the middle of a stream:", end=" ", flush=True)
    broken = ""
    try:
        stream(client, deferred, edge.kill)
    except openai.APIError as error:
        broken = error.message
    print(f"[{broken or 'it had ended'}]")
    assert "in the middle of its answer" in broken or (live and not broken), broken
    edge.kill()
    print("\na deferred question:")
    assert ask(client, deferred)[1] | {"margin": ""} == {
        "place": "device", "model": router.models[0], "why": "edge-down", "margin": ""
    }  # fmt: skip
    edge = Gateway.start(binary, "edge", edge_file)
    stack.callback(edge.kill)
    print("the edge is back:")
    while ask(client, deferred)[1]["why"] != "deferred":
        pass  # its breaker lets one request through after a second

    print(f"\na router recalibrated for alpha = {OTHER_ALPHA} too, reloaded by both:")
    recalibrate(router, table, OTHER_ALPHA, path)
    hashes = {gateway.reload() for gateway in (device, edge)}
    assert len(hashes) == 1
    told_now = ask(client, deferred, f"cr2fast:alpha={OTHER_ALPHA}")[1]
    assert told_now["why"] in ("accepted", "deferred")

    print("\nmetrics of the device:")
    metrics = device.get("/metrics")
    print(
        "  "
        + "\n  ".join(x for x in metrics.splitlines() if x.startswith("cr2fast_requests_total"))
    )
    assert 'why="edge-down"' in metrics
    device.stop()
    print("\nthe decision log, by place and reason:")
    show(out / "decisions.jsonl")
    assert places


def decision(client: openai.OpenAI, text: str) -> str:
    """Where a text would go, by /v1/route."""
    body: dict[str, Any] = {"model": "cr2fast", "messages": [{"role": "user", "content": text}]}
    told: Any = client.post("/route", body=body, cast_to=object)
    return str(told["place"])


def stream(
    client: openai.OpenAI, text: str, after_first: Callable[[], None] = lambda: None
) -> list[str]:
    """The words of a streamed answer, printed as they come."""
    parts = client.chat.completions.create(
        model="cr2fast", messages=[{"role": "user", "content": text}], max_tokens=12, stream=True
    )
    words = []
    for part in parts:
        for choice in part.choices:
            if choice.delta.content:
                words.append(choice.delta.content)
                print(choice.delta.content, end="", flush=True)
                if len(words) == 1:
                    after_first()
    return words


def show(log: Path) -> None:
    """Counts and times of a decision log."""
    import polars as pl

    from cr2fast.traffic import read_log

    frame = read_log(log)
    by = frame.group_by("place", "why").agg(
        pl.len().alias("n"), pl.col("ttft_s").median().round(3), pl.col("total_s").median().round(3)
    )
    print(by.sort("place", "why"))
    assert {"edge-down", "direct"} <= set(frame["why"])


def main() -> None:
    """Run it in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", type=Path, required=True, help="the cr2fast-gateway binary")
    parser.add_argument("--out", type=Path, default=Path("gateway-demo"), metavar="DIR")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    with ExitStack() as stack:
        run(args.gateway.resolve(), args.out, stack)


if __name__ == "__main__":
    main()
