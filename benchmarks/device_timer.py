"""Seconds and multiplications of stages on a device; torch alone."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode


class DeviceTimer:
    """Adds up the time of named stages: CUDA events on a GPU, the wall clock on a CPU.

    Args:
        device: Where the work runs.
        count: Whether floating-point operations are counted instead; counting slows the work.
    """

    def __init__(self, device: torch.device, *, count: bool = False) -> None:
        self._cuda = device.type == "cuda"
        self._count = count
        self._operations: dict[str, int] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside; a name that comes again adds to its stage."""
        if self._count:
            with FlopCounterMode(display=False) as counter:
                yield
            self._operations[name] = self._operations.get(name, 0) + counter.get_total_flops()
        elif self._cuda:
            start = torch.cuda.Event(enable_timing=True)
            stop = torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            stop.record()
            self._events.append((name, start, stop))
        else:
            started = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - started)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every stage, once the device has finished."""
        if self._events:
            torch.cuda.synchronize()
        for name, start, stop in self._events:
            self._add(name, start.elapsed_time(stop) / 1000)
        self._events.clear()
        return dict(self._seconds)

    def operations(self) -> dict[str, int]:
        """Return the floating-point operations of every stage's products, two a multiplication."""
        return dict(self._operations)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def matrix_multiply_rates(
    device: torch.device, *, size: int, repeats: int = 10
) -> dict[str, float]:
    """Return the measured operations a second of square products, by number format.

    Args:
        device: Where.
        size: Rows and columns.
        repeats: Products that are timed together, after as many to warm up.
    """

    def rate(dtype: torch.dtype, precision: str) -> float:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            one = torch.randn(size, size, device=device, dtype=dtype)
            seconds = _timed(lambda: one @ one, device, repeats)
        finally:
            torch.set_float32_matmul_precision(before)
        return 2 * size**3 * repeats / seconds

    rates = {"float32": rate(torch.float32, "highest")}
    if device.type == "cuda":
        rates["TF32"] = rate(torch.float32, "high")
    return rates | {"bfloat16": rate(torch.bfloat16, "highest")}


def _timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    for _ in range(repeats):
        work()
    timer = DeviceTimer(device)
    with timer.stage("all"):
        for _ in range(repeats):
            work()
    return timer.seconds()["all"]
