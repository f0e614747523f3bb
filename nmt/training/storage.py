"""Files that are either whole or refused: flushed writes, checksums, reads that follow no link."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nmt.errors import UserError


class DamagedError(UserError):
    """A file of a checkpoint is missing, changed, cut short or not what it claims to be."""


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that it holds either what it held or ``data``, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_file(temporary, data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


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


def read_file(path: Path, *, size: int | None = None, limit: int = 2**24) -> bytes:
    """The bytes of a regular file that is no link, of the given size (else below ``limit``)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise DamagedError(f"{path} is damaged: not a plain file")
    with open(handle, "rb") as file:
        if about.st_size != size if size is not None else about.st_size > limit:
            raise DamagedError(f"{path} is damaged: it has {about.st_size} bytes")
        return file.read()


def parsed(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in a file's bytes; ``path`` is for the message."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is damaged: not a JSON object")
    return content


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
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }
