"""The bars: each takes a world and a size, asserts right answers, and gives rows of a table."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import cr2fast

from .link import link
from .world import ADMIN_TOKEN, ENV, Running, World, all_good

MB = 1e6


@dataclass
class Row:
    """One bar: what was measured, and whether it holds.

    `None` where it could not be measured, or where there is no bar.
    """

    name: str
    measured: str
    bar: str
    holds: bool | None


@dataclass
class Size:
    """How much is asked: small for a look, large for a figure."""

    rounds: int
    sequential: int
    concurrent: int
    many: int
    reloads: int
    seconds: float
    hostile: int


QUICK = Size(3, 200, 2_000, 20_000, 20, 3.0, 400)
FULL = Size(11, 600, 10_000, 1_000_000, 100, 8.0, 10_000)


def _median(xs: list[float]) -> float:
    return statistics.median(xs)


def _stub(world: World, longer: int = 0, at: str = "127.0.0.1:0", **on: Any) -> Running:
    return world.helper("stub", at, str(longer), **on)


def latency(world: World, size: Size) -> list[Row]:
    """Added latency beside a bare pass-through proxy, the same with the decision, and LiteLLM's.

    The bare proxy with a decision in it is the floor: what any gateway adds that decides by the
    text before it sends a request on. Rounds are taken in turn.
    """
    stub = _stub(world)
    bare = world.helper("proxy", stub.address)
    floor = world.helper("floor", stub.address, str(world.folder))
    log = f'[log]\npath = "{world.folder}/latency.jsonl"\n'
    gateway = world.start("device", world.device(stub.address, more=log))
    rows, other = [], _litellm(world, stub.address, 1)
    for stream in (False, True):
        body = world.body(world.accepted, stream=stream)
        expect = "data: [DONE]" if stream else "the answer of the stub"
        places = {"direct": stub, "bare": bare, "floor": floor, "gateway": gateway}
        if other and not stream:
            places["litellm"] = other[0]
        times: dict[str, list[float]] = {name: [] for name in places}
        for turn in range(size.rounds + 1):
            for name, place in places.items():
                n = size.sequential if name != "litellm" else size.sequential // 4
                told = all_good(world.ask(place.address, body, requests=n, expect=expect).wait())
                if name == "gateway" and told["why"] != {"accepted": n}:
                    raise SystemExit(f"not every request was accepted: {told['why']}")
                if turn:  # the first round warms
                    times[name].append(told["p50_s"])
        rounds = list(zip(*(times[n] for n in ("direct", "bare", "floor", "gateway")), strict=True))
        ratio = _median([(g - d) / (b - d) for d, b, _, g in rounds])
        least = _median([(f - d) / (b - d) for d, b, f, _ in rounds])
        d, b, f, g = (1e6 * _median(times[n]) for n in ("direct", "bare", "floor", "gateway"))
        streamed = ", streamed" if stream else ""
        said = f"{ratio:.2f} × bare (direct {d:.0f}, bare +{b - d:.0f}, gateway +{g - d:.0f} µs)"
        rows.append(Row(f"added latency{streamed}", said, "≤ 1.5 × bare", ratio <= 1.5))
        over = _median([(g - d) / (f - d) for d, _, f, g in rounds])
        said = f"floor {least:.2f} × bare (+{f - d:.0f} µs); the gateway {over:.2f} × that"
        rows.append(Row(f"least with a decision{streamed}", said, "", None))
        if "litellm" in times:
            o = times["litellm"]
            share = _median([(g - d) / (x - d) for (d, _, _, g), x in zip(rounds, o, strict=True)])
            said = f"{share:.3f} × (LiteLLM +{1e6 * _median(o) - d:.0f} µs)"
            rows.append(Row("added latency, LiteLLM's", said, "≤ 0.2 ×", share <= 0.2))
    if not other:
        rows.append(Row("added latency, LiteLLM's", "LiteLLM is not installed", "≤ 0.2 ×", None))
    return rows


def throughput(world: World, size: Size) -> list[Row]:
    """Requests per second beside LiteLLM's proxy, one process of it per core."""
    stub = _stub(world)
    gateway = world.start("device", world.device(stub.address))
    bare = world.helper("proxy", stub.address)
    other = _litellm(world, stub.address, os.cpu_count() or 1)
    body = world.body(world.accepted)
    places = {"gateway": [gateway], "bare": [bare]} | ({"litellm": other} if other else {})
    rates: dict[str, list[float]] = {name: [] for name in places}
    for turn in range(1 + max(3, size.rounds // 3)):
        for name, servers in places.items():
            n = size.concurrent if name != "litellm" else size.concurrent // 20
            share = {"requests": n // len(servers), "connections": 32 // len(servers)}
            asking = [world.ask(server.address, body, **share) for server in servers]
            told = [all_good(one.wait()) for one in asking]
            if turn:
                rates[name].append(sum(one["n"] / one["total_s"] for one in told))
    per_s = {name: _median(xs) for name, xs in rates.items()}
    said = ", ".join(f"{name} {x:,.0f}/s" for name, x in per_s.items())
    if not other:
        return [Row("throughput", said + "; LiteLLM is not installed", "≥ 10 × LiteLLM", None)]
    ratio = _median([g / o for g, o in zip(rates["gateway"], rates["litellm"], strict=True)])
    return [Row("throughput", f"{ratio:.1f} × ({said})", "≥ 10 × LiteLLM", ratio >= 10)]


def memory(world: World, size: Size) -> list[Row]:
    """Resident memory after a warm-up, and after many requests more."""
    stub = _stub(world)
    log = f'[log]\npath = "{world.folder}/memory.jsonl"\nmax_bytes = 10000000\n'
    gateway = world.start("device", world.device(stub.address, more=log))
    body = world.body(world.accepted)

    def ask(n: int) -> int:
        all_good(world.ask(gateway.address, body, requests=n, connections=16).wait())
        for file in world.folder.glob("memory.*.jsonl"):
            file.unlink()
        return gateway.resident()

    before = ask(max(1_000, size.many // 20))
    after = before
    most = before
    for _ in range(10):
        after = ask(size.many // 10)
        most = max(most, after)
    growth = after / before - 1
    said = f"{most / MB:.1f} MB at most, {growth:+.1%} after {size.many:,} requests"
    holds = most <= 40 * MB and abs(growth) <= 0.05
    return [Row("memory", said, "≤ 40 MB, within 5 %", holds)]


def reloads(world: World, size: Size) -> list[Row]:
    """Reloads by signal and by call while clients ask; every request is answered and logged."""
    stub = _stub(world)
    path = world.folder / "reloads.jsonl"
    edge = world.start("edge", world.edge(stub.address, f'[log]\npath = "{path}"\n'))
    body = world.body(world.deferred)
    asking = world.ask(edge.address, body, connections=8, seconds=600)
    new = [(world.folder / f"router{k}.safetensors").read_bytes() for k in (0, 1)]
    hashes = set()
    for i in range(size.reloads):
        part = world.folder / "router.part"
        part.write_bytes(new[i % 2])
        part.rename(world.folder / "router.safetensors")
        call = Request(
            f"http://{edge.address}/v1/reload", b"{}",
            {"authorization": f"Bearer {ADMIN_TOKEN}"},
        )  # fmt: skip
        with urlopen(call, timeout=60) as answer:
            hashes.add(json.loads(answer.read())["router"])
    # The clients stop with the gateway; what they were told before that counts.
    told = _stop(asking, edge)
    lines = _lines(path)
    lost = told["n"] - len({line["id"] for line in lines})
    good = len(hashes) == 2 and lost == 0 and set(told["statuses"]) == {"200"} and not told["wrong"]
    said = f"{size.reloads} reloads, {told['n']:,} requests, {told['statuses']}, {lost} not logged"
    return [Row("reloads", said, "nothing lost", good)]


def _stop(asking: Any, server: Running) -> dict[str, Any]:
    """End clients that would go on, then the server in good order."""
    asking.process.send_signal(signal.SIGTERM)
    told: dict[str, Any] = asking.wait()
    server.process.terminate()
    server.process.wait(60)
    return told


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(path.parent.glob(f"{path.stem}*.jsonl")):
        for line in file.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def edge_killed(world: World, size: Size) -> list[Row]:
    """The edge dies, or falls silent, under load: the device answers, within the deadline."""
    deadline_s, rows = 0.5, []
    slack = "[deadlines]\nfirst_content_ms = 500\nanswer_ms = 500\n"
    slack += "[breaker]\nfailures = 100000\n"
    for how, kill in (("killed", signal.SIGKILL), ("silent", signal.SIGSTOP)):
        stub = _stub(world)
        edge = world.start("edge", world.edge(stub.address))
        device = world.start("device", world.device(stub.address, edge.address, slack))
        body = world.body(world.deferred)
        asking = world.ask(device.address, body, connections=8, seconds=2 * size.seconds, rate=400)
        time.sleep(size.seconds)
        edge.process.send_signal(kill)
        told = asking.wait()
        late = told["max_s"] - deadline_s
        good = set(told["statuses"]) == {"200"} and not told["wrong"] and late <= 0.05
        good = good and told["why"].get("edge-down", 0) > 0 and told["why"].get("deferred", 0) > 0
        said = f"{told['statuses']}, {told['why']}, slowest {1e3 * told['max_s']:.0f} ms"
        rows.append(Row(f"edge {how}", said, "no 5xx, ≤ 500 + 50 ms", good))
    return rows


def hostile(world: World, size: Size) -> list[Row]:
    """Good clients alone, beside many hostile ones, and beside as many at another gateway.

    The hostile program and its victims share the machine's cores, so what the hostile cost through
    the gateway is the difference between the last two.
    """
    stub = _stub(world)
    limits = "[limits]\nheader_ms = 1000\nbody_ms = 1000\nconnections = 4096\n"
    device, other = (world.start("device", world.device(stub.address, more=limits)) for _ in "ab")
    body = world.body(world.accepted)
    rounds = max(3, size.rounds // 2)
    n = size.hostile // rounds
    rate = 500.0
    seconds = n / rate
    targets = {"alone": None, "elsewhere": other, "here": device}
    p99: dict[str, list[float]] = {name: [] for name in targets}
    ended = 0
    for turn in range(rounds + 1):
        for name, target in targets.items():
            enemies = world.hostile(target.address, n, rate) if target else None
            told = all_good(
                world.ask(device.address, body, connections=4, rate=400, seconds=seconds).wait()
            )
            if enemies:
                ended += enemies.wait()["ended"]
            if turn:
                p99[name].append(told["p99_s"])
    cost = _median([h / e for h, e in zip(p99["here"], p99["elsewhere"], strict=True)]) - 1
    said = "p99 " + ", ".join(f"{name} {1e3 * _median(x):.2f} ms" for name, x in p99.items())
    said += f" ({cost:+.1%} over elsewhere), {ended // 2:,} hostile"
    good = cost < 0.1 and ended == 2 * n * (rounds + 1)
    return [Row("hostile clients", said, "< 10 % p99", good)]


def log_after_kill(world: World, size: Size) -> list[Row]:
    """Kill −9: of the requests that had ended a flush interval before, none is missing."""
    flush_s, missing, seen = 0.2, 0, 0
    for turn in range(max(2, size.rounds // 2)):
        stub = _stub(world)
        path = world.folder / f"killed{turn}.jsonl"
        log = f'[log]\npath = "{path}"\nflush_ms = {1e3 * flush_s:.0f}\n'
        device = world.start("device", world.device(stub.address, more=log))
        body = world.body(world.accepted)
        asking = world.ask(device.address, body, connections=4, ids="yes", seconds=2.0)
        time.sleep(1.5)
        killed = time.time()
        device.process.kill()
        told = asking.wait()
        logged = {line["id"] for line in _lines(path)}
        # 50 ms for the writer's turn on a busy machine, and for the write itself.
        due = {i for i, at in told["ids"] if at < killed - flush_s - 0.05}
        seen += len(due)
        missing += len(due - logged)
    said = f"{missing} of {seen:,} missing"
    return [Row("log after kill −9", said, "none, up to flush_ms", missing == 0 and seen > 0)]


def link_state(world: World, size: Size) -> list[Row]:
    """What the device says of a link of known rates and delay, after 20 requests."""
    truth = {"rtt_s": 0.018, "rate_ul_bps": 10e6, "rate_dl_bps": 40e6}
    bar = "within 10 %"
    try:
        with link(truth["rtt_s"], truth["rate_ul_bps"], truth["rate_dl_bps"]) as two:
            stub = _stub(world, 65_536, "127.0.0.1:0", prefix=two.edge)
            local = _stub(world, prefix=two.device)
            access = '[access]\ntoken_env = "ADMIN_TOKEN"\ndevice_token_env = "DEVICE_TOKEN"\n'
            edge_file = world.edge(stub.address, access, f"{two.edge_address}:0")
            edge = world.start("edge", edge_file, two.edge)
            path = world.folder / "link.jsonl"
            more = f'[log]\npath = "{path}"\nflush_ms = 10\n'
            device_file = world.device(local.address, edge.address, more)
            device = world.start("device", device_file, two.device)
            # Short prompts and long ones: requests as they come.
            long = world.body("word " * 20_000 + world.deferred, model=_edge_model(world))
            for _ in range(10):
                for body in (world.body(world.deferred, model=_edge_model(world)), long):
                    all_good(world.ask(device.address, body, two.device, requests=1).wait())
            time.sleep(0.2)
            found = _lines(path)[-1]["link"]
    except OSError as error:
        return [Row("link state", f"no namespaces here: {error}", bar, None)]
    off = {key: found[key] / truth[key] - 1 if found[key] else float("nan") for key in truth}
    said = ", ".join(f"{key} {x:+.1%}" for key, x in off.items())
    return [
        Row("link state", f"{said} ({two.kind})", bar, all(abs(x) <= 0.1 for x in off.values()))
    ]


def _edge_model(world: World) -> str:
    return str(cr2fast.Router.load(world.folder / "router.safetensors").models[1])


def _litellm(world: World, upstream: str, processes: int) -> list[Running]:
    """LiteLLM's proxy in an environment of its own, before the same upstream; none if not there."""
    command = world.folder.parent / "litellm" / "bin" / "litellm"
    if not command.exists():
        return []
    config = world.folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: cr2fast\n    litellm_params:\n      model: openai/stub\n"
        f"      api_base: http://{upstream}/v1\n      api_key: none\n"
    )
    started = [_start_litellm(world, command, config) for _ in range(processes)]
    for running in started:
        _await(running)
    return started


def _start_litellm(world: World, command: Path, config: Path) -> Running:
    port = _free_port()
    log = world.folder / f"litellm-{port}.log"
    environment = {**ENV, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    # Loopback, and no key to check: that is in its favour.
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    with log.open("w") as said:
        process = subprocess.Popen(
            [command, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
            stdout=said, stderr=subprocess.STDOUT, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    world.running.callback(end)
    return Running(process, f"127.0.0.1:{port}", log)


def _await(running: Running) -> None:
    # It takes seconds to load, and minutes on a busy machine.
    for _ in range(2_400):
        with suppress(OSError), urlopen(f"http://{running.address}/health/liveliness", timeout=1):
            return
        if running.process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"LiteLLM did not start: {running.log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


BARS: dict[str, Callable[[World, Size], list[Row]]] = {
    "latency": latency,
    "throughput": throughput,
    "memory": memory,
    "reloads": reloads,
    "edge-killed": edge_killed,
    "hostile": hostile,
    "log": log_after_kill,
    "link": link_state,
}


def installed(folder: Path) -> bool:
    """Whether uv, or pip, could install LiteLLM's proxy into an environment of its own."""
    if (folder / "bin" / "litellm").exists():
        return True
    uv = shutil.which("uv")
    if uv is None:
        return False
    create = subprocess.run([uv, "venv", "-q", folder], check=False)
    install = [uv, "pip", "install", "-q", "-p", folder / "bin" / "python", "litellm[proxy]"]
    return create.returncode == 0 and subprocess.run(install, check=False).returncode == 0
