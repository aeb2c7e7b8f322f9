"""Logs and tables as people hand them over: marked, renamed, packed, of one place, of no point."""

from __future__ import annotations

import gzip
import json
import os

import polars as pl
import pytest

import cr2fast
from cr2fast import Cr2Error
from cr2fast.data import source
from cr2fast.traffic import Watch, open_log, recalibrate, replay, route_shards
from cr2fast.traffic.batches import RouteBatches
from testing import traffic


def written(folder, records, name="d.jsonl", front=b"", packed=False):
    data = front + "".join(json.dumps(r) + "\n" for r in records).encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def test_a_mark_of_byte_order_and_a_packed_file_of_another_name_cost_no_line(tmp_path, records):
    whole = open_log(traffic.write(tmp_path / "plain.jsonl", records)).frame
    for name, options in (
        ("bom.jsonl", {"front": b"\xef\xbb\xbf"}),
        ("packed.jsonl", {"packed": True}),
        ("both.jsonl", {"packed": True, "front": b"\xef\xbb\xbf"}),
        ("named.jsonl.gz", {}),
    ):
        log = open_log(written(tmp_path, records, name, **options))
        assert log.frame.equals(whole), name
        assert not log.found.faults(), name


def test_more_tokens_than_any_text_has_are_a_wrong_line(tmp_path, records):
    rows = [dict(r) for r in records[:5]]
    rows[1]["n_input_tokens_estimated"] = 2**32
    rows[2]["n_output_tokens"] = -1
    log = open_log(written(tmp_path, rows))
    assert (len(log), log.found.wrong) == (3, 2)
    assert "expected a number of tokens, at least 0 and below 2**32" in log.apart["words"][0]


def test_a_pipe_is_no_log(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Cr2Error, match="expected regular files, got .*a pipe, socket or device"):
        open_log(tmp_path / "pipe")


def test_a_log_that_no_threshold_decided_says_what_it_holds(tmp_path, records, router):
    path = written(tmp_path, [r | {"why": "direct"} for r in records])
    with pytest.raises(Cr2Error, match="a threshold decided .* got none among 500: 500 direct"):
        replay(path, router, 1.0, 0.05)
    path = written(tmp_path, [r | {"why": None} for r in records[:400]] + records[400:])
    told = replay(path, router, 1.0, 0.05)
    assert told.left_out == {"for no reason that the log gives": 400}
    assert "Left out: 400 for no reason that the log gives." in str(told)
    late = open_log(path, since="2200-01-01")
    with pytest.raises(
        Cr2Error, match="requests of the window, got none; 500 came before or after"
    ):
        replay(late, router, 1.0, 0.05)


def test_refused_requests_are_said_by_their_status(tmp_path, records, router):
    def refused(status, outcome="refused"):
        blank = {"why": None, "margin": None, "threshold": None, "place": None, "model": None}
        return blank | {"outcome": outcome, "status": status}

    rows = [r | refused(422) for r in records[:30]] + [r | refused(404) for r in records[30:45]]
    rows += [r | refused(0, "cancelled") for r in records[45:50]] + records[50:]
    told = replay(written(tmp_path, rows), router, 1.0, 0.05)
    assert told.left_out == {
        "refused before a decision (status 422)": 30,
        "refused before a decision (status 404)": 15,
        "cancelled before a decision": 5,
    }
    assert "Left out: 30 refused before a decision (status 422), 15 refused" in str(told)


def test_an_embedding_that_is_no_json_is_named(tmp_path, records, router):
    bad = [r | {"embedding": [float("nan"), *r["embedding"][1:]]} for r in records[:400]]
    others = [r | {"embedding": None} for r in records[400:]]
    words = r"0 with one; .* 400 lines were not read, such as line 1 of .*\(NaN is no JSON\)"
    with pytest.raises(Cr2Error, match=words):
        replay(written(tmp_path, bad + others), router, 1.0, 0.05)
    with pytest.raises(Cr2Error, match="NaN"):
        replay(written(tmp_path, bad), router, 1.0, 0.05)


def test_an_edges_log_alone_sets_no_thresholds(tmp_path, records, router, sha256):
    blank = {"margin": None, "threshold": None}
    deferred = [r | blank for r in records if r["place"] == "edge"]
    assert deferred
    with pytest.raises(Cr2Error, match=r"an edge's log alone .* read the device's log beside it"):
        recalibrate(written(tmp_path, deferred), router)


def test_too_few_requests_are_said_in_words_of_the_log(tmp_path, records, router):
    with pytest.raises(cr2fast.InfeasibleAlphaError, match="got 8; take a longer window"):
        recalibrate(written(tmp_path, records[:10]), router)
    with pytest.raises(Cr2Error, match="beside the 1 held, got 1 in all; .* or lower held="):
        recalibrate(written(tmp_path, records[:1]), router)


def test_a_watch_of_a_point_that_nobody_asks_for_says_so(tmp_path, records, artifact):
    path = written(tmp_path, records)
    lam = float(cr2fast.Router.load(artifact).calibration["lams"][0])
    assert lam != 1.0
    watch = Watch(path, artifact, tmp_path / "s", [(lam, 0.05)], window_s=1e9)
    look = watch.look(traffic.START.replace(year=traffic.START.year + 1))
    assert look.verdict == "kept"
    assert "no request counted yet (0 new" in str(look)
    assert "None of the window's 500 routed requests is of a point" in str(look)
    assert "most are of lam=1, alpha=0.05" in str(look)
    assert "nan" not in str(look)


def test_what_tells_two_states_and_two_folders_apart_is_shown(tmp_path, artifact, router, splits):
    Watch(tmp_path / "none", artifact, tmp_path / "s", [(1.0, 0.05)], delta=0.01)
    from cr2fast.traffic.state import State

    State.new([(1.0, 0.05)], 0.01).save(tmp_path / "s")
    with pytest.raises(Cr2Error, match=r"at delta 0\.01000000001, got .* at delta 0\.01 in"):
        Watch(tmp_path / "none", artifact, tmp_path / "s", [(1.0, 0.05)], delta=0.01000000001)
    grid = [(float(lam), 0.05) for lam in router.calibration["lams"]]
    State.new(grid, 0.01).save(tmp_path / "s")
    Watch(tmp_path / "none", artifact, tmp_path / "s", grid[::-1], delta=0.01)
    router = cr2fast.Router.load(artifact)
    router.calibrate(splits[1].take(range(150)), alphas=(0.05,), lams=[1.0])
    router.save(tmp_path / "other")
    route_shards([], tmp_path / "out", RouteBatches(artifact, 1.0, 0.05))
    with pytest.raises(Cr2Error) as refused:
        route_shards([], tmp_path / "out", RouteBatches(tmp_path / "other", 1.0, 0.05))
    expected, got = str(refused.value).split(", got ")
    assert expected.split("router ")[1][:70] != got.split("router ")[1][:70]


def test_tables_packed_under_another_name_and_folders(tmp_path):
    rows = b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n'
    (tmp_path / "t.jsonl").write_bytes(gzip.compress(rows))
    (tmp_path / "t.jsonl.gz").write_bytes(rows)
    for name in ("t.jsonl", "t.jsonl.gz"):
        assert source.frame(tmp_path / name, "x").equals(
            pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
        )
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(Cr2Error, match="x: expected a file, got the folder"):
        source.frame(tmp_path / "d.jsonl", "x")
    (tmp_path / "n.jsonl").write_text('{"a": ' + "9" * 5000 + "}\n")
    with pytest.raises(Cr2Error, match="4300 digits") as refused:
        source.frame(tmp_path / "n.jsonl", "x")
    assert "sys." not in str(refused.value)
    (tmp_path / "q.csv").write_text('a,b\n1,2\n"open,3')
    with pytest.raises(Cr2Error, match=r"x: expected CSV in") as refused:
        source.frame(tmp_path / "q.csv", "x")
    assert "infer_schema" not in str(refused.value)


def test_a_column_that_is_called_as_ours_makes_way_for_the_one_that_is_named():
    asked = pl.DataFrame(
        {"text": ["a", "b"], "said": ["c", "d"], "embedding": [[1.0], [2.0]], "n_input_tokens": 1}
    )
    read = cr2fast.QueryTable.read(asked, columns={"text": "said"})
    assert read.extra["text"] == ["c", "d"]
    assert read.extra["other.text"] == ["a", "b"]
