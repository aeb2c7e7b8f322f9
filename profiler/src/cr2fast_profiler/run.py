"""Profile one model: warm up, sit idle, ask round after round, write every row as it comes.

In: a target, a folder, options and perhaps a meter. Out: the folder (``store.py``). Rounds go on
until the intervals of β_pre and β_dec are tight, or the budget or the rounds end. The same command
after a kill goes on with the first request that has no row.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from cr2fast_profiler import __version__
from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import FitError, RunError
from cr2fast_profiler.fit.latency import fit_latency
from cr2fast_profiler.fit.observations import observations
from cr2fast_profiler.fit.trend import still_warming
from cr2fast_profiler.host import host
from cr2fast_profiler.meters.base import Fault, Meter, Unavailable
from cr2fast_profiler.meters.recorder import Recorder
from cr2fast_profiler.store import RunStore
from cr2fast_profiler.workload.exchange import GONE, Rejected, RejectedRequest, Target
from cr2fast_profiler.workload.grid import Grid, Item
from cr2fast_profiler.workload.load import Load, run_load
from cr2fast_profiler.workload.probe import probe
from cr2fast_profiler.workload.prompts import Prompts

MOST_WARM_UP = 20
TELLING = 8  # requests before "more than half rejected" means something
MOST_GONE = 5  # requests in a row without an answer
MOST_FAULTS = 100


@dataclass(frozen=True)
class Options:
    """How a run is done.

    Attributes
    ----------
    grid : Grid
        Cells.
    seed : int
        Of the order of the cells. Prompts differ in every session.
    precision : float
        Half width of the 95 % intervals of β_pre and β_dec, relative, at which the run ends.
    least_rounds, most_rounds : int
        Bounds on the rounds.
    budget_s : float
        Time from the start of this session after which no new request is sent, s.
    idle_s : float
        Length of the idle window, s; only with a meter.
    loads : tuple of Load
        Loads to run after the rounds.
    rtt_s : float
        Round trip to the endpoint, s: taken off the TTFT, since the link has it already.
    meter : str
        What the meter is called: a run keeps to one.
    unloaded_idle : dict or None
        ``idle.json``, measured before the model was loaded: recorded beside the run.
    """

    grid: Grid
    seed: int = 0
    precision: float = 0.02
    least_rounds: int = 3
    most_rounds: int = 20
    budget_s: float = 900.0
    idle_s: float = 10.0
    loads: tuple[Load, ...] = ()
    rtt_s: float = 0.0
    meter: str = ""
    unloaded_idle: dict[str, Any] | None = None


class Session:
    """One process's part of a run."""

    def __init__(
        self,
        target: Target,
        store: RunStore,
        options: Options,
        meter: Meter | None,
        absent: list[Unavailable],
        clock: Clock,
    ) -> None:
        self.target, self.store, self.options = target, store, options
        self.recorder = Recorder(meter, clock) if meter else None
        self.meter, self.absent, self.clock = meter, absent, clock
        self.number = 0
        self.rejected: Counter[str] = Counter()
        self.answered = 0
        self.gone = 0
        self.nonce = secrets.randbits(63)
        self.deadline_ns = clock() + int(options.budget_s * 1e9)
        self.faults: list[Fault] = []

    @contextmanager
    def registered(self, plan: dict[str, Any], resumed: bool) -> Iterator[None]:
        """Enter this session in ``run.json``; record the meter until it ends."""
        fresh = {"plan": plan, "target": self.target.describe(), "sessions": []}
        manifest: dict[str, Any] = self.store.manifest() if resumed else fresh
        self.manifest = manifest
        self.number = len(manifest["sessions"])
        meter: dict[str, Any] | None = None
        if self.meter:
            meter = {"domains": [asdict(d) for d in self.meter.domains], "faults": []}
        manifest["sessions"].append(
            {
                "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "profiler": __version__,
                "host": host(),
                "nonce": self.nonce,
                "rtt_s": self.options.rtt_s,
                "precision": self.options.precision,
                "budget_s": self.options.budget_s,
                "meter": meter,
                "no_meter": [asdict(u) for u in self.absent],
            }
        )
        if self.options.unloaded_idle:
            manifest["unloaded_idle"] = self.options.unloaded_idle
        self.store.write_manifest(manifest)
        if self.recorder:
            self.recorder.start()
        try:
            yield
        finally:
            self._keep_notes()
            if self.recorder:
                self.recorder.stop()
                self._keep_readings()

    def ended(self, why: str) -> None:
        """Write down why the rounds ended."""
        self.manifest["sessions"][self.number]["ended"] = why
        self.store.write_manifest(self.manifest)

    def _keep_notes(self) -> None:
        """What the target has to say of its server, once it has been asked."""
        notes = list(getattr(self.target, "notes", ()))
        if notes != self.manifest["sessions"][self.number].get("notes", []):
            self.manifest["sessions"][self.number]["notes"] = notes
            self.store.write_manifest(self.manifest)

    def _keep_readings(self) -> None:
        if not self.recorder:
            return
        read = self.recorder.drain()
        self.store.append_trace(self.number, read)
        if read.faults and len(self.faults) < MOST_FAULTS:
            self.faults += read.faults
            said = self.manifest["sessions"][self.number]["meter"]
            said["faults"] = [asdict(f) for f in self.faults[:MOST_FAULTS]]
            self.store.write_manifest(self.manifest)

    def ask(self, prompt: str, max_tokens: int, most_cached: float) -> dict[str, Any]:
        """One request as the columns it fills; a rejected one has its reason."""
        start_ns = self.clock()
        try:
            x = self.target.generate(prompt, max_tokens)
            if x.cached_tokens > most_cached:
                raise RejectedRequest(
                    Rejected.CACHED_PROMPT,
                    f"{x.cached_tokens} of {x.n_input_tokens} prompt tokens came from a cache",
                )
            if x.n_output_tokens < 2:
                raise RejectedRequest(Rejected.TOO_SHORT, "one token: no time lies between tokens")
        except RejectedRequest as refusal:
            return {
                "start_ns": start_ns,
                "aside_ns": self.clock(),
                "rejected": refusal.reason.value,
                "detail": refusal.detail,
            }
        columns = asdict(x)
        del columns["text"]
        return columns

    def keep(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a row, and count it; more than half rejected ends the run."""
        self.store.append(row | {"session": self.number})
        self._keep_readings()
        if row["phase"] in ("idle", "load"):
            return row
        self.gone = self.gone + 1 if row.get("rejected") in GONE else 0
        if self.gone >= MOST_GONE:
            raise RunError(
                f"{self.gone} requests in a row had no answer ({row['rejected']}: "
                f"{row['detail']}); is the server still there? The same command asks again for "
                "what is missing"
            )
        if row.get("rejected") == Rejected.BUSY.value:
            raise RunError(f"{row['detail']}. The same command goes on with what is missing")
        if row.get("rejected"):
            self.rejected[f"{row['rejected']}: {row['detail']}"] += 1
        else:
            self.answered += 1
        lost, all_sent = self.rejected.total(), self.rejected.total() + self.answered
        if all_sent >= TELLING and 2 * lost > all_sent:
            told = "; ".join(f"{n} x {why}" for why, n in self.rejected.most_common(3))
            raise RunError(f"more than half of {all_sent} requests were rejected: {told}")
        return row

    def warm_up(self, prompts: Prompts, rng: np.random.Generator) -> None:
        """Ask the reference cell until its times no longer fall."""
        l_in, l_out = self.options.grid.reference
        times: list[float] = []
        for position in range(MOST_WARM_UP):
            row = self.ask(prompts.make(l_in, rng), l_out, prompts.overhead)
            cell = {"round": -1, "position": position, "l_in": l_in, "l_out": l_out}
            self.keep(row | cell | {"phase": "warmup"})
            if not row.get("rejected"):
                times.append((row["last_ns"] - row["start_ns"]) * 1e-9)
            if not still_warming(np.array(times)):
                return

    def sit_idle(self) -> None:
        """A window with nothing asked."""
        if not self.recorder or self.options.idle_s <= 0:
            return
        start_ns = self.clock()
        self.clock.sleep(self.options.idle_s)
        self.keep({"phase": "idle", "start_ns": start_ns, "last_ns": self.clock()})

    def gap(self, rng: np.random.Generator) -> None:
        """Up to two polls of nothing, so that requests do not lock to the sensor's sampling."""
        if self.meter:
            self.clock.sleep(rng.uniform(0, 2 * max(self.meter.poll_s, 0.01)))


def _plan(target: Target, options: Options, meter: Meter | None) -> dict[str, Any]:
    """What every session of a run must have alike."""
    return {
        "target": target.describe(),
        "grid": [f"{i}x{o}" for i, o in options.grid.cells],
        "seed": options.seed,
        "meter": [f"{d.name}: {d.source}" for d in meter.domains] if meter else [],
        "meter_spec": options.meter if meter else "",
    }


def _tightness(rows: pl.DataFrame, options: Options) -> tuple[float, float] | None:
    """Relative half widths of β_pre's and β_dec's intervals; None while nothing can be fitted."""
    try:
        f = fit_latency(observations(rows, options.rtt_s), left_out=False)
    except FitError:
        return None
    (a, b), (c, d) = f.intervals["beta_pre_s"], f.intervals["beta_dec_s"]
    return (b - a) / (2 * f.beta_pre_s), (d - c) / (2 * f.beta_dec_s)


def profile_model(
    target: Target,
    folder: str | Path,
    options: Options,
    *,
    meter: Meter | None = None,
    absent: list[Unavailable] | None = None,
    progress: bool = True,
    clock: Clock = SYSTEM,
) -> str:
    """Profile a model; say why the run ended: "tight", "budget" or "rounds".

    Parameters
    ----------
    target : Target
        An endpoint or a callable.
    folder : path
        Where rows go; an unfinished run of the same plan goes on.
    options : Options
        Grid, seed, precision, bounds.
    meter : Meter or None
        Energy of the host that serves the model.
    absent : list of Unavailable
        Why there is no meter.
    progress : bool
        Draw a bar.
    clock : Clock
        Shared by the target, the meter's polls and the budget.

    Raises
    ------
    RunError
        The folder is another run's, the disk is full, or more than half was rejected.
    """
    store = RunStore(folder)
    session = Session(target, store, options, meter, absent or [], clock)
    plan = _plan(target, options, meter)
    with store.open(plan) as resumed:
        rng = np.random.default_rng([session.nonce, 0])
        prompts = probe(target, options.grid, rng)
        with session.registered(plan, resumed):
            rng = np.random.default_rng([session.nonce, 1])
            session.warm_up(prompts, rng)
            session.sit_idle()
            ended = _rounds(session, prompts, progress)
            session.ended(ended)
            for load in options.loads:
                _under_load(session, prompts, load, rng)
    return ended


def _rounds(session: Session, prompts: Prompts, progress: bool) -> str:
    options, store = session.options, session.store
    asked = store.rows().filter(pl.col("phase").is_in(["grid", "reference"]))
    # What was rejected in an earlier session is asked again: its server may have been ill.
    answered = asked.filter(pl.col("rejected").is_null())
    done = set(answered.select("round", "position").iter_rows())
    a_round = len(options.grid.cells) + 2
    with tqdm(
        desc=session.target.name,
        total=options.least_rounds * a_round,
        initial=len(done),
        unit="req",
        disable=None if progress else True,
    ) as bar:
        for number in range(options.most_rounds):
            for item in options.grid.round(number, options.seed):
                if (item.round, item.position) in done:
                    continue
                if session.clock() > session.deadline_ns:
                    return "budget"
                _one(session, prompts, item)
                bar.update()
            if number + 1 < options.least_rounds:
                continue
            tight = _tightness(store.rows(), options)
            if tight:
                bar.set_postfix_str(f"beta_pre ±{tight[0]:.1%}, beta_dec ±{tight[1]:.1%}")
                if max(tight) <= options.precision:
                    return "tight"
            if number + 1 < options.most_rounds:
                bar.total = (bar.total or 0) + a_round
    return "rounds"


def _one(session: Session, prompts: Prompts, item: Item) -> None:
    # The session's nonce: the same prompts a second time would be answered by a prefix cache.
    # 0 and 1 are the probe's and the warm-up's; a seed's trailing zeros do not count.
    rng = np.random.default_rng([session.nonce, item.round + 2, item.position])
    session.gap(rng)
    l_in, l_out = item.asked
    prompt = prompts.make(max(l_in, prompts.shortest), rng)
    row = session.ask(prompt, l_out, prompts.overhead)
    session.keep(row | asdict(item))


def _under_load(session: Session, prompts: Prompts, load: Load, rng: np.random.Generator) -> None:
    l_in, l_out = session.options.grid.reference

    def request(prompt: str) -> Callable[[], dict[str, Any]]:
        return lambda: session.ask(prompt, l_out, prompts.overhead)

    before = session.store.rows().filter(pl.col("load") == str(load)).height
    missing = max(load.n_requests - before, 0)
    requests = [request(prompts.make(l_in, rng)) for _ in range(missing)]
    for row in run_load(load, requests, rng, session.deadline_ns, session.clock):
        session.keep(row | {"phase": "load", "l_in": l_in, "l_out": l_out})
