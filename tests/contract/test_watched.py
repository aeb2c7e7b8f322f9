"""A watch of a gateway's log whose threshold rolls, and a prompt too long for the log's text."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from cr2fast.traffic import Watch, label, open_log
from tests.contract.test_promise import ALPHA, LAM, gateway, house, pytestmark  # noqa: F401


def test_each_request_counts_as_it_was_served(house, tmp_path):  # noqa: F811
    _, router, _, usual, hard = house
    long = " ".join(usual) + "".join(f" {i}" for i in range(14_000))
    assert len(long) > 1 << 16
    asked = [*usual[:40], *hard[:20], long]
    with gateway(house, tmp_path / "w", 'threshold = "rolling"\n') as g:
        g.file.write_text(
            g.file.read_text().replace("embedding = true", "embedding = true\ntexts = true")
        )
        g.start()
        for text in asked:
            g.ask(text)
        g.end()
        log = open_log(g.folder / "decisions.jsonl")
    assert log.frame["text"].to_list() == [*asked[:-1], None]
    used, start = log.frame["threshold"].to_numpy(), router.device(LAM, ALPHA).threshold
    watched = Watch(
        g.folder / "decisions.jsonl", g.folder / "router.safetensors", tmp_path / "watch.json",
        [(LAM, ALPHA)],
    )  # fmt: skip
    (point,) = watched.look(datetime.now(timezone.utc) + timedelta(minutes=1)).points
    assert (point.n, point.others) == (len(asked), 0)
    assert point.moved == (used != np.float32(start)).sum() > 20
    assert point.risk == pytest.approx(label(log, router)["false_acceptance"].mean())
