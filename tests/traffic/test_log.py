"""Reading a decision log: what is a row, what is kept apart, and in which words."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cr2fast import Cr2Error
from cr2fast.traffic import LogWarning, open_log, read_log
from cr2fast.traffic.log import embeddings
from testing import traffic


def rest(record, **changes):
    """A record without its embedding, changed."""
    return {k: v for k, v in record.items() if k != "embedding"} | changes


def test_each_request_is_a_row_with_the_bits_that_were_decided_on(log, records, splits):
    frame = read_log(log)
    assert isinstance(frame, pl.DataFrame)
    assert frame["id"].to_list() == [r["id"] for r in records]
    x = embeddings(frame, splits[2].embeddings.shape[1])
    assert x.tobytes() == splits[2].embeddings.tobytes()
    assert (
        frame["margin"].to_numpy().tobytes() == np.float32([r["margin"] for r in records]).tobytes()
    )
    assert frame["rtt_s"].to_list() == [r["link"]["rtt_s"] for r in records]
    assert frame["ts"].dtype == pl.Datetime("us", "UTC")


def test_rotated_files_come_first_in_the_order_of_their_stamps(tmp_path, records):
    parts = {
        "decisions.jsonl": records[300:],
        "decisions.20241126T144500Z.jsonl": records[:100],
        "decisions.20241126T144500Z.1.jsonl": records[100:150],
        "decisions.20241126T150000Z.jsonl": records[150:200],
        "other.jsonl": records[:1],
        "decisions.notes.jsonl": records[:1],
    }
    for name, part in parts.items():
        traffic.write(tmp_path / name, part)
    plain = traffic.write(tmp_path / "last.jsonl", records[200:300])
    with gzip.open(tmp_path / "decisions.20241126T160000Z.jsonl.gz", "wb") as file:
        file.write(plain.read_bytes())
    assert read_log(tmp_path / "decisions.jsonl")["id"].to_list() == [r["id"] for r in records]
    rotated = read_log(tmp_path / "decisions.20241126T144500Z.jsonl")
    assert len(rotated) == 100
    by_pattern = open_log(str(tmp_path / "decisions.2024*Z*.jsonl*"))
    assert by_pattern.frame["id"].to_list() == [r["id"] for r in records[:300]]
    # The same file twice is one file.
    assert len(read_log([tmp_path / "decisions.jsonl", tmp_path / "decisions.jsonl"])) == 500


def test_files_that_were_set_aside_before_are_not_opened(artifact, splits, tmp_path):
    def at(seconds):
        return traffic.START + timedelta(seconds=seconds)

    rows = traffic.served(artifact, splits[2], range(300))
    traffic.write(tmp_path / "d.20241101T001000Z.jsonl", rows[:50])
    traffic.write(tmp_path / "d.jsonl", rows[50:])
    log = open_log(tmp_path / "d.jsonl", since=at(1000))
    assert (len(log), log.found.lines) == (200, 250)
    assert open_log(tmp_path / "d.jsonl", since=at(300)).found.lines == 300


def test_a_log_whose_live_file_was_just_set_aside_is_still_a_log(tmp_path, records):
    traffic.write(tmp_path / "d.20241126T144500Z.jsonl", records[:7])
    assert len(read_log(tmp_path / "d.jsonl")) == 7


def test_lines_that_are_no_records_are_kept_apart_and_counted(tmp_path, records):
    good = [json.dumps(rest(r)) for r in records[:6]]
    wrong = [
        json.dumps(rest(records[10], lam="1")),
        json.dumps(rest(records[11], total_s=-1)),
        json.dumps(rest(records[12], id=None)),
        json.dumps(rest(records[13], threshold="inf?")),
        json.dumps(rest(records[14], embedding=[1, None])),
        json.dumps(rest(records[15], embedding=[])),
        json.dumps(rest(records[16], propensity=0)),
        json.dumps(rest(records[17], link=[1])),
        json.dumps(rest(records[18], ts="yesterday")),
        json.dumps(rest(records[19], ts="2024-11-01T00:00:00")),
        json.dumps(rest(records[20], n_output_tokens=1.5)),
        json.dumps(rest(records[21], margin=1e300)),
        json.dumps(rest(records[22], ts="9999-12-31T23:59:59.999999Z")),
    ]
    torn = [good[0][:40], "[1]", '{"a": NaN}', '{"id": 1, "id": 2}', "[" * 100_000, "\x00\x00"]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join([*good[:3], *torn, "", *wrong, *good[3:], good[5][:-9]]))
    log = open_log(path)
    assert len(log) == 6
    assert (log.found.torn, log.found.wrong) == (len(torn) + 1, len(wrong))
    assert log.found.lines == 6 + len(torn) + len(wrong) + 1
    words = log.apart.filter(pl.col("why") == "wrong")["words"].to_list()
    assert "lam: expected a finite number, got '1'" in words
    assert "id: expected one, got none" in words
    assert log.apart["line"].to_list()[0] == 4
    assert all(len(w) <= 600 for w in log.apart["words"])
    with pytest.warns(LogWarning, match="13 lines lack a field"):
        read_log(path)


@pytest.mark.parametrize("field", ["id", "model", "failed", "queueing_s", "link", "unheard-of"])
def test_half_a_pair_of_escapes_is_a_wrong_line(tmp_path, records, field):
    half = {"failed": [["a", "\ud800"]], "queueing_s": {"\ud800": 1}, "link": {"\ud800": 1}}
    wrong = rest(records[1], **{field: half.get(field, "\ud800")})
    whole = rest(records[2], model="\U0001f30d")
    log = open_log(traffic.write(tmp_path / "d.jsonl", [rest(records[0]), wrong, whole]))
    assert log.frame["model"].to_list() == [records[0]["model"], "\U0001f30d"]
    words = "text: expected Unicode, got the lone surrogate '\\ud800'"
    assert log.apart.rows() == [(str(tmp_path / "d.jsonl"), 2, "wrong", words)]


def test_a_line_longer_than_is_read_is_skipped_whole(tmp_path, records, monkeypatch):
    from cr2fast.traffic import files

    monkeypatch.setattr(files, "MAX_LINE", 2000)
    lines = [json.dumps(rest(r)) for r in records[:2]]
    long = json.dumps(rest(records[2], why="x" * 9000))
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join([lines[0], long, lines[1]]) + "\n")
    log = open_log(path)
    assert (len(log), log.found.too_long, log.found.lines) == (2, 1, 3)


def test_another_schema_is_refused_by_name(tmp_path, records):
    path = traffic.write(
        tmp_path / "d.jsonl", [rest(records[0]), rest(records[1], schema="cr2fast.decision_log/2")]
    )
    with pytest.raises(Cr2Error, match=r"decision_log/1'.*got 'cr2fast.decision_log/2' in line 2"):
        read_log(path)


def test_a_log_of_something_else_is_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(Cr2Error, match="expected lines of schema"):
        read_log(path)
    path.write_text("")
    with pytest.raises(Cr2Error, match="got none"):
        read_log(path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_log(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match="none that match"):
        read_log(str(tmp_path / "x*.jsonl"))
    with pytest.raises(Cr2Error, match="folder"):
        read_log(tmp_path)
    with pytest.raises(TypeError, match="paths"):
        read_log([1])
    with pytest.raises(Cr2Error, match="at least one"):
        read_log([])


def test_duplicates_count_once_and_contradictions_stay_apart(tmp_path, records):
    same, other = rest(records[0]), rest(records[1], why="direct")
    path = traffic.write(tmp_path / "d.jsonl", [same, rest(records[1]), same, other])
    log = open_log(path)
    assert len(log) == 2
    assert (log.found.duplicates, log.found.conflicting) == (1, 1)
    assert log.apart["words"][0].startswith("id: expected one line of '" + traffic.request_id(1))


def test_a_device_and_its_edge_tell_of_one_request(tmp_path, records):
    deferred = next(r for r in records if r["place"] == "edge")
    blank = {"margin": None, "threshold": None}
    ours = traffic.write(
        tmp_path / "device.jsonl", [rest(deferred, n_output_tokens=None), rest(records[-1])]
    )
    theirs = traffic.write(
        tmp_path / "edge.jsonl", [deferred | blank | {"router": "b" * 64, "total_s": 0.1}]
    )
    for order in ([ours, theirs], [theirs, ours]):
        log = open_log(order)
        assert (len(log), log.found.merged) == (2, 1)
        row = log.frame.row(by_predicate=pl.col("id") == deferred["id"], named=True)
        assert row["margin"] == np.float32(deferred["margin"])
        assert row["router"] == deferred["router"]
        assert row["total_s"] == deferred["total_s"]
        assert row["n_output_tokens"] == deferred["n_output_tokens"]
        assert len(row["embedding"]) == len(deferred["embedding"])


def test_gaps_and_backward_steps_of_the_clock_are_told(tmp_path, records):
    times = [0, 10, 20, 8000, 8010, 8005.5, 4000, 4010]
    path = traffic.write(
        tmp_path / "d.jsonl",
        [rest(r, ts=traffic.stamp(t)) for r, t in zip(records, times, strict=False)],
    )
    log = open_log(path)
    (gap,) = log.found.gaps
    assert (gap.after.timestamp() - traffic.START.timestamp(), gap.seconds) == (20, 7980)
    slow, back = log.found.clock_steps
    assert (slow.line, back.line) == (6, 7)
    assert 3990 < back.seconds < 4020
    assert "the clock went back 2 times" in str(log)
    assert len(open_log(path, gap_s=9000).found.gaps) == 0
    # What ends out of order because it took long is no step.
    slow = [
        rest(records[0], ts=traffic.stamp(50)),
        rest(records[1], ts=traffic.stamp(0), total_s=51),
    ]
    assert not open_log(traffic.write(tmp_path / "s.jsonl", slow)).found.clock_steps


def test_a_window_of_time(log):
    frame = read_log(log, since="2024-11-01T00:01:00", until="2024-11-01T00:02:00Z")
    assert len(frame) == 60
    assert open_log(log, until=traffic.START).found.outside == 500
    with pytest.raises(Cr2Error, match="since: expected a datetime"):
        read_log(log, since="last week")
    with pytest.raises(TypeError, match="until"):
        read_log(log, until=3)
    for bad in (0, -1, float("nan"), "x"):
        with pytest.raises(Cr2Error, match="gap_s"):
            read_log(log, gap_s=bad)


def grade(i, score, seconds, place="answer"):
    return {
        "schema": "cr2fast.decision_log/1", "kind": "outcome", "id": traffic.request_id(i),
        "score": score, "ts": traffic.stamp(seconds), "place": place,
    }  # fmt: skip


def shadow(i, place, propensity=0.25):
    return {
        "schema": "cr2fast.decision_log/1", "kind": "shadow", "id": traffic.request_id(i),
        "ts": traffic.stamp(i), "place": place, "model": None, "outcome": "answered",
        "failure": None, "n_input_tokens": 3, "n_output_tokens": 4, "first_content_s": 0.1,
        "total_s": 0.5, "router": "a" * 64, "propensity": propensity,
    }  # fmt: skip


def test_grades_come_late_twice_or_never(tmp_path, records):
    rows = [rest(r) for r in records[:4]]
    path = traffic.write(
        tmp_path / "d.jsonl",
        [
            rows[0], rows[1], grade(0, 1, 5), grade(9, 0, 6), rows[2], grade(0, 1.0, 7),
            grade(1, 0.2, 8), grade(1, 0.7, 86_401), rows[3], grade(2, 2, 9),
        ],
    )  # fmt: skip
    log = open_log(path)
    assert log.frame["score"].to_list() == [1.0, 0.7, None, None]
    assert log.frame["grade_delay_s"].to_list() == [5.0, 86_400.0, None, None]
    counts = log.found.outcomes
    assert (counts.graded, counts.never, counts.twice, counts.revised) == (2, 2, 1, 1)
    assert (counts.orphans, counts.latest_s, log.found.wrong) == (1, 86_400.0, 1)


def test_shadows_and_their_grades_join_their_requests(tmp_path, records):
    first = records[0]["place"]
    other = {"device": "edge", "edge": "device"}[first]
    path = traffic.write(
        tmp_path / "d.jsonl",
        [
            rest(records[0]), shadow(0, other), rest(records[1]), shadow(0, other), shadow(7, other),
            grade(0, 0.9, 5, first), grade(0, 0.4, 6, other), grade(1, 0.3, 7, "answer"),
            shadow(1, "nowhere"),
        ],
    )  # fmt: skip
    log = open_log(path)
    assert log.frame["shadow_place"].to_list() == [other, None]
    assert log.frame["shadow_propensity"].to_list() == [0.25, None]
    assert log.frame["score"].to_list() == [0.9, 0.3]
    assert log.frame["shadow_score"].to_list() == [0.4, None]
    shadows = log.found.shadows
    assert (shadows.found, shadows.twice, shadows.orphans, log.found.wrong) == (1, 1, 1, 1)


def test_a_line_of_no_kind_is_kept_apart(tmp_path, records):
    path = traffic.write(tmp_path / "d.jsonl", [rest(records[0]), rest(records[1], kind="x")])
    assert open_log(path).apart["words"][0].startswith("kind: expected one of")


def test_every_field_of_the_schema_is_read(records):
    import pathlib

    from cr2fast.traffic import lines

    page = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "decision-log.schema.json"
    for form in json.loads(page.read_text())["oneOf"]:
        kind = form["properties"]["kind"]["const"]
        known = {
            "request": {*lines.FIELDS, *lines.OBJECTS},
            "outcome": set(lines.OUTCOME_FIELDS),
            "shadow": set(lines.SHADOW_FIELDS),
            "alarm": set(lines.ALARM_FIELDS),
        }[kind]
        assert set(form["properties"]) - {"schema", "kind"} == known
        if kind == "request":
            for name, (*_,) in lines.OBJECTS.items():
                (inner,) = [f for f in form["properties"][name]["anyOf"] if f["type"] == "object"]
                keys = {key for key, _ in lines.OBJECTS[name].values()}
                assert set(inner["properties"]) == keys


def test_unknown_fields_are_counted_not_read(tmp_path, records):
    log = open_log(traffic.write(tmp_path / "d.jsonl", [rest(records[0], colour="red")]))
    assert log.found.unknown_fields == {"colour": 1}
    assert "colour" not in log.frame.columns


def test_a_gzipped_file_that_breaks_off_gives_what_it_had(tmp_path, records):
    whole = gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode())
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    log = open_log(path)
    assert 0 < len(log) < len(records)
    assert log.found.torn >= 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.lists(st.integers(0, 2000), min_size=12, max_size=12))
def test_of_lines_cut_short_the_whole_ones_are_rows(tmp_path, records, kept):
    whole = [json.dumps(rest(r)) for r in records[:12]]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(line[:k] + "\n" for line, k in zip(whole, kept, strict=True)))
    intact = [r["id"] for r, line, k in zip(records, whole, kept, strict=False) if k >= len(line)]
    if not intact:
        with pytest.raises(Cr2Error, match="got none"):
            open_log(path)
        return
    log = open_log(path)
    assert log.frame["id"].to_list() == intact
    assert log.found.torn == sum(0 < k < len(line) for line, k in zip(whole, kept, strict=True))


def test_alarms_are_kept_apart_from_requests(tmp_path, records):
    alarm = {
        "schema": "cr2fast.decision_log/1", "kind": "alarm", "id": records[5]["id"],
        "ts": traffic.stamp(5.5), "lam": 1.0, "alpha": 0.05, "group": None, "delta": 0.01, "n": 40,
        "risk": 0.2, "log_wealth": 4.7, "on_alarm": "defer", "threshold": "inf",
        "router": records[5]["router"],
    }  # fmt: skip
    wrong = [alarm | {"risk": 2.0}, {k: v for k, v in alarm.items() if k != "lam"}]
    path = traffic.write(tmp_path / "d.jsonl", [*records[:6], alarm, alarm, *wrong, *records[6:]])
    log = open_log(path)
    assert log.frame["id"].to_list() == [r["id"] for r in records]
    (row,) = log.alarms.rows(named=True)
    assert (row["n"], row["threshold"], row["group"]) == (40, np.inf, None)
    assert (log.found.alarms, log.found.wrong) == (1, 2)
    assert "the gateway raised 1 alarms" in str(log)
    assert open_log(path, since=traffic.stamp(100)).alarms.height == 0
