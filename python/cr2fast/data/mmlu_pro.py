"""MMLU-Pro's published answers as a routing table: download, check, count, embed.

In: names of models. Out: a :class:`RoutingTable`. The answer files are those of
github.com/TIGER-AI-Lab/MMLU-Pro (Apache-2.0; the questions are MIT), pinned to one commit and
checked by SHA-256. Files and embeddings are cached, so that nothing is done twice and an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import explained, shown
from cr2fast._util.optional import require
from cr2fast._util.progress import Shows
from cr2fast.data.embedding import embed
from cr2fast.data.table import RoutingTable

if TYPE_CHECKING:
    from cr2fast.encoders.onnx import Encoder

COMMIT = "f418b116db00b065c2aea046518d8fcf74d39872"
BASE_URL = f"https://raw.githubusercontent.com/TIGER-AI-Lab/MMLU-Pro/{COMMIT}/eval_results"
SHA256 = {
    "Phi-3-mini-4k-instruct": "7f45083108479ef586cc6c855325294c1220a9fcb614066abf22234a26d7037e",
    "mathstral-7B": "c5613c4778e8dfe18d53015aa5f163fd86141cde22cdb7667f235d496e025f9a",
    "Meta-Llama-3_1-8B-Instruct": (
        "d5e76b2564b5baad90892c3664287a51f562a3be792a130acaec458b8560a1cf"
    ),
    "Meta-Llama-3_1-70B-Instruct": (
        "26573565138fcd27358a0945c9f525a7d9a75a756689058a0d5bfcbc64fa55cb"
    ),
}


def fetch_mmlu_pro(
    encoder: Encoder,
    models: Sequence[str] = tuple(SHA256),
    *,
    cache: str | Path | None = None,
    hashes: Mapping[str, str] | None = None,
    base_url: str = BASE_URL,
    threads: int = 0,
    progress: Shows = True,
) -> RoutingTable:
    """Download published answers (about 4 MB per model) and make a routing table of them.

    Parameters
    ----------
    encoder : Encoder
        Embeds the 12,032 questions: minutes for MiniLM, once.
    models : sequence of str
        Names as in the files ``model_outputs_<model>_5shots.zip``, the device's first. The default
        is the pool of this project's published figures.
    cache : path, optional
        Folder for files and embeddings; by default the system's cache folder, ``cr2fast``.
    hashes : mapping, optional
        SHA-256 of the files of other models than :data:`SHA256` lists.
    base_url : str
        Address of a folder with the files, which must have the same bytes.
    threads : int
        How many texts to embed at once; 0: one per core.
    progress : bool
        Draw progress bars.

    Returns
    -------
    RoutingTable
        Input and output tokens are counted with the encoder's tokenizer, without special ones. An
        answer whose letter could not be extracted counts as wrong.

    Raises
    ------
    Cr2Error
        A file cannot be downloaded or has another hash, or the models answer different questions.
    """
    known = SHA256 | dict(hashes or {})
    if isinstance(models, str) or len(set(models)) != len(models) or len(models) < 2:
        raise Cr2Error(f"models: expected two or more different names, got {shown(models)}")
    if unknown := [m for m in models if m not in known]:
        raise Cr2Error(
            f"models: expected names with a known SHA-256 ({', '.join(known)}), got "
            f"{shown(unknown)}; pass hashes={{name: sha256}}"
        )
    pooch = require("pooch", "fetch")
    folder = Path(cache) if cache is not None else Path(pooch.os_cache("cr2fast"))
    answers = {
        m: _answers(_download(pooch, m, known[m], folder, base_url, progress)) for m in models
    }
    order = list(answers[models[0]])
    for model, rows in answers.items():
        if rows.keys() != answers[models[0]].keys():
            raise Cr2Error(
                f"{model}: expected answers to the same {len(order)} questions as {models[0]}, got "
                f"{len(rows)} of which {len(rows.keys() & set(order))} are the same"
            )
    questions = [answers[models[0]][q] for q in order]
    texts = [_text(q) for q in questions]
    count = encoder.count_tokens
    return RoutingTable(
        query_ids=tuple(f"mmlu_pro/{q}" for q in order),
        embeddings=embed(encoder, texts, cache=folder, threads=threads, progress=progress),
        correct=np.array([[answers[m][q]["right"] for m in models] for q in order]),
        n_input_tokens=np.array([count(t) for t in texts], dtype=np.uint32),
        n_output_tokens=np.array(
            [[count(answers[m][q]["generated_text"]) for m in models] for q in order],
            dtype=np.uint32,
        ),
        models=tuple(models),
        categories=tuple(q["category"] for q in questions),
        encoder=encoder.info,
        extra={"text": texts},
    )


def _download(
    pooch: Any, model: str, expected: str, folder: Path, base_url: str, progress: Shows
) -> Path:
    name = f"model_outputs_{model}_5shots.zip"
    url = f"{base_url.rstrip('/')}/{name}"
    try:
        path = pooch.retrieve(
            url,
            known_hash=f"sha256:{expected}",
            fname=name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=progress is True, timeout=60),
        )
    except Exception as error:
        raise Cr2Error(
            f"{name}: expected the file with sha256 {expected} from {url}, got {explained(error)}. "
            f"No damaged file was kept in {folder}; you can also put the file there by hand"
        ) from error
    return Path(path)


def _answers(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by question id, in ascending order; `right` says whether the answer is correct."""
    fields = ("question_id", "question", "options", "answer", "category", "generated_text")
    try:
        with zipfile.ZipFile(path) as archive:
            rows = json.loads(archive.read(archive.namelist()[0]))
        found = {
            str(row["question_id"]): {k: row[k] for k in fields}
            | {"right": row.get("pred") is not None and row["pred"] == row["answer"]}
            for row in rows
        }
        if len(found) != len(rows) or not all(isinstance(r["generated_text"], str) for r in rows):
            raise ValueError("a question that is there twice, or an answer that is no text")
        return dict(sorted(found.items(), key=lambda item: int(item[0])))
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, IndexError) as error:
        kind = type(error).__name__
        raise Cr2Error(
            f"{path}: expected a published answer file, got {kind}: {explained(error)}"
        ) from error


def _text(row: Mapping[str, Any]) -> str:
    options = [f"{letter}. {o}" for letter, o in zip(ascii_uppercase, row["options"], strict=False)]
    return "\n".join([row["question"], *options])
