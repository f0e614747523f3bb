"""What training on a CPU keeps in memory beside its tensors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST = 2**25  # glibc takes no larger threshold than this by itself
_KEPT = 2**30
_SHAPES = "256"


def remember_few_shapes() -> None:
    """Have oneDNN, and PyTorch around it, keep what they made for 256 shapes, if no one chose.

    For every shape of a product in bfloat16 they make code and workspace, and keep 1,024 of them.
    Those of linear layers come again, since `models.projection` rounds their rows; those of
    attention hardly ever, and held the heap apart. The variables are read at the first such product
    of a process.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _SHAPES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", _SHAPES)


@contextmanager
def heap_kept() -> Iterator[None]:
    """Up to 1 GiB that is free at the end of the heap stays with the process, and is used again.

    glibc gives the end of its heap back as soon as 64 MiB of it are free, and the system zeroes
    each page of what is asked for next. A training step on a CPU frees nearly all it has and asks
    for it again. Blocks above 32 MiB are mapped and given back one by one, as ever: in the heap
    they would leave holes that the next of them, which is aligned, does not fit into. With another
    allocator nothing changes.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST)  # where it ends up, but for the next line
    library.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        library.malloc_trim(0)
