"""Memory kept between steps, seen in the page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from nmt.allocator import remember_few_shapes

CODE = """
import resource
from contextlib import nullcontext
from nmt.allocator import heap_kept

def faults():
    blocks = [bytearray(b"x") * (30 << 20) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def of_a_step():
    for _ in range(3):
        faults()
    before = faults()
    return faults() - before

outside = of_a_step()
with heap_kept():
    inside = of_a_step()
after = of_a_step()
with heap_kept():
    large = bytearray(b"x") * (64 << 20)
    held = int(open("/proc/self/statm").read().split()[1])
    del large
    freed = held - int(open("/proc/self/statm").read().split()[1])
print(outside, inside, after, freed)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_the_end_of_the_heap_stays_and_large_blocks_go() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    outside, inside, after, freed = map(int, done.stdout.split())
    assert inside < 100
    assert after >= outside // 2, "trimmed again"
    assert freed > 10_000, "64 MiB are 16,384 pages"


def test_what_was_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    remember_few_shapes()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ.pop("LRU_CACHE_CAPACITY") == "256"
