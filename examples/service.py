"""A routing service: POST a prompt or chat messages, get the place and the model to send it to.

    pip install 'cr2fast[minilm]' fastapi uvicorn
    ROUTER=router.safetensors uvicorn service:app

    POST /route  {"prompt": "..."}  or  {"messages": [{"role": "user", "content": "..."}]}
    and, to limit what the call may cost, "max_latency_s", "max_energy_j", "max_usd"

ROUTER is the artifact; POINT a file that cr2fast choose --write wrote, or LAM and ALPHA a
calibrated operating point; ENCODER is "minilm", a folder
with model.onnx and tokenizer.json, or the file of a static encoder (which needs only
numpy). A body of more than MAX_BODY bytes is refused before it is read.
"""

import json
import os
from difflib import get_close_matches
from math import isfinite
from typing import Any

from fastapi import FastAPI, HTTPException, Request

import cr2fast
from cr2fast.data.content import normalised
from cr2fast.encoders.messages import text_of

if chosen := os.environ.get("POINT"):
    point = cr2fast.OperatingPoint.read(chosen)
    point.check_router(cr2fast.Router.load(os.environ["ROUTER"]).sha256)
    LAM, ALPHA = point.lam, point.alpha
else:
    LAM, ALPHA = float(os.environ.get("LAM", "1")), float(os.environ.get("ALPHA", "0.05"))
MAX_BODY = int(os.environ.get("MAX_BODY", "1000000"))
source = os.environ.get("ENCODER", "minilm")
if os.path.isfile(source):
    encoder = cr2fast.StaticEncoder.load(source)
else:
    encoder = cr2fast.Encoder.load(source, cache=10_000)
two_stage = cr2fast.TwoStage.load(os.environ["ROUTER"], LAM, ALPHA, encoder=encoder.info)
app = FastAPI(title="cr2fast")

LIMITS = ("max_latency_s", "max_energy_j", "max_usd")
# What a chat request says to the model that answers it, and nothing of where it goes.
PASSED_OVER = (
    "model", "temperature", "top_p", "n", "stream", "stream_options", "stop", "max_tokens",
    "max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    "top_logprobs", "seed", "tools", "tool_choice", "parallel_tool_calls", "response_format",
    "reasoning_effort", "user", "metadata", "store",
)  # fmt: skip
EXPECTED = ("accuracy", "cost", "latency_s", "energy_j", "usd", "n_input_tokens")
KINDS = {str: "a string", list: "a list", dict: "an object", bool: "true or false"}


def refusal(status: int, words: str) -> HTTPException:
    """An answer of bounded length that any encoding can hold."""
    return HTTPException(status, words[:400].encode("ascii", "backslashreplace").decode())


def kind(value: object) -> str:
    return "nothing" if value is None else KINDS.get(type(value), "a number")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: readers differ on which of two values counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} twice in one object")
    return found


async def body_of(request: Request) -> Any:
    """The JSON of a request, of MAX_BODY bytes at most however it is sent."""
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    too_long = not declared.isdecimal() or len(declared) > 12 or int(declared) > MAX_BODY
    if not too_long:
        async for chunk in request.stream():
            body += chunk
            if too_long := len(body) > MAX_BODY:
                break
    if too_long:
        raise refusal(413, f"body: expected at most {MAX_BODY} bytes, got more")
    try:
        return json.loads(body, object_pairs_hook=once)
    except RecursionError:
        raise refusal(400, "body: expected JSON, got one nested too deeply") from None
    except ValueError as error:
        raise refusal(400, f"body: expected JSON, got {error}") from None


def limits_of(body: dict[str, Any]) -> dict[str, float]:
    """What the call may cost at most, by the names of the keywords."""
    given = {name: body[name] for name in LIMITS if body.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refusal(422, f"{name}: expected a number, got {kind(value)}")
        if not 0 <= value <= 1e300:
            got = "a negative one" if value < 0 else "one that is too large, or NaN"
            raise refusal(422, f"{name}: expected a number, at least 0, got {got}")
    return {name: float(value) for name, value in given.items()}


def prompt_of(body: Any) -> Any:
    """The text or the chat to route, or a refusal in the words of the request."""
    if not isinstance(body, dict):
        words = f'body: expected an object with "prompt" or "messages", got {kind(body)}'
        raise refusal(422, words)
    known = ("prompt", "messages", *LIMITS)
    for name in body:
        if name not in (*known, *PASSED_OVER):
            near = get_close_matches(name[:60], known, n=1, cutoff=0.0)[0]
            raise refusal(422, f"{name[:60]}: no field has this name; the nearest is {near}")
    given = [name for name in ("prompt", "messages") if body.get(name) is not None]
    if len(given) != 1:
        words = (
            f'body: expected one of "prompt" and "messages", got {" and ".join(given) or "none"}'
        )
        raise refusal(422, words)
    name, value = given[0], body[given[0]]
    if name == "prompt" and not isinstance(value, str):
        raise refusal(422, f"prompt: expected a string, got {kind(value)}")
    if name == "messages" and not isinstance(value, list):
        raise refusal(422, f"messages: expected a list of chat messages, got {kind(value)}")
    if name == "messages" and (odd := [m for m in value if not isinstance(m, dict)]):
        raise refusal(422, f"messages: expected objects in the list, got {kind(odd[0])}")
    if value == []:
        raise refusal(422, "messages: expected a message with role 'user', got an empty list")
    try:
        text = text_of(value)
        text.encode()
    except UnicodeEncodeError:
        raise refusal(
            422, f"{name}: expected text that UTF-8 can hold, got half of a pair"
        ) from None
    except (ValueError, TypeError) as error:
        raise refusal(422, f"{name}: {str(error).removeprefix('text: ')}") from None
    # Joiners, fillers and the like show nothing either.
    if not normalised(text):
        raise refusal(422, f"{name}: expected some text, got none")
    return value


@app.post("/route")
async def route(request: Request) -> dict[str, Any]:
    body = await body_of(request)
    prompt, limits = prompt_of(body), limits_of(body)
    try:
        choice = await two_stage.route_text_async(prompt, encoder, **limits)
    except (cr2fast.Cr2Error, TypeError) as error:
        # No model keeps the limits, or an earlier turn of the chat is no text.
        raise refusal(422, str(error)) from None
    # A threshold of -inf (accept all) or inf (defer all) is no JSON number.
    threshold = choice.threshold if isfinite(choice.threshold) else str(choice.threshold)
    return {
        "model": choice.model,
        "place": choice.place,
        "local": choice.local,
        "forced": choice.forced,
        "margin": choice.margin,
        "threshold": threshold,
    } | {name: getattr(choice, name) for name in EXPECTED}
