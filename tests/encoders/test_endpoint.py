"""An encoder behind an endpoint, and the probes by which a router knows its encoder."""

from __future__ import annotations

import http.server
import json
import pickle
import threading

import numpy as np
import pytest

import cr2fast
from cr2fast.encoders.probes import PROBES
from testing.routers import small

D = 8


def vector_of(text):
    seed = [len(text), *text.encode("utf-8", "replace")[:64], *text.encode()[-64:]]
    x = np.random.default_rng(seed).normal(size=D)
    return (x / np.linalg.norm(x)).astype(np.float32)


class Endpoint:
    """A server of embeddings that does as it is told."""

    def __init__(self):
        outer = self
        self.asked, self.tokens = [], []
        self.reply = None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, body))
                outer.tokens.append(self.headers.get("authorization"))
                status, data = 200, outer.said(body["input"])
                if outer.reply is not None:
                    status, data = outer.reply
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                if status == 302:
                    self.send_header("location", "http://127.0.0.1:1/v1/embeddings")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def said(self, text):
        vector = [float(x) for x in self.vector(text)]
        usage = {"prompt_tokens": len(text.split())}
        item = {"object": "embedding", "index": 0, "embedding": vector}
        return json.dumps({"data": [item], "model": "m", "usage": usage}).encode()

    def vector(self, text):
        return vector_of(text)


@pytest.fixture
def endpoint():
    served = Endpoint()
    yield served
    served.server.shutdown()
    served.server.server_close()


def fitted(info):
    return small(info, D, alphas=(0.1,), lams=[0.1, 1.0])


def test_what_it_says_is_what_is_embedded(endpoint):
    encoder = cr2fast.EndpointEncoder(endpoint.url + "/v1/", "m", max_chars=20)
    assert encoder.encode("two words").tobytes() == vector_of("two words").tobytes()
    assert endpoint.asked == [
        (
            "/v1/embeddings",
            {"model": "m", "input": "two words", "encoding_format": "float"},
        )
    ]
    assert (encoder.dim, encoder.count_tokens("two words"), len(endpoint.asked)) == (D, 2, 1)
    chat = [{"role": "system", "content": "x"}, {"role": "user", "content": "two words"}]
    assert encoder.encode(chat).tobytes() == vector_of("two words").tobytes()
    assert len(endpoint.asked) == 1, "it is remembered"
    # Both ends of a longer text are sent, and its tokens scale with its bytes.
    long = "abcdefghij" + " b" * 50 + "0123456789"
    assert encoder.encode(long).tobytes() == vector_of("abcdefghij 0123456789").tobytes()
    assert encoder.count_tokens(long) == -(-2 * len(long) // 21)
    texts = [f"text {i % 7}" for i in range(20)]
    before = len(endpoint.asked)
    many = encoder.encode(texts, threads=3)
    assert many.tobytes() == np.stack([vector_of(t) for t in texts]).tobytes()
    assert len(endpoint.asked) == before + 7, "equal texts once"
    assert encoder.encode([]).shape == (0, D)


def test_a_count_of_next_to_nothing_is_none(endpoint):
    """As of a tokenizer for which a long word is one token, or of a server that cuts texts."""
    encoder = cr2fast.EndpointEncoder(endpoint.url, "m")
    assert encoder.count_tokens("internationalization") == 1
    assert encoder.count_tokens("a" * 32) == 8
    assert encoder.count_tokens("a" * 10**6) == 250_000
    assert encoder.count_tokens("word " * 1000) == 1000
    system = "Be brief. " * 5
    assert encoder.count_turns([system, "a" * 10**4], "a" * 10**4) == 2_513


def test_vectors_get_unit_length_unless_told_otherwise(endpoint):
    endpoint.vector = lambda text: 3 * vector_of(text)
    encoder = cr2fast.EndpointEncoder(endpoint.url, "m")
    assert np.linalg.norm(encoder.encode("a")) == pytest.approx(1, abs=1e-6)
    raw = cr2fast.EndpointEncoder(endpoint.url, "m", normalize=False)
    assert np.linalg.norm(raw.encode("a")) == pytest.approx(3, abs=1e-6)
    assert raw.info != encoder.info
    assert raw.cache_id != encoder.cache_id


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((500, b"boom"), "status 500"),
        ((413, b"too long"), "max_chars"),
        ((302, b""), "status 302"),
        ((200, b""), "no JSON"),
        ((200, b"x" * (1 << 20) + b"x"), "more"),
        ((200, b'{"error": {"message": "secret prompt"}}'), "an error"),
        ((200, b'{"data": [{"embedding": "AACAPw=="}]}'), "base64"),
        ((200, b'{"data": [{"embedding": [1, 0]}]}'), "8 numbers, got 2"),
        ((200, b'{"data": [{"embedding": [1, NaN, 0, 0, 0, 0, 0, 0]}]}'), "no JSON"),
        ((200, b'{"data": []}'), "got 0"),
    ],
)
def test_an_answer_that_is_none_is_an_error_that_says_so(endpoint, reply, words):
    encoder = cr2fast.EndpointEncoder(endpoint.url, "m")
    assert encoder.dim == D
    endpoint.reply = reply
    with pytest.raises(cr2fast.Cr2Error, match=words) as error:
        encoder.encode("secret prompt")
    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 500
    endpoint.reply = None
    assert encoder.encode("again").shape == (D,)


def test_arguments_and_a_server_that_is_not_there():
    for bad in ("127.0.0.1:80", "ftp://x", "http://", "http://u:p@h", "http://h/?q=1", 3):
        with pytest.raises(cr2fast.Cr2Error, match="url: expected"):
            cr2fast.EndpointEncoder(bad, "m")
    for kwargs in ({"timeout_s": 0}, {"timeout_s": float("nan")}, {"max_chars": 1}, {"cache": -1}):
        with pytest.raises(cr2fast.Cr2Error, match=next(iter(kwargs))):
            cr2fast.EndpointEncoder("http://127.0.0.1:1", "m", **kwargs)
    with pytest.raises(cr2fast.Cr2Error, match="is the endpoint running"):
        cr2fast.EndpointEncoder("http://127.0.0.1:1", "m").encode("x")


def test_the_token_comes_from_the_environment_and_is_nowhere_else(endpoint, monkeypatch):
    encoder = cr2fast.EndpointEncoder(endpoint.url, "m", token_env="TOKEN_OF_THE_TEST")
    with pytest.raises(cr2fast.Cr2Error, match="TOKEN_OF_THE_TEST"):
        encoder.encode("x")
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "s3cret")
    encoder.encode("x")
    assert endpoint.tokens == ["Bearer s3cret"]
    assert b"s3cret" not in pickle.dumps(encoder)


def test_probes_are_kept_and_leave_everything_else_as_it_was(endpoint, tmp_path):
    encoder = cr2fast.EndpointEncoder(endpoint.url, "m")
    router = fitted(encoder.info)
    assert router.probes is None
    known = router.with_probes(encoder)
    known.save(tmp_path / "router.safetensors")
    again = cr2fast.Router.load(tmp_path / "router.safetensors")
    assert again.to_bytes() == known.to_bytes() != router.to_bytes()
    assert tuple(again.probes["texts"]) == PROBES
    assert again.probes["vectors"].tobytes() == encoder.encode(list(PROBES)).tobytes()
    assert again.probes["max_chars"] == encoder.max_chars
    x = vector_of("x")
    before, after = router.device(1.0, 0.1).route(x), again.device(1.0, 0.1).route(x)
    assert (before.margin, before.threshold) == (after.margin, after.threshold)
    assert again.calibration["thresholds"].tobytes() == router.calibration["thresholds"].tobytes()
    assert pickle.loads(pickle.dumps(known)).sha256 == known.sha256
    assert tuple(known.to_float16().probes["texts"]) == PROBES
    with pytest.raises(cr2fast.Cr2Error, match="probes"):
        router.with_probes(encoder, [])
    other = cr2fast.EndpointEncoder(endpoint.url, "another")
    with pytest.raises(cr2fast.ArtifactError, match="another at an endpoint"):
        router.with_probes(other)


def test_an_endpoint_stands_for_the_routers_encoder_if_its_vectors_do(endpoint):
    info = cr2fast.EncoderInfo("local", "a" * 64)
    router = fitted(info)
    with pytest.raises(cr2fast.Cr2Error, match="with_probes"):
        cr2fast.EndpointEncoder(endpoint.url, "m", router=router)

    class Local:
        def __init__(self):
            self.info = info

        def encode(self, texts):
            return np.stack([vector_of(t) for t in texts])

    known = router.with_probes(Local())
    encoder = cr2fast.EndpointEncoder(endpoint.url, "m", router=known)
    assert encoder.info == info
    told = known.device(1.0, 0.1).route_text("hello", encoder)
    assert told.margin == known.device(1.0, 0.1).route(vector_of("hello")).margin
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy.encode("hello").tobytes() == vector_of("hello").tobytes()
    # The last digits of another processor, or half precision: the same encoder.
    endpoint.vector = lambda text: vector_of(text).astype(np.float16)
    cr2fast.EndpointEncoder(endpoint.url, "m", router=known)

    # Another vector of one probe only is another encoder.
    def swapped(text):
        x = vector_of(text)
        return x if text != PROBES[3] else x + 0.1 * np.roll(x, 1)

    endpoint.vector = swapped
    with pytest.raises(cr2fast.Cr2Error, match="probe 4 of 4 is 0.0") as error:
        cr2fast.EndpointEncoder(endpoint.url, "m", router=known)
    assert "fit and calibrate with this one" in str(error.value)


def test_another_model_under_the_same_name_is_not_found_in_the_cache(endpoint, tmp_path):
    from cr2fast.data.embedding import embed

    def made():
        return cr2fast.EndpointEncoder(endpoint.url, "m")

    first = embed(made(), ["a", "b"], cache=tmp_path, progress=False)
    asked = len(endpoint.asked)
    again = embed(made(), ["a", "b"], cache=tmp_path, progress=False)
    assert again.tobytes() == first.tobytes()
    assert {body["input"] for _, body in endpoint.asked[asked:]} == set(PROBES)
    endpoint.vector = lambda text: -vector_of(text)
    assert embed(made(), ["a", "b"], cache=tmp_path, progress=False).tobytes() == (-first).tobytes()
