"""A full disk, no permission, two at once, signals: one clear line, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nmt import cli
from nmt.runs import owned
from nmt.training.checkpoint import load_weights
from nmt.training.learner import Learner


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "checkpoints", "last").tensors


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def run(run: Path) -> Path:
    """The trained run, whose validations no longer translate to the length limit."""
    path = run / "config.yaml"
    path.write_text(path.read_text("utf-8").replace("max_length: 30", "max_length: 8"), "utf-8")
    assert "max_length: 8\n" in path.read_text("utf-8")
    return run


MORE = ("train.max_steps=12", "train.validate_every=100")


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what a full disk looks like to one process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# TensorBoard writes in a thread of its own, which says so itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_full_disk_loses_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    assert nmt(capsys, "train", f"run={whole}", *MORE)[0] == 0
    before = weights(run)
    with file_size(limit):
        status, _, err = nmt(capsys, "train", f"run={run}", *MORE)
    assert status == 1
    assert "File too large" in err.split("\n")[-2]
    assert "Traceback" not in err
    assert equal(weights(run), before)
    assert nmt(capsys, "train", f"run={run}", *MORE)[0] == 0
    assert equal(weights(run), weights(whole))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_may_not_be_written(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As somebody whom permissions bind: root, who may write anywhere, becomes nobody for it."""
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to others
    copy = folder / "run"
    shutil.copytree(trained, copy)
    for path in (folder, *copy.rglob("*"), copy):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65_534)
        try:
            Path(cli.__file__).read_bytes()
        except PermissionError:
            pytest.skip("this checkout is closed to everybody but root")
        status, _, err = nmt(capsys, "train", f"run={copy}", *MORE)
        assert (status, err.count("\n")) == (1, 1)
        assert f"cannot write to {copy}: Permission denied" in err
        status, _, err = nmt(capsys, "train", f"run={folder / 'new'}", "debug=tiny")
        assert (status, err.count("\n")) == (1, 1)
        assert "Permission denied" in err
        argv = [f"run={copy}", "text=A dog.", "search=greedy"]
        status, out, _ = nmt(capsys, "translate", *argv)  # reading needs no writing
        assert (status, out.count("\n")) == (0, 1)
        path = folder / "out"
        status, _, err = nmt(capsys, "translate", *argv, f"output={path}")
        assert (status, err) == (1, f"nmt: cannot write {path}: Permission denied\n")
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, copy, *copy.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_the_second_process_on_a_run_is_refused_and_changes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != ".lock"}
    with owned(run):
        status, _, err = nmt(capsys, "train", f"run={run}", *MORE)
        assert (status, err) == (1, f"nmt: {run} is being trained by another process\n")
        assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != ".lock"}
        assert nmt(capsys, "info", f"run={run}")[0] == 0
    assert nmt(capsys, "train", f"run={run}", *MORE)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_130(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    assert nmt(capsys, "train", f"run={whole}", *MORE)[0] == 0
    real = Learner.step

    def step(learner: Learner, at: int) -> None:
        if at == 11:
            signal.raise_signal(number)
        real(learner, at)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", step)
        status, _, err = nmt(capsys, "train", f"run={run}", *MORE)
    assert status == 130
    assert f"interrupted after step 11; everything is saved. Go on with: nmt train run={run}" in err
    assert nmt(capsys, "train", f"run={run}", *MORE)[0] == 0
    assert equal(weights(run), weights(whole))


# --- what may change when a run goes on -----------------------------------------------------------


def messages(run: Path) -> list[str]:
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    return [r["text"] for line in lines if (r := json.loads(line))["kind"] == "message"]


@pytest.mark.parametrize(
    ("words", "costs"),
    [
        (
            "train.patience=9 train.log_every=1 train.validate_every=100 train.keep_last=3",
            "",
        ),
        ("train.precision=fp32", "precision"),
        ("train.threads=2", "threads"),
    ],
)
def test_an_allowed_change_says_what_it_costs(
    run: Path, capsys: pytest.CaptureFixture[str], words: str, costs: str
) -> None:
    try:
        status, _, err = nmt(capsys, "train", f"run={run}", "train.max_steps=11", *words.split())
    finally:
        torch.set_num_threads(1)
    assert status == 0, err
    said = [text for text in messages(run) if "not bit-identical" in text]
    if costs == "precision" and "bfloat16" not in err and not said:
        pytest.skip("this processor computes in fp32 anyway")
    assert bool(said) == bool(costs)
    assert all(costs in text for text in said)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("model.dropout=0.3", "model.dropout is 0.1, you typed 0.3"),
        ("optim.learning_rate=0.5", "optim.learning_rate is 0.002, you typed 0.5"),
        ("train.batch_tokens=512", "train.batch_tokens is 1024, you typed 512"),
        ("train.accumulate=2", "train.accumulate is 1, you typed 2"),
        ("train.metric=loss", "train.metric is 'bleu', you typed 'loss'"),
        ("tokenizer.sampling=0.5", "tokenizer.sampling is 0.0, you typed 0.5"),
        ("seed=9", "seed is 1, you typed 9"),
    ],
)
def test_a_forbidden_change_shows_the_difference(
    run: Path, capsys: pytest.CaptureFixture[str], word: str, shown: str
) -> None:
    status, _, err = nmt(capsys, "train", f"run={run}", word)
    assert (status, err.count("\n")) == (1, 1)
    assert shown in err


def test_a_forbidden_change_in_the_file_shows_the_difference(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text("utf-8").replace("clip: 1.0", "clip: 2.0"), "utf-8")
    status, _, err = nmt(capsys, "train", f"run={run}", "train.max_steps=11")
    assert status == 1
    assert "optim.clip was 1.0, is 2.0" in err


def test_a_longer_plan_of_a_falling_schedule_is_said(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "debug=tiny", f"run={tmp_path / 'run'}", "optim.schedule=cosine"]
    argv += ["optim.warmup=1", "train.validate_sentences=0", "train.metric=loss"]
    assert nmt(capsys, *argv, "train.max_steps=2")[0] == 0
    status, _, err = nmt(capsys, *argv, "train.max_steps=3")
    assert status == 0, err
    assert any("train.max_steps 2 -> 3" in text for text in messages(tmp_path / "run"))
