"""Calls whose prompt is none: what stands there is said."""

from __future__ import annotations

import polars as pl
import pytest

import cr2fast
from testing.encoders import Counts

SYSTEM = [{"role": "system", "content": "Be brief."}]
CHAT = [*SYSTEM, {"role": "user", "content": "What is 2?"}]


def read(**columns):
    n = len(next(iter(columns.values())))
    frame = pl.DataFrame(
        {
            "request": [f"r{i // 2}" for i in range(n)],
            "model": ["small", "big"] * (n // 2),
            "score": [1] * n,
            "prompt_tokens": [5] * n,
            "completion_tokens": [3] * n,
            **columns,
        }
    )
    return cr2fast.RoutingTable.read_log(frame, local="small", encoder=Counts(), progress=False)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": [1, 2, 3, 4]}, r"4 calls without a prompt \(4 have a number\) left out"),
        ({"messages": [SYSTEM] * 4}, r"4 calls without a prompt \(4 have a chat without a user's "
                                     r"turn that says something\) left out"),
        ({"messages": [[]] * 3 + [None]}, r"4 calls without a prompt .*left out"),
        ({"prompt": ["", " ", None, ""]}, "4 calls without a prompt left out"),
        ({"prompt": [None, "", None, ""], "messages": [SYSTEM] * 4},
         r"4 have a chat without a user's turn"),
    ],
)  # fmt: skip
def test_what_stands_in_place_of_a_prompt_is_said(columns, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        read(**columns)


def test_some_are_counted_beside_those_that_are_read():
    table = read(messages=[CHAT, CHAT, SYSTEM, SYSTEM, None, None])
    assert table.extra["text"] == ["What is 2?"]
    assert (
        "4 calls without a prompt (2 have a chat without a user's turn that says something) left "
        "out" in table.notes
    )
