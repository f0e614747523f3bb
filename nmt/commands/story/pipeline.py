"""The demonstration of claim 16: the steps of the work, done once more with a clock beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TypeVar

from nmt.commands.story.bench import Bench
from nmt.commands.story.ladder import last_record
from nmt.commands.story.measures import Numbers
from nmt.commands.story.panels import bars, name_of, table
from nmt.commands.story.sweeps import asked
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.evaluation.scores import score
from nmt.models.build import count_parameters
from nmt.runs import empty_model
from nmt.translator import Translator

T = TypeVar("T")


def steps(bench: Bench) -> Numbers:
    """16: the steps of the work, with what did each and how long it took here."""
    seed = bench.seeds("bahdanau")[0]
    config, prepared, test = bench.config("bahdanau", seed), bench.prepared(), bench.test()
    run = bench.training("bahdanau", seed).path

    def prepare_anew() -> Prepared:
        with TemporaryDirectory() as cache:
            data = replace(bench.data(), cache=cache)
            return prepare(data, config.tokenizer, report=lambda text: None)

    def first_sentence() -> str:
        translator = Translator.load(run, words=bench.words)
        return translator.translate(test.sources[:1])[0].text

    bench.say("the corpus is prepared once more, into a folder that is removed afterwards")
    _, preparing = timed(prepare_anew)
    model, building = timed(lambda: empty_model(config, prepared.tokenizers))
    bench.say(f"bahdanau-s{seed} translates {len(test.sources):,} sentences by the clock")
    translate = bench.translate("bahdanau", seed)
    scores, evaluating = timed(
        lambda: score(
            translate(test.sources),
            test.references,
            target_language=prepared.target_language,
            metrics=("bleu",),
            report=bench.say,
        )
    )
    text, deploying = timed(first_sentence)
    size = count_parameters(model).total
    training = {rung: _training(bench, rung) for rung in asked(bench, 16)}
    rows = [
        ("1. goal", f"translate {prepared.source_language} to {prepared.target_language}", None),
        ("2. tools", "nmt prepare, train, evaluate, translate", None),
        ("3. kind of attention", ", ".join(map(name_of, training)), None),
        ("4. data", f"{len(prepared.train):,} pairs cleaned and tokenised", preparing),
        ("5. architecture", f"{config.model.name}, {size:,} parameters", building),
        *(
            (f"6. training, {name_of(rung)}", "nmt train", spent)
            for rung, spent in training.items()
        ),
        ("7. evaluation", f"{len(test.sources):,} sentences, {scores['bleu']}", evaluating),
        ("8. deployment", f"loaded, and a first sentence: {text}", deploying),
    ]
    clocked = {name: seconds for name, _, seconds in rows if seconds is not None}
    return {
        "panels": [bars("minutes", list(clocked), [s / 60 for s in clocked.values()])],
        "caption": "What each step was in this story, and its time on this machine; trainings ran "
        "beside each other. Steps 4, 5, 7 and 8 were done once more for this, with Bahdanau's "
        "attention.",
        "seconds": clocked,
        "table": table(
            ["step", "here", "seconds"],
            [[name, what, "–" if s is None else f"{s:,.1f}"] for name, what, s in rows],
        ),
    }


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its seconds by the clock."""
    began = time.perf_counter()
    found = call()
    return found, time.perf_counter() - began


def _training(bench: Bench, rung: str) -> float:
    """Seconds of training, as the log of the first seed has them."""
    path = bench.training(rung, bench.seeds(rung)[0]).path
    return float(last_record(path / "log.jsonl").get("seconds", 0.0))
