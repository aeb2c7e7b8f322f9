"""Serve a model of Qwen3's shape and random weights, OpenAI-compatible, streaming.

Latency and energy do not care what the weights say, so nothing is downloaded. A token is a word of
the prompt, or one generated; an answer is as long as it was asked to be. One request at a time.

    python serve.py --size 4B --port 8080
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch
from torch.nn import functional

# Layers, width, heads, key-value heads, feed-forward width: the published shapes.
SHAPES = {
    "0.6B": (28, 1024, 16, 8, 3072),
    "4B": (36, 2560, 32, 8, 9728),
    "14B": (40, 5120, 40, 8, 17408),
    "tiny": (2, 64, 4, 2, 128),  # to try the code without a GPU
}
VOCABULARY = 151_936
HEAD = 128
ROOM = 2560  # tokens of a prompt and its answer


def normed(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm; its gain is 1."""
    return functional.rms_norm(x, (x.shape[-1],), eps=1e-6)


class Model:
    """A Qwen3-shaped decoder for one request, its keys and values in one fixed buffer."""

    def __init__(self, size: str, device: str) -> None:
        self.layers, self.width, self.heads, self.kv_heads, inner = SHAPES[size]
        torch.manual_seed(0)

        def weights(rows: int, columns: int) -> torch.Tensor:
            made = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
            return made.normal_(0, columns**-0.5)

        q, kv = self.heads * HEAD, self.kv_heads * HEAD
        self.blocks = [
            (
                weights(q + 2 * kv, self.width),
                weights(self.width, q),
                weights(2 * inner, self.width),
                weights(self.width, inner),
            )
            for _ in range(self.layers)
        ]
        self.embedding = weights(VOCABULARY if size != "tiny" else 512, self.width)
        shape = (self.layers, 2, 1, self.kv_heads, ROOM, HEAD)
        self.cache = torch.zeros(shape, dtype=torch.bfloat16, device=device)
        angles = torch.outer(
            torch.arange(ROOM, device=device),
            1e-6 ** (torch.arange(0, HEAD, 2, device=device) / HEAD),
        )
        self.cos, self.sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        self.places = torch.arange(ROOM, device=device)

    def _turned(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        cos, sin = self.cos[at], self.sin[at]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, ids: torch.Tensor, at: torch.Tensor, *, whole: bool) -> torch.Tensor:
        """The next token's id, after tokens `ids` (n,) at places `at` (n,).

        `whole`: these are all tokens so far. Otherwise one token attends to the buffer before it.
        """
        x = self.embedding[ids]
        n, q, kv = len(ids), self.heads * HEAD, self.kv_heads * HEAD
        mask = None if whole else (self.places <= at[-1]).view(1, 1, 1, ROOM)
        for layer, (qkv, out, up, down) in enumerate(self.blocks):
            parts = functional.linear(normed(x), qkv).split((q, kv, kv), -1)
            query, key, value = (p.view(n, -1, HEAD).transpose(0, 1)[None] for p in parts)
            query, key = self._turned(normed(query), at), self._turned(normed(key), at)
            self.cache[layer, 0].index_copy_(2, at, key)
            self.cache[layer, 1].index_copy_(2, at, value)
            if not whole:
                key, value = self.cache[layer, 0], self.cache[layer, 1]
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=whole and n > 1, enable_gqa=True
            )
            x = x + functional.linear(mixed[0].transpose(0, 1).reshape(n, q), out)
            gate, linear = functional.linear(normed(x), up).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * linear, down)
        return functional.linear(normed(x[-1:]), self.embedding).argmax(-1)


class Engine:
    """Prefill once, then one token after another; on a GPU a decode step is one recorded graph."""

    def __init__(self, size: str, device: str) -> None:
        self.model, self.device = Model(size, device), device
        self.limit = len(self.model.embedding)
        self.token = torch.zeros(1, dtype=torch.long, device=device)
        self.at = torch.ones(1, dtype=torch.long, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        with torch.inference_mode():
            self._step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self._step()

    def _step(self) -> None:
        self.token.copy_(self.model.forward(self.token, self.at, whole=False))
        self.at.add_(1)

    @torch.inference_mode()
    def generate(self, prompt: str, tokens: int) -> Iterator[int]:
        """Token ids, each when it is there."""
        ids = [zlib.crc32(word.encode()) % self.limit for word in prompt.split()]
        if len(ids) + tokens > ROOM:
            raise ValueError(f"{len(ids)} + {tokens} tokens: expected at most {ROOM}")
        x = torch.tensor(ids, device=self.device)
        self.token.copy_(self.model.forward(x, self.model.places[: len(ids)], whole=True))
        self.at.fill_(len(ids))
        yield int(self.token)  # waits for the device
        for _ in range(tokens - 1):
            if self.graph:
                self.graph.replay()
            else:
                self._step()
            yield int(self.token)


class Handler(BaseHTTPRequestHandler):
    """Models, and streamed chat completions."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: Engine
    name: str

    def log_message(self, *args: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """List the one model."""
        body = json.dumps(
            {"object": "list", "data": [{"id": self.name, "object": "model"}]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Answer with as many tokens as were asked for, one chunk each."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = "\n".join(m["content"] for m in body["messages"])
        wanted = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for token in self.engine.generate(prompt, wanted):
            self._event({"choices": [{"index": 0, "delta": {"content": f" {token}"}}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": wanted}
        self._event({"choices": [], "usage": usage | {"total_tokens": sum(usage.values())}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, fields: dict[str, object]) -> None:
        event = {"object": "chat.completion.chunk", "model": self.name, **fields}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SHAPES, required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    Handler.engine, Handler.name = Engine(args.size, args.device), f"qwen3-shaped-{args.size}"
    print(f"serving {Handler.name} on {args.device}, port {args.port}", flush=True)
    HTTPServer(("127.0.0.1", args.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
