"""Rows per second and memory of a stream of Arrow batches through RouteBatches, on one core.

    python -m benches.stream --rows 100000000

Batches are made as they are consumed, as an engine's reader makes them: 384 numbers per row. Every
`--every` batches the same batch also goes through the bare margin kernel, in turns of which comes
first, and the medians are compared. Making batches is not timed. Answers are asserted first.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.traffic import RouteBatches

D = 384
LAM, ALPHA = 1.0, 0.05


def artifact(folder: Path) -> Path:
    """A router of the usual size; what it learned is of no matter here."""
    problem = make_routing_problem(n=1500, d=D, models=4, seed=0)
    train, calibration, _ = problem.table.split((0.5, 0.4, 0.1))
    router = cr2fast.fit(train, problem.costs, teacher_epochs=1, gate_epochs=1, progress=False)
    router.calibrate(calibration, alphas=(ALPHA,), lams=[LAM])
    path = folder / "router.safetensors"
    router.save(path)
    return path


def batches(rows: int, size: int) -> Iterator[pa.RecordBatch]:
    """A reader's batches: new memory each, ids, embeddings."""
    source = np.random.default_rng(0).normal(size=(size + 997, D)).astype(np.float32)
    for start in range(0, rows, size):
        n = min(size, rows - start)
        shift = start // size % 997
        x = source[shift : shift + n].copy()
        yield pa.record_batch(
            {
                "id": np.arange(start, start + n),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D),
            }
        )


def matrix(batch: pa.RecordBatch) -> np.ndarray:
    return batch["embedding"].flatten().to_numpy().reshape(-1, D)


def resident_mb() -> float:
    """The most that was ever resident, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=lambda s: int(float(s)), default=10**8)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--every", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = artifact(Path(folder))
        route = RouteBatches(path, LAM, ALPHA)
        device = cr2fast.DeviceRouter.load(path, LAM, ALPHA)
        first = next(batches(args.batch, args.batch))
        out = route(first)
        assert out["margin"].to_numpy().tobytes() == device.margins(matrix(first)).tobytes()
        before = resident_mb()
        seen = local = 0
        times: dict[str, list[float]] = {"RouteBatches": [], "bare kernel": []}
        spent = 0.0
        for i, batch in enumerate(batches(args.rows, args.batch)):
            x = matrix(batch)
            jobs = {
                "RouteBatches": lambda b=batch: route(b),
                "bare kernel": lambda v=x: device.margins(v),
            }
            compared = i % args.every == 0 and batch.num_rows == args.batch
            names = list(jobs) if compared else ["RouteBatches"]
            for name in names if i // args.every % 2 else names[::-1]:
                begin = time.perf_counter()
                done = jobs[name]()
                took = time.perf_counter() - begin
                if compared:
                    times[name].append(took)
                if name == "RouteBatches":
                    spent += took
                    local += done["local"].true_count
            seen += batch.num_rows
        assert seen == args.rows
    medians = {name: statistics.median(t) for name, t in times.items()}
    rate = {name: args.batch / t for name, t in medians.items()}
    print(f"{seen:,} rows of {D} numbers, {local / seen:.1%} local, one thread")
    for name, r in rate.items():
        print(f"{name}: {r:,.0f} rows per second per core (median of {len(times[name])} batches)")
    print(
        f"ratio {rate['RouteBatches'] / rate['bare kernel']:.3f}; all batches {seen / spent:,.0f}/s"
    )
    print(f"resident at most {resident_mb():.0f} MB, {before:.0f} MB before the stream")


if __name__ == "__main__":
    main()
