"""The code of the pages about traffic runs, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testing import traffic

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def run(page, **replaced):
    code = "\n".join(re.findall(r"```python notest\n(.*?)```", (PAGES / page).read_text(), re.S))
    for old, new in replaced.items():
        code = code.replace(old, new)
    names: dict[str, object] = {}
    exec(compile(code, page, "exec"), names)
    return names


@pytest.fixture
def here(tmp_path, monkeypatch, artifact, records):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "router.safetensors").write_bytes(artifact.read_bytes())
    traffic.write(tmp_path / "decisions.jsonl", records)
    return tmp_path


def test_replay_and_recalibrate(here, capsys):
    names = run("replay-and-recalibrate.md")
    said = capsys.readouterr().out
    assert "500 requests from 500 lines" in said
    assert "requests calibrate" in said
    assert (here / "recalibrated.safetensors").exists() == names["done"].good


def test_beyond_one_machine(here, splits, capsys):
    x = splits[2].embeddings
    (here / "in").mkdir()
    for k, part in enumerate(np.array_split(x, 2)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), x.shape[1])
        pq.write_table(pa.table({"embedding": column}), here / "in" / f"{k}.parquet")
    names = run("beyond-one-machine.md")
    assert (names["done"].written, names["done"].rows) == (2, len(x))
    assert "margin: float" in capsys.readouterr().out
