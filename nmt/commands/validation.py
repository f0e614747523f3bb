"""What training is judged by: loss over the whole dev set, and real decoding of a part of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nmt.config import Config
from nmt.data.prepared import Prepared
from nmt.decoding.align import Explained, entropies, explain_ids, token_matrix
from nmt.decoding.translate import translate, validation_loss
from nmt.evaluation.plots import as_rgb, head_tiles, heat_map
from nmt.evaluation.scores import score
from nmt.models.seq2seq import Seq2Seq
from nmt.training.monitor import Validation
from nmt.translator import joiner, search_options

SAMPLES = 4
"""Dev sentences whose translations and attention are shown at every validation."""
EXPLAINED = 32
"""Dev pairs that the entropy of attention is measured on."""


@dataclass(frozen=True, slots=True)
class Validator:
    """Scores a model on the dev set, through the code that ``nmt translate`` runs.

    Decoding is greedy: it takes a fraction of the time of beam search, and ranks checkpoints alike.
    """

    config: Config
    prepared: Prepared

    def __call__(self, model: Seq2Seq) -> Validation:
        store, settings = self.prepared.valid, self.config
        loss, tokens = validation_loss(
            model,
            [store.source[i] for i in range(len(store))],
            [store.target[i] for i in range(len(store))],
            batch_tokens=settings.search.batch_tokens,
        )
        mean = loss / tokens
        scores = {"loss": mean, "perplexity": math.exp(min(mean, 50.0))}
        explained = self._explained(model)
        seen = Validation(
            scores,
            figures=_figures(explained[:SAMPLES]),
            entropy=entropies(explained),
            missing=explained[0].missing if explained else {},
        )
        count = min(settings.train.validate_sentences, len(store))
        if not count:
            return seen
        sources = self.prepared.sources("valid")[:count]
        references = [lines[:count] for lines in self.prepared.references("valid")]
        greedy = replace(search_options(settings.search, settings.seed), beam=1, n_best=1)
        translations = translate(
            model,
            self.prepared.tokenizers,
            sources,
            replace(greedy, sample=False, coverage_penalty=0.0),
            batch_tokens=settings.search.batch_tokens,
            joiner=joiner(self.prepared.target_language),
            report=_silent,
        )
        hypotheses = [t.text for t in translations]
        found = score(
            hypotheses,
            references,
            target_language=self.prepared.target_language,
            metrics=("bleu", "chrf"),
            samples=0,
            report=_silent,
        )
        scores |= {name: one.score for name, one in found.items()}
        seen.samples = list(zip(sources, hypotheses, references[0], strict=True))[:SAMPLES]
        return seen

    def _explained(self, model: Seq2Seq) -> list[Explained]:
        """The attention of the first dev pairs, made to translate as their references.

        The pairs and so the axes of the pictures are the same at every validation.
        """
        store, config = self.prepared.valid, self.config
        rows = [(store.source[i], store.target[i]) for i in range(min(EXPLAINED, len(store)))]
        sizes = (model.max_source_length, model.max_target_length)
        rows = [
            pair
            for pair in rows
            if all(size is None or len(side) < size for side, size in zip(pair, sizes, strict=True))
        ]
        explained = explain_ids(
            model,
            self.prepared.tokenizers,
            [[int(i) for i in source] for source, _ in rows],
            [[int(i) for i in target] for _, target in rows],
            batch_tokens=config.search.batch_tokens,
        )
        return list(explained)


def _figures(explained: Sequence[Explained]) -> dict[str, np.ndarray]:
    """Cross-attention as pictures: the mean of each pair, all heads of the first; or none."""
    figures = {}
    for number, one in enumerate(explained):
        if one.cross is None:
            continue
        picture = heat_map(token_matrix(one, end=True), one.source, one.target)
        figures[str(number)] = as_rgb(picture)
        if number == 0 and one.cross.shape[1] > 1:
            figures["heads"] = as_rgb(head_tiles(one.cross))
    return figures


def _silent(text: str) -> None:
    """Half-trained models run into limits all the time; that is no news at a validation."""
