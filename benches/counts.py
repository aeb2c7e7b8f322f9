"""Instruction counts of the hot kernels against those committed: `make counts`.

In: the harness's JSON summaries, one per line on standard input; `rust/core/benches/counts.json`.
Out: a table; exit 1 when a kernel needs over 3 % more instructions than committed (and over 50
more: the C library copies and compares by other code on another processor), or when the kernels are
not the committed ones. `--accept` writes the counts instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

COMMITTED = Path(__file__).parents[1] / "rust/core/benches/counts.json"
ALLOWED = 3  # percent
ALWAYS_ALLOWED = 50  # instructions


def measured(lines: Iterable[str]) -> dict[str, int]:
    """Instructions of each benchmark, by its name."""
    counts = {}
    for line in lines:
        if not line.startswith("{"):
            continue
        summary = json.loads(line)
        name = f"{summary['function_name']}/{summary['id']}"
        counts[name] = instructions(summary)
    return counts


def instructions(summary: dict) -> int:
    """Ir of a summary's callgrind run; beside an older run's it is the first of two."""
    (profile,) = (p for p in summary["profiles"] if p["tool"] == "Callgrind")
    values = profile["data"]["total"]["metrics"]["Ir"]["values"]
    return int(values["new"] if "new" in values else values["both"][0])


def compare(committed: dict[str, int], now: dict[str, int]) -> list[str]:
    """What is wrong, a line each; prints the table."""
    wrong = []
    for name in sorted(committed | now):
        if name not in now or name not in committed:
            where = "committed but not run" if name not in now else "run but not committed"
            wrong.append(f"{name}: {where}")
            continue
        change = now[name] / committed[name] - 1
        print(f"{name:40s} {committed[name]:>14,} {now[name]:>14,}  {change:+8.2%}")
        more = now[name] - committed[name]
        if more > ALWAYS_ALLOWED and more * 100 > committed[name] * ALLOWED:
            wrong.append(f"{name}: {change:+.1%} instructions, +{ALLOWED} % allowed")
    return wrong


def main() -> None:
    now = measured(sys.stdin)
    compiler = subprocess.check_output(["rustc", "--version"], text=True).strip()
    if not now:
        sys.exit("counts: the harness printed no counts; see its errors above")
    if "--accept" in sys.argv[1:]:
        text = json.dumps({"compiler": compiler, "instructions": now}, indent=2)
        COMMITTED.write_text(text + "\n")
        print(f"counts: wrote {COMMITTED}")
        return
    committed = json.loads(COMMITTED.read_text())
    wrong = compare(committed["instructions"], now)
    if compiler != committed["compiler"]:
        print(f"counts: committed with {committed['compiler']}, run with {compiler}")
    if wrong:
        print("\n".join(["", *wrong]), file=sys.stderr)
        sys.exit(
            "counts: if the change is meant, run `make counts-accept`, commit "
            "rust/core/benches/counts.json with it and say why in the message"
        )


if __name__ == "__main__":
    main()
