"""Seconds between clocks: dates, text, and numbers since 1970 in any of four units."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import Cr2Error
from cr2fast.data import calls, clocks

# Six calls of 0.25 to 1.5 s, a second apart.
STARTS = [1_700_000_000 + i for i in range(6)]
TOOK = [0.25 * (i + 1) for i in range(6)]


def log(started, ended, **columns):
    made = {
        "prompt": [f"What is {i}?" for i in range(6)],
        "model": ["small", "big"] * 3,
        "prompt_tokens": [5, 9, 7, 4, 8, 3],
        "completion_tokens": [1, 6, 4, 3, 2, 9],
        "usd": [0.0005, 0.003, 0.002, 0.0015, 0.001, 0.0045],
        "startTime": started,
        "endTime": ended,
    }
    return pl.DataFrame(made | columns, strict=False)


def read(started, ended, **columns):
    """The seconds of a log, and what was said of them."""
    notes = []
    found = calls.read(log(started, ended, **columns), None, ("model",), notes)
    return found["seconds"].to_list(), notes


@pytest.mark.parametrize(
    ("unit", "kind"),
    [(u, k) for u in (1, 1e3, 1e6, 1e9) for k in (float, str, lambda v: f" {v:.2f}")]
    + [(u, round) for u in (1e3, 1e6, 1e9)],
)
def test_a_clocks_unit_is_told_by_its_size(unit, kind):
    pairs = zip(STARTS, TOOK, strict=True)
    seconds, notes = read(
        [kind(s * unit) for s in STARTS], [kind((s + t) * unit) for s, t in pairs]
    )
    assert seconds == pytest.approx(TOOK, abs=1e-6)
    assert notes == []


@given(st.integers(946_684_800, 4_102_444_799), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_sizes_never_overlap(second, unit):
    assert clocks._epoch(float(second * unit)) == pytest.approx(second)


def test_units_may_differ_from_column_to_column():
    ends = [(s + t) * 1e3 for s, t in zip(STARTS, TOOK, strict=True)]
    assert read(STARTS, ends)[0] == pytest.approx(TOOK)


def test_dates_and_text_are_clocks():
    at = [datetime.fromtimestamp(s, timezone.utc) for s in STARTS]
    after = [a + timedelta(seconds=t) for a, t in zip(at, TOOK, strict=True)]
    iso = [f"{a.replace(tzinfo=None).isoformat()}.000000123Z" for a in at]
    for starts, ends in (
        (at, after),
        ([a.replace(tzinfo=None) for a in at], [a.replace(tzinfo=None) for a in after]),
        (iso, [a.astimezone(timezone(timedelta(hours=5))).isoformat() for a in after]),
    ):
        seconds, notes = read(starts, ends)
        assert seconds == pytest.approx(TOOK)
        assert notes == []


def test_clocks_that_do_not_count_from_1970_are_asked_for():
    seconds, notes = read([0] * 6, [1000 * t for t in TOOK])
    assert seconds == [None] * 6
    assert notes == [
        "startTime and endTime not read, 0 to 1500: a clock that does not count from 1970 has no "
        "unit; write a column seconds or milliseconds of what each call took"
    ]
    relative = log([0] * 6, [1000 * t for t in TOOK])
    costs = cr2fast.CostTable.from_log(relative, local="small", edge=["big"])
    assert not costs.has_latency
    assert any("not read, 0 to 1500" in note for note in costs.notes)
    with pytest.raises(Cr2Error, match="got neither .* not read, 0 to 1500: .* milliseconds of"):
        cr2fast.CostTable.from_log(relative.drop("usd"), local="small", edge=["big"])


@pytest.mark.parametrize(
    ("starts", "ends", "words"),
    [
        (STARTS, [*STARTS[:-1], 12345], r"log.endTime: expected seconds, milliseconds, .* got 12345 in row 5"),
        ([*STARTS[:-1], 5e12], STARTS, r"log.startTime: .* of a year from 2000 to 2099, got 5\S+ in row 5"),
        (STARTS, [s - 1 for s in STARTS], r"log.endTime: expected times after startTime, got '1699999999' after"),
        (["2026-01-01T01:00:00+01:00"] * 6, ["2026-01-01T00:00:01"] * 6,
         r"got startTime with one and endTime without in row 0: '2026-01-01T01:00:00\+01:00', '2026"),
        (["2026-01-01T00:00:00Z"] * 6, ["2026-01-01T00:00:00.37+01:00"] * 6,
         r"got '2026-01-01T00:00:00.37\+01:00' after a start at .* in row 0; look at their time zones"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(starts, ends, words):
    with pytest.raises(Cr2Error, match=words):
        read(starts, ends)
    # Of a call that failed nobody reads the clocks.
    assert read(starts, ends, error="x") == ([None] * 6, [])


def test_holes_are_no_times_and_other_words_are_named():
    ends = [s + t for s, t in zip(STARTS, TOOK, strict=True)]
    seconds, notes = read([*STARTS[:-1], 0], [None, *ends[1:]])
    assert seconds[1:-1] == pytest.approx(TOOK[1:-1])
    assert (seconds[0], seconds[-1]) == (None, None)
    assert notes == []
    seconds, notes = read(["noon", "", *map(str, STARTS[2:])], list(map(str, ends)))
    assert seconds[:2] == [None, None]
    assert seconds[2:] == pytest.approx(TOOK[2:])
    assert notes == [
        "startTime: 1 of 6 calls have no time that can be read, such as 'noon'; write ISO 8601 "
        "text, or numbers since 1970"
    ]
