"""Old names of things that were renamed: each still works for one minor version, and says so.

In: the new name. Out: the same thing under the old one, with a DeprecationWarning.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_UNTIL = "0.2"


def words(old: str, new: str) -> str:
    """What a user of an old name is told."""
    return f"{old} is now {new}; the old name goes in version {_UNTIL}"


def say(old: str, new: str) -> None:
    """Warn whoever called the function that calls this that `old` is now `new`."""
    warnings.warn(words(old, new), DeprecationWarning, stacklevel=3)


def keywords(**old_to_new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function also takes keywords under their old names."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> R:
            for old in old_to_new.keys() & kwargs.keys():
                new = old_to_new[old]
                if new in kwargs:
                    raise TypeError(f"{old}: expected {new} only, got both; they are one keyword")
                say(f"{old}=", f"{new}=")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapper

    return decorate


def attribute(old: str, new: str) -> property:
    """A read-only attribute that gives the value of `new`."""

    def get(self: Any) -> Any:
        kind = type(self).__name__
        say(f"{kind}.{old}", f"{kind}.{new}")
        return getattr(self, new)

    return property(get, doc=f"The old name of :attr:`{new}`.")


def method(old: str, new: str) -> Callable[..., Any]:
    """A method that calls `new`."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        kind = type(self).__name__
        say(f"{kind}.{old}", f"{kind}.{new}")
        return getattr(self, new)(*args, **kwargs)

    call.__name__, call.__doc__ = old, f"The old name of :meth:`{new}`."
    return call


class Names(dict[str, Any]):
    """A dictionary that also answers to its keys' old names.

    Parameters
    ----------
    values : dict
    old_to_new : dict of str to str
    """

    def __init__(self, values: dict[str, Any], old_to_new: dict[str, str]) -> None:
        super().__init__(values)
        self._old = old_to_new

    def __missing__(self, key: str) -> Any:
        if key not in self._old:
            raise KeyError(key)
        say(f"[{key!r}]", f"[{self._old[key]!r}]")
        return self[self._old[key]]


def both_names(document: dict[str, Any], **old_to_new: str) -> dict[str, Any]:
    """A document for JSON, whose readers cannot be warned: old keys beside the new ones."""
    return document | {old: document[new] for old, new in old_to_new.items()}


class _Moved(MetaPathFinder, Loader):
    """Finds modules under the names they had before they moved."""

    def __init__(self, package: str, old_to_new: dict[str, str]) -> None:
        self._new = {f"{package}.{old}": f"{package}.{new}" for old, new in old_to_new.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._new else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        warnings.warn(words(old, self._new[old]), DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(self._new[old])


def modules(package: str, **old_to_new: str) -> None:
    """Let modules of `package` that moved be imported under their old names too."""
    sys.meta_path.append(_Moved(package, old_to_new))
