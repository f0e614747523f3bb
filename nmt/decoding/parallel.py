"""Batches of a search side by side: on a CPU two searches of one thread outrun one of two threads.

A step of a search is some hundred small operations, which do not divide well among threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Answer = TypeVar("Answer")

AT_ONCE = 4
"""Most batches at once: each takes memory, and what Python does between operations takes turns."""


def side_by_side(
    find: Callable[[Job], Answer], jobs: Sequence[Job], device: torch.device
) -> list[Answer]:
    """``find`` of each job, in their order; several at once where there are CPU threads for it.

    Python's threads begin in no context of PyTorch's: ``find`` has to enter inference mode itself.
    An error, or Ctrl-C, drops the jobs that have not begun.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs), AT_ONCE)
    if device.type != "cpu" or workers < 2:
        return [find(job) for job in jobs]
    own = threads // workers
    try:
        with ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(own)) as pool:
            return list(pool.map(find, jobs))
    finally:
        torch.set_num_threads(threads)  # for threads to come, which begin with the last number set
