"""The Transformer (Vaswani et al. 2017): encoder and decoder.

Shape letters as in seq2seq.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.models.dropout import Dropout
from nmt.models.multihead import CrossAttention, Past, Remembered, SelfAttention
from nmt.models.positions import Positions, Rotation, rotation
from nmt.models.projection import Linear
from nmt.models.seq2seq import Attentions, Cache, Memory, Reads, Seq2Seq, Source, Trace, slots


@dataclass(kw_only=True)
class TransformerMemory(Memory):
    """What the cross-attention of every decoder layer reads: keys and values, or their sums."""

    layers: list[Remembered]


@dataclass
class TransformerCache(Cache):
    """The positions each decoder layer has read; all hypotheses are equally long."""

    past: list[Past]
    length: int
    reads: Reads

    def select(self, rows: Tensor, reads: Tensor | None = None) -> TransformerCache:
        past = [layer.select(rows) for layer in self.past]
        return TransformerCache(past, self.length, self.reads.select(rows, reads))


class Residual(nn.Module):
    """Normalisation, dropout and the way around a sub-layer.

    pre: x + f(norm(x)) (Xiong et al. 2020); post: norm(x + f(x)) (Vaswani et al. 2017, Sect. 3.1).
    """

    def __init__(self, *, width: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """[N, T, D] from [N, T, D]."""
        if self.pre:
            out: Tensor = x + self.dropout(sublayer(self.norm(x)))
        else:
            out = self.norm(x + self.dropout(sublayer(x)))
        return out


class FeedForward(nn.Module):
    """W2 f(W1 x + b1) + b2 at every position (Vaswani et al. 2017, Eq. 2)."""

    def __init__(self, *, width: int, inner: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.up = Linear(width, inner)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.dropout = Dropout(dropout)
        self.down = Linear(inner, width)
        for linear in (self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] from [..., D]."""
        out: Tensor = self.down(self.dropout(self.activation(self.up(x))))
        return out


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """The numbers that every layer of a Transformer shares, its attentions' aside."""

    width: int
    ffn: int
    dropout: float
    activation_dropout: float
    norm: str  # pre | post
    activation: str  # relu | gelu

    def residual(self) -> Residual:
        return Residual(width=self.width, dropout=self.dropout, norm=self.norm)

    def feed_forward(self) -> FeedForward:
        return FeedForward(
            width=self.width,
            inner=self.ffn,
            activation=self.activation,
            dropout=self.activation_dropout,
        )

    def final_norm(self) -> nn.Module:
        """A pre-norm stack ends un-normalised, so it gets one norm more."""
        return nn.LayerNorm(self.width) if self.norm == "pre" else nn.Identity()


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network."""

    def __init__(self, size: LayerSize, self_attention: SelfAttention) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_residual = size.residual()
        self.feed_forward = size.feed_forward()
        self.feed_residual = size.residual()

    def forward(
        self, x_BSD: Tensor, mask: Tensor | None, turn: Rotation | None, trace: Trace
    ) -> Tensor:
        """[B, S, D] from [B, S, D]."""
        x_BSD = self.self_residual(
            x_BSD, lambda x: self.self_attention(x, mask, turn=turn, trace=trace)
        )
        out_BSD: Tensor = self.feed_residual(x_BSD, self.feed_forward)
        return out_BSD


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network."""

    def __init__(
        self, size: LayerSize, self_attention: SelfAttention, cross_attention: CrossAttention
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_residual = size.residual()
        self.cross_attention = cross_attention
        self.cross_residual = size.residual()
        self.feed_forward = size.feed_forward()
        self.feed_residual = size.residual()

    def forward(
        self,
        x_NTD: Tensor,
        mask: Tensor | None,
        turn: Rotation | None,
        past: Past,
        remembered: Remembered,
        keep_BM: Tensor,
        cross: Trace,
        itself: Trace,
    ) -> Tensor:
        """[N, T, D] from [N, T, D]; extends `past` and the traces of cross- and self-attention."""
        x_NTD = self.self_residual(
            x_NTD, lambda x: self.self_attention(x, mask, past=past, turn=turn, trace=itself)
        )
        x_NTD = self.cross_residual(
            x_NTD, lambda x: self.cross_attention(x, remembered, keep_BM, trace=cross)
        )
        out_NTD: Tensor = self.feed_residual(x_NTD, self.feed_forward)
        return out_NTD


class Transformer(Seq2Seq):
    """Encoder-decoder with self-attention on both sides and cross-attention between them.

    `positions` is sinusoidal, learned (`known` of them), rotary or none. Layers of one side are of
    one kind, so that their first one makes the mask of all.
    """

    def __init__(
        self,
        *,
        source_vocab: int,
        target_vocab: int,
        encoder: Sequence[EncoderLayer],
        decoder: Sequence[DecoderLayer],
        size: LayerSize,
        positions: str,
        known: int,
        tie: str,
    ) -> None:
        super().__init__(
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            embedding=size.width,
            width=size.width,
            tie=tie,
        )
        self.rotary = positions == "rotary"
        self.source_positions = Positions(
            kind=positions, width=size.width, known=known, dropout=size.dropout
        )
        self.target_positions = Positions(
            kind=positions, width=size.width, known=known, dropout=size.dropout
        )
        self.max_source_length = self.max_target_length = self.source_positions.limit
        self.encoder = nn.ModuleList(encoder)
        self.encoder_norm = size.final_norm()
        self.decoder = nn.ModuleList(decoder)
        self.decoder_norm = size.final_norm()

    def encode(self, source: Source) -> TransformerMemory:
        return self._encode(source, None)

    def _encode(self, source: Source, trace: Trace) -> TransformerMemory:
        x_BSD = self.source_positions(self.embed_source(source), 0)
        first, _ = self._first()
        mask, turn = first.mask(source.keep_BS, 0), self._turn(x_BSD, 0)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, mask, turn, trace)
        x_BSD = self.encoder_norm(x_BSD)
        stream_BM, position_BM = slots(source)
        return TransformerMemory(
            keep_BM=source.keep_BS,
            stream_BM=stream_BM,
            position_BM=position_BM,
            layers=[
                layer.cross_attention.remember(x_BSD, source.keep_BS) for layer in self._layers()
            ],
        )

    def begin(self, memory: Memory, reads: Reads, capacity: int) -> TransformerCache:
        past = [layer.self_attention.begin(capacity) for layer in self._layers()]
        return TransformerCache(past, 0, reads)

    def decode(
        self, tgt_NT: Tensor, memory: Memory, cache: Cache, cross: Trace = None
    ) -> tuple[Tensor, TransformerCache]:
        return self._decode(tgt_NT, memory, cache, cross, None)

    def _decode(
        self, tgt_NT: Tensor, memory: Memory, cache: Cache, cross: Trace, itself: Trace
    ) -> tuple[Tensor, TransformerCache]:
        assert isinstance(memory, TransformerMemory)
        assert isinstance(cache, TransformerCache)
        x_NTD = self.target_positions(self.target_embedding(tgt_NT), cache.length)
        _, first = self._first()
        mask = first.mask(torch.ones_like(tgt_NT, dtype=torch.bool), cache.length)
        turn = self._turn(x_NTD, cache.length)
        memory = cache.reads.resolve(memory)
        keep_BM = memory.keep_BM
        for layer, past, remembered in zip(self.decoder, cache.past, memory.layers, strict=True):
            x_NTD = layer(x_NTD, mask, turn, past, remembered, keep_BM, cross, itself)
        cache = TransformerCache(cache.past, cache.length + tgt_NT.shape[1], cache.reads)
        return self.decoder_norm(x_NTD), cache

    def attentions(self) -> dict[str, list[SelfAttention | CrossAttention]]:
        """The attention of each layer, by kind as in `Attentions`."""
        encoder = [
            layer.self_attention for layer in self.encoder if isinstance(layer, EncoderLayer)
        ]
        decoder = self._layers()
        return {
            "encoder": [*encoder],
            "decoder": [layer.self_attention for layer in decoder],
            "cross": [layer.cross_attention for layer in decoder],
        }

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def _first(self) -> tuple[SelfAttention, SelfAttention]:
        """The self-attention of the first encoder and the first decoder layer."""
        encoder, decoder = self.encoder[0], self.decoder[0]
        assert isinstance(encoder, EncoderLayer)
        assert isinstance(decoder, DecoderLayer)
        return encoder.self_attention, decoder.self_attention

    def _turn(self, x_NTD: Tensor, start: int) -> Rotation | None:
        if not self.rotary:
            return None
        width = self._first()[0].size.head_width
        return rotation(start, x_NTD.shape[1], width, x_NTD)

    @torch.no_grad()
    def explain(self, source: Source, tgt_BT: Tensor) -> Attentions:
        encoder: list[Tensor] = []
        decoder: list[Tensor] = []
        cross: list[Tensor] = []
        with self._weighing() as norms:
            memory = self._encode(source, encoder)
            cache = self.begin(memory, Reads.each(memory.rows, tgt_BT.device), 0)
            self._decode(tgt_BT, memory, cache, cross, decoder)
        first = self._layers()[0].cross_attention
        kinds = {"encoder": self._first()[0], "decoder": self._first()[1], "cross": first}
        missing = {name: kind.no_weights for name, kind in kinds.items() if kind.no_weights}
        sizes = {name: torch.stack(n) for name, n in norms.items() if name not in missing}
        return Attentions(_stack(encoder), _stack(decoder), _stack(cross), missing, sizes)

    @contextmanager
    def _weighing(self) -> Iterator[dict[str, list[Tensor]]]:
        """Collects the norms of what each attention reads, by kind and layer, while it lasts."""
        norms: dict[str, list[Tensor]] = {}
        with ExitStack() as hooks:
            for name, attentions in self.attentions().items():
                found = norms.setdefault(name, [])
                for attention in attentions:
                    hooks.callback(attention.record_norms(found))
            yield norms


def _stack(layers: list[Tensor]) -> Tensor | None:
    return torch.stack(layers) if layers else None
