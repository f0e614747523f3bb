"""Several processes that train one model: start, sum, broadcast, agree, wrap.

Everything is the identity for one process. Tensors on the device travel by the device's backend
(NCCL on GPUs, gloo on CPUs); decisions travel as Python values over a gloo group on the host, so
that agreeing never waits for the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nmt.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``size``, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    host_group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, writes and speaks."""
        return self.rank == 0

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, on the device; ``tensor`` itself is not changed."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank (small and picklable: this is between live processes)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.host_group)
        return box[0]

    def agree(self, *values: float) -> tuple[float, ...]:
        """The largest of each value over ranks; all ranks then decide alike."""
        if self.size == 1:
            return values
        votes = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.host_group)
        return tuple(votes.tolist())

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward averages gradients over ranks; itself for one process."""
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def syncing(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Holds gradients back until the ``last`` micro-batch (the forward must be inside too)."""
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()


@contextmanager
def start(device: str = "auto", *, timeout_minutes: float = 30.0) -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        timeout_minutes: how long a rank waits for the others (rank 0 validates alone) before it
            stops with an error; a rank that died is noticed at once.

    Raises:
        UserError: a device that is not there; fewer GPUs than processes on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = pick_device(device, local)
    if size == 1:
        yield World(device=place)
        return
    if place.type == "mps":
        raise UserError("train.device=mps runs in one process; take cpu, or do not use torchrun")
    backend = "nccl" if place.type == "cuda" else "gloo"
    wait = timedelta(minutes=timeout_minutes)
    dist.init_process_group(backend, timeout=wait)
    try:
        group = dist.new_group(backend="gloo", timeout=wait) if backend == "nccl" else None
        yield World(dist.get_rank(), dist.get_world_size(), place, group or dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``mps``; process i of a machine gets GPU i.

    Raises:
        UserError: the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    if name == "cuda":
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(
                f"train.device=cuda: process {local_rank + 1} of this machine finds {count} "
                f"GPU(s); start fewer processes or take train.device=cpu"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("train.device=mps: there is none; take train.device=auto or cpu")
    if name not in ("cpu", "mps"):
        raise UserError(f"unknown train.device={name}; there are auto, cpu, cuda, mps")
    return torch.device(name)
