"""A routing service: POST a prompt or chat messages, get the place it should go to.

    pip install 'cr2fast[minilm]' fastapi uvicorn
    ROUTER=router.safetensors uvicorn service:app

Environment: ROUTER (the artifact), LAM and ALPHA (a calibrated operating point), ENCODER (a folder
with model.onnx and tokenizer.json, or "minilm").
"""

import os
from math import isfinite
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import cr2fast

LAM, ALPHA = float(os.environ.get("LAM", "1")), float(os.environ.get("ALPHA", "0.05"))
encoder = cr2fast.Encoder.load(os.environ.get("ENCODER", "minilm"), cache=10_000)
device = cr2fast.DeviceRouter.load(os.environ["ROUTER"], LAM, ALPHA, encoder.info)
app = FastAPI(title="cr2fast")


class Request(BaseModel):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None


@app.post("/route")
async def route(request: Request) -> dict[str, Any]:
    try:
        text = request.prompt if request.messages is None else request.messages
        decision = await device.route_text_async(text, encoder)
    except (cr2fast.Cr2Error, TypeError) as error:
        raise HTTPException(422, str(error)) from None
    # A threshold of -inf (accept all) or inf (defer all) is no JSON number.
    threshold = decision.threshold if isfinite(decision.threshold) else str(decision.threshold)
    return {"local": decision.local, "margin": decision.margin, "threshold": threshold}
