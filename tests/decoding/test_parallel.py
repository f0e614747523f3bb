"""Batches side by side: the answers of one after the other, in their order, and clean ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nmt.decoding.parallel import AT_ONCE, side_by_side
from nmt.decoding.search import SearchOptions
from nmt.decoding.translate import translate
from nmt.translator import Translator

CPU = torch.device("cpu")


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads, whatever the other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_at_once_with_a_thread_each(threads: None) -> None:
    meet = threading.Barrier(2, timeout=60)  # nobody passes alone

    def find(number: int) -> tuple[int, int]:
        meet.wait()
        return number, torch.get_num_threads()

    assert side_by_side(find, range(6), CPU) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 2
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [2]  # threads that come later are as they were before


def test_one_after_the_other_where_nothing_is_gained(threads: None) -> None:
    def here(_: int) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert side_by_side(here, [0], CPU) == [True]
    assert side_by_side(here, [0, 1], torch.device("cuda")) == [True, True]
    assert side_by_side(here, [], CPU) == []
    torch.set_num_threads(1)
    assert side_by_side(here, [0, 1], CPU) == [True, True]


def test_never_more_than_some_at_once(threads: None) -> None:
    torch.set_num_threads(2 * AT_ONCE)
    names = side_by_side(lambda _: threading.current_thread().name, range(50), CPU)
    assert len(set(names)) <= AT_ONCE


def test_an_error_drops_what_has_not_begun(threads: None) -> None:
    begun: list[int] = []

    def find(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError("broken")
        threading.Event().wait(0.05)

    with pytest.raises(ValueError, match="broken"):
        side_by_side(find, range(1000), CPU)
    assert len(begun) < 1000
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_translations_do_not_depend_on_it(
    trained: Path, threads: None, precision: torch.dtype | None
) -> None:
    translator = Translator.load(trained)
    lines = [f"A dog sees {number} cats." for number in range(12)]

    def found() -> list[tuple[str, float]]:
        options = SearchOptions(beam=3, max_length=8)
        run = translator.run
        translations = translate(
            run.model, run.tokenizers, lines, options, batch_tokens=60, precision=precision
        )
        return [(t.text, round(t.score, 5)) for t in translations]

    together = found()
    torch.set_num_threads(1)
    assert found() == together
