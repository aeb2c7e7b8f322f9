"""Fuzz the readers of log lines: ``python -m testing.fuzz_log_lines CORPUS [libFuzzer's flags]``.

In: bytes, read as a decision log and as a log of calls. What is asked of both readers: no exception but
:class:`cr2fast.Cr2Error`, in bounded words; every line of a decision log is a row or counted; ids stay as they
came. The corpus begins with a line of each kind that the decision log's schema has, and calls as tools export them.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # Frames are tiny; threads only wait.
with atheris.instrument_imports(
    include=["cr2fast.traffic", "cr2fast.data"], enable_loader_override=False
):
    import cr2fast
    from cr2fast.data.names import GUESSES
    from cr2fast.traffic import lines, open_log
SCHEMA = Path(__file__).parents[1] / "docs/reference/decision-log.schema.json"
# An error's words, the path in it included.
LONGEST = 4000
# What the fields of a log may be called.
NAMES = sorted(
    {name for guesses in GUESSES.values() for name in guesses} | {"correct", "other.correct"}
)
# What stands in a field where something else was.
STRANGE = (
    None, True, 0, -1, 1.5, 1e300, 10**30, -(2**63), "", "x" * 500, "\ud800", "\0", "inf", "NaN", "1970-01-01", [], {},
    [1, None], [[1]], [["a", "b"]], {"a": {"b": 1}}, {"": -1}, {"role": "user", "content": "Hi"}, [{"role": "user"}],
)  # fmt: skip


class Lengths:
    """An encoder of two numbers."""

    info = cr2fast.EncoderInfo("lengths")
    dim = 2

    def encode(self, texts, threads=1):
        return np.array([[len(t), len(t.split())] for t in texts], dtype=np.float32)

    def count_tokens(self, text):
        return len(text.split())


def example(schema):
    """A value that a schema allows."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example(schema["anyOf"][-1])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        pairs = schema.get("prefixItems")
        return [example(x) for x in pairs] if pairs else [example(schema["items"])]
    if kind == "string":
        pattern = schema.get("pattern", "")
        width = re.search(r"\{(32|64)\}", pattern)
        return (
            "a" * int(width[1])
            if width
            else "2026-11-01T00:00:00.000000Z"
            if "T" in pattern
            else "x"
        )
    return {"boolean": True, "integer": 7, "number": 0.5}[kind]


def calls():
    """Logs of calls: flat, nested as a batch of OpenAI's, and chats."""
    for i in range(3):
        for model, score in (("small", i % 2), ("big", 1)):
            usage = {"prompt_tokens": 9 + i, "completion_tokens": 3}
            prompt = f"What is {i} + 7?"
            flat = {
                "request": f"r{i}",
                "prompt": prompt,
                "model": model,
                "score": score,
                "usd": 0.001,
                "seconds": 0.5,
            }
            body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
            answer = {
                "status_code": 200,
                "body": {"choices": [{"message": {"content": "x"}}], "usage": usage},
            }
            batch = {
                "custom_id": f"r{i}",
                "body": body,
                "response": answer,
                "error": None,
                "score": score,
            }
            chat = {"id": f"r{i}", **body, **usage, "score": score, "start_time": "2026-11-01T00:00:00Z",
                    "end_time": "2026-11-01T00:00:01Z"}  # fmt: skip
            yield flat | usage, batch, chat


def seeds():
    """Files to begin with."""
    kinds = [example(kind) for kind in json.loads(SCHEMA.read_text())["oneOf"]]
    whole = [json.dumps(line) for line in kinds]
    yield from whole
    yield "\n".join(whole)
    yield "\n".join([*whole, whole[0][:40], *whole, json.dumps(kinds[0] | {"why": "direct"})])
    for form in zip(*calls(), strict=True):
        yield "\n".join(map(json.dumps, form))
    yield from ("[1]", '{"a": NaN}', '{"id": 1, "id": 2}', "[" * 5000, "\0\0")


def mutate(data, max_size, seed):
    """Half of the time a field of one line becomes something strange, a line comes twice or is cut; else bytes change."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return atheris.Mutate(data, max_size)
    rows = data.split(b"\n")
    at = rng.randrange(len(rows))
    try:
        value = json.loads(rows[at])
        inside = value
        while True:
            name = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            if not (isinstance(inside[name], (dict, list)) and inside[name] and rng.random() < 0.7):
                break
            inside = inside[name]
        if isinstance(inside, dict) and rng.random() < 0.3:
            name = rng.choice(NAMES)
        inside[name] = rng.choice(STRANGE)
        made = json.dumps(value).encode()
    except (ValueError, IndexError, TypeError, RecursionError):
        made = rows[at][: rng.randrange(len(rows[at]) + 1)]
    rows[at : at + (rng.random() < 0.7)] = [made]
    out = b"\n".join(rows)
    return out if len(out) <= max_size else atheris.Mutate(data, max_size)


def bounded(error):
    assert len(str(error)) <= LONGEST, f"an error of {len(str(error))} characters"


def decision_log(path, data):
    """Every line is a row or counted, under its own id."""
    try:
        log = open_log(path)
    except cr2fast.Cr2Error as error:
        return bounded(error)
    found = log.found
    ids = log.frame["id"].to_list()
    expected = []
    others = 0
    for line in data.split(b"\n"):
        with suppress(lines.TornError, lines.WrongError):
            value = lines.parse(line)
            if lines.kind_of(value) == "request":
                expected.append(lines.record(value)[0]["id"])
            else:
                others += 1
    assert ids == list(dict.fromkeys(expected)), "ids are not those of the lines"
    apart = found.torn + found.wrong + found.too_long
    assert found.lines - apart - len(expected) in range(others + 1), (
        "a line is neither a row nor counted"
    )
    assert len(expected) == len(ids) + found.duplicates + found.conflicting
    assert all(len(words) <= LONGEST for words in log.apart["words"])
    str(log)
    return None


def leaves(value):
    """What may be an id: values at any depth, and what they are as text."""
    yield value if isinstance(value, str) else json.dumps(value)
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from leaves(inner)


def call_log(path, data):
    """A table whose parts fit together, of queries that the file has."""
    try:
        table = cr2fast.RoutingTable.read_log(
            path, local="small", encoder=Lengths(), cache=False, progress=False
        )
    except cr2fast.Cr2Error as error:
        return bounded(error)
    said = set()
    for line in data.decode("utf-8-sig").split("\n"):
        if line.strip():
            said.update(leaves(json.loads(line)))
    numbers = {float(s) for s in said if re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", s)}
    for query in table.query_ids:
        own = query in said or query.startswith("said/")
        with suppress(ValueError):
            own = own or float(query) in numbers
        assert own, f"the file has no {query!r}"
    n = len(table.query_ids)
    assert n == len(set(table.query_ids)) == len(table.embeddings) == len(table.n_input_tokens)
    assert table.models[0] == "small"
    assert table.correct.shape == (n, len(table.models))
    return None


def main():
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(seeds()):
        (corpus / f"seed-{i:02}").write_text(text)
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as folder:
        path = Path(folder, "log.jsonl")

        def one(data):
            path.write_bytes(data)
            decision_log(path, data)
            call_log(path, data)

        atheris.Setup(sys.argv, one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
