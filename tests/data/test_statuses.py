"""Which calls failed: words of statuses, known and unknown."""

from __future__ import annotations

import polars as pl
import pytest

import cr2fast
from cr2fast.data import statuses

GOOD = [
    None, "", "ok", "OK", " success ", "succeeded", "completed", "Complete", "stop", "length",
    "max_tokens", "end_turn", "tool_calls", "STATUS_CODE_OK", "UNSET", 0, 200, 200.0, 201, 304,
    "200", "200.0", "200 OK", "HTTP 200", "HTTP/1.1 200 OK", float("nan"), True, "DEFAULT",
]  # fmt: skip
BAD = [
    "fail", "failure", "FAILED", "error", "timeout", "timed out", "Timed_Out", "exception",
    "cancelled", "canceled", "500 Internal Server Error", "HTTP 503", "HTTP/1.1 429 Too Many",
    "rate_limited", "RateLimitError", "incomplete", "content_filter", "ContentFilter", "in_progress",
    "queued", "overloaded_error", "STATUS_CODE_ERROR", "aborted", "refused", "request timeout",
    400, 429.0, 503, "503", -1, "-1", 99999,
]  # fmt: skip
UNKNOWN = ["weird", "maybe", "no idea", 1, 7.0, "2", False, "42 things"]


def of(values, name="status"):
    status = pl.Series(values, dtype=pl.Object)
    return statuses.failed(pl.Series([None] * len(values)), status, name)


def test_words_that_are_known_are_good_or_bad():
    assert of(GOOD) == ([False] * len(GOOD), [None] * len(GOOD))
    assert of(BAD) == ([True] * len(BAD), [None] * len(BAD))
    assert of(UNKNOWN) == ([True] * len(UNKNOWN), [str(v) for v in UNKNOWN])


def test_a_level_may_be_anythings():
    levels = ["Level 5", "hard", 3, "ERROR", "DEFAULT"]
    assert of(levels, "level") == ([False, False, False, True, False], [None] * 5)
    assert of(levels, "metadata.level")[1] == [None] * 5


def test_calls_of_unknown_statuses_are_no_wrong_answers():
    n = 40
    frame = pl.DataFrame(
        {
            "prompt": [f"What is {i // 2}?" for i in range(n)],
            "model": ["small", "big"] * (n // 2),
            "score": [0.0 if i % 8 == 0 else 1.0 for i in range(n)],
            "embedding": [[1.0, i // 2] for i in range(n)],
            "prompt_tokens": list(range(n)),
            "completion_tokens": [i * i % 7 for i in range(n)],
            "usd": [1e-3 * (i + i * i % 7) for i in range(n)],
            "status": [["weird", "503 Service Unavailable"][i // 8 % 2] if i % 8 == 0 else "ok"
                       for i in range(n)],
        }
    )  # fmt: skip
    table = cr2fast.RoutingTable.read_log(frame, local="small", progress=False)
    assert table.correct.all()
    notes = (
        "2 failed calls left out",
        "3 calls left out whose status says neither success nor failure: 'weird' (3); write "
        "success or failed there",
    )
    assert [n for n in notes if n not in table.notes] == []
    costs = cr2fast.CostTable.from_log(frame, local="small", edge=["big"])
    assert [n for n in notes if f"small: {n}" not in costs.notes] == []
    with pytest.raises(
        cr2fast.Cr2Error, match=r"got none among 40: 40 calls left out .*'queer' \(40\)"
    ):
        cr2fast.RoutingTable.read_log(
            frame.with_columns(status=pl.lit("queer")), local="small", progress=False
        )


def test_many_words_are_cut_short():
    words = [f"w{i}" * 200 for i in range(9)]
    (note,) = statuses.left_out(9, words)
    assert " and 4 others; write" in note
    assert len(note) < 700
