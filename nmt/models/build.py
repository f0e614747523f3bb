"""From configuration to module: the only place that maps names to classes.

A pair that is not built is refused here with its reason, before anything expensive begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nmt.config import AttentionConfig, ModelConfig, Pattern
from nmt.errors import UserError
from nmt.models.attention import SCORES, Cosine, Score
from nmt.models.linear import LinearCrossAttention, LinearSelfAttention
from nmt.models.multihead import (
    CrossAttention,
    FullCrossAttention,
    FullSelfAttention,
    HeadSize,
    SelfAttention,
)
from nmt.models.recurrent import (
    Bridge,
    CurrentDecoder,
    Decoder,
    Encoder,
    FixedDecoder,
    PreviousDecoder,
    Recurrent,
    StackSize,
)
from nmt.models.recurrent_attention import Attention, Coverage, Heads, LocalM, LocalP
from nmt.models.seq2seq import Seq2Seq
from nmt.models.sliding import SlidingSelfAttention
from nmt.models.transformer import DecoderLayer, EncoderLayer, LayerSize, Transformer

RECURRENT_PRESETS = (
    "none|bahdanau|luong_dot|luong_general|luong_concat|scaled_dot|cosine|location|local_m|local_p"
)


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
        return _transformer(model, attention, source_vocab, target_vocab)
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
    if attention.learn_temperature is not None and attention.score != "cosine":
        raise UserError(
            f"attention.learn_temperature is the cosine score's, and attention.score="
            f"{attention.score}: choose attention.score=cosine or leave it null"
        )
    if model.kind == "transformer":
        _check_transformer(model, attention)
    else:
        _check_recurrent(model, attention)


def _check_transformer(model: ModelConfig, attention: AttentionConfig) -> None:
    pair = f"model={model.name} attention={attention.preset}"
    foreign = {
        "timing": attention.timing is not None,
        "feeding": attention.feeding is not None,
        "window": attention.window != "full",
        "heads": attention.heads is not None,
        "coverage": attention.coverage,
    }
    for name in [name for name, is_set in foreign.items() if is_set]:
        instead = "model.heads" if name == "heads" else "attention=full"
        raise UserError(
            f"{pair}: attention.{name} belongs to recurrent decoders; choose {instead} or "
            "model=lstm"
        )
    if attention.score == "none":
        raise UserError(
            f"{pair}: without attention no position of a Transformer learns of another; choose "
            "attention=full, or model=lstm for a fixed context vector"
        )
    if attention.score == "location":
        raise UserError(
            f"{pair}: the location score reads the weights of the step before, and a Transformer "
            "computes all steps at once; choose attention.score=additive, or model=lstm"
        )
    _check_patterns(model, attention)
    _check_head_width(model)
    if model.positions == "rotary":
        _check_rotary(model, attention)
    _masked_heads(model, attention)


def _check_patterns(model: ModelConfig, attention: AttentionConfig) -> None:
    if attention.cross == "sliding":
        raise UserError(
            "attention.cross=sliding has no meaning: a target position has no place in the source "
            "around which a window could lie; choose attention.cross=full or linear"
        )
    if {attention.encoder, attention.decoder, attention.cross} != {Pattern.linear}:
        return
    for key, is_set in (
        (f"attention.score={attention.score}", attention.score != "scaled_dot"),
        (f"model.attention_dropout={model.attention_dropout}", model.attention_dropout > 0.0),
    ):
        if is_set:
            raise UserError(
                f"{key} has no meaning where encoder, decoder and cross are all linear: linear "
                "attention has a feature map and no weights; leave it out or choose a full or "
                "sliding pattern for one of them"
            )


def _check_head_width(model: ModelConfig) -> None:
    if model.head_width is None and model.width % model.heads:
        raise UserError(
            f"model.heads={model.heads} must divide model.width={model.width}, for every head gets "
            "an equal share; or set model.head_width"
        )


def _check_rotary(model: ModelConfig, attention: AttentionConfig) -> None:
    what = "model.positions=rotary turns queries and keys, so that their product depends on the"
    if Pattern.linear in (attention.encoder, attention.decoder):
        raise UserError(
            f"{what} distance; the feature map of linear attention takes that away: choose "
            "model.positions=sinusoidal, or full or sliding for attention.encoder and .decoder"
        )
    if attention.score not in ("dot", "scaled_dot", "cosine"):
        raise UserError(
            f"{what} distance; attention.score={attention.score} is not that product, it projects "
            "them once more: choose attention.score=scaled_dot, dot or cosine, or "
            "model.positions=sinusoidal"
        )
    if _head_width(model) % 2:
        raise UserError(
            f"model.positions=rotary turns pairs of numbers, but heads are {_head_width(model)} "
            "wide: choose an even model.head_width or another model.heads"
        )


def _head_width(model: ModelConfig) -> int:
    return model.head_width or model.width // model.heads


def _check_recurrent(model: ModelConfig, attention: AttentionConfig) -> None:
    patterns = {
        "encoder": attention.encoder,
        "decoder": attention.decoder,
        "cross": attention.cross,
    }
    for place, pattern in patterns.items():
        if pattern != "full":
            raise UserError(
                f"model={model.name} attention={attention.preset}: attention.{place}={pattern} is "
                "for a Transformer's layers, which a recurrent model lacks; choose "
                f"attention={RECURRENT_PRESETS} (local_m and local_p have windows), or "
                "model=transformer_tiny"
            )
    if attention.score == "none":
        _check_without_attention(model, attention)
    else:
        _check_reading(model, attention)
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


def _check_without_attention(model: ModelConfig, attention: AttentionConfig) -> None:
    meaningless = {
        "attention.timing": attention.timing is not None,
        "attention.feeding": bool(attention.feeding),
        "attention.window": attention.window != "full",
        "attention.heads": attention.heads is not None,
        "attention.coverage": attention.coverage,
        "attention.masked_heads": bool(attention.masked_heads),
        "model.head_width": model.head_width is not None,
    }
    names = ", ".join(name for name, is_set in meaningless.items() if is_set)
    if names:
        raise UserError(
            "attention=none reads one fixed vector and has no query, no weights and no attentional "
            f"vector, so that {names} has no meaning: leave it out or choose "
            "attention=luong_general"
        )


def _check_reading(model: ModelConfig, attention: AttentionConfig) -> None:
    if attention.timing is None:
        raise UserError(
            f"model={model.name} attention={attention.preset}: a recurrent model has no "
            f"self-attention, and its decoder must know which state asks; choose "
            f"attention={RECURRENT_PRESETS}"
        )
    if attention.timing == "previous" and attention.feeding:
        raise UserError(
            "attention.feeding=true has no meaning with attention.timing=previous: the context "
            "already enters every step; choose attention=luong_concat to feed"
        )
    if attention.coverage and attention.score not in ("additive", "location"):
        raise UserError(
            f"attention.coverage=true with attention.score={attention.score}: coverage is a term "
            "within the tanh of the additive score, and this score has none; choose "
            "attention.score=additive or location"
        )
    heads = attention.heads or 1
    if heads == 1 and model.head_width is not None:
        raise UserError(
            f"model.head_width={model.head_width} with one head: states are compared as they are, "
            "without projections; set attention.heads above 1 or leave model.head_width out"
        )
    if heads > 1 and model.head_width is None and model.width % heads:
        raise UserError(
            f"attention.heads={heads} must divide model.width={model.width}, for every head gets "
            "an equal share; or set model.head_width"
        )
    for place, layers in (("encoder", 0), ("decoder", 0), ("cross", 1)):
        masked_heads(attention.masked_heads, place, layers, heads)


def masked_heads(names: list[str], place: str, layers: int, heads: int) -> list[tuple[int, ...]]:
    """The heads to mask in each layer of a place: encoder, decoder or cross.

    Raises:
        UserError: a layer or head that is not there, with the range of those that are.
    """
    masked: list[set[int]] = [set() for _ in range(layers)]
    for name in names:
        where, layer, head = name.split(".")
        if where != place:
            continue
        if int(layer) >= layers or int(head) >= heads:
            here = f"{place}.0.0 to {place}.{layers - 1}.{heads - 1}" if layers else "none"
            raise UserError(
                f"attention.masked_heads: there is no head {name}; this model's heads of that kind "
                f"are {here}"
            )
        masked[int(layer)].add(int(head))
    return [tuple(sorted(chosen)) for chosen in masked]


def _masked_heads(
    model: ModelConfig, attention: AttentionConfig
) -> dict[str, list[tuple[int, ...]]]:
    """The heads to mask in each layer of each place of a Transformer."""
    depths = {"encoder": model.encoder_layers} | dict.fromkeys(
        ("decoder", "cross"), model.decoder_layers
    )
    return {
        place: masked_heads(attention.masked_heads, place, layers, model.heads)
        for place, layers in depths.items()
    }


def _transformer(
    model: ModelConfig, attention: AttentionConfig, source_vocab: int, target_vocab: int
) -> Transformer:
    size = LayerSize(
        width=model.width,
        ffn=model.ffn,
        dropout=model.dropout,
        activation_dropout=model.activation_dropout,
        norm=model.norm.value,
        activation=model.activation.value,
    )
    masked = _masked_heads(model, attention)
    return Transformer(
        source_vocab=source_vocab,
        target_vocab=target_vocab,
        encoder=[
            EncoderLayer(size, _self_attention(model, attention, "encoder", heads))
            for heads in masked["encoder"]
        ],
        decoder=[
            DecoderLayer(
                size,
                _self_attention(model, attention, "decoder", heads),
                _cross_attention(model, attention, cross_heads),
            )
            for heads, cross_heads in zip(masked["decoder"], masked["cross"], strict=True)
        ],
        size=size,
        positions=model.positions.value,
        known=model.max_positions,
        tie=model.tie.value,
    )


def _head_size(model: ModelConfig) -> HeadSize:
    return HeadSize(
        width=model.width,
        heads=model.heads,
        head_width=_head_width(model),
        dropout=model.attention_dropout,
    )


def _self_attention(
    model: ModelConfig, attention: AttentionConfig, place: str, masked: tuple[int, ...]
) -> SelfAttention:
    size, causal = _head_size(model), place == "decoder"
    pattern = attention.decoder if causal else attention.encoder
    if pattern == "linear":
        return LinearSelfAttention(size, causal=causal, masked=masked)
    score = make_score(attention, size.head_width, size.heads)
    if pattern == "sliding":
        return SlidingSelfAttention(size, score, causal=causal, span=attention.span, masked=masked)
    return FullSelfAttention(size, score, causal=causal, masked=masked)


def _cross_attention(
    model: ModelConfig, attention: AttentionConfig, masked: tuple[int, ...]
) -> CrossAttention:
    size = _head_size(model)
    if attention.cross == "linear":
        return LinearCrossAttention(size, masked=masked)
    score = make_score(attention, size.head_width, size.heads)
    return FullCrossAttention(size, score, masked=masked)


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
    reads = _reads(model, attention)
    if attention.timing == "previous":
        return PreviousDecoder(size, reads, enters=attention.feeding is not False)
    return CurrentDecoder(size, reads, feeding=attention.feeding is not False)


def _reads(model: ModelConfig, attention: AttentionConfig) -> Attention:
    heads = attention.heads or 1
    width = model.width if heads == 1 else model.head_width or model.width // heads
    window: LocalM | LocalP | None = None
    if attention.window == "local_m":
        window = LocalM(span=attention.span)
    elif attention.window == "local_p":
        window = LocalP(span=attention.span, width=width, heads=heads)
    return Attention(
        score=make_score(attention, width, heads),
        dropout=model.attention_dropout,
        heads=Heads(width=model.width, heads=heads, head_width=width) if heads > 1 else None,
        window=window,
        coverage=Coverage(width=width, heads=heads) if attention.coverage else None,
        masked=masked_heads(attention.masked_heads, "cross", 1, heads)[0],
    )


def make_score(attention: AttentionConfig, width: int, heads: int) -> Score:
    """The score of heads that are `width` wide each."""
    if attention.learn_temperature is False:
        return Cosine(width, heads, learn_temperature=False)
    return SCORES[attention.score.value](width, heads)


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
