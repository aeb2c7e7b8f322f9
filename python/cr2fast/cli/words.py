"""What the library says, in the words of who typed a command: flags in place of keywords.

In: a message, and the command's parser. Out: the same message with `keyword=value`, `keyword: ...`
and names with underscores as the flags they are here, and advice in Python as advice for a shell.
"""

from __future__ import annotations

import argparse
import re

# Advice that only Python can follow as it stands, and a keyword's value that has another name here.
_ADVICE = (
    (r"features=False \(--features none\)", "--features none"),
    (r"fit with teacher= that router, which keeps the scale, or ", ""),
    (r"\(calibrate with groups=\.\.\., ", "(calibrate with --groups COLUMN, "),
    (r"; use costs\.select\(table\.models\) to choose and order them",
     "; name the models of the cost table with --local and --edge, or leave both flags out"),
    (r"pass columns=\{'(\w+)': <its name>\}", r"pass --column \1=<its name>"),
    (r"; pass encoder=cr2fast\.Encoder\.load\(\.\.\.\)", "; pass --encoder SOURCE (minilm, say)"),
    (r"; pass incomplete='drop' to leave [a-z ]+ out", "; leave them out of the file"),
    (r"pass embed=True to embed the texts anew, or encoder=EncoderInfo\(\.\.\.\) to record a name "
     r"only", "pass --embed to embed the texts anew, or --encoder-id NAME in place of --encoder"),
    (r"simultaneous=True", "--simultaneous DELTA"),
    (r"overlap='drop'", "--overlap drop"),
    (r"^fractions: ", "--split: "),
    (r"^columns: ", "--column: "),
)  # fmt: skip
# Keywords of the library that are flags here under another name.
_RENAMED = {
    "window_s": "--window-h", "every_s": "--every", "points": "--lam, --alpha",
    "models": "--local, --edge", "reference_model": "--reference", "delta": "--simultaneous",
}  # fmt: skip
# Keywords whose `name=value` is how messages write a point, flag or not.
_POINT = ("lam", "alpha")


def flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """By keyword, the flag of a command that gives it."""
    found = {}
    for action in parser._actions:
        long = [o for o in action.option_strings if o.startswith("--")]
        if long and action.help != argparse.SUPPRESS and action.dest != "help":
            # The keyword is the flag's own name; `dest` may be that of another.
            found[long[0].removeprefix("--").replace("-", "_")] = long[0]
    known = set(found.values())
    renamed = {k: v for k, v in _RENAMED.items() if set(v.split(", ")) <= known}
    return found | renamed


def in_flags(text: str, parser: argparse.ArgumentParser) -> str:
    """The message with flags in place of keywords."""
    for pattern, words in _ADVICE:
        text = re.sub(pattern, words, text)
    for name, flag in sorted(flags(parser).items(), key=lambda pair: -len(pair[0])):
        text = re.sub(rf"^{name}: ", f"{flag}: ", text)
        if name not in _POINT:
            text = re.sub(rf"(?<![\w.'-]){name}='([\w-]*)'", rf"{flag} \1", text)
            text = re.sub(rf"(?<![\w.'-]){name}=(?=\w)", f"{flag} ", text)
            text = re.sub(rf"(?<![\w.'-]){name}=(?!\w)", flag, text)
        if "_" in name:
            text = re.sub(rf"(?<![\w.'/-]){name}(?![\w.'/=-])", flag, text)
    return text
