"""Several processes that do one job: join, sum, broadcast, agree, wrap, and fail together.

Everything is the identity for one process. Tensors on the device travel by the device's backend
(NCCL on GPUs, gloo on CPUs); decisions travel as Python values over a gloo group on the host, so
that agreeing never waits for the GPU.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

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
    group: dist.ProcessGroup | None = None  # of the device's backend

    def on(self, device: str) -> World:
        """The same processes, computing on ``auto``, ``cpu``, ``cuda`` or ``mps``.

        Raises:
            UserError: a device that is not there; fewer GPUs than processes on this machine.
        """
        place = pick_device(device)
        if self.size == 1 or place.type == "cpu":
            return replace(self, device=place)
        if place.type == "mps":
            raise UserError("train.device=mps runs in one process; take cpu, or no torchrun")
        return replace(self, device=place, group=dist.new_group(backend="nccl"))

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, writes and speaks."""
        return self.rank == 0

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, on the device; ``tensor`` itself is not changed."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank (small and picklable: this is between live processes)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.host_group)
        return box[0]

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, on every rank."""
        return self.broadcast(make()) if self.first else self.broadcast(cast(T, None))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in their order, on rank 0; nothing on the others."""
        if self.size == 1:
            return [value]
        box: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, box, dst=0, group=self.host_group)
        return box or []

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
        return DistributedDataParallel(
            module, device_ids=devices, process_group=self.group, gradient_as_bucket_view=True
        )

    def syncing(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Holds gradients back until the ``last`` micro-batch (the forward must be inside too)."""
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()


@contextmanager
def start(device: str = "auto", *, timeout_minutes: float = 30.0) -> Iterator[World]:
    """`join`, and compute on a device."""
    with join(timeout_minutes=timeout_minutes) as world:
        yield world.on(device)


@contextmanager
def join(*, timeout_minutes: float = 30.0) -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one.

    The first process that fails says why; the others stop within seconds and say nothing, whatever
    they were waiting for.

    Args:
        timeout_minutes: how long a rank waits for the others (rank 0 validates alone) before it
            stops with an error; a rank that died is noticed at once.

    Raises:
        UserError: another process is gone without a word: killed, or its machine is.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    wait, rank = timedelta(minutes=timeout_minutes), int(os.environ["RANK"])
    place = _meeting_place(hosts=rank == 0, wait=wait)
    dist.init_process_group("gloo", store=place, rank=rank, world_size=size, timeout=wait)
    notes = _Notes()
    try:
        yield World(rank, size, host_group=dist.group.WORLD, group=dist.group.WORLD)
    except RuntimeError as error:  # gloo and NCCL raise it when a peer is gone, and torch for bugs
        if notes.failed(wait_seconds=3.0) or not notes.fail():
            raise SystemExit(1) from error  # another one has said why
        if "peer" in str(error):
            raise UserError(
                "another process of this run is gone without a word (killed, out of memory, or its "
                "machine is down); the run goes on from its last checkpoint: start it again, or "
                "let torchrun do so with --max-restarts"
            ) from error
        raise
    except BaseException as error:
        if not notes.fail():
            raise SystemExit(1) from error
        raise
    finally:
        notes.close()
        dist.destroy_process_group()


def _meeting_place(*, hosts: bool, wait: timedelta) -> dist.Store:
    """The store in which processes find each other; after a restart nothing old is read from it."""
    hosts &= os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun is the host
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=hosts, timeout=wait, wait_for_workers=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"nmt/{attempt}", store)


class _Notes:
    """A place beside the process group where the processes leave word that one has failed."""

    GRACE = 5.0  # seconds in which a process may still end by itself

    def __init__(self) -> None:
        self._store = _meeting_place(hosts=False, wait=timedelta(seconds=30))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def fail(self) -> bool:
        """Leave word; whether this process is the first to do so."""
        try:
            with self._lock:
                first = self._store.add("failures", 1) == 1
        except RuntimeError:  # the process that kept the notes is gone: it has failed before
            return False
        if first:
            time.sleep(1.0)  # so that the others read the note before the connection breaks
        return first

    def failed(self, *, wait_seconds: float) -> bool:
        """Whether a process has left word."""
        for _ in range(max(1, int(wait_seconds * 10))):
            try:
                with self._lock:
                    if self._store.add("failures", 0) > 0:
                        return True
            except RuntimeError:
                return True
            time.sleep(0.1)
        return False

    def close(self) -> None:
        """Stop watching, before the interpreter goes: a thread that comes back from the store's C++
        code while Python shuts down would abort the process.
        """
        self._over.set()
        self._watcher.join(self.GRACE)

    def _watch(self) -> None:
        """End this process where it hangs, after another one has failed."""
        while not self._over.wait(1.0):
            if self.failed(wait_seconds=0.0):
                if not self._over.wait(self.GRACE):
                    os._exit(1)
                return


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``mps``; process i of a machine gets GPU i.

    Raises:
        UserError: the machine has no such device.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
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
