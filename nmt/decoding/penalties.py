"""What turns a log-probability into the score that hypotheses are ranked by (Wu et al. 2016)."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from nmt.errors import UserError
from nmt.models.seq2seq import Seq2Seq, Source

Number = TypeVar("Number", Tensor, float)

UNSEEN = 1e-9
"""A source token that got less attention counts as having got this much: logarithms stay finite."""


def length_penalty(tokens: Number, exponent: float) -> Number:
    """lp = ((5 + n) / 6)^a of Wu et al. 2016, Eq. 14.

    n counts the end token, because its log-probability is in the sum being divided; lp is therefore
    1 for the empty translation.
    """
    penalty: Number = ((5 + tokens) / 6) ** exponent
    return penalty


def coverage_penalty(covered: Tensor, weight: float) -> Tensor:
    """cp = b sum_i log(min(sum_j p_ij, 1)) of Wu et al. 2016, Eq. 14, over the last axis.

    `covered` is sum_j p_ij, the attention that each source slot has had from all target tokens.
    """
    return weight * covered.clamp(UNSEEN, 1.0).log().sum(-1)


def nothing_covered(source: Source, eos: int) -> Tensor:
    """Where the attention on each slot (B, S) begins to be summed: 0 for the words of the source.

    Padding and the end token begin at 1, which costs nothing however little attention they get:
    there is nothing to translate in them.
    """
    return (~source.keep_BS | (source.ids_BS == eos)).float()


def attention_of(
    trace: list[Tensor] | None, model: Seq2Seq, source: Source, tokens_NT: Tensor
) -> Tensor:
    """Attention of the last target position (N, M): the mean over the layers' means over heads.

    Raises:
        UserError: the model left no weights in the trace; says why.
    """
    if not trace:
        missing = model.explain(source, tokens_NT[: len(source.ids_BS)]).missing
        raise UserError(
            "search.coverage_penalty needs cross-attention weights: "
            f"{missing.get('cross', 'this model has none')}; set it to 0"
        )
    return torch.stack([weights_NHTM[:, :, -1].mean(1) for weights_NHTM in trace]).mean(0)
