"""The largest micro-batch: found exactly, by memory that ends and by memory that is watched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from nmt import cli
from nmt.commands import find_batch, memory
from nmt.commands.find_batch import search
from nmt.training.learner import Learner


@pytest.mark.parametrize("limit", [0, 511, 512, 513, 4_000, 4_096, 5_000, 65_535, 65_536, 10**6])
@pytest.mark.parametrize(("least", "most"), [(1, 65_536), (700, 30_000), (512, 512)])
def test_the_search_finds_exactly_the_largest(limit: int, least: int, most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    sizes = [size for size in range(512, most + 1, 512) if size >= least]
    assert search(fits, least=least, most=most) == max((s for s in sizes if s <= limit), default=0)
    assert set(tried) <= set(sizes)
    assert len(tried) == len(set(tried)) <= 15


@dataclass
class Scripted:
    """A device on which a batch of more than so many tokens runs out of memory."""

    budget: float = 2.0**30
    limit: float = 2.0**30
    closed: bool = field(default=False)

    def begin(self) -> None: ...

    def peak(self) -> float:
        return 2.0**29

    def expected(self, size: int, known: object) -> float:
        return 0.0

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("words", [["debug=tiny"], ["debug=tiny", "train.accumulate=2"]])
def test_out_of_memory_is_a_size_that_does_not_fit(
    trained: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = Scripted()
    largest = 0
    backward = Learner.backward

    def scarce(self: Learner, batch: object, tokens: int, *, last: bool) -> None:
        nonlocal largest
        padded = batch.source_BS.numel() + batch.target_in_BT.numel()  # type: ignore[attr-defined]
        if padded > 1_700:
            raise torch.OutOfMemoryError("no more")
        largest = max(largest, padded)
        backward(self, batch, tokens, last=last)  # type: ignore[arg-type]

    monkeypatch.setattr(find_batch, "memory_of", lambda *_, **__: device)
    monkeypatch.setattr(Learner, "backward", scarce)
    assert cli.main(["find-batch", *words, "most=4096"]) == 0
    out = capsys.readouterr().out
    assert "train.batch_tokens=1536" in out
    assert "2048      0.50              -  does not fit" in out
    assert device.closed
    assert largest > 1_024


def test_a_real_run_on_the_cpu(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path(trained).rglob("*"))
    assert cli.main(["find-batch", f"run={trained}", "most=1024", "memory=64"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[1:] if line.startswith("  ")]
    assert [int(size) for size, *_ in rows] == [512, 1024]
    assert all(float(peak) > 0.1 and float(speed.replace(",", "")) > 0 for _, peak, speed in rows)
    assert "train.batch_tokens=1024 fits into" in out
    assert "nothing larger was tried" in out
    assert set(Path(trained).rglob("*")) == before
    # Nothing fits into no memory: said after the first size, which is the smallest.
    assert cli.main(["find-batch", f"run={trained}", "memory=0.01"]) == 1
    assert "not even the longest pair fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("memory=-1", "memory=-1: a number above 0"),
        ("memory=much", "memory=much: a number above 0"),
        ("most=10", "the longest pair alone has"),
        ("memroy=1", "did you mean 'memory'"),
        ("train.device=tpu", "train.device=tpu: no such value"),
    ],
)
def test_mistakes(
    trained: Path, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["find-batch", "debug=tiny", word]) == 1
    assert message in capsys.readouterr().err


def test_memory_is_watched_and_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory.memory_of(torch.device("cpu"), budget=None, margin=0.1)
    assert here.limit == pytest.approx(0.9 * here.budget)
    here.begin()
    start = here.peak()
    block = torch.ones(2**23)  # 32 MiB
    assert 2**25 * 0.9 < here.peak() - start < 2**25 * 1.5
    del block
    here.begin()
    assert here.peak() < start + 2**24
    assert here.expected(4, [(1, 3e9), (2, 4e9)]) == pytest.approx(6e9)
    assert here.expected(4, []) == 0
    # In a container that may take less than the machine has.
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 2**20
