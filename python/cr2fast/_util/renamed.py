"""Old names of things that were renamed: each still works for one minor version, and says so.

In: the new name. Out: the same thing under the old one, with a DeprecationWarning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
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
