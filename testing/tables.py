"""Routing tables made of others."""

from __future__ import annotations

from dataclasses import replace


def renamed_rows(table, prefix="renamed"):
    """The same queries under other ids."""
    return replace(table, query_ids=tuple(f"{prefix}/{i}" for i in table.query_ids))
