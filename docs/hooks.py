"""What the site's pages take from the code when they are built."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
from typing import Any

import griffe

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


class CompiledDocs(griffe.Extension):
    """The stub of ``cr2fast._core`` has the types, and the compiled module the words."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Give what the stub declares the docstrings of what was compiled."""
        import cr2fast._core as core

        if pkg.name == "cr2fast":
            _give(pkg["_core"], core, loader)


def _give(declared: griffe.Object, compiled: Any, loader: griffe.GriffeLoader) -> None:
    for name, member in declared.members.items():
        found = getattr(compiled, name, None)
        if member.is_alias or found is None or name.startswith("_"):
            continue
        words = inspect.getdoc(found)
        if words and member.docstring is None:
            member.docstring = griffe.Docstring(
                words,
                parent=member,
                parser=loader.docstring_parser,
                parser_options=loader.docstring_options,
            )
        if member.is_class:
            _give(member, found, loader)
