"""`nmt train -m`: a run for every combination of values, checked first, resumed where it was.

A job is the run that `nmt train` makes of the same words. Whether it is finished, its checkpoints
say; ``sweep.json`` in the sweep's folder is a record for people, and of why jobs failed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nmt import compose, multirun
from nmt.cli import Arguments
from nmt.commands import train
from nmt.commands.jobs import (
    Job,
    Records,
    Work,
    hash_of,
    names_of,
    say,
    state_of,
    stop_file,
    stoppable,
)
from nmt.errors import UserError, one_line
from nmt.files import locked
from nmt.models.build import build_model, count_parameters
from nmt.models.shapes import shapes_only
from nmt.training.index import LOWER_IS_BETTER


def main(arguments: Arguments) -> int:
    """All jobs of a sweep; 0 where every one is finished, or was left out as impossible.

    Raises:
        UserError: torchrun, nothing swept, an unknown word, an impossible job.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("-m starts its jobs itself: leave torchrun out, or train them one by one")
    plan = multirun.plan(arguments.words)
    if not plan.swept:
        if "," in arguments.own.get("run", ""):
            raise UserError(
                "run= is one folder, that of all runs; sweep over another key: seed=1,2"
            )
        raise UserError("-m sweeps over the values of a key, and no key has several; try seed=1,2")
    sweep = Sweep(arguments, plan)
    if (sweep.folder / "config.yaml").exists():
        raise UserError(f"{sweep.folder} is a run; with -m, run= is the folder of all the runs")
    say(f"sweep: {sweep.folder}")
    if plan.sweeper == "optuna":
        from nmt.commands import trials

        metric = trials.check(sweep)
        if "--dry-run" in arguments.flags:
            print(trials.dry_run(sweep, metric))
            return 0
        return sweep.run(lambda: trials.search(sweep, metric))
    jobs = sweep.possible(plan.grid())
    if "--dry-run" in arguments.flags:
        print(dry_run(sweep, jobs))
        return 0
    return sweep.run(lambda: sweep.launch(jobs, total=len(jobs)))


class Sweep:
    """What was typed, where it goes, and the jobs so far."""

    def __init__(self, arguments: Arguments, plan: multirun.Plan) -> None:
        own = dict(arguments.own)
        named = own.pop("run", None)
        self.skips = arguments.choice("impossible") == "skip"
        own.pop("impossible", None)
        self.verbatim = own
        self.config = arguments.config
        self.plan = plan
        self.folder = Path(named) if named else default_folder(plan, own, arguments.config)
        self.records = Records(self.folder)
        self.seen: dict[str, None] = {}  # names of this command's jobs, in order
        typed = [*arguments.words, *(f"{key}={value}" for key, value in arguments.own.items())]
        typed += [f"run={self.folder}"] * (named is None)
        typed += ["--config", str(arguments.config)] * (arguments.config is not None)
        self.command = shlex.join(["nmt", "train", "-m", *typed])

    @property
    def stopped(self) -> bool:
        return stop_file(self.folder).exists()

    def jobs(self, chosen: Sequence[dict[str, str]], first: int = 1) -> list[Job]:
        """Jobs composed and checked as `nmt train` would; an impossible one says why.

        Raises:
            UserError: an unknown key or value.
        """
        named = zip(chosen, names_of(chosen), strict=True)
        return [
            self._job(number, values, name)
            for number, (values, name) in enumerate(named, start=first)
        ]

    def _job(self, number: int, values: dict[str, str], name: str) -> Job:
        words, run, problem = self.plan.job(values), self.folder / name, ""
        compose.check_words(words)
        arguments = Arguments(
            command="train",
            own={**self.verbatim, "run": str(run)},
            words=words,
            flags=frozenset(),
            config=self.config,
        )
        config = None
        try:
            config, _ = train.checked(arguments)
        except UserError as error:
            problem = one_line(error)
        return Job(
            number=number, values=values, words=words, run=run, config=config, problem=problem
        )

    def possible(self, chosen: Iterable[dict[str, str]]) -> list[Job]:
        """`jobs`, each once, all of which can be, or may be skipped.

        Raises:
            UserError: one of them cannot be, and nobody said impossible=skip.
        """
        once = {tuple(values.items()): values for values in chosen}
        jobs = self.jobs(list(once.values()))
        wrong = [job for job in jobs if job.config is None]
        if len({job.problem for job in wrong}) == 1 and len(wrong) == len(jobs):
            raise UserError(wrong[0].problem)
        if wrong and (not self.skips or len(wrong) == len(jobs)):
            for job in wrong:
                say(f"{job.run.name}: {job.problem}")
            raise UserError(
                f"{len(wrong)} of {len(jobs)} jobs are impossible, so none was trained; "
                "impossible=skip leaves them out"
            )
        return jobs

    def launch(self, jobs: Sequence[Job], *, total: int) -> None:
        """Train what is not finished of some jobs, and record how all of them are then."""
        before = self.note(jobs)
        for job in jobs:
            if before[job.run.name] == "finished":
                say(f"job {job.number} of {total}: {job.run.name}: finished before")
        todo = {j.run: j for j in jobs if before[j.run.name] in ("waiting", "stopped")}
        left = list(todo.values())
        size = self.plan.options.get("max_batch_size") or len(left)
        while left and not self.stopped:
            batch, left = left[:size], left[size:]
            left = [*self._launch(batch, total), *left]
        self.note(jobs, ended=True)

    def _launch(self, batch: Sequence[Job], total: int) -> list[Job]:
        """Have some jobs trained; those that have yet to be, since a process was lost before."""
        together = self.plan.at_once(len(batch))
        work = Work(
            folder=self.folder,
            total=total,
            threads=max(1, torch.get_num_threads() // together) if together > 1 else None,
            quiet=self.plan.launcher == "joblib",
            detached=self.plan.launcher.startswith("submitit"),
            parent=os.getpid() if self.plan.launcher == "joblib" else None,
        )
        try:
            gone = self.plan.launch(work, batch, str(self.folder), lambda: self.stopped, say)
        except UserError as error:
            # joblib loses all its processes when one is killed; others tell us less.
            records = self.records.read()
            lost = [j.run.name for j in batch if records[j.run.name]["state"] == "running"]
            if not lost or self.plan.launcher != "joblib":
                raise
            reason = f"its process, or one beside it, was killed ({one_line(error)})"
            self.records.update({name: {"state": "failed", "reason": reason} for name in lost})
            return [j for j in batch if records[j.run.name]["state"] in ("waiting", "stopped")]
        self._note_gone({batch[place].run.name: reason for place, reason in gone.items()})
        return []

    def _note_gone(self, reasons: Mapping[str, str]) -> None:
        """Write into records why a cluster ended jobs, by name; a stopped one has saved."""
        records = self.records.read()
        news = {}
        for name, reason in reasons.items():
            state = records[name]["state"]
            if state == "stopped":
                news[name] = {"state": state, "reason": reason}
            elif state == "running" or (state == "waiting" and not self.stopped):
                news[name] = {"state": "failed", "reason": reason}
        self.records.update(news)

    def note(self, jobs: Sequence[Job], *, ended: bool = False) -> dict[str, str]:
        """Write how jobs are into their records; states by name.

        Args:
            ended: they have had their turn, so that their failures are of now.
        """
        old = self.records.read()
        news: dict[str, dict[str, Any]] = {}
        for job in jobs:
            entry: dict[str, Any] = {"number": job.number, "words": job.words, **_state(job)}
            known = old.get(job.run.name, {})
            if ended and known.get("state") in ("failed", "running"):
                entry |= {"state": known["state"], "reason": known["reason"]}
            elif ended and known.get("state") == entry["state"]:
                entry["reason"] = known.get("reason", "")
            news[job.run.name] = {"values": job.values, **entry}
        self.records.update(news)
        self.seen |= dict.fromkeys(news)
        return {name: entry["state"] for name, entry in news.items()}

    def run(self, body: Callable[[], None]) -> int:
        """Own the folder while jobs are trained, show all of them at the end; the exit status."""

        def refuse() -> None:
            raise UserError(f"another process is at the sweep in {self.folder}")

        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", refuse), stoppable(stop_file(self.folder)):
            try:
                body()
                stopped = self.stopped
            except KeyboardInterrupt:
                stopped = True
            records = self.records.read()
        print(table(records))
        ours = {name: records[name] for name in self.seen}
        open_ones = ("failed", "running") if stopped else ("failed", "running", "stopped")
        failed = [name for name, record in ours.items() if record["state"] in open_ones]
        for name, record in ours.items():
            if name in failed or record["state"] == "impossible":
                say(f"{name} {record['state']}: {record['reason']}")
        if stopped:
            say(f"interrupted; everything is saved. Go on with: {self.command}")
            return train.INTERRUPTED
        if failed:
            say(f"{len(failed)} of {len(ours)} jobs are not finished. Again: {self.command}")
            return 1
        if best := best_of(records):
            say(f"Next: nmt evaluate run={self.folder / best}")
        return 0


def _state(job: Job) -> dict[str, Any]:
    if job.config is None:
        return {"state": "impossible", "reason": job.problem}
    state = state_of(job.config, job.run)
    return {
        "state": state.word,
        "reason": "",
        "metric": job.config.train.metric.value,
        "score": state.score,
        "minutes": state.minutes,
    }


def default_folder(plan: multirun.Plan, verbatim: Mapping[str, str], config: Path | None) -> Path:
    """``runs/sweep-<swept keys>``, with a hash of what else was typed but the values of a grid.

    So a grid that has grown finds its earlier jobs.
    """
    fixed: list[Any] = [w.input_line for key, w in plan.words.items() if key not in plan.swept]
    fixed += sorted(verbatim.items())
    if config is not None:
        fixed.append(config.read_text(encoding="utf-8"))
    if plan.sweeper == "optuna":
        fixed += ["optuna", *(str(plan.words[key].input_line) for key in sorted(plan.swept))]
    keys = [key.lstrip("+~").rpartition(".")[2] for key in plan.swept]
    name = "-".join(["sweep", *keys])[:100]
    return Path("runs") / (f"{name}-{hash_of(fixed)}" if fixed else name)


def best_of(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The job with the best score; empty where none has one, or they are of several metrics."""
    scored = {name: r for name, r in records.items() if r.get("score") is not None}
    metrics = {str(record["metric"]) for record in scored.values()}
    if len(metrics) != 1:
        return ""
    choose = min if metrics <= LOWER_IS_BETTER else max
    return str(choose(scored, key=lambda name: float(scored[name]["score"])))


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """All jobs of a sweep's folder: folder, swept values, state, best score, minutes."""
    keys = list(dict.fromkeys(key for record in records.values() for key in record["values"]))
    metrics = {str(record["metric"]) for record in records.values() if "metric" in record}
    rows = [["folder", *keys, "state", "/".join(sorted(metrics)) or "score", "minutes"]]
    for name, record in sorted(records.items(), key=lambda item: item[1]["number"]):
        values = [record["values"].get(key, "") for key in keys]
        numbers = [record.get("score"), record.get("minutes")]
        shown = ["" if number is None else f"{number:.2f}" for number in numbers]
        rows.append([name, *values, record["state"], *shown])
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def dry_run(sweep: Sweep, jobs: Sequence[Job]) -> str:
    """The jobs of a sweep that is not started; writes nothing."""
    rows = [["folder", "words", "parameters", "state"]]
    for job in jobs:
        words = " ".join(f"{key}={value}" for key, value in job.values.items())
        rows.append([job.run.name, words, size_of(job), _state(job)["state"]])
    lines = [columns(rows)]
    lines += [f"{job.run.name} impossible: {job.problem}" for job in jobs if job.problem]
    return "\n".join([*lines, "", *launching(sweep.plan, len(jobs)), "Nothing was written."])


def launching(plan: multirun.Plan, jobs: int) -> list[str]:
    """How jobs would be launched, with the launcher's settings."""
    if plan.launcher == "basic":
        return ["one after another (hydra/launcher=basic)"]
    together = f"{plan.at_once(jobs)} at once, " if plan.launcher == "joblib" else ""
    settings = plan.launcher_settings.rstrip().splitlines()
    return [f"{together}hydra/launcher={plan.launcher}:", *(f"  {line}" for line in settings)]


def size_of(job: Job) -> str:
    """The parameters of a job's model, whose vocabulary has the size that was asked for."""
    if job.config is None:
        return ""
    tokens = job.config.tokenizer.vocab_size
    with shapes_only():
        model = build_model(job.config.model, job.config.attention, tokens, tokens)
    return f"{count_parameters(model).total:,}"
