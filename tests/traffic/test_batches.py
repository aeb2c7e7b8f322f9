"""One callable for all engines: the decisions of the device, bit for bit, from every kind of batch."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import cr2fast
from cr2fast import Cr2Error, OperatingPointError
from cr2fast.datasets import make_routing_problem
from cr2fast.traffic import RouteBatches, columns
from testing.letters import LETTERS, letters
from testing.routers import small

LAM, ALPHA = 1.0, 0.05


@pytest.fixture(scope="module")
def x(splits):
    return splits[2].embeddings


@pytest.fixture(scope="module")
def expected(artifact, x):
    device = cr2fast.DeviceRouter.load(artifact, LAM, ALPHA)
    return device.margins(x), device.route_batch(x)


@pytest.fixture(scope="module")
def route(artifact):
    return RouteBatches(artifact, LAM, ALPHA)


def fixed(x):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def listed(x, large=False):
    kind = pa.large_list(pa.float32()) if large else pa.list_(pa.float32())
    return pa.array(list(x), kind)


def tensors(x):
    kind = pa.fixed_shape_tensor(pa.float32(), [x.shape[1]])
    return pa.ExtensionArray.from_storage(kind, fixed(x))


BATCHES = {
    "table": lambda x: pa.table({"embedding": fixed(x), "id": pa.array(range(len(x)), pa.int64())}),
    "chunks": lambda x: pa.concat_tables(
        [pa.table({"embedding": fixed(part), "id": range(len(part))}) for part in (x[:7], x[7:])]
    ),
    "slice": lambda x: pa.table({"embedding": fixed(np.concatenate([x[:5], x]))}).slice(5),
    "lists": lambda x: pa.table({"embedding": listed(x)}),
    "large lists": lambda x: pa.table({"embedding": listed(x, large=True)}),
    "sliced lists": lambda x: pa.table({"embedding": listed(np.concatenate([x[:5], x]))}).slice(5),
    "tensors": lambda x: pa.table({"embedding": tensors(x)}),
    "record batch": lambda x: pa.record_batch({"embedding": fixed(x), "id": range(len(x))}),
    "polars": lambda x: pl.DataFrame({"embedding": x, "id": range(len(x))}),
    "polars lists": lambda x: pl.DataFrame({"embedding": x.tolist()}).cast(
        {"embedding": pl.List(pl.Float32)}
    ),
    "pandas": lambda x: pd.DataFrame({"embedding": list(x)}),
    "arrays": lambda x: {"embedding": x, "id": np.arange(len(x))},
    "objects": lambda x: {"embedding": np.array([*list(x), None], dtype=object)[:-1]},
    "python lists": lambda x: {"embedding": x.tolist()},
}


def column(batch, name):
    values = batch[name]
    return np.asarray(
        values.to_pylist() if isinstance(batch, (pa.Table, pa.RecordBatch)) else values
    )


@pytest.mark.parametrize("kind", BATCHES)
def test_every_kind_of_batch_gets_the_devices_decisions(route, x, expected, kind):
    batch = BATCHES[kind](x)
    out = route(batch)
    assert type(out) is type(batch)
    assert column(out, "margin").astype(np.float32).tobytes() == expected[0].tobytes()
    assert (column(out, "local") == expected[1]).all()
    before, after = (columns.names_of(b, columns.kind_of(b)) for b in (batch, out))
    assert after == [*before, "local", "margin"]


@pytest.mark.parametrize("kind", BATCHES)
def test_an_empty_batch_has_the_columns_too(route, x, kind):
    if kind in ("slice", "sliced lists", "objects", "python lists", "polars lists", "pandas"):
        batch = BATCHES["table"](x).slice(0, 0)
    else:
        batch = BATCHES[kind](x[:0])
    out = route(batch)
    assert len(column(out, "local")) == len(column(out, "margin")) == 0


def arrow(batch):
    """The Arrow schema of a batch of any kind, without what libraries add to it."""
    if isinstance(batch, pl.DataFrame):
        batch = batch.to_arrow()
    elif isinstance(batch, pd.DataFrame):
        batch = pa.Table.from_pandas(batch, preserve_index=False)
    elif isinstance(batch, dict):
        batch = pa.table({k: pa.array(v) for k, v in batch.items()})
    return batch.schema.remove_metadata()


# The columns that are made, without rows, with rows, and with rows none of which is valid.
MADE = {
    "table": lambda x: pa.table({"embedding": fixed(x), "n": np.ones(len(x))}),
    "untyped": lambda x: pa.table(
        {"embedding": listed(x) if len(x) else pa.nulls(0), "n": np.ones(len(x))}
    ),
    "record batch": lambda x: pa.record_batch({"embedding": fixed(x), "n": np.ones(len(x))}),
    "polars": lambda x: pl.DataFrame({"embedding": x, "n": np.ones(len(x))}),
    "polars lists": lambda x: pl.DataFrame({"embedding": x.tolist(), "n": np.ones(len(x))}),
    "pandas": lambda x: pd.DataFrame({"embedding": list(x), "n": np.ones(len(x))}),
    "arrays": lambda x: {"embedding": x, "n": np.ones(len(x))},
    "lists": lambda x: {"embedding": x.tolist(), "n": [1.0] * len(x)},
}


@pytest.mark.parametrize("kind", MADE)
def test_the_schema_does_not_depend_on_the_rows(artifact, x, kind):
    route = RouteBatches(artifact, LAM, ALPHA, tokens="n", invalid="defer", prefix="cr2fast_")
    made = [f"cr2fast_{name}" for name in ("local", "margin", "model")]

    def types(batch):
        found = arrow(
            {k: v for k, v in batch.items() if k in made} if type(batch) is dict else batch
        )
        return [str(found.field(name).type) for name in made]

    full = route(MADE[kind](x[:20]))
    assert len(set(column(full, "cr2fast_model").tolist())) > 1
    assert types(full)[:2] == ["bool", "float"]
    assert types(route(MADE[kind](x[:0]))) == types(full)
    none = np.full((3, x.shape[1]), np.nan, np.float32)
    if type(full) is dict:  # NumPy's text cannot lack.
        assert route(MADE[kind](none))["cr2fast_model"].tolist() == [None] * 3
    else:
        assert types(route(MADE[kind](none))) == types(full)


def test_it_travels_small_and_loads_in_its_worker(route, x, expected, artifact):
    data = pickle.dumps(route)
    assert len(data) < 1000
    code = (
        "import pickle, sys; import numpy as np;"
        "route = pickle.loads(sys.stdin.buffer.read());"
        "x = np.load(sys.argv[1]);"
        "out = route({'embedding': x});"
        "sys.stdout.buffer.write(out['margin'].tobytes())"
    )
    where = artifact.parent / "x.npy"
    np.save(where, x)
    done = subprocess.run(
        [sys.executable, "-c", code, where], input=data, capture_output=True, check=True
    )
    assert done.stdout == expected[0].tobytes()


def test_an_artifact_that_was_replaced_since_is_refused(artifact, x, tmp_path, splits):
    path = tmp_path / "router.safetensors"
    shutil.copy(artifact, path)
    route = RouteBatches(path, LAM, ALPHA)
    data = pickle.dumps(route)
    router = cr2fast.Router.load(path)
    router.calibrate(splits[2], alphas=(0.05,))
    router.save(path)
    from cr2fast.traffic import batches

    batches._routers.cache_clear()
    with pytest.raises(Cr2Error, match="it was replaced since the job began"):
        pickle.loads(data)({"embedding": x})


def test_models_where_token_counts_are_known(artifact, x, splits, expected):
    route = RouteBatches(artifact, LAM, ALPHA, tokens="n")
    n = splits[2].n_input_tokens
    out = route(pa.table({"embedding": fixed(x), "n": n}))
    two = cr2fast.TwoStage.load(artifact, LAM, ALPHA)
    index = two.route_batch(x, n).index
    assert out["model"].to_pylist() == [two.models[k] for k in index]
    assert (np.array(out["model"].to_pylist()) == two.models[0]).tolist() == expected[1].tolist()
    with pytest.raises(Cr2Error, match="n: expected numbers of tokens"):
        route({"embedding": x, "n": ["a"] * len(x)})


@pytest.mark.parametrize("kind", ["table", "lists", "polars", "objects"])
def test_invalid_rows_are_an_error_or_deferred(artifact, x, expected, kind):
    bad = x[:20].copy()
    bad[3, 2], bad[7, 0] = np.nan, np.inf
    rows = list(bad)
    rows[11] = None
    batch = {
        "table": lambda: pa.table(
            {"embedding": pa.array(rows, pa.list_(pa.float32(), x.shape[1]))}
        ),
        "lists": lambda: pa.table({"embedding": pa.array(rows, pa.list_(pa.float32()))}),
        "polars": lambda: pl.DataFrame(
            {
                "embedding": pl.Series(
                    [None if r is None else r.tolist() for r in rows],
                    dtype=pl.Array(pl.Float32, x.shape[1]),
                )
            }
        ),
        "objects": lambda: {"embedding": np.array(rows, dtype=object)},
    }[kind]()
    with pytest.raises(Cr2Error, match="an embedding in every row, got none in 1 of 20"):
        RouteBatches(artifact, LAM, ALPHA)(batch)
    with pytest.raises(Cr2Error, match="finite|NaN"):
        RouteBatches(artifact, LAM, ALPHA)({"embedding": bad})
    out = RouteBatches(artifact, LAM, ALPHA, invalid="defer")(batch)
    good = np.ones(20, bool)
    good[[3, 7, 11]] = False
    local, margin = column(out, "local"), column(out, "margin").astype(np.float32)
    assert not local[~good].any()
    assert np.isnan(margin[~good]).all()
    assert margin[good].tobytes() == expected[0][:20][good].tobytes()
    assert (local[good] == expected[1][:20][good]).all()


def test_what_is_wrong_with_a_batch_is_said(route, x):
    for batch, words in [
        (pa.table({"e": fixed(x)}), "expected a column 'embedding', got"),
        (pa.table({"embedding": fixed(x[:, :8].copy())}), "width 40, the router's, got"),
        (pa.table({"embedding": pa.array([[1.0], [1.0, 2.0]])}), "width 40"),
        (pa.table({"embedding": ["a"]}), "lists of float32, got string"),
        (pa.table({"embedding": pa.array([[1, 2]])}), "lists of float32, got list"),
        (pl.DataFrame({"embedding": [1.0]}), "lists of float32, got Float64"),
        ({"embedding": np.zeros((2, 40), int)}, "float32 embeddings, got int64"),
        ({"embedding": np.zeros((2, 3))}, "width 40"),
        ({"embedding": x, "local": np.zeros(len(x))}, "no column 'local' yet"),
    ]:
        with pytest.raises(Cr2Error, match=words):
            route(batch)
    inner = pa.array([[0.0] * 39 + [None]], pa.list_(pa.float32()))
    with pytest.raises(Cr2Error, match="no nulls inside"):
        route(pa.table({"embedding": inner}))
    for batch in ([1], None, "x"):
        with pytest.raises(TypeError, match="batch: expected a pyarrow"):
            route(batch)


def test_what_is_wrong_with_a_job_is_said_before_it_begins(artifact, tmp_path):
    with pytest.raises(OperatingPointError):
        RouteBatches(artifact, 1.01, ALPHA)
    with pytest.raises(OSError, match="No such file"):
        RouteBatches(tmp_path / "none", LAM)
    with pytest.raises(Cr2Error, match="invalid"):
        RouteBatches(artifact, LAM, invalid="drop")
    with pytest.raises(Cr2Error, match="has no groups, got 'app'"):
        RouteBatches(artifact, LAM, ALPHA, group="app")
    with pytest.raises(Cr2Error, match="pass encoder="):
        RouteBatches(artifact, LAM, text="prompt")


def test_atypical_queries_are_deferred_as_the_device_defers_them(fitted, splits, x, tmp_path):
    router = cr2fast.Router(fitted._core)
    router.calibrate(splits[1], alphas=(0.05,), defer_atypical=0.2)
    path = tmp_path / "router.safetensors"
    router.save(path)
    device = cr2fast.DeviceRouter.load(path, LAM, 0.05)
    out = RouteBatches(path, LAM, 0.05)({"embedding": x})
    assert (out["local"] == device.route_batch(x)).all()
    assert (out["local"] != (device.margins(x) >= device.threshold)).any()


def test_groups_have_thresholds_of_their_own(fitted, splits, x, tmp_path):
    router = cr2fast.Router(fitted._core)
    router.calibrate(splits[1], alphas=(0.1,), lams=[LAM], groups="category")
    path = tmp_path / "router.safetensors"
    router.save(path)
    names = [*splits[2].categories[:-2], "unknown", None]
    device = cr2fast.DeviceRouter.load(path, LAM, 0.1)
    route = RouteBatches(path, LAM, 0.1, group="app", tokens="n")
    n = splits[2].n_input_tokens
    for batch in (
        pa.table({"embedding": fixed(x), "app": names, "n": n}),
        {"embedding": x, "app": names, "n": n},
    ):
        out = route(batch)
        local = device.route_batch(x, groups=names)
        assert (column(out, "local") == local).all()
        assert (column(out, "local") == (column(out, "model") == router.models[0])).all()
    assert local.any()
    assert not local[-2:].any()
    with pytest.raises(Cr2Error, match="the router has thresholds per group"):
        RouteBatches(path, LAM, 0.1)


def test_polars_streams_through_it(route, x, expected):
    frame = pl.DataFrame({"embedding": x, "id": range(len(x))})
    schema = frame.schema | {"local": pl.Boolean, "margin": pl.Float32}
    lazy = frame.lazy().map_batches(route, schema=pl.Schema(schema), streamable=True)
    out = lazy.filter(pl.col("local")).collect(engine="streaming")
    assert out["id"].to_list() == np.flatnonzero(expected[1]).tolist()


def test_texts_are_decided_by_an_encoder(tmp_path):
    encoder = letters(16)
    router = small(encoder.info, 16, alphas=(0.1,), lams=[1.0])
    path, static = tmp_path / "router.safetensors", tmp_path / "static.safetensors"
    router.save(path)
    encoder.save(static)
    texts = ["a b c", "d", "e f g h"] * 5
    margin = router.device(1.0, 0.1).margins(encoder.encode(texts))
    for given in (static, encoder):
        route = pickle.loads(pickle.dumps(RouteBatches(path, 1.0, 0.1, given, text="prompt")))
        for batch in (pa.table({"prompt": texts}), {"prompt": np.array(texts)}):
            out = route(batch)
            assert column(out, "margin").astype(np.float32).tobytes() == margin.tobytes()
    holes = RouteBatches(path, 1.0, 0.1, encoder, text="prompt", invalid="defer")
    out = holes(pa.table({"prompt": ["a", None, "b"]}))
    assert out["local"].to_pylist()[1] is False
    assert out["margin"].null_count == 1
    assert holes(pa.table({"prompt": pa.array([None], pa.string())}))["local"].to_pylist() == [
        False
    ]
    other = small(cr2fast.EncoderInfo(), 16, alphas=(0.1,), lams=[1.0])
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(Cr2Error, match="encoder"):
        RouteBatches(tmp_path / "other.safetensors", 1.0, 0.1, static)


def test_a_router_that_looks_at_the_text_gets_its_features(tmp_path):
    encoder = letters(16)
    problem = make_routing_problem(n=300, d=16, models=2, seed=0)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list(LETTERS), rng.integers(1, 9))) + f" {i}?" for i in range(300)]
    table = replace(problem.table, encoder=encoder.info, extra={"text": texts})
    train, calibration, test = table.split()
    router = cr2fast.fit(
        train, problem.costs, teacher_epochs=1, gate_epochs=1, hidden=8, progress=False,
        features=True,
    )  # fmt: skip
    router.calibrate(calibration, alphas=(0.1,), lams=[1.0])
    path = tmp_path / "router.safetensors"
    router.save(path)
    said = test.extra["text"]
    expected = router.device(1.0, 0.1).route_texts(said, encoder)
    out = RouteBatches(path, 1.0, 0.1, encoder)(pa.table({"text": said}))
    assert out["local"].to_pylist() == expected.tolist()
    rows = router.inputs(encoder.encode(said), said)
    out = RouteBatches(path, 1.0, 0.1)({"embedding": rows})
    assert out["local"].tolist() == expected.tolist()
    with pytest.raises(Cr2Error, match="32 numbers, got embeddings only: .*pass encoder="):
        RouteBatches(path, 1.0, 0.1)({"embedding": encoder.encode(said)})
