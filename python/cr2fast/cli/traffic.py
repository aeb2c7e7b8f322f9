"""Commands on the gateway's decision logs: what can be typed, and what each does.

Heavy imports are inside, as in :mod:`cr2fast.cli.commands`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown
from cr2fast.cli import inputs, options
from cr2fast.cli.words import in_flags

# A maker of subcommands: name, what runs, what it does, epilog.
Command = Callable[..., argparse.ArgumentParser]

_LOG_HELP = """\
LOG is a decision log of cr2fast-gateway, written with embedding = true in its [log]. A path stands
for its rotated files too; a device's log and its edge's, given together, become one.
"""


_WATCH_HELP = """
At each look, the requests that came since the last one are counted by an alarm that, while the
promise holds, is ever raised with probability DELTA at most. A new router is written only if the
alarm is raised, the window of the log is whole, and new thresholds pass a check on its last part;
else each look says why not. With --json each look is a line on stderr, the last one the document on
stdout. With --looks, the status is 2 where the last look is a refusal.
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


def add_recalibrate(command: Command) -> None:
    """Make the command ``cr2fast recalibrate``."""
    sub = command(
        "recalibrate",
        recalibrate,
        "Set new thresholds from logged traffic, which the teacher labels; check them on its last "
        "part.",
        _LOG_HELP,
    )
    _log(sub)
    sub.add_argument(
        "--router", type=Path, required=True, metavar="R", help="the router that serves"
    )
    _check(sub)
    sub.add_argument(
        "--link",
        choices=["table", "measured", "logged"],
        default="table",
        help="link states to make thresholds with: drawn from the cost table; those that were "
        "measured, the rest drawn; or what the gateway decided with (default table)",
    )
    sub.add_argument(
        "--force",
        action="store_true",
        help="write the new router even where the check on the held part fails",
    )
    sub.add_argument("-o", "--out", type=Path, required=True, help="file to write")


def add_watch(command: Command) -> None:
    """Make the command ``cr2fast watch``."""
    sub = command(
        "watch",
        watch,
        "Look at a log on a schedule; write a recalibrated router when the promise is broken.",
        _LOG_HELP + _WATCH_HELP,
    )
    sub.add_argument("log", nargs="+", metavar="LOG", help="decision logs: paths or patterns")
    sub.add_argument(
        "--router", type=Path, required=True, metavar="R", help="the router that serves; replaced"
    )
    sub.add_argument(
        "--state", type=Path, required=True, metavar="S", help="what is kept between looks"
    )
    sub.add_argument("--lam", type=float, required=True, help="the cost weight under watch")
    sub.add_argument("--alpha", type=float, required=True, help="the risk level under watch")
    sub.add_argument(
        "--delta",
        type=float,
        default=0.01,
        help="chance of a false alarm, however long it watches (default 0.01)",
    )
    sub.add_argument(
        "--every", type=float, default=3600.0, metavar="S", help="seconds between looks (3600)"
    )
    sub.add_argument("--looks", type=int, metavar="N", help="stop after N looks (default: never)")
    sub.add_argument(
        "--window-h", type=float, default=168.0, help="hours of the log that recalibrate (168)"
    )
    sub.add_argument(
        "--min-queries", type=int, default=1000, help="fewest requests that recalibrate (1000)"
    )
    sub.add_argument(
        "--max-unread",
        type=float,
        default=0.01,
        help="largest fraction of torn or wrong lines (0.01)",
    )
    sub.add_argument(
        "--gap-s", type=float, default=3600.0, help="seconds of silence that are a gap (3600)"
    )
    sub.add_argument(
        "--reload-pid",
        type=Path,
        metavar="FILE",
        help="a file with the gateway's process id, which is sent SIGHUP after a new router",
    )
    _check(sub)
    _written_by(sub)


def _check(sub: argparse.ArgumentParser) -> None:
    """How new thresholds are checked."""
    sub.add_argument(
        "--held",
        type=float,
        default=0.2,
        help="fraction of the requests, the latest, that check the new thresholds (default 0.2)",
    )
    sub.add_argument(
        "--level", type=float, default=0.01, help="false-alarm rate of the checks (default 0.01)"
    )


def _log(sub: argparse.ArgumentParser) -> None:
    """Which log, which part of it, and whose decisions it holds."""
    sub.add_argument("log", nargs="+", metavar="LOG", help="decision logs: paths or patterns")
    sub.add_argument("--since", metavar="TIME", help="from this time on (ISO 8601, UTC)")
    sub.add_argument("--until", metavar="TIME", help="before this time")
    _written_by(sub)


def _written_by(sub: argparse.ArgumentParser) -> None:
    """Whose decisions a log holds, and the encoder that tells whose texts."""
    sub.add_argument(
        "--logged-by",
        type=Path,
        action="append",
        default=[],
        metavar="R",
        help="a router whose decisions the log holds, where its gate is another one; may be given "
        "several times",
    )
    sub.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="the router's encoder, to check that the log's texts belong to their rows: minilm, a "
        "folder, the file of a static one, or URL#MODEL (default: MiniLM where it is the router's)",
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
    from cr2fast.traffic.replay import replays
    from cr2fast.traffic.replayed import table

    router = Router.load(args.router)
    points = [(lam, alpha) for lam in args.lam for alpha in args.alpha or (None,)]
    found = replays(
        opened(args),
        router,
        points,
        rule=args.deferred,
        fallback=args.fallback,
        link=args.link,
        **_writers(args, router),
    )
    inputs.say(args, table(found))
    return [r.to_dict() for r in found]


def recalibrate(args: argparse.Namespace) -> Any:
    """Calibrate on logged requests and write the router, if the check is good."""
    from cr2fast.router import Router
    from cr2fast.traffic.recalibrate import recalibrate as run

    inputs.writable(args.out)
    router = Router.load(args.router)
    done = run(
        opened(args),
        router,
        held=args.held,
        level=args.level,
        link=args.link,
        **_writers(args, router),
    )
    inputs.say(args, str(done))
    if not (done.good or args.force):
        raise Cr2Error(
            "the new thresholds fail on the held part, and nothing was written: the traffic moved "
            "within the log; pass a later --since, or --force"
        )
    done.router.save(args.out)
    inputs.say(args, f"wrote {args.out}\n{done.report.statement}")
    return done.to_dict() | {"router": str(args.out)}


def watch(args: argparse.Namespace) -> Any:
    """Look, say what was found, and look again."""
    from cr2fast._util.jsontext import json_ready
    from cr2fast.router import Router
    from cr2fast.traffic.watch import Watch

    if args.looks is not None and args.looks < 1:
        raise Cr2Error(f"--looks: expected a number of looks, at least 1, got {args.looks}")
    inputs.writable(args.state, "--state")
    if args.reload_pid is not None:
        _process(args.reload_pid)
    watched = Watch(
        args.log,
        args.router,
        args.state,
        [(args.lam, args.alpha)],
        delta=args.delta,
        window_s=args.window_h * 3600,
        min_queries=args.min_queries,
        held=args.held,
        level=args.level,
        max_unread=args.max_unread,
        gap_s=args.gap_s,
        reload=None if args.reload_pid is None else lambda _: _hang_up(args.reload_pid),
        **_writers(args, Router.load(args.router)),
    )
    last = None
    for look in watched.run(args.every, args.looks):
        told = replace(look, why=tuple(in_flags(text, args.sub) for text in look.why))
        last = told.to_dict()
        # A line per look as it happens, for whoever reads along.
        print(json.dumps(json_ready(last)) if args.json else told, flush=True, file=_stream(args))
        # A script that looks once has to be told, too, that nothing was watched.
        args.status = 2 if look.verdict == "refused" else 0
    return last


def _writers(args: argparse.Namespace, router: Any) -> dict[str, Any]:
    """Whose decisions the log holds, and what checks its texts; the seed of what is drawn."""
    from cr2fast.router import Router

    given = args.encoder is not None
    made = inputs.encoder(args.encoder, args.router) if given else inputs.encoder_of(router)
    return {
        "logged_by": [Router.load(path) for path in args.logged_by],
        "encoder": made if hasattr(made, "encode") else None,
        "seed": args.seed,
    }


def _stream(args: argparse.Namespace) -> Any:
    return sys.stderr if args.json else sys.stdout


def _hang_up(path: Path) -> None:
    """Send SIGHUP to the process that a file names."""
    os.kill(_process(path), signal.SIGHUP)


def _process(path: Path) -> int:
    """The process id that a file holds."""
    try:
        text = path.read_bytes()
        number = int(text)
    except OSError as error:
        raise Cr2Error(
            f"--reload-pid: expected a file with the gateway's process id, got {path}: "
            f"{error.strerror}"
        ) from None
    except ValueError:
        got = shown(text[:40].decode(errors="replace"))
        raise Cr2Error(f"--reload-pid: expected a process id in {path}, got {got}") from None
    if number <= 1:
        raise Cr2Error(f"--reload-pid: expected a process id in {path}, got {number}")
    return number
