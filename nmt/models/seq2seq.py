"""What every translation model is to the rest of the program.

Training calls `forward` and `project`, search `encode`, `start`, `decode` and `projection`; nobody
asks which architecture is behind them. State is passed in and handed back; modules hold only
weights.

Shape letters, in all files of this folder: B sentences, N hypotheses or target rows, S source
length, M memory length, T target length, D width, E embedding width, H heads, d width of a head,
L layers, V vocabulary. Axis 0 is rows. Masks are called keep: boolean, True = may be attended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nmt.errors import UserError
from nmt.models.projection import Linear, linear

AnyMemory = TypeVar("AnyMemory", bound="Memory")
Trace = list[Tensor] | None  # where attention weights are collected, when someone asks


@dataclass
class Source:
    """A batch of source sentences, padded on the right, each ending in end-of-sentence.

    `context` and `regions` are places for further streams; a model that cannot read one refuses it.
    """

    ids_BS: Tensor
    keep_BS: Tensor
    context: Tensor | None = None
    regions: Tensor | None = None


@dataclass(kw_only=True)
class Memory:
    """What the encoder leaves for the decoder, projected keys included; opaque to search.

    `stream_BM` says which stream a slot came from (0 is the source sentence) and `position_BM`
    where in that stream it stood.
    """

    keep_BM: Tensor
    stream_BM: Tensor
    position_BM: Tensor

    @property
    def rows(self) -> int:
        """The number of source rows B."""
        return self.keep_BM.shape[0]

    def select(self: AnyMemory, rows: Tensor) -> AnyMemory:
        """The memory with these source rows, in this order; a row may be named more than once."""
        selected: AnyMemory = take_rows(self, rows)
        return selected

    def repeat(self: AnyMemory, n: int) -> AnyMemory:
        """Each source row n times, copies side by side."""
        rows_B = torch.arange(self.rows, device=self.keep_BM.device)
        return self.select(rows_B.repeat_interleave(n))


@dataclass(frozen=True)
class Reads:
    """Which memory row each hypothesis reads, and whether that is the regular grouping.

    `group` is K when hypothesis n reads memory row n // K, so that the K hypotheses of a sentence
    can share its keys through a view; it is 0 when the order is anything else.
    """

    rows_N: Tensor
    group: int

    @classmethod
    def of(cls, rows_N: Tensor) -> Reads:
        """Looks at the order once, so that no decoding step has to."""
        if rows_N.is_meta or rows_N.numel() == 0:
            return cls(rows_N, 0)
        seen_N = rows_N.cpu()
        group, rest = divmod(len(seen_N), int(seen_N[-1]) + 1)
        regular = rest == 0 and torch.equal(seen_N, torch.arange(len(seen_N)) // max(group, 1))
        return cls(rows_N, group if regular else 0)

    @classmethod
    def each(cls, rows: int, device: torch.device) -> Reads:
        """Row n reads memory row n: teacher forcing."""
        return cls(torch.arange(rows, device=device), 1)

    def select(self, rows: Tensor, reads: Tensor | None) -> Reads:
        """Follows `Cache.select`."""
        return Reads.of(self.rows_N.index_select(0, rows) if reads is None else reads)

    def resolve(self, memory: AnyMemory) -> AnyMemory:
        """The memory such that N is a multiple of its rows and each row serves a run of neighbours.

        That is the memory itself in the regular case, else a gathered copy with one row each.
        """
        if self.group and self.group * memory.rows == len(self.rows_N):
            return memory
        return memory.select(self.rows_N)


class Cache(ABC):
    """What the decoder remembers of each hypothesis; opaque to search."""

    @abstractmethod
    def select(self, rows: Tensor, reads: Tensor | None = None) -> Cache:
        """The cache with these hypotheses, in this order; the old one must not be used again.

        `reads` names the memory row that each of them reads from now on (after `Memory.select`);
        without it each goes on reading the row it read.
        """


@dataclass
class Attentions:
    """Attention weights by layer and head; a kind that a model lacks is None, `missing` says why.

    Row t of `cross` is the row that predicts target token t (it has read tokens 0 to t-1). `norms`
    holds for each kind how large what the slots are read as is, [L, B, H, M]: a weight times its
    norm says how much was added (Kobayashi et al. 2020).
    """

    encoder: Tensor | None  # [L, B, H, S, S]
    decoder: Tensor | None  # [L, B, H, T, T]
    cross: Tensor | None  # [L, B, H, T, M]
    missing: dict[str, str] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)


class Seq2Seq(nn.Module, ABC):
    """Encoder-decoder over token ids, with its embeddings and its output layer.

    `tie` shares matrices: "decoder" the target embedding with the output layer (Press & Wolf 2017),
    "all" the source embedding too, which needs one vocabulary for both sides. A shared matrix is
    one parameter with one name, so that checkpoints hold it once.
    """

    max_source_length: int | None = None  # positions the model knows, None when there is no limit
    max_target_length: int | None = None

    def __init__(
        self, *, source_vocab: int, target_vocab: int, embedding: int, width: int, tie: str
    ) -> None:
        super().__init__()
        self.source_vocab = source_vocab
        self.target_vocab = target_vocab
        self.width = width
        self.target_embedding = nn.Embedding(target_vocab, embedding)
        self.source_embedding = None if tie == "all" else nn.Embedding(source_vocab, embedding)
        self.output_weight = (
            nn.Parameter(torch.empty(target_vocab, width)) if tie == "none" else None
        )
        self.output_bias = nn.Parameter(torch.zeros(target_vocab))
        # A tied output layer is as wide as the embedding: narrow the hidden states to it.
        narrow = tie != "none" and width != embedding
        self.narrow = Linear(width, embedding, bias=False) if narrow else None
        for weight in (self.target_embedding.weight, self.output_weight):
            if weight is not None:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        if self.source_embedding is not None:
            nn.init.normal_(self.source_embedding.weight, std=embedding**-0.5)

    @abstractmethod
    def encode(self, source: Source) -> Memory:
        """Reads each source once and projects the keys of every cross-attention."""

    @abstractmethod
    def begin(self, memory: Memory, reads: Reads, capacity: int) -> Cache:
        """What `start` does, once the order of the rows is known."""

    def start(self, memory: Memory, rows_N: Tensor, capacity: int) -> Cache:
        """An empty cache for N hypotheses; hypothesis n reads memory row rows_N[n].

        `capacity` is the number of target positions to reserve room for; more still fit.
        """
        return self.begin(memory, Reads.of(rows_N), capacity)

    @abstractmethod
    def decode(
        self, tgt_NT: Tensor, memory: Memory, cache: Cache, cross: Trace = None
    ) -> tuple[Tensor, Cache]:
        """Hidden states [N, T, D] after T >= 1 further target tokens, and the cache after them.

        Teacher forcing, a prefix and a single step are this one function; it consumes its cache.
        Where there is a trace, each decoder layer that has cross-attention weights appends them,
        [N, H, T, M] and differentiable.
        """

    @abstractmethod
    def explain(self, source: Source, tgt_BT: Tensor) -> Attentions:
        """The attention weights of teacher forcing, computed on the explicit path."""

    def forward(self, source: Source, tgt_BT: Tensor, cross: Trace = None) -> Tensor:
        """Hidden states [B, T, D] for teacher forcing; the only entry that training uses.

        `cross` collects the cross-attention's weights as in `decode`.
        """
        memory = self.encode(source)
        cache = self.begin(memory, Reads.each(memory.rows, tgt_BT.device), 0)
        hidden_BTD, _ = self.decode(tgt_BT, memory, cache, cross)
        return hidden_BTD

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return self._logits(hidden, self._output_layer(), self.output_bias)

    def projection(self) -> Callable[[Tensor], Tensor]:
        """What `project` computes, for the steps of a search: without gradients.

        Under autocast the matrix is brought into the narrow type once and not at every step.
        """
        device = self.output_bias.device.type
        if not torch.is_autocast_enabled(device):
            return self.project
        narrow = torch.get_autocast_dtype(device)
        weight, bias = self._output_layer().to(narrow), self.output_bias.to(narrow)
        return partial(self._logits, weight=weight, bias=bias)

    def _output_layer(self) -> Tensor:
        return self.target_embedding.weight if self.output_weight is None else self.output_weight

    def _logits(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(hidden if self.narrow is None else self.narrow(hidden), weight, bias)

    def embed_source(self, source: Source) -> Tensor:
        """Source embeddings [B, S, E]; refuses streams that this model has no place for."""
        if source.context is not None or source.regions is not None:
            raise UserError("this model reads one source sentence only: drop context and regions")
        table = self.target_embedding if self.source_embedding is None else self.source_embedding
        embedded: Tensor = table(source.ids_BS)
        return embedded


def take_rows(value: Any, rows: Tensor) -> Any:
    """The rows of every tensor in a dataclass, however deep; None stays None."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.index_select(0, rows)
    if isinstance(value, list):
        return [take_rows(item, rows) for item in value]
    parts = {part.name: take_rows(getattr(value, part.name), rows) for part in fields(value)}
    return replace(value, **parts)


def slots(source: Source) -> tuple[Tensor, Tensor]:
    """Stream and position of each memory slot when the memory is the source sentence itself."""
    positions_S = torch.arange(source.ids_BS.shape[1], device=source.ids_BS.device)
    return torch.zeros_like(source.ids_BS), positions_S.expand_as(source.ids_BS)
