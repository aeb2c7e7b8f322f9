"""The engines' examples on real Ray, Daft, polars and datasets: `make scale-test`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

import cr2fast

pa = pytest.importorskip("pyarrow", reason="examples/scale/requirements.txt is not installed")
for engine in ("ray", "daft", "datasets"):
    pytest.importorskip(engine, reason="800 MB of engines: `make scale-test` has them")

import pyarrow.parquet as pq  # noqa: E402

ROOT = Path(__file__).parents[2]
# What the engines themselves warn of is not this test's.
pytestmark = pytest.mark.filterwarnings("ignore")


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "scale" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    x = splits[2].embeddings
    for k, rows in enumerate(np.array_split(np.arange(len(x)), 3)):
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].ravel()), x.shape[1])
        pq.write_table(pa.table({"embedding": embedding, "id": rows}), folder / f"{k}.parquet")
    return folder


@pytest.fixture(scope="module")
def ray():
    import ray

    # One worker: what is tested is that it routes, and a small machine has no room for more.
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
    )
    yield ray
    ray.shutdown()


@pytest.mark.parametrize("engine", ["ray", "daft", "polars", "datasets", "shards"])
def test_each_engine_gives_the_devices_decisions(
    engine, source, artifact, splits, tmp_path, request
):
    if engine == "ray":
        request.getfixturevalue("ray")
    out = tmp_path / "out"
    arguments = [engine, str(artifact), str(source), str(out), "--lam", "1", "--alpha", "0.05"]
    example("engines").main(arguments)
    rows = pa.concat_tables(
        [pq.read_table(p) for p in sorted(out.glob("*.parquet"))], promote_options="permissive"
    ).sort_by("id")
    device = cr2fast.DeviceRouter.load(artifact, 1.0, 0.05)
    x = splits[2].embeddings
    assert rows["id"].to_pylist() == list(range(len(x)))
    assert rows["local"].to_pylist() == device.route_batch(x).tolist()
    margin = np.array(rows["margin"].to_pylist(), np.float32)
    assert margin.tobytes() == device.margins(x).tobytes()
