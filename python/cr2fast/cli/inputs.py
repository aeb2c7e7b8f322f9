"""What several commands share: how their arguments name data, encoders and files.

In: parsed arguments. Out: tables, encoders, checked paths; or an error in the words of the flags.
Heavy imports are inside: ``cr2fast route`` on a device must need only numpy.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import explained, shown
from cr2fast.cli.options import PARTS

# The bearer token of an embeddings endpoint.
TOKEN_ENV = "CR2FAST_ENCODER_TOKEN"
UNKNOWN_HASH = "its files are not known, so encoders are compared by name only"


def problem(args: argparse.Namespace) -> Any:
    """Table and costs of ``--data`` or ``--log``, with the encoder that ``--encoder`` names.

    The models of a log are those of the router, where a command has one, and so are its costs.
    """
    from cr2fast.data.datasets import load_folder
    from cr2fast.encoders.info import EncoderInfo
    from cr2fast.router import Router

    if args.embed and not args.encoder:
        raise Cr2Error("--embed needs --encoder SOURCE, the encoder to embed the texts with")
    if getattr(args, "log", None) is not None:
        router = Router.load(args.router) if hasattr(args, "router") else None
        return _logged(args, router)
    for flag in ("local", "edge", "column"):
        if getattr(args, flag, None):
            raise Cr2Error(f"--{flag} is for --log FILE; with --data the cost table names models")
    source = _maker(args) if args.encoder else EncoderInfo(args.encoder_id or "unknown")
    return load_folder(args.data, args.costs, source, embed=args.embed, **making(args))


def making(args: argparse.Namespace) -> dict[str, Any]:
    """Where new embeddings are kept, and how their progress shows."""
    if args.no_cache and args.cache:
        raise Cr2Error("--no-cache and --cache DIR: expected one of them, got both")
    return {"cache": args.cache or not args.no_cache, "progress": progress(args)}


def _logged(args: argparse.Namespace, router: Any) -> Any:
    """Table and costs of ``--log``."""
    from cr2fast.data import calls, names, source
    from cr2fast.data.datasets import RoutingProblem, read_costs
    from cr2fast.data.table import RoutingTable

    if args.encoder_id:
        raise Cr2Error("--encoder-id is for --data DIR; a log's prompts are embedded by --encoder")
    raw = source.frame(args.log, "log")
    if "schema" in raw.columns and raw["schema"][:1].to_list() == ["cr2fast.decision_log/1"]:
        raise Cr2Error(
            f"--log: expected a log of calls, a row per model and prompt with its score, got "
            f"{args.log}, a gateway's decision log, which has no scores: cr2fast replay, "
            f"recalibrate and watch read it, and cr2fast calibrate --queries takes its requests"
        )
    columns = dict(args.column)
    costs = read_costs(args.costs) if args.costs else None
    if router is not None:
        if args.local or args.edge:
            raise Cr2Error("--local, --edge: the router names its models; leave them out")
        local, edge = router.models[0], list(router.models[1:])
        costs = costs or router.costs
    else:
        local, edge = models(args, calls.read(raw, columns, ("model", "score", "text")), costs)
    # What is quick to check comes before the embeddings.
    if costs is None:
        costs = _billed(args, raw, local, edge)
    made = _maker(args) if args.encoder else encoder_of(router)
    known = (columns.get("embedding"), *names.GUESSES["embedding"])
    theirs = [c for c in raw.columns if c in known]
    if args.embed:
        raw = raw.drop(theirs)
        columns.pop("embedding", None)
    table = RoutingTable.read_log(
        raw, local=local, edge=edge, columns=columns, encoder=made, **making(args)
    )
    for text in table.notes:
        note(args, f"{args.log}: {text}")
    return RoutingProblem(table, costs)


def _billed(args: argparse.Namespace, raw: Any, local: str, edge: list[str]) -> Any:
    """The cost table that the log's dollars and seconds tell, and what they do not, said aloud."""
    from cr2fast._core import CostTable

    try:
        costs = CostTable.from_log(raw, local=local, edge=edge, columns=dict(args.column))
    except Cr2Error as error:
        raise Cr2Error(f"{error}; or give prices of your own: --costs FILE") from None
    for text in costs.notes:
        note(args, f"costs: {text}")
    shares = ", ".join(f"{k} {v:g}" for k, v in costs.shares.items() if v)
    note(args, f"costs: read off {args.log} (shares: {shares}); others: --costs FILE")
    return costs


def models(args: argparse.Namespace, frame: Any, costs: Any = None) -> tuple[str, list[str]]:
    """The local model and the edge models of a log: named, of the cost table, or guessed aloud."""
    from cr2fast.data import answered

    if costs is not None and not (args.local or args.edge):
        return costs.models[0], costs.models[1:]
    local = args.local
    if local is None:
        local, why = answered.weakest(frame)
        note(
            args,
            f"--local not given: {local}, {why}, is taken for the device's model; name another "
            f"with --local MODEL",
        )
    edge = args.edge or answered.others(frame, local)
    answered.check_models(frame, (local, *edge))
    return local, edge


def encoder_of(router: Any) -> Any:
    """MiniLM, where that made the router's embeddings: its name need not be typed again."""
    if router is None:
        return None
    try:
        # To load it takes a second.
        found = encoder("minilm") if "MiniLM" in router.encoder.id else None
    except (ImportError, OSError):
        return router.encoder
    return found if found is not None and found.info == router.encoder else router.encoder


def queries(args: argparse.Namespace, router: Any) -> Any:
    """The queries without answers of ``--queries``."""
    from cr2fast.data.queries import QueryTable

    if args.embed and not args.encoder:
        raise Cr2Error("--embed needs --encoder SOURCE, the encoder to embed the texts with")
    made = _maker(args) if args.encoder else encoder_of(router)
    found = QueryTable.read(
        args.queries,
        encoder=made,
        columns=dict(args.column),
        incomplete="drop",
        embed=args.embed,
        **making(args),
    )
    found = _as_routed(args, found, router)
    for text in found.notes:
        note(args, f"{args.queries}: {text}")
    return found


def _as_routed(args: argparse.Namespace, found: Any, router: Any) -> Any:
    """The queries that this router can read: rows of its own log, or such as have what it needs."""
    features, texts = router.features, found.extra.get("text") or [None] * len(found)
    width = found.embeddings.shape[1]
    there = np.array([t is not None for t in texts], bool)
    logged = "router" in found.extra and "margin" in found.extra
    strange = logged and not there.any() and set(found.extra["router"]) - {router.sha256}
    if logged and (width > router.dim or (features and width == router.dim and strange)):
        raise Cr2Error(
            f"--queries: expected prompts, embeddings, or the decision log of this router, got "
            f"{args.queries}, that of another ({width} numbers per row): cr2fast recalibrate LOG "
            f"--logged-by THAT --router THIS makes thresholds of it"
        )
    if features is None or not features["text"] or width == router.dim:
        return found
    if there.all() or not there.any():
        return found
    note(
        args,
        f"{args.queries}: {int((~there).sum())} rows without a text left out, since this router "
        f"looks at the text; the promise is about queries like the others",
    )
    return found.take(there)


class _Texts:
    """Stands for an encoder where only texts are wanted."""

    def __init__(self) -> None:
        from cr2fast.encoders.info import EncoderInfo

        self.info = EncoderInfo("none")

    def encode(self, texts: Any, threads: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.zeros((len(texts), 1), dtype=np.float32)

    def count_tokens(self, text: str) -> int:
        return 0


def training_texts(args: argparse.Namespace) -> list[str]:
    """The prompts of the training part of ``--data`` or ``--log``; none without either."""
    from cr2fast.data import calls
    from cr2fast.data.datasets import load_folder
    from cr2fast.data.queries import QueryTable

    maker: Any = _Texts()
    table: Any
    if args.log is not None:
        said = calls.read(args.log, dict(args.column), ("text",))["text"]
        prompts = said.drop_nulls().unique(maintain_order=True).to_list()
        table = QueryTable.read(prompts, encoder=maker, cache=False, progress=False)
    elif args.data is not None:
        table = load_folder(args.data, None, maker, embed=True, cache=False, progress=False).table
    else:
        return []
    texts: list[str] = part(args, table, "training").extra["text"]
    return texts


def encoder(source: str, router: Path | None = None) -> Any:
    """A static encoder of a file, an encoder of a folder or of a name, or an endpoint's.

    An endpoint stands for the encoder of `router` where that has probes.
    """
    from cr2fast._core import ArtifactError, StaticEncoder

    if source.startswith(("http://", "https://")):
        from cr2fast.encoders.endpoint import EndpointEncoder
        from cr2fast.router import Router

        url, _, model = source.partition("#")
        if not model:
            raise Cr2Error(
                f"--encoder: expected URL#MODEL, such as http://127.0.0.1:8081/v1#minilm, got "
                f"{source[:200]}"
            )
        known = None if router is None else Router.load(router)
        token_env = TOKEN_ENV if os.environ.get(TOKEN_ENV) else None
        probed = known if known is not None and known.probes is not None else None
        return EndpointEncoder(url, model, router=probed, token_env=token_env)
    if Path(source).is_file():
        try:
            return StaticEncoder.load(source)
        except ArtifactError as error:
            raise ArtifactError(f"--encoder: {source[:200]}: {error}") from None
    from cr2fast.encoders.onnx import Encoder

    return Encoder.load(source)


def _maker(args: argparse.Namespace) -> Any:
    """The encoder that ``--encoder`` names, as the command's router knows it."""
    return encoder(args.encoder, getattr(args, "router", None))


def probed(args: argparse.Namespace, router: Any) -> Any:
    """The router with probes of its encoder, where that is at hand and no file's hash is enough."""
    from cr2fast._core import StaticEncoder

    made = encoder(args.encoder) if args.encoder else None
    if made is None or isinstance(made, StaticEncoder) or router.probes is not None:
        return router
    return router.with_probes(made)


def part(args: argparse.Namespace, table: Any, name: str) -> Any:
    """The part of the data that a command may see, by its name in :data:`options.PARTS`."""
    names = [p for p in PARTS if len(args.split) == len(PARTS) or p != "validation"]
    if len(args.split) != len(names):
        raise Cr2Error(
            f"--split: expected three fractions, or four with one for validation, got "
            f"{len(args.split)}"
        )
    if name not in names:
        raise Cr2Error(
            f"--split: expected four fractions, of which the third is {name}, got {len(names)}"
        )
    logged = getattr(args, "log", None) is not None
    cut = table.split_by_content if logged else table.split
    try:
        return cut(args.split, args.split_seed)[names.index(name)]
    except Cr2Error as error:
        if str(error).startswith("seed: "):
            raise Cr2Error(f"--split-{error}") from None
        raise


def given(args: argparse.Namespace, encoder: str | None = None, embed: bool = False) -> str:
    """The flags that name the data, for the next command, and perhaps another encoder."""
    logged = getattr(args, "log", None) is not None
    words = ["--log", str(args.log)] if logged else ["--data", str(args.data)]
    for ours, theirs in getattr(args, "column", []):
        words += ["--column", f"{ours}={theirs}"]
    encoder = encoder or args.encoder
    if encoder:
        words += ["--encoder", str(encoder)]
    elif args.encoder_id:
        words += ["--encoder-id", args.encoder_id]
    return shlex.join([*words, "--embed"] if embed or getattr(args, "embed", False) else words)


def features(args: argparse.Namespace) -> bool | list[str] | None:
    """What `--features` asks for; None where it is not given."""
    words = args.features
    if words is None:
        return None
    names = [word.strip() for word in words.split(",")]
    if not all(names) or ("none" in names and len(names) > 1):
        raise Cr2Error(
            f"--features: expected none, or text and names of columns separated by commas, got "
            f"{shown(words)}"
        )
    return False if names == ["none"] else names


def hyperparameters(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a fit that were given."""
    names = ("teacher_epochs", "gate_epochs", "smoother_share", "link_features")
    return {n: v for n in names if (v := getattr(args, n, None)) is not None}


def writable(path: Path, flag: str = "--out") -> None:
    """Refuse, before long work, an output that cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{flag}: expected a file in an existing folder, got {path}")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(f"{flag}: expected a file that can be written, got {path}")
    if path.exists() and not path.is_file():
        raise Cr2Error(f"{flag}: expected a regular file, got {path}, a pipe, socket or device")


def writable_folder(flag: str, path: Path) -> None:
    """Refuse, before long work, a folder that cannot be made or written to."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(f"{flag}: expected a folder that can be written, got {path}")


def progress(args: argparse.Namespace) -> Any:
    """How to show progress: bars on a terminal, a line now and then elsewhere; none with --json."""
    if args.json:
        return False
    return True if sys.stderr.isatty() else "lines"


def embeddings(path: Path) -> np.ndarray[Any, Any]:
    """(N, d) of a .npy file; anything else in it is refused."""
    try:
        with path.open("rb") as file:
            x = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise Cr2Error(
            f"--embeddings: expected a .npy file, got {path}: {explained(error)}"
        ) from error
    if x.ndim not in (1, 2):
        raise Cr2Error(f"--embeddings: expected shape (N, d) or (d,), got {x.shape}")
    return np.atleast_2d(x)


def check_rows(args: argparse.Namespace, x: np.ndarray[Any, Any]) -> None:
    """Refuse embeddings only where the router also looks at features."""
    from cr2fast.features import looks_at
    from cr2fast.router import Router

    router = Router.load(args.router)
    if router.features is not None and x.shape[1] == router.embedding_dim:
        text = "use --text with --encoder, " if not router.features["columns"] else ""
        raise Cr2Error(
            f"--embeddings: expected rows of {router.dim} numbers, got embeddings only "
            f"({x.shape[1]}): this router also looks at {looks_at(router.features)}; {text}"
            f"write rows of Router.inputs to the file, or fit with --features none for a router "
            f"that looks at embeddings only"
        )


def say(args: argparse.Namespace, text: str) -> None:
    """Text for people, on stdout; none where stdout carries the same as JSON."""
    if not args.json:
        _print(args, text, sys.stdout)


def note(args: argparse.Namespace, text: str) -> None:
    """What no document says and people must know: beside the JSON, on stderr."""
    _print(args, text, sys.stderr if args.json else sys.stdout)


def _print(args: argparse.Namespace, text: str, stream: Any) -> None:
    """Print; a command that writes a file writes it although nobody listens (`| head`)."""
    if getattr(args, "unheard", None) is not None:
        return
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if not (hasattr(args, "out") or any(getattr(args, n, None) for n in ("write", "plots"))):
            raise
        args.unheard = error
