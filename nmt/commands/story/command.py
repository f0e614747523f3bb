"""`nmt story`: train the ladder, measure the claims, write the report."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from nmt import __version__, compose, runs
from nmt.cli import Arguments, parse
from nmt.commands import train
from nmt.commands.story import (
    domain,
    heads,
    meaning,
    measures,
    parallel,
    pipeline,
    sweeps,
    transfer,
)
from nmt.commands.story.bench import Bench, cores, identity
from nmt.commands.story.ladder import (
    Ladder,
    State,
    Stopped,
    Training,
    display,
    plan,
    train_process,
)
from nmt.config import Config, Source, StoryConfig
from nmt.errors import UserError, one_line
from nmt.evaluation.claims import CLAIMS, Claim, Kind, Outcome
from nmt.evaluation.story import Section, Story, TrainingRow, write
from nmt.training.distributed import pick_device

MEASURES: dict[int, Callable[[Bench], dict[str, Any]]] = {
    1: measures.length,
    2: measures.anatomy,
    3: sweeps.similarities,
    4: sweeps.timings,
    5: meaning.negation,
    6: sweeps.starts,
    7: parallel.parallel,
    8: meaning.pronouns,
    9: heads.head_counts,
    10: measures.cost,
    11: sweeps.noise,
    12: meaning.causes,
    13: domain.travel,
    15: transfer.transfers,
    16: pipeline.steps,
}
EDITIONS = dict.fromkeys(MEASURES, 4) | {3: 6, 4: 5, 7: 5, 13: 5, 15: 5, 16: 5}
"""Of the measurements: those that were kept by another edition are made again."""
SAME = (
    *("train.max_steps", "train.max_epochs", "train.max_minutes", "train.patience"),
    *("train.precision", "train.validate_every"),
)
"""What `nmt train` lets a run change when it goes on, and a story does not."""


def main(arguments: Arguments) -> int:
    own = [f"{key}={value}" for key, value in arguments.own.items() if key.startswith("story.")]
    verbatim = {k: v for k, v in arguments.own.items() if k.startswith("data.")}
    typed = [*arguments.words, *(f"{key}={value}" for key, value in verbatim.items())]
    config = compose.story(own)
    base = compose.compose(arguments.words, None, verbatim)
    folder = Path(arguments.own.get("run", f"runs/story-{base.data.name}"))
    names = [corpus.name for corpus in base.data.test or ()]
    split_off = base.data.source is Source.grammar or base.data.test_size
    if "test" not in names and (names or not split_off):
        raise UserError(
            f"nmt story reads the test set named test, and there is {', '.join(names) or 'none'}: "
            "name one test, as in data.test={test: FILE}"
        )
    trainings = plan(config, base.data.name, typed, folder)
    check(trainings)
    if "--dry-run" in arguments.flags:
        print(outlook(config, trainings, folder))
        return 0
    with runs.owned(folder):
        device = pick_device(base.train.device.value)
        jobs = config.jobs or (cores() if device.type == "cpu" else 1)
        try:
            states = climb(folder, trainings, min(jobs, max(1, len(trainings))))
            sections = measure(
                config,
                folder,
                trainings,
                states,
                base.data.name,
                words=[word for word in typed if word.startswith("train.device=")],
                again=lambda number: command(arguments, number),
            )
        except (Stopped, KeyboardInterrupt):
            _say(f"stopped; what was done is kept. Go on with: {command(arguments)}")
            return train.INTERRUPTED
        facts = facts_of(config, base.data.name, device)
        story = Story(
            title=f"The translation story on {base.data.name}",
            facts=facts,
            sections=sections,
            trainings=[row(trainings[name], state) for name, state in states.items()],
        )
        report = write(folder, story)[0]
    for section in sections:
        if section.numbers is not None or section.state in ("failed", Outcome.not_testable):
            reason = section.verdict.reason if section.verdict else section.problem
            print(f"{section.claim.number:>2}  {section.state:18}  {section.claim.title}  {reason}")
    print(report)
    failed = [*(state.status for state in states.values()), *(one.state for one in sections)]
    return 1 if "failed" in failed else 0


def command(arguments: Arguments, claim: int | None = None) -> str:
    """What was typed, as one line for a shell; for one claim alone where it is given."""
    own = dict(arguments.own) | ({"story.claims": f"[{claim}]"} if claim else {})
    words = [f"{key}={value}" for key, value in own.items()]
    return shlex.join(["nmt", "story", *arguments.words, *words])


def check(trainings: Mapping[str, Training]) -> None:
    """Settle every training now, so that a wrong word is said before hours of work.

    Raises:
        UserError: unknown words, an impossible pair, a run of another configuration.
    """
    for training in trainings.values():
        words = list(training.words)
        if not train.begun(training.path):  # what it starts from may not be there yet
            words = [word for word in words if not word.startswith("train.init_from=")]
        arguments = parse("train", [*words, f"run={training.path}"])
        _, run = train.checked(arguments)
        if train.begun(run):
            verbatim = {key: value for key, value in arguments.own.items() if key != "run"}
            anew = compose.compose(arguments.words, None, verbatim)
            refuse_mixture(runs.stored_config(run), anew, run)


def refuse_mixture(stored: Config, anew: Config, run: Path) -> None:
    """Refuse to go on with a run that would be trained otherwise if it began ``anew``.

    `nmt train` may change how long a run is to be and how it computes; a story compares runs.

    Raises:
        UserError: says what differs, and what to do.
    """
    old, new = compose.flat(stored), compose.flat(anew)
    for key in SAME:
        if old[key] != new[key]:
            raise UserError(
                f"{run} was begun with {key}={old[key]}, and this story asks for {new[key]}: "
                "choose another run=…, or the words (story.scale=, …) it was begun with"
            )


def climb(folder: Path, trainings: Mapping[str, Training], jobs: int) -> dict[str, State]:
    """Train what has not finished.

    Raises:
        Stopped: somebody asked to stop.
    """
    if not trainings:
        return {}
    threads = max(1, cores() // jobs)
    with display(trainings, jobs) as show:
        ladder = Ladder(
            folder=folder,
            trainings=dict(trainings),
            jobs=jobs,
            spawn=train_process(threads),
            show=show,
        )
        return ladder.run()


# ---- measuring -----------------------------------------------------------------------------------


def measure(
    config: StoryConfig,
    folder: Path,
    trainings: Mapping[str, Training],
    states: Mapping[str, State],
    corpus: str,
    words: Sequence[str],
    again: Callable[[int], str],
) -> list[Section]:
    """A section for every claim: measured, or why not."""
    done = {n: t for n, t in trainings.items() if states[n].status == "finished"}
    bench = Bench(folder, done, config.sentences, words, _say, corpus)
    sections = []
    for claim in CLAIMS:
        numbers, problem = None, ""
        if claim.kind is Kind.later:
            problem = ""
        elif claim.number not in config.claims:
            problem = f"not asked: story.claims=[{claim.number}] or story.budget=full asks it"
        elif claim.number not in MEASURES:
            problem = f"{Kind.later}: its rule is fixed, its measurement is not written"
        elif lacking := missing(claim, bench, trainings, states):
            problem = lacking
        else:
            numbers, problem = measured(claim, bench)
            numbers = numbers and with_seeds(numbers, bench.seeds(*claim.needs), config.seeds)
            bench.forget()
        sections.append(
            Section(
                claim=claim,
                numbers=numbers,
                problem=problem,
                command=again(claim.number) if numbers else "",
                finding=finding(folder, claim),
            )
        )
    return sections


def missing(
    claim: Claim,
    bench: Bench,
    trainings: Mapping[str, Training],
    states: Mapping[str, State],
) -> str:
    """Why the runs that a claim needs are not there; empty if they are."""
    if not claim.needs or bench.seeds(*claim.needs):
        return ""
    failed = [
        n for n, s in states.items() if s.status == "failed" and trainings[n].rung in claim.needs
    ]
    if failed:
        return f"failed: it needs {', '.join(failed)}: {states[failed[0]].reason}"
    absent = [rung for rung in claim.needs if not bench.seeds(rung)]
    return f"{Outcome.not_testable}: configs/story has no {', '.join(absent)} for this corpus"


def measured(claim: Claim, bench: Bench) -> tuple[dict[str, Any] | None, str]:
    """The numbers of a claim, kept from an earlier call where they are of the same runs."""
    asked = set(claim.needs) | set(claim.also)
    made_of = {
        "edition": EDITIONS[claim.number],
        "sentences": bench.sentences,
        "runs": {name: identity(t.path) for name, t in bench.trainings.items() if t.rung in asked},
    }
    path = bench.folder / "measures" / f"claim-{claim.number}.json"
    known = runs.read_json(path, {})
    if known.get("made_of") == made_of:
        return known["numbers"], ""
    _say(f"claim {claim.number}: {claim.title}")
    try:
        numbers = MEASURES[claim.number](bench)
    except Exception as error:  # one broken measurement must not cost the others
        if os.environ.get("NMT_DEBUG"):
            raise
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return None, f"failed: {kind}{one_line(error)}"
    path.parent.mkdir(exist_ok=True)
    runs.write_json(path, {"made_of": made_of, "numbers": numbers})
    stored: dict[str, Any] = runs.read_json(path, {})
    return stored["numbers"], ""


def with_seeds(
    numbers: dict[str, Any], have: Sequence[int], asked: Sequence[int]
) -> dict[str, Any]:
    """The numbers, with a note where trainings that the rule reads are missing for some seeds."""
    if not have or set(have) == set(asked):  # claim 10 has no trainings
        return numbers
    note = (
        f"Of the seeds {', '.join(map(str, asked))} only {', '.join(map(str, have))} "
        f"{'has' if len(have) == 1 else 'have'} all trainings that the rule reads."
    )
    return numbers | {"note": f"{note} {numbers.get('note', '')}".rstrip()}


def finding(folder: Path, claim: Claim) -> str:
    """What a person wrote about a claim: ``findings/NUMBER.txt`` in the run directory."""
    path = folder / "findings" / f"{claim.number}.txt"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


# ---- words for people ----------------------------------------------------------------------------


def row(training: Training, state: State) -> TrainingRow:
    return TrainingRow(
        name=training.name,
        state=f"failed: {state.reason}" if state.status == "failed" else state.status,
        steps=state.step,
        minutes=round(state.seconds / 60, 1),
        command=shlex.join(["nmt", "train", *training.words, f"run={training.path}"]),
    )


def facts_of(config: StoryConfig, data: str, device: torch.device) -> list[tuple[str, str]]:
    seeds = f"seeds {', '.join(map(str, config.seeds))}"
    if len(config.seeds) == 1:
        known = "intervals are over sentences, seeds may differ more"
        seeds = f"seed {config.seeds[0]} alone ({known})"
    budget = [config.budget, seeds]
    if config.scale != 1:
        budget.append(f"{config.scale:g} times the updates")
    if config.sentences is not None:
        budget.append(f"the first {config.sentences:,} test sentences")
    machine = f"{platform.machine()}, {cores()} cores"
    if device.type == "cuda":
        machine += f", {torch.cuda.get_device_name(device)}"
    return [
        ("corpus", data),
        ("budget", ", ".join(budget)),
        ("written", date.today().isoformat()),
        ("with", f"nmt {__version__}, PyTorch {torch.__version__}, {machine}"),
    ]


def outlook(config: StoryConfig, trainings: Mapping[str, Training], folder: Path) -> str:
    """What would be trained; nothing is."""
    asked = ", ".join(map(str, config.claims))
    lines = [f"run        {folder}", f"claims     {asked}", f"trainings  {len(trainings)}"]
    for training in trainings.values():
        lines.append(f"  {training.name:24} {training.steps:>7,} updates")
        lines.append("    " + shlex.join(["nmt", "train", *training.words]))
    return "\n".join([*lines, "Nothing was written."])


def _say(text: str) -> None:
    print(f"nmt: {text}", file=sys.stderr, flush=True)
