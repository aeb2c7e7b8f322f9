"""``python -m cr2fast.traffic LOG``: what a decision log holds, and what could not be read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cr2fast._core import Cr2Error
from cr2fast.traffic.log import open_log

_SHOWN = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Print a log's size, its decisions by place and reason, and the lines kept apart."""
    parser = argparse.ArgumentParser("python -m cr2fast.traffic", description=__doc__)
    parser.add_argument("log", nargs="+", help="decision logs: paths or patterns")
    parser.add_argument("--since", metavar="TIME", help="from this time on (ISO 8601, UTC)")
    parser.add_argument("--until", metavar="TIME", help="before this time")
    args = parser.parse_args(argv)
    try:
        log = open_log(args.log, since=args.since, until=args.until)
    except (Cr2Error, OSError, ImportError) as error:
        print(f"python -m cr2fast.traffic: error: {error}", file=sys.stderr)
        return 2
    print(log)
    counts = log.frame.group_by("place", "why", "outcome").len().sort("len", descending=True)
    for place, why, outcome, n in counts.rows():
        print(f"{n}\t{place or 'nowhere'}\t{why or '-'}\t{outcome}")
    for file, line, _, words in log.apart.head(_SHOWN).rows():
        print(f"{file}:{line}: {words}")
    if log.apart.height > _SHOWN:
        print(f"and {log.found.unread - _SHOWN} more lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
