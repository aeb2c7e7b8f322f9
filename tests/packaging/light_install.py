"""Run where only numpy is installed beside the wheel (`make light`): load, route, select."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import cr2fast

GOLDEN = Path(__file__).parents[1] / "golden"


def main() -> None:
    answers = json.loads((GOLDEN / "answers.json").read_text())
    values = {k: np.array([float.fromhex(h) for h in v], np.float32) for k, v in answers.items()}
    x = values["embeddings"].reshape(16, 8)
    device = cr2fast.DeviceRouter.load(GOLDEN / "router.safetensors", lam=1.0, alpha=0.1)
    margins = values["margins"].reshape(3, 16)[1]
    assert (device.margins(x) == margins).all(), "the golden margins, to the last bit"
    batch = device.route_batch(x)
    assert (
        [device.route(e).local for e in x]
        == batch.tolist()
        == (margins >= device.threshold).tolist()
    )
    edge = cr2fast.EdgeSelector.load(GOLDEN / "router.safetensors", lam=1.0)
    link = cr2fast.LinkState(20e6, 80e6, 0.018)
    chosen = edge.select(x[0], 100, link)
    assert chosen.model in edge.models[1:]
    golden = json.loads((GOLDEN / "static.json").read_text())
    encoder = cr2fast.StaticEncoder.load(GOLDEN / "static.safetensors")
    for text, expected in golden.items():
        assert [v.hex() for v in encoder.encode(text).tolist()] == expected, "from text, too"

    def again(_: int) -> bool:
        texts = [encoder.encode(text).tolist() for text in golden]
        same = texts == [[float.fromhex(v) for v in vector] for vector in golden.values()]
        same_model = edge.select(x[0], 100, link).model == chosen.model
        return same and same_model and bool((device.margins(x) == margins).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, range(400))), "objects are shared between threads"
    with_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    installed = Path(cr2fast.__file__).parent
    print(
        f"light install routes: {installed}, Python {sys.version.split()[0]}, numpy {np.__version__}"
        f"{'' if with_gil else ', without a GIL'}"
    )


if __name__ == "__main__":
    main()
