"""The demo of the gateways runs to its end: real servers on loopback, the real `openai` client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testing.gateways import BINARY, ROOT, needed


@needed
def test_the_demo_asks_streams_kills_the_edge_and_reloads(tmp_path: Path) -> None:
    demo = ROOT / "examples" / "testbed" / "demo.py"
    command = [sys.executable, demo, "--gateway", BINARY, "--out", tmp_path / "out"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    for words in ("[the model's server broke off", "edge-down", "reloaded by both", "the decision"):
        assert words in told.stdout
    assert "Traceback" not in told.stderr
