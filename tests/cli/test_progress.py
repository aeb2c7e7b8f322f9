"""Progress bars: drawn when asked for, silent when not, closed whatever happens."""

from __future__ import annotations

import io
import sys

import pytest

from cr2fast._util.progress import epoch_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_bar_per_stage_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with epoch_bar(True) as update:
        update("teacher", 0.5, 2, 0.7)
        update("teacher", 2.0, 2, 0.6)
        update("gate", 1.0, 2, 0.3)
    text = screen.getvalue()
    for words in ("teacher", "gate", "2.0/2 epochs", "loss 0.6000", "loss 0.3000"):
        assert words in text


def test_nothing_where_no_one_looks(capsys):
    with epoch_bar(True) as update:
        update("teacher", 1.0, 2, 0.5)
    with epoch_bar(False) as update:
        assert update is None
    assert capsys.readouterr().err == ""


def test_the_callers_own_is_passed_on():
    def own(*_):
        pass

    with epoch_bar(own) as update:
        assert update is own


def test_bars_close_on_errors(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = sys.stderr

    def interrupted():
        with epoch_bar(True) as update:
            update("teacher", 1.0, 2, 0.5)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interrupted()
    assert screen.getvalue().endswith("\n"), "the terminal's line is finished"
