"""What the commands do. Each takes the parsed arguments and returns what ``--json`` prints.

Heavy imports are inside: ``cr2fast route`` on a device must need numpy alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._core import Cr2Error, DeviceRouter, EdgeSelector, LinkState

_NAME_ALONE = "no hash of it is known, so encoders are compared by name alone"


def _problem(args: argparse.Namespace) -> Any:
    from cr2fast.data.datasets import load_folder
    from cr2fast.encoders.info import EncoderInfo

    if args.embed and not args.encoder:
        raise Cr2Error("embed: expected it with --encoder SOURCE, got it alone")
    if not args.encoder:
        return load_folder(args.data, args.costs, EncoderInfo(args.encoder_id or "unknown"))
    encoder = _encoder(args.encoder)
    problem = load_folder(args.data, args.costs, encoder.info)
    if args.embed:
        return replace(problem, table=problem.table.embed(encoder))
    _check_embeddings(problem.table, encoder)
    return problem


def _encoder(source: str) -> Any:
    """A static encoder of a file, or an encoder of a folder or of a name."""
    from cr2fast._core import StaticEncoder

    if Path(source).is_file():
        return StaticEncoder.load(source)
    from cr2fast.encoders.onnx import Encoder

    return Encoder.load(source)


def _check_embeddings(table: Any, encoder: Any) -> None:
    """Refuse to record an encoder that did not make the embeddings, as far as texts can tell."""
    if "text" not in table.extra:
        return
    for i in np.linspace(0, len(table) - 1, 16).astype(int).tolist():
        x = table.embeddings[i]
        made = encoder.encode(table.extra["text"][i])
        cosine = float(x @ made / np.linalg.norm(x)) if x.shape == made.shape else np.nan
        if not cosine > 0.99:
            raise Cr2Error(
                f"encoder: expected the one behind the embeddings, got {encoder.info.id}, whose "
                f"vector of {table.query_ids[i]} has cosine {cosine:.3f} with the table's; pass "
                f"--embed to embed the texts anew"
            )


def _part(args: argparse.Namespace, index: int) -> tuple[Any, Any]:
    """The costs, and the part of the data that a command may see."""
    if len(args.split) != 3:
        raise Cr2Error(f"split: expected three fractions, got {args.split}")
    problem = _problem(args)
    return problem.costs, problem.table.split(args.split, args.split_seed)[index]


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("teacher_epochs", "gate_epochs")
    return {n: getattr(args, n) for n in names if getattr(args, n) is not None}


def _writable(path: Path) -> None:
    """Refuse, before long work, an output whose folder is not there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"out: expected an existing folder, got {folder}")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(f"out: expected a file that can be written, got {path}")


def _say(args: argparse.Namespace, text: str) -> None:
    """Text for people: stdout, or stderr when stdout carries JSON."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def demo(args: argparse.Namespace) -> Any:
    """Fit, calibrate, save, load, route, evaluate, plot."""
    from cr2fast.cli import demo as demonstration
    from cr2fast.data.datasets import make_routing_problem

    if args.costs and not args.data:
        raise Cr2Error("costs: expected it with --data DIR, got it alone")
    args.data = args.data or (Path(p) if (p := os.environ.get("CR2FAST_DATA")) else None)
    if args.encoder and args.data is None:
        raise Cr2Error("encoder: expected it with data, got none")
    if args.download and args.data is not None:
        raise Cr2Error(f"download: expected it without data, got data in {args.data}")
    if args.download:
        problem, source = _fetched(), "MMLU-Pro, published answers; costs ESTIMATED"
    elif args.data is None:
        problem, source = make_routing_problem(seed=args.seed), "SYNTHETIC (made up)"
        _say(
            args,
            "No --data and no CR2FAST_DATA: this is a synthetic problem "
            "(cr2fast.datasets.make_routing_problem); its figures say nothing of real models. "
            "For published answers of four of them: cr2fast demo --download "
            "(15 MB, and minutes of embedding, once).",
        )
    else:
        problem, source = _problem(args), str(args.data)
    result = demonstration.run(
        problem,
        args.out,
        source=source,
        lam=args.lam,
        alpha=args.alpha,
        seed=args.seed,
        say=lambda text: _say(args, text),
        **_options(args),
    )
    _say(args, "\nwrote " + ", ".join(str(f) for f in result.files))
    modes = {k: e.to_dict() for k, e in result.evaluations.items()}
    return result.summary | {"files": [str(f) for f in result.files], "modes": modes}


def _fetched() -> Any:
    """Published answers, embedded by MiniLM, with estimated costs."""
    from cr2fast.data.datasets import RoutingProblem, estimated_costs
    from cr2fast.data.mmlu_pro import fetch_mmlu_pro

    return RoutingProblem(fetch_mmlu_pro(_encoder("minilm")), estimated_costs())


def fit(args: argparse.Namespace) -> Any:
    """Train on the first part of the data and write the router."""
    from cr2fast.fitting import fit as train_router

    _writable(args.out)
    costs, train = _part(args, 0)
    router = train_router(
        train,
        costs,
        seed=args.seed,
        lengths=args.lengths,
        lam_range=args.lam_range,
        recipe=args.recipe,
        **_options(args),
    )
    if args.weights == "float16":
        router = router.to_float16()
    elif args.weights == "bfloat16":
        router = router.to_bfloat16()
    router.save(args.out)
    record = router.training
    sizes = router.parameters
    _say(
        args,
        f"wrote {args.out}: {sizes['gate']:,} gate and {sizes['teacher']:,} teacher parameters, "
        f"fitted on {record['n_train']} queries, checkpoints chosen on {record['n_holdout']}; "
        f"next: cr2fast calibrate {args.out} --data {args.data}",
    )
    if not router.encoder.sha256:
        _say(args, f"encoder {router.encoder.id}: {_NAME_ALONE}; pass --encoder to record it")
    return {"router": str(args.out), "parameters": router.parameters, "training": record}


def distill_encoder(args: argparse.Namespace) -> Any:
    """Make a static encoder and write it."""
    from cr2fast.encoders.distill import distill

    _writable(args.out)
    texts: list[str] = []
    if args.data:
        if len(args.split) != 3:
            raise Cr2Error(f"split: expected three fractions, got {args.split}")
        from cr2fast.data.datasets import load_folder

        train = load_folder(args.data).table.split(args.split, args.split_seed)[0]
        texts = train.extra.get("text", [])
        if not texts:
            raise Cr2Error(f"data: expected a column `text` in the queries of {args.data}")
    encoder = _encoder(args.encoder)
    options = {"dim": args.dim, "sif": args.sif, "ridge": args.ridge}
    made = distill(encoder, texts, threads=args.threads, progress=not args.json, **options)
    made.save(args.out)
    size = args.out.stat().st_size
    _say(
        args,
        f"wrote {args.out}: {made.info.id}, {size / 1e6:.1f} MB, from {len(texts)} texts; next: "
        f"cr2fast fit --data DIR --encoder {args.out} --embed",
    )
    return {"encoder": made.info._asdict(), "file": str(args.out), "bytes": size,
            "record": json.loads(made.record)}  # fmt: skip


def calibrate(args: argparse.Namespace) -> Any:
    """Set thresholds on the second part."""
    from cr2fast.router import Router

    router = Router.load(args.router)
    costs, part = _part(args, 1)
    result = router.calibrate(
        part,
        costs,
        alphas=args.alphas,
        lams=args.lams,
        reference=args.reference,
        on_infeasible=args.on_infeasible,
        simultaneous=args.delta is not None,
        **({} if args.delta is None else {"delta": args.delta}),
        seed=args.seed,
    )
    out = args.out or args.router
    router.save(out)
    _say(args, f"wrote {out}: {len(result.lams)} x {len(result.alphas)} operating points from "
               f"{result.n} queries\n{result.statement}")  # fmt: skip
    return {"router": str(out), "calibration": result.to_dict()}


def evaluate(args: argparse.Namespace) -> Any:
    """Route the third part and count."""
    from cr2fast.evaluation import evaluate as run_evaluation
    from cr2fast.evaluation import report
    from cr2fast.router import Router

    costs, part = _part(args, 2)
    result = run_evaluation(
        Router.load(args.router),
        part,
        costs,
        seed=args.seed,
        lengths=args.lengths,
        deferred=args.deferred,
        fallback=args.fallback,
    )
    # Without --alpha: the calibrated level nearest to the usual one.
    nearest = result.alphas[np.abs(result.alphas - 0.01).argmin()]
    alpha = float(nearest) if args.alpha is None else args.alpha
    text = report.table(result, alpha)
    _say(args, f"{result.lengths} lengths, alpha = {alpha:g}, {result.n} test queries")
    _say(args, text)
    _say(args, report.compatibility(result))
    _say(args, result.statement)
    if args.plots:
        files = report.write(args.plots, {result.lengths: result}, {})
        _say(args, "wrote " + ", ".join(str(f) for f in files))
    return result.to_dict()


def _embeddings(path: Path) -> np.ndarray[Any, Any]:
    """(N, d) of a .npy file; anything else in it is refused."""
    try:
        with path.open("rb") as file:
            x = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise Cr2Error(f"embeddings: expected a .npy file, got {path}: {error}") from error
    if x.ndim not in (1, 2):
        raise Cr2Error(f"embeddings: expected shape (N, d) or (d,), got {x.shape}")
    return np.atleast_2d(x)


def route(args: argparse.Namespace) -> Any:
    """Decide for texts, or for the embeddings of a file."""
    from cr2fast.calibration import threshold_word

    if args.text and not args.encoder:
        raise Cr2Error("text: expected it with --encoder SOURCE, the router's encoder")
    if args.text:
        encoder = _encoder(args.encoder)
        device = DeviceRouter.load(args.router, args.lam, args.alpha, encoder.info)
        x = encoder.encode(args.text)
    else:
        x = _embeddings(args.embeddings)
        device = DeviceRouter.load(args.router, args.lam, args.alpha)
    margins = device.margins(x)
    rows: list[dict[str, Any]] = []
    edge = None
    state = LinkState(args.rate_ul_bps, args.rate_dl_bps, args.rtt_s)
    if args.n_input_tokens is not None:
        edge = EdgeSelector.load(args.router, args.lam)
    for i, margin in enumerate(margins.tolist()):
        row: dict[str, Any] = {
            "row": i,
            "local": margin >= device.threshold,
            "margin": margin,
            "threshold": threshold_word(device.threshold),
            "lam": device.lam,
            "alpha": device.alpha,
        }
        if edge is not None and not row["local"]:
            chosen = edge.select(x[i], args.n_input_tokens, state)
            row |= {"model": chosen.model, "accuracy": chosen.accuracy, "cost": chosen.cost}
        rows.append(row)
        place = "local" if row["local"] else row.get("model", "edge")
        _say(args, f"{i}\t{place}\tmargin {margin:+.4f}\tthreshold {device.threshold:+.4f}")
    return rows


def inspect(args: argparse.Namespace) -> Any:
    """Say what a router file holds."""
    from cr2fast.calibration import threshold_words
    from cr2fast.router import Router

    router = Router.load(args.router)
    calibration = router.calibration
    if calibration is not None:
        calibration["thresholds"] = threshold_words(calibration["thresholds"])
        del calibration["quantiles"]
    info: dict[str, Any] = {
        "file": str(args.router),
        "bytes": args.router.stat().st_size,
        "models": list(router.models),
        "encoder": router.encoder._asdict(),
        "dim": router.dim,
        "parameters": router.parameters,
        "weights": router.weights,
        "cost_table": {"source": router.costs.source, "sha256": router.costs.sha256},
        "calibration": calibration,
        "statement": router.statement,
        "training": router.training,
    }
    lines = [
        f"{args.router}: {info['bytes'] / 1e6:.2f} MB",
        f"models       {', '.join(router.models)} (the first is the device's)",
        f"encoder      {router.encoder.id} {router.encoder.sha256[:12]} ({router.dim} numbers)"
        + ("" if router.encoder.sha256 else f"; {_NAME_ALONE}"),
        "parameters   "
        + ", ".join(f"{k} {v:,}" for k, v in router.parameters.items())
        + f"; {router.weights} weights",
        f"cost table   {router.costs.source}, sha256 {router.costs.sha256[:12]}",
    ]
    if calibration is None:
        lines.append("calibration  none yet: run cr2fast calibrate")
    else:
        lams, alphas = calibration["lams"], calibration["alphas"]
        lines += [
            f"calibration  N = {calibration['n']}, reference {calibration['reference']}, "
            f"{calibration['lengths']} lengths",
            f"lam          {' '.join(f'{v:g}' for v in lams)}",
            f"alpha        {' '.join(f'{v:g}' for v in alphas)}",
            f"promise      {router.statement}",
        ]
    _say(args, "\n".join(lines))
    return info
