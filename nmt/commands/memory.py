"""How much memory work takes on a device, and how much there is."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from nmt.errors import UserError

GIB = 2**30
PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


class Memory(Protocol):
    """The memory of a device, in bytes; work that needs more than ``limit`` does not fit."""

    budget: float
    limit: float

    def begin(self) -> None:
        """Give back what earlier work left, and measure the peak from now on."""
        ...

    def peak(self) -> float:
        """The most that was taken since ``begin``."""
        ...

    def expected(self, size: int, known: Sequence[tuple[int, float]]) -> float:
        """What work of a size will take, from the (size, peak) of others; 0 where that is idle."""
        ...

    def close(self) -> None:
        """Lift the limit."""
        ...


def memory_of(device: torch.device, *, budget: float | None, margin: float) -> Memory:
    """The memory of a device, of which ``budget`` (default: all that is free) may be taken.

    Raises:
        UserError: a device whose memory cannot be watched.
    """
    if device.type == "cuda":
        return CudaMemory(device, budget, margin)
    if device.type == "cpu" and (PROC / "self" / "status").exists():
        return ProcessMemory(budget, margin)
    raise UserError(f"nmt find-batch cannot watch the memory of {device.type} on this system")


class CudaMemory:
    """A GPU's: the allocator is told the limit and raises above it."""

    def __init__(self, device: torch.device, budget: float | None, margin: float) -> None:
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device)
        self._device = device
        self.budget = min(budget or free, float(free))
        self.limit = (1 - margin) * self.budget
        torch.cuda.set_per_process_memory_fraction(self.limit / total, device)

    def begin(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> float:
        return float(torch.cuda.max_memory_reserved(self._device))

    def expected(self, size: int, known: Sequence[tuple[int, float]]) -> float:
        return 0.0

    def close(self) -> None:
        torch.cuda.set_per_process_memory_fraction(1.0, self._device)


class ProcessMemory:
    """This process's, as Linux counts it; nothing stops work that needs more, so it is foreseen."""

    def __init__(self, budget: float | None, margin: float) -> None:
        self.budget = budget or available() + status("VmRSS")
        self.limit = (1 - margin) * self.budget
        self._base = status("VmRSS")

    def begin(self) -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
        self._base = status("VmRSS")
        (PROC / "self" / "clear_refs").write_text("5")  # the peak begins anew (proc(5))

    def peak(self) -> float:
        return status("VmHWM")

    def expected(self, size: int, known: Sequence[tuple[int, float]]) -> float:
        """Along the line through the two largest known sizes, or through what is always taken."""
        if not known:
            return 0.0
        *_, before, last = sorted([(0, min(self._base, known[0][1])), *known])
        return last[1] + (size - last[0]) * (last[1] - before[1]) / (last[0] - before[0])

    def close(self) -> None:
        """There is no limit to lift."""


def status(name: str) -> float:
    """A number of bytes in ``/proc/self/status``."""
    lines = (PROC / "self" / "status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def available() -> float:
    """Bytes that can be taken without swapping, on this machine and in this container."""
    lines = (PROC / "meminfo").read_text().splitlines()
    machine = next(1024.0 * int(li.split()[1]) for li in lines if li.startswith("MemAvailable:"))
    try:
        most = float((CGROUP / "memory.max").read_text())  # "max" is no number: no limit
        return min(machine, most - float((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return machine
