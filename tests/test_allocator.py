from __future__ import annotations

import ctypes
import os

import pytest
import torch

from nmt.allocator import memory_kept


def faults() -> int:
    """Pages that the system had to give for a block of 64 MiB, right after one was freed."""
    resource = pytest.importorskip("resource")
    block = torch.ones(2**24)
    del block
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def test_memory_is_not_given_back_in_between() -> None:
    if os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("another allocator than glibc's")
    pages = 2**26 // os.sysconf("SC_PAGESIZE")
    outside = faults()
    with memory_kept():
        inside = faults()
    assert inside <= pages // 100
    assert outside == pytest.approx(faults(), abs=pages // 100), "as before"
