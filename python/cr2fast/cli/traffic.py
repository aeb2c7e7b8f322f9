"""Commands on the gateway's decision logs: what can be typed, and what each does.

Heavy imports are inside, as in :mod:`cr2fast.cli.commands`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cr2fast._core import Cr2Error
from cr2fast.cli import inputs, options

# A maker of subcommands: name, what runs, what it does, epilog.
Command = Callable[..., argparse.ArgumentParser]

_LOG_HELP = """\
LOG is a decision log of cr2fast-gateway, written with embedding = true in its [log]. A path stands
for its rotated files too; a device's log and its edge's, given together, become one.
"""


def add_replay(command: Command) -> None:
    """Make the command ``cr2fast replay``."""
    sub = command(
        "replay",
        replay,
        "Say what other operating points, or another router, would have done with logged traffic.",
        _LOG_HELP,
    )
    _log(sub)
    sub.add_argument(
        "--router", type=Path, required=True, metavar="R", help="a calibrated router.safetensors"
    )
    sub.add_argument(
        "--lam",
        type=options.numbers,
        required=True,
        metavar="L,...",
        help="cost weights, on the calibrated grid",
    )
    sub.add_argument(
        "--alpha",
        type=options.numbers,
        metavar="A,...",
        help="risk levels, on the calibrated grid (default: the usual one)",
    )
    sub.add_argument(
        "--deferred",
        choices=("edge-only", "inclusive", "fallback"),
        default="edge-only",
        help="where deferred queries may go",
    )
    sub.add_argument("--fallback", metavar="MODEL", help="the model of --deferred fallback")
    sub.add_argument(
        "--link",
        choices=("logged", "measured", "table"),
        default="logged",
        help="link states: those that were decided with; measured ones, the rest drawn from the "
        "cost table; or all drawn (default logged)",
    )


def _log(sub: argparse.ArgumentParser) -> None:
    """Which log, which part of it, and whose decisions it holds."""
    sub.add_argument("log", nargs="+", metavar="LOG", help="decision logs: paths or patterns")
    sub.add_argument("--since", metavar="TIME", help="from this time on (ISO 8601, UTC)")
    sub.add_argument("--until", metavar="TIME", help="before this time")
    sub.add_argument(
        "--logged-by",
        type=Path,
        action="append",
        default=[],
        metavar="R",
        help="a router whose decisions the log holds, where its gate is another one; may be given "
        "several times",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of link states")


def opened(args: argparse.Namespace) -> Any:
    """The log that the arguments name, its faults said aloud."""
    from cr2fast.traffic import open_log

    log = open_log(args.log, since=args.since, until=args.until)
    inputs.note(args, str(log))
    return log


def replay(args: argparse.Namespace) -> Any:
    """Decide logged requests anew, at each point."""
    from cr2fast.router import Router
    from cr2fast.traffic.replay import replays, table

    router = Router.load(args.router)
    points = [(lam, alpha) for lam in args.lam for alpha in args.alpha or (None,)]
    found = in_flags(
        lambda: replays(
            opened(args),
            router,
            points,
            rule=args.deferred,
            fallback=args.fallback,
            logged_by=[Router.load(path) for path in args.logged_by],
            link=args.link,
            seed=args.seed,
        )
    )
    inputs.say(args, table(found))
    return [r.to_dict() for r in found]


def in_flags(run: Callable[[], Any]) -> Any:
    """What `run` gives; its errors name flags in place of keywords."""
    try:
        return run()
    except Cr2Error as error:
        text = str(error)
        for name in ("logged_by", "since", "until", "link", "fallback"):
            text = text.replace(f"{name}=", f"--{name.replace('_', '-')} ")
            text = text.replace(f"{name}: ", f"--{name.replace('_', '-')}: ")
        raise type(error)(text) from None
