"""`nmt runs` finds every run under a folder, and shows it in each format."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from nmt import cli
from nmt.commands.runs import spoken
from nmt.runs import owned

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two finished runs, one of them deep; a fresh one, a broken one, and what is no run."""
    root = tmp_path / "runs"
    for name, place in (("lstm", "one"), ("transformer", "sweep/deep/two")):
        shutil.copytree(GOLDEN / name, root / place)
    (root / "begun").mkdir()
    (root / "begun" / ".lock").touch()
    shutil.copytree(GOLDEN / "lstm", root / "broken")
    (root / "broken" / "checkpoints" / "index.json").write_text("{}")
    (root / "notes").mkdir()
    (root / "notes" / "config.yaml").write_text("a: 1\n")
    (root / "one.log").write_text("")
    (root / "linked").symlink_to(root / "one")
    (root / "sweep" / "back").symlink_to(root)
    return root


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["runs", *argv])
    return status, *capsys.readouterr()


def test_every_run_is_found_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with owned(folder / "begun"):
        status, out, err = nmt(capsys, str(folder), "format=json", "sort=path")
    assert (status, err) == (0, "")
    found = {row["run"].removeprefix(f"{folder}/"): row for row in json.loads(out)}
    assert {name: row["state"] for name, row in found.items()} == {
        "begun": "running",
        "broken": "damaged",
        "linked": "finished",
        "one": "finished",
        "sweep/deep/two": "finished",
    }
    assert found["one"]["metric"] == "loss"
    assert (found["one"]["step"], found["one"]["total"]) == (100, 100)
    assert abs(found["one"]["age"] - (time.time() - 1795327544.765)) < 100
    assert "index.json" in found["broken"]["reason"]


def test_states_orders_and_formats(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = nmt(capsys, str(folder), "format=csv", "sort=score")[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    scores = [float(row["best"]) for row in rows if row["best"]]
    assert scores == sorted(scores), "of a loss, the least first"
    assert [bool(row["best"]) for row in rows] == [True] * len(scores) + [False, False]
    out = nmt(capsys, str(folder), "format=csv", "state=damaged")[1]
    assert [row["run"] for row in csv.DictReader(io.StringIO(out))] == [str(folder / "broken")]
    out = nmt(capsys, str(folder), "state=failed")[1]
    assert out == f"no runs that are failed under {folder}\n"
    ages = [row["age"] for row in json.loads(nmt(capsys, str(folder), "format=json")[1])]
    assert ages == sorted(ages)
    monkeypatch.setenv("COLUMNS", "80")
    out = nmt(capsys, str(folder))[1]
    assert all(len(line) <= 80 for line in out.split("\n"))
    assert "100/100" in out
    monkeypatch.chdir(folder.parent)
    assert "runs/sweep/deep/two\n" in nmt(capsys)[1]


def test_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for argv, message in (
        ([], "runs: no such folder"),
        (["nowhere"], "nowhere: no such folder"),
        (["state=done"], "state=done: no such value"),
        ([".", "more"], "does not know what to do with 'more'"),
    ):
        status, out, err = nmt(capsys, *argv)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert message in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes").chmod(0)
    out = nmt(capsys, str(folder), "state=damaged")[1]
    (folder / "notes").chmod(0o755)
    assert "cannot be read: Permission denied" in out


def test_ages_are_spoken() -> None:
    assert [spoken(s) for s in (-1, 40, 300, 7200, 1e6)] == ["0 s", "40 s", "5 min", "2 h", "12 d"]


def test_it_loads_no_torch() -> None:
    """In the order of milliseconds, as something that is typed all day must be."""
    import subprocess
    import sys

    code = "import sys, nmt.commands.runs; print(sorted({'torch', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
