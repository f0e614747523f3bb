"""A run's files: read as what they are or refused, written whole or not at all.

A run directory may come from anywhere. So nothing in it is read through a link, nothing larger than
expected is read into memory, and what was changed since it was written is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nmt.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes may then do the same work twice, nothing worse
    fcntl = None  # type: ignore[assignment]

SMALL = 2**24
"""Bytes above which a JSON or YAML file is not what this program writes."""


class DamagedError(UserError):
    """A file of a run is missing, changed, cut short or not what it claims to be."""


def check_tree(folder: Path) -> None:
    """Refuse a folder that holds anything but folders and plain files, at any depth.

    A link would let whoever made the folder choose what is read or overwritten elsewhere; a pipe
    or device would never end.

    Raises:
        DamagedError: names the first such entry.
    """
    todo = [str(folder)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_symlink():
                        raise DamagedError(
                            f"{entry.path} is a link; links inside a run are not followed: put "
                            "the file itself there"
                        )
                    elif not entry.is_file(follow_symlinks=False):
                        raise DamagedError(f"{entry.path} is damaged: not a plain file")
        except FileNotFoundError:
            continue  # a run that is being trained deletes old checkpoints
        except NotADirectoryError:
            raise UserError(f"{folder} is not a folder") from None
        except PermissionError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error


def read_file(path: Path, *, size: int | None = None, limit: int = SMALL) -> bytes:
    """The bytes of a regular file that is no link, of the given size (else up to ``limit``).

    Raises:
        DamagedError: it is not there, not a plain file, or of another size.
    """
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


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it.

    Args:
        waiting: is called when another process has to be waited for.
    """
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def held(path: Path) -> bool:
    """Whether a process holds a lock file for itself, as training does with a run's ``.lock``.

    Asked by taking the lock shared, for the instant between two calls of the system, which works
    wherever the lock itself does: on network file systems and from another container, of which
    /proc/locks does not tell. Several may ask at once, and whoever wants the lock to write asks
    once more when it is refused (`nmt.runs.owned`), so that asking stops nobody.
    """
    if fcntl is None or not path.exists():
        return False
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


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


def set_aside(path: Path) -> str:
    """Rename to the first free ``*.damaged``; the new name."""
    name, number = f"{path.name}.damaged", 1
    while os.path.lexists(path.with_name(name)):
        number += 1
        name = f"{path.name}.damaged{number}"
    if os.path.lexists(path):
        path.rename(path.with_name(name))
    return name
