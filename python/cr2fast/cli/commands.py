"""What the commands do. Each takes the parsed arguments and returns what ``--json`` prints.

Heavy imports are inside: ``cr2fast route`` on a device must need only numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from cr2fast._core import Cr2Error, usual_alpha
from cr2fast._util import renamed
from cr2fast._util.checks import shown, some
from cr2fast._util.optional import require
from cr2fast.cli import choosing, inputs
from cr2fast.cli.options import PARTS


def demo(args: argparse.Namespace) -> Any:
    """Fit, calibrate, save, load, route, evaluate, plot."""
    from cr2fast.cli import demo as demonstration
    from cr2fast.data.datasets import make_routing_problem

    if args.costs and not args.data:
        raise Cr2Error("--costs needs --data DIR, the folder with queries and outcomes")
    args.data = args.data or (Path(p) if (p := os.environ.get("CR2FAST_DATA")) else None)
    if args.encoder and args.data is None:
        raise Cr2Error("--encoder needs data: pass --data DIR, or set CR2FAST_DATA")
    if args.download and args.data is not None:
        raise Cr2Error(
            f"--download is for a demo without data, and there is data in {args.data}: leave out "
            f"--download, or --data and CR2FAST_DATA"
        )
    # What comes last is looked for first: training takes a while.
    require("matplotlib", "lab")
    inputs.writable_folder("--out", args.out)
    if args.download:
        require("pooch", "fetch")
        problem, source = _fetched(), "MMLU-Pro, published answers; costs ESTIMATED"
    elif args.data is None:
        problem, source = make_routing_problem(seed=args.seed), "SYNTHETIC (made up)"
        inputs.note(
            args,
            "No --data and no CR2FAST_DATA: this is a synthetic problem "
            "(cr2fast.datasets.make_routing_problem); its figures say nothing of real models. "
            "For published answers of four of them: cr2fast demo --download "
            "(15 MB, and minutes of embedding, once).",
        )
    else:
        problem, source = inputs.problem(args), str(args.data)
    result = demonstration.run(
        problem,
        args.out,
        source=source,
        lam=args.lam,
        alpha=args.alpha,
        seed=args.seed,
        progress=inputs.progress(args),
        say=lambda text: inputs.say(args, text),
        **inputs.hyperparameters(args),
    )
    inputs.say(args, "\nwrote " + ", ".join(str(f) for f in result.files))
    _say_pages(args)
    modes = {k: e.to_dict() for k, e in result.evaluations.items()}
    return result.summary | {"files": [str(f) for f in result.files], "modes": modes}


def _say_pages(args: argparse.Namespace) -> None:
    """What brings ``report.html``, where it could not be written."""
    from cr2fast.evaluation import report

    if not report.has_pages():
        inputs.note(args, "report.html needs bokeh: run pip install 'cr2fast[report]'")


def _fetched() -> Any:
    """Published answers, embedded by MiniLM, with estimated costs."""
    from cr2fast.data.datasets import RoutingProblem, estimated_costs
    from cr2fast.data.mmlu_pro import fetch_mmlu_pro

    return RoutingProblem(fetch_mmlu_pro(inputs.encoder("minilm")), estimated_costs())


def fit(args: argparse.Namespace) -> Any:
    """Train on the first part of the data and write the router."""
    from cr2fast.fitting import fit as train_router

    inputs.writable(args.out)
    data = inputs.problem(args)
    train = inputs.part(args, data.table, "training")
    router = train_router(
        train,
        data.costs,
        seed=args.seed,
        lengths=args.lengths,
        lam_range=args.lam_range,
        recipe=args.recipe,
        features=inputs.features(args),
        progress=inputs.progress(args),
        **inputs.hyperparameters(args),
    )
    if args.precision == "float16":
        router = router.to_float16()
    elif args.precision == "bfloat16":
        router = router.to_bfloat16()
    router = inputs.probed(args, router)
    router.save(args.out)
    record = router.training
    sizes = router.parameters
    inputs.say(
        args,
        f"wrote {args.out}: {sizes['gate']:,} gate and {sizes['teacher']:,} teacher parameters, "
        f"fitted on {record['n_train']} queries, checkpoints chosen on {record['n_holdout']}; "
        f"{_lam_range(record['lam_range'])}; next: cr2fast calibrate {args.out} "
        f"{inputs.given(args)}",
    )
    if router.features is not None:
        from cr2fast.features import looks_at

        inputs.say(
            args,
            f"looks at {looks_at(router.features)}"
            + (
                ", as fit does by default where every query has a text and the encoder is named; "
                "--features none looks at embeddings only"
                if args.features is None
                else ""
            ),
        )
    elif args.features is None and (words := _without_texts(train)):
        inputs.note(args, words)
    if not router.encoder.sha256 and router.probes is None:
        inputs.say(
            args, f"encoder {router.encoder.id}: {inputs.UNKNOWN_HASH}; pass --encoder to record it"
        )
    return {"router": str(args.out), "parameters": router.parameters, "training": record}


def _without_texts(train: Any) -> str:
    """Why a fit looks at embeddings only, where it is some queries' lack of a text."""
    texts = train.extra.get("text") or []
    lacking = [i for i, t in zip(train.query_ids, texts, strict=False) if t is None]
    if not 0 < len(lacking) < len(train):
        return ""
    return (
        f"looks at embeddings only: {len(lacking)} of {len(train)} training queries have no text "
        f"({some(lacking)}); leave them out of the file for a router that looks at the text too"
    )


def _lam_range(found: dict[str, Any]) -> str:
    """The cost weights of a fit, in words."""
    (first, last), rates = found["local"], [f"{100 * r:.3g} %" for r in found["local_rate"]]
    return (
        f"cost weights {found['low']:g} to {found['high']:g}: {rates[0]} of the queries are better "
        f"off on the device at {first:g}, {rates[1]} at {last:g}"
        + (f" ({found['note']})" if found["note"] else "")
    )


def distill_encoder(args: argparse.Namespace) -> Any:
    """Make a static encoder and write it."""
    from cr2fast._core import StaticEncoder
    from cr2fast.encoders.distill import distill
    from cr2fast.encoders.endpoint import EndpointEncoder

    inputs.writable(args.out)
    encoder = inputs.encoder(args.encoder)
    if isinstance(encoder, (StaticEncoder, EndpointEncoder)):
        raise Cr2Error(
            f"--encoder: expected the model to imitate, minilm or a folder with model.onnx, got "
            f"{shown(args.encoder)}"
        )
    texts = inputs.training_texts(args)
    options = {"dim": args.dim, "sif": args.sif, "ridge": args.ridge}
    made = distill(encoder, texts, threads=args.threads, progress=inputs.progress(args), **options)
    made.save(args.out)
    size = args.out.stat().st_size
    inputs.say(
        args,
        f"wrote {args.out}: {made.info.id}, {size / 1e6:.1f} MB, from {len(texts)} texts; next: "
        f"cr2fast fit {_next_source(args)}",
    )
    return {
        "encoder": made.info._asdict(),
        "file": str(args.out),
        "bytes": size,
        "record": json.loads(made.record),
    }


def _next_source(args: argparse.Namespace) -> str:
    """The flags that name the same data with the encoder that was made of it."""
    if args.log is None and args.data is None:
        return f"--data DIR --encoder {shlex.quote(str(args.out))} --embed"
    return inputs.given(args, str(args.out), embed=True)


def calibrate(args: argparse.Namespace) -> Any:
    """Set thresholds on the second part."""
    from cr2fast.router import Router

    out = args.out or args.router
    inputs.writable(out)
    router = Router.load(args.router)
    if args.queries is not None and args.judge == "outcomes":
        raise Cr2Error(
            "--judge outcomes needs recorded answers, and --queries FILE has none; pass --log FILE "
            "or --data DIR, or --judge teacher"
        )
    if args.queries is not None:
        split, costs = inputs.queries(args, router), None
    else:
        data = inputs.problem(args)
        split, costs = inputs.part(args, data.table, "calibration"), data.costs
    result = router.calibrate(
        split,
        costs,
        alphas=args.alphas,
        lams=args.lams,
        judge=args.judge,
        on_infeasible=args.on_infeasible and args.on_infeasible.replace("-", " "),
        overlap=args.overlap,
        simultaneous=args.delta is not None,
        delta=args.delta,
        defer_atypical=args.defer_atypical,
        groups=args.groups,
        unknown_group=args.unknown_group,
        seed=args.seed,
    )
    router.save(out)
    inputs.say(
        args,
        f"wrote {out}: {len(result.lams)} x {len(result.alphas)} operating points from "
        f"{result.n} queries{_dropped(result.dropped)}\n{result.statement}",
    )
    return {"router": str(out), "calibration": result.to_dict()}


def _dropped(count: int) -> str:
    return f" ({count} left out, used before)" if count else ""


def evaluate(args: argparse.Namespace) -> Any:
    """Route the third part and count."""
    from cr2fast.evaluation import evaluate as run_evaluation
    from cr2fast.evaluation import report
    from cr2fast.router import Router

    if args.plots:
        require("matplotlib", "lab")
        inputs.writable_folder("--plots", args.plots)
    point = choosing.started(args)
    router = Router.load(args.router)
    data = inputs.problem(args)
    test = inputs.part(args, data.table, "test")
    options: dict[str, Any] = {
        "seed": args.seed,
        "lengths": args.lengths,
        "deferred": args.deferred,
        "fallback": args.fallback,
        "overlap": args.overlap,
        "groups": args.groups,
    }
    result = run_evaluation(router, test, data.costs, point=point, **options)
    alpha = usual_alpha(result.alphas) if args.alpha is None else args.alpha
    text = report.table(result, alpha)
    inputs.say(
        args,
        f"{result.lengths} lengths, alpha = {alpha:g}, {result.n} test queries"
        + _dropped(result.dropped),
    )
    inputs.say(args, f"{text}\n{report.words(result)}")
    if point is not None:
        inputs.say(args, f"\nthe chosen point, on these {result.n} queries:")
        inputs.say(args, str(result.at(point.lam, point.alpha)))
    inputs.say(args, report.compatibility(result))
    inputs.say(args, result.statement)
    if args.plots:
        validation = None
        if len(args.split) == len(PARTS):
            # What the page's budgets choose on: queries of no other part.
            held = inputs.part(args, data.table, "validation")
            validation = {result.lengths: run_evaluation(router, held, data.costs, **options)}
        files = report.write(
            args.plots,
            {result.lengths: result},
            {},
            source=str(args.log or args.data),
            validation=validation,
        )
        inputs.say(args, "wrote " + ", ".join(str(f) for f in files))
        _say_pages(args)
    return result.to_dict()


def inspect(args: argparse.Namespace) -> Any:
    """Say what a router file holds."""
    from cr2fast.calibration import threshold_words
    from cr2fast.router import Router

    router = Router.load(args.router)
    calibration = router.calibration
    if calibration is not None:
        calibration = renamed.both_names(calibration, reference="judge")
        calibration["thresholds"] = threshold_words(calibration["thresholds"])
        if groups := calibration["groups"]:
            groups["thresholds"] = [threshold_words(t) for t in groups["thresholds"]]
        del calibration["quantiles"]
    info: dict[str, Any] = {
        "file": str(args.router),
        "bytes": args.router.stat().st_size,
        "models": list(router.models),
        "encoder": router.encoder._asdict(),
        "dim": router.dim,
        "features": router.features,
        "link_features": router.link_features,
        "parameters": router.parameters,
        "precision": router.precision,
        "cost_table": {"source": router.costs.source, "sha256": router.costs.sha256},
        "calibration": calibration,
        "statement": router.statement,
        "training": router.training,
    }
    lines = [
        f"{args.router}: {info['bytes'] / 1e6:.2f} MB",
        f"models       {', '.join(router.models)} (the first is the device's)",
        f"encoder      {router.encoder.id} {router.encoder.sha256[:12]} "
        f"({router.embedding_dim} numbers)"
        + (f"; {len(router.probes['texts'])} probes" if router.probes else "")
        + ("" if router.encoder.sha256 or router.probes else f"; {inputs.UNKNOWN_HASH}"),
        f"features     {', '.join(router.features['names']) if router.features else 'none'}"
        + (f"; the gate sees {', '.join(router.link_features)}" if router.link_features else ""),
        "parameters   " + ", ".join(f"{k} {v:,}" for k, v in router.parameters.items()),
        f"precision    {router.precision}",
        f"cost table   {router.costs.source}, sha256 {router.costs.sha256[:12]}",
    ]
    if calibration is None:
        lines.append("calibration  none yet: run cr2fast calibrate")
    else:
        lams, alphas = calibration["lams"], calibration["alphas"]
        lines += [
            f"calibration  N = {calibration['n']}, judge {calibration['judge']}, "
            f"{calibration['lengths']} lengths",
            f"lam          {' '.join(f'{v:g}' for v in lams)}",
            f"alpha        {' '.join(f'{v:g}' for v in alphas)}",
            f"promise      {router.statement}",
        ]
        if groups:
            sizes = [f"{n} ({size})" for n, size in zip(groups["names"], groups["n"], strict=True)]
            lines.insert(-1, f"groups       {', '.join(sizes)}; unknown: {groups['unknown']}")
    inputs.say(args, "\n".join(lines))
    return renamed.both_names(info, weights="precision")
