"""What training is judged by: loss over the whole dev set, and real decoding of a part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from nmt.config import Config
from nmt.data.prepared import Prepared
from nmt.decoding.align import explain_ids, token_matrix
from nmt.decoding.translate import Translation, translate, validation_loss
from nmt.evaluation.plots import as_rgb, heat_map
from nmt.evaluation.scores import score
from nmt.models.seq2seq import Seq2Seq
from nmt.training.monitor import Validation
from nmt.translator import joiner, search_options

SAMPLES = 4
"""Dev sentences whose translations and attention are shown at every validation."""


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
        count = min(settings.train.validate_sentences, len(store))
        if not count:
            return Validation(scores)
        sources = self.prepared.sources("valid")[:count]
        references = [lines[:count] for lines in self.prepared.references("valid")]
        greedy = replace(search_options(settings.search, settings.seed), beam=1, n_best=1)
        translations = translate(
            model,
            self.prepared.tokenizers,
            sources,
            replace(greedy, sample=False),
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
        samples = list(zip(sources, hypotheses, references[0], strict=True))[:SAMPLES]
        return Validation(scores, samples, self._figures(model, translations[:SAMPLES]))

    def _figures(self, model: Seq2Seq, translations: list[Translation]) -> dict[str, np.ndarray]:
        """Cross-attention of the sample translations as pictures, where the model has any."""
        explained = explain_ids(
            model,
            self.prepared.tokenizers,
            [t.source_ids for t in translations],
            [t.ids for t in translations],
        )
        figures = {}
        for number, one in enumerate(explained):
            if one.cross is not None:
                figure = heat_map(token_matrix(one, end=True), one.source, one.target)
                figures[str(number)] = as_rgb(figure)
        return figures


def _silent(text: str) -> None:
    """Half-trained models run into limits all the time; that is no news at a validation."""
