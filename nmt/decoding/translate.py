"""Text in, text out: the same order and the same number of lines, always.

Lines are tokenised, sorted by length, searched in batches of bounded size and put back in order.
Every command that decodes, validation included, goes through `translate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmt.data.batching import Batch, collate
from nmt.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizers
from nmt.decoding.lines import Report, warn
from nmt.decoding.parallel import side_by_side
from nmt.decoding.parts import MAX_INPUT, Part, cut_lines
from nmt.decoding.penalties import length_penalty
from nmt.decoding.search import SearchOptions, search
from nmt.errors import UserError
from nmt.models.attention import widened
from nmt.models.seq2seq import Seq2Seq, Source

Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the n best translations of a line.

    ``log_prob`` sums over all ``tokens`` (end tokens counted); ``score`` is what search ranks by.
    ``finished`` is False where the length limit cut the translation off.
    """

    text: str
    score: float
    log_prob: float
    tokens: int
    ids: list[int]
    pieces: list[str]
    finished: bool


@dataclass(frozen=True, slots=True)
class Translation:
    """A line and its translations, best first; never without one.

    ``parts`` is above 1 where the line was too long and was translated in parts.
    """

    source: str
    source_ids: list[int]
    source_pieces: list[str]
    n_best: list[Candidate]
    parts: int = 1

    @property
    def text(self) -> str:
        return self.n_best[0].text

    @property
    def score(self) -> float:
        return self.n_best[0].score

    @property
    def log_prob(self) -> float:
        return self.n_best[0].log_prob

    @property
    def tokens(self) -> int:
        return self.n_best[0].tokens

    @property
    def ids(self) -> list[int]:
        return self.n_best[0].ids

    @property
    def pieces(self) -> list[str]:
        return self.n_best[0].pieces

    @property
    def truncated(self) -> bool:
        """Whether the length limit cut the translation off."""
        return not self.n_best[0].finished


@dataclass(frozen=True, slots=True)
class PairScore:
    """log P(target, end | source) in nats, and the number of target tokens with the end."""

    log_prob: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.log_prob / self.tokens


@contextmanager
def inference(model: Seq2Seq, precision: torch.dtype | None = None) -> Iterator[torch.device]:
    """Evaluation mode without gradients, under autocast where a ``precision`` is given.

    Yields the device of the model; its mode is restored afterwards.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with narrowed(model, precision), computing(device, precision):
            yield device
    finally:
        model.train(was_training)


@contextmanager
def computing(device: torch.device, precision: torch.dtype | None) -> Iterator[None]:
    """The part of `inference` that holds for one thread: no gradients, and autocast."""
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=precision, enabled=precision is not None),
    ):
        yield


@contextmanager
def narrowed(model: Seq2Seq, precision: torch.dtype | None) -> Iterator[None]:
    """Inside, linear layers have their weights in the type in which autocast multiplies them.

    The numbers are the same, and weights are converted once instead of at every step of a search:
    without gradients autocast remembers none. Afterwards the model has its own tensors again.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)] if precision else []
    wide = {weight: weight.data for layer in layers for weight in layer.parameters()}
    try:
        for weight, data in wide.items():
            weight.data = data.to(precision)
        yield
    finally:
        for weight, data in wide.items():
            weight.data = data


# ---- translation ---------------------------------------------------------------------------------


def translate(
    model: Seq2Seq,
    tokenizers: Tokenizers,
    lines: Sequence[str],
    options: SearchOptions,
    *,
    batch_tokens: int = 8_192,
    precision: torch.dtype | None = None,
    prefixes: Sequence[str] | None = None,
    max_input: int = MAX_INPUT,
    joiner: str = " ",
    tags: Sequence[str] = (),
    first_line: int = 1,
    report: Report = warn,
) -> list[Translation]:
    """Translate lines; the answer has one `Translation` per line, in the order of the lines.

    A line with nothing to translate gives an empty translation. One of more tokens than the model
    knows, or than ``max_input``, is cut at sentence ends (clauses, words, tokens where there are
    none) and its translated parts are put together with ``joiner``.

    Args:
        batch_tokens: bound on sentences (one at least) x padded source tokens x hypotheses; on a
            CPU up to four batches are searched at once (see `side_by_side`).
        precision: compute under autocast in this type; None for the weights' own.
        prefixes: what each translation must begin with; "" leaves it free.
        joiner: what stands between translated parts: "" for languages written without spaces.
        tags: what a line may begin with that holds for all its parts.
        first_line: number of the first line, in warnings and as the seed of its samples.

    Raises:
        UserError: not one prefix per line, or a prefix longer than the positions the model knows.
    """
    if prefixes is not None and len(prefixes) != len(lines):
        raise UserError(f"{len(lines)} lines, but {len(prefixes)} prefixes: give one per line")
    limit = max(1, min(max_input, model.max_source_length or max_input) - 1)
    parts, counts = cut_lines(tokenizers, lines, prefixes, limit, tags, first_line, report)
    plan = batches([len(p.ids) + 1 for p in parts], batch_tokens // options.hypotheses)
    jobs = [[parts[i] for i in places] for places in plan]
    with inference(model, precision) as device:

        def find(rows: list[Part]) -> None:
            with computing(device, precision):
                _search_parts(model, rows, options, device, first_line)

        side_by_side(find, jobs, device)
    groups = iter(parts)
    translations = [
        _joined(line, [next(groups) for _ in range(count)], tokenizers, options, joiner)
        for line, count in zip(lines, counts, strict=True)
    ]
    _report_cut(translations, first_line, report)
    return translations


def _search_parts(
    model: Seq2Seq,
    rows: list[Part],
    options: SearchOptions,
    device: torch.device,
    first_line: int,
) -> None:
    """Puts into each part of one batch what was found for it."""
    batch = batch_of([part.ids for part in rows], [()] * len(rows)).to(device)
    found = search(
        model,
        Source(batch.source_BS, batch.source_keep_BS),
        options,
        pad=PAD,
        unk=UNK,
        bos=BOS,
        eos=EOS,
        prefix=[part.prefix for part in rows],
        keys=[first_line + part.line for part in rows],
    )
    for part, hypotheses in zip(rows, found, strict=True):
        part.found = hypotheses


def translate_stream(
    model: Seq2Seq,
    tokenizers: Tokenizers,
    chunks: Iterable[Sequence[str]],
    options: SearchOptions,
    *,
    batch_tokens: int = 8_192,
    precision: torch.dtype | None = None,
    max_input: int = MAX_INPUT,
    joiner: str = " ",
    tags: Sequence[str] = (),
    report: Report = warn,
) -> Iterator[Translation]:
    """`translate` chunk by chunk (see `read_chunks`), so that memory is bounded by a chunk."""
    first_line = 1
    for chunk in chunks:
        yield from translate(
            model,
            tokenizers,
            chunk,
            options,
            batch_tokens=batch_tokens,
            precision=precision,
            max_input=max_input,
            joiner=joiner,
            tags=tags,
            first_line=first_line,
            report=report,
        )
        first_line += len(chunk)


def _joined(
    line: str, parts: list[Part], tokenizers: Tokenizers, options: SearchOptions, joiner: str
) -> Translation:
    """The translation of a line from those of its parts."""
    if not parts:
        return Translation(line, [], [], [Candidate("", 0.0, 0.0, 0, [], [], True)], parts=0)
    n_best = []
    for rank in range(min(len(part.found) for part in parts)):
        hypotheses = [part.found[rank] for part in parts]
        ids = [i for hypothesis in hypotheses for i in hypothesis.ids]
        tokens = len(ids) + len(hypotheses)
        log_prob = sum(hypothesis.log_prob for hypothesis in hypotheses)
        texts = (_one_line(tokenizers.target.decode(h.ids)) for h in hypotheses)
        n_best.append(
            Candidate(
                text=joiner.join(text for text in texts if text),
                score=log_prob / length_penalty(tokens, options.length_penalty)
                + sum(hypothesis.coverage for hypothesis in hypotheses),
                log_prob=log_prob,
                tokens=tokens,
                ids=ids,
                pieces=tokenizers.target.pieces(ids),
                finished=all(hypothesis.finished for hypothesis in hypotheses),
            )
        )
    source_ids = [i for part in parts for i in part.ids]
    pieces = tokenizers.source.pieces(source_ids)
    return Translation(line, source_ids, pieces, n_best, parts=len(parts))


def _one_line(text: str) -> str:
    """A model may spell a line break with byte pieces; it must not make two lines of one."""
    return text.replace("\n", " ").replace("\r", " ")


def _report_cut(translations: list[Translation], first_line: int, report: Report) -> None:
    """One warning for all translations that the length limit cut off."""
    cut = [first_line + i for i, t in enumerate(translations) if t.truncated]
    if cut:
        lines = ", ".join(map(str, cut[:5])) + (", …" if len(cut) > 5 else "")
        report(
            f"{len(cut)} of {len(translations)} translations were cut off by the length limit "
            f"(line {lines}); raise search.max_length or search.max_length_ratio if so wanted"
        )


def batch_of(source_rows: Sequence[Ids], target_rows: Sequence[Ids]) -> Batch:
    """Pairs of ids without special ids as tensors."""
    return collate(source_rows, target_rows, pad=PAD, bos=BOS, eos=EOS)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places by falling length in batches of at most ``budget`` padded tokens, one row at least.

    The longest come first, so that a batch that does not fit into memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        count = max(1, budget // lengths[order[start]])
        yield order[start : start + count]
        start += count


# ---- scoring -------------------------------------------------------------------------------------


def score_pairs(
    model: Seq2Seq,
    tokenizers: Tokenizers,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    batch_tokens: int = 8_192,
    precision: torch.dtype | None = None,
) -> list[PairScore]:
    """How probable each target is as the translation of its source.

    Raises:
        UserError: not as many targets as sources, or a sentence longer than the model knows.
    """
    if len(sources) != len(targets):
        raise UserError(f"{len(sources)} sources, but {len(targets)} targets: give one per source")
    rows = tokenizers.source.encode(sources), tokenizers.target.encode(targets)
    return score_ids(model, *rows, batch_tokens=batch_tokens, precision=precision)


def score_ids(
    model: Seq2Seq,
    source_rows: Sequence[Ids],
    target_rows: Sequence[Ids],
    *,
    batch_tokens: int = 8_192,
    precision: torch.dtype | None = None,
) -> list[PairScore]:
    """`score_pairs` for token ids without start and end.

    Raises:
        UserError: a sentence is longer than the positions the model knows.
    """
    check_known(model, source_rows, target_rows)
    lengths = [len(s) + len(t) + 2 for s, t in zip(source_rows, target_rows, strict=True)]
    scores: list[PairScore | None] = [None] * len(lengths)
    with inference(model, precision) as device:
        for places in batches(lengths, batch_tokens):
            rows = [source_rows[i] for i in places], [target_rows[i] for i in places]
            batch = batch_of(*rows).to(device)
            hidden_BTD = model(Source(batch.source_BS, batch.source_keep_BS), batch.target_in_BT)
            keep_BT = batch.target_keep_BT
            log_prob_N = _log_probs(model, hidden_BTD[keep_BT], batch.target_out_BT[keep_BT])
            sums_B = torch.zeros(len(places), dtype=torch.float64)
            sums_B.index_add_(0, keep_BT.nonzero()[:, 0].cpu(), log_prob_N.cpu().double())
            for place, log_prob in zip(places, sums_B.tolist(), strict=True):
                scores[place] = PairScore(log_prob, len(target_rows[place]) + 1)
    return [score for score in scores if score is not None]


def check_known(model: Seq2Seq, source_rows: Sequence[Ids], target_rows: Sequence[Ids]) -> None:
    """Every sentence fits into the positions the model knows.

    Raises:
        UserError: one does not.
    """
    for name, rows, known in (
        ("source", source_rows, model.max_source_length),
        ("target", target_rows, model.max_target_length),
    ):
        for number, row in enumerate(rows, 1):
            if known is not None and len(row) + 1 > known:
                raise UserError(
                    f"pair {number}: the {name} has {len(row)} tokens, but this model knows "
                    f"{known - 1}; shorten it or leave it out"
                )


def _log_probs(model: Seq2Seq, hidden_ND: Tensor, out_N: Tensor, chunk: int = 1_024) -> Tensor:
    """Log-probability of each token; logits are made for ``chunk`` positions at a time."""
    parts = []
    for hidden, out in zip(hidden_ND.split(chunk), out_N.split(chunk), strict=True):
        logits = widened(model.project(hidden))
        parts.append(-F.cross_entropy(logits, out, reduction="none"))
    return torch.cat(parts)


def validation_loss(
    model: Seq2Seq,
    source_rows: Sequence[Ids],
    target_rows: Sequence[Ids],
    *,
    batch_tokens: int = 8_192,
    precision: torch.dtype | None = None,
) -> tuple[float, int]:
    """Sum of the negative log-likelihood in nats (no label smoothing), and its target tokens."""
    scores = score_ids(
        model, source_rows, target_rows, batch_tokens=batch_tokens, precision=precision
    )
    return -sum(score.log_prob for score in scores), sum(score.tokens for score in scores)
