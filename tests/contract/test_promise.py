"""The promise in the gateway: labels, alarms and thresholds with Python's bits, over restarts."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

import cr2fast
from cr2fast import RiskAlarm, RollingThreshold
from cr2fast.data.queries import QueryTable
from cr2fast.datasets import make_routing_problem
from cr2fast.traffic import label, open_log
from testing.gateways import BINARY, ROOT, needed, said, wait
from testing.letters import LETTERS, letters
from testing.openai_stub import Stub

LAM, ALPHA, DELTA, D = 0.05, 0.1, 0.01, 24
ENV = {**os.environ, "EDGE_TOKEN": "a-token-of-the-tests"}

pytestmark = needed


def texts_of(rng, n):
    return [" ".join(rng.choice(list(LETTERS), size=8)) for _ in range(n)]


def queries(texts, encoder):
    return QueryTable(
        query_ids=tuple(f"q{i}" for i in range(len(texts))),
        embeddings=np.stack([encoder.encode(text) for text in texts]),
        n_input_tokens=np.array([encoder.count_tokens(t) for t in texts], np.uint32),
        encoder=encoder.info,
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with a router that is calibrated on the texts' own mix, and two mixes of texts."""
    folder = tmp_path_factory.mktemp("promise")
    encoder = letters(D)
    problem = make_routing_problem(n=1500, d=D, models=3, seed=5)
    train, _, _ = replace(problem.table, encoder=encoder.info).split()
    router = cr2fast.fit(
        train, problem.costs, lam_range=(0.01, 20.0), hidden=16, teacher_epochs=2, gate_epochs=2,
        progress=False, lengths="predicted",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    calibration = queries(texts_of(rng, 1500), encoder)
    router.calibrate(calibration, alphas=[0.05, ALPHA], lams=[LAM, 0.1], lengths="predicted")
    encoder.save(folder / "static.safetensors")
    router.save(folder / "router.safetensors")
    usual = texts_of(rng, 400)
    pool = texts_of(rng, 4000)
    table = queries(pool, encoder)
    local = router.device(lam=LAM, alpha=ALPHA).route_batch(table.embeddings)
    lengths = router.predict_lengths(table.embeddings, table.n_input_tokens)
    wrong = local
    for seed in range(3):
        states = router.costs.sample_states(len(pool), seed)
        cost = router.costs.cost(table.n_input_tokens, lengths, states)
        p = router.accuracies(table.embeddings)
        wrong = wrong & (cr2fast._core.choice_margins(p, cost, [LAM])[0] < 0)
    hard = [text for text, bad in zip(pool, wrong, strict=True) if bad]
    assert len(hard) >= 40, len(hard)
    return folder, router, encoder, usual, hard[:120]


class Gateway:
    """A device's gateway on files of its own."""

    def __init__(self, house, folder, promise, alpha=ALPHA):
        source, self.router, *_ = house
        self.folder = folder
        folder.mkdir(exist_ok=True)
        if not (folder / "router.safetensors").exists():
            for name in ("static.safetensors", "router.safetensors"):
                (folder / name).write_bytes((source / name).read_bytes())
        self.here = Stub("here")
        url = self.here.url.removesuffix("/v1")
        self.file = folder / "device.toml"
        self.file.write_text(
            'listen = "127.0.0.1:0"\n'
            '[router]\npath = "router.safetensors"\nencoder = "static.safetensors"\n'
            f"lam = {LAM}\nalpha = {alpha}\n"
            f'[local]\nurl = "{url}"\n[edge]\nurl = "{url}"\ntoken_env = "EDGE_TOKEN"\n'
            '[log]\npath = "decisions.jsonl"\nflush_ms = 5\nembedding = true\n'
            f'[promise]\nstate = "promise.json"\ndelta = {DELTA}\n{promise}'
        )

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "device", self.file], stderr=subprocess.PIPE, text=True, env=ENV
        )
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if "device on http://" in line:
                break
        else:
            raise AssertionError("".join(self.said))
        self.connection = http.client.HTTPConnection(line.split("http://")[1].split(",")[0])
        return self

    def ask(self, text, counted=True):
        """A request, and the promise after its label is counted."""
        body = {"model": "cr2fast", "messages": [{"role": "user", "content": text}]}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body))
        reply = self.connection.getresponse()
        reply.read()
        assert reply.status == 200
        return self.told() if counted else None

    def get(self, path):
        self.connection.request("GET", path)
        reply = self.connection.getresponse()
        return reply.read().decode()

    def told(self):
        return json.loads(self.get("/v1/promise"))

    def end(self, kill=False):
        self.connection.close()
        self.process.kill() if kill else self.process.terminate()
        self.process.wait()
        self.process.stderr.close()

    def state(self):
        return json.loads((self.folder / "promise.json").read_text())

    def check(self):
        return said("check", self.file)


@contextmanager
def gateway(house, folder, promise):
    g = Gateway(house, folder, promise)
    try:
        yield g
    finally:
        if getattr(g, "process", None) is not None and g.process.poll() is None:
            g.end()
        g.here.close()


def decoded(point, name, kind):
    return kind.from_bytes(base64.b64decode(point[name]))


def python_of(log, router):
    """Alarm and labels by Python, from the log alone."""
    labels = label(log, router)
    alarm = RiskAlarm(ALPHA, DELTA)
    alarm.update_many(labels["false_acceptance"].to_numpy().astype(np.float64))
    return alarm, labels


def test_the_calibrated_mix_raises_no_alarm_and_a_shifted_one_does(house, tmp_path):
    _, router, _, usual, hard = house
    with gateway(house, tmp_path / "a", "") as g:
        g.start()
        for text in usual:
            g.ask(text, counted=False)
        told = g.told()
        assert told["complete"]
        (point,) = told["points"]
        assert (point["n"], point["alarmed"], point["alarm_since"]) == (len(usual), False, None)
        assert (point["lam"], point["alpha"], point["group"]) == (LAM, ALPHA, None)
        for text in hard:
            g.ask(text, counted=False)
        (point,) = g.told()["points"]
        assert point["alarmed"]
        assert point["alarms"] == 1
        assert point["threshold"] == point["threshold_calibrated"]  # reported, no more
        metrics = g.get("/metrics")
        assert 'cr2fast_promise_alarms{lam="0.05",alpha="0.1",group=""} 1.0' in metrics
        assert "cr2fast_promise_labels_dropped_total 0" in metrics
        assert g.get("/readyz")
        g.end()
        log = open_log(tmp_path / "a" / "decisions.jsonl")
        alarm, labels = python_of(log, router)
        assert labels.height == len(usual) + len(hard)
        (saved,) = g.state()["points"]
        assert base64.b64decode(saved["alarm"]) == alarm.to_bytes()
        (raised,) = log.alarms.rows(named=True)
        assert (raised["n"], raised["on_alarm"]) == (alarm.alarmed_at, "report")
        assert raised["id"] == labels["id"][alarm.alarmed_at - 1]
        assert raised["router"] == log.frame["router"][0]
        assert len(log) == labels.height
    schema = json.loads((ROOT / "docs" / "reference" / "decision-log.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    lines = (tmp_path / "a" / "decisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("alarm") == 1
    assert all(check.is_valid(json.loads(line)) for line in lines)


def test_a_rolling_threshold_decides_with_pythons_bits_over_a_kill(house, tmp_path):
    _, router, _, usual, hard = house
    with gateway(house, tmp_path / "r", 'threshold = "rolling"\nsave_ms = 1\n') as g:
        g.start()
        half = [*usual[:40], *hard[:20]]
        for text in half:
            told = g.ask(text)
        wanted = told["points"][0]["rolling"]["n"]
        assert wanted == len(half)

        def saved_and_logged():
            if not (g.folder / "promise.json").exists():
                return False
            # What follows the last newline is a line on its way.
            lines = (g.folder / "decisions.jsonl").read_text().split("\n")[:-1]
            rolling = decoded(g.state()["points"][0], "rolling", RollingThreshold)
            return rolling.n == wanted and sum('"request"' in x for x in lines) >= len(half)

        wait(g.process, saved_and_logged)  # then killed
        g.end(kill=True)
        g.start()
        rest = [*usual[40:80], *hard[20:40]]
        for text in rest:
            told = g.ask(text)
        g.end()
        (saved,) = g.state()["points"]
        log = open_log(g.folder / "decisions.jsonl")
    labels = label(log, router)
    calibration = router.calibration
    row = calibration["quantiles"][calibration["lams"].tolist().index(LAM)]
    start = router.device(lam=LAM, alpha=ALPHA).threshold
    low, high = min(float(row[0]), start), max(float(row[-1]), start)
    rolling = RollingThreshold(ALPHA, start, low=low, high=high, step=0.1 * (high - low))
    alarm, raised = RiskAlarm(ALPHA, DELTA), 0
    used = log.frame["threshold"].to_numpy()
    rows = zip(labels["margin"], labels["prefers_edge"], labels["accepted"], used, strict=True)
    for margin, prefers, accepted, threshold in rows:
        assert threshold == np.float32(rolling.threshold)
        assert accepted == (np.float32(margin) >= threshold)
        rolling.update(margin, prefers, decided_by=float(threshold))
        if alarm.update(float(prefers and accepted)):
            raised += 1
            rolling.restart()
            alarm = RiskAlarm(ALPHA, DELTA)
    assert rolling.n == len(half) + len(rest)
    assert len(set(used.tolist())) > 50
    assert base64.b64decode(saved["rolling"]) == rolling.to_bytes()
    assert base64.b64decode(saved["alarm"]) == alarm.to_bytes()
    assert saved["alarms"] == raised == log.alarms.height
    assert set(log.frame["propensity"]) == {1.0}


def test_an_alarm_defers_its_point_until_another_router_is_loaded(house, tmp_path):
    _, _, _, usual, hard = house
    with gateway(house, tmp_path / "d", 'on_alarm = "defer"\nsave_ms = 1\n') as g:
        g.start()
        for text in hard:
            told = g.ask(text)
            if told["points"][0]["deferring"]:
                break
        else:
            pytest.fail("no alarm")
        g.ask(hard[0])
        g.end()
        g.start()  # a restart forgets no accusation
        told = g.ask(hard[0])
        assert told["points"][0]["deferring"]
        assert told["points"][0]["threshold"] == "inf"
        log = open_log(g.folder / "decisions.jsonl").frame
        while log.height < 3:
            log = open_log(g.folder / "decisions.jsonl").frame
        other = cr2fast.Router.load(g.folder / "router.safetensors")
        other.calibrate(queries(usual, house[2]), alphas=[ALPHA], lams=[LAM], lengths="predicted")
        other.save(g.folder / "router.safetensors")
        g.process.send_signal(1)
        said = [g.process.stderr.readline() for _ in range(2)]
        assert "begin anew" in said[0]
        assert "reloaded" in said[1]
        told = g.ask(hard[0])
        (point,) = told["points"]
        assert (point["n"], point["deferring"], point["alarms"]) == (1, False, 0)
        assert point["threshold"] == np.float32(other.device(lam=LAM, alpha=ALPHA).threshold)
        g.end()
        frame = open_log(g.folder / "decisions.jsonl").frame
        assert frame["threshold"][-2] == np.inf
        assert frame["why"][-2] == "deferred"
        assert np.isfinite(frame["threshold"][-1])


def test_a_state_that_is_not_this_gateways_is_refused_or_set_aside(house, tmp_path):
    with gateway(house, tmp_path / "s", "") as g:
        g.start()
        for text in house[3][:5]:
            g.ask(text)
        g.end()
        path = g.folder / "promise.json"
        good = path.read_text()
        assert "goes on from the saved state of 1 points" in g.check().stdout

        def refused(state, words):
            path.write_text(state if isinstance(state, str) else json.dumps(state))
            told = g.check()
            assert told.returncode == 1, told.stdout
            assert "promise.state: expected the state of this router" in told.stderr
            assert words in told.stderr, told.stderr
            assert len(told.stderr) < 1200

        def changed(**changes):
            state = json.loads(good)
            state["points"][0].update(changes)
            return state

        alarm = base64.b64encode(RiskAlarm(0.05, DELTA).to_bytes()).decode()
        loose = base64.b64encode(RiskAlarm(ALPHA, 0.5).to_bytes()).decode()
        refused("", "no such state")
        refused(good[:-40], "no such state")
        refused("[" * 100_000, "no such state")
        refused(json.loads(good) | {"delta": 0.5}, "delta = 0.5")
        refused(json.loads(good) | {"threshold": "rolling"}, "rolling")
        refused(json.loads(good) | {"schema": "x" * 10_000}, "schema")
        refused(changed(alarm=alarm), "an alarm of alpha = 0.05")
        refused(changed(alarm=loose), "an alarm of delta = 0.5")
        refused(changed(alarm="!"), "no base64")
        refused(changed(alarm=alarm[:100]), "of the length that its first number says")
        refused(changed(lam=0.3), "0.3")
        refused(changed(group="mail"), "group")
        refused(changed(alarms=2), "do not agree")
        other = json.loads(good) | {"router": hashlib.sha256(b"another").hexdigest()}
        path.write_text(json.dumps(other))
        assert "alarms begin anew" in g.check().stdout
        g.start()
        assert "is of the router" in g.said[0]
        assert g.ask(house[3][0])["points"][0]["n"] == 1
        g.end()
        aside = g.folder / f"promise.json.{other['router'][:8]}"
        assert json.loads(aside.read_text()) == other


def test_an_edge_watches_no_promise(tmp_path):
    file = tmp_path / "edge.toml"
    file.write_text("models = []\n[promise]\ndelta = 0.01\n")
    told = said("check", file)
    assert told.returncode == 1
    assert "edge.toml:2: promise: expected no such section" in told.stderr


def test_a_chosen_point_is_the_default_of_its_router_only(house, tmp_path):
    with gateway(house, tmp_path / "p", "") as g:
        router = cr2fast.Router.load(g.folder / "router.safetensors")
        hashed = hashlib.sha256((g.folder / "router.safetensors").read_bytes()).hexdigest()
        point = cr2fast.OperatingPoint(
            lam=0.1, alpha=0.05, wishes={}, expected=(), n=1, candidates=1, points=4, delta=None,
            statement="", router=hashed, content=np.zeros((1, 2), np.uint64),
        )  # fmt: skip
        point.write(g.folder / "point.json")
        text = g.file.read_text()
        named = f"lam = {LAM}\nalpha = {ALPHA}\n"
        g.file.write_text(text.replace(named, 'point = "point.json"\n'))
        assert "λ = 0.1, α = 0.05" in g.check().stdout
        g.start()
        told = g.ask(house[3][0])
        assert [(p["lam"], p["alpha"]) for p in told["points"]] == [(0.1, 0.05)]
        # A recalibrated router is another one: the reload is refused, and the old one stays.
        router.calibrate(queries(house[3], house[2]), alphas=[0.05], lams=[0.1])
        router.save(g.folder / "router.safetensors")
        g.process.send_signal(1)
        said = g.process.stderr.readline()
        assert "reload refused" in said
        assert "choose again after each calibration, or name lam and alpha" in said
        assert g.ask(house[3][0])["points"][0]["n"] == 2
        g.end()
        for content, words in [
            ("{}", "missing field `format`"),
            ("", "a point as cr2fast choose --write wrote it"),
            (json.dumps(point.to_dict() | {"format": "x" * 9_000}), "one of format"),
            (json.dumps(point.to_dict() | {"router": "me"}), "names no router"),
            (json.dumps(point.to_dict() | {"lam": 0.07}), "not on the calibrated grid"),
        ]:
            (g.folder / "point.json").write_text(content)
            (g.folder / "router.safetensors").write_bytes(
                (house[0] / "router.safetensors").read_bytes()
            )
            told = g.check()
            assert told.returncode == 1
            assert "device.toml:5" in told.stderr, told.stderr
            assert words in told.stderr, told.stderr
            assert len(told.stderr) < 900
        g.file.write_text(text.replace(named, named + 'point = "point.json"\n'))
        assert "no lam and alpha beside it" in g.check().stderr
        g.file.write_text(text.replace(named, f"lam = {LAM}\n"))
        assert "expected lam and alpha, or point" in g.check().stderr
