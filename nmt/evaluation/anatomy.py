"""One sentence taken apart: what a recurrent decoder's attention computes, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nmt.data.tokenizer import Tokenizers
from nmt.decoding.align import END
from nmt.decoding.translate import Ids, batch_of, inference
from nmt.errors import UserError
from nmt.models.recurrent import AttentiveDecoder, Recurrent
from nmt.models.recurrent_attention import Attention
from nmt.models.seq2seq import Seq2Seq, Source

LIKELIEST = 5
"""Next words that are kept of each step."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A step each target token: scores, shares, the context's size, and what comes next.

    Args:
        scores: similarity of the decoder's state with each source position [T][S].
        weights: their softmax, which sums to one [T][S].
        context_norms: Euclidean norm of the weighted sum [T].
        state_norms: the same of the encoder's states [S].
        next_words: the likeliest (piece, probability) after each step [T][k].
    """

    source: list[str]
    target: list[str]
    scores: list[list[float]]
    weights: list[list[float]]
    context_norms: list[float]
    state_norms: list[float]
    next_words: list[list[tuple[str, float]]]


def dissect(model: Seq2Seq, tokenizers: Tokenizers, source: Ids, target: Ids) -> Anatomy:
    """Force one translation and keep what the attention computed.

    Args:
        source: token ids without start and end, as of a `Translation`; ``target`` likewise.

    Raises:
        UserError: the model has no single-headed attention that compares states with positions.
    """
    decoder = model.decoder if isinstance(model, Recurrent) else None
    attention = decoder.attention if isinstance(decoder, AttentiveDecoder) else None
    if attention is None or attention.heads is not None or attention.stepwise:
        raise UserError("only a recurrent decoder with one head of attention can be taken apart")
    steps: list[tuple[Tensor, Tensor]] = []
    values: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Any, ...], result: tuple[Tensor, Any]) -> None:
        assert isinstance(module, Attention)
        query_1TD, projected = given[0], given[1]
        query_11TD = module.score.queries(query_1TD.unsqueeze(1))
        scores_11TS = module.score.compare(query_11TD, projected.keys_BHMd)
        steps.append((scores_11TS[0, 0].float(), result[0][0].float()))
        values[:] = [projected.values_BHMd[0, 0].float()]

    hook = attention.register_forward_hook(keep)
    try:
        with inference(model) as device:
            batch = batch_of([source], [target]).to(device)
            trace: list[Tensor] = []
            hidden_1TD = model(
                Source(batch.source_BS, batch.source_keep_BS), batch.target_in_BT, trace
            )
            next_TV = model.project(hidden_1TD)[0].float().softmax(-1)
    finally:
        hook.remove()
    likeliest = next_TV.topk(min(LIKELIEST, next_TV.shape[-1]))
    pieces = tokenizers.target.pieces
    return Anatomy(
        source=[*tokenizers.source.pieces(list(source)), END],
        target=[*pieces(list(target)), END],
        scores=torch.cat([s for s, _ in steps]).tolist(),
        weights=trace[0][0, 0].float().tolist(),
        context_norms=torch.cat([c for _, c in steps]).norm(dim=-1).tolist(),
        state_norms=values[0].norm(dim=-1).tolist(),
        next_words=[
            [(_name(pieces, i), p) for i, p in zip(ids, shares, strict=True)]
            for ids, shares in zip(
                likeliest.indices.tolist(), likeliest.values.tolist(), strict=True
            )
        ],
    )


def _name(pieces: Any, number: int) -> str:
    name: Sequence[str] = pieces([number])
    return name[0] if name else END
