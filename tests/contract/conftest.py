"""What several contracts with the gateway stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.gateways import Running, deciding


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with deciding(tmp_path_factory.mktemp("gateway")) as running:
        yield running
