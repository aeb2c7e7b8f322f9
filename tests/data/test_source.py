"""Tables from whatever people have: the same rows from every kind of source."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import QueryTable, RoutingTable
from cr2fast.data import source

QUERIES = pl.DataFrame(
    {
        "query_id": ["007", "8", "b"],
        "n_input_tokens": [10.0, 20.0, 30.0],
        "embedding": [[0.25, -0.5], [0.75, 1e-3], [1.25, 1.5]],
        "category": ["x", "1", "x"],
        "text": ["one, two", 'a "quoted"\nline', "naïve ☃"],
    }
)
OUTCOMES = pl.DataFrame(
    {
        "query_id": ["007", "8", "b"] * 2,
        "model": ["s"] * 3 + ["l"] * 3,
        "correct": [True, False, True, True, True, False],
        "n_output_tokens": [3, 1, 2, 11, 12, 13],
    }
)


class Stream:
    """An object of nobody's library that speaks Arrow."""

    def __init__(self, frame):
        self.frame = frame

    def __arrow_c_stream__(self, requested_schema=None):
        return self.frame.__arrow_c_stream__(requested_schema)


def arrow(frame):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return pa.table(frame.to_dict(as_series=False))


def pandas(frame):
    pytest.importorskip("pyarrow", reason="pandas needs pyarrow for Arrow streams")
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    return pd.DataFrame(frame.to_dict(as_series=False))


def duckdb(frame):
    duck = pytest.importorskip("duckdb", reason="duckdb is not installed")
    pytest.importorskip("pyarrow", reason="duckdb needs pyarrow for Arrow streams")
    return duck.sql("select * from frame")


def hugging_face(frame):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    made = datasets.Dataset.from_dict(frame.to_dict(as_series=False))
    # What was selected is what is read, not the table behind it.
    return datasets.concatenate_datasets([made, made]).select(range(len(frame)))


def file(ending, write):
    def make(frame, folder, name):
        path = folder / f"{name}{ending}"
        write(frame, path)
        return path

    return make


def as_text(frame):
    if "embedding" not in frame.columns:
        return frame
    return frame.with_columns(
        embedding=pl.Series([json.dumps(v) for v in frame["embedding"].to_list()])
    )


def ipc_stream(frame, path):
    frame.write_ipc_stream(path)


WAYS = {
    "polars": lambda f, *_: f,
    "lazy": lambda f, *_: f.lazy().filter(pl.lit(True)),
    "stream": lambda f, *_: Stream(f),
    "pyarrow": lambda f, *_: arrow(f),
    "pandas": lambda f, *_: pandas(f),
    "duckdb": lambda f, *_: duckdb(f),
    "datasets": lambda f, *_: hugging_face(f),
    "parquet": file(".parquet", lambda f, p: f.write_parquet(p)),
    "csv": file(".csv", lambda f, p: as_text(f).write_csv(p)),
    "CSV.GZ": file(".CSV.GZ", lambda f, p: p.write_bytes(gzip.compress(as_text(f).write_csv().encode()))),
    "tsv": file(".tsv", lambda f, p: as_text(f).write_csv(p, separator="\t")),
    "jsonl": file(".jsonl", lambda f, p: f.write_ndjson(p)),
    "ndjson.gz": file(".ndjson.gz", lambda f, p: p.write_bytes(gzip.compress(f.write_ndjson().encode()))),
    "json": file(".json", lambda f, p: p.write_text(json.dumps(f.to_dicts()))),
    "json lines": file(".json", lambda f, p: f.write_ndjson(p)),
    "semicolons": file(".csv", lambda f, p: as_text(f).write_csv(p, separator=";")),
    "arrow": file(".arrow", lambda f, p: f.write_ipc(p)),
    "feather": file(".feather", lambda f, p: f.write_ipc(p, compression="zstd")),
    "ipc stream": file(".ipc", ipc_stream),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_every_kind_of_source_gives_the_same_table(way, tmp_path):
    make = WAYS[way]
    t = RoutingTable.read(
        make(QUERIES, tmp_path, "q"), make(OUTCOMES, tmp_path, "o"), local="s", edge=["l"]
    )
    assert t.query_ids == ("007", "8", "b")
    assert t.categories == ("x", "1", "x")
    assert t.extra == {"text": QUERIES["text"].to_list()}
    assert t.n_input_tokens.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(t.embeddings, np.float32(QUERIES["embedding"].to_list()))
    assert t.correct.tolist() == [[True, True], [False, True], [True, False]]
    assert t.correct.dtype == bool
    assert t.n_output_tokens.tolist() == [[3, 11], [1, 12], [2, 13]]
    q = QueryTable.read(make(QUERIES, tmp_path, "q"))
    assert q.query_ids == t.query_ids
    np.testing.assert_array_equal(q.embeddings, t.embeddings)


@pytest.mark.parametrize(
    "kind",
    [pl.List(pl.Float32), pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.Array(pl.Float64, 2)],
)
def test_embeddings_of_every_float(kind):
    q = QueryTable.read(QUERIES.with_columns(pl.col("embedding").cast(kind)))
    np.testing.assert_array_equal(q.embeddings, np.float32(QUERIES["embedding"].to_list()))


def test_half_floats_and_columns_of_numbers():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    half = pa.array(QUERIES["embedding"].to_list(), pa.list_(pa.float64())).cast(
        pa.list_(pa.float16())
    )
    table = arrow(QUERIES.drop("embedding")).append_column("embedding", half)
    expected = np.float16(QUERIES["embedding"].to_list()).astype(np.float32)
    np.testing.assert_array_equal(QueryTable.read(table).embeddings, expected)


def test_one_column_per_number():
    wide = QUERIES.drop("embedding").with_columns(
        embedding_1=pl.Series([-0.5, 1e-3, 1.5]), embedding_0=pl.Series([0.25, 0.75, 1.25])
    )
    np.testing.assert_array_equal(
        QueryTable.read(wide).embeddings, np.float32(QUERIES["embedding"].to_list())
    )
    with pytest.raises(cr2fast.Cr2Error, match="columns embedding_0 to embedding_2, got 2"):
        QueryTable.read(wide.rename({"embedding_1": "embedding_2"}))


@pytest.mark.parametrize(
    "text", ["[1, 2.5]", "1,2.5", "1 2.5", "[1. 2.5]", "(1; 2.5)", " [ 1e0\n 25e-1 ] "]
)
def test_embeddings_as_text(text):
    q = QueryTable.read(pl.DataFrame({"n_input_tokens": [1], "embedding": [text]}))
    assert q.embeddings.tolist() == [[1, 2.5]]


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([True, False], [True, False]),
        ([1, 0], [True, False]),
        ([1.0, 0.0], [True, False]),
        (["True", "false"], [True, False]),
        (["1", "0.0"], [True, False]),
        ([0.75, 1.0], [0.75, 1.0]),
        (["0.75", "0"], [0.75, 0.0]),
    ],
)
def test_answers_are_words_numbers_or_grades(correct, expected):
    table = pl.DataFrame(
        {
            "query_id": ["a", "a"],
            "model": ["s", "l"],
            "correct": correct,
            "n_output_tokens": [1, 2],
            "n_input_tokens": [5, 5],
            "embedding": [[1.0], [1.0]],
        }
    )
    t = RoutingTable.read(table, local="s", edge=["l"])
    assert t.correct.tolist() == [expected]
    assert t.correct.dtype == (bool if isinstance(expected[0], bool) else np.float32)


def test_one_tidy_table_is_both(tmp_path):
    both = OUTCOMES.join(QUERIES, on="query_id").with_columns(bill=pl.col("n_output_tokens") * 0.5)
    t = RoutingTable.read(both, local="s", edge=["l"])
    expected = RoutingTable.read(QUERIES, OUTCOMES, local="s", edge=["l"])
    assert t.query_ids == expected.query_ids
    np.testing.assert_array_equal(t.embeddings, expected.embeddings)
    np.testing.assert_array_equal(t.correct, expected.correct)
    assert t.extra == {"text": expected.extra["text"], "bill": [[1.5, 5.5], [0.5, 6], [1, 6.5]]}
    torn = both.with_columns(n_input_tokens=pl.Series([10, 20, 30, 10, 21, 30]))
    with pytest.raises(
        cr2fast.Cr2Error, match="one n_input_tokens per query_id, got 1 queries .*'8'"
    ):
        RoutingTable.read(torn, local="s", edge=["l"])
    with pytest.raises(cr2fast.Cr2Error, match=r"table: expected columns .*missing \['correct'\]"):
        RoutingTable.read(both.drop("correct"), local="s", edge=["l"])


DAMAGED = {
    "q.jsonl": (b'{"a": 1}\n{"a": \n', "JSON Lines in .*line 2"),
    "twice.jsonl": (b'{"a": 1, "a": 2}\n', "line 1.*the key 'a' stands twice"),
    "list.jsonl": (b"[1]\n", "1 at place 0 of the list, where an object belongs"),
    "word.jsonl": (b"1\n", "line 1, .*where an object belongs"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "two columns called 'a'; give each a name of its own"),
    "twice.tsv": (b"a\tb\tb\n1\t2\t3\n", "two columns called 'b'"),
    "utf8.jsonl": (b'{"a": "\xff"}\n', "line 1"),
    "half.jsonl": (b'{"text": "\\ud800"}\n', "text: expected text that UTF-8 can hold"),
    "deep.jsonl": (b'{"a":' + b"[" * 100_000, "nested too deeply|line 1"),
    "list.json": (b'[{"a": 1}, 2]', "2 at place 1 of the list, where an object belongs"),
    "cut.json": (b'[{"a": 1}', "the list: "),
    "u16.jsonl": ('{"a": 1}'.encode("utf-16"), "no UTF-8 at byte 0; save the file as UTF-8"),
    "ragged.csv": (
        b"a,b\n1,2,3\n",
        "expected CSV in .* got found more fields than defined in 'Schema'$",
    ),
    "empty.jsonl": (b"\n\n", "at least one row, got none"),
    "q.parquet": (b"PAR1 no", "expected Parquet in"),
    "q.arrow": (b"ARROW1 no", "expected Arrow IPC in"),
    "s.arrow": (b"\xff\xff\xff\xff\x10\x00", "expected Arrow IPC in"),
    "q.csv": (b"", "expected CSV in"),
    "q.csv.gz": (b"\x1f\x8b\x08no", "expected CSV in"),
    "q.jsonl.gz": (b"\x1f\x8b\x08no", "expected JSON Lines in"),
    "q.xlsx": (b"PK", "a file whose name ends in one of .parquet"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(tmp_path, name):
    content, words = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(cr2fast.Cr2Error, match=words) as caught:
        QueryTable.read(tmp_path / name)
    assert str(caught.value).startswith("queries: ")
    assert len(str(caught.value)) < 700


def test_json_lines_keep_what_differs_from_line_to_line(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text(
        "\ufeff"
        + "\n".join(
            [
                '{"x": true, "usage": {"prompt_tokens": 5}, "m": [{"role": "user", "content": "a"}]}',
                "",
                '{"x": 0.5, "usage": {"prompt_tokens": 7}, "m": "text", "n": NaN, "big": 1'
                + "0" * 30
                + "}",
                '{"v": [1, 2.5], "x": null}',
            ]
        ),
        encoding="utf-8",
    )
    f = source.frame(path, "log")
    assert f["x"].to_list() == [1.0, 0.5, None]
    assert f["usage.prompt_tokens"].to_list() == [5, 7, None]
    assert f["m"].to_list() == ['[{"role": "user", "content": "a"}]', "text", None]
    assert f["v"].to_list() == [None, None, [1.0, 2.5]]
    assert f["big"].to_list()[1] == float("inf")


def test_what_is_no_table_is_refused(tmp_path):
    for thing in (3, {}, {"a": [1]}, object(), b"x"):
        with pytest.raises(
            TypeError, match="queries: expected a path, a polars frame or an object"
        ):
            QueryTable.read(thing)
    with pytest.raises(FileNotFoundError, match="queries: expected a file, got no file"):
        QueryTable.read(tmp_path / "none.csv")
    with pytest.raises(cr2fast.Cr2Error, match="queries: expected a query that polars can run"):
        QueryTable.read(pl.LazyFrame({"a": [1]}).select("b"))


@pytest.mark.parametrize("front", ["", "\ufeff", "\n  "])
def test_a_list_under_a_name_of_lines_is_read(front, tmp_path):
    rows = [{"a": 1, "m": [{"role": "user"}]}, {"a": 2}]
    expected = tmp_path / "lines.jsonl"
    expected.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "list.jsonl"
    path.write_text(front + json.dumps(rows, indent=1))
    assert source.frame(path, "log").equals(source.frame(expected, "log"))


def test_a_name_that_looks_as_if_it_stood_twice_is_a_name(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("a,a_duplicated_0\n1,2\n")
    assert source.frame(path, "log").columns == ["a", "a_duplicated_0"]
