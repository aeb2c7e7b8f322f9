"""The engines' examples on real Ray, Daft, polars and datasets: `make scale-test`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
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
        tokens = splits[2].n_input_tokens[rows]
        columns = {"embedding": embedding, "id": rows, "n_input_tokens": tokens}
        pq.write_table(pa.table(columns), folder / f"{k}.parquet")
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


@pytest.mark.parametrize("engine", ["ray", "processes"])
def test_thresholds_of_partitions_are_those_of_one_machine(
    engine, source, artifact, splits, tmp_path
):
    out = tmp_path / "thresholds.json"
    # A process of its own, as a user would start it.
    done = subprocess.run(
        [
            sys.executable, ROOT / "examples" / "scale" / "calibrate.py", engine, artifact, source,
            out, "--lams", "0.5,1", "--alphas", "0.02,0.05", "--seed", "3",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    router = cr2fast.Router.load(artifact)
    test, lams = splits[2], [0.5, 1.0]
    states = router.costs.sample_states(len(test), 3)
    lengths = router.predict_lengths(test.embeddings, test.n_input_tokens)
    costs = router.costs.cost(test.n_input_tokens, lengths, states)
    r = cr2fast._core.choice_margins(router.accuracies(test.embeddings), costs, lams) < 0
    expected = cr2fast.crc_thresholds(router.margins(test.embeddings, lams), r, [0.02, 0.05])
    found = np.array(json.loads(out.read_text())["thresholds"], np.float32)
    assert found.tobytes() == expected.tobytes()
