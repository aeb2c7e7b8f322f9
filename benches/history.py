"""A history of benchmarks, which ``make bench`` adds to.

``python -m benches.history target/bench/python.json``

In: pytest-benchmark's JSON of one run. Out: one line more in ``benches/history.jsonl`` (when,
commit, machine, instruction set, median seconds), and ``target/bench/history.html``, which plots
all: one panel per benchmark, one curve per machine. Different machines never share one.
"""

from __future__ import annotations

import io
import json
import sys
from html import escape
from pathlib import Path
from typing import Any

HISTORY = Path(__file__).with_name("history.jsonl")
PAGE = Path("target/bench/history.html")


def line_of(run: dict[str, Any]) -> dict[str, Any]:
    """What of a run is kept."""
    commit, machine = run["commit_info"], run["machine_info"]
    return {
        "when": run["datetime"],
        "commit": commit["id"],
        "dirty": commit["dirty"],
        "machine": machine["cpu"].get("brand_raw") or machine["machine"],
        "simd": machine["cr2fast"]["simd"],
        "python": machine["python_version"],
        "median_s": {b["fullname"]: b["stats"]["median"] for b in run["benchmarks"]},
    }


def plot(lines: list[dict[str, Any]]) -> str:
    """An SVG: medians in the order of the runs, relative to each machine's first."""
    from matplotlib.figure import Figure

    names = sorted({name for line in lines for name in line["median_s"]})
    machines = sorted({(line["machine"], line["simd"]) for line in lines})
    figure = Figure(figsize=(8, 1 + 1.8 * len(names)), layout="constrained")
    for panel, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        for machine in machines:
            runs = [
                (i, line["median_s"][name])
                for i, line in enumerate(lines)
                if (line["machine"], line["simd"]) == machine and name in line["median_s"]
            ]
            if runs:
                x, y = zip(*runs, strict=True)
                panel.plot(x, [v / y[0] for v in y], marker="o", label=" ".join(machine))
        panel.set_title(name, fontsize=9, loc="left")
        panel.set_ylabel("× first run")
        panel.set_ylim(bottom=0)
        panel.set_xticks(range(len(lines)), [line["commit"][:7] for line in lines], fontsize=7)
    figure.axes[0].legend(fontsize=7, loc="lower left")
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


def main(path: str) -> None:
    line = line_of(json.loads(Path(path).read_text()))
    with HISTORY.open("a") as file:
        file.write(json.dumps(line) + "\n")
    lines = [json.loads(text) for text in HISTORY.read_text().splitlines()]
    body = plot(lines)
    title = f"Benchmarks of {len(lines)} runs"
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title>"
        f"<h1>{escape(title)}</h1>{body[body.index('<svg') :]}"
    )
    print(f"history: {len(lines)} runs in {HISTORY.name}, drawn in {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1])
