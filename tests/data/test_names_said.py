"""Names that people use for our columns."""

from __future__ import annotations

import pytest

from cr2fast import Cr2Error
from cr2fast.data.calls import COLUMNS
from cr2fast.data.names import find


@pytest.mark.parametrize("said", ["prompt", "question", "query", "input", "text", "instruction"])
def test_a_prompt_by_any_name_is_the_text(said):
    assert (
        find(["said_of_it", "model"], COLUMNS, {said: "said_of_it"}, "log")["text"] == "said_of_it"
    )


@pytest.mark.parametrize(
    ("said", "ours"),
    [("latency_ms", "milliseconds"), ("cost", "usd"), ("grade", "score"), ("request", "query_id")],
)
def test_names_that_are_guessed_may_be_said(said, ours):
    assert find(["x"], COLUMNS, {said: "x"}, "log")[ours] == "x"


def test_what_is_said_twice_or_not_known_is_refused():
    with pytest.raises(Cr2Error, match="expected text once"):
        find(["a", "b"], COLUMNS, {"text": "a", "prompt": "b"}, "log")
    with pytest.raises(Cr2Error, match="nearest: category"):
        find(["a"], COLUMNS, {"categorie": "a"}, "log")
    for word in ("latency", "time", "duration"):
        with pytest.raises(Cr2Error, match="--column seconds="):
            find(["a"], COLUMNS, {word: "a"}, "log")
