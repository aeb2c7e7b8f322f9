"""Command line: ``cr2fast demo | fit | calibrate | evaluate | route | inspect``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast import __version__
from cr2fast._core import Cr2Error, DeviceRouter, EdgeSelector, LinkState

_DESCRIPTION = """\
Route each LLM query to the device or to the edge, at a cost weight (lam) and a risk (alpha).

The usual order:
  cr2fast demo                                    see it work, on your data or a synthetic problem
  cr2fast fit --data DIR -o router.safetensors    train teacher, length predictor and gate
  cr2fast calibrate router.safetensors --data DIR thresholds, by conformal risk control
  cr2fast evaluate router.safetensors --data DIR  accuracy, cost and risk on the test split
  cr2fast route router.safetensors --lam 1 --alpha 0.01 --embeddings x.npy
  cr2fast inspect router.safetensors              what is in the file

fit, calibrate and evaluate cut the same data into the same disjoint splits (--split, --split-seed)
and take the first, second and third; query ids are checked, so an overlap is an error.
"""
_DATA_HELP = """\
A data folder holds *queries.parquet (query_id, n_input_tokens, embedding, optional category),
*outcomes.parquet (query_id, model, correct, n_output_tokens) and cost_table*.json, whose models,
device first, are the ones used.
"""


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(x) for x in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers and commas, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("cr2fast", description=_DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"cr2fast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], Any], about: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=raw
        )
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        return sub

    def data(sub: argparse.ArgumentParser, *, required: bool) -> None:
        note = "" if required else "; without it CR2FAST_DATA, then a synthetic problem"
        sub.add_argument("--data", type=Path, help=f"data folder{note}", required=required)
        sub.add_argument("--costs", type=Path, help="cost table, when not in the data folder")
        sub.add_argument("--encoder-id", help="name of the encoder behind the embeddings")
        sub.add_argument(
            "--encoder-file", type=Path, help="its model file, to record the sha256 of"
        )

    def split(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--split",
            type=_numbers,
            default=(0.6, 0.2, 0.2),
            metavar="A,B,C",
            help="fractions for training, calibration, test (default 0.6,0.2,0.2)",
        )
        sub.add_argument("--split-seed", type=int, default=0, help="seed of the split (default 0)")

    def training(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--teacher-epochs", type=int, help="passes over the data (default 20)")
        sub.add_argument("--gate-epochs", type=int, help="passes over the data (default 20)")
        sub.add_argument("--seed", type=int, default=0, help="seed of training and link states")

    sub = command("demo", _demo, "Fit, calibrate, save, load, route, evaluate, plot.", _DATA_HELP)
    data(sub, required=False)
    training(sub)
    sub.add_argument("--lam", type=float, default=1.0, help="cost weight to route at (default 1)")
    sub.add_argument("--alpha", type=float, default=0.01, help="risk level to show (default 0.01)")
    sub.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder to write (default demo)"
    )

    sub = command("fit", _fit, "Train a router on the first part of the data.", _DATA_HELP)
    data(sub, required=True)
    split(sub)
    training(sub)
    sub.add_argument(
        "--lengths",
        choices=("predicted", "known"),
        default="predicted",
        help="output lengths behind the gate's targets (default predicted)",
    )
    sub.add_argument("--lam-range", type=_numbers, default=(0.1, 20.0), metavar="LOW,HIGH",
                     help="cost weights to learn (default 0.1,20)")  # fmt: skip
    sub.add_argument(
        "-o", "--out", type=Path, default=Path("router.safetensors"), help="file to write"
    )

    sub = command(
        "calibrate", _calibrate, "Set thresholds on the second part of the data.", _DATA_HELP
    )
    sub.add_argument("router", type=Path, help="a fitted router.safetensors")
    data(sub, required=True)
    split(sub)
    sub.add_argument(
        "--alphas",
        type=_numbers,
        default=(0.002, 0.005, 0.01, 0.02, 0.05),
        help="risk levels, with commas",
    )
    sub.add_argument(
        "--lams", type=_numbers, help="cost weights, with commas (default: 32, log-spaced)"
    )
    sub.add_argument("--reference", choices=("teacher", "outcomes"), default="teacher",
                     help="what makes a local acceptance false (default teacher)")  # fmt: skip
    sub.add_argument(
        "--on-infeasible", choices=("raise", "defer"), default="raise", help="when alpha < 1/(N+1)"
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument("-o", "--out", type=Path, help="file to write (default: the router itself)")

    sub = command("evaluate", _evaluate, "Route the third part of the data and count.", _DATA_HELP)
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    data(sub, required=True)
    split(sub)
    sub.add_argument(
        "--alpha", type=float, default=0.01, help="risk level of the table (default 0.01)"
    )
    sub.add_argument(
        "--deferred",
        choices=("edge-only", "inclusive"),
        default="edge-only",
        help="where deferred queries may go",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument(
        "--plots", type=Path, metavar="DIR", help="also write plots and report.json there"
    )

    sub = command("route", _route, "Decide for embeddings of a .npy file, (N, d) or (d,) float32.")
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    sub.add_argument("--lam", type=float, required=True, help="cost weight, on the calibrated grid")
    sub.add_argument("--alpha", type=float, default=0.01, help="risk level (default 0.01)")
    sub.add_argument("--embeddings", type=Path, required=True, metavar="X.npy")
    sub.add_argument(
        "--n-input-tokens", type=float, help="L_in: with it, deferred queries get an edge model"
    )
    sub.add_argument("--rate-ul-bps", type=float, default=20e6, help="uplink rate (default 20e6)")
    sub.add_argument("--rate-dl-bps", type=float, default=80e6, help="downlink rate (default 80e6)")
    sub.add_argument("--rtt-s", type=float, default=0.018, help="round trip, s (default 0.018)")

    sub = command("inspect", _inspect, "Say what a router file holds, and what it promises.")
    sub.add_argument("router", type=Path)
    return parser


def _problem(args: argparse.Namespace) -> Any:
    from cr2fast.datasets import load_folder
    from cr2fast.encoder import EncoderInfo

    name = args.encoder_id or "unknown"
    encoder = (
        EncoderInfo.of_file(args.encoder_file, name) if args.encoder_file else EncoderInfo(name)
    )
    return load_folder(args.data, args.costs, encoder)


def _part(args: argparse.Namespace, index: int) -> tuple[Any, Any]:
    """The costs, and the part of the data that a command may see."""
    if len(args.split) != 3:
        raise Cr2Error(f"split: expected three fractions, got {args.split}")
    problem = _problem(args)
    return problem.costs, problem.table.split(args.split, args.split_seed)[index]


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("teacher_epochs", "gate_epochs")
    return {n: getattr(args, n) for n in names if getattr(args, n) is not None}


def _say(args: argparse.Namespace, text: str) -> None:
    """Text for people: stdout, or stderr when stdout carries JSON."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def _demo(args: argparse.Namespace) -> Any:
    from cr2fast import demo
    from cr2fast.datasets import make_routing_problem

    args.data = args.data or (Path(p) if (p := os.environ.get("CR2FAST_DATA")) else None)
    if args.data is None:
        problem, source = make_routing_problem(seed=args.seed), "SYNTHETIC (made up)"
        _say(
            args,
            "No --data and no CR2FAST_DATA: this is a synthetic problem "
            "(cr2fast.datasets.make_routing_problem); its figures say nothing of real models.",
        )
    else:
        problem, source = _problem(args), str(args.data)
    result = demo.run(
        problem,
        args.out,
        source=source,
        lam=args.lam,
        alpha=args.alpha,
        seed=args.seed,
        say=lambda text: _say(args, text),
        **_options(args),
    )
    _say(args, "\nwrote " + ", ".join(str(f) for f in result.files))
    modes = {k: e.to_dict() for k, e in result.evaluations.items()}
    return result.summary | {"files": [str(f) for f in result.files], "modes": modes}


def _fit(args: argparse.Namespace) -> Any:
    from cr2fast.router import fit

    if len(args.lam_range) != 2:
        raise Cr2Error(f"lam-range: expected two numbers, got {args.lam_range}")
    costs, train = _part(args, 0)
    router = fit(
        train,
        costs,
        seed=args.seed,
        lengths=args.lengths,
        lam_range=args.lam_range,
        **_options(args),
    )
    router.save(args.out)
    record = router.training
    sizes = router.parameters
    _say(
        args,
        f"wrote {args.out}: {sizes['gate']:,} gate and {sizes['teacher']:,} teacher parameters, "
        f"fitted on {record['n_train']} queries, checkpoints chosen on {record['n_holdout']}; "
        f"next: cr2fast calibrate {args.out} --data {args.data}",
    )
    return {"router": str(args.out), "parameters": router.parameters, "training": record}


def _calibrate(args: argparse.Namespace) -> Any:
    from cr2fast.router import Router

    router = Router.load(args.router)
    costs, part = _part(args, 1)
    result = router.calibrate(
        part,
        costs,
        alphas=args.alphas,
        lams=args.lams,
        reference=args.reference,
        on_infeasible=args.on_infeasible,
        seed=args.seed,
    )
    out = args.out or args.router
    router.save(out)
    _say(args, f"wrote {out}: {len(result.lams)} x {len(result.alphas)} operating points from "
               f"{result.n} queries\n{result.statement}")  # fmt: skip
    return {"router": str(out), "calibration": result.to_dict()}


def _evaluate(args: argparse.Namespace) -> Any:
    from cr2fast import report
    from cr2fast.evaluation import evaluate
    from cr2fast.router import Router

    costs, part = _part(args, 2)
    result = evaluate(Router.load(args.router), part, costs, seed=args.seed, deferred=args.deferred)
    _say(args, f"{result.lengths} lengths, alpha = {args.alpha:g}, {result.n} test queries")
    _say(args, report.table(result, args.alpha))
    _say(args, report.compatibility(result))
    if args.plots:
        files = report.write(args.plots, {f"{result.lengths} lengths": result}, {})
        _say(args, "wrote " + ", ".join(str(f) for f in files))
    return result.to_dict()


def _route(args: argparse.Namespace) -> Any:
    try:
        x = np.load(args.embeddings, allow_pickle=False)
    except ValueError as error:
        raise Cr2Error(
            f"embeddings: expected a .npy file, got {args.embeddings}: {error}"
        ) from error
    if not isinstance(x, np.ndarray) or x.ndim not in (1, 2):
        raise Cr2Error("embeddings: expected one array of shape (N, d) or (d,)")
    x = np.atleast_2d(x)
    device = DeviceRouter.load(args.router, args.lam, args.alpha)
    margins = device.margins(x)
    rows: list[dict[str, Any]] = []
    edge, state = None, None
    if args.n_input_tokens is not None:
        edge = EdgeSelector.load(args.router, args.lam)
        state = LinkState(args.rate_ul_bps, args.rate_dl_bps, args.rtt_s)
    for i, margin in enumerate(margins.tolist()):
        row: dict[str, Any] = {"row": i, "local": margin >= device.threshold, "margin": margin}
        if edge is not None and state is not None and not row["local"]:
            chosen = edge.select(x[i], args.n_input_tokens, state)
            row |= {"model": chosen.model, "accuracy": chosen.accuracy, "cost": chosen.cost}
        rows.append(row)
        place = "local" if row["local"] else row.get("model", "edge")
        _say(args, f"{i}\t{place}\tmargin {margin:+.4f}\tthreshold {device.threshold:+.4f}")
    return rows


def _inspect(args: argparse.Namespace) -> Any:
    from cr2fast.router import Router

    router = Router.load(args.router)
    calibration = router.calibration
    info: dict[str, Any] = {
        "file": str(args.router),
        "bytes": args.router.stat().st_size,
        "models": list(router.models),
        "encoder": router.encoder._asdict(),
        "dim": router.dim,
        "parameters": router.parameters,
        "cost_table": {"source": router.costs.source, "sha256": router.costs.sha256},
        "calibration": calibration
        and {k: getattr(v, "tolist", lambda v=v: v)() for k, v in calibration.items()},
        "training": router.training,
    }
    lines = [
        f"{args.router}: {info['bytes'] / 1e6:.2f} MB",
        f"models       {', '.join(router.models)} (the first is the device's)",
        f"encoder      {router.encoder.id} {router.encoder.sha256[:12]} ({router.dim} numbers)",
        "parameters   " + ", ".join(f"{k} {v:,}" for k, v in router.parameters.items()),
        f"cost table   {router.costs.source}, sha256 {router.costs.sha256[:12]}",
    ]
    if calibration is None:
        lines.append("calibration  none yet: run cr2fast calibrate")
    else:
        lams, alphas = calibration["lams"], calibration["alphas"]
        lines += [
            f"calibration  N = {calibration['n']}, reference {calibration['reference']}, "
            f"{calibration['lengths']} lengths",
            f"lam          {' '.join(f'{v:g}' for v in lams)}",
            f"alpha        {' '.join(f'{v:g}' for v in alphas)}",
            "promise      per lam, marginal: "
            "P(kept local although the reference prefers the edge) <= alpha",
        ]
    _say(args, "\n".join(lines))
    return info


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status (2 for bad input, 130 for Ctrl-C)."""
    args = _parser().parse_args(argv)
    try:
        result = args.run(args)
        if args.json:
            from cr2fast.jsontext import json_ready

            print(json.dumps(json_ready(result), allow_nan=False))
    except (Cr2Error, OSError, ImportError, TypeError) as error:
        print(f"cr2fast {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
