"""A checkpoint's files: folders written whole or not at all, checksums, safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nmt import __version__
from nmt.errors import UserError
from nmt.files import DamagedError, flush_folder, parsed, read_file, write_file


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


def json_bytes(content: Any) -> bytes:
    """JSON for people and programs."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def sealed(content: dict[str, Any]) -> bytes:
    """JSON that carries its own checksum, for the files that no manifest lists."""
    checksum = hashlib.sha256(json_bytes(content)).hexdigest()
    return json_bytes({**content, "checksum": checksum})


def unsealed(path: Path) -> dict[str, Any]:
    """What ``sealed`` wrote, once its checksum is found to be right."""
    data = read_file(path)
    content = parsed(path, data)
    content.pop("checksum", None)
    if data != sealed(content):
        raise DamagedError(f"{path} is damaged: its checksum does not match")
    return content


def parsed_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes; ``path`` is for the message."""
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def set_aside(path: Path) -> str:
    """Rename to the first free ``*.damaged``; the new name."""
    name, number = f"{path.name}.damaged", 1
    while os.path.lexists(path.with_name(name)):
        number += 1
        name = f"{path.name}.damaged{number}"
    if os.path.lexists(path):
        path.rename(path.with_name(name))
    return name


def library_versions() -> dict[str, str]:
    """Versions that the numbers of a run depend on."""
    return {
        "nmt": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }
