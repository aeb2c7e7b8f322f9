"""A routing service: POST a prompt or chat messages, get the place it should go to.

    pip install 'cr2fast[minilm]' fastapi uvicorn
    ROUTER=router.safetensors uvicorn service:app

ROUTER is the artifact, LAM and ALPHA a calibrated operating point; ENCODER is "minilm", a folder
with model.onnx and tokenizer.json, or the file of a static encoder (numpy alone).
"""

import os
from math import isfinite
from typing import Any

from fastapi import FastAPI, HTTPException, Request

import cr2fast

LAM, ALPHA = float(os.environ.get("LAM", "1")), float(os.environ.get("ALPHA", "0.05"))
source = os.environ.get("ENCODER", "minilm")
if os.path.isfile(source):
    encoder = cr2fast.StaticEncoder.load(source)
else:
    encoder = cr2fast.Encoder.load(source, cache=10_000)
device = cr2fast.DeviceRouter.load(os.environ["ROUTER"], LAM, ALPHA, encoder.info)
app = FastAPI(title="cr2fast")


@app.post("/route")
async def route(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
        text = body["messages"] if "messages" in body else body["prompt"]
        decision = await device.route_text_async(text, encoder)
    # No JSON, no prompt in it, or no text in that.
    except (ValueError, TypeError, KeyError) as error:
        raise HTTPException(422, f"expected a prompt or messages: {error}") from None
    # A threshold of -inf (accept all) or inf (defer all) is no JSON number.
    threshold = decision.threshold if isfinite(decision.threshold) else str(decision.threshold)
    return {"local": decision.local, "margin": decision.margin, "threshold": threshold}
