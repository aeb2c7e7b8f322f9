"""The light install: with only numpy, the package imports, loads and routes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import cr2fast

# A finder that hides every third-party package but numpy, as if it were not installed.
_LIGHT = """
import sys

class Hide:
    allowed = {"numpy", "cr2fast"}
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in self.allowed or top.startswith("_"):
            return None
        raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)

sys.meta_path.insert(0, Hide())
import numpy as np
import cr2fast

x = np.load(sys.argv[2])
device = cr2fast.DeviceRouter.load(sys.argv[1], lam=1.0, alpha=0.05)
edge = cr2fast.EdgeSelector.load(sys.argv[1], lam=1.0)
state = cr2fast.LinkState(20e6, 80e6, 0.018)
print(int(device.route_batch(x).sum()), device.route(x[0]).local)
print(edge.select(x[0], 100, state).model)
print(sorted(m for m in ("polars", "matplotlib", "tqdm") if m in sys.modules))
print(cr2fast.Router.load(sys.argv[1]).models[0])
try:
    cr2fast.RoutingTable.read("a", "b", local="x", edge=["y"])
except ImportError as error:
    print(error)
"""


def test_it_imports_and_routes_with_only_numpy(artifact, problem, tmp_path):
    x = problem.table.embeddings[:50]
    np.save(tmp_path / "x.npy", x)
    result = subprocess.run(
        [sys.executable, "-c", _LIGHT, artifact, tmp_path / "x.npy"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    counts, model, heavy, first, hint = result.stdout.splitlines()
    device = cr2fast.DeviceRouter.load(artifact, 1.0, 0.05)
    assert counts == f"{device.route_batch(x).sum()} {device.route(x[0]).local}"
    assert model in cr2fast.Router.load(artifact).models[1:]
    assert heavy == "[]"
    assert first == "device-s"
    assert "polars is needed here" in hint
    assert "pip install 'cr2fast[lab]'" in hint


def test_importing_brings_no_lab_package():
    code = "import sys, cr2fast; print([m for m in ('polars', 'matplotlib', 'tqdm') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented():
    for name in cr2fast.__all__:
        value = getattr(cr2fast, name)
        if name != "__version__":
            assert value.__doc__, name
            assert len(value.__doc__.strip()) > 20, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cr2fast.nothing  # noqa: B018
