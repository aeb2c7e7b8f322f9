"""Model folders: weights in other files, and what sentence-transformers configures."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.encoders import files as encoder_files
from cr2fast.encoders.external import external_files
from testing import onnx_model as onnx
from testing.texts import TEXTS

D = 6
TABLE = np.random.default_rng(3).normal(size=(30_522, D)).astype(np.float32)
MINILM_SHA256 = "18bb679f81493ff565a6f92cd62f7fda7094395eba7a34284625e03906b03728"


def folder(path: Path, table=TABLE, location=None, **documents) -> Path:
    """An encoder's folder; `documents` are its JSON files by name, `__` for a slash."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.onnx").write_bytes(onnx.sums_of_rows(table, location))
    if location is not None:
        (path / location).parent.mkdir(parents=True, exist_ok=True)
        (path / location).write_bytes(table.tobytes())
    shutil.copy(encoder_files.find("minilm").tokenizer, path / "tokenizer.json")
    write(path, **documents)
    return path


def write(path: Path, **documents) -> None:
    for name, document in documents.items():
        file = path / (name.replace("__", "/") + ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document if isinstance(document, str) else json.dumps(document))


def module(kind, path=""):
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


MODULES = [
    module("Transformer"),
    module("Pooling", "1_Pooling"),
    module("Normalize", "2_Normalize"),
]


def pooling(**on):
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken"]
    return {"word_embedding_dimension": D} | {f"pooling_mode_{m}": on.get(m, False) for m in modes}


def reference(encoder, text, mode, normalize=True):
    """What sentence-transformers computes, of hidden states as the model defines them."""
    hidden = np.cumsum(TABLE[encoder.tokens(text)].astype(float), axis=0)
    n = len(hidden)
    pooled = {
        "mean_tokens": hidden.sum(0) / n,
        "cls_token": hidden[0],
        "max_tokens": hidden.max(0),
        "mean_sqrt_len_tokens": hidden.sum(0) / n**0.5,
        "lasttoken": hidden[-1],
    }[mode]
    return pooled / np.linalg.norm(pooled) if normalize else pooled


# Weights in other files.


@pytest.mark.parametrize("location", ["model.onnx_data", "weights/part 1.bin", "./model.onnx_data"])
def test_weights_in_other_files_are_in_the_fingerprint(tmp_path, location):
    a = cr2fast.Encoder.load(folder(tmp_path / "a", TABLE, location))
    b = cr2fast.Encoder.load(folder(tmp_path / "b", -TABLE, location))
    model = [(tmp_path / x / "model.onnx").read_bytes() for x in "ab"]
    assert model[0] == model[1]
    assert a.info.sha256 != b.info.sha256
    np.testing.assert_array_equal(a.encode("x"), -b.encode("x"))
    again = cr2fast.Encoder.load(folder(tmp_path / "c", TABLE, location))
    assert again.info.sha256 == a.info.sha256


def test_a_model_of_one_file_keeps_the_fingerprint_it_always_had(tmp_path):
    """Routers on disk remember it."""
    assert cr2fast.Encoder.load("minilm").info.sha256 == MINILM_SHA256
    plain = cr2fast.Encoder.load(folder(tmp_path / "plain"))
    mean = cr2fast.Encoder.load(
        folder(
            tmp_path / "configured",
            modules=MODULES,
            **{"1_Pooling__config": pooling(mean_tokens=True)},
            sentence_bert_config={"max_seq_length": 256, "do_lower_case": False},
        )
    )
    assert plain.info.sha256 == mean.info.sha256


EXTERNAL = onnx.tensor("w", np.zeros(2, np.float32), "w.bin")
ATTRIBUTE = {
    "tensor": onnx.field(5, EXTERNAL),
    "tensors": onnx.field(10, EXTERNAL),
    "sparse tensor": onnx.field(22, onnx.field(1, EXTERNAL)),
    "sparse tensors": onnx.field(23, onnx.field(2, EXTERNAL)),
    "subgraph": onnx.field(6, onnx.field(5, EXTERNAL)),
    "subgraphs": onnx.field(11, onnx.field(5, EXTERNAL)),
}


def within(attribute: bytes) -> bytes:
    return onnx.field(1, onnx.node("Constant", [], "c", onnx.field(5, attribute)))


PLACES = {
    "initializer": onnx.model(onnx.field(5, EXTERNAL)),
    "sparse values": onnx.model(onnx.field(15, onnx.field(1, EXTERNAL))),
    "sparse indices": onnx.model(onnx.field(15, onnx.field(2, EXTERNAL))),
    **{f"attribute {k}": onnx.model(within(v)) for k, v in ATTRIBUTE.items()},
    "subgraph in a subgraph": onnx.model(
        within(onnx.field(6, within(onnx.field(6, within(ATTRIBUTE["tensor"])))))
    ),
    "function": onnx.model(
        b"",
        onnx.field(25, onnx.field(7, onnx.node("C", [], "c", onnx.field(5, ATTRIBUTE["tensor"])))),
    ),
    "function's default": onnx.model(b"", onnx.field(25, onnx.field(11, ATTRIBUTE["tensor"]))),
    "training": onnx.model(b"", onnx.field(20, onnx.field(2, onnx.field(5, EXTERNAL)))),
    "a graph in two pieces": onnx.model(b"") + onnx.field(7, onnx.field(5, EXTERNAL)),
    "value before key": onnx.model(
        onnx.field(5, onnx.field(13, onnx.field(2, "w.bin") + onnx.field(1, "location")))
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_wherever_a_graph_may_hold_one(tmp_path, place):
    path = tmp_path / "model.onnx"
    path.write_bytes(PLACES[place])
    assert external_files(path) == ["w.bin"]
    # Bytes that only look like one are no tensor.
    path.write_bytes(onnx.model(onnx.field(10, onnx.field(5, EXTERNAL))))
    assert external_files(path) == []


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.bin", "a/../../w.bin", "..\\w.bin", "C:\\w.bin", "C:w", "\\\\h\\s\\w",
     "", ".", "a\0b", "x" * 5000],
)  # fmt: skip
def test_locations_outside_the_folder_are_refused(tmp_path, location):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.model(onnx.field(5, onnx.tensor("w", np.zeros(2, np.float32), location))))
    with pytest.raises(cr2fast.Cr2Error, match="expected external weights inside the folder") as e:
        external_files(path)
    assert len(str(e.value)) < 600


def test_a_missing_file_of_weights_is_named(tmp_path):
    (folder(tmp_path, location="model.onnx_data") / "model.onnx_data").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected model\.onnx_data beside .*got no such"):
        cr2fast.Encoder.load(tmp_path)


@given(st.data())
def test_damaged_graphs_are_refused_or_read_never_worse(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    whole = bytearray(PLACES[data.draw(st.sampled_from(sorted(PLACES)))])
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        found = external_files(path)
    except cr2fast.Cr2Error as error:
        found, words = [], str(error)
    else:
        words = ""
    assert len(words) < 600
    assert all(not Path(f).is_absolute() and ".." not in Path(f).parts for f in found)


def hub(root: Path, monkeypatch, known=True):
    """A hub whose repository is `root`; without `known`, a cache that only has its model."""
    asked = []

    class EntryNotFoundError(Exception):
        pass

    class LocalEntryNotFoundError(EntryNotFoundError):
        pass

    def download(name, file, local_files_only):
        asked.append((file, local_files_only))
        if (root / file).is_file():
            return str(root / file)
        raise (LocalEntryNotFoundError if local_files_only else EntryNotFoundError)(file)

    missing = object()
    fake = types.SimpleNamespace(
        hf_hub_download=download,
        errors=types.SimpleNamespace(
            EntryNotFoundError=EntryNotFoundError, LocalEntryNotFoundError=LocalEntryNotFoundError
        ),
        try_to_load_from_cache=lambda *_: missing if known else None,
        _CACHED_NO_EXIST=missing,
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return asked


def test_a_hub_gives_the_weights_and_the_configuration_too(tmp_path, monkeypatch):
    root = tmp_path / "repository"
    folder(root / "onnx", location="model.onnx_data")
    shutil.move(root / "onnx" / "tokenizer.json", root / "tokenizer.json")
    write(root, modules=MODULES, **{"1_Pooling__config": pooling(cls_token=True)})
    asked = hub(root, monkeypatch)
    got = cr2fast.Encoder.load("who/model", download=True)
    assert ("onnx/model.onnx_data", False) in asked
    local = folder(tmp_path / "local", location="model.onnx_data")
    write(local, modules=MODULES, **{"1_Pooling__config": pooling(cls_token=True)})
    assert got.info.id.startswith("who/model")
    assert got.info.sha256 == cr2fast.Encoder.load(local).info.sha256
    assert cr2fast.Encoder.load("who/model").info == got.info
    # A cache from before these files were asked for does not know whether there are any.
    hub(root, monkeypatch, known=False)
    with pytest.raises(cr2fast.Cr2Error, match="pass download=True once"):
        cr2fast.Encoder.load("who/model")
    # Nothing is downloaded unless asked.
    (root / "onnx" / "model.onnx_data").unlink()
    asked = hub(root, monkeypatch)
    with pytest.raises(cr2fast.Cr2Error, match="pass download=True to fetch them"):
        cr2fast.Encoder.load("who/model")
    assert all(local for _, local in asked)
    with pytest.raises(cr2fast.Cr2Error, match="the files that they name of who/model"):
        cr2fast.Encoder.load("who/model", download=True)


# What sentence-transformers configures.


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "mode", ["mean_tokens", "cls_token", "max_tokens", "mean_sqrt_len_tokens", "lasttoken"]
)
def test_pooling_is_as_configured(tmp_path, mode, listed):
    documents = {"1_Pooling__config": pooling(**{mode: True})}
    encoder = cr2fast.Encoder.load(
        folder(tmp_path, **documents, **({"modules": MODULES} if listed else {}))
    )
    for text in TEXTS:
        got = encoder.encode(text)
        np.testing.assert_allclose(got, reference(encoder, text, mode), atol=1e-5)
        np.testing.assert_array_equal(encoder.encode([text, "x"])[0], got)
    plain = cr2fast.Encoder.load(folder(tmp_path / "plain"))
    assert (encoder.info.sha256 == plain.info.sha256) == (mode == "mean_tokens")


@pytest.mark.parametrize("named", ["cls", ["cls"]])
def test_newer_spellings_are_read(tmp_path, named):
    modules = [
        module("Transformer") | {"type": "sentence_transformers.base.modules.Transformer"},
        module("Pooling", "1_Pooling"),
    ]
    config = {"embedding_dimension": D, "pooling_mode": named, "include_prompt": True}
    encoder = cr2fast.Encoder.load(
        folder(tmp_path, modules=modules, **{"1_Pooling__config": config})
    )
    np.testing.assert_allclose(
        encoder.encode(TEXTS[1]), reference(encoder, TEXTS[1], "cls_token", False), atol=1e-5
    )


def test_without_a_normalize_module_vectors_stay_as_they_are(tmp_path):
    configs = {"1_Pooling__config": pooling(mean_tokens=True)}
    raw = cr2fast.Encoder.load(folder(tmp_path / "raw", modules=MODULES[:2], **configs))
    unit = cr2fast.Encoder.load(folder(tmp_path / "unit", modules=MODULES, **configs))
    for text in TEXTS:
        np.testing.assert_allclose(
            raw.encode(text), reference(raw, text, "mean_tokens", False), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(np.linalg.norm(unit.encode(TEXTS), axis=1), 1, atol=1e-6)
    assert raw.info.sha256 != unit.info.sha256


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ({}, 256),
        ({"sentence_bert_config": {"max_seq_length": 128, "do_lower_case": False}}, 128),
        ({"sentence_roberta_config": {"max_seq_length": 64}}, 64),
        ({"sentence_bert_config": {"max_seq_length": 8192}}, 512),
        ({"sentence_bert_config": {"max_seq_length": 512}}, 512),
        ({"tokenizer_config": {"model_max_length": 512}}, 256),
        ({"tokenizer_config": {"model_max_length": 100}}, 100),
        ({"config": {"max_position_embeddings": 77}}, 77),
        (
            {
                "sentence_bert_config": {"max_seq_length": None, "do_lower_case": False},
                "tokenizer_config": {"model_max_length": 1e30},
                "config": {"max_position_embeddings": 384},
            },
            384,
        ),
    ],
)
def test_the_maximal_length_is_as_configured(tmp_path, documents, expected):
    encoder = cr2fast.Encoder.load(folder(tmp_path, **documents))
    assert encoder.max_tokens == expected == len(encoder.tokens("word " * 2000))
    assert cr2fast.Encoder.load(tmp_path, max_tokens=32).max_tokens == 32


def test_lower_casing_is_as_configured(tmp_path):
    folder(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = document["normalizer"]["strip_accents"] = False
    write(tmp_path, tokenizer=document, tokenizer_config={"do_lower_case": False})
    cased = cr2fast.Encoder.load(tmp_path)
    assert cased.tokens("Hamlet") != cased.tokens("hamlet")
    write(tmp_path, sentence_bert_config={"max_seq_length": 256, "do_lower_case": True})
    lower = cr2fast.Encoder.load(tmp_path)
    assert lower.tokens("Hamlet") == cased.tokens("hamlet")
    assert lower.info.sha256 != cased.info.sha256


CONFIG = "1_Pooling__config"
UNSUPPORTED = [
    ({"modules": [*MODULES[:2], module("Dense", "2_Dense")]}, "Transformer, Pooling and perhaps"),
    ({"modules": [module("WordEmbeddings"), *MODULES[1:]]}, "Transformer, Pooling and perhaps"),
    ({"modules": [MODULES[0], module("WeightedLayerPooling"), *MODULES[1:]]}, "perhaps Normalize"),
    ({"modules": [MODULES[0], MODULES[1] | {"type": "mine.Pooling"}]}, "perhaps Normalize"),
    ({"modules": MODULES[:1]}, "perhaps Normalize"),
    ({"modules": []}, "perhaps Normalize"),
    ({"modules": {}}, r"modules\.json: expected a list, got dict"),
    ({"modules": [3]}, "each with a type and a path"),
    ({"modules": [MODULES[0], module("Pooling", "../1_Pooling")]}, "paths inside the folder"),
    ({"modules": "["}, r"modules\.json: expected JSON"),
    ({"modules": "[" * 100_000}, r"modules\.json: expected JSON"),
    ({"modules": MODULES}, r"1_Pooling/config\.json: expected the Pooling module's configuration"),
    ({CONFIG: pooling(cls_token=True, mean_tokens=True)}, "one pooling of"),
    ({CONFIG: pooling()}, "one pooling of"),
    ({CONFIG: {"pooling_mode_weightedmean_tokens": True}}, "one pooling of"),
    ({CONFIG: {"pooling_mode": "attention"}}, "one pooling of"),
    ({CONFIG: {"pooling_mode": 3}}, "one pooling of"),
    ({CONFIG: {"pooling_mode_new": True}}, "pooling_mode_new"),
    ({CONFIG: {"pooling_mode_cls_token": "yes"}}, "pooling_mode_cls_token"),
    ({CONFIG: pooling(cls_token=True) | {"word_embedding_dimension": 384}}, "width 384"),
    ({CONFIG: []}, "expected an object, got list"),
    ({"2_Dense__config": {}}, "a file that says what the folder '2_Dense' is for"),
    ({"config_sentence_transformers": {"prompts": {"query": "query: "}, "default_prompt_name": "query"}}, "no default prompt"),
    ({"sentence_bert_config": {"max_seq_length": "long"}}, "a whole number for max_seq_length"),
    ({"sentence_bert_config": {"max_seq_length": True}}, "a whole number for max_seq_length"),
    ({"sentence_bert_config": {"max_seq_length": 0}}, "at least 4 tokens"),
    ({"sentence_bert_config": {"do_lower_case": 1}}, "true or false for do_lower_case"),
    ({"sentence_bert_config": "NaN"}, "expected an object"),
    ({"tokenizer_config": {"do_lower_case": False}}, "agree about lowercase, got False and True"),
    ({"tokenizer_config": {"strip_accents": False}}, "agree about strip_accents"),
    ({"tokenizer_config": {"tokenize_chinese_chars": False}}, "agree about handle_chinese_chars"),
]  # fmt: skip


@pytest.mark.parametrize(("documents", "words"), UNSUPPORTED)
def test_what_is_not_supported_is_refused(tmp_path, documents, words):
    with pytest.raises(cr2fast.Cr2Error, match=words) as error:
        cr2fast.Encoder.load(folder(tmp_path, **documents))
    assert len(str(error.value)) < 600


def test_prompts_that_are_not_the_default_are_no_matter(tmp_path):
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
    plain = cr2fast.Encoder.load(folder(tmp_path / "plain"))
    with_prompts = folder(tmp_path / "prompts", config_sentence_transformers=prompts)
    assert cr2fast.Encoder.load(with_prompts).info.sha256 == plain.info.sha256
