"""What a report of a fault should say about the place where it happened."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from cr2fast._core import __version__, simd_isa, thread_count

# What changes how cr2fast behaves, where it is installed.
_PACKAGES = (
    "numpy",
    "polars",
    "pyarrow",
    "onnxruntime",
    "tokenizers",
    "matplotlib",
    "plotly",
    "cr2fast-profiler",
    "cr2fast-gateway",
    "openai",
    "litellm",
)


def show_versions() -> None:
    """Print the versions of cr2fast, Python and what cr2fast uses, for a report of a fault.

    Nothing printed is secret: no path, no host name, no environment but ``CR2FAST_SIMD``.
    """
    lines = {
        "cr2fast": f"{__version__}, {simd_isa()}, {thread_count()} threads",
        "CR2FAST_SIMD": os.environ.get("CR2FAST_SIMD", "not set"),
        "Python": f"{platform.python_version()} ({sys.implementation.name})",
        "platform": platform.platform(),
    }
    lines |= {package: _version(package) for package in _PACKAGES}
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
