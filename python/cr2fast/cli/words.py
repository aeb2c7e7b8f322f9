"""What the library says, in the words of who typed a command: flags in place of keywords.

In: a message, and the command's parser. Out: the same message with `keyword=value`, `keyword: ...`
and names with underscores as the flags they are here, and advice in Python as advice for a shell.
"""

from __future__ import annotations

import argparse
import re

from cr2fast._util.checks import shown

# Advice that only Python can follow as it stands.
_ADVICE = (
    (r"features=False \(--features none\)", "--features none"),
    (r"fit with teacher= that router, which keeps the scale, or ", ""),
    (r"\(calibrate with groups=\.\.\., or --groups\)", "(calibrate with --groups COLUMN)"),
    (r"fit with lam_range wide enough", "fit with a wider --lam-range"),
    (r"^lam_high: expected a number above lam_low", "lam_high: expected LOW below HIGH"),
    (r"with a larger delta, or", "with a larger DELTA of --simultaneous, or"),
    (r"; call calibrate first|; run Router\.calibrate \(or `cr2fast calibrate`\) first",
     "; run cr2fast calibrate first"),
    (r"; use costs\.select\(table\.models\) to choose and order them",
     "; name the models of the cost table with --local and --edge, or leave both flags out"),
    (r"pass columns=\{'(\w+)': <its name>\}", r"pass --column \1=<its name>"),
    (r"; pass encoder=cr2fast\.Encoder\.load\(\.\.\.\)", "; pass --encoder SOURCE (minilm, say)"),
    (r"; pass incomplete='drop' to leave [a-z ]+ out", "; leave them out of the file"),
    (r"pass embed=True to embed the texts anew, or encoder=EncoderInfo\(\.\.\.\) to record a name "
     r"only", "pass --embed to embed the texts anew, or --encoder-id NAME in place of --encoder"),
    (r"leave those out \(table\.take\), ", "leave those out of the file, "),
    (r"simultaneous=True", "--simultaneous DELTA"),
    (r"^fractions: ", "--split: "),
    (r"^columns: ", "--column: "),
)  # fmt: skip
# Keywords of the library that are flags here under another name.
_RENAMED = {
    "window_s": "--window-h", "every_s": "--every", "points": "--lam, --alpha",
    "lam": "--lams", "alpha": "--alphas", "lam_low": "--lam-range", "lam_high": "--lam-range",
    "models": "--local, --edge", "reference_model": "--reference", "rule": "--deferred",
    "delta": "--simultaneous",
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


def said(error: BaseException, args: argparse.Namespace) -> str:
    """What an error says, in the words of the command that was typed."""
    file = getattr(error, "filename", None)
    if isinstance(error, OSError) and error.strerror and file is None:
        # A write to stdout, or to a file that was open.
        return error.strerror
    if not isinstance(error, OSError) or not error.strerror:
        text = in_flags(str(error), args.sub)
        router = getattr(args, "router", None)
        return f"{router}: {text}" if router and text.startswith("artifact: ") else text
    # The system's words, and the argument that named the file.
    words = re.sub(r" \(os error \d+\)$", "", error.strerror)
    names = {
        action.dest: (action.option_strings or [action.metavar or action.dest])[-1]
        for action in args.sub._actions
    }
    for name, flag in names.items():
        given = getattr(args, name, None)
        if any(str(one) == str(file) for one in (given if isinstance(given, list) else [given])):
            return f"{flag}: {words}: {shown(str(file))}"
    return f"{words}: {shown(str(file))}"


def in_flags(text: str, parser: argparse.ArgumentParser) -> str:
    """The message with flags in place of keywords."""
    for pattern, words in _ADVICE:
        text = re.sub(pattern, words, text)
    for name, flag in sorted(flags(parser).items(), key=lambda pair: -len(pair[0])):
        text = re.sub(rf"^(?:state\.)?{name}(?:\[\d+\])?: ", f"{flag}: ", text)
        if name not in _POINT:
            text = re.sub(rf"(?<![\w.'-]){name}=(['\"])([\w-]*)\1", rf"{flag} \2", text)
            text = re.sub(rf"(?<![\w.'-]){name}=(?=[\w<])", f"{flag} ", text)
            text = re.sub(rf"(?<![\w.'-]){name}=(?!\w)", flag, text)
        if "_" in name:
            text = re.sub(rf"(?<![\w.'/-]){name}(?![\w.'/=-])", flag, text)
    # What the library says in both ways is now said twice.
    return re.sub(r"(--[a-z-]+ [a-z-]+) \(\1\)", r"\1", text)
