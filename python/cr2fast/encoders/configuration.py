"""What a sentence-transformers folder says about its encoder, beyond the network and its tokenizer.

In: the JSON files of such a folder, where there are any. Out: :class:`Configuration`.

`modules.json` lists what a text goes through; a Transformer, one Pooling, and perhaps Normalize are
what this package computes. Anything else is refused: a vector without its Dense layer or its prompt
would look right and be another. A folder without these files is what it always was here: the mean
over tokens, normalised.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cr2fast._core import Cr2Error

# Reads one file of the folder, by its relative path; None where there is no such file.
Reader = Callable[[str], "Path | None"]

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
TOKENIZER_CONFIG, NETWORK = "tokenizer_config.json", "config.json"
POOLING = "1_Pooling/config.json"
SENTENCE = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Their names in a Pooling module's configuration, and here.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
SUPPORTED = ("mean", "cls", "max", "mean_sqrt_len", "last")
_MAX_BYTES = 1 << 20
# What this package reads of a text at most, whatever a model could.
MAX_TOKENS = 512


class Configuration(NamedTuple):
    """What a folder says.

    Attributes
    ----------
    pooling : str
        One of :data:`SUPPORTED`.
    normalize : bool
        Whether vectors are scaled to unit length.
    lower_case : bool
        Whether texts are lower-cased before the tokenizer.
    max_tokens : int or None
        The longest text, special tokens included; None where nothing says.
    width : int or None
        The embedding width that the pooling expects.
    bert : tuple of (str, bool)
        What `tokenizer_config.json` says of BERT's normalizer, to compare with `tokenizer.json`.
    """

    pooling: str = "mean"
    normalize: bool = True
    lower_case: bool = False
    max_tokens: int | None = None
    width: int | None = None
    bert: tuple[tuple[str, bool], ...] = ()

    def settings(self) -> dict[str, Any]:
        """What joins the fingerprint; with the defaults, what always did."""
        out: dict[str, Any] = {"pooling": self.pooling}
        if not self.normalize:
            out["normalize"] = False
        if self.lower_case:
            out["lower_case"] = True
        return out


def read(file: Reader, modules_beside: tuple[str, ...] = ()) -> Configuration:
    """Read a folder's configuration.

    Parameters
    ----------
    file : callable
        Finds a file of the folder by its relative path.
    modules_beside : tuple of str
        Names of the folder's subfolders: without `modules.json` they tell of modules.

    Raises
    ------
    Cr2Error
        A file that is damaged, or a configuration that is not supported.
    """
    modules = _json(file, MODULES, list)
    if modules is None:
        transformer, pooling, normalize = "", POOLING, True
        if odd := [m for m in modules_beside if _kind_of_folder(m) not in _KNOWN_FOLDERS]:
            named = f"a file that says what the folder {odd[0][:80]!r} is for"
            raise _unsupported(MODULES, named, "no such file")
    else:
        transformer, pooling, normalize = _modules(modules)
    mode, width = _pooling(_json(file, pooling, dict), pooling, required=modules is not None)
    _no_prompt(_json(file, PROMPTS, dict) or {})
    sentence: dict[str, Any] = {}
    for name in SENTENCE:
        if (found := _json(file, _join(transformer, name), dict)) is not None:
            sentence = found
            break
    lower = _typed(sentence, "do_lower_case", bool, SENTENCE[0]) or False
    tokenizer = _json(file, _join(transformer, TOKENIZER_CONFIG), dict) or {}
    network = _json(file, _join(transformer, NETWORK), dict) or {}
    longest = _typed(sentence, "max_seq_length", int, SENTENCE[0])
    limits = [
        _typed(tokenizer, "model_max_length", int, TOKENIZER_CONFIG),
        _typed(network, "max_position_embeddings", int, NETWORK),
    ]
    known = [n for n in (longest, *limits) if n is not None]
    for n in known:
        if n < 4:
            raise _unsupported("the configuration", "a maximal length of at least 4 tokens", str(n))
    # As sentence-transformers: its own length, or else the least that network and tokenizer allow.
    if longest is None and not sentence:
        known = [*known, 256] if known else []
    chosen = min(known, default=None) if longest is None else longest
    return Configuration(
        pooling=mode,
        normalize=normalize,
        lower_case=lower,
        max_tokens=None if chosen is None else min(chosen, MAX_TOKENS),
        width=width,
        bert=tuple(
            (ours, value)
            for theirs, ours in _BERT.items()
            if (value := _typed(tokenizer, theirs, bool, TOKENIZER_CONFIG)) is not None
        ),
    )


_BERT = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_KNOWN_FOLDERS = ("Transformer", "Pooling", "Normalize", None)


def _kind_of_folder(name: str) -> str | None:
    """`Dense` of a folder `2_Dense`; None of a folder that is no module's."""
    number, _, kind = name.partition("_")
    return kind if number.isdecimal() and kind else None


def _modules(modules: list[Any]) -> tuple[str, str, bool]:
    """Folder of the transformer, the pooling's configuration, whether vectors are normalised."""
    kinds, paths = [], []
    for module in modules:
        kind = module.get("type") if isinstance(module, dict) else None
        path = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not isinstance(path, str):
            raise _unsupported(MODULES, "modules, each with a type and a path", repr(module)[:120])
        if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/"):
            raise _unsupported(MODULES, "paths inside the folder", repr(path)[:120])
        ours = kind.startswith("sentence_transformers.")
        kinds.append(kind.rpartition(".")[2] if ours else kind)
        paths.append(path)
    if kinds[:2] != ["Transformer", "Pooling"] or any(k != "Normalize" for k in kinds[2:]):
        raise _unsupported(
            MODULES, "the modules Transformer, Pooling and perhaps Normalize", str(kinds)[:120]
        )
    return paths[0], _join(paths[1], "config.json"), len(kinds) > 2


def _pooling(config: Any, name: str, *, required: bool) -> tuple[str, int | None]:
    if config is None:
        if required:
            raise _unsupported(name, "the Pooling module's configuration", "no such file")
        return "mean", None
    width = _typed(config, "word_embedding_dimension", int, name)
    if width is None:
        width = _typed(config, "embedding_dimension", int, name)
    # A mode that a file leaves out is off, unless it names none at all.
    flags = {k: v for k, v in config.items() if k.startswith("pooling_mode_")}
    if odd := [k for k, v in flags.items() if k not in MODES or not isinstance(v, (bool, int))]:
        raise _unsupported(name, f"true or false for {', '.join(MODES)}", odd[0][:80])
    modes: Any = [MODES[k] for k, v in flags.items() if v]
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        named = named if isinstance(named, list) else [named]
        modes = ["last" if m == "lasttoken" else m for m in named]
    elif not flags:
        modes = ["mean"]
    if len(modes) != 1 or modes[0] not in SUPPORTED:
        raise _unsupported(name, f"one pooling of {', '.join(SUPPORTED)}", str(modes)[:120])
    return modes[0], width


def _no_prompt(config: dict[str, Any]) -> None:
    """Refuse a prompt that every text would start with."""
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if name is None:
        return
    if not isinstance(prompts, dict) or prompts.get(name) != "":
        raise _unsupported(PROMPTS, "no default prompt", f"default_prompt_name {name!r}"[:120])


def _json(file: Reader, name: str, kind: type) -> Any:
    """The content of a JSON file, or None where there is none."""
    path = file(name)
    if path is None:
        return None
    with path.open("rb") as opened:
        raw = opened.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise _unsupported(name, f"at most {_MAX_BYTES} bytes", "more")
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _unsupported(name, "JSON", str(error)[:120]) from None
    if not isinstance(value, kind):
        what = "a list" if kind is list else "an object"
        raise _unsupported(name, what, type(value).__name__)
    return value


def _typed(config: dict[str, Any], key: str, kind: type, name: str) -> Any:
    """A field's value, None where it is absent or null."""
    value = config.get(key)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # transformers writes its "no limit" as 1e30.
    if value is None or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
        return value
    what = "a whole number" if kind is int else "true or false"
    raise _unsupported(name, f"{what} for {key}", repr(value)[:80])


def _join(folder: str, name: str) -> str:
    folder = folder.strip("/")
    return f"{folder}/{name}" if folder and folder != "." else name


def _unsupported(name: str, expected: str, got: str) -> Cr2Error:
    return Cr2Error(f"encoder: {name}: expected {expected}, got {got}")
