"""What a Tab offers, by the entry that the shells call, and through real shells."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from nmt import cli, presets
from nmt.completion import SCRIPTS, complete
from nmt.decoding.align import Rule
from nmt.decoding.views import ROWS
from nmt.evaluation.scores import METRICS
from nmt.training.status import STATES


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first run").mkdir(parents=True)
    (tmp_path / "runs" / "second").mkdir()
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text("width: 1\n")
    (tmp_path / "my.yaml").write_text("seed: 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["tr"], ["train", "translate"]),
        (["find"], ["find-batch"]),
        (["--v"], ["--version"]),
        (["nonsense", ""], []),
        (["train", "see"], ["seed="]),
        (["train", "mod"], ["model.", "model="]),
        (["train", "model.enc"], ["model.encoder_layers="]),
        (["train", "data.f"], ["data.filters."]),
        (["train", "data.filters.max_w"], ["data.filters.max_words="]),
        (["train", "model=m"], ["model=mine"]),
        (["train", "model=lstm"], ["model=lstm", "model=lstm_small"]),
        (["train", "-m", "attention=none,luong_d"], ["attention=none,luong_dot"]),
        (["train", "optim.schedule=c"], ["optim.schedule=constant", "optim.schedule=cosine"]),
        (["train", "attention.feeding="], ["attention.feeding=false", "attention.feeding=true"]),
        (["train", "train.compile=t"], ["train.compile=true"]),
        (["train", "--d"], ["--dry-run"]),
        (["train", "--config", "m"], ["my.yaml"]),
        (["train", "--config=m"], ["--config=my.yaml"]),
        (["translate", "run=runs/"], ["run=runs/first run/", "run=runs/second/"]),
        (["translate", "run=nowhere/"], []),
        (["evaluate", "ru"], ["run=", "runs/"]),
        (["evaluate", "split=t"], ["split=test", "split=train"]),
        (["completion", "z"], ["zsh"]),
        (["compare", "format="], ["format=csv", "format=json", "format=markdown", "format=text"]),
        (["translate", "format=j"], ["format=jsonl"]),
        (["runs", "sort="], ["sort=age", "sort=path", "sort=score"]),
        (["runs", "state=f"], ["state=failed", "state=finished"]),
        (["runs", "runs/s"], ["runs/second/"]),
        (["compare", "metric=bleu,c"], ["metric=bleu,chrf"]),
        (["compare", "baseline=runs/s"], ["baseline=runs/second/"]),
        (["align", "eos="], ["eos=drop", "eos=keep"]),
        (["train", "impossible="], ["impossible=refuse", "impossible=skip"]),
        (["train", "-m", "sweep=l"], ["sweep=learning_rate"]),
        (["train", "-m", "hydra/launcher=j"], ["hydra/launcher=joblib"]),
        (["train", "hydra/sweeper="], ["hydra/sweeper=basic", "hydra/sweeper=optuna"]),
        (["train", "hydra/sweeper/sampler=t"], ["hydra/sweeper/sampler=tpe"]),
        (["train", "hydra."], ["hydra.launcher.", "hydra.sweeper."]),
        (["train", "hydra.sweeper.n_t"], ["hydra.sweeper.n_trials="]),
        (["train", "hydra.sweeper.s"], ["hydra.sweeper.sampler."]),
        (["train", "seed="], []),
        (["score", "mod"], []),  # no key of this command
    ],
)
def test_what_is_offered(here: Path, typed: list[str], offered: list[str]) -> None:
    assert complete(typed) == offered


def test_everything_offered_can_be_typed(here: Path) -> None:
    for name in cli.COMMANDS:
        for word in complete([name, ""]):
            if word.endswith("="):
                cli.parse(name, [f"{word}1"])


def test_values_are_those_that_the_commands_take(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands read them from the same place; some have them from code that Tab cannot import."""
    assert cli.COMMANDS["runs"].values["state"][1:] == STATES
    assert cli.COMMANDS["compare"].values["metric"] == METRICS
    assert cli.COMMANDS["align"].values["rule"] == typing.get_args(Rule)
    assert cli.COMMANDS["align"].values["row"] == ROWS
    assert cli.COMMANDS["completion"].values["shell"] == tuple(SCRIPTS)
    assert cli.COMMANDS["story"].values["story.budget"] == tuple(presets.options("story"))
    assert all(set(command.values) <= set(command.own) for command in cli.COMMANDS.values())
    for key in cli.COMMANDS["runs"].values:
        for word in complete(["runs", f"{key}="]):
            assert cli.main(["runs", word]) == 0
    for key in cli.COMMANDS["compare"].values:
        for word in complete(["compare", f"{key}="]):
            assert cli.main(["compare", "a", "b", word]) == 1
            assert "a: no such run directory" in capsys.readouterr().err


def test_the_entry_is_light() -> None:
    code = (
        "import sys; from nmt.cli import main; main(['__complete', 'train', 'model=lst']);"
        "print({'torch', 'hydra', 'omegaconf', 'numpy', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "model=lstm\nmodel=lstm_small\nset()\n", done.stderr


def in_shell(shell: str, here: Path, text: str) -> list[str]:
    """What a real shell prints that has read its script, with ``nmt`` on its path."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = here / "nmt"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nmt "$@"\n')
    program.chmod(0o755)
    (here / "script").write_text(SCRIPTS[shell])
    env = {
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
        "PATH": f"{here}:/usr/bin:/bin",
        "HOME": str(here),
    }
    done = subprocess.run([shell, "-c", text], cwd=here, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_bash(here: Path) -> None:
    """bash fills in only what follows a ``=``."""
    lines = {
        "nmt trai": ["train"],
        "nmt train model=mi": ["mine"],
        "nmt translate run=runs/": [r"runs/first\ run/", "runs/second/"],
    }
    calls = "".join(
        f'COMP_LINE="{line}"; COMP_POINT={len(line)}; _nmt;'
        ' printf "%s|" "${COMPREPLY[@]}"; echo\n'
        for line in lines
    )
    *found, registered = in_shell("bash", here, f". ./script; {calls} complete -p nmt")
    assert [line.split("|")[:-1] for line in found] == list(lines.values())
    assert registered == "complete -F _nmt nmt"


def test_fish(here: Path) -> None:
    """fish takes words with blanks as they stand, and quotes them itself."""
    lines = {
        "nmt trai": ["train"],
        "nmt train model=mi": ["model=mine"],
        "nmt translate run=runs/": ["run=runs/first run/", "run=runs/second/"],
        r"nmt translate run=runs/first\ ": ["run=runs/first run/"],
        'nmt translate "run=runs/fi': ["run=runs/first run/"],
        r"nmt evaluate run=runs/first\ run split=te": ["split=test"],
    }
    calls = "".join(f"complete -C '{line}'; echo;" for line in lines)
    found = "\n".join(in_shell("fish", here, f"source ./script; {calls}"))
    assert [part.splitlines() for part in found.split("\n\n")] == list(lines.values())


def test_zsh(here: Path) -> None:
    """What zsh's ``compadd`` is told; a word that is not finished gets no blank (``-S ''``)."""
    lines = {
        ("nmt", "trai"): ["--|train|"],
        ("nmt", "train", "model=mi"): ["--|model=mine|"],
        ("nmt", "train", "mod"): ["-S||--|model.|model=|"],
        ("nmt", "translate", r"run=runs/first\ "): ["-S||--|run=runs/first run/|"],
        ("nmt", "evaluate", r"run=runs/first\ run", "split=te"): ["--|split=test|"],
    }
    calls = "".join(
        f"words=({shlex.join(line)}) CURRENT={len(line)} PREFIX={shlex.quote(line[-1])};_nmt;echo;"
        for line in lines
    )
    stubs = "compdef() { :; }; compadd() { printf '%s|' \"$@\"; echo; };"
    found = "\n".join(in_shell("zsh", here, f"{stubs} source ./script; {calls}"))
    assert [part.splitlines() for part in found.split("\n\n")] == list(lines.values())


def test_the_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """What holds where a shell is not installed, too: blocks and quotes are closed."""
    for shell, script in SCRIPTS.items():
        assert cli.main(["completion", shell]) == 0
        assert capsys.readouterr().out == f"{script.strip()}\n"
        assert "__complete" in script
        code = "\n".join(li for li in script.splitlines() if not li.strip().startswith("#"))
        for opening, closing in ("()", "[]", "{}"):
            assert code.count(opening) == code.count(closing), shell
        assert code.replace(r"\"", "").count('"') % 2 == 0
        if shutil.which(shell):
            done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
    assert cli.main(["completion", "powershell"]) == 1
    assert "shell=powershell" in capsys.readouterr().err
