"""What each command does; how it is typed stands in :mod:`cr2fast_profiler.cli`."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cr2fast_profiler.agent.meter import AgentMeter
from cr2fast_profiler.agent.server import Agent, serve_agent
from cr2fast_profiler.agent.wire import read_token
from cr2fast_profiler.analysis import profile_of
from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import EndpointError, ProfilerError, TableError
from cr2fast_profiler.files import check_writable, write_atomically
from cr2fast_profiler.idle import measure_idle, read_idle, write_idle
from cr2fast_profiler.link.measurement import LinkMeasurement
from cr2fast_profiler.link.run import LinkOptions, measure_link
from cr2fast_profiler.meters.base import Domain, Meter, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.probe import open_meter, survey
from cr2fast_profiler.meters.selftest import cpu_work, gpu_work, run_selftest
from cr2fast_profiler.redact import printable
from cr2fast_profiler.report.plots import plot_link, plot_run
from cr2fast_profiler.report.prices import Prices, parse_prices
from cr2fast_profiler.report.summary import markdown
from cr2fast_profiler.report.table import (
    NO_LINK,
    cost_table,
    model_entry,
    told,
    unmeasured_entry,
    write_table,
)
from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.workload.callable import InProcess
from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.exchange import RejectedRequest, Target
from cr2fast_profiler.workload.grid import Grid
from cr2fast_profiler.workload.load import Load
from cr2fast_profiler.workload.locality import connect_rtt_s, is_this_host
from cr2fast_profiler.workload.look import first_look, two_answers

CLOCK: Clock = SYSTEM
"""What every command measures by; tests put it, with TRANSPORT, on a simulated world."""
TRANSPORT: Any = None

COUNT = "Count from 1 upwards, one number per line, and do not stop."
DOCTOR_WAIT_S = 10.0
"""A doctor says that a server is loading, and does not sit by it."""

ENERGY_REMOTE = (
    "the endpoint is on another host, whose joules no sensor here sees; run `cr2fast-profile "
    "agent` there and give its address by --agent"
)


def _key(args: argparse.Namespace) -> str | None:
    if not args.api_key_env:
        return None
    return _secret(args.api_key_env, "--api-key-env")


def _secret(variable: str, option: str) -> str:
    """A value that only the environment holds; what is no variable's name is not repeated."""
    value = os.environ.get(variable)
    if value:
        return value
    name = variable if re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", variable) else "such variable"
    raise EndpointError(
        f"{option}: the environment has no {name}: give the name of the variable that holds the "
        "secret, not the secret itself, and export it"
    )


def _headers(args: argparse.Namespace) -> dict[str, str]:
    found = {}
    for text in args.header:
        name, colon, variable = text.partition(":")
        if not (name and colon and variable.strip()):
            raise EndpointError(
                "--header: expected NAME:VARIABLE, the variable holding the header's value; what "
                "came is not repeated, since it may be a secret"
            )
        found[name.strip()] = _secret(variable.strip(), f"--header {printable(name.strip(), 40)}")
    return found


def _target(args: argparse.Namespace) -> Target:
    if args.callable:
        return InProcess.load(args.callable, args.model or args.callable)
    # Who allows so little for the whole run does not wait longer for its beginning.
    return _endpoint(args, args.budget_s)


def _endpoint(args: argparse.Namespace, most_wait_s: float = math.inf) -> Endpoint:
    return Endpoint(
        args.endpoint,
        args.model,
        api=args.api,
        api_key=_key(args),
        headers=_headers(args),
        extra=args.extra,
        timeout_s=args.timeout_s,
        wait_s=min(args.wait_s, most_wait_s),
        ca_file=args.ca_file,
        clock=CLOCK,
        transport=TRANSPORT,
    )


def _meter(args: argparse.Namespace, target: Target) -> tuple[Meter | None, list[Unavailable]]:
    """The meter of the host that serves the model, or why there is none."""
    if args.agent:
        return AgentMeter(args.agent, read_token(args.token_file)), []
    if args.meter == "none":
        return None, [Unavailable("meter", Reason.NOT_PRESENT, "none was asked for (--meter none)")]
    here = not isinstance(target, Endpoint) or is_this_host(target.url)
    if args.meter == "auto" and not here:
        return None, [Unavailable("meter", Reason.REMOTE, ENERGY_REMOTE)]
    try:
        return open_meter(args.meter, clock=CLOCK), []
    except MeterError as error:
        # Without a sensor "auto" measures latency alone; a meter asked for by name must be there.
        if args.meter != "auto":
            raise
        return None, [error.unavailable]


def doctor(args: argparse.Namespace) -> dict[str, Any]:
    """Sensors, and an endpoint if one is named."""
    found = survey()
    sensors = [s for s in found if isinstance(s, Domain)]
    absent = [s for s in found if isinstance(s, Unavailable)]
    said: dict[str, Any] = {
        "sensors": [asdict(s) for s in sensors],
        "absent": [asdict(u) for u in absent],
    }
    print("Sensors of this host" if sensors else "No energy sensor of this host can be read")
    for s in sensors:
        print(f"  {s.name:12} {s.kind:6} {s.source}{'' if s.in_total else '  (not added up)'}")
    for u in absent:
        print(f"  {u.source:12} absent ({u.reason.value}): {u.detail}")
        if u.remedy:
            print(f"  {'':12} what to do: {u.remedy}")
    if not sensors:
        print("Latency can be measured; energy stays null, with these reasons beside it.")
    if args.endpoint:
        said["endpoint"] = _check_endpoint(args)
    return said


def _check_endpoint(args: argparse.Namespace) -> dict[str, Any]:
    try:
        with _endpoint(args, DOCTOR_WAIT_S) as target:
            x, longer = two_answers(target, COUNT)
            notes = [*target.notes, *first_look(x, longer)]
    except (EndpointError, RejectedRequest) as error:
        print(f"Endpoint: {error}")
        return {"usable": False, "detail": str(error)}
    ttft_ms = (x.first_ns - x.start_ns) * 1e-6
    counts = "in the stream" if x.aside_ns == x.last_ns else "by a second, unstreamed request"
    print(
        f"Endpoint: {target.name} answers: {x.n_input_tokens} tokens in, {x.n_output_tokens} out "
        f"in {x.n_chunks} chunks, TTFT {ttft_ms:.1f} ms; token counts come {counts}"
    )
    for note in notes:
        print(f"  note: {note}")
    if first_look(x, longer):
        print("  `model` fits the total time of answers, which holding text back does not move")
    here = is_this_host(target.url)
    print(f"  it is {'on this host' if here else 'on another host: ' + ENERGY_REMOTE}")
    return {
        "usable": True,
        "model": target.name,
        "ttft_s": ttft_ms * 1e-3,
        "this_host": here,
        "notes": notes,
    }


def model(args: argparse.Namespace) -> dict[str, Any]:
    """Profile one model."""
    grid, loads = Grid.parse(args.grid), tuple(Load.parse(x) for x in args.load)
    unloaded = read_idle(args.unloaded_idle) if args.unloaded_idle else None
    target = _target(args)
    meter, absent = _meter(args, target)
    for u in absent:
        print(f"energy will be null: {u.detail}", file=sys.stderr)
    away = isinstance(target, Endpoint) and not is_this_host(target.url)
    options = Options(
        grid=grid,
        seed=args.seed,
        precision=args.precision,
        least_rounds=args.rounds[0],
        most_rounds=args.rounds[1],
        budget_s=args.budget_s,
        idle_s=args.idle_s,
        loads=loads,
        rtt_s=connect_rtt_s(target.url) if isinstance(target, Endpoint) and away else 0.0,
        meter=args.agent or args.meter,
        unloaded_idle=unloaded,
    )
    try:
        ended = profile_model(
            target,
            args.out,
            options,
            meter=meter,
            absent=absent,
            progress=not args.quiet,
            clock=CLOCK,
        )
    finally:
        target.close()
        if meter:
            meter.close()
    profile = profile_of(args.out)
    text = markdown(profile)
    write_atomically(Path(args.out) / "summary.md", text.encode())
    print(text)
    why = {
        "tight": "the intervals are tight",
        "budget": "the budget is spent",
        "rounds": "all rounds are done",
    }
    print(f"Ended because {why[ended]}. Rows, readings, profile.json and summary.md: {args.out}")
    return {
        "ended": ended,
        "latency": asdict(profile.latency),
        "energy": asdict(profile.energy) if profile.energy else None,
        "no_energy": profile.no_energy,
        "energy_coverage": profile.energy_coverage,
        "rejected": profile.rejected,
        "notes": list(profile.notes),
    }


def idle(args: argparse.Namespace) -> dict[str, Any]:
    """Power of this host while it serves nothing."""
    check_writable(args.out)
    meter = open_meter(args.meter, clock=CLOCK)
    try:
        measured = measure_idle(meter, args.seconds, progress=not args.quiet, clock=CLOCK)
    finally:
        meter.close()
    write_idle(args.out, measured)
    low, high = measured["interval"]
    called = "estimated" if measured["estimated"] else "measured"
    print(f"{args.out}: {measured['p_idle_w']:.4g} W ({low:.4g} to {high:.4g}), {called}")
    return measured


def link(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the link to an agent."""
    measured = measure_link(
        args.url,
        read_token(args.token_file),
        out=args.out,
        options=LinkOptions(
            rounds=args.rounds, sizes_bytes=args.sizes, repeats=args.repeats, seed=args.seed
        ),
        budget_s=args.budget_s,
        progress=not args.quiet,
        clock=CLOCK,
    )
    scales = {"bit/s": (1e-6, "Mbit/s"), "s": (1e3, "ms")}
    for name, e in measured.summary.items():
        scale, unit = scales.get(e.unit, (1.0, e.unit))
        print(
            f"  {name:20} {e.median * scale:10.4g} {unit:7} 95 %: {e.low * scale:.4g} to "
            f"{e.high * scale:.4g}"
        )
    for flag in measured.flags:
        print(f"  note ({flag.name}): {flag.detail}")
    print(f"{len(measured.samples)} joint samples in {args.out}/link.json")
    return {"out": str(args.out), "summary": {k: asdict(e) for k, e in measured.summary.items()}}


def agent(args: argparse.Namespace) -> dict[str, Any]:
    """Serve this host's joules and a link to measure, until interrupted."""
    token = read_token(args.token_file)
    meter: Meter | Unavailable
    try:
        meter = open_meter(args.meter, clock=CLOCK)
    except MeterError as error:
        meter = error.unavailable
        print(f"energy: {error}", file=sys.stderr)

    def ready(serving: Agent) -> None:
        print(f"agent listens on {serving.url}; Ctrl-C ends it", file=sys.stderr, flush=True)

    try:
        serve_agent(args.host, args.port, token, meter, ready)
    finally:
        if not isinstance(meter, Unavailable):
            meter.close()
    return {"ended": True}


def _run_and_name(text: str) -> tuple[str, str | None]:
    if Path(text).is_dir():
        return text, None
    folder, _, name = text.rpartition("=") if "=" in text else (text, "", "")
    return folder, name or None


def _link_section(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    if args.link == "none":
        return dict(NO_LINK), True
    path = Path(args.link)
    if path.is_dir():
        path = path / "link.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {error}") from error
    if isinstance(said, dict) and str(said.get("schema", "")).startswith("cr2fast.cost_table/"):
        said = said.get("link")
    if isinstance(said, dict) and said.get("kind") in ("shannon", "empirical"):
        return said, said["kind"] == "empirical"
    measured = LinkMeasurement.read(path)
    return measured.section(args.bits_per_input_token, args.bits_per_output_token), True


def _entry(text: str, tier: str, prices: dict[str, Prices]) -> dict[str, Any]:
    """A model of the table: a run's, or one of which only the price is known."""
    folder, name = _run_and_name(text)
    if folder in prices and not Path(folder).is_dir():
        return unmeasured_entry(name or folder, tier)
    return model_entry(profile_of(folder), tier, name)


def table(args: argparse.Namespace) -> dict[str, Any]:
    """Runs, prices and a link into a cost table."""
    check_writable(args.out)
    prices = parse_prices(args.price)
    section, measured = _link_section(args)
    made = cost_table(
        name=args.name,
        device=_entry(args.device, "device", prices),
        edge=[
            *(_entry(run, "edge", prices) for run in args.edge),
            *(_entry(run, "cloud", prices) for run in args.cloud),
        ],
        link=section,
        link_measured=measured,
        ue={"p_tx_w": args.ue_tx_w, "p_rx_w": args.ue_rx_w, "p_idle_w": args.ue_idle_w},
        energy_weight=args.energy_weight,
        price_weight=args.price_weight,
        prices=prices,
        reference_model=args.reference_model,
    )
    write_table(args.out, made)
    names = ", ".join(m["name"] for m in made["models"])
    print(f"{args.out}: {made['source']}; {names}; the unit of cost is {made['reference_model']}")
    for line in told(made):
        print(f"  {line}")
    for flag in section.get("flags", ()):
        print(f"  link: {flag['name']}: {flag['detail']}")
    for what in made["provenance"]["estimated"]:
        print(f"  estimated, not measured: {what}")
    return made


def selftest(args: argparse.Namespace) -> dict[str, Any]:
    """Known loads against a meter."""
    meter = open_meter(args.meter, clock=CLOCK)
    try:
        gpu = any(d.kind == "gpu" for d in meter.domains)
        found = run_selftest(meter, gpu_work() if gpu else cpu_work())
    finally:
        meter.close()
    print(found.report())
    return {k: v for k, v in asdict(found).items() if k != "faults"}


def plot(args: argparse.Namespace) -> dict[str, Any]:
    """Draw a run or a link."""
    folder = Path(args.run)
    out = Path(args.out) if args.out else folder / "plot.png"
    kinds = [k for k in ("link", "run") if (folder / f"{k}.json").exists()]
    if not kinds:
        raise ProfilerError(f"{folder} holds neither a run (run.json) nor a link (link.json)")
    check_writable(out)
    if kinds[0] == "link":
        plot_link(LinkMeasurement.read(folder / "link.json"), out)
    else:
        plot_run(profile_of(folder), folder, out)
    print(out)
    return {"out": str(out)}
