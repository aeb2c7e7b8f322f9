"""What two answers show of how an endpoint streams."""

from __future__ import annotations

import re

import pytest
from fakes.virtual import World

from cr2fast_profiler.workload.look import LONG, SHORT, first_look


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        ({}, "^$"),
        ({"chunk_tokens": 4}, "a chunk is about 4.0 tokens"),
        ({"hidden_tokens": 3}, "usage counts 3 tokens that are never streamed"),
        ({"hidden_tokens": 4, "tells_hidden": True}, "the server counts 4 reasoning tokens"),
        ({"proxy_bytes": 1 << 30}, "later: text is held back.*40 chunks arrive in 1 portions"),
        ({"proxy_bytes": 1024}, "40 chunks arrive in .* portions"),
        ({"context": 12}, "asked for 40 tokens it stops after 12"),
    ],
)
def test_first_look(manners: dict, words: str) -> None:
    with World(**manners).endpoint() as endpoint:
        found = first_look(*(endpoint.generate("count on", n) for n in (SHORT, LONG)))
    assert re.search(words, "; ".join(found)), found
