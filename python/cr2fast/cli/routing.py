"""What ``cr2fast route`` does. On a device it needs only numpy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from cr2fast._core import Choice, Cr2Error, DeviceRouter, LinkState, LinkStates, TwoStage
from cr2fast.cli import choosing, inputs


def route(args: argparse.Namespace) -> Any:
    """Decide for texts, or for the embeddings of a file."""
    if args.text and not all(text.strip() for text in args.text):
        raise Cr2Error("--text: expected something to route, got an empty text")
    if args.text and not args.encoder:
        raise Cr2Error("--text needs --encoder SOURCE, the router's encoder")
    if choosing.started(args) is None and args.lam is None:
        raise Cr2Error("expected --lam, or --point FILE as cr2fast choose --write wrote it")
    limits = {
        k: v
        for k in ("max_latency_s", "max_energy_j", "max_usd")
        if (v := getattr(args, k)) is not None
    }
    if limits and not args.text and args.n_input_tokens is None:
        raise Cr2Error(
            "a limit on a query's cost needs --text, or --n-input-tokens with embeddings"
        )
    state = LinkState(args.rate_ul_bps, args.rate_dl_bps, args.rtt_s)
    if args.text:
        encoder = inputs.encoder(args.encoder, args.router)
        two = TwoStage.load(args.router, args.lam, args.alpha, encoder=encoder.info)
        n = args.n_input_tokens
        typical = _typical(args, len(args.text), lambda: encoder.encode(args.text), args.text)
        _say_alpha(args, two.alpha)
        more = limits | {"group": args.group}
        choices = [two.route_text(t, encoder, state, n, **more) for t in args.text]
        return [_routed(args, i, two, c, typical[i]) for i, c in enumerate(choices)]
    x = inputs.embeddings(args.embeddings)
    inputs.check_rows(args, x)
    typical = _typical(args, len(x), lambda: x)
    if args.n_input_tokens is None:
        # Without input tokens nothing has a price: stage one alone.
        device = DeviceRouter.load(args.router, args.lam, args.alpha)
        _say_alpha(args, device.alpha)
        n = len(x)
        states = LinkStates([args.rate_ul_bps] * n, [args.rate_dl_bps] * n, [args.rtt_s] * n)
        groups = None if args.group is None else [args.group] * n
        local = device.route_batch(x, groups=groups, states=states)
        kept = zip(local.tolist(), device.margins(x, states=states).tolist(), strict=True)
        threshold = device.threshold_of(args.group)
        return [
            _row(args, i, device, local, (margin, threshold), typical[i])
            for i, (local, margin) in enumerate(kept)
        ]
    two = TwoStage.load(args.router, args.lam, args.alpha)
    _say_alpha(args, two.alpha)
    # A whole batch first: what is wrong with its shape or type is said of the file, not of a row.
    two.route_batch(x, [args.n_input_tokens] * len(x))
    n_input, more = args.n_input_tokens, limits | {"group": args.group}
    return [
        _routed(args, i, two, two.route(row, n_input, state, **more), typical[i])
        for i, row in enumerate(x)
    ]


def _typical(
    args: argparse.Namespace, n: int, embeddings: Callable[[], Any], texts: Any = None
) -> list[dict[str, float]]:
    """The p-value of each row where ``--typicality`` asks for it; only then texts are embedded."""
    if not args.typicality:
        return [{}] * n
    device, x = DeviceRouter.load(args.router, args.lam, args.alpha), embeddings()
    if texts is not None:
        x = device.inputs(x, texts)
    return [{"p_value": p} for p in device.p_values(x).tolist()]


def _say_alpha(args: argparse.Namespace, alpha: float) -> None:
    """Which level was taken, where none was asked for."""
    if args.alpha is None:
        print(f"cr2fast route: alpha = {alpha:g}", file=sys.stderr)


def _row(
    args: argparse.Namespace,
    i: int,
    point: DeviceRouter | TwoStage,
    local: bool,
    compared: tuple[float, float],
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One line for people, and what ``--json`` has of it."""
    from cr2fast.calibration import threshold_word

    (margin, threshold), more = compared, more or {}
    place = "local" if local else more.get("model", "edge")
    note = "\tkept local by the limit only: alpha does not cover it" if more.get("forced") else ""
    note += f"\tp-value {more['p_value']:.4f}" if "p_value" in more else ""
    inputs.say(args, f"{i}\t{place}\tmargin {margin:+.4f}\tthreshold {threshold:+.4f}{note}")
    return {
        "row": i,
        "local": local,
        "margin": margin,
        "threshold": threshold_word(threshold),
        "lam": point.lam,
        "alpha": point.alpha,
    } | more


def _routed(
    args: argparse.Namespace, i: int, two: TwoStage, choice: Choice, typical: dict[str, float]
) -> dict[str, Any]:
    names = (
        "model", "place", "forced", "n_input_tokens", "accuracy", "cost", "latency_s", "energy_j",
        "usd",
    )  # fmt: skip
    more = {name: getattr(choice, name) for name in names} | typical
    return _row(args, i, two, choice.local, (choice.margin, choice.threshold), more)
