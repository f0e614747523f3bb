"""A checkpoint's files: folders written whole or not at all, checksums, safetensors."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nmt import __version__
from nmt.errors import UserError
from nmt.files import DamagedError, flush_folder, write_file


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files so that it is there complete or not at all.

    Whatever is at ``path`` goes: the caller knows that nobody refers to it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    for leftover in (temporary, path):
        if leftover.exists():
            shutil.rmtree(leftover)
    try:
        temporary.mkdir()
        for name, data in files.items():
            write_file(temporary / name, data)
        flush_folder(temporary)
        temporary.rename(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(path.parent)


@contextmanager
def clear_errors(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` of writing (full disk, no permission) into one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"could not save {target}: {error.strerror or error}; earlier checkpoints are "
            f"untouched: make room or write access and run the command again"
        ) from error


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors."""
    return bytes(
        safetensors.torch.save({k: t.detach().cpu().contiguous() for k, t in tensors.items()})
    )


def parsed_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes; ``path`` is for the message."""
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def library_versions() -> dict[str, str]:
    """Versions that the numbers of a run depend on."""
    return {
        "nmt": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }
