"""The paper's experiments on real outcomes: every router, every figure, one report.

    CR2FAST_DATA=DIR python -m benches.paper.run [--seeds 5] [--out target/paper]

Written to a folder per pool: ``results.json`` (all numbers), ``*.png``, and ``report.html``, which
holds everything in one file; beside them ``results.md``, the documents' page. A seed that is done
is kept (``seed-0.json``, ``seed-0.npz``) and not run again while code, library and data stay the
same, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

import cr2fast
from benches.paper import complexity, cr2, documents, figures, page, study, summary
from benches.pools import pools
from cr2fast import _core
from cr2fast._util.jsontext import json_ready
from cr2fast.datasets import load_folder


def fingerprint(data, scope):
    """Digest of everything a seed's numbers depend on."""
    digest = hashlib.sha256(f"{scope} {cr2fast.__version__}".encode())
    sources = sorted(Path(__file__).parent.glob("*.py"))
    core = sorted(Path(cr2fast.__file__).parent.rglob("*.so"))
    python = sorted(Path(cr2fast.__file__).parent.rglob("*.py"))
    shown = {"run.py", "figures.py", "page.py", "summary.py", "complexity.py", "documents.py"}
    tables = sorted(p for p in Path(data).glob("*") if p.is_file())
    for path in [p for p in sources if p.name not in shown] + core + python + tables:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def one_seed(problem, seed, scope, key, folder, bar):
    """A seed's document and replicates, from its files or by running it."""
    start = time.perf_counter()
    json_path, npz_path = folder / f"seed-{seed}.json", folder / f"seed-{seed}.npz"
    if json_path.exists() and npz_path.exists():
        document = json.loads(json_path.read_text())
        if document["fingerprint"] == key:
            bar.update(study.steps(scope))
            bar.write(f"seed {seed}: from {json_path}")
            return document, dict(np.load(npz_path))

    def tick(what):
        bar.set_postfix_str(f"seed {seed}, {what}")
        bar.update()

    document, replicates = study.run(problem, seed, scope, tick)
    document = json_ready(document | {"fingerprint": key})
    for path, write in (
        (npz_path, lambda f: np.savez(f, **replicates)),
        (json_path, lambda f: f.write(json.dumps(document).encode())),
    ):
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    bar.write(f"seed {seed}: {time.perf_counter() - start:.0f} s")
    return document, replicates


def one_pool(name, data, seeds, scope, out):
    """All seeds of a pool: its results, written with figures and page."""
    out.mkdir(parents=True, exist_ok=True)
    problem, start = load_folder(data), time.perf_counter()
    key = fingerprint(data, scope)
    total = seeds * study.steps(scope)
    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=total, desc=name, bar_format=layout, disable=None) as bar:
        runs = [one_seed(problem, seed, scope, key, out, bar) for seed in range(seeds)]
    results = summary.over_seeds([d for d, _ in runs], [r for _, r in runs])
    rounds = {"rounds": 50} if scope.queries else {}
    results["complexity"] = complexity.measure(scope.part(problem.table), problem.costs, **rounds)
    results["data"] = {
        "name": name, "models": list(problem.table.models),
        "reference": problem.costs.reference_model, "costs": problem.costs.source,
    }  # fmt: skip
    results["run"] = {
        "points": len(cr2.LAMS) * len(cr2.ALPHAS),
        "seeds": seeds, "repeats": scope.repeats, "fingerprint": key,
        "cr2fast": cr2fast.__version__, "cpus": _core.thread_count(),
        "seconds_of_seeds": sum(d["seconds"] for d, _ in runs),
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
    results = json_ready(results)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    images = figures.draw(results, out)
    page.write(results, images, out / "report.html")
    print(f"\n{name}")
    print(summary.text(results))
    print(f"wrote {out}/results.json, {len(images)} figures, {out}/report.html")
    return results


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="A run with five seeds takes half an hour to an hour per pool on two cores, --quick "
        "two minutes.",
    )
    parser.add_argument(
        "--data",
        default=os.environ.get("CR2FAST_DATA"),
        help="data folder, as cr2fast.datasets.load_folder reads it, or a folder of such folders",
    )
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ... (default 5)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=2,
        help="hold-outs behind each choice of a configuration (default 2)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed of 4,000 queries, usual configurations, no ablations",
    )
    parser.add_argument("--out", type=Path, default=Path("target/paper"), help="output folder")
    args = parser.parse_args(argv)
    if not args.data:
        sys.exit("paper: --data DIR or CR2FAST_DATA is needed: the experiments are on real answers")
    if args.seeds < 1 or args.repeats < 1:
        sys.exit("paper: --seeds and --repeats must be at least 1")
    scope = study.QUICK if args.quick else study.Scope(repeats=args.repeats)
    seeds = 1 if args.quick else args.seeds
    # The MLP of the published baseline stops at 200 iterations, converged or not.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    found = pools(args.data)
    results = [one_pool(name, data, seeds, scope, args.out / name) for name, data in found.items()]
    print(f"wrote {documents.write(results, args.out)}: {', '.join(found)}")


if __name__ == "__main__":
    main()
