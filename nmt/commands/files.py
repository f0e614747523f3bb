"""Files that a command was given by name."""

from __future__ import annotations

from pathlib import Path

from nmt.decoding.lines import read_lines
from nmt.errors import UserError


def read_file(path: str) -> list[str]:
    """The lines of a file; what is not UTF-8 is replaced, with a warning.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return read_lines(stream)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
