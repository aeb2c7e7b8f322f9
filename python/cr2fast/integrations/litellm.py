"""A routing plugin of LiteLLM: of a model group's deployments, the one that the router chooses.

In: a router, its encoder, and the deployments of a ``litellm.Router``. Out:
:class:`Cr2fastRouting`, which serves as a routing plugin (``litellm.Router(plugins=[...])``, for
asynchronous calls) and as a custom routing strategy (``register_plugin``, in earlier versions
``set_custom_routing_strategy``, for both kinds of calls).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown
from cr2fast._util.optional import require
from cr2fast.integrations import asked, texts
from cr2fast.integrations.plan import Hop, Planner, Routed

__all__ = ["Cr2fastRouting", "Routed"]


class Cr2fastRouting:
    """Chooses a deployment by the prompt, at an operating point.

    Parameters
    ----------
    router, encoder, lam, alpha, **options
        As of :class:`cr2fast.integrations.plan.Planner`. `models` maps the router's names to the
        ``litellm_params.model`` of the deployments, ``{"device-s": "openai/tiny"}``; a deployment
        is also found by its name without the provider.
    deployments : litellm.Router, optional
        Only for its use as a custom routing strategy, which has to pick from them.

    Notes
    -----
    What was decided stands in the request's metadata, under ``cr2fast``: the gateway's headers. A
    deployment that fails is LiteLLM's to replace: give the group ``fallbacks``.

    Examples
    --------
    >>> routing = Cr2fastRouting("router.safetensors", encoder, lam=1.0)  # doctest: +SKIP
    >>> llm = litellm.Router(model_list=[
    ...     {"model_name": "cr2fast", "litellm_params": {"model": model, "api_base": url}}
    ...     for model, url in (("openai/device-s", here), ("openai/edge-1", there))
    ... ], plugins=[routing])  # doctest: +SKIP
    >>> await llm.acompletion(model="cr2fast", messages=messages)  # doctest: +SKIP
    """

    def __init__(
        self,
        router: Any,
        encoder: Any,
        lam: float,
        alpha: float | None = None,
        *,
        deployments: Any = None,
        **options: Any,
    ) -> None:
        require("litellm", "litellm")
        self._planner = Planner(router, encoder, lam, alpha, **options)
        self._deployments = deployments

    async def run(self, context: Any) -> Any:
        """LiteLLM's routing plugin: leave the candidate that the router chooses."""
        hop = await self._ahop(texts.of_messages(context.structured_messages))
        context.candidate_models = [self._named(hop, context.candidate_models)]
        context.signals["cr2fast"] = hop.routed.headers
        return context

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,  # noqa: A002 - LiteLLM's name
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """LiteLLM's custom routing strategy: the deployment of the group `model`."""
        hop = self._hop(_asked(messages, input, request_kwargs))
        return self._deployment(model, hop, request_kwargs)

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,  # noqa: A002
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """As :meth:`get_available_deployment`."""
        hop = await self._ahop(_asked(messages, input, request_kwargs))
        return self._deployment(model, hop, request_kwargs)

    def _hop(self, asks: texts.Asked) -> Hop:
        return next(self._planner.hops(asked.Wish(None), self._planner.encode(asks)))

    async def _ahop(self, asks: texts.Asked) -> Hop:
        if self._planner.quick:
            return self._hop(asks)
        return await asyncio.to_thread(self._hop, asks)

    def _named(self, hop: Hop, candidates: Sequence[str]) -> str:
        """The candidate that serves a hop's model."""
        for name in candidates:
            if name == hop.served or name.partition("/")[2] == hop.served:
                return name
        raise Cr2Error(
            f"models: expected a deployment of {shown(hop.served)}, got {shown(list(candidates))}; "
            f"name them after the router's models {self._planner.names}, or pass models="
        )

    def _deployment(
        self, group: str, hop: Hop, request_kwargs: dict[str, Any] | None
    ) -> Mapping[str, Any]:
        if self._deployments is None:
            raise Cr2Error("deployments: expected the litellm.Router to pick from, got none")
        rows = [d for d in self._deployments.model_list if d["model_name"] == group]
        if not rows:
            raise Cr2Error(f"model: expected a group with deployments, got {shown(group)}")
        named = self._named(hop, [d["litellm_params"]["model"] for d in rows])
        if request_kwargs is not None:
            request_kwargs.setdefault("metadata", {})["cr2fast"] = hop.routed.headers
        found: Mapping[str, Any] = next(d for d in rows if d["litellm_params"]["model"] == named)
        return found


def _asked(messages: Any, value: Any, others: Mapping[str, Any] | None) -> texts.Asked:
    """The texts of a chat or a Responses call; models read the tools beside them too."""
    if messages is not None:
        return texts.of_chat({**(others or {}), "messages": messages})
    return texts.of_response({**(others or {}), "input": value})
