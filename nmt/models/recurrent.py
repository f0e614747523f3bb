"""LSTM and GRU encoder-decoders with a fixed context vector or with attention.

What does not depend on the step before is computed for all target positions at once; a loop over
time is left only where a context or an attentional vector enters the next step.
Shape letters as in seq2seq.py, and G = 4 D (LSTM) or 3 D (GRU) gate pre-activations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.models.cells import FedStack, FreeStack, StackSize, State
from nmt.models.dropout import Dropout
from nmt.models.projection import Linear
from nmt.models.recurrent_attention import Attention, History, Projected
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


@dataclass(kw_only=True)
class RecurrentMemory(Memory):
    """Encoder states and keys, or a fixed summary; and where the decoder starts."""

    state: State
    projected: Projected | None = None
    summary_BD: Tensor | None = None


@dataclass
class RecurrentCache(Cache):
    """State after the last step; where there is feeding, the vector fed to the next one.

    The history is what the attention must know of the steps before.
    """

    state: State
    fed_ND: Tensor | None
    reads: Reads
    history: History | None = None

    def select(self, rows: Tensor, reads: Tensor | None = None) -> RecurrentCache:
        state, fed_ND = take_rows(self.state, rows), take_rows(self.fed_ND, rows)
        history = None if self.history is None else self.history.select(rows)
        return RecurrentCache(state, fed_ND, self.reads.select(rows, reads), history)


class Encoder(nn.Module):
    """Bidirectional stack over packed sentences; each direction has half the width."""

    def __init__(self, size: StackSize) -> None:
        super().__init__()
        self.rnn = size.rnn(size.embedding, bidirectional=True)

    def forward(self, embedded_BSE: Tensor, keep_BS: Tensor) -> tuple[Tensor, State]:
        """States [B, S, D], zero on padding, and each layer's last state of both directions.

        The last state is forward's after the last word and backward's after the first.
        """
        states_BSD, last = self._run(embedded_BSE, keep_BS)
        hidden, cell = last if isinstance(last, tuple) else (last, None)
        # What the decoder carries from step to step stays in full precision under autocast.
        wide = embedded_BSE.dtype
        state = State(_join(hidden).to(wide), None if cell is None else _join(cell).to(wide))
        return states_BSD, state

    def _run(
        self, embedded_BSE: Tensor, keep_BS: Tensor
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        if keep_BS.is_meta:  # shapes only: packing wants to see lengths
            states_BSD, last = self.rnn(embedded_BSE)
            return states_BSD, last
        lengths_B = keep_BS.sum(1).clamp(min=1).cpu()  # an empty row is read as one word
        packed = pack_padded_sequence(
            embedded_BSE, lengths_B, batch_first=True, enforce_sorted=False
        )
        packed_states, last = self.rnn(packed)
        states_BSD, _ = pad_packed_sequence(
            packed_states, batch_first=True, total_length=keep_BS.shape[1]
        )
        return states_BSD, last


def _join(last: Tensor) -> Tensor:
    """[B, L, D] from PyTorch's [L * 2, B, D / 2]: both directions side by side."""
    pairs: Tensor = last.unflatten(0, (-1, 2))
    return pairs.permute(2, 0, 1, 3).flatten(2)


class Bridge(nn.Module):
    """Where the decoder starts: zeros, the encoder's last states, or a layer learned from them.

    last: decoder layer i of the upper ones starts where encoder layer i ended.
    learned: tanh(W h) of the top encoder layer's last state, for each decoder layer and for hidden
    and cell (Bahdanau et al. 2015, A.2.2, which reads the backward direction alone).
    """

    def __init__(self, size: StackSize, *, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layers = size.layers
        self.parts = 2 if size.cell == "lstm" else 1
        outputs = self.parts * size.layers * size.width
        self.out = Linear(size.width, outputs) if kind == "learned" else None

    def forward(self, last: State) -> State:
        """The decoder's first state [B, L, D] from the encoder's last."""
        if self.kind == "last":
            cell = None if last.cell is None else last.cell[:, -self.layers :]
            return State(last.hidden[:, -self.layers :], cell)
        if self.out is not None:
            start = self.out(last.hidden[:, -1]).tanh().to(last.hidden.dtype)
            start = start.unflatten(1, (self.parts, self.layers, -1))
        else:
            rows, _, width = last.hidden.shape
            start = last.hidden.new_zeros(rows, self.parts, self.layers, width)
        return State(start[:, 0], start[:, 1] if self.parts == 2 else None)


class Readout(nn.Module):
    """tanh of one layer over several vectors, before the output layer."""

    def __init__(self, *, inputs: int, width: int, bias: bool) -> None:
        super().__init__()
        self.out = Linear(inputs, width, bias=bias)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, *parts: Tensor) -> Tensor:
        """[..., D]."""
        out: Tensor = self.out(torch.cat(parts, -1)).tanh()
        return out


class Decoder(nn.Module, ABC):
    """How the source reaches the target."""

    no_weights: str | None = None  # why there are no attention weights to show

    @abstractmethod
    def remember(self, memory: RecurrentMemory, states_BSD: Tensor, last: State) -> RecurrentMemory:
        """The memory with what this decoder reads of the source, computed once."""

    def first_fed(self, state: State) -> Tensor | None:
        """What is fed to the first step, where an output is fed to the next."""
        return None

    def first_history(self, memory: RecurrentMemory, rows: int) -> History | None:
        """What the attention knows before the first step."""
        return None

    @abstractmethod
    def forward(
        self, x_NTE: Tensor, memory: RecurrentMemory, cache: RecurrentCache, trace: Trace
    ) -> tuple[Tensor, RecurrentCache]:
        """[N, T, D] for the output layer from embeddings; the trace gets weights [N, H, T, M]."""


class FixedDecoder(Decoder):
    """Reads one fixed vector at every step (Cho et al. 2014, Sect. 2.2 and Appendix A.1).

    c = tanh(V h), h the encoder's last state of both directions; s_t = f(s_t-1, y_t-1, c);
    the output layer reads tanh(W [s_t; y_t-1; c]), where the paper has maxout.
    """

    no_weights = "attention=none reads one fixed vector, so there are no weights"

    def __init__(self, size: StackSize) -> None:
        super().__init__()
        embedding, width = size.embedding, size.width
        self.summary = Readout(inputs=width, width=width, bias=True)
        self.stack = FreeStack(size, inputs=embedding + width)
        self.readout = Readout(inputs=2 * width + embedding, width=width, bias=True)

    def remember(self, memory: RecurrentMemory, states_BSD: Tensor, last: State) -> RecurrentMemory:
        return replace(memory, summary_BD=self.summary(last.hidden[:, -1]))

    def forward(
        self, x_NTE: Tensor, memory: RecurrentMemory, cache: RecurrentCache, trace: Trace
    ) -> tuple[Tensor, RecurrentCache]:
        assert memory.summary_BD is not None
        rows, count = x_NTE.shape[:2]
        summary_ND = memory.summary_BD.repeat_interleave(rows // memory.rows, 0)
        summary_NTD = summary_ND.unsqueeze(1).expand(-1, count, -1).to(x_NTE.dtype)
        top_NTD, state = self.stack(torch.cat([x_NTE, summary_NTD], -1), cache.state)
        hidden_NTD = self.readout(top_NTD, x_NTE, summary_NTD)
        return hidden_NTD, RecurrentCache(state, None, cache.reads)


class AttentiveDecoder(Decoder):
    """Reads contexts: averages of the encoder's states, weighed anew for each target position."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def remember(self, memory: RecurrentMemory, states_BSD: Tensor, last: State) -> RecurrentMemory:
        return replace(memory, projected=self.attention.project(states_BSD))

    def first_history(self, memory: RecurrentMemory, rows: int) -> History | None:
        assert memory.projected is not None
        return self.attention.begin(memory.projected, rows)

    def attend(
        self, query_NTD: Tensor, memory: RecurrentMemory, history: History | None, trace: Trace
    ) -> tuple[Tensor, History | None]:
        """Contexts [N, T, D], in the queries' precision, and the history after them."""
        assert memory.projected is not None
        context_NTD, history = self.attention(query_NTD, memory.projected, memory, history, trace)
        return context_NTD.to(query_NTD.dtype), history


class PreviousDecoder(AttentiveDecoder):
    """The state before the step asks, and the context enters the step.

    Bahdanau et al. 2015: e_ij = a(s_i-1, h_j), Eq. 6; c_i, Eq. 5; s_i = f(s_i-1, y_i-1, c_i), after
    Eq. 4; the output layer reads tanh(W [s_i; y_i-1; c_i]), where the paper (A.2.2) has maxout.
    Without `enters` the context goes to the output layer only: s_i = f(s_i-1, y_i-1), and all
    positions are one call.
    """

    def __init__(self, size: StackSize, attention: Attention, *, enters: bool) -> None:
        super().__init__(attention)
        self.stack = FedStack(size) if enters else FreeStack(size, inputs=size.embedding)
        inputs = 2 * size.width + size.embedding
        self.readout = Readout(inputs=inputs, width=size.width, bias=True)

    def forward(
        self, x_NTE: Tensor, memory: RecurrentMemory, cache: RecurrentCache, trace: Trace
    ) -> tuple[Tensor, RecurrentCache]:
        if isinstance(self.stack, FreeStack):
            top_NTD, after = self.stack(x_NTE, cache.state)
            before_NTD = torch.cat([cache.state.hidden[:, -1:], top_NTD[:, :-1]], 1)
            context_NTD, history = self.attend(before_NTD, memory, cache.history, trace)
            hidden_NTD = self.readout(top_NTD, x_NTE, context_NTD)
            return hidden_NTD, RecurrentCache(after, None, cache.reads, history)
        state, history = cache.state.split(), cache.history
        tops, contexts = [], []
        seen: Trace = None if trace is None else []
        for step in self.stack.steps(x_NTE):
            context_N1D, history = self.attend(state[-1][0].unsqueeze(1), memory, history, seen)
            state = step(context_N1D.squeeze(1), state)
            tops.append(state[-1][0])
            contexts.append(context_N1D)
        _append(trace, seen)
        top_NTD, context_NTD = torch.stack(tops, 1), torch.cat(contexts, 1)
        hidden_NTD = self.readout(top_NTD, x_NTE, context_NTD)
        return hidden_NTD, RecurrentCache(State.join(state), None, cache.reads, history)


class CurrentDecoder(AttentiveDecoder):
    """The state after the step asks, and an attentional vector goes to the output layer.

    Luong et al. 2015: a_t from h_t, Eq. 7; attentional vector tanh(W [c_t; h_t]), Eq. 5. With
    `feeding` (Sect. 3.3) it also enters the next step; without, all positions are one call.
    """

    def __init__(self, size: StackSize, attention: Attention, *, feeding: bool) -> None:
        super().__init__(attention)
        self.stack = FedStack(size) if feeding else FreeStack(size, inputs=size.embedding)
        self.readout = Readout(inputs=2 * size.width, width=size.width, bias=False)

    def first_fed(self, state: State) -> Tensor | None:
        return torch.zeros_like(state.hidden[:, -1]) if isinstance(self.stack, FedStack) else None

    def forward(
        self, x_NTE: Tensor, memory: RecurrentMemory, cache: RecurrentCache, trace: Trace
    ) -> tuple[Tensor, RecurrentCache]:
        if isinstance(self.stack, FreeStack):
            top_NTD, state = self.stack(x_NTE, cache.state)
            context_NTD, history = self.attend(top_NTD, memory, cache.history, trace)
            hidden_NTD = self.readout(context_NTD, top_NTD)
            return hidden_NTD, RecurrentCache(state, None, cache.reads, history)
        fed_ND, history = cache.fed_ND, cache.history
        assert fed_ND is not None
        layers = cache.state.split()
        hiddens = []
        seen: Trace = None if trace is None else []
        for step in self.stack.steps(x_NTE):
            layers = step(fed_ND, layers)
            top_N1D = layers[-1][0].unsqueeze(1)
            context_N1D, history = self.attend(top_N1D, memory, history, seen)
            hidden_N1D = self.readout(context_N1D, top_N1D)
            fed_ND = hidden_N1D.squeeze(1)
            hiddens.append(hidden_N1D)
        _append(trace, seen)
        after = RecurrentCache(State.join(layers), fed_ND, cache.reads, history)
        return torch.cat(hiddens, 1), after


def _append(trace: Trace, steps: Trace) -> None:
    """The weights of a loop's steps as one entry of the trace."""
    if trace is not None and steps is not None:
        trace.append(torch.cat(steps, 2))


class Recurrent(Seq2Seq):
    """Encoder, bridge and one of the three decoders."""

    def __init__(
        self,
        *,
        source_vocab: int,
        target_vocab: int,
        tie: str,
        size: StackSize,
        encoder: Encoder,
        bridge: Bridge,
        decoder: Decoder,
    ) -> None:
        super().__init__(
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            embedding=size.embedding,
            width=size.width,
            tie=tie,
        )
        self.dropout = Dropout(size.dropout)
        self.encoder = encoder
        self.bridge = bridge
        self.decoder = decoder

    def encode(self, source: Source) -> RecurrentMemory:
        embedded_BSE = self.dropout(self.embed_source(source))
        states_BSD, last = self.encoder(embedded_BSE, source.keep_BS)
        stream_BM, position_BM = slots(source)
        memory = RecurrentMemory(
            keep_BM=source.keep_BS,
            stream_BM=stream_BM,
            position_BM=position_BM,
            state=self.bridge(last),
        )
        return self.decoder.remember(memory, states_BSD, last)

    def begin(self, memory: Memory, reads: Reads, capacity: int) -> RecurrentCache:
        assert isinstance(memory, RecurrentMemory)
        state = take_rows(memory.state, reads.rows_N)
        history = self.decoder.first_history(memory, len(reads.rows_N))
        return RecurrentCache(state, self.decoder.first_fed(state), reads, history)

    def decode(
        self, tgt_NT: Tensor, memory: Memory, cache: Cache, cross: Trace = None
    ) -> tuple[Tensor, RecurrentCache]:
        assert isinstance(memory, RecurrentMemory)
        assert isinstance(cache, RecurrentCache)
        x_NTE = self.dropout(self.target_embedding(tgt_NT))
        hidden_NTD, after = self.decoder(x_NTE, cache.reads.resolve(memory), cache, cross)
        return self.dropout(hidden_NTD), after

    @torch.no_grad()
    def explain(self, source: Source, tgt_BT: Tensor) -> Attentions:
        cross: list[Tensor] = []
        memory = self.encode(source)
        self.decode(
            tgt_BT, memory, self.begin(memory, Reads.each(memory.rows, tgt_BT.device), 0), cross
        )
        missing = {
            "encoder": "a recurrent encoder has no self-attention",
            "decoder": "a recurrent decoder has no self-attention",
        }
        if self.decoder.no_weights is not None:
            missing["cross"] = self.decoder.no_weights
        norms = {}
        if isinstance(self.decoder, AttentiveDecoder) and memory.projected is not None:
            norms["cross"] = self.decoder.attention.value_norms(memory.projected)[None]
        return Attentions(None, None, torch.stack(cross) if cross else None, missing, norms)
