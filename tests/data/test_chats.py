"""Chats in the cells of a log: read as chats however they are written, or refused; never as prompts."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

from cr2fast import Cr2Error, QueryTable, RoutingTable
from cr2fast.data import chats
from cr2fast.traffic.batches import RouteBatches
from testing.encoders import Counts
from testing.letters import letters
from testing.routers import small

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'It\'s "what"\n2 + 2?', "name": None},
]
SAID = TURNS[1]["content"]
RESPONSE = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SAID}]},
    {"type": "function_call", "name": "f", "arguments": "{}"},
]


@pytest.mark.parametrize("in_chats", [False, True])
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (json.dumps(TURNS), SAID),
        (f" \n{json.dumps(TURNS, indent=2)}\n", SAID),
        (str(TURNS), SAID),
        (str({"messages": TURNS}), SAID),
        (json.dumps({"messages": TURNS}), SAID),
        (json.dumps(TURNS[1]), SAID),
        (str(TURNS[1]), SAID),
        (json.dumps(RESPONSE), SAID),
        (RESPONSE, SAID),
        (json.dumps(["What is 1?"]), "What is 1?"),
        (str(["What is 1?"]), "What is 1?"),
        (["What is 1?"], "What is 1?"),
        # Several prompts are no prompt, and a chat may hold none.
        (json.dumps(["a", "b"]), None),
        (["a", "b"], None),
        (json.dumps(TURNS[:1]), None),
        (str(TURNS[:1]), None),
        ([], None),
        ("  ", None),
        (None, None),
        # Data that somebody asks about.
        ('{"a": 1}', '{"a": 1}'),
        ("[1, 2]", "[1, 2]"),
        ("[1, 2] What is the sum?", "[1, 2] What is the sum?"),
        ("{x} is a set. Why?", "{x} is a set. Why?"),
        ('{"role": "admin", "content": "x"}', '{"role": "admin", "content": "x"}'),
        ('[{"role": "admin", "content": "x"}]', '[{"role": "admin", "content": "x"}]'),
        ("[" * 10_000, "[" * 10_000),
        ("[" * 10_000 + "]" * 10_000, "[" * 10_000 + "]" * 10_000),
    ],
)
def test_what_a_cell_asks(cell, said, in_chats):
    assert chats.texts([cell], "log.prompt", in_chats) == [said]


TORN = [
    json.dumps(TURNS)[:-4],
    str(TURNS)[:-1],
    str(TURNS).replace(", {'role'", "\n {'role'"),  # numpy's, without a comma
    "[{'role': 'user', 'content': nan}]",
    str([{"role": "user", "content": "x" * (1 << 20)}]),  # too long to be parsed as Python
    '[{"user","What is 1?"}]',  # of a polars list of structs
    "[HumanMessage(content='What is 1?')]",
    "ChatCompletionMessage(content='x', role='user')",
    "[{'role': 'user', 'content': " + "(" * 10_000 + "1" + ")" * 10_000 + "}]",
]


@pytest.mark.parametrize("cell", TORN)
@pytest.mark.parametrize("name", ["prompt", "messages"])
def test_what_looks_like_a_chat_and_is_none_is_named_by_its_row(cell, name):
    words = f"log.{name}: expected prompts, or chats as lists or JSON, got what looks like a chat"
    with pytest.raises(Cr2Error, match=re.escape(words)) as caught:
        chats.texts(["a", cell, None, cell], f"log.{name}", name == "messages")
    assert "row 1, row 3" in str(caught.value).replace("'", "")
    assert "json.dumps" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_prompt_may_begin_with_a_chat_and_a_chat_with_nothing_else():
    cell = json.dumps(TURNS) + " Translate this."
    assert chats.texts([cell], "log.prompt", False) == [cell]
    with pytest.raises(Cr2Error, match="row 0"):
        chats.texts([cell], "log.messages", True)


def log(column, cells):
    return pl.DataFrame(
        {
            column: [cell for cell in cells for _ in range(2)],
            "model": ["small", "big"] * len(cells),
            "score": [0.0, 1.0] * len(cells),
            "completion_tokens": [3.0, 5.0] * len(cells),
        }
    )


@pytest.mark.parametrize("column", ["messages", "prompt", "input"])
def test_a_log_written_by_python_has_the_prompts_that_are_routed(column, tmp_path):
    asked = [f"What is {i} + {i}?" for i in range(6)]
    cells = [str([TURNS[0], {"role": "user", "content": text}]) for text in asked]
    path = tmp_path / "calls.csv"
    log(column, cells).write_csv(path)
    options = {"local": "small", "encoder": Counts(), "progress": False}
    table = RoutingTable.read_log(path, **options)
    assert table.extra["text"] == asked
    assert QueryTable.read(pl.DataFrame({column: cells}), encoder=Counts()).extra["text"] == asked
    log(column, [*cells, cells[0][:-1]]).write_csv(path)
    with pytest.raises(Cr2Error, match=rf"log\.{column}: .*row 12"):
        RoutingTable.read_log(path, **options)


def test_a_column_that_is_called_text_holds_what_is_embedded():
    said = json.dumps(TURNS)
    assert QueryTable.read(pl.DataFrame({"text": [said]}), encoder=Counts()).extra["text"] == [said]


def test_batches_are_routed_by_what_their_chats_ask(tmp_path):
    encoder = letters(24)
    small(encoder.info, 24, alphas=(0.1,), lams=[1.0]).save(tmp_path / "router.safetensors")
    encoder.save(tmp_path / "static.safetensors")
    options = {"lam": 1.0, "encoder": tmp_path / "static.safetensors"}
    asked = ["a b c", "d e", ""]
    cells = [str([{"role": "user", "content": text}]) for text in asked[:2]]
    route = RouteBatches(tmp_path / "router.safetensors", text="prompt", **options)
    one = route(pl.DataFrame({"prompt": [*cells, ""]}))
    other = route(pl.DataFrame({"prompt": asked}))
    assert np.array_equal(one["margin"].to_numpy(), other["margin"].to_numpy())
    with pytest.raises(Cr2Error, match=r"batch\.prompt: .*row 0"):
        route(pl.DataFrame({"prompt": [cells[0][:-1]]}))
