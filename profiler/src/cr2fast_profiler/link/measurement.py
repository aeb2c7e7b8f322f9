"""A measured link: what ``link.json`` holds, schema ``cr2fast.link/1``.

In: estimates. Out: JSON, and the ``link`` section of a cost table. Units in names; a rate is of
payload bits through the path as an application sees it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cr2fast_profiler.errors import LinkError

SCHEMA = "cr2fast.link/1"
MAX_FILE_BYTES = 1 << 26


@dataclass(frozen=True)
class LinkSample:
    """The link's state over one round."""

    rate_ul_bps: float
    rate_dl_bps: float
    rtt_s: float
    round: int


@dataclass(frozen=True)
class Estimate:
    """A median over rounds.

    Attributes
    ----------
    median : float
        Of the rounds.
    low, high : float
        Bootstrap interval of the median.
    confidence : float
        Its level.
    rounds : int
        Rounds it comes from.
    unit : str
        "bit/s" or "s".
    quantiles : dict
        p05 to p95 of single probes (of rounds, for rates).
    """

    median: float
    low: float
    high: float
    confidence: float
    rounds: int
    unit: str
    quantiles: dict[str, float]


@dataclass(frozen=True)
class Flag:
    """Something a reader must know: a short name, and words."""

    name: str
    detail: str


@dataclass(frozen=True)
class LinkMeasurement:
    """A measured link.

    Attributes
    ----------
    samples : tuple of LinkSample
        One a round: rates and round trip of the same seconds.
    summary : dict of str to Estimate
        rate_ul_bps, rate_dl_bps, rtt_s; request_s and connect_s, both ways to see the round trip;
        dns_s; after_idle_s and next_s, the pair after a silence, and after_idle_extra_s, their
        difference, where it was asked for.
    rtt_source : str
        "connect", or "request" where something in between answers connections.
    flags : tuple of Flag
        What to know beside the numbers.
    rejections : dict
        {"probes": {reason: count}, "rounds": {reason: count}}.
    provenance : dict
        Hosts, times, versions, options, counts.
    """

    samples: tuple[LinkSample, ...]
    summary: dict[str, Estimate]
    rtt_source: str
    flags: tuple[Flag, ...] = ()
    rejections: dict[str, dict[str, int]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON text of ``link.json``."""
        value = {"schema": SCHEMA, "source": "measured", **asdict(self)}
        return json.dumps(value, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> LinkMeasurement:
        """Read ``link.json``.

        Raises
        ------
        LinkError
            It is none, with the first field that is wrong.
        """
        try:
            v = json.loads(text)
            if v["schema"] != SCHEMA:
                raise LinkError(f"link.json: expected schema {SCHEMA!r}, got {v['schema']!r}")
            samples = tuple(LinkSample(**s) for s in v["samples"])
            summary = {k: Estimate(**e) for k, e in v["summary"].items()}
            flags = tuple(Flag(**f) for f in v["flags"])
            whole = cls(samples, summary, v["rtt_source"], flags, v["rejections"], v["provenance"])
        except KeyError as e:
            raise LinkError(f"link.json: expected a field {e}") from None
        except (ValueError, TypeError, AttributeError) as e:
            raise LinkError(f"link.json: expected the fields of {SCHEMA}: {e}") from None
        for i, s in enumerate(samples):
            for name in ("rate_ul_bps", "rate_dl_bps", "rtt_s"):
                x = getattr(s, name)
                if not (isinstance(x, (int, float)) and math.isfinite(x) and x > 0):
                    raise LinkError(
                        f"link.json: samples[{i}].{name}: expected a positive number, got {x!r}"
                    )
        if not samples:
            raise LinkError("link.json: samples: expected at least one, got none")
        return whole

    @classmethod
    def read(cls, path: str | Path) -> LinkMeasurement:
        """Read a file."""
        try:
            with Path(path).open("rb") as f:
                data = f.read(MAX_FILE_BYTES + 1)
        except OSError as e:
            raise LinkError(f"{path}: {e.strerror}; run `cr2fast-profile link` first") from None
        if len(data) > MAX_FILE_BYTES:
            raise LinkError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")
        return cls.from_json(data)

    def section(self, bits_per_input_token: float, bits_per_output_token: float) -> dict[str, Any]:
        """Make the ``link`` section of a cost table, kind "empirical"."""
        intervals = {
            k: [self.summary[k].low, self.summary[k].high]
            for k in ("rate_ul_bps", "rate_dl_bps", "rtt_s")
        }
        return {
            "kind": "empirical",
            "bits_per_input_token": bits_per_input_token,
            "bits_per_output_token": bits_per_output_token,
            "samples": [asdict(s) for s in self.samples],
            "rtt_source": self.rtt_source,
            "intervals": intervals,
            "flags": [asdict(f) for f in self.flags],
            "provenance": self.provenance,
        }
