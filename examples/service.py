"""A routing service: POST a prompt or chat messages, get the place it should go to.

    pip install 'cr2fast[minilm]' fastapi uvicorn
    ROUTER=router.safetensors uvicorn service:app

    POST /route  {"prompt": "..."}  or  {"messages": [{"role": "user", "content": "..."}]}

ROUTER is the artifact, LAM and ALPHA a calibrated operating point; ENCODER is "minilm", a folder
with model.onnx and tokenizer.json, or the file of a static encoder (which needs only
numpy). A body of more than MAX_BODY bytes is refused before it is read.
"""

import json
import os
from math import isfinite
from typing import Any

from fastapi import FastAPI, HTTPException, Request

import cr2fast
from cr2fast.encoders.messages import text_of

LAM, ALPHA = float(os.environ.get("LAM", "1")), float(os.environ.get("ALPHA", "0.05"))
MAX_BODY = int(os.environ.get("MAX_BODY", "1000000"))
source = os.environ.get("ENCODER", "minilm")
if os.path.isfile(source):
    encoder = cr2fast.StaticEncoder.load(source)
else:
    encoder = cr2fast.Encoder.load(source, cache=10_000)
device = cr2fast.DeviceRouter.load(os.environ["ROUTER"], LAM, ALPHA, encoder.info)
app = FastAPI(title="cr2fast")

KINDS = {str: "a string", list: "a list", dict: "an object", bool: "true or false"}


def refusal(status: int, words: str) -> HTTPException:
    """An answer of bounded length that any encoding can hold."""
    return HTTPException(status, words[:400].encode("ascii", "backslashreplace").decode())


def kind(value: object) -> str:
    return "nothing" if value is None else KINDS.get(type(value), "a number")


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
        return json.loads(body)
    except RecursionError:
        raise refusal(400, "body: expected JSON, got one nested too deeply") from None
    except ValueError as error:
        raise refusal(400, f"body: expected JSON, got {error}") from None


def prompt_of(body: Any) -> str:
    """The text to route, or a refusal in the words of the request."""
    if not isinstance(body, dict):
        words = f'body: expected an object with "prompt" or "messages", got {kind(body)}'
        raise refusal(422, words)
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
    if not text.strip():
        raise refusal(422, f"{name}: expected some text, got none")
    return text


@app.post("/route")
async def route(request: Request) -> dict[str, Any]:
    decision = await device.route_text_async(prompt_of(await body_of(request)), encoder)
    # A threshold of -inf (accept all) or inf (defer all) is no JSON number.
    threshold = decision.threshold if isfinite(decision.threshold) else str(decision.threshold)
    return {"local": decision.local, "margin": decision.margin, "threshold": threshold}
