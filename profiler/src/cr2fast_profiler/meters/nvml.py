"""GPU energy through NVML (nvidia-ml-py, module ``pynvml``).

In: the energy counter (mJ since the driver was loaded) where the GPU has one, else power,
integrated: the instant field, else ``nvmlDeviceGetPowerUsage``, which is a 1 s average from Ampere
on (GA100 excepted). Each domain's source says which was read. Out: cumulative joules of each GPU.

What a GPU supports is found by reading it: a Jetson initialises NVML and supports nothing.

The counter ticks every 10 to 100 ms, so it is read much more often: a window interpolated between
ticks (:class:`~cr2fast_profiler.meters.base.Trace`) is then off by at most one poll. A counter
that rests while power integrates to more than a joule is stuck, from the time it last moved.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Unavailable
from cr2fast_profiler.meters.counters import Counter, PowerIntegral

COUNTER_POLL_S = 0.002
POWER_POLL_S = 0.02
MAX_POWER_W = 4000.0
"""More than any board draws, W."""
RESTING_S = 0.5
"""Five of the slowest ticks: a counter at rest for longer is held against power, s."""
STUCK_J = 1.0
"""A thousand units of the counter, J."""
COUNTER, INSTANT, AVERAGE = "nvml-counter", "nvml-power", "nvml-power-average"


@dataclass(eq=False)
class Gpu:
    """One GPU as opened.

    Attributes
    ----------
    index : int
        NVML's, in PCI order.
    uuid, model : str
        As NVML names it.
    handle : object
        NVML's.
    source : str
        "nvml-counter", "nvml-power" or "nvml-power-average".
    power_source : str or None
        The same for its power; None when it tells none.
    """

    index: int
    uuid: str
    model: str
    handle: Any
    source: str = ""
    power_source: str | None = None


class NvmlMeter:
    """GPUs of this host.

    Parameters
    ----------
    gpu : int, str or None
        NVML's index, or a UUID. None takes the GPUs that ``CUDA_VISIBLE_DEVICES`` shows, all
        where it is not set.
    clock : callable
        Monotonic ns.
    environment : mapping
        Where ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` are looked up.

    Attributes
    ----------
    gpus : tuple of Gpu
        (D,) which GPUs, and what is read of each.

    Raises
    ------
    MeterError
        When there is no driver, no such GPU, or one of them tells neither energy nor power.
    """

    def __init__(
        self,
        gpu: int | str | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._clock = clock
        self._nvml = _load()
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise MeterError(self._why(error, "NVML does not start")) from None
        self._open = True
        try:
            self.gpus = tuple(self._choose(gpu, environment))
            for g in self.gpus:
                self._probe(g)
        except self._nvml.NVMLError as error:
            self.close()
            raise MeterError(self._why(error, "NVML fails")) from None
        except MeterError:
            self.close()
            raise
        self.domains = tuple(Domain(f"gpu-{g.index}", "gpu", g.source) for g in self.gpus)
        self._tracks = [_Track(self, g) for g in self.gpus]
        counted = any(g.source == COUNTER for g in self.gpus)
        self.poll_s = COUNTER_POLL_S if counted else POWER_POLL_S
        self.faults: list[Fault] = []
        self.read()

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        t_ns = self._clock()
        joules = np.empty(len(self._tracks))
        for i, track in enumerate(self._tracks):
            joules[i], faults = track.read(t_ns)
            self.faults += faults
        return t_ns, joules

    def power_w(self) -> float | None:
        """Power of all GPUs now, W; None when one of them tells none."""
        total = 0.0
        for g in self.gpus:
            if g.power_source is None:
                return None
            try:
                total += self.read_power(g, g.power_source)
            except self._nvml.NVMLError:
                return None
        return total

    def close(self) -> None:
        """Shut NVML down."""
        if self._open:
            self._open = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def read_counter(self, gpu: Gpu) -> float:
        """Raw energy counter, J. Raises ``pynvml.NVMLError``."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)) * 1e-3

    def read_power(self, gpu: Gpu, source: str) -> float:
        """Power now, W, of the given source. Raises ``pynvml.NVMLError``."""
        if source == AVERAGE:
            return float(self._nvml.nvmlDeviceGetPowerUsage(gpu.handle)) * 1e-3
        field = self._nvml.nvmlDeviceGetFieldValues(
            gpu.handle, [self._nvml.NVML_FI_DEV_POWER_INSTANT]
        )[0]
        if field.nvmlReturn:
            raise self._nvml.NVMLError(field.nvmlReturn)
        wide = field.valueType == self._nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        return float(field.value.ullVal if wide else field.value.uiVal) * 1e-3

    def why(self, error: Exception) -> tuple[Reason, str]:
        """Reason and words of an NVML error at a reading."""
        why = self._why(error, "a reading failed")
        return why.reason, why.detail

    @property
    def error(self) -> type[Exception]:
        """NVML's own error."""
        return self._nvml.NVMLError  # type: ignore[no-any-return]

    def _probe(self, gpu: Gpu) -> None:
        """Find out by reading what a GPU tells."""
        instant = self._fails(lambda: self.read_power(gpu, INSTANT))
        average = instant and self._fails(lambda: self.read_power(gpu, AVERAGE))
        if not instant:
            gpu.power_source = INSTANT
        elif not average:
            gpu.power_source = AVERAGE
        if not self._fails(lambda: self.read_counter(gpu)):
            gpu.source = COUNTER
        elif gpu.power_source:
            gpu.source = gpu.power_source
        elif average:
            what = f"gpu-{gpu.index} ({gpu.model}) tells neither energy nor power"
            raise MeterError(self._why(average, what))

    def _fails(self, read: Callable[[], float]) -> Exception | None:
        try:
            read()
        except self.error as error:
            return error
        return None

    def _choose(self, gpu: int | str | None, environment: Mapping[str, str]) -> list[Gpu]:
        nvml = self._nvml
        present = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, model = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
            present.append(Gpu(index, uuid, model, handle))
        if gpu is not None:
            return [_pick(present, str(gpu))]
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            chosen = present
        else:
            names = [n.strip() for n in visible.split(",") if n.strip() not in ("", "-1")]
            by_index = any(n.isdigit() for n in names)
            alike = len({g.model for g in present}) < 2
            if by_index and not alike and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
                detail = (
                    f"CUDA_VISIBLE_DEVICES={visible} counts GPUs from the fastest, NVML by PCI "
                    "address, and the models here differ"
                )
                remedy = "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the GPU by its UUID"
                raise MeterError(Unavailable("nvml", Reason.NOT_PRESENT, detail, remedy))
            chosen = [_pick(present, name) for name in names]
        if not chosen:
            detail = "no GPU is present" if not present else f"CUDA_VISIBLE_DEVICES={visible}"
            raise MeterError(Unavailable("nvml", Reason.NOT_PRESENT, detail))
        return chosen

    def _why(self, error: Exception, what: str) -> Unavailable:
        nvml = self._nvml
        code = getattr(error, "value", None)
        reason, remedy = {
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
                Reason.NO_DRIVER,
                "install NVIDIA's driver; in a container start it with the GPUs visible",
            ),
            nvml.NVML_ERROR_DRIVER_NOT_LOADED: (Reason.NO_DRIVER, "`sudo modprobe nvidia`"),
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
                Reason.NO_DRIVER,
                "the driver was updated while it ran: reboot",
            ),
            nvml.NVML_ERROR_NO_PERMISSION: (Reason.PERMISSION, "run as root"),
            nvml.NVML_ERROR_NOT_SUPPORTED: (
                Reason.NOT_SUPPORTED,
                'on a Jetson: install cr2fast-profiler\'s extra `zeus` and use the meter "zeus"',
            ),
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND: (
                Reason.NOT_SUPPORTED,
                "update NVIDIA's driver",
            ),
        }.get(code, (Reason.LOST, "see `nvidia-smi` and dmesg"))
        return Unavailable("nvml", reason, f"{what}: {error}", remedy)


class _Track:
    """Joules of one GPU, and its faults."""

    def __init__(self, meter: NvmlMeter, gpu: Gpu) -> None:
        self._meter = meter
        self._gpu = gpu
        self._name = f"gpu-{gpu.index}"
        self._counter = Counter(self._name, None, MAX_POWER_W, decrease=Reason.RESET)
        self._power = PowerIntegral(self._name)
        self._moved: tuple[int, float] | None = None
        self._rest: PowerIntegral | None = None
        self._stuck = False

    def read(self, t_ns: int) -> tuple[float, list[Fault]]:
        counted = self._gpu.source == COUNTER
        track = self._counter if counted else self._power
        try:
            if counted:
                raw_j = self._meter.read_counter(self._gpu)
                fault = self._at_rest(t_ns, raw_j)
                if self._stuck:
                    return float("nan"), [fault] if fault else []
                joules, fault = self._counter.update(t_ns, raw_j)
            else:
                power_w = self._meter.read_power(self._gpu, self._gpu.source)
                joules, fault = self._power.update(t_ns, power_w)
        except self._meter.error as error:
            reason, detail = self._meter.why(error)
            self._moved = None
            joules, fault = track.lose(t_ns, detail, reason)
        return joules, [fault] if fault else []

    def _at_rest(self, t_ns: int, raw_j: float) -> Fault | None:
        """Hold a counter that rests against power; the fault when it is found stuck."""
        if self._moved is None or raw_j != self._moved[1]:
            if self._stuck:
                self._counter.restart()
            self._moved, self._rest, self._stuck = (t_ns, raw_j), None, False
            return None
        resting_s = (t_ns - self._moved[0]) * 1e-9
        if self._stuck or resting_s < RESTING_S or self._gpu.power_source is None:
            return None
        try:
            power_w = self._meter.read_power(self._gpu, self._gpu.power_source)
        except self._meter.error:
            return None
        if self._rest is None:
            self._rest = PowerIntegral(self._name)
        missed_j, _ = self._rest.update(t_ns, power_w)
        if not missed_j >= STUCK_J:
            return None
        self._stuck = True
        detail = (
            f"the counter has stood at {raw_j:.3f} J for {resting_s:.2f} s while power says "
            f"{power_w:.1f} W"
        )
        return Fault(self._moved[0], self._name, Reason.STUCK, detail)


def _load() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise MeterError(
            Unavailable(
                "nvml", Reason.MISSING_PACKAGE, f"pynvml: {error}", "pip install nvidia-ml-py"
            )
        ) from None
    return pynvml


def _pick(present: list[Gpu], name: str) -> Gpu:
    for gpu in present:
        if name in (str(gpu.index), gpu.uuid) or (
            name.startswith("GPU-") and gpu.uuid.startswith(name)
        ):
            return gpu
    here = ", ".join(f"{g.index} = {g.model} {g.uuid}" for g in present) or "none"
    raise MeterError(Unavailable("nvml", Reason.NOT_PRESENT, f"no GPU {name!r}; present: {here}"))
