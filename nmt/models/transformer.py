"""The Transformer (Vaswani et al. 2017): encoder, decoder, positions.

Shape letters as in seq2seq.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.errors import UserError
from nmt.models.attention import CrossAttention, Past, SelfAttention, causal_keep
from nmt.models.seq2seq import Attentions, Cache, Memory, Reads, Seq2Seq, Source, slots


@dataclass(kw_only=True)
class TransformerMemory(Memory):
    """Keys and values [B, H, M, d] for the cross-attention of every decoder layer."""

    keys: list[Tensor]
    values: list[Tensor]


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
        self.dropout = nn.Dropout(dropout)

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
        self.up = nn.Linear(width, inner)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(inner, width)
        for linear in (self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] from [..., D]."""
        out: Tensor = self.down(self.dropout(self.activation(self.up(x))))
        return out


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """The numbers that every layer of a Transformer shares."""

    width: int
    ffn: int
    heads: int
    dropout: float
    attention_dropout: float
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

    def __init__(self, size: LayerSize) -> None:
        super().__init__()
        self.self_attention = SelfAttention(
            width=size.width, heads=size.heads, dropout=size.attention_dropout
        )
        self.self_residual = size.residual()
        self.feed_forward = size.feed_forward()
        self.feed_residual = size.residual()

    def forward(self, x_BSD: Tensor, keep: Tensor, trace: list[Tensor] | None) -> Tensor:
        """[B, S, D] from [B, S, D]."""
        x_BSD = self.self_residual(x_BSD, lambda x: self.self_attention(x, keep, trace=trace))
        out_BSD: Tensor = self.feed_residual(x_BSD, self.feed_forward)
        return out_BSD


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network."""

    def __init__(self, size: LayerSize) -> None:
        super().__init__()
        self.self_attention = SelfAttention(
            width=size.width, heads=size.heads, dropout=size.attention_dropout
        )
        self.self_residual = size.residual()
        self.cross_attention = CrossAttention(
            width=size.width, heads=size.heads, dropout=size.attention_dropout
        )
        self.cross_residual = size.residual()
        self.feed_forward = size.feed_forward()
        self.feed_residual = size.residual()

    def forward(
        self,
        x_NTD: Tensor,
        keep_TM: Tensor | None,
        past: Past,
        keys_values: tuple[Tensor, Tensor],
        keep_BM: Tensor,
        traces: tuple[list[Tensor], list[Tensor]] | tuple[None, None],
    ) -> Tensor:
        """[N, T, D] from [N, T, D]; extends `past`. Traces are those of self and cross."""
        keys, values = keys_values
        x_NTD = self.self_residual(
            x_NTD, lambda x: self.self_attention(x, keep_TM, past=past, trace=traces[0])
        )
        x_NTD = self.cross_residual(
            x_NTD, lambda x: self.cross_attention(x, keys, values, keep_BM, trace=traces[1])
        )
        out_NTD: Tensor = self.feed_residual(x_NTD, self.feed_forward)
        return out_NTD


def sinusoids(start: int, count: int, width: int, device: torch.device) -> Tensor:
    """Positions start .. start + count - 1 as [T, D] (Vaswani et al. 2017, Sect. 3.5).

    Sines fill the first half and cosines the second; the paper interleaves them, which is the same
    up to a permutation of the width. Computed on demand, so there is no longest sentence.
    """
    half = (width + 1) // 2
    exponents = torch.arange(half, device=device, dtype=torch.float32) * (2.0 / width)
    rates = torch.exp(exponents * -math.log(10_000.0))
    angles = torch.arange(start, start + count, device=device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width]


class Positions(nn.Module):
    """Scales embeddings by sqrt(D), adds positions, drops out.

    `known` learned positions, or sinusoidal ones without limit when it is None.
    """

    def __init__(self, *, width: int, known: int | None, dropout: float) -> None:
        super().__init__()
        self.known = known
        self.scale = width**0.5
        self.table = None if known is None else nn.Embedding(known, width)
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, embedded_NTD: Tensor, start: int) -> Tensor:
        """[N, T, D] from embeddings of the positions from `start` on."""
        count, width = embedded_NTD.shape[1:]
        if self.table is None:
            place_TD = sinusoids(start, count, width, embedded_NTD.device)
        elif self.known is not None and start + count > self.known:
            raise UserError(
                f"{start + count} positions, but the model has learned {self.known}: shorten the "
                "sentence, or train with model.positions=sinusoidal or a larger model.max_positions"
            )
        else:
            place_TD = self.table.weight[start : start + count]
        out: Tensor = self.dropout(embedded_NTD * self.scale + place_TD.to(embedded_NTD.dtype))
        return out


class Transformer(Seq2Seq):
    """Encoder-decoder with self-attention on both sides and full cross-attention.

    `positions` is the number of learned positions, None for sinusoidal ones.
    """

    def __init__(
        self,
        *,
        source_vocab: int,
        target_vocab: int,
        encoder_layers: int,
        decoder_layers: int,
        size: LayerSize,
        positions: int | None,
        tie: str,
    ) -> None:
        super().__init__(
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            embedding=size.width,
            width=size.width,
            tie=tie,
        )
        self.max_source_length = self.max_target_length = positions
        self.source_positions = Positions(width=size.width, known=positions, dropout=size.dropout)
        self.target_positions = Positions(width=size.width, known=positions, dropout=size.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(size) for _ in range(encoder_layers))
        self.encoder_norm = size.final_norm()
        self.decoder = nn.ModuleList(DecoderLayer(size) for _ in range(decoder_layers))
        self.decoder_norm = size.final_norm()

    def encode(self, source: Source) -> TransformerMemory:
        return self._encode(source, None)

    def _encode(self, source: Source, trace: list[Tensor] | None) -> TransformerMemory:
        x_BSD = self.source_positions(self.embed_source(source), 0)
        keep = source.keep_BS[:, None, None, :]
        for layer in self.encoder:
            x_BSD = layer(x_BSD, keep, trace)
        x_BSD = self.encoder_norm(x_BSD)
        projected = [layer.cross_attention.keys_values(x_BSD) for layer in self._layers()]
        stream_BM, position_BM = slots(source)
        return TransformerMemory(
            keep_BM=source.keep_BS,
            stream_BM=stream_BM,
            position_BM=position_BM,
            keys=[keys for keys, _ in projected],
            values=[values for _, values in projected],
        )

    def begin(self, memory: Memory, reads: Reads, capacity: int) -> TransformerCache:
        return TransformerCache([Past(capacity) for _ in self.decoder], 0, reads)

    def decode(
        self, tgt_NT: Tensor, memory: Memory, cache: Cache
    ) -> tuple[Tensor, TransformerCache]:
        return self._decode(tgt_NT, memory, cache, (None, None))

    def _decode(
        self,
        tgt_NT: Tensor,
        memory: Memory,
        cache: Cache,
        traces: tuple[list[Tensor], list[Tensor]] | tuple[None, None],
    ) -> tuple[Tensor, TransformerCache]:
        assert isinstance(memory, TransformerMemory)
        assert isinstance(cache, TransformerCache)
        count = tgt_NT.shape[1]
        x_NTD = self.target_positions(self.target_embedding(tgt_NT), cache.length)
        keep_TM = causal_keep(count, cache.length + count, tgt_NT.device)
        memory = cache.reads.resolve(memory)
        for layer, past, *projected in zip(
            self.decoder, cache.past, memory.keys, memory.values, strict=True
        ):
            x_NTD = layer(x_NTD, keep_TM, past, projected, memory.keep_BM, traces)
        cache = TransformerCache(cache.past, cache.length + count, cache.reads)
        return self.decoder_norm(x_NTD), cache

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    @torch.no_grad()
    def explain(self, source: Source, tgt_BT: Tensor) -> Attentions:
        encoder: list[Tensor] = []
        decoder: list[Tensor] = []
        cross: list[Tensor] = []
        memory = self._encode(source, encoder)
        cache = self.begin(memory, Reads.each(memory.rows, tgt_BT.device), 0)
        self._decode(tgt_BT, memory, cache, (decoder, cross))
        return Attentions(torch.stack(encoder), torch.stack(decoder), torch.stack(cross))
