"""A command as a user gives it, without a process of its own."""

from __future__ import annotations

from cr2fast import cli


def run(capsys, *args):
    """Exit status, and what was written to standard output and standard error."""
    code = cli.main([str(a) for a in args])
    return code, *capsys.readouterr()
