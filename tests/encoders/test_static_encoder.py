"""The static encoder: ids of BERT's tokenizer, sums against a plain twin, files, one-call routing."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders import distill as distillation
from testing import counting, oracle
from testing.artifacts import assemble, parts, rewritten

GOLDEN = Path(__file__).parents[1] / "golden"
LAM, ALPHA, D = 1.0, 0.05, 24
NASTY = [
    "",
    " \t\r\n\x0b\x0c\x85\xa0\u2028\u3000",
    "\x00\ufffd\u200b\u200d\ufeff",
    "Ünïcödé naïve İstanbul ΑΒΓ ǅ ß ẞ ﬁ",
    "漢字かな カナ 한국어 𠀀𪜀豈",
    "e\u0301 a\u0323\u0302 \u0301x \u1ab0 각",
    "don't stop-it: $5.00 £3 ¿qué? “x” … ‽ ๏ ؟ ॥ 、。",
    "[CLS] [SEP]x[MASK][PAD] [UNK] [cls] [[CLS]] [CLS",
    "##ing un##able #",
    "🙂🏽‍👩 \U0001f9ff\U000e0001",
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100 + " é" + "é" * 100,
    "supercalifragilisticexpialidocious " * 3,
    "\u1e9b\u0323 \u212b \uac00\u11a8 \u0344",
    "1/2 ½ ² ⅷ ① 𝟘 𝓐",
    "a\u00adb\u2060c\u180ed",
    "\U000fffff\ue000\u0378",
]
ALPHABET = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("aAeéÉ\u0301\u0323 .,'[]#漢한\u200d\t\n\x00İßCLSEP"),
)


@pytest.fixture(scope="module")
def minilm():
    return cr2fast.Encoder.load("minilm")


@pytest.fixture(scope="module")
def vocabulary(minilm):
    return distillation.bert_vocabulary(minilm.tokenizer_json)


def build(vocabulary, d=D, seed=0, **changes):
    vectors = np.random.default_rng(seed).normal(size=(len(vocabulary), d)).astype(np.float32)
    options = {"id": "random", "source": ("x", "0" * 64), "max_tokens": 256}
    options |= {"truncation": "head-tail", "record": "{}"} | changes
    return cr2fast.StaticEncoder.from_vectors(vectors, vocabulary, **options)


@pytest.fixture(scope="module")
def encoder(vocabulary):
    return build(vocabulary)


@pytest.fixture(scope="module")
def router(encoder):
    problem = make_routing_problem(n=900, d=D, seed=4)
    train, calibration, _ = replace(problem.table, encoder=encoder.info).split(seed=0)
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=16,
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )
    router.calibrate(calibration, lams=[LAM], alphas=(ALPHA,))
    return router


@pytest.fixture(scope="module")
def device(router):
    return router.device(LAM, ALPHA)


def test_ids_are_the_librarys_on_nasty_text(encoder, minilm):
    for text in NASTY:
        assert encoder.tokens(text) == minilm.tokens(text), text
        assert encoder.count_tokens(text) == minilm.count_tokens(text), text
        assert encoder.count_tokens(text) == counting.tokens(minilm._tokenizer, text), text


@given(st.text(ALPHABET, max_size=60))
def test_ids_are_the_librarys_on_any_text(encoder, minilm, text):
    assert encoder.tokens(text) == minilm.tokens(text)


@pytest.mark.slow
def test_ids_are_the_librarys_at_every_code_point(encoder, minilm):
    """Alone between letters: cleaning, splitting, NFD and case of each character there is."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(points), 400):
        text = " ".join(f"a{c}b" for c in points[start : start + 400])
        counted = counting.tokens(minilm._tokenizer, text)
        assert encoder.count_tokens(text) == counted, hex(ord(points[start]))
    for start in range(0, len(points), 60):
        if start < 0x3500 or start % 1200 == 0:
            text = " ".join(f"a{c}b" for c in points[start : start + 60])
            assert encoder.tokens(text) == minilm.tokens(text), hex(ord(points[start]))


def test_ids_are_the_librarys_on_every_question(data_dir, vocabulary, minilm):
    import polars as pl

    texts = pl.read_parquet(data_dir / "mmlu_pro_queries.parquet")["text"].to_list()
    wide = build(vocabulary, d=1, max_tokens=512)
    same = cr2fast.Encoder.load("minilm", max_tokens=512)
    assert len(texts) == 12_032
    unknown = same._tokenizer.token_to_id("[UNK]")
    for text in texts:
        tokens = same.tokens(text)
        assert wide.tokens(text) == tokens, text
        assert wide.count_tokens(text) == same.count_tokens(text)
        if len(tokens) < 512 and unknown not in tokens:
            assert wide.count_tokens(text) == len(tokens) - 2


@pytest.mark.parametrize("truncation", ["head-tail", "head"])
def test_long_texts_are_cut_alike(vocabulary, truncation):
    same = cr2fast.Encoder.load("minilm", truncation=truncation, max_tokens=32)
    cut = build(vocabulary, d=1, truncation=truncation, max_tokens=32)
    rng = np.random.default_rng(0)
    numbers = " ".join(map(str, rng.integers(0, 10**6, 20_000)))
    for text in (numbers, numbers[:32_768], numbers[:32_769], " " * 50_000 + "a b", "é" * 40_000):
        assert cut.tokens(text) == same.tokens(text)


@given(st.lists(st.text(ALPHABET, max_size=60), min_size=1, max_size=4))
def test_embeddings_are_the_twins(encoder, texts):
    tensors = oracle.read_tensors(encoder.to_bytes())
    expected = np.stack([oracle.static_embedding(tensors, encoder.tokens(t)) for t in texts])
    got = encoder.encode(texts)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("d", [1, 15, 16, 17, 384])
def test_a_text_has_the_same_bits_alone_in_any_list_and_on_any_threads(vocabulary, d):
    encoder = build(vocabulary, d=d)
    alone = np.stack([encoder.encode(t) for t in NASTY])
    assert alone.shape == (len(NASTY), d)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(encoder.encode(NASTY), alone)
    many = encoder.encode(NASTY[::-1] * 20, threads=2)
    np.testing.assert_array_equal(many.reshape(20, len(NASTY), d)[7][::-1], alone)
    assert encoder.encode([]).shape == (0, d)


def test_vectors_survive_as_bytes(vocabulary):
    vectors = np.random.default_rng(1).normal(size=(len(vocabulary), 8)).astype(np.float32)
    vectors[5] = 0
    vectors[6] *= 1e-6
    kept = cr2fast.StaticEncoder.from_vectors(
        vectors, vocabulary, id="x", source=("", ""), max_tokens=64, truncation="head", record="{}"
    )
    tensors = oracle.read_tensors(kept.to_bytes())
    back = tensors["vectors"] * tensors["scales"][:, None].astype(float) * np.abs(vectors).max()
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(back - vectors) <= largest / 127 * 0.5001).all()


def test_routing_a_text_is_encode_then_route(device, encoder):
    for text in NASTY:
        assert device.route_text(text, encoder) == device.route(encoder.encode(text))
    local = [device.route_text(t, encoder).local for t in NASTY]
    np.testing.assert_array_equal(device.route_texts(NASTY, encoder), local)
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": NASTY[3]}]
    assert device.route_text(chat, encoder) == device.route_text(NASTY[3], encoder)
    np.testing.assert_array_equal(
        device.route_texts([chat, NASTY[4]], encoder), device.route_texts(NASTY[3:5], encoder)
    )
    assert device.route_texts([], encoder).shape == (0,)
    assert asyncio.run(device.route_text_async("a", encoder)) == device.route_text("a", encoder)


class Other:
    """An encoder that is not a table: the same vectors by another way."""

    def __init__(self, encoder):
        self.info, self.encode, self.count_tokens = (
            encoder.info,
            encoder.encode,
            encoder.count_tokens,
        )


def told(choice):
    return (
        choice.model, choice.margin, choice.n_input_tokens, choice.accuracy, choice.cost,
        choice.latency_s, choice.energy_j,
    )  # fmt: skip


def test_place_and_model_of_a_text_are_those_of_its_embedding(router, device, encoder):
    two, edge = router.two_stage(LAM, ALPHA), router.edge(LAM)
    state = cr2fast.LinkState(2e7, 8e7, 0.018)
    long = "a long text of many words " * 4000
    for text in [*NASTY, long]:
        x, n = encoder.encode(text), encoder.count_tokens(text)
        expected = two.route(x, n, state)
        for by in (encoder, Other(encoder)):
            choice = two.route_text(text, by, state)
            assert told(choice) == told(expected)
            assert choice.margin == device.route_text(text, by).margin
            chosen = edge.select_text(text, by, state)
            if not choice.local:
                assert (chosen.model, chosen.cost) == (choice.model, choice.cost)
            given = two.route_text(text, by, state, n_input_tokens=n + 7)
            assert told(given) == told(two.route(x, n + 7, state))
            limited = {"max_latency_s": 1e6, "available": ["edge-2"]}
            assert told(two.route_text(text, by, **limited)) == told(two.route(x, n, **limited))
    # Without a state, the link's typical one.
    assert told(two.route_text("a b", encoder)) == told(
        two.route(encoder.encode("a b"), 2, two.typical_state)
    )
    got = asyncio.run(two.route_text_async("a b", encoder, state, max_latency_s=1e6))
    assert told(got) == told(two.route_text("a b", encoder, state, max_latency_s=1e6))


def test_all_turns_of_a_chat_are_read_though_the_last_is_embedded(router, encoder):
    two = router.two_stage(LAM, ALPHA)
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "refusal"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "three"},
    ]
    for by in (encoder, Other(encoder)):
        choice = two.route_text(chat, by)
        assert choice.n_input_tokens == 5
        assert told(choice) == told(two.route(encoder.encode("three"), 5))
    no_count = Other(encoder)
    del no_count.count_tokens
    with pytest.raises(TypeError, match="n_input_tokens: expected it with an encoder that has no"):
        two.route_text("a", no_count)
    assert two.route_text("a", no_count, n_input_tokens=1).n_input_tokens == 1


def test_what_is_no_text_or_no_encoder_of_the_router_is_refused(
    device, router, encoder, vocabulary
):
    with pytest.raises(cr2fast.ArtifactError, match="margins of another encoder mean nothing"):
        device.route_text("a", build(vocabulary, seed=1))
    with pytest.raises(cr2fast.ArtifactError, match="another encoder"):
        device.route_texts(["a"], build(vocabulary, seed=1))
    two = router.two_stage(LAM, ALPHA)
    for call in (two.route_text, router.edge(LAM).select_text):
        with pytest.raises(cr2fast.ArtifactError, match="margins of another encoder mean nothing"):
            call("a", build(vocabulary, seed=1))
        with pytest.raises(cr2fast.ArtifactError, match="margins of another encoder mean nothing"):
            call("a", Other(build(vocabulary, seed=1)))
        with pytest.raises(TypeError, match="got a list of them"):
            call(["a"], encoder)
        with pytest.raises(TypeError, match="encoder: expected an Encoder"):
            call("a", None)
    for several in ([], ["a"]):
        with pytest.raises(TypeError, match="text: expected one text or one chat, got a list"):
            device.route_text(several, encoder)
    with pytest.raises(TypeError, match="texts: expected a list of texts or chats, got one"):
        device.route_texts("a", encoder)
    for bad, error, words in [
        (None, TypeError, "texts: expected a string, chat messages"),
        (["a", 3], TypeError, r"texts\[1\]: expected a string"),
        ("\ud800", cr2fast.Cr2Error, "UTF-8"),
        (["a", "\ud800"], cr2fast.Cr2Error, "UTF-8"),
    ]:
        with pytest.raises(error, match=words):
            encoder.encode(bad)


def test_sixteen_threads_get_every_answer_right(device, encoder):
    texts = [f"question {i} about {'x' * (i % 7)}" for i in range(200)]
    expected = [device.route(e) for e in encoder.encode(texts)]
    barrier = threading.Barrier(16)

    def hammer(worker):
        barrier.wait()
        order = np.random.default_rng(worker).permutation(len(texts)).tolist()
        return [(i, device.route_text(texts[i], encoder)) for i in order]

    with ThreadPoolExecutor(16) as pool:
        for answers in pool.map(hammer, range(16)):
            assert all(decision == expected[i] for i, decision in answers)


def test_files_round_trip_and_are_what_the_hash_says(encoder, tmp_path):
    path = tmp_path / "static.safetensors"
    encoder.save(path)
    again = cr2fast.StaticEncoder.load(path)
    assert again.to_bytes() == path.read_bytes() == pickle.loads(pickle.dumps(again)).to_bytes()
    assert again.info == encoder.info
    assert isinstance(again.info, cr2fast.EncoderInfo)
    assert (again.dim, again.max_tokens, again.truncation) == (D, 256, "head-tail")
    assert again.source.sha256 == "0" * 64
    with pytest.raises(FileNotFoundError):
        cr2fast.StaticEncoder.load(tmp_path / "none")
    with pytest.raises(
        cr2fast.ArtifactError, match=r"format cr2fast.static_encoder/1, got cr2fast.router"
    ):
        cr2fast.StaticEncoder.load(GOLDEN / "router.safetensors")
    with pytest.raises(cr2fast.ArtifactError, match=r"expected format cr2fast.router/2"):
        cr2fast.Router.load(path)


def test_golden_file_gives_the_golden_bits():
    answers = json.loads((GOLDEN / "static.json").read_text())
    encoder = cr2fast.StaticEncoder.load(GOLDEN / "static.safetensors")
    assert encoder.to_bytes() == (GOLDEN / "static.safetensors").read_bytes()
    for text, expected in answers.items():
        assert [v.hex() for v in encoder.encode(text).tolist()] == expected


def test_truncated_or_changed_anywhere_it_is_an_error():
    data = (GOLDEN / "static.safetensors").read_bytes()
    for size in range(len(data)):
        with pytest.raises(cr2fast.ArtifactError):
            cr2fast.StaticEncoder.from_bytes(data[:size])
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 + at % 255
        try:
            read = cr2fast.StaticEncoder.from_bytes(bytes(bad))
        except cr2fast.Cr2Error:
            continue
        # White space in the outer header carries nothing.
        assert read.to_bytes() == data


def _retype(name, **changes):
    return lambda header, body: header[name].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, b: b.update(format="cr2fast.static_encoder/2"), "upgrade cr2fast"),
        (lambda h, b: b.update(tokenizer="bpe"), "tokenizer bert-wordpiece-uncased, got bpe"),
        (lambda h, b: b.update(max_tokens=0), "max_tokens of 4 to 512, got 0"),
        (lambda h, b: b.update(max_tokens=-1), "fields of the format"),
        (lambda h, b: b.update(truncation="tail"), "truncation"),
        (lambda h, b: b.pop("record"), "missing field `record`"),
        (_retype("vectors", dtype="U8"), "vectors of type I8"),
        (lambda h, b: h["vectors"].update(shape=h["vectors"]["shape"][::-1]), "a row a token"),
        (lambda h, b: h["vectors"].update(shape=[1, *h["vectors"]["shape"]]), "2 dimensions"),
    ],
)
def test_forged_files_are_refused(change, words):
    data = (GOLDEN / "static.safetensors").read_bytes()
    with pytest.raises(cr2fast.Cr2Error, match=words):
        cr2fast.StaticEncoder.from_bytes(rewritten(data, change))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e30])
def test_forged_scales_are_refused(scale):
    header, payload = parts((GOLDEN / "static.safetensors").read_bytes())
    start, _ = header["scales"]["data_offsets"]
    bad = bytearray(payload)
    bad[start : start + 4] = np.float32(scale).tobytes()
    forged = rewritten(assemble(header, bytes(bad)), lambda h, b: None)
    with pytest.raises(cr2fast.ArtifactError, match="scales of 0 to"):
        cr2fast.StaticEncoder.from_bytes(forged)


def test_a_vector_of_no_length_is_an_error_not_nan(vocabulary):
    vectors = np.zeros((len(vocabulary), 4), np.float32)
    vectors[2000] = 1
    encoder = cr2fast.StaticEncoder.from_vectors(
        vectors, vocabulary, id="x", source=("", ""), max_tokens=64, truncation="head", record="{}"
    )
    with pytest.raises(cr2fast.Cr2Error, match="expected a vector of finite length"):
        encoder.encode("hello")
    with pytest.raises(cr2fast.Cr2Error, match="vectors: expected rows with some value"):
        build(vocabulary, d=0)
