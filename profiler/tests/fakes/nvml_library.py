"""An NVML library of ctypes callbacks, under pynvml's real wrappers."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pynvml
from fakes.clock import FakeClock

OK, NOT_SUPPORTED, NO_PERMISSION = 0, 3, 4
DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, MISMATCH, LOST = 9, 12, 18, 15


@dataclass
class FakeGpu:
    """A GPU of constant power, whose counter ticks; ``errors`` by NVML function."""

    power_w: float = 300.0
    tick_ns: int = 100_000_000
    phase_ns: int = 37_000_000
    model: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-aaaaaaaa-0000"
    start_mj: int = 1_000_000
    instant: bool = True
    counter: bool = True
    average: bool = True
    frozen_mj: int | None = None
    lost: bool = False

    def energy_mj(self, now_ns: int) -> int:
        if self.frozen_mj is not None:
            return self.frozen_mj
        ticks = (now_ns - self.phase_ns) // self.tick_ns
        return self.start_mj + round(ticks * self.tick_ns * self.power_w * 1e-6)

    def status(self, supported: bool) -> int:
        return LOST if self.lost else OK if supported else NOT_SUPPORTED


class FakeNvml:
    """The functions of libnvidia-ml.so.1 that the meter calls."""

    def __init__(self, clock: FakeClock, *gpus: FakeGpu, init: int = OK) -> None:
        self.clock, self.gpus, self.running = clock, gpus, 0
        handle, number = ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint)
        text = ctypes.POINTER(ctypes.c_char)

        def make(function, *types):  # type: ignore[no-untyped-def]
            return ctypes.CFUNCTYPE(ctypes.c_int, *types)(function)

        def start(flags: int) -> int:
            self.running += init == OK
            return init

        def shutdown() -> int:
            self.running -= 1
            return OK

        def count(out):  # type: ignore[no-untyped-def]
            out[0] = len(gpus)
            return OK

        def by_index(index, out):  # type: ignore[no-untyped-def]
            ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = index + 1
            return OK

        def write(out, value: str, length: int) -> int:  # type: ignore[no-untyped-def]
            ctypes.memmove(out, value.encode() + b"\0", min(len(value) + 1, length))
            return OK

        def energy(device, out):  # type: ignore[no-untyped-def]
            out[0] = gpus[device - 1].energy_mj(clock())
            return gpus[device - 1].status(gpus[device - 1].counter)

        def usage(device, out):  # type: ignore[no-untyped-def]
            out[0] = round(gpus[device - 1].power_w * 1e3)
            return gpus[device - 1].status(gpus[device - 1].average)

        def values(device, n, out):  # type: ignore[no-untyped-def]
            field = ctypes.cast(out, ctypes.POINTER(pynvml.c_nvmlFieldValue_t))[0]
            gpu = gpus[device - 1]
            known = gpu.instant and field.fieldId == pynvml.NVML_FI_DEV_POWER_INSTANT
            field.nvmlReturn = OK if known else NOT_SUPPORTED
            field.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
            field.value.uiVal = round(gpu.power_w * 1e3)
            return LOST if gpu.lost else OK

        self.nvmlInitWithFlags = make(start, ctypes.c_uint)
        self.nvmlShutdown = make(shutdown)
        self.nvmlDeviceGetCount_v2 = make(count, number)
        self.nvmlDeviceGetHandleByIndex_v2 = make(by_index, ctypes.c_uint, handle)
        self.nvmlDeviceGetUUID = make(
            lambda d, out, n: write(out, gpus[d - 1].uuid, n), handle, text, ctypes.c_uint
        )
        self.nvmlDeviceGetName = make(
            lambda d, out, n: write(out, gpus[d - 1].model, n), handle, text, ctypes.c_uint
        )
        self.nvmlDeviceGetTotalEnergyConsumption = make(
            energy, handle, ctypes.POINTER(ctypes.c_uint64)
        )
        self.nvmlDeviceGetPowerUsage = make(usage, handle, number)
        self.nvmlDeviceGetFieldValues = make(values, handle, ctypes.c_int32, ctypes.c_void_p)


@contextmanager
def installed(library: FakeNvml) -> Iterator[FakeNvml]:
    """Put a library under pynvml."""
    saved = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    try:
        yield library
    finally:
        pynvml.nvmlLib = saved[0]
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(saved[1])
