"""What columns may be called: one list of guesses for every table and log that is read.

In: the names of a table's columns, and what the caller said of them. Out: for each of our names the
column behind it, or an error that shows what was looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown

# The usual name first. Exports of OpenAI, LiteLLM, Langfuse, Helicone and OpenTelemetry are among
# them; a name with a dot is a field of an object.
GUESSES: dict[str, tuple[str, ...]] = {
    "query_id": (
        "query_id", "request", "request_id", "trace_id", "traceId", "prompt_id", "question_id",
        "id",
    ),
    "text": ("text", "prompt", "question", "query", "user_prompt", "instruction"),
    "messages": ("messages", "input", "request.messages", "request_body", "body.messages"),
    "category": ("category",),
    "embedding": ("embedding", "embeddings", "vector"),
    "n_input_tokens": (
        "n_input_tokens", "prompt_tokens", "input_tokens", "promptTokens", "inputTokens",
        "usage.prompt_tokens", "usage.input_tokens", "usage.input", "usageDetails.input",
        "response.usage.prompt_tokens", "gen_ai.usage.input_tokens",
    ),
}  # fmt: skip


def find(
    available: Sequence[str],
    wanted: Iterable[str],
    columns: Mapping[str, str],
    what: str,
    guesses: Mapping[str, tuple[str, ...]] = GUESSES,
) -> dict[str, str]:
    """Which column holds each of the wanted names; those that are not there are left out.

    Parameters
    ----------
    available : sequence of str
        The table's columns.
    wanted : iterable of str
        Our names.
    columns : mapping of str to str
        What the caller says: our name to the table's.
    what : str
        What errors call the table.
    guesses : mapping
        By our names, what columns may be called.
    """
    wanted = list(wanted)
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a mapping, got {type(columns).__name__}")
    for ours, theirs in columns.items():
        if ours not in wanted:
            near = get_close_matches(str(ours)[:60], wanted, n=1, cutoff=0.0)
            raise Cr2Error(
                f"columns: expected names among {wanted}, got {shown(ours)}; nearest: {near[0]}"
            )
        if theirs not in available:
            near = get_close_matches(str(theirs)[:60], list(available), n=1, cutoff=0.0)
            raise Cr2Error(
                f"columns: expected {ours} in a column of the {what}, got {shown(theirs)}; the "
                f"{what} has {shown(list(available))}; nearest: {near[0] if near else 'none'}"
            )
    taken = set(columns.values())
    found = dict(columns)
    for ours in wanted:
        free = (g for g in guesses[ours] if g in available and g not in taken)
        if ours not in found and (guess := next(free, None)) is not None:
            found[ours] = guess
    return found


def missing(ours: str, available: Sequence[str], what: str) -> Cr2Error:
    """The error of a column that is not there, with what it may be called."""
    return Cr2Error(
        f"{what}: expected a column for {ours}, tried {list(GUESSES[ours])}; the {what} has "
        f"{shown(list(available))}; pass columns={{{ours!r}: <its name>}}"
    )
