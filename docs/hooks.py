"""What the site's pages take from the code when they are built."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

MARKER = re.compile(r"^<!-- help: (.+) -->$", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>)")


def help_of(command: str) -> str:
    """What ``cr2fast COMMAND --help`` prints, at a width that a page holds."""
    from cr2fast.cli import main

    os.environ["COLUMNS"] = "90"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command.split()[1:], "--help"])
    if not out.getvalue():
        raise RuntimeError(f"`{command} --help` printed nothing")
    return out.getvalue()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Each ``<!-- help: cr2fast fit -->`` becomes that command's help."""
    return MARKER.sub(lambda found: f"```text\n{help_of(found[1])}```", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things with Sphinx's roles; a page shows the name."""
    return ROLE.sub("", html)
