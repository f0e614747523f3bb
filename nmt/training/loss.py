"""What training minimises: sums over target tokens, never means.

Label-smoothed cross-entropy of the target tokens, and losses on cross-attention weights. Shape
letters: B rows, T target length, S source length, H heads, D width, V vocabulary, N kept target
positions, R rows that are projected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.models.projection import spare_rows

# How many logits are in float at a time: what stays in a CPU's cache, or fills a GPU.
# Measured at [2048, 8000], width 256, one core: 32 rows at a time cost 20 ms over the projection
# itself (335 ms), F.cross_entropy 190 ms, recomputing the projection in chunks 210 ms.
CPU_CHUNK = 2**18
GPU_CHUNK = 2**25

# Logarithms of weights end here: one that is zero, say outside a window, has no gradient to give.
SMALLEST_WEIGHT = 1e-12


@dataclass(frozen=True)
class LossSums:
    """Sums over target tokens, on the device; divide by the tokens of a whole update.

    ``loss`` is what one minimises, ``nll`` the plain negative log-likelihood in nats (its mean's
    exponential is the perplexity), ``tokens`` how many target tokens they sum over.
    """

    loss: Tensor
    nll: Tensor
    tokens: int


def label_smoothed_cross_entropy(
    project: Callable[[Tensor], Tensor],
    hidden_BTD: Tensor,
    target_out_BT: Tensor,
    kept_N: Tensor,
    *,
    smoothing: float,
) -> LossSums:
    """Cross-entropy against (1 - smoothing) x one-hot + smoothing / V (Szegedy et al. 2016, 7).

    Only kept positions are projected. The softmax runs in float32 (float64 for float64 logits),
    a few rows at a time, and its gradient takes the place of the logits: besides the logits in
    the compute precision there is no second [N, V] tensor. A non-finite sum makes the gradient
    non-finite too, so that whoever checks gradients has checked the loss.

    Args:
        project: hidden states to logits; they must be a fresh tensor that ``project`` itself
            does not need for its gradient (autograd raises otherwise).
        kept_N: the positions of the flattened [B*T] target that count.
    """
    # Rows that `project` would add are added here: the first position again, without a gradient.
    rows_R = F.pad(kept_N, (0, spare_rows(hidden_BTD, len(kept_N))))
    hidden_RD = hidden_BTD.flatten(0, 1).index_select(0, rows_R)
    target_N = target_out_BT.flatten().index_select(0, kept_N)
    loss, nll = _SmoothedCrossEntropy.apply(project(hidden_RD), target_N, smoothing)
    return LossSums(loss, nll.detach(), len(kept_N))


@dataclass(frozen=True, kw_only=True)
class CrossLosses:
    """Weights of the losses on cross-attention; 0 is off.

    ``guided`` is that of `guided_alignment_loss`, which looks at one ``head`` of the last decoder
    layer but one (Garg et al. 2019), or at the mean over its heads where that is None; a decoder
    with one layer of weights shows that one. ``coverage`` is that of `coverage_loss`.
    """

    guided: float = 0.0
    head: int | None = None
    coverage: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.guided or self.coverage)

    def total(
        self, cross: Sequence[Tensor], aligned_BTS: Tensor | None, target_keep_BT: Tensor
    ) -> Tensor:
        """The weighted sum of both.

        Args:
            cross: weights [B, H, T, S] of each layer that has any.
            aligned_BTS: see `Batch`; only the guided loss reads it.
        """
        if not cross:
            raise ValueError("the model has no cross-attention weights to be judged by")
        sums = []
        if self.guided:
            if aligned_BTS is None:
                raise ValueError("a guided alignment needs batches with alignments")
            layer_BHTS = cross[max(len(cross) - 2, 0)]
            weights_BTS = layer_BHTS.mean(1) if self.head is None else layer_BHTS[:, self.head]
            sums.append(self.guided * guided_alignment_loss(weights_BTS, aligned_BTS))
        if self.coverage:
            sums.append(self.coverage * coverage_loss(cross, target_keep_BT))
        return torch.stack(sums).sum()


def guided_alignment_loss(weights_BTS: Tensor, aligned_BTS: Tensor) -> Tensor:
    """- sum_t sum_s aligned_ts log weights_ts, the cross-entropy with given alignments.

    Chen et al. 2016 ("Guided alignment training") and Mi et al. 2016 ("Supervised attentions");
    Garg et al. 2019 for Transformers. A target token whose row of alignments is zero costs nothing.
    The sum is divided by all target tokens, aligned or not, like the main loss.
    """
    return -(aligned_BTS * weights_BTS.clamp(min=SMALLEST_WEIGHT).log()).sum()


def coverage_loss(cross: Sequence[Tensor], target_keep_BT: Tensor) -> Tensor:
    """sum_t sum_s min(a_ts, sum_t'<t a_t's) of See et al. 2017, Eqs. 10, 12 and 13.

    a is a layer's mean over heads of the weights [B, H, T, S]; the losses of several layers are
    averaged. Only target tokens that count are summed over.
    """
    sums = []
    for layer_BHTS in cross:
        weights_BTS = layer_BHTS.mean(1)
        before_BTS = F.pad(weights_BTS.cumsum(1)[:, :-1], (0, 0, 1, 0))
        twice_BT = torch.minimum(weights_BTS, before_BTS).sum(2)
        sums.append((twice_BT * target_keep_BT).sum())
    return torch.stack(sums).mean()


class _SmoothedCrossEntropy(torch.autograd.Function):
    """(logits [R,V], targets [N], smoothing) -> (loss sum, nll sum), 0-d; N rows count."""

    @staticmethod
    def forward(
        ctx: Any, logits_RV: Tensor, target_N: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        vocabulary = logits_RV.shape[1]
        chunk = CPU_CHUNK if logits_RV.device.type == "cpu" else GPU_CHUNK
        exact = torch.float64 if logits_RV.dtype == torch.float64 else torch.float32
        loss = torch.zeros((), dtype=exact, device=logits_RV.device)
        nll = torch.zeros_like(loss)
        rows = max(1, chunk // vocabulary)
        # Detached, the pieces still share the version counter: a hidden user of them is noticed.
        logits_NV, others_V = logits_RV.detach().split(
            [len(target_N), len(logits_RV) - len(target_N)]
        )
        for piece_CV, target_C in zip(logits_NV.split(rows), target_N.split(rows), strict=True):
            target_C1 = target_C.unsqueeze(1)
            log_prob_CV = piece_CV.log_softmax(1, dtype=exact)
            piece_nll = -log_prob_CV.gather(1, target_C1).sum()
            nll += piece_nll
            loss += (1 - smoothing) * piece_nll - smoothing / vocabulary * log_prob_CV.sum()
            if ctx.needs_input_grad[0]:
                grad_CV = log_prob_CV.exp_().sub_(smoothing / vocabulary)
                less_C1 = torch.full_like(target_C1, smoothing - 1, dtype=exact)
                grad_CV.scatter_add_(1, target_C1, less_C1)
                piece_CV.copy_(grad_CV)
        if ctx.needs_input_grad[0]:
            others_V.zero_()
        ctx.save_for_backward(logits_RV, loss)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad_RV, loss = ctx.saved_tensors
        poison = 1 + 0 * loss  # 1, or NaN where the loss is not finite
        return grad_RV.detach().mul_(grads[0] * poison), None, None
