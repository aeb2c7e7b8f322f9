"""Where a request goes, and where else if that fails.

In: :class:`~cr2fast.integrations.texts.Asked` and a wish. Out: :class:`Hop`, at most two: the place
that was decided and the other one, with what every answer says about its routing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, EdgeSelector, LinkState, StaticEncoder, TwoStage
from cr2fast._util.checks import check_choice, shown
from cr2fast.integrations.asked import NAME, Wish
from cr2fast.integrations.texts import Asked
from cr2fast.router import Router

Place = Literal["device", "edge"]


@dataclass(frozen=True)
class Routed:
    """How a request was routed; the words are those of the gateway's headers.

    Attributes
    ----------
    request_id : str
    place : {"device", "edge"}
        Where the answer was made.
    model : str
        The model that answered, by its name in the router.
    why : str
        "accepted", "deferred", "direct", "edge-down", "device-down" or "not-text".
    lam, alpha : float or None
        The operating point; None for a request that names a model.
    margin, threshold : float or None
        What was compared; None where no text decided.
    """

    request_id: str
    place: str
    model: str
    why: str
    lam: float | None = None
    alpha: float | None = None
    margin: float | None = None
    threshold: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the gateway would have sent."""
        names = ("request_id", "place", "model", "margin", "threshold", "lam", "alpha", "why")
        return {
            f"x-cr2fast-{n.replace('_', '-')}": str(value)
            for n in names
            if (value := getattr(self, n)) is not None
        }


@dataclass(frozen=True)
class Hop:
    """A try: the place, the model's name there, and what is said if it answers."""

    place: Place
    served: str
    routed: Routed


class Planner:
    """Decides requests for a client in front of two others.

    Parameters
    ----------
    router : Router or path
        Calibrated.
    encoder : Encoder or StaticEncoder
        The router's.
    lam : float
        The cost weight of requests that name none.
    alpha : float, optional
        Their risk level.
    models : mapping of str to str, optional
        What servers call the models of the router, by the router's names; a model that is not in it
        has one name.
    available : sequence of str, optional
        The edge models that there are; by default all of the router's.
    edge_model : str, optional
        One name for whatever is deferred, where the edge chooses by itself (``"cr2fast"`` of an
        edge gateway).
    state : LinkState or callable that gives one, optional
        The link; by default as it typically is by the cost table.
    not_text : {"edge", "device"}
        Where requests go that text does not decide.
    group : str, optional
        The group of all requests of this client, where the router has thresholds per group.
    """

    def __init__(
        self,
        router: Router | str | Path,
        encoder: Any,
        lam: float,
        alpha: float | None = None,
        *,
        models: Mapping[str, str] | None = None,
        available: Any = None,
        edge_model: str | None = None,
        state: LinkState | Callable[[], LinkState] | None = None,
        not_text: Place = "edge",
        group: str | None = None,
    ) -> None:
        if isinstance(router, (str, Path)):
            router = Router.load(router, encoder.info)
        elif not isinstance(router, Router):
            raise TypeError(f"router: expected a Router or path, got {type(router).__name__}")
        else:
            router._core.check_encoder(*encoder.info)
        check_choice(not_text, get_args(Place), "not_text")
        self.router, self.encoder, self.not_text = router, encoder, not_text
        self.names = list(router.models)
        self.served = {name: name for name in self.names}
        for name, served in (models or {}).items():
            if name not in self.served:
                raise Cr2Error(f"models: expected names among {self.names}, got {shown(name)}")
            self.served[name] = served
        self.edge_models = list(self.names[1:] if available is None else available)
        strange = [m for m in self.edge_models if m not in self.names[1:]]
        if strange or not self.edge_models:
            raise Cr2Error(
                f"available: expected some of the edge models {self.names[1:]}, got "
                f"{shown(self.edge_models)}"
            )
        self.edge_model = edge_model
        self.state = state
        self.group = group
        self.two = lru_cache(maxsize=1024)(self._two)
        self.selector = lru_cache(maxsize=1024)(self._selector)
        # What is wrong with the default point is wrong now, not at the first request.
        self.default = (self.two(lam, alpha).lam, self.two(lam, alpha).alpha)

    def _two(self, lam: float, alpha: float | None) -> TwoStage:
        return self.router.two_stage(lam, alpha)

    def _selector(self, lam: float) -> EdgeSelector:
        return self.router.edge(lam)

    @property
    def quick(self) -> bool:
        """Whether the encoder takes microseconds, so that an event loop need not care."""
        return isinstance(self.encoder, StaticEncoder)

    def encode(self, asked: Asked) -> tuple[npt.NDArray[np.float32] | None, int]:
        """The row of a text, None where there is none to decide by, and L_in by the tokenizer."""
        x = None
        if asked.embedded is not None:
            x = self.encoder.encode(asked.embedded)
            x = self.router.inputs(x[None], [asked.embedded])[0]
        # An endpoint counts what it embeds; the rest has as many tokens per byte.
        turns = getattr(self.encoder, "count_turns", None)
        if turns is not None:
            return x, turns(asked.counted, asked.embedded)
        return x, sum(self.encoder.count_tokens(text) for text in asked.counted)

    def hops(
        self, wish: Wish, encoded: tuple[npt.NDArray[np.float32] | None, int]
    ) -> Iterator[Hop]:
        """The place that is decided, then the other where it could answer too.

        Raises
        ------
        OperatingPointError, BudgetError, Cr2Error
            A point off the grid; a budget that no model keeps; an unknown model.
        """
        identity = uuid.uuid4().hex
        if wish.model is not None:
            yield self._direct(wish.model, identity)
            return
        lam = self.default[0] if wish.lam is None else wish.lam
        alpha = self.default[1] if wish.alpha is None else wish.alpha
        two = self.two(lam, alpha)
        x, n = encoded
        if x is None:
            device = self.not_text == "device"
            name = self.names[0] if device else self.edge_models[-1]
            said = Routed(identity, "device" if device else "edge", name, "not-text", two.lam,
                          two.alpha)  # fmt: skip
            yield self._hop(said)
            return
        state = self.state() if callable(self.state) else self.state or two.typical_state
        limits: dict[str, Any] = wish.limits
        choice = two.route(x, float(n), state, self.edge_models, group=self.group, **limits)
        numbers = (two.lam, two.alpha, choice.margin, choice.threshold)
        if choice.local:
            yield self._hop(Routed(identity, "device", self.names[0], "accepted", *numbers))
            picked = self.selector(two.lam).select(
                x, float(n), state, self.edge_models, **wish.limits
            )
            yield self._hop(Routed(identity, "edge", picked.model, "device-down", *numbers))
        else:
            yield self._hop(Routed(identity, "edge", choice.model, "deferred", *numbers))
            yield self._hop(Routed(identity, "device", self.names[0], "edge-down", *numbers))

    def _hop(self, routed: Routed) -> Hop:
        if routed.place == "device":
            return Hop("device", self.served[routed.model], routed)
        return Hop("edge", self.edge_model or self.served[routed.model], routed)

    def _direct(self, model: str, identity: str) -> Hop:
        known = {served: name for name, served in self.served.items()} | {n: n for n in self.names}
        if model not in known:
            raise Cr2Error(f"model: expected {NAME!r} or one of {self.names}, got {shown(model)}")
        name = known[model]
        place: Place = "device" if name == self.names[0] else "edge"
        return Hop(place, self.served[name], Routed(identity, place, name, "direct"))
