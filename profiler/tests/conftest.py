from __future__ import annotations

import pytest
from synthetic import Truth


@pytest.fixture
def truth() -> Truth:
    return Truth()
