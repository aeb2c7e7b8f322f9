"""Route a folder of Parquet files in four engines; each calls the same `RouteBatches`.

    python examples/scale/engines.py ray router.safetensors in/ out/ --lam 1 --alpha 0.05

In: Parquet files with a column `embedding` (float32 lists). Out: the same rows with `local` and
`margin`. The engines are the user's own: pip install -r examples/scale/requirements.txt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cr2fast.traffic import RouteBatches, route_shards


def with_ray(source: Path, out: Path, route: RouteBatches) -> None:
    import ray

    # Tables go through as they lie in the object store, without a copy.
    routed = ray.data.read_parquet(str(source)).map_batches(
        route, batch_format="pyarrow", zero_copy_batch=True
    )
    routed.write_parquet(str(out))


def with_daft(source: Path, out: Path, route: RouteBatches) -> None:
    import daft
    import pyarrow as pa
    from daft import DataType, Series

    both = DataType.struct({"local": DataType.bool(), "margin": DataType.float32()})

    # A column in, a column of pairs out, which become two columns.
    @daft.func.batch(return_dtype=both, unnest=True)
    def decide(embedding: Series) -> Series:
        table = route(pa.table({"embedding": embedding.to_arrow()}))
        pairs = table.select(["local", "margin"]).combine_chunks().to_struct_array()
        return Series.from_arrow(pairs.combine_chunks())

    frame = daft.read_parquet(f"{source}/*.parquet")
    frame.select(daft.col("*"), decide(daft.col("embedding"))).write_parquet(str(out))


def with_polars(source: Path, out: Path, route: RouteBatches) -> None:
    import polars as pl

    frame = pl.scan_parquet(source / "*.parquet")
    schema = pl.Schema({**frame.collect_schema(), "local": pl.Boolean, "margin": pl.Float32})
    out.mkdir(parents=True, exist_ok=True)
    frame.map_batches(route, schema=schema, streamable=True).sink_parquet(out / "routed.parquet")


def with_datasets(source: Path, out: Path, route: RouteBatches) -> None:
    from datasets import Dataset

    files = sorted(str(p) for p in source.glob("*.parquet"))
    rows = Dataset.from_parquet(files, cache_dir=str(out / ".cache")).with_format("arrow")
    rows.map(route, batched=True, batch_size=16_384).to_parquet(str(out / "routed.parquet"))


def with_shards(source: Path, out: Path, route: RouteBatches) -> None:
    # No engine: a file at a time; what a kill left undone is done by the next run.
    route_shards(sorted(source.glob("*.parquet")), out, route)


ENGINES = {
    "ray": with_ray,
    "daft": with_daft,
    "polars": with_polars,
    "datasets": with_datasets,
    "shards": with_shards,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=list(ENGINES))
    parser.add_argument("router", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lam", type=float, required=True)
    parser.add_argument("--alpha", type=float)
    args = parser.parse_args(argv)
    route = RouteBatches(args.router, args.lam, args.alpha)
    ENGINES[args.engine](args.source.resolve(), args.out.resolve(), route)


if __name__ == "__main__":
    main()
