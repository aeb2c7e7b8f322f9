"""``cr2fast choose``: what can be typed, what it does; and points that others start from.

Heavy imports are inside, as in :mod:`cr2fast.cli.commands`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cr2fast._core import Cr2Error
from cr2fast._core import Router as CoreRouter
from cr2fast.calibration.point import OperatingPoint
from cr2fast.cli import inputs, options

# A maker of subcommands: name, what runs, what it does, epilog.
Command = Callable[..., argparse.ArgumentParser]

_HELP = """\
With an accuracy among the wishes the cheapest point that keeps them all is chosen, else the most
accurate one. Every budget is about the mean over queries unless it says 95 %.

  cr2fast choose router.safetensors --data DIR --relative-accuracy 0.9 --write point.json
  cr2fast choose router.safetensors --data DIR --max-latency-p95-s 2 --max-usd 0.003
  cr2fast route router.safetensors --point point.json --encoder minilm --text "Who wrote Hamlet?"
  cr2fast evaluate router.safetensors --data DIR --point point.json
"""
_WISHES = {
    "min_accuracy": "least fraction of queries answered correctly",
    "relative_accuracy": "least accuracy as a fraction of the big model's on all queries: 0.9, say",
    "max_latency_s": "most seconds per query, on average",
    "max_latency_p95_s": "seconds within which 95 %% of the queries are answered",
    "max_energy_j": "most joules per query, on average",
    "max_usd": "most dollars per query, on average: 0.003 is $3 per 1,000",
}


def add_choose(command: Command) -> None:
    """``cr2fast choose``."""
    sub = command(
        "choose",
        choose,
        "Choose the best operating point that keeps an accuracy and budgets, on the validation "
        "part of the data.",
        _HELP,
    )
    sub.add_argument("router", type=Path, help="a calibrated router.safetensors")
    options.data(sub, required=True)
    options.split(sub)
    options.overlap(sub)
    options.groups(sub)
    for name, words in _WISHES.items():
        sub.add_argument(_flag(name), type=float, help=words)
    sub.add_argument(
        "--delta",
        type=float,
        help="make the wishes a promise, which holds with probability 1 - DELTA over validation "
        "sets (0.1, say)",
    )
    sub.add_argument(
        "--clip",
        type=float,
        default=10.0,
        help="with --delta: promises about means are of costs cut at this many times their budget "
        "(default 10)",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")
    sub.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the point as JSON, for route and evaluate (--point) and for services",
    )


def choose(args: argparse.Namespace) -> Any:
    """Choose on the validation part."""
    from cr2fast.evaluation import InfeasibleWishError, evaluate
    from cr2fast.router import Router

    wishes = {name: getattr(args, name) for name in _WISHES}
    if all(value is None for value in wishes.values()):
        flags = ", ".join(_flag(name) for name in _WISHES)
        raise Cr2Error(f"expected at least one wish, of {flags}")
    if args.write:
        inputs.writable(args.write, "--write")
    router = Router.load(args.router)
    data = inputs.problem(args)
    held = inputs.part(args, data.table, "validation")
    result = evaluate(
        router, held, data.costs, seed=args.seed, overlap=args.overlap, groups=args.groups
    )
    try:
        point = result.choose(**wishes, delta=args.delta, clip=args.clip)
    except InfeasibleWishError as error:
        raise InfeasibleWishError(
            str(error).removeprefix("choose: "), error.binding, error.nearest
        ) from None
    if args.write:
        point.write(args.write)
    inputs.say(args, str(point))
    if args.write:
        inputs.say(
            args,
            f"wrote {args.write}; next: cr2fast route {args.router} --point {args.write} "
            f"--encoder ENCODER --text TEXT",
        )
    else:
        inputs.say(
            args,
            f"next: cr2fast route {args.router} --lam {point.lam!r} --alpha {point.alpha!r} "
            f"--encoder ENCODER --text TEXT",
        )
    return point.to_dict() | {"file": args.write and str(args.write)}


def started(args: argparse.Namespace) -> OperatingPoint | None:
    """The chosen point of ``--point``, which gives a command its ``--lam`` and ``--alpha``."""
    if args.point is None:
        return None
    given = [f for f in ("lam", "alpha") if getattr(args, f, None) is not None]
    if given:
        raise Cr2Error(f"--point and --{given[0]}: expected one of them, got both")
    point = OperatingPoint.read(args.point)
    sha256 = hashlib.sha256(CoreRouter.load(args.router).to_bytes()).hexdigest()
    try:
        point.check_router(sha256)
    except Cr2Error as error:
        raise Cr2Error(f"--{error} (cr2fast choose)") from None
    args.lam, args.alpha = point.lam, point.alpha
    return point


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
