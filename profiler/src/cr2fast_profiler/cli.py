"""Command line: what can be typed. What it does is in :mod:`cr2fast_profiler.commands`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cr2fast_profiler import __version__, commands
from cr2fast_profiler.arguments import at_least, json_object, renamed, rounds, seed, sizes
from cr2fast_profiler.errors import ProfilerError
from cr2fast_profiler.link.run import LinkOptions
from cr2fast_profiler.logcommand import log

_DESCRIPTION = """\
Measure what an answer costs: latency and energy of LLMs on a device, an edge server and the link
between them; write the cost table that cr2fast routes by.

The usual order:
  cr2fast-profile doctor                             sensors: which are here, how to get the rest
  cr2fast-profile selftest                           is the meter worth anything?
  cr2fast-profile idle -o idle.json                  before the model's server starts
  cr2fast-profile model --endpoint URL --out device  on the device, its own model
  cr2fast-profile model --endpoint URL --out edge    on the edge server, each model there
  cr2fast-profile agent --host 0.0.0.0               on the edge server (CR2FAST_PROFILE_TOKEN set)
  cr2fast-profile link http://edge:8765 --out link   on the device
  cr2fast-profile table --device device --edge edge --link link -o cost_table.json
  cr2fast-profile plot device

Nothing is ever invented: what no sensor measured is null, and what a data sheet said is called
estimated. A killed run goes on when the same command is given again.
"""


def _endpoint_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", metavar="NAME", help="its name there; the only one by default")
    sub.add_argument(
        "--api",
        choices=("chat", "completions"),
        help="which call; the one that the URL names, else chat",
    )
    sub.add_argument("--api-key-env", metavar="VAR", help="environment variable with the API key")
    sub.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VAR",
        help="a header whose value an environment variable holds, such as api-key:AZURE_KEY; may "
        "be given again",
    )
    sub.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificates to trust besides the system's (or SSL_CERT_FILE)",
    )
    sub.add_argument(
        "--wait-s",
        type=at_least(0),
        default=600.0,
        metavar="S",
        help="how long to wait for a server that is loading its model or busy (600)",
    )
    sub.add_argument(
        "--extra",
        type=json_object,
        default={},
        metavar="JSON",
        help='more request fields, such as {"ignore_eos": true, "cache_prompt": false}',
    )
    sub.add_argument(
        "--timeout-s",
        type=at_least(0, above=True),
        default=300.0,
        metavar="S",
        help="bound on one request (300)",
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no argument that may be a secret."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # An abbreviation would take --api-key SECRET for --api-key-env.
        super().__init__(*args, **{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, naming options and no values."""
        if message.startswith("unrecognized arguments:"):
            words = message.partition(":")[2].split()
            named = [w.partition("=")[0] for w in words if re.match(r"--[a-z][a-z-]*(=|$)", w)]
            message = f"unrecognized arguments: {' '.join(named) or 'words beside the options'}"
            if {"--api-key", "--key", "--token", "--password"} & {*named}:
                message += "; secrets come from the environment: see --api-key-env and --header"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("cr2fast-profile", description=_DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"cr2fast-profiler {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, do: Callable[[argparse.Namespace], Any], about: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=raw
        )
        sub.set_defaults(do=do)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        return sub

    sub = command("doctor", commands.doctor, "which sensors are here, which are not and why")
    sub.add_argument("--endpoint", metavar="URL", help="also check that this endpoint can be used")
    _endpoint_options(sub)

    _add_model(
        command(
            "model",
            commands.model,
            "profile one model at an endpoint or callable",
            "The endpoint must stream OpenAI's chat or completions calls: llama.cpp's server, "
            "Ollama,\nvLLM. Run this on the host that serves the model, or near it: a distant "
            "endpoint's round trip\nis taken off, and its energy is null unless an agent runs "
            "there.\n\nMake answers as long as asked: where the server knows it, give "
            "--extra '{\"ignore_eos\": true}'.",
        )
    )

    sub = command(
        "idle",
        commands.idle,
        "power of this host before the model is loaded",
        "Idle has two values. Measure this one before the server starts, and give it to `model`\n"
        "by --unloaded-idle; the resident one `model` measures itself and subtracts.",
    )
    sub.add_argument("--meter", default="auto", metavar="SPEC", help="as of `model`")
    sub.add_argument(
        "--seconds", type=at_least(0, above=True), default=30.0, metavar="S", help="how long (30)"
    )
    sub.add_argument("-o", "--out", required=True, metavar="FILE", help="idle.json")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub = command("link", commands.link, "measure round trip and rates to an agent")
    sub.add_argument("url", metavar="URL", help="the agent's address, http://host:port")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the rows and link.json")
    sub.add_argument("--token-file", metavar="FILE", help="its token (CR2FAST_PROFILE_TOKEN)")
    sub.add_argument("--rounds", type=int, default=30, metavar="N", help="joint samples (30)")
    sub.add_argument(
        "--sizes",
        type=sizes,
        default=LinkOptions.sizes_bytes,
        metavar="B,...",
        help="payloads in bytes; larger ones for quick links (2048 to 131072)",
    )
    sub.add_argument(
        "--repeats", type=int, default=2, metavar="N", help="transfers a size, way and round (2)"
    )
    sub.add_argument("--budget-s", type=at_least(0, above=True), default=600.0, metavar="S")
    sub.add_argument("--seed", type=seed, default=0)
    sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub = command("agent", commands.agent, "serve this host's joules and a link to measure")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (loopback)")
    sub.add_argument("--port", type=int, default=8765)
    sub.add_argument("--token-file", metavar="FILE", help="its token (CR2FAST_PROFILE_TOKEN)")
    sub.add_argument("--meter", default="auto", metavar="SPEC", help="as of `model`")

    _add_table(command("table", commands.table, "runs and a link into a cost table"))

    sub = command(
        "log",
        log,
        "coefficients from a log of calls",
        "A row per call: model, prompt_tokens, completion_tokens, seconds; usd and error where "
        "there are any.\nJSON lines, CSV, Parquet or Arrow.",
    )
    sub.add_argument("file", metavar="FILE", help="the log")
    sub.add_argument(
        "--columns",
        type=renamed,
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="its names for our columns, such as seconds=latency",
    )
    sub.add_argument("--out", metavar="DIR", help="write a profile.json per model there")

    sub = command("selftest", commands.selftest, "known loads: tick, sampled fraction, ratio")
    sub.add_argument("--meter", default="auto", metavar="SPEC", help="as of `model`")

    sub = command("plot", commands.plot, "draw a run or a link")
    sub.add_argument("run", metavar="DIR", help="folder of `model` or `link`")
    sub.add_argument("-o", "--out", metavar="PNG", help="DIR/plot.png by default")
    return parser


def _add_model(sub: argparse.ArgumentParser) -> None:
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible base URL")
    which.add_argument(
        "--callable",
        metavar="MODULE:FUNCTION",
        help="generator in this process: yields pieces, returns its usage",
    )
    _endpoint_options(sub)
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    sub.add_argument(
        "--grid",
        default="64,256,768x16,64,128",
        metavar="INSxOUTS",
        help="tokens in and out: a cross, or cells such as '64x16 64x128 512x16'",
    )
    sub.add_argument(
        "--rounds", type=rounds, default=(3, 20), metavar="A-B", help="at least, at most (3-20)"
    )
    sub.add_argument(
        "--precision",
        type=at_least(0, above=True),
        default=0.02,
        metavar="P",
        help="half width of the intervals at which it ends (0.02)",
    )
    sub.add_argument(
        "--budget-s",
        type=at_least(0, above=True),
        default=900.0,
        metavar="S",
        help="start no request after this long (900)",
    )
    sub.add_argument(
        "--idle-s",
        type=at_least(0),
        default=10.0,
        metavar="S",
        help="length of the idle window, with a meter (10)",
    )
    sub.add_argument("--unloaded-idle", metavar="FILE", help="idle.json of `idle`, to stand beside")
    sub.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="KIND:N",
        help="also constant:RATE, poisson:RATE or concurrent:N; may be given again",
    )
    meter = sub.add_mutually_exclusive_group()
    meter.add_argument(
        "--meter",
        default="auto",
        metavar="SPEC",
        help="auto, none, nvml, nvml:0, rapl, pyrapl, zeus, replay:FILE or constant:WATTS",
    )
    meter.add_argument("--agent", metavar="URL", help="energy from an agent on the model's host")
    sub.add_argument("--token-file", metavar="FILE", help="the agent's token")
    sub.add_argument("--seed", type=seed, default=0)
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_table(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", required=True, metavar="RUN[=NAME]", help="the device's run")
    sub.add_argument(
        "--edge",
        action="append",
        default=[],
        metavar="RUN[=NAME]",
        help="a run of an edge model; may be given again",
    )
    sub.add_argument(
        "--cloud",
        action="append",
        default=[],
        metavar="RUN[=NAME]",
        help="a run (or `log`'s folder) of a model behind an API, or its name alone where --price "
        "has it and latency no share; may be given again",
    )
    sub.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="NAME=IN,OUT[,REQUEST]",
        help="dollars per million input and output tokens, and per request; may be given again",
    )
    sub.add_argument(
        "--link",
        required=True,
        metavar="PATH",
        help="folder or link.json of `link`, a cost table whose link constants to take, or none",
    )
    sub.add_argument("-o", "--out", required=True, metavar="FILE", help="cost_table.json")
    sub.add_argument("--name", default="testbed", help="of the testbed")
    for which, what in (("tx", "while it sends"), ("rx", "while it receives"), ("idle", "waiting")):
        sub.add_argument(
            f"--ue-{which}-w",
            type=at_least(0),
            metavar="W",
            help=f"the device's radio {what}, from its data sheet",
        )
    sub.add_argument(
        "--energy-weight",
        type=at_least(0),
        metavar="W",
        help="weight of energy in the cost, 0 to 1; 1/2 where every power is known, 1/3 beside "
        "prices",
    )
    sub.add_argument(
        "--price-weight",
        type=at_least(0),
        metavar="W",
        help="weight of dollars in the cost, 0 to 1; as much as latency where prices are given",
    )
    sub.add_argument(
        "--reference-model", metavar="NAME", help="unit of cost; the slowest by default"
    )
    for way in ("input", "output"):
        sub.add_argument(
            f"--bits-per-{way}-token",
            type=at_least(0, above=True),
            default=32.0,
            metavar="B",
            help="payload of a token on a measured link (32)",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    args = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    spoken = io.StringIO() if args.json else sys.stdout
    try:
        with contextlib.redirect_stdout(spoken):
            result = args.do(args)
    except ProfilerError as error:
        print(f"cr2fast-profile: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumable = args.command in ("model", "link")
        kept = "; rows so far are kept: give the same command to go on" if resumable else ""
        print(f"\ninterrupted{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    if args.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    return 0 if result.get("endpoint", {}).get("usable", True) else 1
