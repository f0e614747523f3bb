"""`nmt train -m hydra/sweeper=optuna`: the next jobs of a sweep are chosen by the scores so far.

The study is SQLite in the sweep's folder. A trial that was interrupted stays open in it, and is
the first to be trained when the same command goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nmt.commands.jobs import state_of
from nmt.commands.sweep import Sweep, columns, launching
from nmt.errors import UserError, one_line
from nmt.training.index import LOWER_IS_BETTER

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

CORNERS = 16
"""Combinations of a space's ends that are composed and checked before its first trial."""

STUDY = "study.db"


def check(sweep: Sweep) -> str:
    """Compose corners of the search space, so that what is wrong is said before a trial.

    Returns:
        The name of the score that is searched for.

    Raises:
        UserError: an unknown key or value, an impossible corner, a swept ``train.metric``.
    """
    if "train.metric" in sweep.plan.swept:
        raise UserError("optuna compares the scores of one train.metric: it cannot be swept")
    ends = {key: _ends(space) for key, space in sweep.plan.space().items()}
    corners = itertools.islice(itertools.product(*ends.values()), CORNERS)
    jobs = sweep.possible(dict(zip(ends, corner, strict=True)) for corner in corners)
    return next(job.config for job in jobs if job.config).train.metric.value


def search(sweep: Sweep, metric: str) -> None:
    """Ask for trials, train them, tell their scores, until the study has ``n_trials`` of them.

    Failed trials do not count: the same command tries others instead.
    """
    from optuna.trial import TrialState

    options, space = sweep.plan.options, sweep.plan.space()
    study = open_study(sweep, metric)
    trials = study.get_trials(deepcopy=False)
    waiting = [trial for trial in trials if trial.state == TrialState.RUNNING]
    done = sum(trial.state == TrialState.COMPLETE for trial in trials)
    left = int(options.n_trials) - done - len(waiting)
    while (waiting or left > 0) and not sweep.stopped:
        batch: list[Any] = waiting[: int(options.n_jobs)]
        waiting = waiting[len(batch) :]
        new = min(int(options.n_jobs) - len(batch), max(left, 0))
        left -= new
        batch += [ask(study, space) for _ in range(new)]
        run_batch(sweep, study, batch)


def run_batch(sweep: Sweep, study: optuna.Study, batch: Sequence[Any]) -> None:
    """Train some trials and tell the study; a trial that was interrupted stays open."""
    from optuna.trial import TrialState

    jobs = {}
    for trial in batch:
        values = {key: _text(value) for key, value in trial.params.items()}
        if values.keys() != set(sweep.plan.swept):  # died between two values
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        jobs[trial.number] = sweep.jobs([values], first=trial.number + 1)[0]
    sweep.launch(list(jobs.values()), total=int(sweep.plan.options.n_trials))
    records = sweep.records.read()
    for number, job in jobs.items():
        state = state_of(job.config, job.run) if job.config else None
        if state and state.word == "finished" and state.score is not None:
            study.tell(number, state.score)
        elif records[job.run.name]["state"] not in ("waiting", "stopped"):
            study.tell(number, state=TrialState.FAIL)


def open_study(sweep: Sweep, metric: str) -> optuna.Study:
    """The study in the sweep's folder, made where there is none."""
    import optuna
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = URL.create("sqlite", database=str(sweep.folder / STUDY)).render_as_string()
    storage = optuna.storages.RDBStorage(place)
    lower = metric in LOWER_IS_BETTER
    study = optuna.create_study(
        study_name="sweep",
        storage=storage,
        direction="minimize" if lower else "maximize",
        load_if_exists=True,
    )
    known = study.user_attrs.get("metric", metric)
    if known != metric:
        raise UserError(
            f"the study in {sweep.folder} is of train.metric={known}, not {metric}; "
            "take another run="
        )
    study.set_user_attr("metric", metric)
    settings = sweep.plan.options.sampler
    seed = settings.seed
    if seed is not None:  # a resumed study must not draw its first values again
        seed += len(study.get_trials(deepcopy=False))
    if settings.name == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        many = int(sweep.plan.options.n_jobs) > 1
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=many)
    return study


def ask(study: optuna.Study, space: dict[str, BaseDistribution]) -> optuna.Trial:
    """A new trial.

    Raises:
        UserError: the study has searched another space.
    """
    try:
        return study.ask(space)
    except ValueError as error:
        raise UserError(
            f"the study was begun with another search space ({one_line(error)}); take another run="
        ) from error


def dry_run(sweep: Sweep, metric: str) -> str:
    """The search space and how far the study is; writes nothing."""
    rows = [["key", "searched"]]
    rows += [[key, str(sweep.plan.words[key].input_line)] for key in sweep.plan.swept]
    records = sweep.records.read() if sweep.folder.exists() else {}
    done = sum(record["state"] == "finished" for record in records.values())
    options = sweep.plan.options
    best = "lowest" if metric in LOWER_IS_BETTER else "highest"
    lines = [
        columns(rows),
        "",
        f"{options.n_trials} trials ({done} finished), {options.n_jobs} at a time, by "
        f"{options.sampler.name}, for the {best} {metric}",
        *launching(sweep.plan, int(options.n_jobs)),
        "Nothing was written.",
    ]
    return "\n".join(lines)


def _ends(space: Any) -> list[str]:
    """All choices, or the first and last number."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(space, CategoricalDistribution):
        return [str(choice) for choice in space.choices]
    return [_text(space.low), _text(space.high)]


def _text(value: Any) -> str:
    """A value in Hydra's grammar; choices are that already."""
    return value if isinstance(value, str) else repr(value)
