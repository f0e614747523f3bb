"""`nmt train -m`: names, states, what is refused before training, resume, failures, studies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from nmt import cli, compose, multirun, presets
from nmt.commands import jobs, train
from nmt.commands.jobs import Records, names_of, state_of
from nmt.config import Config
from nmt.errors import UserError
from nmt.training.index import Entry, Index, read_index, write_index
from nmt.training.loop import Outcome

TINY = ("train", "-m", "debug=tiny", "train.device=cpu")

Fake = Callable[..., Outcome]


@pytest.fixture
def fake(trained: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings become copies of a finished run; their names are in the list."""
    called: list[str] = []

    def train_run(config: Config, run: Path, world: object, monitor: object = None) -> Outcome:
        called.append(run.name)
        if config.seed == 13:
            raise UserError("the machine is on fire")
        shutil.copytree(trained / "checkpoints", run / "checkpoints", dirs_exist_ok=True)
        scores = {config.train.metric.value: 1000 * config.optim.learning_rate}
        entry = Entry("step-00000010", 10, scores)
        write_index(run / "checkpoints", Index(config.train.metric.value, (entry,)))
        compose.save(config, run / "config.yaml")
        if config.seed == 14:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        return Outcome("max_steps=10", 10, entry, 1.0)

    monkeypatch.setattr(train, "train_run", train_run)
    return called


def states(folder: Path) -> dict[str, str]:
    return {name: record["state"] for name, record in Records(folder).read().items()}


# --- words ---------------------------------------------------------------------------------------


def test_words_are_swept_as_hydra_users_expect() -> None:
    plan = multirun.plan(
        [
            "seed=range(1,4)",
            "model=choice(lstm,lstm_small)",
            "tokenizer.user_symbols=['a,b',c]",
            "~train.max_minutes",
            "data.languages='en-fr'",
            "hydra.sweeper.max_batch_size=2",
            "seed=range(1,3)",
        ]
    )
    assert plan.swept == ["seed", "model"]
    assert [tuple(values.values()) for values in plan.grid()] == [
        ("1", "lstm"),
        ("1", "lstm_small"),
        ("2", "lstm"),
        ("2", "lstm_small"),
    ]
    assert plan.job({"seed": "2", "model": "lstm"}) == [
        "seed=2",
        "model=lstm",
        "tokenizer.user_symbols=['a,b',c]",
        "~train.max_minutes",
        "data.languages='en-fr'",
    ]
    assert plan.launcher == plan.sweeper == "basic"


def test_a_list_is_one_value_and_several_lists_are_swept() -> None:
    plan = multirun.plan(["train.freeze=[encoder],[encoder,decoder]", "model=glob(lstm*)"])
    assert [job["train.freeze"] for job in plan.grid()[::2]] == ["[encoder]", "[encoder,decoder]"]
    assert {job["model"] for job in plan.grid()} == {"lstm", "lstm_small"}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("sweep=learnin_rate", "sweep=learnin_rate: no such preset; did you mean 'learning_rate'?"),
        ("sweep=learning_rate,x", "sweep=learning_rate,x: a sweep has one preset"),
        ("hydra/launcher=basik", "hydra/launcher=basik: no such value; did you mean 'basic'?"),
        ("hydra/sweeper=ax", "hydra/sweeper=ax: no such value; known: basic, optuna"),
        ("hydra/sweeper/sampler=tpe", "hydra/sweeper/sampler goes with hydra/sweeper=optuna"),
        ("hydra.launchers.n=3", "unknown key 'hydra.launchers'; did you mean 'hydra.launcher."),
        ("hydra.launcher.n_jobs=2", "hydra/launcher=basic has no key 'hydra.launcher.n_jobs'; an"),
        ("seed=1,(2", "seed=1,(2: this value cannot be read"),
        ("optim.clip=interval(0.5", "optim.clip=interval(0.5: this value cannot be read"),
        ("seed=rang(3)", "seed=rang(3): Unknown function 'rang' Available: bool,"),
        ("seed=range(1,1)", "seed=range(1,1) has no values"),
        ("seed=range(1,3,0)", "seed=range(1,3,0): "),
    ],
)
def test_settings_that_hydra_refuses_are_one_line(word: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        multirun.plan([word])
    assert str(caught.value).startswith(says)
    assert not re.search(r"\n|pip install|search path|hydra\.cc", str(caught.value))


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_keys_that_a_sweeper_has_not_are_refused(plus: str) -> None:
    """With a ``+`` Hydra would take them, and nobody would read them."""
    words = ["hydra/sweeper=optuna", f"{plus}hydra.sweeper.n_trial=2"]
    with pytest.raises(UserError, match=r"no key 'hydra.sweeper.n_trial'; did you mean 'n_trials'"):
        multirun.plan(words)
    words[1] = f"{plus}hydra.sweeper.sampler.seeds=2"
    with pytest.raises(UserError, match="did you mean 'seed'"):
        multirun.plan(words)


@pytest.mark.parametrize("word", ["n_jobs=0", "n_jobs=-1", "n_trials=0"])
def test_a_study_of_nothing_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"hydra.sweeper.{word}: 1 or more is needed"):
        multirun.plan(["hydra/sweeper=optuna", f"hydra.sweeper.{word}"])


def test_joblib_needs_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(UserError, match="n_jobs=0 starts no job"):
        multirun.plan(["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"])
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml")
    with pytest.raises(UserError, match=r"joblib is not installed: pip install 'nmt\[sweep\]'"):
        multirun.plan(["hydra/launcher=joblib"])


def test_the_settings_that_the_shell_offers_are_real() -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    for group, names in presets.SETTINGS.items():
        assert multirun._engine().config_loader.get_group_options(group) == names
    known: set[str] = set()
    for name in presets.SETTINGS["hydra/launcher"][1:]:
        plan = multirun.plan([f"hydra/launcher={name}", "hydra/sweeper=optuna"])
        known |= {f"hydra.launcher.{key}" for key in plan.settings.hydra.launcher}
        known |= {f"hydra.sweeper.{key}" for key in plan.options}
    assert set(presets.SETTING_KEYS) - known == {"hydra.sweeper.sampler.seed"}
    words = ["hydra/launcher=submitit_slurm", "+hydra.launcher.additional_parameters.x=1"]
    assert "x: 1" in multirun.plan([*words, "hydra.launcher.name=mine"]).launcher_settings


def test_without_optuna_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multirun, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs optuna: pip install 'nmt\[sweep\]'"):
        multirun.plan(["hydra/sweeper=optuna", "seed=1,2"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optim.learning_rate=interval(1e-4,1e-3)"], "hydra/sweeper=optuna"),
        (["model=lstm"], "no key has several"),
        (["run=runs/x,runs/y"], "run= is one folder"),
        (["seed=1,2", "impossible=maybe"], "no such value"),
        (["model=lstm,lsmt"], "did you mean 'lstm'"),
        (["seed=1,2", "train.max_step=3"], "did you mean"),
        (["seed=1,2", "optim.learning_rate=-1"], "learning_rate"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*TINY, f"run={tmp_path / 'all'}", *words]) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_words_of_a_sweep_need_m(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("sweep=learning_rate", "hydra/launcher=joblib", "impossible=skip"):
        assert cli.main(["train", word]) == 1
        assert f"{word} belongs to a sweep: nmt train -m" in capsys.readouterr().err


def test_torchrun_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([*TINY, "seed=1,2"]) == 1
    assert "leave torchrun out" in capsys.readouterr().err


# --- names ---------------------------------------------------------------------------------------


def test_names_say_what_is_swept_in_the_order_of_the_schema() -> None:
    job = {"seed": "1", "attention": "none", "+model": "lstm"}
    assert names_of([job]) == ["lstm-none-s1"]
    assert names_of([{"train.max_steps": "5", "model.width": "64"}]) == ["width_64-max_steps_5"]
    heads = {"attention.heads": "2", "model.heads": "4"}
    assert names_of([heads]) == ["model.heads_4-attention.heads_2"]


def test_names_are_plain_and_two_jobs_never_share_one() -> None:
    values = ["[a,b]", "[a b]", "../x", "ü", "0.0031622776601683795", "0.0031622776601683791", ""]
    found = names_of([{"train.freeze": value} for value in values])
    assert len(set(found)) == len(values)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in found)
    assert found == [names_of([{"train.freeze": value}])[0] for value in values]
    twice = names_of([{"model": "a-b", "seed": "c"}, {"model": "a", "seed": "b-sc"}])
    assert len(set(twice)) == 2
    assert len(names_of([{"data.name": "x" * 300}])[0]) < 120


# --- states --------------------------------------------------------------------------------------


def test_the_state_is_what_the_checkpoints_say(run: Path) -> None:
    config = compose.load(run / "config.yaml")
    found = state_of(config, run)
    assert found.word == "finished"
    assert found.score is not None
    assert found.minutes is not None
    longer = replace(config, train=replace(config.train, max_steps=20))
    assert state_of(longer, run).word == "stopped"
    averaged = replace(config, train=replace(config.train, average=2))
    index = read_index(run / "checkpoints")
    several = len(index.scored) > 1  # a single one has no mean
    assert state_of(averaged, run).word == ("stopped" if several else "finished")
    assert index.last is not None
    (run / "checkpoints" / index.last.name / "state.json").write_text("{")
    assert state_of(config, run).word == "stopped"
    shutil.rmtree(run / "checkpoints")
    assert state_of(config, run).word == "waiting"


# --- running -------------------------------------------------------------------------------------


def test_a_grid_is_trained_once_and_shown(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[str] = []
    real = train.train_run
    monkeypatch.setattr(
        train,
        "train_run",
        lambda config, run, *rest: calls.append(run.name) or real(config, run, *rest),
    )
    command = [*TINY, "seed=1,2", "train.max_steps=2", "train.validate_sentences=2"]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert calls == ["s1", "s2"]
    folder = next((tmp_path / "runs").iterdir())
    assert shown.err.startswith(f"sweep: runs/{folder.name}\n")
    assert folder.name.startswith("sweep-seed-")
    assert [line.split()[:3] for line in shown.out.splitlines()] == [
        ["folder", "seed", "state"],
        ["s1", "1", "finished"],
        ["s2", "2", "finished"],
    ]
    assert "job 2 of 2: s2: finished, best bleu" in shown.err
    assert os.listdir(tmp_path) == ["runs"]
    assert cli.main(command) == 0
    assert calls == ["s1", "s2"]
    assert "job 1 of 2: s1: finished before" in capsys.readouterr().err
    content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["jobs"]["s2"]["words"][2] == "seed=2"
    assert states(folder) == {"s1": "finished", "s2": "finished"}


def test_a_failing_job_ends_no_other_and_is_tried_again(
    fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a sweep, (1) = [ü] ${x}"
    command = [*TINY, "seed=13,2", f"run={folder}"]
    assert cli.main(command) == 1
    assert fake == ["s13", "s2"]
    assert states(folder) == {"s13": "failed", "s2": "finished"}
    shown = capsys.readouterr()
    assert "s13 failed: the machine is on fire" in shown.err
    assert "1 of 2 jobs are not finished. Again: nmt train -m" in shown.err
    assert cli.main(command) == 1
    assert fake == ["s13", "s2", "s13"]


def test_sigterm_ends_the_sweep_and_the_same_command_goes_on(
    fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "seed=14,2", "train.max_steps=10", f"run={tmp_path}"]
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(command) == train.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert fake == ["s14"]
    assert states(tmp_path)["s2"] == "waiting"
    shown = capsys.readouterr().err
    assert f"Go on with: nmt {' '.join(command)}" in shown
    assert not jobs.stop_file(tmp_path).exists()
    assert cli.main(command) == 0  # the fake had saved all that training asks for
    assert fake == ["s14", "s2"]


def test_an_impossible_pair_is_reported_before_training_and_may_be_skipped(
    fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all"
    command = [*TINY, "model=lstm", "attention=full,bahdanau", f"run={folder}"]
    assert cli.main(command) == 1
    shown = capsys.readouterr().err
    assert "\nfull: " in shown
    assert "1 of 2 jobs are impossible, so none was trained; impossible=skip" in shown
    assert not folder.exists()
    assert cli.main([*command, "impossible=skip"]) == 0
    assert fake == ["bahdanau"]
    assert states(folder) == {"full": "impossible", "bahdanau": "finished"}


def test_a_dry_run_shows_the_jobs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    folder = tmp_path / "all"
    words = ["model=lstm,transformer_tiny", "hydra/launcher=submitit_slurm", f"run={folder}"]
    assert cli.main([*TINY, "--dry-run", *words, "hydra.launcher.partition=gpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split() == ["lstm", "model=lstm", "52,240", "waiting"]
    assert "partition: gpu" in shown
    assert not folder.exists()


def test_the_launcher_that_lost_its_processes_is_asked_again_for_the_rest(
    fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def launch(
        plan: multirun.Plan, work: jobs.Work, batch: list[jobs.Job], *rest: object
    ) -> dict[int, str]:
        rounds.append([job.run.name for job in batch])
        if len(rounds) == 1:
            Records(work.folder).update({batch[0].run.name: {"state": "running"}})
            raise UserError("a worker is gone")
        work(batch[0])
        return {}

    monkeypatch.setattr(multirun.Plan, "launch", launch)
    monkeypatch.setattr(multirun.Plan, "at_once", lambda plan, count: 2)
    monkeypatch.setattr(multirun.Plan, "launcher", "joblib")
    assert cli.main([*TINY, "seed=1,2", f"run={tmp_path}"]) == 1
    assert rounds == [["s1", "s2"], ["s2"]]
    assert fake == ["s2"]
    assert states(tmp_path) == {"s1": "failed", "s2": "finished"}
    assert Records(tmp_path).read()["s1"]["reason"].endswith("was killed (a worker is gone)")


def test_a_cluster_may_end_one_job_and_the_others_go_on(
    fake: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """s14 gets SIGTERM and saves, s3 is killed, s4 never begins."""

    def launch(
        plan: multirun.Plan, work: jobs.Work, batch: list[jobs.Job], *rest: object
    ) -> dict[int, str]:
        work(batch[0])
        Records(work.folder).update({"s3": {"state": "running"}})
        work(batch[3])
        return {0: "timed out too often", 1: "job 7_1 is FAILED", 2: "job 7_2 is CANCELLED"}

    monkeypatch.setattr(multirun.Plan, "launch", launch)
    monkeypatch.setattr(multirun.Plan, "launcher", "submitit_slurm")
    command = [*TINY, "seed=14,3,4,2", "train.max_steps=20", f"run={tmp_path}"]
    assert cli.main(command) == 1
    assert fake == ["s14", "s2"]
    assert states(tmp_path) == {"s14": "stopped", "s3": "failed", "s4": "failed", "s2": "stopped"}
    shown = capsys.readouterr().err
    assert "s14 stopped: timed out too often\n" in shown
    assert "s3 failed: job 7_1 is FAILED\n" in shown
    assert "s4 failed: job 7_2 is CANCELLED\n" in shown
    assert "4 of 4 jobs are not finished" in shown


def test_jobs_of_submitit_are_awaited_when_one_of_them_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)  # for slow file systems
    plan = multirun.plan(["seed=1,2", "hydra/launcher=submitit_local"])
    folder = tmp_path / "a sweep = [ü]"
    codes = [
        "import os; os._exit(9)",
        f"import time; time.sleep(1); open({str(tmp_path / 'done')!r}, 'w')",
    ]
    told: list[str] = []
    lost = plan.launch(exec, codes, str(folder), lambda: False, told.append)
    assert [text.split()[:2] for text in told] == [["submitted", "as"]]
    assert (tmp_path / "done").exists()
    assert list(lost) == [0]
    assert f"its log: {folder}/.submitit/" in lost[0]


def test_a_cluster_that_warns_is_answered_once_the_work_has_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = pytest.importorskip("submitit").core.utils
    order: list[str] = []

    def work(item: str) -> None:
        before = signal.signal(signal.SIGTERM, lambda *_: order.append("saves"))
        if item == "warned":
            signal.raise_signal(signal.SIGUSR2)
        order.append("ends")
        signal.signal(signal.SIGTERM, before)

    def requeue(number: int, frame: object) -> None:
        order.append("requeued")
        if len(order) > 4:
            raise errors.UncompletedJobError("too many times")

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        job = multirun._OnCluster(work)
        assert job("quiet") == ""
        assert order == ["ends"]
        signal.signal(signal.SIGUSR2, requeue)
        assert job("warned") == ""
        assert order[1:] == ["saves", "ends", "requeued"]
        signal.signal(signal.SIGUSR2, requeue)
        assert job("warned") == "too many times"
        assert job.checkpoint("x").args == ("x",)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_joblib_shares_the_machine_among_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    plan = multirun.plan(["seed=1,2", "hydra/launcher=joblib"])
    assert plan.at_once(3) == 3
    assert plan.at_once(30) == 8


# --- studies -------------------------------------------------------------------------------------


def test_a_search_space_is_what_hydra_means() -> None:
    found = pytest.importorskip("optuna").distributions
    words = ["hydra/sweeper=optuna", "seed=choice(3,4)", "optim.clip=range(0.5,2,0.5)"]
    words += ["model.width=interval(32,64)", "optim.learning_rate=tag(log,interval(1e-4,1e-2))"]
    assert multirun.plan([*words, "train.pool=int(interval(1,9))"]).space() == {
        "seed": found.CategoricalDistribution(["3", "4"]),
        "optim.clip": found.FloatDistribution(0.5, 1.5, step=0.5),  # as in Hydra, without the end
        "model.width": found.IntDistribution(32, 64),
        "optim.learning_rate": found.FloatDistribution(1e-4, 1e-2, log=True),
        "train.pool": found.IntDistribution(1, 9),
    }


@pytest.mark.parametrize("space", ["interval(1,0)", "tag(log,interval(0,1))"])
def test_a_search_space_that_is_none_is_one_line(space: str) -> None:
    pytest.importorskip("optuna")
    plan = multirun.plan(["hydra/sweeper=optuna", f"optim.clip={space}"])
    with pytest.raises(UserError, match=f"^{re.escape(f'optim.clip={space}: ')}"):
        plan.space()


@pytest.mark.parametrize(
    ("metric", "best", "commands"), [("loss", min, (1, 2)), ("bleu", max, (2,))]
)
def test_a_study_is_resumed_and_knows_its_direction(
    metric: str,
    best: Callable[..., float],
    commands: tuple[int, ...],
    fake: list[str],
    tmp_path: Path,
) -> None:
    optuna = pytest.importorskip("optuna")
    command = [*TINY, "sweep=learning_rate", "optim.warmup=20", f"train.metric={metric}"]
    command += [f"run={tmp_path}", "hydra.sweeper.sampler.seed=1"]
    for trials in commands:
        assert cli.main([*command, f"hydra.sweeper.n_trials={trials}"]) == 0
    assert len(fake) == len(set(fake)) == 2
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    values = [trial.value for trial in study.trials]
    rates = [trial.params["optim.learning_rate"] for trial in study.trials]
    assert values == pytest.approx([1000 * rate for rate in rates])
    assert study.best_value == best(values)


def test_an_interrupted_trial_is_taken_up_and_a_failed_one_does_not_count(
    fake: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    command = [*TINY, "hydra/sweeper=optuna", "seed=choice(14)", f"run={tmp_path}"]
    assert cli.main([*command, "hydra.sweeper.n_trials=1"]) == train.INTERRUPTED
    assert cli.main([*command, "hydra.sweeper.n_trials=1"]) == 0
    assert fake == ["s14"]
