"""Options that several commands take, and how their values are read.

In: a command's parser. Out: the same with more options.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cr2fast._core import Cr2Error
from cr2fast._util import renamed
from cr2fast._util.checks import shown


def typed(numbers: Sequence[float]) -> str:
    """Numbers as a user types them."""
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


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas, as the user typed them."""
    try:
        return tuple(float(x) for x in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers and commas, got {shown(text)}"
        ) from None


def auto_or_numbers(text: str) -> str | tuple[float, ...]:
    """The word auto, or numbers."""
    return text if text == "auto" else numbers(text)


def overlap(sub: argparse.ArgumentParser) -> None:
    """What to do with queries that were used before."""
    sub.add_argument(
        "--overlap",
        choices=("raise", "drop"),
        default="raise",
        help="what to do with queries that the router has seen, by id or by what they say: an "
        "error, or leave them out and count them (default raise)",
    )


def data(sub: argparse.ArgumentParser, *, required: bool, queries: bool = False) -> None:
    """Where queries, outcomes and costs are, and which encoder made the embeddings."""
    note = "" if required else "; without it CR2FAST_DATA, then a synthetic problem"
    sources = sub.add_mutually_exclusive_group(required=required)
    sources.add_argument("--data", type=Path, help=f"data folder{note}")
    if required:
        log(sub, sources)
    if queries:
        sources.add_argument(
            "--queries",
            type=Path,
            metavar="FILE",
            help="queries without answers, all of which calibrate (judge: teacher): prompts or "
            "embeddings, in Parquet, CSV, JSON Lines or Arrow",
        )
    sub.add_argument("--costs", type=Path, help="cost table, when not in the data folder or log")
    sub.add_argument("--encoder-id", help="name of the encoder behind the embeddings")
    encoder(sub)


def encoder(sub: argparse.ArgumentParser) -> None:
    """Which encoder made the embeddings, or makes them, and where they are kept."""
    sub.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="that encoder: minilm, a folder, the file of a static encoder, or URL#MODEL of an "
        "embeddings endpoint; it embeds prompts that have no embedding, and its hash is recorded, "
        "or a few of its vectors, so that texts can be routed only with it",
    )
    sub.add_argument(
        "--embed",
        action="store_true",
        help="embed the prompts with --encoder even where there are embeddings",
    )
    sub.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep new embeddings there (default: CR2FAST_CACHE, else the system's cache folder)",
    )
    sub.add_argument("--no-cache", action="store_true", help="keep no embeddings")


def log(sub: argparse.ArgumentParser, sources: Any) -> None:
    """A log of calls, and which of its models are which."""
    sources.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="log of calls, a row each (JSON Lines, CSV, Parquet, Arrow): prompt or messages, "
        "model, score, tokens, dollars, seconds; queries are split by what they say",
    )
    sub.add_argument("--local", metavar="MODEL", help="with --log: the device's model")
    sub.add_argument(
        "--edge",
        action="append",
        metavar="MODEL",
        help="with --log: an edge model; may be given several times (default: all other models of "
        "the log, the cheapest first)",
    )
    sub.add_argument(
        "--column",
        action="append",
        type=renaming,
        default=[],
        metavar="OURS=THEIRS",
        help="what the log calls a column, where it is no usual name: --column score=grade",
    )


def renaming(text: str) -> tuple[str, str]:
    """Two names around an equals sign."""
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise argparse.ArgumentTypeError(
            f"expected our name and the log's, as in score=grade, got {shown(text)}"
        )
    return ours, theirs


# What the data are cut into, in this order; of three fractions there is no validation.
PARTS = ("training", "calibration", "validation", "test")


def split(sub: argparse.ArgumentParser) -> None:
    """How the data are cut into training, calibration, validation and test."""
    sub.add_argument(
        "--split",
        type=numbers,
        default=(0.6, 0.2, 0.1, 0.1),
        metavar="A,B,C,D",
        help="fractions for training, calibration, validation (where choose chooses) and test; "
        "three are training, calibration and test (default 0.6,0.2,0.1,0.1)",
    )
    sub.add_argument("--split-seed", type=int, default=0, help="seed of the split (default 0)")


def point(sub: argparse.ArgumentParser) -> None:
    """A chosen point to start from."""
    sub.add_argument(
        "--point",
        type=Path,
        metavar="FILE",
        help="the operating point that cr2fast choose --write wrote, in place of --lam and --alpha",
    )


def training(sub: argparse.ArgumentParser) -> None:
    """Length and seed of training."""
    sub.add_argument(
        "--teacher-epochs", type=int, help="passes over the data (default: the recipe's)"
    )
    sub.add_argument("--gate-epochs", type=int, help="passes over the data (default: the recipe's)")
    sub.add_argument(
        "--link-features",
        action="store_true",
        default=None,
        help="let the gate also see the link's state, where a link varies widely",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of training and link states")


def groups(sub: argparse.ArgumentParser) -> None:
    """Whose thresholds apply, with a router calibrated per group."""
    sub.add_argument(
        "--groups",
        metavar="COLUMN",
        help="the column of the queries' groups, with a router calibrated with --groups",
    )


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse to write over a file that is read: a log is not to be had again.

    A router is written anew by what changes it, and by nothing else.
    """
    taken = {os.path.realpath(p) for p in _read(args)}
    router = getattr(args, "router", None)
    for name in ("out", "write", "state"):
        path = getattr(args, name, None)
        if not path:
            continue
        real = os.path.realpath(path)
        if real in taken or (name != "out" and router and real == os.path.realpath(router)):
            raise Cr2Error(
                f"--{name}: expected another file than one that is read, got {shown(str(path))}"
            )


def _read(args: argparse.Namespace) -> list[str | Path]:
    """The files that a command reads, its router aside."""
    names = ("queries", "costs", "prices", "embeddings", "point", "encoder", "reload_pid")
    read = [getattr(args, name, None) for name in names]
    read += getattr(args, "logged_by", [])
    if (data := getattr(args, "data", None)) is not None:
        for pattern in ("*queries.*", "*outcomes.*", "cost_table*"):
            read += data.glob(pattern)
    log = getattr(args, "log", None)
    if isinstance(log, list):
        from cr2fast.traffic.files import sources

        read += log
        with suppress(OSError, Cr2Error):  # The command itself says what is wrong with its logs.
            read += [source.path for source in sources(log)]
    else:
        read.append(log)
    return [p for p in read if p]
