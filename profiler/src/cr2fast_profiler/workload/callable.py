"""A model in this process: any generator of text pieces.

In: ``module:function``, called as ``function(prompt, max_tokens)``; it yields the answer piece by
piece and returns ``{"prompt_tokens": L_in, "completion_tokens": L_out}``. Out: the same
:class:`Exchange` an endpoint gives.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator
from typing import Any

from cr2fast_profiler.clock import SYSTEM, Now
from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.redact import Secrets, printable
from cr2fast_profiler.workload.answer import Answer
from cr2fast_profiler.workload.exchange import Exchange, Rejected, RejectedRequest

Generate = Callable[[str, int], Generator[str, None, dict[str, Any]]]


class InProcess:
    """A model called in this process.

    Parameters
    ----------
    generate : callable
        ``generate(prompt, max_tokens)``, see the module.
    name : str
        The model's name in the cost table.
    clock : callable
        Nanoseconds, monotonic.
    """

    def __init__(self, generate: Generate, name: str, *, clock: Now = SYSTEM) -> None:
        self._generate, self.name, self.clock = generate, name, clock

    @classmethod
    def load(cls, spec: str, name: str) -> InProcess:
        """From ``module:function``."""
        module, colon, function = spec.partition(":")
        if not (module and colon and function):
            raise EndpointError(f"callable: expected module:function, got {spec!r}")
        if "" not in sys.path:
            sys.path.insert(0, "")  # a module in the current folder, as `python -m` would see it
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise EndpointError(f"callable {spec!r}: {error}") from error
        if not callable(found):
            raise EndpointError(f"callable {spec!r} is a {type(found).__name__}, not a function")
        return cls(found, name)

    def describe(self) -> dict[str, object]:
        """The function's name."""
        function = self._generate
        where = f"{function.__module__}:{getattr(function, '__qualname__', '?')}"
        return {"kind": "callable", "function": where, "model": self.name}

    def close(self) -> None:
        """Nothing is held."""

    def generate(self, prompt: str, max_tokens: int) -> Exchange:
        """Ask once; see :class:`Exchange`."""
        answer = Answer()
        start_ns = self.clock()
        pieces: Any = None
        while True:
            try:
                pieces = iter(self._generate(prompt, max_tokens)) if pieces is None else pieces
                piece = next(pieces)
            except StopIteration as stop:
                answer.usage = stop.value if isinstance(stop.value, dict) else None
                break
            except Exception as error:
                said = Secrets().scrub(f"{type(error).__name__}: {error}")
                raise RejectedRequest(Rejected.CUT_OFF, printable(said)) from error
            if not isinstance(piece, str):
                raise RejectedRequest(
                    Rejected.MALFORMED, f"expected pieces of str, got {type(piece).__name__}"
                )
            if piece:
                answer.times.append(self.clock())
                answer.pieces.append(piece)
        answer.finish_reason, answer.end_ns = "end", self.clock()
        return answer.exchange(start_ns, max_tokens)
