"""Routing tables made of others, and as files."""

from __future__ import annotations

from dataclasses import replace

import polars as pl


def renamed_rows(table, prefix="renamed"):
    """The same queries under other ids."""
    return replace(table, query_ids=tuple(f"{prefix}/{i}" for i in table.query_ids))


def write_folder(where, problem, **columns):
    """A problem as a data folder: queries (with more columns, if given), outcomes, the cost table."""
    t = problem.table
    pl.DataFrame(
        {"query_id": t.query_ids, "n_input_tokens": t.n_input_tokens, "embedding": t.embeddings}
        | columns
    ).write_parquet(where / "queries.parquet")
    pl.concat(
        pl.DataFrame(
            {
                "query_id": t.query_ids,
                "model": [m] * len(t),
                "correct": t.correct[:, k],
                "n_output_tokens": t.n_output_tokens[:, k],
            }
        )
        for k, m in enumerate(t.models)
    ).write_parquet(where / "outcomes.parquet")
    (where / "cost_table.json").write_text(problem.costs.to_json())
