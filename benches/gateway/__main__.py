"""What the gateway costs and what it keeps, in one run: a table of bars.

python -m benches.gateway --quick                 # a look: two minutes
python -m benches.gateway                         # ten minutes on a quiet machine of two cores
python -m benches.gateway --only latency,memory
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict

from .bars import BARS, FULL, QUICK, Row, installed
from .world import ROOT, World, build


def table(rows: list[Row]) -> str:
    """The rows as text, in columns."""
    words = {True: "holds", False: "MISSED", None: "not measured"}
    cells = [("", "measured", "bar", "")]
    cells += [(r.name, r.measured, r.bar, words[r.holds] if r.bar else "") for r in rows]
    widths = [max(len(c[k]) for c in cells) for k in range(3)]
    pad = lambda c: "  ".join(x.ljust(w) for x, w in zip(c, widths, strict=False))  # noqa: E731
    return "\n".join(f"{pad(c)}  {c[3]}".rstrip() for c in cells)


def main() -> int:
    """Run the bars; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: a look, no figures")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(BARS)}")
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--profile", default="release", help="cargo profile of the gateway")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(BARS)
    unknown = [name for name in names if name not in BARS]
    if unknown:
        parser.error(f"--only: expected names of {', '.join(BARS)}, got {', '.join(unknown)}")
    gateway, load = build(args.profile)
    out = ROOT / "target" / "gateway-bench"
    out.mkdir(parents=True, exist_ok=True)
    if not args.without_litellm and not installed(out / "litellm"):
        print("LiteLLM could not be installed: its bars are left out", file=sys.stderr)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, profile {args.profile}")
    rows: list[Row] = []
    for name in names:
        folder = out / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        world = World(folder, gateway, load)
        began = time.monotonic()
        with world.running:
            world.prepare()
            found = BARS[name](world, QUICK if args.quick else FULL)
        for row in found:
            print(f"{row.name}: {row.measured} ({time.monotonic() - began:.0f} s)", flush=True)
        rows += found
    print("\n" + table(rows))
    kept = out / ("quick.json" if args.quick else "result.json")
    kept.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
