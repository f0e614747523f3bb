"""Attention of a recurrent decoder to its source: score x window x heads x coverage.

Shape letters as in seq2seq.py; Q = K T queries share a memory row: T target positions of each of
its K = N / B hypotheses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nmt.models.attention import Additive, Location, PerHead, Score, weigh_near, widened
from nmt.models.dropout import Dropout
from nmt.models.projection import Linear
from nmt.models.seq2seq import Memory, Trace, take_rows


class Local(nn.Module, ABC):
    """Sees `span` source positions to each side of a centre (Luong et al. 2015, Sect. 3.2)."""

    def __init__(self, *, span: int) -> None:
        super().__init__()
        self.span = span

    @abstractmethod
    def centre(self, query_BHQd: Tensor, place_Q: Tensor, length_B: Tensor) -> Tensor:
        """Centres [B, H, Q], or what broadcasts to it; `place` counts target positions."""

    def bell(self, away_BHQM: Tensor) -> Tensor | None:
        """What the weights are multiplied with, from the distance to the centre."""
        return None

    def forward(
        self, query_BHQd: Tensor, place_Q: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor | None]:
        """Keep mask and factors of the weights, each broadcasting to [B, H, Q, M]."""
        centre_BHQ = self.centre(query_BHQd, place_Q, memory.keep_BM.sum(1))
        away_BHQM = memory.position_BM[:, None, None, :] - centre_BHQ.unsqueeze(-1)
        keep_BHQM = memory.keep_BM[:, None, None, :] & (away_BHQM.abs() <= self.span)
        return keep_BHQM, self.bell(away_BHQM)


class LocalM(Local):
    """Monotone: target position t looks at source position t (local-m)."""

    def centre(self, query_BHQd: Tensor, place_Q: Tensor, length_B: Tensor) -> Tensor:
        return place_Q.expand(1, 1, -1)


class LocalP(Local):
    """Predicted: p = S sigmoid(v . tanh(W q)), Eq. 9; weights times a Gaussian around p, Eq. 10.

    S is the source's length. The standard deviation is half the span.
    """

    def __init__(self, *, span: int, width: int, heads: int) -> None:
        super().__init__(span=span)
        self.hidden = PerHead(width, width, heads)
        self.out = PerHead(width, 1, heads)

    def centre(self, query_BHQd: Tensor, place_Q: Tensor, length_B: Tensor) -> Tensor:
        share_BHQ = widened(self.out(self.hidden(query_BHQd).tanh()).squeeze(-1)).sigmoid()
        return share_BHQ * length_B[:, None, None]

    def bell(self, away_BHQM: Tensor) -> Tensor:
        return torch.exp(-2.0 * (away_BHQM / self.span).square())


class Coverage(nn.Module):
    """How much attention each source position has had, as a term in the additive score's tanh.

    Tu et al. 2016, Sect. 3.1.1, linguistic coverage: C_i = C_i-1 + a_i / Phi with the fertility
    Phi_j = N sigmoid(U_f h_j), N = 2; Sect. 3.2: V C_i-1 enters the score.
    """

    most = 2.0

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.fertile = PerHead(width, 1, heads)
        self.out = PerHead(1, width, heads)

    def fertility(self, slots_BHMd: Tensor) -> Tensor:
        """Phi [B, H, M]: how many target words each source position is good for."""
        return self.most * widened(self.fertile(slots_BHMd).squeeze(-1)).sigmoid()

    def inner(self, covered_NHM: Tensor) -> Tensor:
        """V C, [N, H, M, d]."""
        projected: Tensor = self.out(covered_NHM.unsqueeze(-1))
        return projected


class Heads(nn.Module):
    """Projections of several heads (Vaswani et al. 2017, Sect. 3.2.2), which has no biases."""

    def __init__(self, *, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, heads * head_width, bias=False)
        self.inputs = Linear(width, 2 * heads * head_width, bias=False)
        self.out = Linear(heads * head_width, width, bias=False)
        for weight in (self.query.weight, *self.inputs.weight.chunk(2), self.out.weight):
            nn.init.xavier_uniform_(weight)

    def queries(self, x_BQD: Tensor) -> Tensor:
        """[B, H, Q, d] from [B, Q, D]."""
        split: Tensor = self.query(x_BQD).unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)

    def keys_values(self, x_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Two of [B, H, M, d]."""
        split: Tensor = self.inputs(x_BMD).unflatten(-1, (2, self.heads, -1))
        keys_BHMd, values_BHMd = split.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        return keys_BHMd, values_BHMd

    def join(self, context_BHQd: Tensor) -> Tensor:
        """[B, Q, D] from [B, H, Q, d]."""
        joined: Tensor = self.out(context_BHQd.transpose(1, 2).flatten(2))
        return joined


@dataclass
class Projected:
    """What an attention reads of a source, computed once."""

    keys_BHMd: Tensor
    values_BHMd: Tensor
    fertility_BHM: Tensor | None


@dataclass
class History:
    """What an attention knows of the steps before: how many, the last weights, the coverage."""

    position: int
    previous_NHM: Tensor | None
    covered_NHM: Tensor | None

    def select(self, rows: Tensor) -> History:
        """Follows `Cache.select`."""
        return replace(
            self,
            previous_NHM=take_rows(self.previous_NHM, rows),
            covered_NHM=take_rows(self.covered_NHM, rows),
        )


class Attention(nn.Module):
    """Weights and contexts of a recurrent decoder's states over a memory, by any score.

    Without `heads` states and slots are compared as they are, in one head. The contexts of `masked`
    heads are zero (Michel et al. 2019, Eq. 2); their weights stay.
    """

    def __init__(
        self,
        *,
        score: Score,
        dropout: float,
        heads: Heads | None = None,
        window: Local | None = None,
        coverage: Coverage | None = None,
        masked: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.score = score
        self.dropout = Dropout(dropout)
        self.heads = heads
        self.window = window
        self.coverage = coverage
        self.masked = masked
        # A score that reads what the step before left goes one target position at a time.
        self.stepwise = coverage is not None or isinstance(score, Location)

    def project(self, states_BMD: Tensor) -> Projected:
        """Keys, values and fertilities of encoder states."""
        if self.heads is None:
            slots_BHMd = values_BHMd = states_BMD.unsqueeze(1)
        else:
            slots_BHMd, values_BHMd = self.heads.keys_values(states_BMD)
        fertility_BHM = None if self.coverage is None else self.coverage.fertility(slots_BHMd)
        return Projected(self.score.keys(slots_BHMd), values_BHMd, fertility_BHM)

    def value_norms(self, projected: Projected) -> Tensor:
        """||f(x)|| [B, H, M] of each slot in each head, the largest share of a context it can be.

        f(x) is the encoder's state itself, or what a head's projections make of it (Kobayashi et
        al. 2020, Sect. 3).
        """
        values_BHMd = projected.values_BHMd
        if self.heads is not None:
            out_HdD = self.heads.out.weight.T.unflatten(0, (self.heads.heads, -1))
            values_BHMd = values_BHMd @ out_HdD
        norms_BHM: Tensor = values_BHMd.norm(dim=-1)
        heard_H = norms_BHM.new_ones(norms_BHM.shape[1])
        heard_H[list(self.masked)] = 0.0
        return norms_BHM * heard_H[:, None]

    def begin(self, projected: Projected, rows: int) -> History | None:
        """Before the first step: nothing looked at, nothing covered; None if that is of no use."""
        if not self.stepwise and not isinstance(self.window, LocalM):
            return None
        _, heads, length, _ = projected.keys_BHMd.shape
        nothing_NHM = widened(projected.keys_BHMd.new_zeros(rows, heads, length))
        return History(
            0,
            nothing_NHM if isinstance(self.score, Location) else None,
            None if self.coverage is None else nothing_NHM,
        )

    def forward(
        self,
        query_NTD: Tensor,
        projected: Projected,
        memory: Memory,
        history: History | None,
        trace: Trace = None,
    ) -> tuple[Tensor, History | None]:
        """Contexts [N, T, D] and the history after them; the trace gets weights [N, H, T, M].

        N / B neighbouring rows share a memory row.
        """
        count = query_NTD.shape[1]
        query_BQD = query_NTD.reshape(memory.rows, -1, query_NTD.shape[-1])
        query_BHQd = query_BQD.unsqueeze(1) if self.heads is None else self.heads.queries(query_BQD)
        keep, bell = memory.keep_BM[:, None, None, :], None
        if self.window is not None:
            start = 0 if history is None else history.position
            place_T = torch.arange(start, start + count, device=query_NTD.device)
            place_Q = place_T.repeat(query_BQD.shape[1] // count)
            keep, bell = self.window(query_BHQd, place_Q, memory)
        queries_BHQd = self.score.queries(query_BHQd)
        if self.stepwise:
            assert history is not None
            weights_BHQM, history = self._in_steps(
                queries_BHQd, projected, keep, bell, history, count
            )
        else:
            scores_BHQM = self.score.compare(queries_BHQd, projected.keys_BHMd)
            weights_BHQM = weigh_near(scores_BHQM, keep, bell)
        if history is not None:
            history = replace(history, position=history.position + count)
        if trace is not None:
            trace.append(_unfold(weights_BHQM.unflatten(2, (-1, count))))
        context_BHQd = self.dropout(weights_BHQM).to(projected.values_BHMd.dtype)
        return self._join(context_BHQd @ projected.values_BHMd).reshape(query_NTD.shape), history

    def _join(self, context_BHQd: Tensor) -> Tensor:
        for head in self.masked:
            context_BHQd[:, head] = 0.0
        return context_BHQd if self.heads is None else self.heads.join(context_BHQd)

    def _in_steps(
        self,
        queries_BHQd: Tensor,
        projected: Projected,
        keep: Tensor,
        bell: Tensor | None,
        history: History,
        count: int,
    ) -> tuple[Tensor, History]:
        """Weights [B, H, Q, M], one target position after the other."""
        assert isinstance(self.score, Additive)
        steps = []
        for step in range(count):
            inner_BHKMd = self._inner(history).unflatten(0, (len(queries_BHQd), -1)).transpose(1, 2)
            scores_BHKM = self.score.compare(
                _at(queries_BHQd, step, count), projected.keys_BHMd, inner_BHKMd
            )
            bell_BHKM = None if bell is None else _at(bell, step, count)
            weights_BHKM = weigh_near(scores_BHKM, _at(keep, step, count), bell_BHKM)
            history = self._after(weights_BHKM, projected, history)
            steps.append(weights_BHKM)
        return torch.stack(steps, 3).flatten(2, 3), history

    def _inner(self, history: History) -> Tensor:
        """The terms [N, H, M, d] within the tanh that depend on the steps before."""
        terms = []
        if isinstance(self.score, Location):
            assert history.previous_NHM is not None
            terms.append(self.score.inner(history.previous_NHM))
        if self.coverage is not None:
            assert history.covered_NHM is not None
            terms.append(self.coverage.inner(history.covered_NHM))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def _after(self, weights_BHKM: Tensor, projected: Projected, history: History) -> History:
        """Location reads the last weights; coverage adds them up, each by its fertility."""
        if history.previous_NHM is not None:
            history = replace(history, previous_NHM=_unfold(weights_BHKM))
        if history.covered_NHM is not None:
            assert projected.fertility_BHM is not None
            share_NHM = _unfold(weights_BHKM / projected.fertility_BHM.unsqueeze(2))
            history = replace(history, covered_NHM=history.covered_NHM + share_NHM)
        return history


def _at(x_BHQX: Tensor, step: int, count: int) -> Tensor:
    """[B, H, K, X] of one of `count` target positions; what is the same for all stays."""
    if x_BHQX.shape[2] == 1:
        return x_BHQX
    split: Tensor = x_BHQX.unflatten(2, (-1, count))
    return split[:, :, :, step]


def _unfold(x_BHKX: Tensor) -> Tensor:
    """[N, H, X…] from [B, H, K, X…]: each of the K hypotheses of a sentence on its own."""
    return x_BHKX.transpose(1, 2).flatten(0, 1)
