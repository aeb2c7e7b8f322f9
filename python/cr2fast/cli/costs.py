"""``cr2fast costs``: a cost table of a log's bills and clocks, or of a price list.

Heavy imports are inside, as in :mod:`cr2fast.cli.commands`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cr2fast._core import CostTable, Cr2Error
from cr2fast._util.checks import explained, shown
from cr2fast._util.files import write_whole
from cr2fast.cli import inputs, options

_HELP = """\
Of a log, prices are those that the calls were billed by, and times a least-squares fit; what the
log cannot tell stands in the table's notes, which are printed. A price list names the device's
model first.

  cr2fast costs --log calls.jsonl --local llama3.1-8b -o cost_table.json
  cr2fast costs --price phone-1b=0,0 --price gpt-4o=2.5,10 -o cost_table.json

cr2fast fit --log makes the same table of the log by itself, with its usual shares.
"""


def add_costs(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Make the command ``cr2fast costs``."""
    sub = command("costs", costs, "Make a cost table of a log of calls, or of a price list.", _HELP)
    sources = sub.add_mutually_exclusive_group(required=True)
    options.log(sub, sources)
    sources.add_argument(
        "--price",
        action="append",
        type=price,
        metavar="MODEL=IN,OUT[,CALL]",
        help="dollars per million input and output tokens, and per call; once per model, the "
        "device's first",
    )
    sources.add_argument(
        "--prices",
        type=Path,
        metavar="FILE",
        help="JSON object: by model, usd_per_input_token, usd_per_output_token, usd_per_request",
    )
    sub.add_argument(
        "--shares",
        type=share,
        action="append",
        metavar="WHAT=SHARE",
        help="with --log: share of latency, energy or price in the cost, together 1 (default: "
        "price=1 where every model was billed, else latency=1)",
    )
    sub.add_argument(
        "--reference", metavar="MODEL", help="the model whose cost is 1 (default: the dearest)"
    )
    sub.add_argument(
        "-o", "--out", type=Path, default=Path("cost_table.json"), help="file to write"
    )


def price(text: str) -> tuple[str, dict[str, float]]:
    """A model and its prices, from dollars per million tokens."""
    model, equals, numbers = text.rpartition("=")
    parts = options.numbers(numbers) if equals else ()
    if not model or len(parts) not in (2, 3):
        raise argparse.ArgumentTypeError(
            f"expected MODEL=IN,OUT or MODEL=IN,OUT,CALL, as in gpt-4o=2.5,10, got {shown(text)}"
        )
    if not all(0 <= value < float("inf") for value in parts):
        raise argparse.ArgumentTypeError(f"expected dollars, at least 0, got {shown(text)}")
    names = ("usd_per_input_token", "usd_per_output_token", "usd_per_request")
    return model, {
        name: value / (1 if name == "usd_per_request" else 1e6)
        for name, value in zip(names, parts, strict=False)
    }


def share(text: str) -> tuple[str, float]:
    """What costs, and its share."""
    what, number = options.renaming(text)
    (value,) = options.numbers(number) if "," not in number else (float("nan"),)
    if what not in ("latency", "energy", "price") or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"expected latency, energy or price, and a share from 0 to 1, as in latency=0.5, got "
            f"{shown(text)}"
        )
    return what, value


def costs(args: argparse.Namespace) -> Any:
    """Make the table and write it."""
    inputs.writable(args.out)
    if args.log is None and (args.shares or args.local or args.edge or args.column):
        raise Cr2Error(
            "--shares, --local, --edge, --column are for --log FILE; a price list's cost is its "
            "price, and its first model the device's"
        )
    made = _of_log(args) if args.log is not None else _of_prices(args)
    write_whole(args.out, f"{made.to_json()}\n".encode())
    for text in made.notes:
        inputs.note(args, text)
    shares = ", ".join(f"{k} {v:g}" for k, v in made.shares.items() if v)
    inputs.say(
        args,
        f"wrote {args.out}: {', '.join(made.models)} (the first is the device's); {made.source}; "
        f"shares: {shares}; the cost of {made.reference_model} is 1",
    )
    return {"file": str(args.out), "models": made.models, "notes": made.notes}


def _of_log(args: argparse.Namespace) -> CostTable:
    from cr2fast.data import calls, source

    raw, columns = source.frame(args.log, "log"), dict(args.column)
    local, edge = inputs.models(args, calls.read(raw, columns, ("model",)))
    return CostTable.from_log(
        raw,
        local=local,
        edge=edge,
        columns=columns,
        shares=dict(args.shares) if args.shares else None,
        reference_model=args.reference,
    )


def _of_prices(args: argparse.Namespace) -> CostTable:
    if args.prices is not None:
        try:
            given = json.loads(args.prices.read_text(encoding="utf-8"), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise Cr2Error(
                f"--prices: expected a JSON object in {args.prices}, got {explained(error)}"
            ) from None
        if not isinstance(given, dict):
            raise Cr2Error(f"--prices: expected a JSON object, got {shown(given)}")
    else:
        given = _once(args.price)
        if len(given) < 2:
            raise Cr2Error(
                f"--price: expected the device's model and at least one edge model, each with a "
                f"--price of its own, got {shown(list(given))}"
            )
    return CostTable.of_prices(given, reference_model=args.reference)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(n for n in names if names.count(n) > 1)
        raise Cr2Error(f"prices: expected each name once, got {shown(twice)} again")
    return found
