"""A router of a static encoder, and two loopback servers."""

from __future__ import annotations

import numpy as np
import pytest

from testing.letters import LETTERS, letters
from testing.openai_stub import Stub
from testing.routers import small

D = 24


@pytest.fixture(scope="session", name="letters")
def letters_encoder():
    return letters(D)


@pytest.fixture(scope="session")
def text_router(letters):
    return small(letters.info, D, alphas=(0.05, 0.1), lams=[0.1, 1.0, 20.0])


@pytest.fixture(scope="session")
def texts(text_router, letters):
    """A text that stays on the device at lam = 0.1, alpha = 0.1, and one that is deferred."""
    rng = np.random.default_rng(1)
    words = [" ".join(rng.choice(list(LETTERS), size=6)) for _ in range(200)]
    local = text_router.device(0.1, 0.1).route_texts(words, letters)
    assert local.any()
    assert not local.all()
    return words[local.argmax()], words[local.argmin()]


@pytest.fixture(scope="session")
def both_servers():
    device, edge = Stub("from the device"), Stub("from the edge")
    yield device, edge
    device.close()
    edge.close()


@pytest.fixture
def servers(both_servers):
    """A device's and an edge's server, in good health, which no request has reached."""
    for server in both_servers:
        server.behaviour, server.requests = "ok", []
    return both_servers
