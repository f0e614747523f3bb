from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data.store import StoreWriter, open_store, write_store
from nmt.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
IDS = st.lists(st.integers(0, 2**16 - 1), max_size=6)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(IDS, IDS, TEXT, TEXT), max_size=12), cut=st.integers(0, 12))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[int], list[int], str, str]],
    cut: int,
) -> None:
    path = tmp_path_factory.mktemp("store") / "train.arrow"
    with StoreWriter(path) as writer:
        for part in (rows[:cut], rows[cut:]):
            writer.append(*([row[side] for row in part] for side in range(4)))
    store = open_store(path)
    assert len(store) == len(store.source) == len(store.target) == len(rows)
    assert [ids.tolist() for ids in store.source] == [row[0] for row in rows]
    assert [ids.tolist() for ids in store.target] == [row[1] for row in rows]
    assert store.source_texts() == [row[2] for row in rows]
    assert store.target_texts() == [row[3] for row in rows]
    assert store.source.lengths.tolist() == [len(row[0]) for row in rows]
    assert [store.source_text(i) for i in range(len(rows))] == store.source_texts()
    assert [p.name for p in path.parent.iterdir()] == ["train.arrow"]


def test_rows_are_views_of_one_memory_mapped_run(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_store(path, [[5, 6], [7]], [[1], []], ["a", "b"], ["c", "d"])
    source = open_store(path).source
    assert source.values.dtype == np.uint16
    assert source.offsets.dtype == np.int64
    assert source.offsets.tolist() == [0, 2, 3]
    assert source.lengths.dtype == np.int32
    assert not source.values.flags.owndata
    assert not source.values.flags.writeable
    assert np.shares_memory(source[1], source.values)
    assert source[-1].tolist() == [7]
    with pytest.raises(IndexError):
        source[2]
    with pytest.raises(IndexError):
        source[-3]


def test_texts_of_a_range(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    texts = [f"s{i}" for i in range(10)]
    write_store(path, [[]] * 10, [[]] * 10, texts, texts[::-1])
    store = open_store(path)
    assert store.source_texts(3, 5) == ["s3", "s4"]
    assert store.target_texts(8) == ["s1", "s0"]
    assert store.source_texts(8, 99) == ["s8", "s9"]


def test_large_vocabulary_takes_wider_ids(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_store(path, [[70_000]], [[2]], ["a"], ["b"], vocab_size=80_000)
    store = open_store(path)
    assert store.source.values.dtype == np.int32
    assert store.source[0].tolist() == [70_000]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OverflowError), StoreWriter(tmp_path / "x.arrow") as writer:
        writer.append([[1]], [[-1]], ["a"], ["b"])
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    with pytest.raises(UserError, match=r"x\.arrow.*prepare again"):
        open_store(path)
    write_store(path, [[1]], [[1]], ["a"], ["b"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="prepare again"):
        open_store(path)
