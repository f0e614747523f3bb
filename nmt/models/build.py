"""From configuration to module: the only place that maps names to classes.

A pair that is not built is refused here with its reason, before anything expensive begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nmt.config import AttentionConfig, ModelConfig
from nmt.errors import UserError
from nmt.models.attention import SCORES
from nmt.models.recurrent import (
    Attention,
    Bridge,
    CurrentDecoder,
    Decoder,
    Encoder,
    FixedDecoder,
    PreviousDecoder,
    Recurrent,
    StackSize,
)
from nmt.models.seq2seq import Seq2Seq
from nmt.models.transformer import LayerSize, Transformer

RECURRENT_PRESETS = "none|bahdanau|luong_dot|luong_general|luong_concat|scaled_dot|cosine"


def build_model(
    model: ModelConfig, attention: AttentionConfig, source_vocab: int, target_vocab: int
) -> Seq2Seq:
    """A freshly initialised model.

    Raises:
        UserError: the pair is impossible or not built, or model.tie=all meets two vocabularies.
    """
    check_pair(model, attention)
    if model.tie == "all" and source_vocab != target_vocab:
        raise UserError(
            "model.tie=all needs one vocabulary for both languages, here are "
            f"{source_vocab} and {target_vocab} words: set tokenizer.joint=true or "
            "model.tie=decoder"
        )
    if model.kind == "transformer":
        return _transformer(model, source_vocab, target_vocab)
    return _recurrent(model, attention, source_vocab, target_vocab)


def check_pair(
    model: ModelConfig, attention: AttentionConfig, *, joint: bool | None = None
) -> None:
    """Refuses what cannot be built; `joint` says whether both languages share a vocabulary.

    Raises:
        UserError: names the keys that do not go together, why, and what to choose instead.
    """
    if model.tie == "all" and joint is False:
        raise UserError(
            "model.tie=all needs one vocabulary for both languages: set tokenizer.joint=true or "
            "model.tie=decoder"
        )
    if attention.window != "full":
        raise UserError(f"attention.window={attention.window} is not built: use full")
    if model.kind == "transformer":
        _check_transformer(model, attention)
    else:
        _check_recurrent(model, attention)


def _check_transformer(model: ModelConfig, attention: AttentionConfig) -> None:
    if attention.score != "scaled_dot":
        raise UserError(
            f"model={model.name} attention={attention.preset}: a Transformer's layers use scaled "
            "dot-product attention; choose attention=full, or model=lstm for this score"
        )
    if attention.timing is not None or attention.feeding is not None:
        raise UserError(
            f"model={model.name} attention={attention.preset}: attention.timing and "
            "attention.feeding belong to recurrent decoders; choose attention=full"
        )
    if model.width % model.heads:
        raise UserError(
            f"model.heads={model.heads} must divide model.width={model.width}: every head gets an "
            "equal share"
        )


def _check_recurrent(model: ModelConfig, attention: AttentionConfig) -> None:
    if attention.score != "none" and attention.timing is None:
        raise UserError(
            f"model={model.name} attention={attention.preset}: a recurrent model has no "
            f"self-attention, and its decoder must know which state asks; choose "
            f"attention={RECURRENT_PRESETS}"
        )
    if attention.score == "none" and (attention.timing is not None or attention.feeding):
        raise UserError(
            "attention=none has no query and no attentional vector: attention.timing and "
            "attention.feeding have no meaning"
        )
    if attention.timing == "previous" and attention.feeding:
        raise UserError(
            "attention.feeding=true has no meaning with attention.timing=previous: the context "
            "already enters every step; choose attention=luong_concat to feed"
        )
    if model.width % 2:
        raise UserError(
            f"model.width={model.width} must be even: each direction of the encoder has half"
        )
    if model.bridge == "last" and model.decoder_layers > model.encoder_layers:
        raise UserError(
            f"model.bridge=last starts each decoder layer where an encoder layer ended, but there "
            f"are {model.decoder_layers} decoder and {model.encoder_layers} encoder layers: choose "
            "model.bridge=learned or zeros"
        )


def _transformer(model: ModelConfig, source_vocab: int, target_vocab: int) -> Transformer:
    return Transformer(
        source_vocab=source_vocab,
        target_vocab=target_vocab,
        encoder_layers=model.encoder_layers,
        decoder_layers=model.decoder_layers,
        size=LayerSize(
            width=model.width,
            ffn=model.ffn,
            heads=model.heads,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            activation_dropout=model.activation_dropout,
            norm=model.norm.value,
            activation=model.activation.value,
        ),
        positions=model.max_positions if model.positions == "learned" else None,
        tie=model.tie.value,
    )


def _recurrent(
    model: ModelConfig, attention: AttentionConfig, source_vocab: int, target_vocab: int
) -> Recurrent:
    size = StackSize(
        cell=model.cell.value,
        embedding=model.embedding,
        width=model.width,
        layers=model.decoder_layers,
        dropout=model.dropout,
    )
    return Recurrent(
        source_vocab=source_vocab,
        target_vocab=target_vocab,
        tie=model.tie.value,
        size=size,
        encoder=Encoder(replace(size, layers=model.encoder_layers)),
        bridge=Bridge(size, kind=model.bridge.value),
        decoder=_decoder(model, attention, size),
    )


def _decoder(model: ModelConfig, attention: AttentionConfig, size: StackSize) -> Decoder:
    if attention.score == "none":
        return FixedDecoder(size)
    asks = Attention(
        score=SCORES[attention.score.value](model.width), dropout=model.attention_dropout
    )
    if attention.timing == "previous":
        return PreviousDecoder(size, asks)
    return CurrentDecoder(size, asks, feeding=attention.feeding is not False)


@dataclass(frozen=True)
class Size:
    """The number of parameters; embeddings and output layer count as embeddings."""

    total: int
    embeddings: int

    @property
    def body(self) -> int:
        """Parameters that do not grow with the vocabulary."""
        return self.total - self.embeddings


def count_parameters(model: Seq2Seq) -> Size:
    """Counts each shared matrix once."""
    named = dict(model.named_parameters())
    vocabulary = [p for name, p in named.items() if name.startswith(("source_emb", "target_emb"))]
    vocabulary += [p for name, p in named.items() if name.startswith("output_")]
    return Size(sum(p.numel() for p in named.values()), sum(p.numel() for p in vocabulary))
