"""The known server behind other manners: what answers before it, and what changes its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
from fakes.clock import VirtualClock
from fakes.known import Manners, Reply, respond, said_json
from fakes.virtual import URL, Virtual

from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.exchange import Exchange

PROMPT = "one two three"
Change = Callable[[httpx2.Request, Reply], Reply]


class Server:
    """The known server behind a change of manners; `before` may answer in its place."""

    def __init__(
        self,
        before: Callable[[httpx2.Request], Reply | None] = lambda request: None,
        after: Change = lambda request, reply: reply,
        prefix: str = "/v1",
        **manners: Any,
    ) -> None:
        self.clock, self.manners = VirtualClock(), Manners(**manners)
        self.before, self.after, self.prefix = before, after, prefix
        self.transport = Virtual(self.clock, self.handle)
        self.told: list[str] = []

    def handle(self, request: httpx2.Request) -> Reply:
        if (instead := self.before(request)) is not None:
            return instead
        path = request.url.path
        if path not in (
            f"{self.prefix}/{c}" for c in ("models", "chat/completions", "completions")
        ):
            return said_json(404, {"detail": "Not Found"})
        body = request.content
        reply = respond(self.manners, request.method, path, request.headers, body)
        return self.after(request, reply)

    def endpoint(self, url: str = URL, model: str | None = None, **options: Any) -> Endpoint:
        return Endpoint(
            url,
            model,
            clock=self.clock,
            transport=self.transport,
            tell=self.told.append,
            **options,
        )

    def ask(self, url: str = URL, model: str | None = None, n: int = 4, **options: Any) -> Exchange:
        with self.endpoint(url, model, **options) as endpoint:
            return endpoint.generate(PROMPT, n)

    @property
    def posts(self) -> list[httpx2.Request]:
        return [r for r in self.transport.requests if r.method == "POST"]


def is_post(request: httpx2.Request) -> bool:
    return request.method == "POST"


def streamed(request: httpx2.Request) -> bool:
    return is_post(request) and bool(json.loads(request.content).get("stream"))
