"""Every command's errors name what was typed: flags, files and values, and nothing of Python."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from cr2fast import cli
from cr2fast.cli.parser import parser
from cr2fast.cli.words import in_flags
from testing.tables import write_folder

# What only Python says: a keyword, a constant, a class of ours.
PYTHON = re.compile(
    r"(?<![\w-])(?!lam=|alpha=|score=)[a-z_]+=|\b(True|False|None)\b|cr2fast\.[A-Z]|Traceback"
)


def command(name):
    return parser().parse_args([name, *NEEDED[name]]).sub


NEEDED = {
    "fit": ["--data", "d"],
    "calibrate": ["r", "--data", "d"],
    "evaluate": ["r", "--data", "d"],
    "choose": ["r", "--data", "d"],
    "route": ["r", "--text", "t"],
    "replay": ["l", "--router", "r", "--lam", "1"],
    "recalibrate": ["l", "--router", "r", "-o", "o"],
    "watch": ["l", "--router", "r", "--state", "s", "--lam", "1", "--alpha", "1"],
    "costs": ["--price", "a=1,2"],
}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("replay", "x; pass the routers with logged_by=", "x; pass the routers with --logged-by"),
        ("watch", "a longer gap_s says so", "a longer --gap-s says so"),
        ("watch", "window_s: expected", "--window-h: expected"),
        ("calibrate", "alpha: expected a level", "--alphas: expected a level"),
        ("calibrate", "delta: expected", "--simultaneous: expected"),
        ("choose", "delta: expected", "--delta: expected"),
        ("evaluate", 'leave these out with overlap="drop" (--overlap drop)',
         "leave these out with --overlap drop"),
        ("calibrate", "or pass on_infeasible='defer' (--on-infeasible defer) to",
         "or pass --on-infeasible defer to"),
        ("route", "state.rtt_s: expected seconds", "--rtt-s: expected seconds"),
        ("route", "n_input_tokens[0]: expected", "--n-input-tokens: expected"),
        ("replay", "router: expected a calibrated one; call calibrate first",
         "--router: expected a calibrated one; run cr2fast calibrate first"),
        ("replay", 'rule: expected "fallback" with fallback=<edge model>',
         '--deferred: expected "fallback" with --fallback <edge model>'),
        ("fit", "fit with teacher= that router, which keeps the scale, or fit this one with "
         "features=False (--features none)", "fit this one with --features none"),
        # A point is written so, a field keeps its name, and a file its path.
        ("replay", "lam=9 is not on the grid", "lam=9 is not on the grid"),
        ("route", "lam=9 is not on the grid", "lam=9 is not on the grid"),
        ("evaluate", "n_input_tokens: expected", "n_input_tokens: expected"),
        ("watch", "no file at 'logs/gap_s.jsonl'", "no file at 'logs/gap_s.jsonl'"),
        ("replay", "set texts = true in the gateway's [log]", "set texts = true in the gateway's [log]"),
    ],
)  # fmt: skip
def test_keywords_become_flags(name, text, words):
    assert in_flags(text, command(name)) == words


@pytest.fixture(scope="module")
def files(problem, fitted, tmp_path_factory):
    """What the wrong lines below name, and nothing that takes long to read."""
    where = tmp_path_factory.mktemp("words")
    (where / "data").mkdir()
    small = problem.table.take(range(200))
    write_folder(where / "data", type(problem)(small, problem.costs))
    fitted.save(where / "fitted")
    (where / "bad.json").write_text("{")
    (where / "nan.json").write_text('{"schema": NaN}')
    for name in ("unnamed", "holes"):
        (where / name).mkdir()
        texts = [None if i % 3 == 0 else f"text {i}" for i in range(200)]
        hours = [float("nan") if i % 3 == 0 else 1.0 for i in range(200)]
        write_folder(where / name, type(problem)(small, problem.costs), text=texts, hour=hours)
    (where / "unnamed/queries.parquet").unlink()
    (where / "unnamed/queries.jsonl").write_text('{"text": "x", "embedding": [1.0]}\n')
    np.save(where / "x.npy", small.embeddings[:2])
    (where / "log.jsonl").write_text('{"schema": "cr2fast.decision_log/1", "kind": "request"}\n')
    (where / "calls.jsonl").write_text(
        "".join(
            f'{{"prompt": "p{i}", "model": "{m}", "score": 1, "prompt_tokens": 1, '
            f'"completion_tokens": 1, "usd": 1, "seconds": 1}}\n'
            for i in range(9)
            for m in ("a", "b")
        )
    )
    return where


LINES = [
    ("fit --data data --lam-range 5", "--lam-range: expected two positive numbers"),
    ("fit --data data --lam-range 5,1", "--lam-range: expected two positive numbers"),
    ("fit --data data --lam-range 1,1e9", "--lam-range: expected LOW below HIGH"),
    ("fit --data data --features ,", "--features: expected none, or text and names of columns"),
    ("fit --data data --features none,text", "--features: expected none, or text and names"),
    ("fit --data data --features words", "--features: expected a column 'words'"),
    ("fit --data data --features text", "--features: expected a column 'text'"),
    ("fit --data data --seed -1", "--seed: expected a whole number"),
    ("fit --data data --split-seed -1", "--split-seed: expected a whole number"),
    ("fit --data data --split 0.5,0.5,0.5", "--split: expected positive numbers that sum to 1"),
    ("fit --data data --smoother-share 2", "--smoother-share: expected a number from 0 to 1"),
    ("fit --data data --costs nofile", "--costs: No such file or directory: 'nofile'"),
    ("fit --data data --costs bad.json", "bad.json: cost table: file: expected valid JSON"),
    ("fit --data data --costs nan.json", "valid JSON, got NaN at line 1, which is no JSON number"),
    ("fit --log calls.jsonl --costs bad.json", "bad.json: cost table: file: expected valid JSON"),
    ("fit --data data --costs x.npy", "error: cost table: x.npy: expected JSON text"),
    ("fit --data unnamed", "unnamed/queries.jsonl: queries: expected a column for query_id"),
    ("fit --data unnamed", "; call the column so in the file"),
    ("fit --data holes --features text", "leave those out of the file, read a table with texts"),
    ("fit --data holes --features hour", "in the column 'hour', got nan for 'synthetic/"),
    ("fit --log log.jsonl", "--log: expected a log of calls"),
    ("fit --log log.jsonl", "cr2fast replay, recalibrate and watch read it"),
    ("fit --log calls.jsonl", "pass --encoder SOURCE"),
    ("fit --log calls.jsonl --column score=grade", "pass --column score=<its name>"),
    ("fit --log calls.jsonl --local a --edge a", "--local, --edge: expected a local and"),
    ("calibrate nofile --data data", "router: No such file or directory: 'nofile'"),
    ("calibrate x.npy --data data", "x.npy: artifact: expected a whole safetensors file"),
    ("calibrate fitted --data data @", "leave these out with --overlap drop"),
    ("calibrate fitted --data data @ --overlap drop --alphas 2", "--alphas: expected a risk level"),
    (
        "calibrate fitted --data data @ --overlap drop --alphas 0.0001",
        "pass --on-infeasible defer to",
    ),
    ("calibrate fitted --data data @ --overlap drop --lams 1e5", "fit with a wider --lam-range"),
    ("calibrate fitted --data data @ --overlap drop --simultaneous 2", "--simultaneous: expected"),
    ("calibrate fitted --data data @ --overlap drop --groups x", "--groups: expected a column"),
    ("calibrate fitted --queries nofile", "--queries: expected a file"),
    ("evaluate fitted --data data @ --overlap drop", "run cr2fast calibrate first"),
    ("choose fitted --data data @ --overlap drop --min-accuracy 2", "run cr2fast calibrate first"),
    ("route fitted --lam 1 --embeddings x.npy", "run cr2fast calibrate first"),
    ("route fitted --lam 1 --embeddings nofile", "--embeddings: No such file or directory"),
    ("route nofile --lam 1 --embeddings x.npy", "router: No such file or directory: 'nofile'"),
    ("route fitted --lam 1 --embeddings x.npy --rtt-s -1", "--rtt-s: expected seconds"),
    ("inspect data", "router: Is a directory: 'data'"),
    ("costs --price a=1,2", "--price: expected the device's model and at least one edge model"),
    ("costs --price a=-1,2 --price b=1,2", "argument --price: expected dollars, at least 0"),
    (
        "costs --log calls.jsonl --shares x=1",
        "argument --shares: expected latency, energy or price",
    ),
    ("costs --log calls.jsonl --reference x", "--reference: expected one of the models"),
    ("costs --prices x.npy", "--prices: expected a JSON object"),
    ("replay nofile --router fitted --lam 1", "log: expected a decision log, got no file"),
    ("replay log.jsonl --router nofile --lam 1", "--router: No such file or directory: 'nofile'"),
    ("replay log.jsonl --router fitted --lam 1", "log: expected lines of schema"),
    ("recalibrate log.jsonl --router x.npy -o o", "x.npy: artifact: expected"),
    ("recalibrate log.jsonl --router fitted -o data", "--out: expected a file"),
    ("watch log.jsonl --router nofile --state s --lam 1 --alpha 1", "--router: No such file"),
    ("watch log.jsonl --router fitted --state data --lam 1 --alpha 1", "--state: expected a file"),
    ("watch log.jsonl --router fitted --state no/s --lam 1 --alpha 1", "--state: expected a file"),
    (
        "distill-encoder --encoder fitted --data data",
        "--encoder: fitted: artifact: expected format",
    ),
    ("recalibrate log.jsonl --router fitted -o log.jsonl", "--out: expected another file than one"),
    (
        "recalibrate log.jsonl --router fitted -o ./data/../log.jsonl",
        "--out: expected another file",
    ),
    (
        "watch log.jsonl --router fitted --state log.jsonl --lam 1 --alpha 1",
        "--state: expected anoth",
    ),
    (
        "recalibrate log.jsonl* --router fitted -o log.jsonl",
        "--out: expected another file than one",
    ),
    ("choose fitted --data data @ --min-accuracy 1 --write fitted", "--write: expected another"),
    ("choose fitted --data data @ --min-accuracy 1 --write ./fitted", "--write: expected another"),
    ("watch log.jsonl --router fitted --state fitted --lam 1 --alpha 1", "--state: expected anoth"),
    ("fit --data data --encoder x.npy -o x.npy", "--out: expected another file than one that is"),
    ("fit --data data @ -o data/queries.parquet", "--out: expected another file than one that is"),
    ("fit --data data @ -o data/cost_table.json", "--out: expected another file than one that is"),
    (
        "calibrate fitted --data data @ -o data/outcomes.parquet",
        "--out: expected another file than one that is read",
    ),
    ("fit --log calls.jsonl -o calls.jsonl", "--out: expected another file than one that is read"),
    (
        "costs --log calls.jsonl -o calls.jsonl",
        "--out: expected another file than one that is read",
    ),
    ("demo --data data --alpha 3", "alpha=3.0: expected a level of the demonstration's grid"),
    ("demo --data data --lam -1", "--lam: expected a positive, finite cost weight"),
]


@pytest.mark.parametrize(("line", "words"), LINES)
def test_each_commands_errors_are_in_its_own_words(line, words, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    try:
        code = cli.main(shlex.split(line.replace("@", "--encoder-id 'synthetic embeddings, d=40'")))
    except SystemExit as stop:
        code = stop.code
    told = "".join(x for x in capsys.readouterr().err.splitlines(True) if "error: " in x)
    assert code == 2
    assert words in told
    # What was typed is repeated as it was.
    assert not PYTHON.search(re.sub(r"'[^']*'|as in \S+|\w+=<", "", told)), told
    assert len(told) < 1200
