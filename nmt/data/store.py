"""One split of prepared data on disk: token ids and texts in one memory-mapped Arrow file.

The file holds a single record batch, so that a column is one run of values and one of offsets:
opening it costs nothing, and all processes of a machine share one copy. Writing streams through
spool files beside it, and takes no more memory for a large split than for a small one.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from nmt.errors import UserError

_NAMES = ("source", "target", "source_text", "target_text")
_SLICE = 2**24  # bytes written at a time


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths: row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    """Token ids of all rows after each other, uint16 where they fit, else int32."""
    offsets: np.ndarray
    """int64, one more than there are rows."""
    lengths: np.ndarray
    """int32, tokens of each row."""

    def __len__(self) -> int:
        return len(self.lengths)

    def first(self, rows: int) -> Ragged:
        """The first rows, or all where there are no more."""
        return Ragged(self.values, self.offsets[: rows + 1], self.lengths[:rows])

    def __getitem__(self, row: int) -> np.ndarray:
        row = range(len(self))[row]
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, slots=True)
class Store:
    """One split; ids come without begin and end."""

    source: Ragged
    target: Ragged
    _source_text: pa.LargeStringArray
    _target_text: pa.LargeStringArray

    def __len__(self) -> int:
        return len(self.source)

    def first(self, rows: int) -> Store:
        """The first rows, or all where there are no more."""
        texts = (text[:rows] for text in (self._source_text, self._target_text))
        return Store(self.source.first(rows), self.target.first(rows), *texts)

    def source_text(self, row: int) -> str:
        return str(self._source_text[row])

    def target_text(self, row: int) -> str:
        return str(self._target_text[row])

    def source_texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Source texts of the rows ``start:stop``."""
        return list(self._source_text[start:stop].to_pylist())

    def target_texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Target texts of the rows ``start:stop``."""
        return list(self._target_text[start:stop].to_pylist())


class StoreWriter:
    """Writes a store chunk by chunk; the file is there once the ``with`` block has ended."""

    def __init__(self, path: Path, vocab_size: int = 2**16) -> None:
        dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)
        self._path = path
        self._columns = [_Spool(path.with_suffix(f".{name}"), dtype) for name in _NAMES[:2]]
        self._texts = [_Spool(path.with_suffix(f".{name}"), None) for name in _NAMES[2:]]

    def append(
        self,
        source_ids: Sequence[Sequence[int]],
        target_ids: Sequence[Sequence[int]],
        source_texts: Sequence[str],
        target_texts: Sequence[str],
    ) -> None:
        for spool, ids in zip(self._columns, (source_ids, target_ids), strict=True):
            spool.extend_ids(ids)
        for spool, texts in zip(self._texts, (source_texts, target_texts), strict=True):
            spool.extend_texts(texts)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spools = [*self._columns, *self._texts]
        try:
            for spool in spools:
                spool.close()
            if kind is None:
                _write(self._path, spools)
        finally:
            for spool in spools:
                spool.unlink()


class _Spool:
    """A ragged column on its way to disk: a file for values, one for offsets."""

    def __init__(self, path: Path, dtype: np.dtype | None) -> None:
        self.paths = path, path.with_name(f"{path.name}.offsets")
        self._dtype = dtype
        self._values, self._offsets = (path.open("wb") for path in self.paths)
        self._offsets.write(bytes(8))
        self._rows = self._end = 0

    def extend_ids(self, rows: Sequence[Sequence[int]]) -> None:
        lengths = [len(row) for row in rows]
        values = np.fromiter(chain.from_iterable(rows), self._dtype, count=sum(lengths))
        self._extend(values.tobytes(), lengths)

    def extend_texts(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._extend(b"".join(encoded), [len(text) for text in encoded])

    def _extend(self, values: bytes, lengths: list[int]) -> None:
        ends = np.cumsum([self._end, *lengths], dtype=np.int64)
        self._values.write(values)
        self._offsets.write(ends[1:].tobytes())
        self._rows += len(lengths)
        self._end = int(ends[-1])

    def close(self) -> None:
        self._values.close()
        self._offsets.close()

    def array(self, mapped: Callable[[Path], pa.Buffer]) -> pa.Array:
        """The column as an Arrow array over the files."""
        values, offsets = map(mapped, self.paths)
        if self._dtype is None:
            return pa.LargeStringArray.from_buffers(self._rows, offsets, values)
        kind = pa.from_numpy_dtype(self._dtype)
        flat = pa.Array.from_buffers(kind, self._end, [None, values])
        return pa.Array.from_buffers(
            pa.large_list(kind), self._rows, [None, offsets], children=[flat]
        )

    def unlink(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)


class _Copier(io.FileIO):
    """An output file that is written from mapped files, and lets go of what it has copied."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._maps: list[mmap.mmap] = []

    def mapped(self, path: Path) -> pa.Buffer:
        with path.open("rb") as file:
            if path.stat().st_size == 0:  # which cannot be mapped
                return pa.py_buffer(b"")
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return pa.py_buffer(self._maps[-1])

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        start = 0
        while start < len(view):
            start += super().write(view[start : start + _SLICE]) or 0
            for mapped in self._maps:
                if hasattr(mapped, "madvise"):  # not on Windows
                    mapped.madvise(mmap.MADV_DONTNEED)
        return start


def _write(path: Path, spools: Sequence[_Spool]) -> None:
    """All columns as one record batch."""
    with _Copier(path) as file:
        columns = [spool.array(file.mapped) for spool in spools]
        batch = pa.RecordBatch.from_arrays(columns, names=list(_NAMES))
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)


def write_store(
    path: Path,
    source_ids: Sequence[Sequence[int]],
    target_ids: Sequence[Sequence[int]],
    source_texts: Sequence[str],
    target_texts: Sequence[str],
    *,
    vocab_size: int = 2**16,
) -> None:
    """Write a whole split at once; equally long sequences, ids below `vocab_size`."""
    with StoreWriter(path, vocab_size) as writer:
        writer.append(source_ids, target_ids, source_texts, target_texts)


def open_store(path: Path) -> Store:
    """Memory-map a store. Raises UserError when it is missing or damaged."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        source, target, source_text, target_text = (batch.column(name) for name in _NAMES)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"cannot read prepared data {path}: {error}; prepare again") from None
    return Store(_ragged(source), _ragged(target), source_text, target_text)


def _ragged(column: Any) -> Ragged:
    offsets = column.offsets.to_numpy(zero_copy_only=True)
    values = column.values.to_numpy(zero_copy_only=True)
    lengths = np.subtract(offsets[1:], offsets[:-1], dtype=np.int32, casting="unsafe")
    return Ragged(values, offsets, lengths)
