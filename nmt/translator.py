"""The Python door: a run opened for translating, scoring and explaining.

>>> from nmt import Translator
>>> translator = Translator.load("runs/mine")
>>> translator.translate(["A dog."])[0].text
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.config import DataConfig, SearchConfig, tag_token
from nmt.data.mixture import split_tag, with_tag
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
from nmt.errors import UserError
from nmt.models.ensemble import Ensemble
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


def together(runs: Sequence[Run]) -> Run:
    """The first run with the model of all.

    Raises:
        UserError: languages, vocabularies or devices differ; names both runs.
    """
    first = runs[0]
    for other in runs[1:]:
        pair = f"{first.path} and {other.path} cannot decode together"
        if other.languages != first.languages:
            mine, theirs = "-".join(first.languages), "-".join(other.languages)
            raise UserError(f"{pair}: one translates {mine}, the other {theirs}")
        if other.tokenizers.hash != first.tokenizers.hash:
            raise UserError(
                f"{pair}: their vocabularies differ ({first.tokenizers.hash[:8]} and "
                f"{other.tokenizers.hash[:8]}); train both with the same data and tokenizer "
                "settings, or one with train.init_from= of the other"
            )
        if other.device != first.device:
            raise UserError(
                f"{pair}: one is set to {first.device}, the other to {other.device}; type "
                "train.device="
            )
    return dataclasses.replace(first, model=Ensemble([run.model for run in runs]))


def known_tag(tag: str, data: DataConfig) -> str:
    """The token of a tag that a run was trained with.

    Raises:
        UserError: it was not; names the tags there are.
    """
    token = tag_token(tag, "tag=")
    if token not in data.tags:
        near = difflib.get_close_matches(token, data.tags, n=1)
        hint = f"did you mean {near[0][1:-1]}? " if near else ""
        known = f"{hint}it knows {_names(data)}" if data.tags else "it was trained without tags"
        raise UserError(f"tag={tag}: the run does not know this tag; {known}")
    return token


def _names(data: DataConfig) -> str:
    return ", ".join(token[1:-1] for token in data.tags)


@dataclass(frozen=True, slots=True)
class Translator:
    """A run and how it decodes; or several runs of one vocabulary that decode together."""

    run: Run
    """Of an ensemble, the first run with the model of all."""
    options: SearchOptions
    report: Report = warn
    tag: str = ""
    """Put in front of every source."""
    members: tuple[Run, ...] = ()
    """The runs of an ensemble; empty where there is one run."""

    @classmethod
    def load(
        cls,
        run: str | Path | Sequence[str | Path],
        *,
        checkpoint: str = "best",
        words: Sequence[str] = (),
        tag: str = "",
        report: Report = warn,
    ) -> Translator:
        """Open a run directory, or several whose models decode as one (see `Ensemble`).

        Args:
            run: the run directory, or a list of them; search is set as in the first one.
            checkpoint: ``best``, ``last``, ``average`` or ``step-N``, of each run its own.
            words: configuration words as on the command line: ``["search.beam=1"]``.
            tag: one of the tags the run was trained with, put in front of every source.
            report: takes warnings, one line each.

        Raises:
            UserError: no run, no such checkpoint, a damaged one, an unknown word or tag, runs of
                different languages or vocabularies.
        """
        paths = [run] if isinstance(run, str | Path) else run
        if not paths:
            raise UserError("an ensemble needs at least one run")
        opened = [open_run(Path(path), checkpoint=checkpoint, words=words) for path in paths]
        first = opened[0] if len(opened) == 1 else together(opened)
        return cls(
            first,
            search_options(first.config.search, first.config.seed),
            report,
            known_tag(tag, first.config.data) if tag else "",
            tuple(opened) if len(opened) > 1 else (),
        )

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
            self.tagged(lines),
            self.options,
            batch_tokens=self.run.config.search.batch_tokens,
            precision=self.run.precision,
            prefixes=prefixes,
            joiner=joiner(self.run.target_language),
            tags=self.run.config.data.tags,
            first_line=first_line,
            report=self.report,
        )

    def stream(self, chunks: Iterable[Sequence[str]]) -> Iterator[Translation]:
        """Like `translate`, chunk by chunk, with the memory of one chunk."""
        return translate_stream(
            self.run.model,
            self.run.tokenizers,
            map(self.tagged, chunks),
            self.options,
            batch_tokens=self.run.config.search.batch_tokens,
            precision=self.run.precision,
            joiner=joiner(self.run.target_language),
            tags=self.run.config.data.tags,
            report=self.report,
        )

    def tagged(self, sources: Sequence[str]) -> Sequence[str]:
        """Sources with the tag in front; warns of sources without one that the run has never seen.

        Empty lines stay empty.
        """
        if self.tag:
            return [with_tag(source, self.tag) if source.strip() else source for source in sources]
        data = self.run.config.data
        if data.train and all(corpus.tag for corpus in data.train):
            bare = sum(bool(s.strip()) and not split_tag(s, data.tags)[0] for s in sources)
            if bare:
                self.report(
                    f"{bare} of {len(sources)} lines begin with no tag, but {self.run.path} was "
                    f"trained with one in front of every source: tag=NAME, of {_names(data)}"
                )
        return sources

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
        """Log-probability in nats and number of tokens of each given translation.

        Raises:
            UserError: not one target per source.
        """
        return score_pairs(
            self.run.model,
            self.run.tokenizers,
            self.tagged(sources),
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
