"""What columns may be called: one list of guesses for every table and log that is read.

In: the names of a table's columns, and what the caller said of them. Out: for each of our names the
column behind it, or an error that shows what was looked for.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from difflib import get_close_matches

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown

_INPUT = (
    "prompt_tokens", "input_tokens", "n_input_tokens", "promptTokens", "inputTokens", "tokens_in",
    "usage.prompt_tokens", "usage.input_tokens", "usage.input", "usageDetails.input",
    "response.usage.prompt_tokens", "response.usage.input_tokens",
    "response_body.usage.prompt_tokens", "response.body.usage.prompt_tokens",
    "response.body.usage.input_tokens", "gen_ai.usage.input_tokens", "tokens_prompt",
)  # fmt: skip
# The usual name first. Exports of OpenAI, OpenRouter, LiteLLM, Langfuse, Helicone and
# OpenTelemetry are among them; a name with a dot is a field of an object. Of a name whose unit
# differs from tool to tool (`latency`, `duration`, `response_time`) none is guessed: say
# columns={"seconds": "latency"}.
GUESSES: dict[str, tuple[str, ...]] = {
    "query_id": (
        "query_id", "request", "request_id", "requestId", "prompt_id", "question_id", "trace_id",
        "traceId", "custom_id", "id",
    ),
    "text": ("text", "prompt", "question", "query", "user_prompt", "instruction"),
    "messages": (
        "messages", "input", "request.messages", "request_body.messages", "body.messages",
        "request.body.messages", "input.messages", "prompt.messages",
    ),
    "category": ("category", "topic", "task"),
    "embedding": ("embedding", "embeddings", "vector"),
    "model": (
        "model", "model_name", "model_id", "modelName", "request_model", "request.model",
        "request_body.model", "body.model", "request.body.model", "gen_ai.request.model",
        "response_model", "response.model", "response.body.model", "llm", "model_permaslug",
    ),
    "score": ("score", "correct", "is_correct", "grade", "accuracy", "reward"),
    "n_input_tokens": ("n_input_tokens", *(name for name in _INPUT if name != "n_input_tokens")),
    "prompt_tokens": _INPUT,
    "completion_tokens": (
        "completion_tokens", "output_tokens", "n_output_tokens", "completionTokens",
        "outputTokens", "tokens_out", "usage.completion_tokens", "usage.output_tokens",
        "usage.output", "usageDetails.output", "response.usage.completion_tokens",
        "response.usage.output_tokens", "response_body.usage.completion_tokens",
        "response.body.usage.completion_tokens", "response.body.usage.output_tokens",
        "gen_ai.usage.output_tokens", "tokens_completion",
    ),
    "usd": (
        "usd", "cost_usd", "price_usd", "dollars", "response_cost", "spend", "costUSD",
        "total_cost", "totalCost", "calculatedTotalCost", "costDetails.total", "cost_total",
        "usage.cost", "response.usage.cost", "cost",
    ),
    "seconds": ("seconds", "latency_s", "duration_s", "elapsed_s", "latency_seconds"),
    "milliseconds": (
        "milliseconds", "latency_ms", "duration_ms", "elapsed_ms", "delay_ms", "response_ms",
        "latencyMs", "durationMs", "latency_in_ms", "generation_time_ms",
    ),
    "started": ("start_time", "startTime", "started_at", "request_created_at", "requestCreatedAt"),
    "ended": ("end_time", "endTime", "ended_at", "response_created_at", "responseCreatedAt"),
    "answer": (
        "answer", "response", "output", "completion", "response.choices", "response_body.choices",
        "response.body.choices", "response.body.output",
    ),
    "error": (
        "error", "error_str", "error_message", "errorMessage", "exception", "error.message",
        "error.type", "error.code",
    ),
    "status": (
        "status", "status_code", "response_status", "http_status", "response.status_code", "level",
    ),
    "currency": ("currency", "cost_currency", "currency_code", "costCurrency"),
}  # fmt: skip


# What else a caller may call our names; a name of one column's guesses is that column's too.
_SAID = {"input": "text", "latency_s": "seconds", "latency_ms": "milliseconds"}
# Names of times that leave the unit open.
_NO_UNIT = ("latency", "time", "duration", "elapsed", "response_time", "total_time")
UNIT_OF_TIME = (
    "of a column called latency, duration or time the unit has to be said: "
    "columns={'seconds': 'latency'} or {'milliseconds': 'latency'} (--column seconds=latency, "
    "--column milliseconds=latency)"
)

UNIT_OF_CLOCK = (
    "a clock that does not count from 1970 has no unit; write a column seconds or milliseconds of "
    "what each call took"
)


def _canonical(name: object, wanted: Sequence[str]) -> object:
    """Our name behind one that people use: `prompt` is `text`."""
    if name in wanted or not isinstance(name, str):
        return name
    said = _SAID.get(name)
    known = [ours for ours in wanted if ours == said or (said is None and name in GUESSES[ours])]
    return known[0] if known else name


def without_unit(available: Iterable[str]) -> list[str]:
    """Columns of times whose unit is not said."""
    return [c for c in available if c.rpartition(".")[2].lower() in _NO_UNIT]


# Objects whose fields are looked for, also where a cell has them as JSON text.
OBJECTS = sorted({g.partition(".")[0] for gs in GUESSES.values() for g in gs if "." in g})


def find(
    available: Sequence[str],
    wanted: Iterable[str],
    columns: Mapping[str, str],
    what: str,
    empty: Container[str] = (),
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
    empty : container of str
        Columns without a value, which are guessed last.
    """
    wanted = list(wanted)
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a mapping, got {type(columns).__name__}")
    given = columns
    found: dict[str, str] = {}
    for said, theirs in given.items():
        ours = _canonical(said, wanted)
        if ours in _NO_UNIT and {"seconds", "milliseconds"} <= set(wanted):
            raise Cr2Error(
                f"columns: expected a unit, 'seconds' or 'milliseconds', got {shown(said)}; say "
                f"columns={{'seconds': {shown(theirs)}}} or {{'milliseconds': {shown(theirs)}}} "
                f"(--column seconds=..., --column milliseconds=...)"
            )
        if ours not in wanted:
            near = get_close_matches(str(ours)[:60], wanted, n=1, cutoff=0.0)
            raise Cr2Error(
                f"columns: expected some of {wanted}, got {shown(ours)}; nearest: {near[0]}"
            )
        if ours in found:
            raise Cr2Error(f"columns: expected {ours} once, got it twice, as {shown(said)} too")
        if theirs not in available:
            raise missing(str(ours), available, what, tried=[theirs])
        found[str(ours)] = theirs
    taken = set(found.values())
    for ours in wanted:
        free = [g for g in GUESSES[ours] if g in available and g not in taken]
        if ours not in found and free:
            found[ours] = next((g for g in free if g not in empty), free[0])
            taken.add(found[ours])
    return found


def missing(
    ours: str, available: Sequence[str], what: str, tried: Sequence[object] | None = None
) -> Cr2Error:
    """The error of a column that is not there, with what it may be called."""
    looked = list(GUESSES[ours] if tried is None else tried)
    names = str([str(c)[:60] for c in available[:30]])
    have = "have" if what.endswith("s") else "has"
    return Cr2Error(
        f"{what}: expected a column for {ours}, tried {looked}; the {what} {have} {names}; "
        f"pass columns={{{ours!r}: <its name>}}"
    )
