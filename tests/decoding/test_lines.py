"""Lines end at newlines only, and none is lost."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.decoding.lines import read_chunks, read_lines


def test_lines_end_at_newlines_only():
    text = "a\u2028b\nc\x0bd\x85e\x0c\x1c\n\nlast"
    assert read_lines(io.BytesIO(text.encode())) == ["a\u2028b", "c\x0bd\x85e\x0c\x1c", "", "last"]
    assert read_lines(io.BytesIO(b"")) == []
    assert read_lines(io.BytesIO(b"\n")) == [""]
    assert read_lines(io.BytesIO(b"a\n")) == ["a"]
    assert read_lines(io.BytesIO(b"\xef\xbb\xbfa\r\nb\r\n")) == ["a", "b"]
    assert read_lines(io.BytesIO(b"a\x00b\n")) == ["a\x00b"]


def test_invalid_bytes_are_replaced_with_a_warning_that_names_the_line():
    said: list[str] = []
    lines = read_lines(io.BytesIO(b"good\nb\xffd\n\xe9t\xe9\n"), report=said.append)
    assert lines == ["good", "b\ufffdd", "\ufffdt\ufffd"]
    assert [s[:6] for s in said] == ["line 2", "line 3"]
    assert "byte 2" in said[0]


class Trickle(io.RawIOBase):
    """A pipe that has a few bytes at a time."""

    def __init__(self, pieces):
        self.pieces = list(pieces)

    def read1(self, size):
        return self.pieces.pop(0) if self.pieces else b""


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.binary(min_size=1, max_size=8), max_size=20), size=st.integers(1, 4))
def test_reading_in_pieces_is_reading_at_once(pieces, size):
    whole = b"".join(pieces)
    chunks = list(read_chunks(Trickle(pieces), lines=size, report=lambda message: None))
    assert all(0 < len(chunk) <= size for chunk in chunks)
    lines = [line for chunk in chunks for line in chunk]
    assert lines == read_lines(io.BytesIO(whole), report=lambda message: None)
    assert len(lines) == whole.count(b"\n") + (not whole.endswith(b"\n") and whole != b"")
