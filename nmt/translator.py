"""The Python door: a run opened for translating, scoring and explaining.

>>> from nmt import Translator
>>> translator = Translator.load("runs/mine")
>>> translator.translate(["A dog."])[0].text
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.config import SearchConfig
from nmt.decoding.align import Explained, explain_ids, explain_pairs
from nmt.decoding.lines import Report, warn
from nmt.decoding.search import SearchOptions
from nmt.decoding.translate import (
    PairScore,
    Translation,
    score_pairs,
    translate,
    translate_stream,
)
from nmt.runs import Run, open_run

WITHOUT_SPACES = ("zh", "ja", "th", "lo", "km", "my")
"""Languages written without spaces: the parts of a long line are joined by nothing."""


def search_options(config: SearchConfig, seed: int) -> SearchOptions:
    """What search needs of its section of the configuration."""
    values = dataclasses.asdict(config)
    del values["batch_tokens"]  # how much at once, not how to search
    return SearchOptions(**values, seed=seed)


def joiner(target_language: str) -> str:
    """What stands between the translated parts of a long line."""
    return "" if target_language in WITHOUT_SPACES else " "


@dataclass(frozen=True, slots=True)
class Translator:
    """A run and how it decodes."""

    run: Run
    options: SearchOptions
    report: Report = warn

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        checkpoint: str = "best",
        words: Sequence[str] = (),
        report: Report = warn,
    ) -> Translator:
        """Open a run directory.

        Args:
            run: the run directory.
            checkpoint: ``best``, ``last``, ``average`` or ``step-N``.
            words: configuration words as on the command line: ``["search.beam=1"]``.
            report: takes warnings, one line each.

        Raises:
            UserError: no run, no such checkpoint, a damaged one, an unknown word.
        """
        opened = open_run(Path(run), checkpoint=checkpoint, words=words)
        options = search_options(opened.config.search, opened.config.seed)
        return cls(opened, options, report)

    def translate(
        self, lines: Sequence[str], *, prefixes: Sequence[str] | None = None, first_line: int = 1
    ) -> list[Translation]:
        """One translation per line, in the order of the lines.

        Args:
            lines: an empty one gives an empty translation.
            prefixes: what each translation must begin with; "" leaves it free.
            first_line: number of the first line, in warnings and as the seed of its samples.
        """
        return translate(
            self.run.model,
            self.run.tokenizers,
            lines,
            self.options,
            batch_tokens=self.run.config.search.batch_tokens,
            precision=self.run.precision,
            prefixes=prefixes,
            joiner=joiner(self.run.target_language),
            first_line=first_line,
            report=self.report,
        )

    def stream(self, chunks: Iterable[Sequence[str]]) -> Iterator[Translation]:
        """Like `translate`, chunk by chunk, with the memory of one chunk."""
        return translate_stream(
            self.run.model,
            self.run.tokenizers,
            chunks,
            self.options,
            batch_tokens=self.run.config.search.batch_tokens,
            precision=self.run.precision,
            joiner=joiner(self.run.target_language),
            report=self.report,
        )

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
        """Log-probability in nats and number of tokens of each given translation.

        Raises:
            UserError: not one target per source.
        """
        return score_pairs(
            self.run.model,
            self.run.tokenizers,
            sources,
            targets,
            batch_tokens=self.run.config.search.batch_tokens,
            precision=self.run.precision,
        )

    def explain(self, translations: Sequence[Translation]) -> Iterator[Explained]:
        """The attention behind translations, by layer and head, read off by forced decoding."""
        return explain_ids(
            self.run.model,
            self.run.tokenizers,
            [t.source_ids for t in translations],
            [t.ids for t in translations],
        )

    def explain_pairs(self, sources: Sequence[str], targets: Sequence[str]) -> Iterator[Explained]:
        """The attention with which the model translates each source as the given target."""
        return explain_pairs(self.run.model, self.run.tokenizers, sources, targets)
