"""A model whose probabilities are written down, behind the interface that search sees."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nmt.models.seq2seq import Reads

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL = {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS}

Script = Callable[[tuple[int, ...], tuple[int, ...]], Sequence[float]]
"""(source ids, target ids so far) -> log-probability of each next token."""

Looks = Callable[[tuple[int, ...], tuple[int, ...]], np.ndarray]
"""(source ids, target ids so far) -> attention [layers, heads, source ids] of the next token."""


@dataclass
class ScriptedMemory:
    sources: list[tuple[int, ...]]
    slots: int

    def select(self, rows: Tensor) -> ScriptedMemory:
        return ScriptedMemory([self.sources[r] for r in rows.tolist()], self.slots)


@dataclass
class ScriptedCache:
    reads: list[int]
    past: list[tuple[int, ...]]

    def select(self, rows: Tensor, reads: Tensor | None = None) -> ScriptedCache:
        rows_list = rows.tolist()
        new_reads = [self.reads[r] for r in rows_list] if reads is None else reads.tolist()
        return ScriptedCache(new_reads, [self.past[r] for r in rows_list])


class ScriptedModel(nn.Module):
    """Hidden states are the scripted log-probabilities; counts what search asks for."""

    def __init__(
        self,
        script: Script,
        vocab: int,
        max_target_length: int | None = None,
        looks: Looks | None = None,
    ) -> None:
        super().__init__()
        self.script = script
        self.looks = looks
        self.source_vocab = self.target_vocab = self.width = vocab
        self.max_source_length: int | None = None
        self.max_target_length = max_target_length
        self.encoded = 0
        self.rows: list[int] = []
        self.anchor = nn.Parameter(torch.zeros(1))

    def encode(self, source: SimpleNamespace) -> ScriptedMemory:
        self.encoded += len(source.ids_BS)
        return ScriptedMemory(
            [
                tuple(ids[keep].tolist())
                for ids, keep in zip(source.ids_BS, source.keep_BS, strict=True)
            ],
            source.ids_BS.shape[1],
        )

    def start(self, memory: ScriptedMemory, rows: Tensor, capacity: int) -> ScriptedCache:
        self.capacity = capacity
        return ScriptedCache(rows.tolist(), [()] * len(rows))

    def begin(self, memory: ScriptedMemory, reads: Reads, capacity: int) -> ScriptedCache:
        return self.start(memory, reads.rows_N, capacity)

    def decode(
        self,
        tgt_NT: Tensor,
        memory: ScriptedMemory,
        cache: ScriptedCache,
        cross: list[Tensor] | None = None,
    ) -> tuple[Tensor, ScriptedCache]:
        assert len(tgt_NT) == len(cache.past) == len(cache.reads)
        self.rows.append(len(tgt_NT))
        past = list(cache.past)
        hidden = []
        for step in tgt_NT.T.tolist():
            past = [(*p, token) for p, token in zip(past, step, strict=True)]
            assert max(map(len, past)) <= self.capacity
            hidden.append(
                [
                    list(self.script(memory.sources[read], p[1:]))
                    for read, p in zip(cache.reads, past, strict=True)
                ]
            )
        if cross is not None and self.looks is not None:
            assert tgt_NT.shape[1] == 1
            seen = [
                self.looks(memory.sources[read], p[1:])
                for read, p in zip(cache.reads, past, strict=True)
            ]
            width = ((0, 0), (0, 0))
            seen = [np.pad(s, (*width, (0, memory.slots - s.shape[2]))) for s in seen]
            cross += torch.tensor(np.stack(seen, 1))[:, :, :, None].unbind(0)
        return torch.tensor(hidden, dtype=torch.float64).transpose(0, 1), replace(cache, past=past)

    def projection(self) -> Callable[[Tensor], Tensor]:
        return self.project

    def project(self, hidden: Tensor) -> Tensor:
        return hidden.clone()

    def explain(self, source: SimpleNamespace, tgt_BT: Tensor) -> SimpleNamespace:
        assert len(tgt_BT) == len(source.ids_BS)
        return SimpleNamespace(missing={"cross": "it is a script"})


def random_script(vocab: int, seed: int, sharpness: float = 2.0) -> Script:
    """A different, repeatable distribution for every source and every beginning of a target."""

    def script(source: tuple[int, ...], prefix: tuple[int, ...]) -> list[float]:
        key = zlib.crc32(repr((seed, source, prefix)).encode())
        logits = np.random.default_rng(key).normal(size=vocab) * sharpness
        return list(logits - math.log(np.exp(logits).sum()))

    return script


def random_looks(seed: int, layers: int = 2, heads: int = 3) -> Looks:
    """Different, repeatable, sharp weights for every source and beginning of a target."""

    def looks(source: tuple[int, ...], prefix: tuple[int, ...]) -> np.ndarray:
        key = zlib.crc32(repr((seed, source, prefix, "looks")).encode())
        logits = np.random.default_rng(key).normal(size=(layers, heads, len(source))) * 3
        weights = np.exp(logits)
        return weights / weights.sum(-1, keepdims=True)

    return looks


def make_source(rows: Sequence[Sequence[int]]) -> SimpleNamespace:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = torch.tensor(values)
    keep = torch.tensor([[i < len(values) for i in range(width)] for values in rows])
    return SimpleNamespace(ids_BS=ids, keep_BS=keep)


@pytest.fixture(scope="session")
def scripted() -> SimpleNamespace:
    """The helpers above, for tests (which are not imported as a package)."""
    return SimpleNamespace(
        Model=ScriptedModel,
        random_script=random_script,
        random_looks=random_looks,
        source=make_source,
        special=SPECIAL,
        EOS=EOS,
    )
