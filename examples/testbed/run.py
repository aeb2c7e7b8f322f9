"""From two live models to routed queries: profile, link, traces, table, fit, calibrate, route, ask.

    python examples/testbed/run.py --out testbed            # ten minutes on two cores
    python examples/testbed/run.py --out testbed --quick    # five

A killed run goes on with the same command. README.md beside this file says what the numbers can
show and what they cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import polars as pl
from cr2fast_profiler.agent.server import Agent
from cr2fast_profiler.analysis import profile_of
from cr2fast_profiler.errors import FitError, LinkError
from cr2fast_profiler.files import parquet_bytes, write_atomically
from cr2fast_profiler.link.measurement import LinkMeasurement
from cr2fast_profiler.link.run import LinkOptions, measure_link
from cr2fast_profiler.meters.base import Meter, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.probe import open_meter
from cr2fast_profiler.report.plots import plot_run
from cr2fast_profiler.report.summary import markdown
from cr2fast_profiler.report.table import cost_table, model_entry, write_table
from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.exchange import RejectedRequest
from cr2fast_profiler.workload.grid import Grid
from questions import Question, grade, prompt, questions
from servers import DEVICE, EDGE, serve
from through import through
from tqdm import tqdm

import cr2fast
from cr2fast.evaluation.report import table as report_table

ALPHAS = (0.05, 0.1, 0.2)
# Loopback moves a few kilobytes in less than its own noise; these payloads take milliseconds.
LOOPBACK = {"rate_ul_bps": 1e10, "rate_dl_bps": 1e10, "rtt_s": 1e-4}
GUARD_S = 3600.0
"""Against a server that hangs: no bound on a busy machine's run, s."""
LINK = LinkOptions(rounds=10, sizes_bytes=(1 << 20, 4 << 20, 16 << 20), idle_gap_s=0.0)


def _meter() -> tuple[Meter | None, list[Unavailable]]:
    try:
        return open_meter("auto"), []
    except MeterError as error:
        return None, [error.unavailable]


def profile(name: str, url: str, out: Path, most_rounds: int) -> None:
    """Latency, and energy where a sensor is, of one model.

    A busy machine makes rounds longer and noisier, never fewer: where noise drowns the fit, more
    rounds are asked.
    """
    meter, absent = _meter()
    for rounds in (most_rounds, 2 * most_rounds, 4 * most_rounds):
        options = Options(
            Grid.cross((64, 192, 384), (8, 24, 48)), least_rounds=3, most_rounds=rounds,
            precision=0.03, budget_s=GUARD_S,
        )  # fmt: skip
        with Endpoint(url, name, api="completions", timeout_s=GUARD_S) as endpoint:
            profile_model(endpoint, out / name, options, meter=meter, absent=absent)
        try:
            found = profile_of(out / name)
            break
        except FitError as error:
            print(f"{name}: {error}; more rounds")
    else:
        raise SystemExit(f"{name}: {4 * most_rounds} rounds determine no coefficients")
    if meter:
        meter.close()
    text = markdown(found)
    write_atomically(out / name / "summary.md", text.encode())
    plot_run(found, out / name, out / name / "plot.png")
    print(text)


def trace(name: str, url: str, asked: list[Question], out: Path, position: int) -> pl.DataFrame:
    """Ask every question that has no row yet; rows are kept every 20 answers."""
    path = out / f"traces_{name}.parquet"
    rows = pl.read_parquet(path).to_dicts() if path.exists() else []
    known = {r["query_id"] for r in rows}
    with Endpoint(url, name, api="completions", extra={"stop": ["\n"]}) as endpoint:
        for at, q in enumerate(tqdm(asked, desc=f"asking {name}", position=position, disable=None)):
            if f"q{at}" in known:
                continue
            said: dict[str, object] = {"query_id": f"q{at}", "model": name, "prompt": prompt(q)}
            try:
                x = endpoint.generate(prompt(q), 12)
                said |= {"answer": x.text, "correct": grade(q, x.text), "rejected": None}
                said |= {"n_input_tokens": x.n_input_tokens, "n_output_tokens": x.n_output_tokens}
                said |= {"ttft_s": (x.first_ns - x.start_ns) * 1e-9}
                said |= {"total_s": (x.last_ns - x.start_ns) * 1e-9}
            except RejectedRequest as refusal:
                said["rejected"] = str(refusal)
            rows.append(said)
            if len(rows) % 20 == 0 or at == len(asked) - 1:
                kept = pl.DataFrame(rows, infer_schema_length=None)
                write_atomically(path, parquet_bytes(kept))
    return pl.DataFrame(rows, infer_schema_length=None)


def link_section(out: Path) -> tuple[dict[str, object], bool]:
    """The link of this machine with itself, and whether it could be measured.

    On a busy machine the time of loopback's transfers may hardly depend on their bytes: then no
    rate is measured, and the table says that its link is estimated.
    """
    if (out / "link" / "link.json").exists():
        return LinkMeasurement.read(out / "link" / "link.json").section(32.0, 32.0), True
    token = secrets.token_hex(16)
    nothing = Unavailable("meter", Reason.NOT_PRESENT, "none is needed for a link")
    for attempt in ("", "-2", "-3"):
        with Agent("127.0.0.1", 0, token, nothing) as agent, suppress(LinkError):
            link = measure_link(agent.url, token, out=out / f"link{attempt}", options=LINK)
            return link.section(32.0, 32.0), True
    print("no rate of loopback could be measured here: the table calls its link estimated")
    bits = dict.fromkeys(("bits_per_input_token", "bits_per_output_token"), 32.0)
    return {"kind": "empirical", "samples": [LOOPBACK], **bits}, False


def build_table(out: Path) -> None:
    """The link, then the cost table."""
    link, link_measured = link_section(out)
    models = [
        model_entry(profile_of(out / DEVICE), "device"),
        model_entry(profile_of(out / EDGE), "edge"),
    ]
    powered = all(m["p_active_w"] is not None for m in models)
    table = cost_table(
        name="two small models on one machine",
        device=models[0],
        edge=models[1:],
        link=link,
        link_measured=link_measured,
        ue=dict.fromkeys(("p_tx_w", "p_rx_w", "p_idle_w"), 0.0 if powered else None),
        energy_weight=None if powered else 0.0,
    )
    write_table(out / "cost_table.json", table)


def routing_table(asked: list[Question], traces: list[pl.DataFrame], out: Path) -> None:
    """The two Parquet files that cr2fast reads."""
    encoder = cr2fast.Encoder.load("minilm")
    vectors = encoder.encode([q.text for q in asked])
    answered = [t.filter(pl.col("rejected").is_null()) for t in traces]
    both = set(answered[0]["query_id"]) & set(answered[1]["query_id"])
    lost = len(asked) - len(both)
    print(f"{len(both)} questions answered by both models, {lost} rejected")
    lengths = dict(answered[0].select("query_id", "n_input_tokens").iter_rows())
    ids = [f"q{i}" for i in range(len(asked))]
    queries = pl.DataFrame(
        {
            "query_id": ids,
            "n_input_tokens": [lengths.get(i) for i in ids],
            "embedding": [v.tolist() for v in vectors],
            "category": [q.kind for q in asked],
        },
        schema_overrides={"embedding": pl.List(pl.Float32)},
    ).filter(pl.col("query_id").is_in(list(both)))
    outcomes = pl.concat(answered).filter(pl.col("query_id").is_in(list(both)))
    columns = ("query_id", "model", "correct", "n_output_tokens")
    queries.write_parquet(out / "testbed_queries.parquet")
    outcomes.select(columns).write_parquet(out / "testbed_outcomes.parquet")


def read_table(out: Path, encoder: cr2fast.Encoder) -> cr2fast.RoutingTable:
    """The routing table of the two Parquet files."""
    return cr2fast.RoutingTable.read(
        out / "testbed_queries.parquet",
        out / "testbed_outcomes.parquet",
        local=DEVICE,
        edge=[EDGE],
        encoder=encoder.info,
    )


def route(out: Path) -> dict[str, object]:
    """Fit, calibrate, evaluate, and send one text through both stages."""
    encoder = cr2fast.Encoder.load("minilm")
    table = read_table(out, encoder)
    costs = cr2fast.CostTable.read(out / "cost_table.json")
    train, calibration, test = table.split((0.5, 0.3, 0.2), seed=0)
    router = cr2fast.fit(train, costs, seed=0)
    router.calibrate(calibration, costs, alphas=ALPHAS)
    router.save(out / "router.safetensors")
    result = cr2fast.evaluate(router, test, costs, seed=0)
    print(report_table(result, 0.1))
    lam = float(result.lams[len(result.lams) // 2])
    device = cr2fast.DeviceRouter.load(out / "router.safetensors", lam=lam, alpha=0.1)
    text = "What is the capital of France?"
    decision = device.route_text(text, encoder)
    print(f"{text!r} at lambda {lam:.3g}: {'device' if decision.local else 'edge'} ({decision})")
    return {
        "n": {"train": len(train), "calibration": len(calibration), "test": len(test)},
        "local_rate_at_alpha_0.1": [float(x) for x in result.local_rate[:, ALPHAS.index(0.1)]],
        "accuracy": dict(zip(table.models, test.correct.mean(0).tolist(), strict=True)),
        "mean_cost": dict(zip(table.models, result.baselines["alone"]["cost"], strict=True)),
    }


def check(out: Path, found: dict[str, object]) -> None:
    """Whether the parts fit, and whether what is reported agrees with its own intervals.

    How exact the numbers are is the machine's affair, and how busy it is; that is printed.
    """
    table = json.loads((out / "cost_table.json").read_text())
    for name, said in zip((DEVICE, EDGE), table["models"], strict=True):
        latency = profile_of(out / name).latency
        for key in ("tau0_s", "beta_pre_s", "beta_dec_s"):
            value, (low, high) = getattr(latency, key), latency.intervals[key]
            if not (low <= value <= high and said[key] == value):
                raise SystemExit(f"{name}: {key} = {value} in [{low}, {high}]; table: {said[key]}")
            if said["intervals"][key] != [low, high]:
                raise SystemExit(f"{name}: the table's interval of {key} is not the run's")
        error = latency.loco_error
        if error is None:
            raise SystemExit(f"{name}: no cell was left out and predicted")
        busy = " (this machine was busy: on a quiet one it is under 15 %)" if error > 0.15 else ""
        print(f"{name}: a cell left out is predicted within {error:.1%} on average{busy}")
    accuracy = found["accuracy"]
    assert isinstance(accuracy, dict)
    if not all(0 <= a <= 1 for a in accuracy.values()) or sum(found["n"].values()) < 50:  # type: ignore[attr-defined]
        raise SystemExit(f"the routing table is not what was asked: {found}")


def main() -> None:
    """Go the whole way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("testbed"), metavar="DIR")
    parser.add_argument("--gateway", type=Path, help="cr2fast-gateway, to ask through it as well")
    parser.add_argument("--quick", action="store_true", help="fewer questions and rounds")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    asked = questions(240 if args.quick else 600)
    rounds = 4 if args.quick else 8
    with serve(DEVICE, out) as device_url, serve(EDGE, out) as edge_url:
        # One after the other: profiles must not disturb each other; the questions need no times.
        for name, url in ((DEVICE, device_url), (EDGE, edge_url)):
            profile(name, url, out, rounds)
        pairs = ((DEVICE, device_url, 0), (EDGE, edge_url, 1))
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(trace, name, url, asked, out, at) for name, url, at in pairs]
            traces = [job.result() for job in jobs]
    build_table(out)
    routing_table(asked, traces, out)
    found = route(out)
    if args.gateway:
        table = read_table(out, cr2fast.Encoder.load("minilm"))
        costs = cr2fast.CostTable.read(out / "cost_table.json")
        with serve(DEVICE, out) as device_url, serve(EDGE, out) as edge_url:
            urls, n = (device_url, edge_url), 20 if args.quick else 60
            found["gateways"] = through(
                args.gateway.resolve(), out, table, costs, asked, urls, ALPHAS, n
            )
    for name in (DEVICE, EDGE):
        found[f"leave_one_cell_out_error_{name}"] = profile_of(out / name).latency.loco_error
    check(out, found)
    write_atomically(out / "result.json", json.dumps(found, indent=2).encode())
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
