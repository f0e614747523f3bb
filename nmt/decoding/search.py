"""Greedy, beam and sampled search over the Seq2Seq interface alone.

Search never learns the architecture: it encodes once, asks for one step at a time, and reorders
what the model handed out through ``Memory.select`` and ``Cache.select``.

Shapes: B sentences still searched, K hypotheses a sentence, N = B * K rows (the K of a sentence are
neighbours), C candidates a sentence, V vocabulary, T tokens so far, Q best finished scores kept,
M slots of the memory.
Dead places are marked by a log-probability of minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt.decoding.beams import going_on, in_place, top
from nmt.decoding.penalties import attention_of, coverage_penalty, length_penalty, nothing_covered
from nmt.errors import UserError
from nmt.models.attention import widened
from nmt.models.seq2seq import Seq2Seq, Source, Trace

SLACK = 10
"""Tokens a hypothesis may have beyond ``max_length_ratio`` times its source: short ones need it."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to look for a translation.

    ``beam=1`` is greedy search. A finished hypothesis leaves the beam and takes its place with it,
    so that a sentence is over after ``beam`` finished hypotheses, and the beam of one is greedy by
    construction. Lengths count target tokens without the end token. A sentence's limit is the least
    of ``max_length``, ``max_length_ratio`` times its source tokens plus 10, and what the model
    knows; there the end token is forced.

    With ``sample=True``, ``n_best`` translations are drawn independently and ``beam`` has no
    meaning; ``top_k=0`` and ``top_p=1`` filter nothing.

    Raises:
        UserError: a value is out of range.
    """

    beam: int = 5
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    max_length_ratio: float = 3.0
    max_length: int = 256
    min_length: int = 0
    n_best: int = 1
    forbid_unk: bool = False
    no_repeat_ngram: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"beam": 1, "n_best": 1, "max_length": 1, "min_length": 0, "seed": 0}
        for name, low in (
            least
            | {"length_penalty": 0, "coverage_penalty": 0, "no_repeat_ngram": 0, "top_k": 0}
            | {"max_length_ratio": 0}
        ).items():
            if getattr(self, name) < low:
                raise UserError(f"search: {name} must be at least {low}, got {getattr(self, name)}")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise UserError("search: temperature must be above 0, and top_p above 0 and at most 1")
        if self.min_length > self.max_length:
            raise UserError(
                f"search: min_length={self.min_length} is above max_length={self.max_length}"
            )
        if self.n_best > self.beam and not self.sample:
            raise UserError(f"search: n_best={self.n_best} needs a beam of at least {self.n_best}")

    @property
    def hypotheses(self) -> int:
        """Rows a sentence may take in the decoder."""
        return self.n_best if self.sample else self.beam


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One translation as token ids, without start and end token.

    ``log_prob`` is the model's log P(ids, end | source): never filtered, tempered or renormalised,
    so that it equals what scoring the same ids gives. ``score`` is ``log_prob`` over the length
    penalty, plus ``coverage``, the coverage penalty (at most 0). ``finished`` is False where the
    length limit forced an end the model had not chosen.
    """

    ids: list[int]
    score: float
    log_prob: float
    finished: bool
    coverage: float = 0.0


def search(
    model: Seq2Seq,
    source: Source,
    options: SearchOptions,
    *,
    pad: int,
    unk: int,
    bos: int,
    eos: int,
    prefix: Sequence[Sequence[int]] | None = None,
    keys: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """The best translations of each sentence, best first; at most ``n_best``, at least one.

    What a sentence gets does not depend on its batch-mates. A search stops early only where that
    changes nothing: no live hypothesis can beat the worst of the ``n_best`` kept ones, since
    further tokens add at best 0 to its log-probability, the limit bounds the length penalty and the
    coverage penalty only lowers a score.

    Args:
        model: in evaluation mode (see `inference`).
        source: ids and keep mask (B, S), each source ending in the end token.
        prefix: target ids every hypothesis of the sentence must begin with.
        keys: a number per sentence that, with ``options.seed``, fixes what is sampled; 0, 1, …
            when not given.

    Raises:
        UserError: a prefix is longer than the positions the model knows, or a coverage penalty is
            asked of a model without cross-attention weights.
    """
    with torch.inference_mode():
        memory = model.encode(source)
        prefix = prefix or [[] for _ in source.ids_BS]
        limits = _limits(source.keep_BS.sum(1).tolist(), prefix, options, model.max_target_length)
        state = _State.start(limits, prefix, keys, options, bos, source.ids_BS.device)
        never = [pad, bos, unk] if options.forbid_unk else [pad, bos]
        if options.coverage_penalty:
            state.covered_BKM = nothing_covered(source, eos).unsqueeze(1)
        cache = model.start(memory, state.reads(), max(limits) + 1)
        project = model.projection()
        found: list[list[Hypothesis]] = [[] for _ in limits]
        while True:
            last_N1 = state.tokens_BKT[:, :, -1].reshape(-1, 1)
            cross: Trace = None if state.covered_BKM is None else []
            hidden_N1D, cache = model.decode(last_N1, memory, cache, cross)
            if state.covered_BKM is not None:
                state.cover(attention_of(cross, model, source, last_N1))
            log_prob_NV = widened(project(hidden_N1D[:, -1])).log_softmax(-1)
            cut_BK = _constrain(log_prob_NV, state, options, never, eos)
            step = (_draw if options.sample else _expand)(log_prob_NV, state, options)
            ends_BC = _close(step, cut_BK, state, options, eos, found)
            moved = _advance(step, ends_BC, state, options)
            if moved is None:
                break
            alive, rows_N, reads_N = moved
            if alive is not None:
                memory = memory.select(alive)
            if rows_N is not None:
                cache = cache.select(rows_N, reads_N)
    return [_best(hypotheses, options.n_best) for hypotheses in found]


@dataclass(slots=True)
class _State:
    """The live hypotheses of the sentences that are still searched."""

    sentences: list[int]  # their numbers in the batch
    limits: list[int]  # most tokens a hypothesis may have, per live sentence
    tokens_BKT: Tensor  # start token first
    log_prob_BK: Tensor
    kept_BQ: Tensor  # best finished scores, descending
    ended_B: Tensor  # finished hypotheses: places taken from the beam
    prefix_BP: Tensor  # forced ids, -1 where free
    noise_BKT: Tensor | None  # uniform numbers that the samples of a place are drawn with
    covered_BKM: Tensor | None = None  # attention each slot has had, under a coverage penalty

    @classmethod
    def start(
        cls,
        limits: list[int],
        prefix: Sequence[Sequence[int]],
        keys: Sequence[int] | None,
        options: SearchOptions,
        bos: int,
        device: torch.device,
    ) -> _State:
        """One hypothesis a sentence (all would be alike), or one for each sample."""
        b, k = len(limits), options.n_best if options.sample else 1
        forced_BP = torch.full((b, max(map(len, prefix))), -1)
        for row, ids in zip(forced_BP, prefix, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        noise_BKT = None
        if options.sample:
            noise_BKT = torch.zeros(b, k, max(limits) + 1)
            for row, key, limit in zip(noise_BKT, keys or range(b), limits, strict=True):
                noise = np.random.default_rng([options.seed, key]).random((k, limit + 1))
                row[:, : limit + 1] = torch.from_numpy(noise).clamp(max=1 - 1e-6)
            noise_BKT = noise_BKT.to(device)
        return cls(
            sentences=list(range(b)),
            limits=limits,
            tokens_BKT=torch.full((b, k, 1), bos, device=device),
            log_prob_BK=torch.zeros(b, k, device=device),
            kept_BQ=torch.full((b, options.n_best), -torch.inf, device=device),
            ended_B=torch.zeros(b, dtype=torch.long, device=device),
            prefix_BP=forced_BP.to(device),
            noise_BKT=noise_BKT,
        )

    def cover(self, seen_NM: Tensor) -> None:
        """Adds the attention of one more step."""
        assert self.covered_BKM is not None
        self.covered_BKM = self.covered_BKM + seen_NM.unflatten(0, (len(self.sentences), -1))

    @property
    def length(self) -> int:
        """Tokens every live hypothesis has."""
        return self.tokens_BKT.shape[2] - 1

    def reads(self) -> Tensor:
        """The memory row that each hypothesis reads (N)."""
        b, k, _ = self.tokens_BKT.shape
        return torch.arange(b, device=self.tokens_BKT.device).repeat_interleave(k)


@dataclass(slots=True)
class _Step:
    """Candidates for the next token, best first; parents are places within the sentence."""

    log_prob_BC: Tensor
    parent_BC: Tensor
    token_BC: Tensor


def _limits(
    lengths: list[int],
    prefix: Sequence[Sequence[int]],
    options: SearchOptions,
    known: int | None,
) -> list[int]:
    """Most tokens of a hypothesis, per sentence. ``known`` positions hold the start token too."""
    limits = []
    for length, forced in zip(lengths, prefix, strict=True):
        limit = min(options.max_length, int(options.max_length_ratio * length) + SLACK)
        limit = max(limit, options.min_length, len(forced))
        if known is not None:
            if len(forced) >= known:
                raise UserError(
                    f"the forced prefix has {len(forced)} tokens; the model knows {known - 1}"
                )
            limit = min(limit, known - 1)
        limits.append(limit)
    return limits


def _constrain(
    log_prob_NV: Tensor, state: _State, options: SearchOptions, never: list[int], eos: int
) -> Tensor:
    """Writes minus infinity over every token that may not come next.

    A forced token (prefix, end at the limit) overrides what is forbidden. Returns which hypotheses
    (B, K) are cut: the limit forces an end that the model would not have chosen.
    """
    b, k, _ = state.tokens_BKT.shape
    length = state.length
    cut_BK = torch.zeros(b, k, dtype=torch.bool, device=log_prob_NV.device)
    forced_B = torch.full((b,), -1, device=log_prob_NV.device)
    if length < state.prefix_BP.shape[1]:
        forced_B = state.prefix_BP[:, length]
    at_limit = length in state.limits
    if at_limit:
        limit_B = torch.tensor(state.limits, device=log_prob_NV.device)
        forced_B = forced_B.masked_fill(limit_B == length, eos)
    forced_N = forced_B.repeat_interleave(k)
    raw_N1 = log_prob_NV.gather(1, forced_N.clamp(min=0)[:, None])
    end_N = log_prob_NV[:, eos].clone()

    log_prob_NV[:, never] = -torch.inf
    if length < options.min_length:
        log_prob_NV[:, eos] = -torch.inf
    if 0 < options.no_repeat_ngram <= length:
        _forbid_repeats(log_prob_NV, state.tokens_BKT[:, :, 1:].flatten(0, 1), options)
        # a hypothesis that may go nowhere may end, so that none is lost
        stuck_N = log_prob_NV.amax(-1) == -torch.inf
        log_prob_NV[:, eos] = torch.where(stuck_N, end_N, log_prob_NV[:, eos])
    if at_limit:
        cut_BK = ((forced_N == eos) & (log_prob_NV.argmax(-1) != eos)).view(b, k)
    if at_limit or length < state.prefix_BP.shape[1]:
        log_prob_NV.masked_fill_((forced_N >= 0)[:, None], -torch.inf)
        kept_N1 = log_prob_NV.gather(1, forced_N.clamp(min=0)[:, None])
        raw_N1 = torch.where((forced_N >= 0)[:, None], raw_N1, kept_N1)
        log_prob_NV.scatter_(1, forced_N.clamp(min=0)[:, None], raw_N1)
    return cut_BK


def _forbid_repeats(log_prob_NV: Tensor, tokens_NT: Tensor, options: SearchOptions) -> None:
    """Forbids the tokens that would complete an n-gram which the hypothesis already has."""
    n = options.no_repeat_ngram
    grams_NGn = tokens_NT.unfold(1, n, 1)
    suffix_N1n = tokens_NT[:, None, tokens_NT.shape[1] - n + 1 :]
    seen_NG = (grams_NGn[..., :-1] == suffix_N1n).all(-1)
    blocked_NG = torch.where(seen_NG, -torch.inf, 0.0).to(log_prob_NV.dtype)
    log_prob_NV.scatter_add_(1, grams_NGn[..., -1], blocked_NG)


def _expand(log_prob_NV: Tensor, state: _State, options: SearchOptions) -> _Step:
    """Beam search: the best continuations over all hypotheses of a sentence that have room."""
    b, k = state.log_prob_BK.shape
    gained_NC, token_NC = top(log_prob_NV, min(options.beam, log_prob_NV.shape[1]))
    gained_BKC = gained_NC.view(b, k, -1)
    total_BC = (state.log_prob_BK[..., None] + gained_BKC).flatten(1)
    # a model that returns NaN has no continuation, rather than one that beats every number
    total_BC = total_BC.masked_fill(total_BC.isnan(), -torch.inf)
    log_prob_BC, place_BC = total_BC.topk(min(options.beam, total_BC.shape[1]))
    room_B = options.beam - state.ended_B
    rank_C = torch.arange(log_prob_BC.shape[1], device=room_B.device)
    log_prob_BC = log_prob_BC.masked_fill(rank_C >= room_B[:, None], -torch.inf)
    token_BC = token_NC.reshape(b, -1).gather(1, place_BC)
    return _Step(log_prob_BC, place_BC // gained_BKC.shape[2], token_BC)


def _draw(log_prob_NV: Tensor, state: _State, options: SearchOptions) -> _Step:
    """Sampling: one token a hypothesis, by inverting the distribution function at its own noise."""
    assert state.noise_BKT is not None
    b, k = state.log_prob_BK.shape
    v = log_prob_NV.shape[1]
    scaled_NV, order_NV = log_prob_NV / options.temperature, None
    if options.top_k or options.top_p < 1:
        scaled_NV, order_NV = scaled_NV.topk(min(options.top_k or v, v))
    share_NV = scaled_NV.softmax(-1)
    if options.top_p < 1:  # Holtzman et al. 2020: the fewest tokens that hold top_p of the mass
        before_NV = share_NV.cumsum(-1) - share_NV
        share_NV = share_NV.masked_fill(before_NV >= options.top_p, 0.0)
    mass_NV = share_NV.cumsum(-1)
    noise_N1 = state.noise_BKT[:, :, state.length].reshape(-1, 1)
    pick_N1 = torch.searchsorted(mass_NV, noise_N1 * mass_NV[:, -1:], right=True)
    pick_N1 = pick_N1.clamp(max=mass_NV.shape[1] - 1)
    token_N1 = pick_N1 if order_NV is None else order_NV.gather(1, pick_N1)
    gained_BK = log_prob_NV.gather(1, token_N1).view(b, k)
    log_prob_BK = (state.log_prob_BK + gained_BK).nan_to_num(nan=-torch.inf)
    parent_BK = torch.arange(k, device=log_prob_NV.device).expand(b, k)
    return _Step(log_prob_BK, parent_BK, token_N1.view(b, k))


def _close(
    step: _Step,
    cut_BK: Tensor,
    state: _State,
    options: SearchOptions,
    eos: int,
    found: list[list[Hypothesis]],
) -> Tensor:
    """Writes down the candidates that ended, and says which (B, C) they are."""
    ends_BC = (step.token_BC == eos) & (step.log_prob_BC > -torch.inf)
    rows_E, places_E = ends_BC.nonzero(as_tuple=True)
    if len(rows_E):
        score_BC = step.log_prob_BC / length_penalty(state.length + 1, options.length_penalty)
        coverage_BC = torch.zeros_like(score_BC)
        if state.covered_BKM is not None:
            coverage_BK = coverage_penalty(state.covered_BKM, options.coverage_penalty)
            coverage_BC = coverage_BK.gather(1, step.parent_BC)
            score_BC = score_BC + coverage_BC
        ended_BC = score_BC.masked_fill(~ends_BC, -torch.inf)
        both = torch.cat([state.kept_BQ.to(ended_BC.dtype), ended_BC], 1)
        state.kept_BQ = both.topk(options.n_best).values
        state.ended_B = state.ended_B + ends_BC.sum(1)
        parents_E = step.parent_BC[rows_E, places_E]
        columns = (
            rows_E,
            state.tokens_BKT[rows_E, parents_E, 1:],
            score_BC[rows_E, places_E],
            step.log_prob_BC[rows_E, places_E],
            ~cut_BK[rows_E, parents_E],
            coverage_BC[rows_E, places_E],
        )
        for row, *rest in zip(*(column.tolist() for column in columns), strict=True):
            found[state.sentences[row]].append(Hypothesis(*rest))
    return ends_BC


def _advance(
    step: _Step, ends_BC: Tensor, state: _State, options: SearchOptions
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """Moves the state one token on; sentences that are over and needless places leave the batch.

    Returns None when nothing is left, else (memory rows that stay, hypotheses that stay, the memory
    row each of them reads from now on), each None where nothing changes.
    """
    b, k = state.log_prob_BK.shape
    device = ends_BC.device
    live_BC = step.log_prob_BC.masked_fill(ends_BC, -torch.inf)
    longest_B = torch.tensor(state.limits, device=device) + 1
    bound_B = live_BC.amax(1) / length_penalty(longest_B, options.length_penalty)
    width_B = (live_BC > -torch.inf).sum(1).masked_fill(bound_B <= state.kept_BQ[:, -1], 0)
    widths = width_B.tolist()  # the one wait for the device in a step without an ending
    alive = going_on(widths)
    if not alive:
        return None
    width = max(widths)
    alive_B = torch.tensor(alive, device=device)
    log_prob_BK, place_BK = live_BC[alive_B].topk(width)
    parent_BK = step.parent_BC[alive_B].gather(1, place_BK)
    if device.type == "cpu" and width == k > 1:  # elsewhere all rows of the cache are copied anyway
        order_BK = in_place(parent_BK)
        log_prob_BK, place_BK, parent_BK = (
            of_BK.gather(1, order_BK) for of_BK in (log_prob_BK, place_BK, parent_BK)
        )
    token_BK1 = step.token_BC[alive_B].gather(1, place_BK)[..., None]
    rows_N = (alive_B[:, None] * k + parent_BK).flatten()

    state.tokens_BKT = torch.cat(
        [state.tokens_BKT.flatten(0, 1)[rows_N].view(len(alive), width, -1), token_BK1], 2
    )
    if state.noise_BKT is not None:
        state.noise_BKT = state.noise_BKT.flatten(0, 1)[rows_N].view(len(alive), width, -1)
    if state.covered_BKM is not None:
        state.covered_BKM = state.covered_BKM.flatten(0, 1)[rows_N].view(len(alive), width, -1)
    state.log_prob_BK = log_prob_BK
    if len(alive) == b and width == k:
        return None, (None if k == 1 else rows_N), None
    state.sentences = [state.sentences[row] for row in alive]
    state.limits = [state.limits[row] for row in alive]
    state.kept_BQ, state.ended_B = state.kept_BQ[alive_B], state.ended_B[alive_B]
    state.prefix_BP = state.prefix_BP[alive_B]
    return (alive_B if len(alive) < b else None), rows_N, state.reads()


def _best(hypotheses: list[Hypothesis], n_best: int) -> list[Hypothesis]:
    """Best first. A model that gives no token any probability (NaN) yields one empty hypothesis."""
    if not hypotheses:
        return [Hypothesis([], -torch.inf, -torch.inf, finished=False)]
    return sorted(hypotheses, key=lambda h: -h.score)[:n_best]
