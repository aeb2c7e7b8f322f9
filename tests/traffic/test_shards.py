"""Shards of files: written whole, taken up again after a kill, and of one kind of decisions."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cr2fast
from cr2fast import Cr2Error
from cr2fast.traffic import RouteBatches, route_shards

LAM, ALPHA = 1.0, 0.05


@pytest.fixture(scope="module")
def x(splits):
    return splits[2].embeddings


@pytest.fixture(scope="module")
def expected(artifact, x):
    return cr2fast.DeviceRouter.load(artifact, LAM, ALPHA).margins(x)


@pytest.fixture(scope="module")
def route(artifact):
    return RouteBatches(artifact, LAM, ALPHA)


def table(x):
    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table({"embedding": rows, "id": pa.array(range(len(x)), pa.int64())})


@pytest.fixture
def files(tmp_path, x):
    folder = tmp_path / "in"
    folder.mkdir()
    for k, part in enumerate(np.array_split(x, 5)):
        pq.write_table(table(part), folder / f"{k}.parquet")
    pq.write_table(table(x[:0]), folder / "5.parquet")
    return sorted(folder.iterdir())


def margins(folder):
    """What stands in the shards, in their order, as bytes."""
    shards = [pq.read_table(p) for p in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(shards)["margin"].to_numpy().astype(np.float32).tobytes()


def test_shards_are_written_whole_and_a_second_run_writes_none(route, files, tmp_path, expected):
    done = route_shards(files, tmp_path / "out", route, batch_rows=33)
    assert (done.written, done.there, done.rows) == (6, 0, len(expected))
    assert margins(tmp_path / "out") == expected.tobytes()
    again = route_shards(files, tmp_path / "out", route)
    assert (again.written, again.there, again.rows) == (0, 6, 0)


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from cr2fast.traffic import route_shards
route, files, out = pickle.loads(sys.stdin.buffer.read())
calls = [0]
class Killed(type(route)):
    def __call__(self, batch):
        calls[0] += 1
        if calls[0] == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)
route.__class__ = Killed
route_shards(files, out, route, batch_rows=33)
"""


def test_kill_nine_loses_one_shard_at_most(route, files, tmp_path, expected):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        input=pickle.dumps((route, files, out)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    # 100 rows a file are four calls: the kill came in the second file's last.
    whole = sorted(p.name for p in out.glob("*.parquet"))
    assert whole == ["0.parquet"]
    left = list(out.glob(".*.part"))
    assert [p.name for p in left] == [".1.parquet.part"]
    again = route_shards(files, out, route, batch_rows=33)
    assert (again.written, again.there) == (5, 1)
    assert not list(out.glob(".*.part"))
    assert margins(out) == expected.tobytes()


def test_a_folder_of_other_decisions_is_not_added_to(route, artifact, files, tmp_path):
    out = tmp_path / "out"
    route_shards(files[:1], out, route)
    with pytest.raises(Cr2Error, match="name another folder"):
        route_shards(files, out, RouteBatches(artifact, LAM, 0.1))
    (out / "_cr2fast.json").write_text("{")
    with pytest.raises(Cr2Error, match="name another folder"):
        route_shards(files, out, route)
    with pytest.raises(Cr2Error, match="distinct names"):
        route_shards([files[0], Path("x") / files[0].name], tmp_path / "new", route)
