"""Bytes to lines, none lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import BinaryIO

Report = Callable[[str], None]
"""Takes warnings, one line each."""

warn: Report = logging.getLogger("nmt").warning


def read_chunks(
    stream: BinaryIO, *, lines: int = 2_000, report: Report = warn
) -> Iterator[list[str]]:
    r"""The lines of a stream, in lists of at most ``lines``, as soon as they are there.

    A line ends in ``\n`` and nowhere else; the last one may lack it. A carriage return before the
    ``\n`` and a byte-order mark before the first line belong to the file, not to the text, and are
    dropped. Bytes that are not UTF-8 become U+FFFD, with a warning that names the line.
    """
    number = 0
    rest: list[bytes] = []

    def decoded(raw: bytes) -> str:
        nonlocal number
        number += 1
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        raw = raw.removesuffix(b"\r")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            report(f"line {number}: not UTF-8 at byte {error.start + 1}; replaced by U+FFFD")
            return raw.decode("utf-8", errors="replace")

    read = getattr(stream, "read1", stream.read)  # read1 returns what a pipe has, without waiting
    while data := read(1 << 20):
        *whole, tail = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*rest, whole[0]])
            rest = []
        rest.append(tail)
        for start in range(0, len(whole), lines):
            yield [decoded(raw) for raw in whole[start : start + lines]]
    if last := b"".join(rest):
        yield [decoded(last)]


def read_lines(stream: BinaryIO, *, report: Report = warn) -> list[str]:
    """All lines of a stream; see `read_chunks`."""
    return [line for chunk in read_chunks(stream, report=report) for line in chunk]
