"""Nothing secret in any file, log, plot, message or exception, whatever the server repeats."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest
from fakes.known import said_json
from fakes.virtual import World

from cr2fast_profiler import commands
from cr2fast_profiler.cli import main
from cr2fast_profiler.redact import Secrets, printable, safe_fields, safe_url

USER, PASSWORD = "user-name-4711", "p@ss/w0rd-#0815"
QUERY, KEY, HEADER = "query-secret-123456", "sk-proj-abcdef123456", "header-secret-7890"
EXTRA = {
    "ignore_eos": True,
    "api_key": "extra-secret-1",
    "metadata": {"auth": {"bearer": "extra-secret-2"}, "note": "extra-secret-3"},
    "stop": ["\n\n"],
    "logit_bias": {"50256": -100},
    "unlock_pin": 0,
    "password": 271828182,
    "keep_alive": "5m",
    "best_of": 1,
    "list": ["extra-secret-4", {"x": "extra-secret-5"}],
}
SECRETS = (
    USER,
    PASSWORD,
    QUERY,
    KEY,
    HEADER,
    *(f"extra-secret-{i}" for i in range(1, 6)),
    "271828182",
)
ADDRESS = (
    f"http://{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@known.test:8000/v1"
    f"?api-version=2024-06-01&key={QUERY}"
)
QUICK = ["--grid", "40,120x3,8", "--rounds", "3-3", "--quiet", "--meter", "none"]


def forms(secret: str) -> set[bytes]:
    pair = f"{USER}:{secret}"
    texts = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    texts |= {base64.b64encode(t.encode()).decode() for t in (secret, pair)}
    return {t.encode() for t in texts} | {secret.encode("utf-16-le")}


def assert_clean(data: bytes, where: str) -> None:
    for secret in SECRETS:
        for form in forms(secret):
            assert form not in data, f"{secret} in {where}"


@pytest.fixture
def world(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    made = World(noise=0.01)
    monkeypatch.setattr(commands, "CLOCK", made.clock)
    monkeypatch.setattr(commands, "TRANSPORT", made.transport)
    monkeypatch.setattr(commands, "is_this_host", lambda url: True)
    monkeypatch.setenv("THE_HEADER", HEADER)
    monkeypatch.setenv("THE_KEY", KEY)
    return made


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    return [
        *("--endpoint", ADDRESS, "--extra", json.dumps(EXTRA)),
        *("--header", "X-Api-Key:THE_HEADER"),
    ]


def test_no_file_stream_or_log_of_a_run_and_its_table_has_a_secret(
    world, asked, tmp_path, capfd, caplog
) -> None:
    run, table = tmp_path / "run", tmp_path / "cost_table.json"
    assert main(["doctor", *asked]) == 0
    assert main(["model", *asked, "--out", str(run), *QUICK]) == 0
    constants = tmp_path / "link.json"
    shannon = {"kind": "shannon", "rtt_s": 0.018}
    constants.write_text(json.dumps({"schema": "cr2fast.cost_table/1", "link": shannon}))
    runs = ["--device", str(run), "--edge", f"{run}=edge", "--link", str(constants)]
    assert main(["table", *runs, "--energy-weight", "0", "-o", str(table), "--json"]) == 0
    assert main(["plot", str(run)]) == 0

    sent = world.transport.requests[-1]
    assert QUERY in str(sent.url)
    assert sent.headers["x-api-key"] == HEADER
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() in sent.headers["authorization"]
    assert json.loads(sent.content)["metadata"] == EXTRA["metadata"]

    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 15
    for path in files:
        assert_clean(path.read_bytes(), str(path.relative_to(tmp_path)))
    said = capfd.readouterr()
    assert_clean((said.out + said.err + caplog.text).encode(), "what was printed or logged")
    target = json.loads((run / "run.json").read_text())["target"]
    assert target["url"] == "http://***@known.test:8000/v1" or "***" not in target["url"]
    assert target["extra"]["ignore_eos"] is True
    assert target["extra"]["stop"] == ["\n\n"]
    assert target["extra"]["keep_alive"] == "5m"
    assert target["extra"]["logit_bias"] == {"50256": -100}


REPEATS = " | ".join((*SECRETS, ADDRESS, f"Bearer {KEY}"))


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("when", ["list", "answer", "later"])
def test_a_server_that_repeats_secrets_puts_them_nowhere(
    world, asked, tmp_path, capfd, caplog, status, when
) -> None:
    answer = world.transport.handle

    def repeat(request):
        post = request.method == "POST"
        if (when == "list") is not post and (when != "later" or world.manners.served > 9):
            return said_json(status, {"error": {"message": REPEATS, "code": KEY}})
        return answer(request)

    world.transport.handle = repeat
    command = ["model", *asked, "--out", str(tmp_path / "run"), *QUICK, "--wait-s", "30"]
    main(command if when != "list" else [*command, "--model", "known"])
    main(["doctor", *asked, "--json", "--wait-s", "1"])
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert_clean(path.read_bytes(), str(path.relative_to(tmp_path)))
    said = capfd.readouterr()
    assert_clean((said.out + said.err + caplog.text).encode(), "what was printed or logged")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--endpoint", f"ftp://{USER}:{PASSWORD}@x"],
        ["--endpoint", f"http://{USER}:{PASSWORD}@x"],
        ["--endpoint", f"{USER}:{PASSWORD}@x"],
        ["--endpoint", f"http://known.test:port?key={QUERY}"],
        ["--endpoint", "http://known.test", "--api-key-env", KEY],
        ["--endpoint", "http://known.test", "--header", f"Authorization: Bearer {KEY}"],
        ["--endpoint", "http://known.test", "--header", f"Authorization {KEY}"],
        ["--endpoint", "http://known.test", "--header", f"X:{KEY}"],
        ["--endpoint", "http://known.test", "--extra", f'{{"api_key": "{KEY}"'],
        ["--endpoint", "http://known.test", "--extra", f'["{KEY}"]'],
        ["--endpoint", "http://known.test", "--api-key", KEY],
        ["--endpoint", "http://known.test", f"--api-key={KEY}"],
        ["--endpoint", "http://known.test", KEY],
        ["--endpoint", "http://known.test", "--agent", f"http://{USER}:{PASSWORD}@x"],
        ["--endpoint", "http://known.test", "--agent", f"http://x/?token={QUERY}"],
    ],
)
def test_slips_on_the_command_line_are_not_repeated(world, arguments, tmp_path, capfd) -> None:
    quick = [a for a in QUICK if a not in ("--meter", "none")] if "--agent" in arguments else QUICK
    try:
        code = main(["model", *arguments, "--out", str(tmp_path / "run"), *quick])
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    said = capfd.readouterr()
    assert_clean((said.out + said.err).encode(), "the error")
    assert "error: " in said.err


def test_the_link_and_idle_commands_keep_secrets_too(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("CR2FAST_PROFILE_TOKEN", "token-secret-0123456789")
    for url in (
        f"http://{USER}:{PASSWORD}@127.0.0.1:9",
        f"http://127.0.0.1:9/?key={QUERY}",
        f"{USER}:{PASSWORD}@127.0.0.1:9",
        f"http://{USER}:{PASSWORD}",
        f"ftp://{USER}:{KEY}@127.0.0.1",
    ):
        assert main(["link", url, "--out", str(tmp_path / "link"), "--quiet"]) == 1
    assert main(["link", "http://127.0.0.1:9", "--out", str(tmp_path / "l"), "--quiet"]) == 1
    said = capfd.readouterr()
    assert_clean((said.out + said.err).encode(), "the error")
    assert "token-secret" not in said.out + said.err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:80/v1", "http://host:80/v1"),
        ("https://u:p@host/v1", "https://***@host/v1"),
        ("https://key@host", "https://***@host"),
        ("http://u:p/q@host/x", "http://***@host/x"),
        ("http://u:p#q@host/x", "http://***@host/x"),
        ("u:p@host", "***@host"),
        ("http://host/@cf/meta/llama-3", "http://host/@cf/meta/llama-3"),
        ("http://h?api-version=1&key=k&x", "http://h?api-version=1&key=***&***"),
        ("http://h/sk-abcdef123/v1", "http://h/***/v1"),
        ("http://h/0123456789abcdef0123456789abcdef/v1", "http://h/***/v1"),
        (
            "http://h/deployments/gpt-4o-mini-2024-07-18-eu1/x",
            "http://h/deployments/gpt-4o-mini-2024-07-18-eu1/x",
        ),
        ("http://h/x#secret", "http://h/x"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("", ""),
    ],
)
def test_addresses_are_shown_without_credentials(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_fields_are_shown_where_they_carry_no_secret() -> None:
    shown = safe_fields(EXTRA)
    assert_clean(json.dumps(shown).encode(), "the fields")
    assert safe_fields({"max_tokens": 3, "top_k": 4, "seed": 1, "min_p": 0.1}) == {
        "max_tokens": 3,
        "top_k": 4,
        "seed": 1,
        "min_p": 0.1,
    }
    assert safe_fields({"response_format": {"type": "json_object"}}) == {
        "response_format": {"type": "json_object"}
    }


def test_secrets_leave_words_in_every_form(monkeypatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "environment-secret")
    secrets = Secrets([PASSWORD], EXTRA)
    for form in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe="")):
        assert secrets.scrub(f"<{form}>") == "<***>"
    assert secrets.scrub("environment-secret") == "***"
    assert secrets.scrub("ignore_eos 5m") == "ignore_eos 5m"
    assert printable("a\x00b\x1b[0m\u202e\nc", 50) == "a\ufffdb\ufffd[0m\ufffd c"
