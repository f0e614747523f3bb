"""Several models as one: the mean of their probabilities, behind the interface of one model.

At every step each model reads the same beginning of the translation, and the next token's
probability is the arithmetic mean of theirs, P = 1/K sum_k P_k (Sutskever et al. 2014, Section 3.6,
decode with ensembles of LSTMs; the mean of probabilities is what most toolkits take). The models
share the vocabulary and nothing else: kinds, widths and depths may differ. K is their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nmt.models.attention import widened
from nmt.models.seq2seq import (
    Attentions,
    Cache,
    Memory,
    Reads,
    Seq2Seq,
    Source,
    Trace,
    slots,
    take_rows,
)


@dataclass
class EnsembleMemory(Memory):
    """What each model's encoder left, over the same source rows."""

    members: list[Memory]

    def select(self, rows: Tensor) -> EnsembleMemory:
        return EnsembleMemory(
            keep_BM=take_rows(self.keep_BM, rows),
            stream_BM=take_rows(self.stream_BM, rows),
            position_BM=take_rows(self.position_BM, rows),
            members=[memory.select(rows) for memory in self.members],
        )


@dataclass
class EnsembleCache(Cache):
    """What each model's decoder remembers, of the same hypotheses."""

    members: list[Cache]

    def select(self, rows: Tensor, reads: Tensor | None = None) -> EnsembleCache:
        return EnsembleCache([cache.select(rows, reads) for cache in self.members])


class Ensemble(Seq2Seq):
    """Models of one vocabulary that decode and score together; it is not for training.

    Its hidden states are those of all models side by side, and `project` gives the logarithm of
    the mean of their probabilities, normalised, in at least fp32. Its cross-attention is the mean
    of the models' means over layers and heads.

    Raises:
        ValueError: no model, or vocabularies of different sizes.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        nn.Module.__init__(self)  # it has no embeddings of its own
        sizes = {(model.source_vocab, model.target_vocab) for model in members}
        if len(sizes) != 1:
            raise ValueError(f"an ensemble needs models of one vocabulary, got sizes {sizes}")
        [(self.source_vocab, self.target_vocab)] = sizes
        self.members = nn.ModuleList(members)
        self._models = list(members)
        self.width = sum(model.width for model in members)
        self.max_source_length = _least([model.max_source_length for model in members])
        self.max_target_length = _least([model.max_target_length for model in members])
        self.eval()

    def encode(self, source: Source) -> EnsembleMemory:
        stream_BM, position_BM = slots(source)
        return EnsembleMemory(
            keep_BM=source.keep_BS,
            stream_BM=stream_BM,
            position_BM=position_BM,
            members=[model.encode(source) for model in self._models],
        )

    def begin(self, memory: Memory, reads: Reads, capacity: int) -> EnsembleCache:
        assert isinstance(memory, EnsembleMemory)
        together = zip(self._models, memory.members, strict=True)
        return EnsembleCache([model.begin(own, reads, capacity) for model, own in together])

    def decode(
        self, tgt_NT: Tensor, memory: Memory, cache: Cache, cross: Trace = None
    ) -> tuple[Tensor, EnsembleCache]:
        assert isinstance(memory, EnsembleMemory)
        assert isinstance(cache, EnsembleCache)
        hidden, caches, looks = [], [], []
        for model, own, past in zip(self._models, memory.members, cache.members, strict=True):
            trace: Trace = None if cross is None else []
            hidden_NTD, after = model.decode(tgt_NT, own, past, trace)
            hidden.append(hidden_NTD)
            caches.append(after)
            if trace:
                looks.append(torch.stack([w.mean(1, keepdim=True) for w in trace]).mean(0))
        if cross is not None and len(looks) == len(hidden):
            cross.append(torch.stack(looks).mean(0))
        return torch.cat(hidden, -1), EnsembleCache(caches)

    def project(self, hidden: Tensor) -> Tensor:
        """log 1/K sum_k softmax(logits_k) [..., V] of hidden states [..., D] side by side."""
        return self._mean(hidden, [model.project for model in self._models])

    def projection(self) -> Callable[[Tensor], Tensor]:
        return partial(self._mean, projects=[model.projection() for model in self._models])

    def _mean(self, hidden: Tensor, projects: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        parts = hidden.split([model.width for model in self._models], -1)
        logs = []
        for project, part in zip(projects, parts, strict=True):
            logs.append(widened(project(part)).log_softmax(-1))
        return torch.stack(logs).logsumexp(0) - math.log(len(logs))

    def explain(self, source: Source, tgt_BT: Tensor) -> Attentions:
        """The mean cross-attention as one layer with one head, where all models have one."""
        found = [model.explain(source, tgt_BT) for model in self._models]
        own = "the models of an ensemble have their own: explain one of them"
        missing = {"encoder": own, "decoder": own}
        looks = []
        for number, one in enumerate(found, 1):
            if one.cross is None:
                missing.setdefault("cross", f"model {number}: {one.missing.get('cross', 'none')}")
            else:
                looks.append(one.cross.mean((0, 2))[None, :, None])
        cross = None if "cross" in missing else torch.stack(looks).mean(0)
        return Attentions(encoder=None, decoder=None, cross=cross, missing=missing)


def _least(limits: Sequence[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
