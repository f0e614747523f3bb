"""Runs of format 1 are read, and go on, forever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nmt import cli, compose
from nmt.config import Config

GOLDEN = Path(__file__).with_name("golden")
RUNS = ("transformer", "lstm")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a golden run; prepared data goes beside it."""
    monkeypatch.setenv("NMT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(GOLDEN / request.param, tmp_path / request.param)
    return tmp_path / str(request.param)


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


def table(text: str) -> list[float]:
    return [float(number) for line in text.splitlines() for number in line.split("\t")]


@pytest.mark.parametrize("golden", RUNS, indirect=True)
def test_it_translates_and_scores_as_it_did(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = golden.name
    source, target = (GOLDEN / "corpus" / f"test.{side}" for side in ("en", "fr"))
    status, out, err = nmt(capsys, "translate", f"run={golden}", f"input={source}")
    assert (status, err) == (0, "")
    assert out == (GOLDEN / f"{name}.translations.txt").read_text("utf-8")
    argv = ["score", f"run={golden}", f"source={source}", f"target={target}"]
    expected = (GOLDEN / f"{name}.scores.tsv").read_text()
    assert table(nmt(capsys, *argv)[1]) == pytest.approx(table(expected), rel=1e-4, abs=2e-4)
    average = GOLDEN / f"{name}.average.scores.tsv"
    if average.exists():
        out = nmt(capsys, *argv, "checkpoint=average")[1]
        assert table(out) == pytest.approx(table(average.read_text()), rel=1e-4, abs=2e-4)
    assert nmt(capsys, "info", f"run={golden}")[0] == 0
    status, out, _ = nmt(capsys, "align", f"run={golden}", "text=A dog sees a cat.")
    assert status == 0


@pytest.mark.parametrize("golden", RUNS, indirect=True)
def test_it_is_finished_and_goes_on(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", f"run={golden}", f"data.root={GOLDEN / 'corpus'}"]
    status, _, err = nmt(capsys, *argv)
    assert status == 0, err
    assert "finished at step 100" in err
    assert "going on from" in err
    status, _, err = nmt(capsys, *argv, "train.max_steps=103")
    assert status == 0, err
    assert "finished at step 103" in err
    argv = ["evaluate", f"run={golden}", f"data.root={GOLDEN / 'corpus'}", "search=greedy"]
    status, out, err = nmt(capsys, *argv, "split=valid")
    assert status == 0, err
    assert "tok:13a" in out


@pytest.mark.parametrize("golden", RUNS, indirect=True)
def test_keys_that_are_newer_than_a_run_get_their_defaults(golden: Path) -> None:
    text = (golden / "config.yaml").read_text("utf-8")
    assert text.startswith("format: 1\n")
    loaded, defaults = compose.flat(compose.load(golden / "config.yaml")), compose.flat(Config())
    for key in defaults:
        if f" {key.rpartition('.')[2]}:" not in text.replace("\n", "\n "):
            assert loaded[key] == defaults[key], key
