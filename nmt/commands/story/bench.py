"""What the measurements of `nmt story` share: the finished runs, their test set, their outputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nmt import runs
from nmt.commands.story.ladder import Training
from nmt.config import Config, DataConfig
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.evaluation.scores import score, sentence_chrf
from nmt.evaluation.statistics import Interval, mean_interval, plain
from nmt.training.index import read_index
from nmt.translator import Translator


@dataclass(frozen=True, slots=True)
class TestSet:
    """Sources [N] and references [R][N]."""

    sources: list[str]
    references: list[list[str]]


@dataclass(slots=True)
class Bench:
    """Finished trainings of a story, opened when they are needed.

    Args:
        folder: the story's run directory.
        trainings: the finished ones, by name.
        sentences: how many test sentences are read; None is all.
        words: how to compute, such as ``train.device=cpu``.
        corpus: name of the corpus that is measured on; empty is that of the first training.
        home: a rung whose corpus is measured on instead.
    """

    folder: Path
    trainings: Mapping[str, Training]
    sentences: int | None = None
    words: Sequence[str] = ()
    say: Callable[[str], None] = lambda text: None
    corpus: str = ""
    home: str = ""
    _open: dict[str, Translator] = field(default_factory=dict)
    _prepared: Prepared | None = None

    def seeds(self, *rungs: str) -> list[int]:
        """Seeds for which all of the rungs have finished."""
        have = [{t.seed for t in self.trainings.values() if t.rung == rung} for rung in rungs]
        return sorted(set.intersection(*have)) if have else []

    def have(self, rungs: Sequence[str]) -> list[str]:
        """Those of the rungs that have a finished run."""
        return [rung for rung in dict.fromkeys(rungs) if self.seeds(rung)]

    def only(self, rungs: Sequence[str], seed: int) -> Bench:
        """A bench of these trainings alone, with the test set that they were trained for."""
        chosen = {n: t for n, t in self.trainings.items() if t.rung in rungs and t.seed == seed}
        return Bench(self.folder, chosen, self.sentences, self.words, self.say)

    def at(self, rung: str) -> Bench:
        """The same trainings, measured on the corpus of one of the rungs."""
        return replace(self, home=rung, _prepared=None)

    def training(self, rung: str, seed: int) -> Training:
        return self.trainings[f"{rung}-s{seed}"]

    def config(self, rung: str, seed: int) -> Config:
        return runs.stored_config(self.training(rung, seed).path)

    def log(self, rung: str, seed: int) -> list[dict[str, Any]]:
        """The records of a training, in order."""
        lines = (self.training(rung, seed).path / "log.jsonl").read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def data(self) -> DataConfig:
        """The corpus as the trainings at home have it."""
        return runs.stored_config(self._first().path).data

    def _first(self) -> Training:
        """The first training at home."""
        if self.home:
            return next(t for t in self.trainings.values() if t.rung == self.home)
        return next(
            training
            for training in self.trainings.values()
            if self.corpus in ("", runs.stored_config(training.path).data.name)
        )

    def forget(self) -> None:
        """Let go of the models that are open; each is opened again when it is asked for."""
        self._open.clear()

    def translator(self, rung: str, seed: int) -> Translator:
        """The best checkpoint of a run, with all cores."""
        name = self.training(rung, seed).name
        if name not in self._open:
            self._open[name] = self._load(rung, seed, "best")
        return self._open[name]

    def _load(self, rung: str, seed: int, checkpoint: str) -> Translator:
        words = [f"train.threads={cores()}", *self.words]
        return Translator.load(self.training(rung, seed).path, checkpoint=checkpoint, words=words)

    def translate(self, rung: str, seed: int) -> Callable[[Sequence[str]], list[str]]:
        """Texts in, texts out."""
        translator = self.translator(rung, seed)
        return lambda lines: [found.text for found in translator.translate(lines)]

    def prepared(self) -> Prepared:
        """The corpus at home; its texts are the same for all runs of that corpus."""
        if self._prepared is None:
            first = self._first()
            config = runs.stored_config(first.path)
            own = None
            if config.train.init_from:
                own = self.translator(first.rung, first.seed).run.tokenizers
            self._prepared = prepare(
                config.data, config.tokenizer, report=lambda text: None, tokenizers=own
            )
        return self._prepared

    def test(self, split: str = "test") -> TestSet:
        """The test set, cut to ``sentences``."""
        prepared = self.prepared()
        end = self.sentences
        return TestSet(prepared.sources(split)[:end], [r[:end] for r in prepared.references(split)])

    def outputs(self, rung: str, seed: int, split: str = "test") -> list[str]:
        """Translations of the test set, made once and kept beside the report."""
        training = self.training(rung, seed)
        path = self._kept(training, f"{split}.json")
        sources = self.test(split).sources
        made_of = {"run": identity(training.path), "sources": sources}
        known = runs.read_json(path, {})
        if known.get("made_of") != made_of:
            self.say(f"{training.name} translates {len(sources):,} sentences of {split}")
            translated = self.translator(rung, seed).translate(sources)
            known = {"made_of": made_of, "outputs": [t.text for t in translated]}
            path.parent.mkdir(exist_ok=True)
            runs.write_json(path, known)
        outputs: list[str] = known["outputs"]
        return outputs

    def _kept(self, training: Training, name: str) -> Path:
        """Where something made of the outputs of a training is kept, apart for each corpus."""
        corpus = f"on-{self.home}." if self.home else ""
        return self.folder / "outputs" / f"{training.name}.{corpus}{name}"

    def chrf(self, rung: str, seed: int) -> list[float]:
        """chrF of each test sentence."""
        return sentence_chrf(self.outputs(rung, seed), self.test().references)

    def loss(self, rung: str, seed: int, pairs: int) -> float:
        """Nats per token of so many test pairs under the best checkpoint of a run."""
        return self._loss(self.translator(rung, seed), pairs)

    def losses(self, rung: str, seed: int, pairs: int) -> dict[int, float]:
        """The same under each checkpoint that was kept, by step."""
        kept = read_index(self.training(rung, seed).path / "checkpoints").kept
        return {one.step: self._loss(self._load(rung, seed, one.name), pairs) for one in kept}

    def _loss(self, translator: Translator, pairs: int) -> float:
        test = self.test()
        scores = translator.score(test.sources[:pairs], test.references[0][:pairs])
        return -sum(one.log_prob for one in scores) / sum(one.tokens for one in scores)

    def quality(self, rung: str, seed: int, split: str = "test") -> dict[str, Any]:
        """BLEU and chrF of the test set, with intervals and signatures."""
        path = self._kept(self.training(rung, seed), f"{split}.scores.json")
        outputs = self.outputs(rung, seed, split)
        made_of = {"run": identity(self.training(rung, seed).path), "sentences": len(outputs)}
        known: dict[str, Any] = runs.read_json(path, {})
        if known.get("made_of") != made_of:
            found = score(
                outputs,
                self.test(split).references,
                target_language=self.prepared().target_language,
                metrics=("bleu", "chrf"),
                samples=300,
                report=self.say,
            )
            known = {"made_of": made_of, **{name: one.to_dict() for name, one in found.items()}}
            runs.write_json(path, known)
        return known


def identity(run: Path) -> str:
    """What a measurement of a run depends on: its best checkpoint, by checksum."""
    best = read_index(run / "checkpoints").entry("best")
    assert best is not None
    manifest = (run / "checkpoints" / best.name / "manifest.json").read_bytes()
    return f"{best.name} {hashlib.sha256(manifest).hexdigest()[:12]}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_seeds(intervals: Sequence[Interval]) -> dict[str, Any]:
    """One seed: its interval over sentences; several: the t interval over their means."""
    several = len(intervals) > 1
    one = mean_interval([found.value for found in intervals]) if several else intervals[0]
    plainly: dict[str, Any] = plain(one)
    return plainly
