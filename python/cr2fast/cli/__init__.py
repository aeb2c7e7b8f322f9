"""The command line: ``cr2fast`` and ``python -m cr2fast``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from cr2fast._core import Cr2Error
from cr2fast.cli.parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status (2 for bad input, 130 for Ctrl-C)."""
    args = parser().parse_args(argv)
    try:
        result = args.run(args)
        if args.json:
            from cr2fast._util.jsontext import json_ready

            print(json.dumps(json_ready(result), allow_nan=False))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has enough (`| head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Cr2Error, OSError, ImportError, TypeError) as error:
        print(f"cr2fast {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cr2fast {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0
