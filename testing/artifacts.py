"""Take an artifact apart and put it together again, as a forger would."""

from __future__ import annotations

import hashlib
import json


def parts(data):
    """Header (parsed) and payload of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def assemble(header, payload):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def rewritten(data, change):
    """The file with its metadata body changed and hashed anew, as a forger would."""
    header, payload = parts(data)
    envelope = json.loads(header["__metadata__"]["cr2fast"])
    body = json.loads(envelope["body"])
    change(header, body)
    envelope["body"] = json.dumps(body)
    digest = hashlib.sha256()
    digest.update(len(envelope["body"].encode()).to_bytes(8, "little") + envelope["body"].encode())
    for name in sorted(k for k in header if k != "__metadata__"):
        t = header[name]
        a, b = t["data_offsets"]
        digest.update(f"{name} {t['dtype']} {t['shape']} {b - a}\n".encode() + payload[a:b])
    envelope["sha256"] = digest.hexdigest()
    header["__metadata__"]["cr2fast"] = json.dumps(envelope)
    return assemble(header, payload)


def put(**fields):
    def change(header, body):
        body.update(fields)

    return change
