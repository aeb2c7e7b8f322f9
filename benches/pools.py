"""The pools of a data folder: it itself and its subfolders, where they hold queries and a table.

In: a folder. Out: their names, which come from the files, and their folders.
"""

from __future__ import annotations

import re
from pathlib import Path


def pools(folder):
    """{name: folder} of every pool in a folder and one level below, its own first.

    ``mmlu_pro_queries.parquet`` is of the pool ``mmlu_pro``; a bare ``queries.parquet`` takes the
    folder's name. Names are safe as file names, and no two are alike.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SystemExit(f"data: expected a folder, got {folder}")
    found = {}
    for each in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        queries = sorted(each.glob("*queries.parquet"))
        if not queries or not any(each.glob("cost_table*.json")):
            continue
        name = queries[0].name.removesuffix("queries.parquet").strip("_-. ")
        name = re.sub(r"[^\w.-]+", "_", name or each.resolve().name).strip("._") or "pool"
        unique, k = name, 1
        while unique in found:
            k += 1
            unique = f"{name}-{k}"
        found[unique] = each
    if not found:
        raise SystemExit(
            f"data: expected *queries.parquet, *outcomes.parquet and cost_table*.json in {folder} "
            f"or in a folder within, got none"
        )
    return found
