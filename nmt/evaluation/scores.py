"""Scores of translations against references, each with the signature that makes it comparable.

All numbers are sacreBLEU's own (Post 2018) on raw, detokenised text. What papers report on
lower-cased tokenised text has a name of its own, ``tok_bleu_lc``, so that the two are never put in
one column.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.decoding.lines import Report, warn
from nmt.errors import UserError

METRICS = ("bleu", "chrf", "ter")
SAMPLES = 1_000
"""Bootstrap samples behind an interval."""

TOKENIZERS = {"zh": "zh", "cmn": "zh", "yue": "zh", "ja": "ja-mecab", "jpn": "ja-mecab"}
TOKENIZERS |= {"ko": "ko-mecab", "kor": "ko-mecab"}
"""BLEU's tokenizer by target language; 13a for all others."""

EDGES = (5, 10, 15, 20, 25, 30, 40, 50)
"""Upper ends of the buckets of `by_length`, in source words."""

LENGTH_NOTE = (
    "BLEU is not comparable between rows (long sentences are also rarer and harder); "
    "compare models row by row."
)


@dataclass(frozen=True, slots=True)
class Score:
    """One number, how it was computed, and its 95 % interval (None where it was not asked for).

    The interval is the mean of the bootstrap samples plus and minus half the width of their central
    95 %, which is what sacreBLEU prints.
    """

    name: str
    score: float
    signature: str
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.1f}, {self.high:.1f}]"
        return f"{self.name} {self.score:.2f}{interval}  {self.signature}"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Scores of the sentences with ``low`` to ``high`` source words (None: no upper end)."""

    low: int
    high: int | None
    sentences: int
    bleu: float
    chrf: float


def bleu_tokenizer(language: str) -> str:
    """The tokenizer that BLEU needs for a target language, as sacreBLEU names it."""
    return TOKENIZERS.get(re.split("[-_]", language.lower())[0], "13a")


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    target_language: str,
    metrics: Sequence[str] = METRICS,
    samples: int = SAMPLES,
    report: Report = warn,
) -> dict[str, Score]:
    """Corpus BLEU, chrF and TER of detokenised text.

    Args:
        references: one list of lines for each reference.
        target_language: decides BLEU's tokenizer (Chinese, Japanese, Korean need their own).
        metrics: which of ``bleu``, ``chrf`` and ``ter``.
        samples: bootstrap samples for the intervals, from sacreBLEU's fixed seed; 0 for none.
        report: takes a warning when either side looks tokenised.

    Raises:
        UserError: no lines, different numbers of lines, an unknown metric, or MeCab is missing.
    """
    check_counts(hypotheses, references)
    for name, lines in (("hypotheses", hypotheses), ("references", references[0])):
        if reason := looks_tokenised(lines):
            report(
                f"the {name} look tokenised ({reason}): BLEU, chrF and TER are for detokenised "
                "text; detokenise them, or use tok_bleu_lc"
            )
    return {
        name: _corpus(make_metric(name, target_language), name, hypotheses, references, samples)
        for name in metrics
    }


def tok_bleu_lc(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, samples: int = SAMPLES
) -> Score:
    """Lower-cased BLEU of text that is already tokenised, for comparison with older papers only.

    Raises:
        UserError: no lines, or different numbers of lines.
    """
    from sacrebleu.metrics import BLEU

    check_counts(hypotheses, references)
    metric = BLEU(tokenize="none", lowercase=True, force=True)
    return _corpus(metric, "tok_bleu_lc", hypotheses, references, samples)


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """chrF of each sentence (BLEU of a single sentence says little).

    Raises:
        UserError: no lines, or different numbers of lines.
    """
    from sacrebleu.metrics import CHRF

    check_counts(hypotheses, references)
    metric = CHRF()
    rows = zip(hypotheses, *references, strict=True)
    return [metric.sentence_score(row[0], list(row[1:])).score for row in rows]


def by_length(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    target_language: str,
    edges: Sequence[int] = EDGES,
) -> list[Bucket]:
    """BLEU and chrF by the number of source words (split at white space); empty buckets left out.

    Rows are for comparing models, not each other: see `LENGTH_NOTE`.

    Raises:
        UserError: no lines, or different numbers of lines.
    """
    check_counts(hypotheses, [sources, *references])
    lengths = [len(source.split()) for source in sources]
    buckets = []
    lows = [0, *(edge + 1 for edge in edges)]
    for low, high in zip(lows, [*edges, None], strict=True):
        chosen = [i for i, n in enumerate(lengths) if n >= low and (high is None or n <= high)]
        if not chosen:
            continue
        part = [hypotheses[i] for i in chosen]
        part_references = [[reference[i] for i in chosen] for reference in references]
        values = {
            name: make_metric(name, target_language).corpus_score(part, part_references).score
            for name in ("bleu", "chrf")
        }
        buckets.append(Bucket(low, high, len(chosen), values["bleu"], values["chrf"]))
    return buckets


def length_table(buckets: Sequence[Bucket]) -> str:
    """`by_length` as plain text, with the note that belongs to it."""
    rows = ["source words  sentences   BLEU   chrF"]
    for bucket in buckets:
        words = f"{bucket.low}+" if bucket.high is None else f"{bucket.low}-{bucket.high}"
        rows.append(f"{words:>12}  {bucket.sentences:>9}  {bucket.bleu:>5.1f}  {bucket.chrf:>5.1f}")
    return "\n".join([*rows, LENGTH_NOTE])


def check_counts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """As many lines on every side.

    Raises:
        UserError: no lines, no reference, or different numbers of lines.
    """
    if not hypotheses or not references:
        raise UserError("there is nothing to score: no hypotheses or no references")
    for number, reference in enumerate(references, 1):
        if len(reference) != len(hypotheses):
            raise UserError(
                f"{len(hypotheses):,} hypotheses, but reference {number} has {len(reference):,} "
                "lines: they must be the same sentences in the same order"
            )


_MARKS = re.compile(r"@@ |@-@|&(?:apos|quot|amp|lt|gt|#91|#93|#124);|▁")
_LOOSE = re.compile(r"\s[.,](?:\s|$)")


def looks_tokenised(lines: Sequence[str]) -> str | None:
    """What gives tokenised text away, or None.

    That is marks which only tokenizers write, or a space before most full stops and commas. (Before
    ! ? : ; French has one in ordinary text.)
    """
    marked = sum(bool(_MARKS.search(line)) for line in lines)
    if marked > len(lines) / 10:
        return f"{marked} of {len(lines)} lines have marks such as @@, &apos; or ▁"
    stopped = [line for line in lines if "." in line or "," in line]
    loose = sum(bool(_LOOSE.search(line)) for line in stopped)
    if loose > len(stopped) / 2:
        return f"{loose} of {len(lines)} lines have a space before a full stop or comma"
    return None


def append_record(path: Path, record: dict[str, Any], identity: Sequence[str]) -> None:
    """Adds a record to a JSON list on disk, in place of the one with the same ``identity`` keys.

    The file is replaced in one step.

    Raises:
        UserError: the file is there and is not such a list.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        same = [all(old.get(key) == record.get(key) for key in identity) for old in records]
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); move it away to go on") from None
    records = [old for old, replaced in zip(records, same, strict=True) if not replaced]
    text = json.dumps([*records, record], indent=2, ensure_ascii=False) + "\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def make_metric(name: str, language: str) -> Any:
    """sacreBLEU's metric with the settings that its defaults would get wrong for some languages."""
    from sacrebleu.metrics import BLEU, CHRF, TER

    if name == "chrf":
        return CHRF()
    tokenizer = bleu_tokenizer(language)
    if name == "ter":
        spaceless = tokenizer in ("zh", "ja-mecab")
        return TER(normalized=spaceless, asian_support=spaceless)
    if name != "bleu":
        raise UserError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    try:
        return BLEU(tokenize=tokenizer, force=True)  # `score` warns of tokenised text itself
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"BLEU for {language} needs MeCab (sacreBLEU's {tokenizer}): pip install 'nmt[cjk]'"
        ) from error


def _corpus(
    metric: Any,
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    samples: int,
) -> Score:
    """Runs sacreBLEU; a single sentence has no interval."""
    resampled = samples > 1 and len(hypotheses) > 1
    result = metric.corpus_score(
        list(hypotheses), [list(r) for r in references], n_bootstrap=samples if resampled else 1
    )
    low = high = None
    if resampled:
        low, high = float(result._mean - result._ci), float(result._mean + result._ci)
    return Score(name, float(result.score), str(metric.get_signature()), low, high)
