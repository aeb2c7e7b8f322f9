"""Import a module that an extra brings, or say how to install it."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an ImportError that names the extra.

    Parameters
    ----------
    module : str
        What to import.
    extra : str
        The extra of cr2fast that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]} is needed here and is not installed: "
            f"run pip install 'cr2fast[{extra}]'"
        ) from error
