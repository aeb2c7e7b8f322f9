"""The command line: ``cr2fast`` and ``python -m cr2fast``.

What takes long to import is imported by :func:`main`, which hears Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status (2 for bad input, 130 for Ctrl-C)."""
    if not _streams():
        return 2
    name = "cr2fast"
    try:
        # Imports take a third of a second, in which Ctrl-C is pressed too.
        from cr2fast.cli.parser import parser

        args = parser().parse_args(argv)
        name = f"cr2fast {args.command}"
        return _run(args, name)
    except KeyboardInterrupt:
        _ignore_interrupts()
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace, name: str) -> int:
    """Run the command that was typed."""
    from cr2fast._core import Cr2Error
    from cr2fast.cli.options import check_outputs
    from cr2fast.cli.words import said

    try:
        check_outputs(args)
        result = args.run(args)
        if (unheard := getattr(args, "unheard", None)) is not None:
            raise unheard
        if args.json:
            from cr2fast._util.jsontext import json_ready

            print(json.dumps(json_ready(result), allow_nan=False))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has enough (`| head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Cr2Error, OSError, ImportError, TypeError) as error:
        print(f"{name}: error: {said(error, args)}", file=sys.stderr)
        return 2
    return int(getattr(args, "status", 0))


def script() -> int:
    """What the shell starts: :func:`main`, and nothing is said after it."""
    # A warning is for people: what it says, without the line of code that said it.
    warnings.formatwarning = lambda message, *_, **__: f"cr2fast: warning: {message}\n"
    code = main()
    if code == 130:
        _ignore_interrupts()
    return code


def _streams() -> bool:
    """Streams that can take any text; False, and a word about it, where stdout is closed."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding gets the characters that it lacks as escapes.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        print(
            "cr2fast: error: expected a stdout to write to, got a closed one; "
            "redirect it to a file or to /dev/null",
            file=sys.stderr,
        )
        return False
    return True


def _ignore_interrupts() -> None:
    """Let no second Ctrl-C, perhaps one already on its way, break off the last words."""
    for _ in range(3):
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            continue
        except ValueError:  # Not the main thread, where no Ctrl-C arrives.
            pass
        return
