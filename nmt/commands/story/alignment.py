"""Alignment error rates of a story's models: the corpus's own gold alignments, or the Hansards'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nmt.commands import align
from nmt.commands.pairs import Pairs, embedded_pairs, given_pairs
from nmt.commands.story.bench import Bench
from nmt.commands.story.measures import Numbers
from nmt.decoding.align import Gold, diagonal_score
from nmt.decoding.views import ViewScores, best_view
from nmt.translator import Translator

ALIGNED = 300
"""Test sentences whose alignment is scored."""
CHOSEN_ON = 100
"""Dev sentences on which the layer, head and row are chosen."""
HANSARDS = {"bitext": "align/hansards.en-fr.txt.gz", "gold": "align/hansards.gold.txt.gz"}
"""Under ``data.root``; what English-French corpora without gold of their own are measured on."""


def with_alignment(bench: Bench, rungs: Sequence[str], numbers: Numbers) -> Numbers:
    """The numbers of a claim with the alignment error rate of each rung, where there is gold.

    Args:
        rungs: those of the rows of the claim's table, in their order; all with attention.
    """
    pairs = gold_pairs(bench, rungs[0])
    if pairs is None:
        return numbers
    dev, test = pairs
    found = {}
    for rung in rungs:
        bench.say(f"{rung}: its attention against {len(test.sources)} gold alignments")
        seeds = bench.seeds(rung)
        found[rung] = [error_rate(bench.translator(rung, s), dev, test) for s in seeds]
    diagonal = diagonal_score(test.words(), _gold(test)).error_rate
    rows = zip(numbers["table"]["rows"], found.values(), strict=True)
    return numbers | {
        "caption": f"{numbers['caption']} AER: alignment error rate of the attention against the "
        f"gold alignments of {len(test.sources):,} {test.name}, with the layer, head and row "
        f"that are best on {len(dev.sources):,} {dev.name}; the diagonal, without a model, has "
        f"{100 * diagonal:.1f} %.",
        "table": {
            "columns": [*numbers["table"]["columns"], "AER, %"],
            "rows": [[*row, f"{100 * np.mean(rates):.1f}"] for row, rates in rows],
        },
        "alignment": {"error_rates": found, "diagonal": diagonal},
    }


def gold_pairs(bench: Bench, rung: str) -> tuple[Pairs, Pairs] | None:
    """Pairs to choose a view on, and pairs to score it on; None where there is no gold.

    Args:
        rung: one with a finished run, whose data they are.

    Raises:
        UserError: the Hansards are there and cannot be read.
    """
    translator = bench.translator(rung, bench.seeds(rung)[0])
    end = min(ALIGNED, bench.sentences or ALIGNED)
    prepared = bench.prepared()
    if prepared.gold("test") is not None:
        dev, test = (embedded_pairs(split, translator, {}) for split in ("valid", "test"))
        return dev.part(0, CHOSEN_ON, "dev sentences"), test.part(0, end, "test sentences")
    root = Path(bench.data().root)
    files = {kind: root / path for kind, path in HANSARDS.items()}
    languages = (prepared.source_language, prepared.target_language)
    if languages != ("en", "fr") or not all(path.is_file() for path in files.values()):
        return None
    pairs = given_pairs({kind: str(path) for kind, path in files.items()}, translator)
    first = align.CHOSEN_ON
    name = "sentences of the Hansards (lower-cased, tokenised, far from the training text)"
    return pairs.part(0, first, "others of them"), pairs.part(first, first + end, name)


def error_rate(translator: Translator, dev: Pairs, test: Pairs) -> float:
    """AER on test of the view with the lowest AER on dev.

    Raises:
        UserError: a model without cross-attention.
    """
    view, _ = best_view(dev.explained(translator), dev.words(), _gold(dev))
    scores = ViewScores([view])
    columns = (test.explained(translator), test.words(), _gold(test))
    for explained, words, gold in zip(*columns, strict=True):
        scores.add(explained, words, gold)
    return scores.best()[1].error_rate


def _gold(pairs: Pairs) -> Sequence[Gold]:
    assert pairs.gold is not None
    return pairs.gold
