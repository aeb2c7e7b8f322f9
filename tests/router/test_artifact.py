"""router.safetensors: byte for byte, and every way a file can be wrong."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cr2fast
from cr2fast import _core
from testing.artifacts import assemble, parts, put, rewritten

GOLDEN = Path(__file__).parents[1] / "golden"


def numbers(hexes):
    return np.array([float.fromhex(h) for h in hexes], np.float32)


def test_golden_artifact_reads_the_same_and_writes_the_same(tmp_path):
    answers = json.loads((GOLDEN / "answers.json").read_text())
    router = cr2fast.Router.load(GOLDEN / "router.safetensors")
    x = numbers(answers["embeddings"]).reshape(16, 8)
    lams = router.calibration["lams"]
    np.testing.assert_array_equal(router.margins(x, lams).ravel(), numbers(answers["margins"]))
    np.testing.assert_array_equal(router.accuracies(x).ravel(), numbers(answers["accuracies"]))
    np.testing.assert_array_equal(
        router.calibration["thresholds"].ravel(), numbers(answers["thresholds"])
    )
    router.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        GOLDEN / "router.safetensors"
    ).read_bytes()


def test_save_and_load_round_trip_byte_for_byte(artifact, tmp_path):
    data = artifact.read_bytes()
    router = cr2fast.Router.load(artifact)
    assert router.to_bytes() == data
    assert _core.Router.from_bytes(data).to_bytes() == data
    assert (
        router.costs.normalizers == cr2fast.Router(_core.Router.from_bytes(data)).costs.normalizers
    )
    for path in (tmp_path / "a.safetensors", str(tmp_path / "b.safetensors")):
        router.save(path)
        assert Path(path).read_bytes() == data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_other_readers_of_the_format_can_read_it(artifact):
    header, payload = parts(artifact.read_bytes())
    spans = sorted(t["data_offsets"] for k, t in header.items() if k != "__metadata__")
    assert spans[0][0] == 0
    assert spans[-1][1] == len(payload)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans)), "no holes"


def test_truncated_at_every_byte():
    data = (GOLDEN / "router.safetensors").read_bytes()
    for size in range(len(data)):
        with pytest.raises(cr2fast.ArtifactError, match="artifact: expected"):
            _core.Router.from_bytes(data[:size])
    with pytest.raises(cr2fast.ArtifactError):
        _core.Router.from_bytes(data + b"\0")


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_anywhere_is_found(data):
    good = (GOLDEN / "router.safetensors").read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        router = _core.Router.from_bytes(bytes(bad))
    except cr2fast.Cr2Error:
        return
    # White space in the outer header carries nothing: then the router must be the same one.
    assert router.to_bytes() == good


@pytest.mark.parametrize("size", [0, 1, 7, 2**20, 2**40, 2**63, 2**64 - 1])
def test_forged_header_length(size):
    data = (GOLDEN / "router.safetensors").read_bytes()
    with pytest.raises(cr2fast.ArtifactError, match="artifact: expected"):
        _core.Router.from_bytes(size.to_bytes(8, "little") + data[8:])


@given(st.binary(max_size=300))
def test_noise_is_refused(data):
    with pytest.raises(cr2fast.ArtifactError):
        _core.Router.from_bytes(data)


def drop(name):
    def change(header, body):
        del header[name]

    return change


def reshape(header, body):
    header["gate.b1"]["shape"] = [4, 2]


def retype(header, body):
    header["gate.w1"]["dtype"] = "I32"


def swap(header, body):
    body["models"] = body["models"][::-1]


def negative_n(header, body):
    body["calibration"]["n"] = 0


def poison_costs(header, body):
    table = json.loads(body["cost_table"])
    table["models"][1]["p_active_w"] = -5
    body["cost_table"] = json.dumps(table)


def cheaper(header, body):
    table = json.loads(body["cost_table"])
    table["models"][1]["p_active_w"] = 1
    body["cost_table"] = json.dumps(table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            put(format="cr2fast.router/3"),
            "expected format cr2fast.router/2, got .*router/3.*upgrade",
        ),
        (put(format=None), "expected a format version, got none"),
        (put(models=["a"]), "models of the artifact: expected .* in this order, got"),
        (put(cost_table="{}"), "cost table: schema"),
        (put(calibration=3), "expected the fields of the format"),
        (drop("gate.w2"), "expected a safetensors|a whole safetensors file|a tensor gate.w2"),
        (retype, "gate.w1 of type F32, got I32"),
        (swap, "models of the artifact: expected .* in this order"),
        (negative_n, "calibration: expected"),
        (poison_costs, "p_active_w: expected a number, at least 0, got -5"),
        (cheaper, "expected a cost table with sha256"),
    ],
)
def test_forgeries_with_a_right_hash_are_refused(change, words):
    data = (GOLDEN / "router.safetensors").read_bytes()
    with pytest.raises(cr2fast.Cr2Error, match=words):
        _core.Router.from_bytes(rewritten(data, change))


def test_the_forger_of_these_tests_can_forge():
    """Otherwise the test above could pass because of the hash."""
    data = (GOLDEN / "router.safetensors").read_bytes()
    router = cr2fast.Router(_core.Router.from_bytes(rewritten(data, put(encoder_id="forged"))))
    assert router.encoder.id == "forged"


@pytest.mark.parametrize(("name", "value"), [("gate.w1", np.nan), ("teacher.w1", np.inf)])
def test_weights_that_are_not_finite_are_refused(name, value):
    data = (GOLDEN / "router.safetensors").read_bytes()
    header, payload = parts(data)
    a = header[name]["data_offsets"][0]
    payload = payload[:a] + np.float32(value).tobytes() + payload[a + 4 :]
    with pytest.raises(cr2fast.Cr2Error, match=f"{name}: expected finite"):
        _core.Router.from_bytes(rewritten(assemble(header, payload), put()))


def test_a_plain_safetensors_file_is_refused():
    data = assemble({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4)
    with pytest.raises(cr2fast.ArtifactError, match="metadata of a cr2fast router"):
        _core.Router.from_bytes(data)


def test_another_encoder_is_an_error(artifact):
    with pytest.raises(cr2fast.ArtifactError, match="margins of another encoder mean nothing"):
        cr2fast.Router.load(artifact, encoder=cr2fast.EncoderInfo("mpnet", "ab" * 32))


def test_encoders_are_told_apart_by_hash_when_both_have_one(problem, splits, tmp_path):
    info = cr2fast.EncoderInfo("mini", hashlib.sha256(b"parameters").hexdigest())
    from dataclasses import replace

    table = replace(splits[0], encoder=info)
    router = cr2fast.fit(
        table, problem.costs, hidden=4, teacher_epochs=1, gate_epochs=1, progress=False
    )
    router.save(tmp_path / "r.safetensors")
    load = cr2fast.Router.load
    assert load(tmp_path / "r.safetensors", encoder=info._replace(id="renamed")).encoder == info
    with pytest.raises(cr2fast.ArtifactError):
        load(tmp_path / "r.safetensors", encoder=info._replace(sha256="0" * 64))


def test_files_that_are_not_there(tmp_path, artifact):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        cr2fast.Router.load(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError):
        cr2fast.DeviceRouter.load(tmp_path, 1.0)
    router = cr2fast.Router.load(artifact)
    with pytest.raises(FileNotFoundError):
        router.save(tmp_path / "no" / "folder" / "r.safetensors")


def test_many_threads_may_save_to_one_path(artifact, tmp_path):
    router = cr2fast.Router.load(artifact)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: router.save(tmp_path / "r.safetensors"), range(40)))
    assert os.listdir(tmp_path) == ["r.safetensors"]
    assert (tmp_path / "r.safetensors").read_bytes() == artifact.read_bytes()


def test_special_files_are_neither_read_nor_replaced(artifact, tmp_path):
    router = cr2fast.Router.load(artifact)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(cr2fast.Cr2Error, match="path: expected a regular file"):
        router.save(tmp_path / "pipe")
    with pytest.raises(cr2fast.Cr2Error, match="path: expected a regular file"):
        cr2fast.Router.load(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(cr2fast.CostTableError, match="special file"):
        cr2fast.CostTable.read(tmp_path / "pipe")


def test_saving_follows_links_and_keeps_permissions(artifact, tmp_path):
    router = cr2fast.Router.load(artifact)
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "r.safetensors"
    target.write_bytes(b"old")
    target.chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    router.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert target.read_bytes() == artifact.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600


def test_routers_travel_as_bytes_and_pickles(artifact):
    router = cr2fast.Router.load(artifact)
    for other in (cr2fast.Router.from_bytes(router.to_bytes()), pickle.loads(pickle.dumps(router))):
        assert other.to_bytes() == artifact.read_bytes()
    with pytest.raises(cr2fast.ArtifactError):
        cr2fast.Router.from_bytes(b"nothing")


_FULL_DISK = """
import resource, signal, sys, cr2fast
router = cr2fast.Router.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    router.save(sys.argv[2])
except OSError as error:
    print("OSError", error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_disk_that_fills_leaves_the_old_file_whole(artifact, tmp_path):
    target = tmp_path / "r.safetensors"
    target.write_bytes(artifact.read_bytes())
    result = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, artifact, target],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("OSError")
    assert target.read_bytes() == artifact.read_bytes()
    assert os.listdir(tmp_path) == ["r.safetensors"]
