"""What this machine says of itself, for provenance."""

from __future__ import annotations

import platform


def host() -> dict[str, str]:
    """Name, system, processor and Python of this machine."""
    cpu = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            cpu = next((x.split(":", 1)[1].strip() for x in info if x.startswith("model name")), "")
    except OSError:
        pass
    return {
        "node": platform.node(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu or platform.processor(),
        "python": platform.python_version(),
    }
