"""The figures of one operating point, by name, which print as a small table.

In: figures of :class:`cr2fast.Evaluation`. Out: :class:`Figures`, a dict; words of these figures.
"""

from __future__ import annotations

import math

from cr2fast._util.text import aligned, useful

#: What the words of tables mean, for where they first stand.
WORDS = {
    "answerable": "answerable (acc. ans.): of the queries that some model answers correctly",
    "risk": "risk: kept on the device although the judge prefers an edge model; alpha bounds it",
    "needless": "needless: deferred to the edge although the judge prefers the device's model",
}
LENGTHS = {
    "predicted": "the edge chooses by predicted output lengths, as when deployed",
    "known": "the edge chooses by the recorded output lengths, as in the paper; no deployed edge "
    "has them in time",
}


class Figures(dict[str, float]):
    """Figures of an operating point by the names of :class:`cr2fast.Evaluation`."""

    def __str__(self) -> str:
        def each(*names: str, scale: float = 1, form: str = "") -> list[str] | None:
            values = [self.get(name, math.nan) for name in names]
            if all(map(math.isnan, values)):
                return None
            return [form.format(v) if form else useful(scale * v) for v in values]

        interval = "{:.4f} to {:.4f}".format(self["risk_low"], self["risk_high"])
        rows = [
            ("answered correctly", each("accuracy", form="{:.3f}"), ""),
            ("  of the answerable", each("accuracy_answerable", form="{:.3f}"), ""),
            ("kept on the device", each("local_rate", form="{:.3f}"), ""),
            ("  wrongly (risk)", each("risk", form="{:.4f}"), f"95 % interval {interval}"),
            ("needlessly deferred", each("needless_deferrals", form="{:.3f}"), ""),
            ("normalised cost", each("cost", form="{:.3f}"), ""),
        ]
        for words, name, scale in (
            ("latency, s", "latency_{}s", 1),
            ("energy, J", "energy_{}j", 1),
            ("dollars per 1,000", "usd{}", 1000),
        ):
            unit = name.startswith("usd")
            at = [name.format(f"_{q}" if unit else f"{q}_") for q in ("p50", "p95")]
            quantiles = _quantiles(each(*at, scale=scale))
            rows.append((words, each(name.format(""), scale=scale), quantiles))
        head = f"lam {self['lam']:g}, alpha {self['alpha']:g}"
        shown = [(words, cells[0], more) for words, cells, more in rows if cells is not None]
        return "\n".join([head, aligned(shown), *WORDS.values()])

    __repr__ = __str__


def _quantiles(cells: list[str] | None) -> str:
    return "" if cells is None else f"half within {cells[0]}, 95 % within {cells[1]}"
