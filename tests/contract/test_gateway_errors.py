"""The table of error codes in the gateway's reference holds every code of its source, and no other."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "rust/gateway/src"
PAGE = ROOT / "docs/reference/gateway.md"
CODE = r'\s*"([a-z_]+)"'
# Python has another name for it.
RENAMED = {"PAYLOAD_TOO_LARGE": 413}
# Words of the table that are no codes: headers, settings, fields of the log.
OTHERS = {"allow", "drain_ms", "failed"}
# Here the code comes from elsewhere in the file: the second pattern finds it there.
PASSED_ON = {"answer.rs", "app/intake.rs", "refusal.rs"}


def sources() -> dict[str, str]:
    """The source without its tests."""
    files = [path for path in SOURCE.rglob("*.rs") if path.name != "tests.rs"]
    return {
        path.relative_to(SOURCE).as_posix(): path.read_text().split("#[cfg(test)]")[0]
        for path in files
    }


def codes() -> dict[str, set[int]]:
    """Codes, and the statuses that stand beside them in the source."""
    found: dict[str, set[int]] = {}
    for name, text in sources().items():
        calls = len(re.findall(r"Refusal::new\(|Refusal::bad\(", text))
        literal = 0
        for code in re.findall(r"Refusal::new\(\s*[\w:]+," + CODE, text):
            literal += 1
            found.setdefault(code, set())
        for code in re.findall(r"Refusal::bad\(" + CODE, text):
            literal += 1
            found.setdefault(code, set()).add(400)
        for status, code in re.findall(r"\bStatusCode::(\w+)," + CODE, text):
            number = RENAMED.get(status) or HTTPStatus[status].value
            if number >= 400:
                found.setdefault(code, set()).add(number)
        for code in re.findall(rf"(?:\brefusal\(|Refusal \{{ code:|\.cut\(){CODE}", text):
            found.setdefault(code, set())
        assert literal == calls or name in PASSED_ON, f"{name}: a code that is no literal"
    return found


def documented() -> dict[str, set[int]]:
    """Codes of the page's table, and the statuses of their rows."""
    part = PAGE.read_text().split("\n## Errors\n")[1].split("\n## ")[0]
    found: dict[str, set[int]] = {}
    for row in re.findall(r"^\| (\d[\d, ]*) \| (.*) \|$", part, re.MULTILINE):
        for code in re.findall(r"`([a-z_]+)`", row[1]):
            found.setdefault(code, set()).update(int(s) for s in row[0].split(","))
    for code in re.findall(r"the code `([a-z_]+)`", part):
        found.setdefault(code, set())
    return found


def test_the_page_names_every_code_with_its_status_and_no_other() -> None:
    ours, told = codes(), documented()
    assert len(ours) > 40
    assert set(told) - OTHERS == set(ours)
    for code, statuses in ours.items():
        assert statuses <= told[code], f"{code}: {statuses} in the source, {told[code]} in the page"
