"""Hydra's half of a sweep: words with several values, search spaces, and the launchers.

Beside `compose` the only module that knows Hydra. Hydra composes its own settings here
(``hydra/launcher=…``, ``hydra.sweeper.…``, ``sweep=PRESET``) and launches jobs; what a job is
composed of, `compose` says, as for a single run. Nothing is written and no directory changed.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nmt import compose
from nmt.errors import UserError
from nmt.presets import SETTING_KEYS, SETTINGS, nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EXTRA = "pip install 'nmt[sweep]' brings joblib, submitit and optuna"

NOTHING_WRITTEN = (
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
"""Without these Hydra makes outputs/, multirun/, .hydra/ and log files."""


@dataclass(kw_only=True)
class SamplerSettings:
    """``hydra/sweeper/sampler=tpe|random``."""

    name: str = "tpe"
    seed: int | None = None


@dataclass(kw_only=True)
class OptunaSettings:
    """``hydra/sweeper=optuna``, in the words of hydra-optuna-sweeper (which is tied to optuna 2).

    The direction is that of ``train.metric``; the study lies in the sweep's folder.
    """

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    sampler: SamplerSettings = MISSING
    n_trials: int = 20
    """Of the study in all, over all resumes."""
    n_jobs: int = 1
    """Trials asked for, and launched, together."""
    params: dict[str, str] | None = None
    max_batch_size: int | None = None


def is_setting(word: str) -> bool:
    """Whether a word is about the sweep (Hydra's own settings), not about its jobs."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/", "sweep="))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep as it was typed: ``words`` by key, each with all its values, and how to launch."""

    words: dict[str, Override]
    settings: DictConfig
    """Hydra's composed section ``hydra``."""
    engine: Hydra

    @property
    def swept(self) -> list[str]:
        """The keys with several values."""
        return [key for key, word in self.words.items() if word.is_sweep_override()]

    @property
    def launcher(self) -> str:
        return str(self.settings.hydra.runtime.choices["hydra/launcher"])

    @property
    def sweeper(self) -> str:
        return str(self.settings.hydra.runtime.choices["hydra/sweeper"])

    @property
    def launcher_settings(self) -> str:
        """As YAML, for people."""
        return OmegaConf.to_yaml(self.settings.hydra.launcher)

    @property
    def options(self) -> Any:
        """``hydra.sweeper``."""
        return self.settings.hydra.sweeper

    def job(self, values: Mapping[str, str]) -> list[str]:
        """The words of one job: those typed, with one value for each swept key."""
        return [
            f"{key}={values[key]}" if key in values else str(word.input_line)
            for key, word in self.words.items()
        ]

    def grid(self) -> list[dict[str, str]]:
        """Every combination of the swept values, the last key turning fastest.

        Raises:
            UserError: an interval, which only optuna can search.
        """
        for key in self.swept:
            if not self.words[key].is_discrete_sweep():
                raise UserError(
                    f"{self.words[key].input_line}: an interval has no list of values; search it "
                    "with hydra/sweeper=optuna, or give values: a,b,c or range(1,4)"
                )
        values = [list(self.words[key].sweep_string_iterator()) for key in self.swept]
        return [dict(zip(self.swept, chosen, strict=True)) for chosen in itertools.product(*values)]

    def space(self) -> dict[str, BaseDistribution]:
        """The swept keys as optuna's distributions, whose choices are texts of Hydra's grammar.

        An interval of a key that takes whole numbers is one of whole numbers.

        Raises:
            UserError: there is nothing between an interval's ends, or it has no logarithm.
        """
        kinds = compose.keys()
        whole = {key for key in self.swept if kinds.get(key.lstrip("+")) in (int, int | None)}
        found = {}
        for key in self.swept:
            try:
                found[key] = _distribution(self.words[key], whole=key in whole)
            except ValueError as error:
                raise UserError(f"{self.words[key].input_line}: {error}") from error
        return found

    def at_once(self, jobs: int) -> int:
        """How many of so many jobs run together on this machine."""
        if self.launcher != "joblib":
            return 1
        wanted, cores = int(self.settings.hydra.launcher.n_jobs), len(os.sched_getaffinity(0))
        return max(1, min(jobs, wanted if wanted > 0 else cores + 1 + wanted))

    def launch(
        self,
        work: Callable[[Any], None],
        items: Sequence[Any],
        folder: str,
        stopped: Callable[[], bool],
        report: Callable[[str], None],
    ) -> dict[int, str]:
        """Have the launcher call ``work`` on every item, here or in other processes.

        Args:
            folder: where submitit keeps its scripts and logs, in ``.submitit``.
            stopped: whether the sweep was interrupted, so that what has not begun never will.
            report: is told what a cluster did with the jobs.

        Returns:
            Of items that a cluster killed or sent away, by their place: why.

        Raises:
            UserError: the launcher cannot work here, or lost one of its processes.
        """
        try:
            if self.launcher.startswith("submitit"):
                return self._submit(work, items, folder, stopped, report)
            self._launch(work, items)
        except Exception as error:  # each launcher has its own kinds
            raise UserError(f"hydra/launcher={self.launcher}: {error}") from error
        return {}

    def _launch(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        """With Hydra's own launcher, which ends with the first error."""
        settings = self.settings.copy()
        if self.launcher == "joblib":
            settings.hydra.launcher.n_jobs = self.at_once(len(items))
            settings.hydra.launcher.batch_size = "1"  # jobs are long: never two to one process
        context = HydraContext(
            config_loader=self.engine.config_loader, callbacks=Callbacks(settings)
        )
        try:
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=_Task(work, items), config=settings
            )
            preset = list(settings.hydra.overrides.task)  # sweep=…, which may set the rest
            returned = launcher.launch([preset for _ in items], initial_job_idx=0)
        finally:
            GlobalHydra.instance().clear()
        for job in returned:
            job.return_value  # noqa: B018 - raises what the work raised

    def _submit(
        self,
        work: Callable[[Any], None],
        items: Sequence[Any],
        folder: str,
        stopped: Callable[[], bool],
        report: Callable[[str], None],
    ) -> dict[int, str]:
        """With the settings of Hydra's launcher but without it: a killed job ends its waiting."""
        import submitit

        settings = self.settings.copy()
        settings.hydra.launcher.submitit_folder = ""  # which would interpolate hydra.sweep.dir
        options: Any = OmegaConf.to_container(settings.hydra.launcher, resolve=True)
        kind = self.launcher.removeprefix("submitit_")
        for own in ("_target_", "submitit_folder"):
            del options[own]
        made = {f"{kind}_{key}": options.pop(key) for key in ("max_num_timeout",) if key in options}
        executor = submitit.AutoExecutor(folder=f"{folder}/.submitit/%j", cluster=kind, **made)
        executor.update_parameters(
            **{k if k in COMMON else f"{kind}_{k}": value for k, value in options.items()}
        )
        jobs = executor.map_array(_OnCluster(work), items)
        report(f"submitted as {', '.join(j.job_id for j in jobs)}; logs: {folder}/.submitit")
        asked = False
        while not all(job.done(force_check=asked) for job in jobs):
            if stopped() and not asked:
                asked = True  # those that train see it themselves, and save
                if kind == "slurm":
                    waiting = ["scancel", "--state=PENDING", *(job.job_id for job in jobs)]
                    subprocess.run(waiting, check=False, capture_output=True)
            time.sleep(1)
        lost = {}
        for place, job in enumerate(jobs):
            try:
                lost[place] = job.result()
            except submitit.core.utils.UncompletedJobError:
                lost[place] = f"job {job.job_id} is {job.state}; its log: {job.paths.stderr}"
        return {place: reason for place, reason in lost.items() if reason}


COMMON = frozenset({"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node"}) | frozenset(
    {"mem_gb", "nodes", "name", "stderr_to_stdout"}
)
"""Settings of Hydra's launcher that submitit knows for any cluster; the rest have its name."""


class _OnCluster:
    """What submitit calls on the cluster, and calls again where a job was requeued.

    A cluster warns of a time limit or of preemption with a signal, which submitit answers at once:
    it requeues the job and leaves, in the midst of an update. Here the work is stopped as SIGTERM
    stops it, so that it saves, and submitit has its answer after that.
    """

    def __init__(self, work: Callable[[Any], None]) -> None:
        self.work = work

    def __call__(self, item: Any) -> str:
        """Why the job was sent away for good; mostly empty."""
        import submitit

        warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        warned = []

        def note(number: int, frame: FrameType | None) -> None:
            warned.append(number)
            signal.raise_signal(signal.SIGTERM)

        requeue = signal.signal(warning, note)
        self.work(item)
        if not warned:
            return ""
        assert callable(requeue)
        try:
            requeue(warning, None)
        except submitit.core.utils.UncompletedJobError as error:
            return str(error)
        return ""

    def checkpoint(self, item: Any) -> Any:
        """What a requeued job is to do: the same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, item)


class _Task:
    """What a launcher calls, in whichever process, with the number of the item in Hydra's hands."""

    def __init__(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        self.work = work
        self.items = items

    def __call__(self, _: DictConfig) -> None:
        self.work(self.items[HydraConfig.get().job.num])


def plan(words: Sequence[str]) -> Plan:
    """Sort the words of ``nmt train -m``; nothing of a job is checked yet.

    A search space (``sweep=PRESET``, ``hydra.sweeper.params``) comes before the typed words, which
    win. As in Hydra, a key typed twice has its last value.

    Raises:
        UserError: words that Hydra cannot read, a launcher or sweeper that is not there.
    """
    own = [word for word in words if is_setting(word)]
    for word in own:
        if "," in word and word.lstrip("+").startswith("sweep="):
            raise UserError(f"{word}: a sweep has one preset")
    engine = _engine()
    try:
        _check_keys(
            own, _settings(engine, [w for w in own if not w.lstrip("+~").startswith("hydra.")])
        )
        settings = _settings(engine, own)
        others = sorted(set(settings) - {"hydra", "sweep"})
        if others:
            raise UserError(
                f"a sweep preset holds hydra.sweeper.params and other hydra settings, not "
                f"{others[0]!r}; keys of a run go into configs/experiment"
            )
        params = settings.hydra.sweeper.get("params") or {}
        parser = OverridesParser.create(config_loader=engine.config_loader)
        typed = [word for word in words if not is_setting(word)]
        parsed = parser.parse_overrides([*(f"{k}={v}" for k, v in params.items()), *typed])
        _check_values(settings, parsed)
    except (HydraException, OmegaConfBaseException) as error:
        missing = re.search(r"find 'hydra/launcher/(\w+)'", str(error))
        if missing and missing[1] in SETTINGS["hydra/launcher"]:
            raise UserError(f"hydra/launcher={missing[1]} is not installed: {EXTRA}") from error
        if "No match in the defaults list" in str(error):
            raise UserError("hydra/sweeper/sampler goes with hydra/sweeper=optuna") from error
        raise compose.refused(error) from error
    finally:
        GlobalHydra.instance().clear()
    found = Plan(
        words={word.get_key_element(): word for word in parsed}, settings=settings, engine=engine
    )
    if found.sweeper not in ("basic", "optuna"):
        raise UserError(f"hydra/sweeper={found.sweeper}: nmt sweeps with basic or optuna")
    if found.sweeper == "optuna" and find_spec("optuna") is None:
        raise UserError(f"hydra/sweeper=optuna needs optuna: {EXTRA}")
    return found


def _settings(engine: Hydra, words: Sequence[str]) -> DictConfig:
    return engine.compose_config(
        config_name="sweep_settings",
        overrides=[*words, *NOTHING_WRITTEN],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )


def _check_keys(words: Sequence[str], settings: DictConfig) -> None:
    """Refuse keys that the launcher or sweeper has not: with ``+`` Hydra takes any, in vain."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if not key.startswith(("hydra.launcher.", "hydra.sweeper.")):
            continue
        _, section, *names = key.split(".")
        node = settings.hydra[section]
        for name in names:
            if OmegaConf.get_type(node) is dict:
                break  # such as additional_parameters, which are anyone's
            known = [own for own in node if own[0] != "_"] if OmegaConf.is_dict(node) else []
            if name not in known:
                group = f"hydra/{section}"
                chosen = settings.hydra.runtime.choices[group]
                if known and key not in SETTING_KEYS:
                    hint = nearest(name, known)
                else:
                    hint = f"; another one may have it: {', '.join(SETTINGS[group])}"
                raise UserError(f"{group}={chosen} has no key {key!r}{hint}")
            node = node[name]


def _check_values(settings: DictConfig, words: Sequence[Override]) -> None:
    """Refuse numbers of jobs that are none, and keys that are swept over nothing."""
    launcher, sweeper = settings.hydra.launcher, settings.hydra.sweeper
    if launcher.get("n_jobs") == 0:
        raise UserError("hydra.launcher.n_jobs=0 starts no job; -1 is one a core")
    for key in ("n_jobs", "n_trials"):
        if sweeper.get(key, 1) < 1:
            raise UserError(f"hydra.sweeper.{key}={sweeper[key]}: 1 or more is needed")
    for word in words:
        try:
            empty = word.is_discrete_sweep() and not list(word.sweep_string_iterator())
        except ValueError as error:  # range(1,9,0)
            raise UserError(f"{word.input_line}: {error}") from error
        if empty:
            raise UserError(f"{word.input_line} has no values")


def _engine() -> Hydra:
    engine = compose.engine([])
    store = ConfigStore.instance()  # filled by the plugins that the engine found: ours come last
    store.store(name="sweep_settings", node={"defaults": [{"sweep": None}, "_self_"]})
    store.store(group="hydra/sweeper", name="optuna", node=OptunaSettings, provider="nmt")
    for name in ("tpe", "random"):
        store.store(group="hydra/sweeper/sampler", name=name, node=SamplerSettings(name=name))
    return engine


def _distribution(word: Override, *, whole: bool) -> BaseDistribution:
    """Hydra's interval, range or choice as optuna's distribution."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = word.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        low, high = float(value.start), float(value.end)
        if whole or (isinstance(value.start, int) and isinstance(value.end, int)):
            return IntDistribution(math.ceil(low), math.floor(high), log=log)
        return FloatDistribution(low, high, log=log)
    texts = list(word.sweep_string_iterator())
    if isinstance(value, RangeSweep) and not value.shuffle:
        numbers = [float(text) for text in texts]
        low, high = min(numbers), max(numbers)
        step = abs(float(value.step))
        if all(number.is_integer() for number in (*numbers, step)):
            return IntDistribution(int(low), int(high), step=int(step))
        return FloatDistribution(low, high, step=step)
    return CategoricalDistribution(texts)
