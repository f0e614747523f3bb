"""What is said of a run is true: running, finished, stopped, failed, damaged."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from nmt.errors import UserError
from nmt.files import held, json_bytes
from nmt.runs import owned
from nmt.training import status as module
from nmt.training.index import Entry, Index, write_index
from nmt.training.monitor import Monitor
from nmt.training.status import is_run, status

GOLDEN = Path(__file__).parents[1] / "golden"
STEP = {"kind": "train", "step": 30, "epoch": 2, "seconds": 90.0}


def make(run: Path, *records: dict[str, Any], **train: Any) -> Path:
    """A run directory with a log, as far as `nmt runs` reads it."""
    (run / "checkpoints").mkdir(parents=True)
    (run / ".lock").touch()
    settings = {"max_steps": 50, "max_epochs": None, "max_minutes": None, **train}
    (run / "config.yaml").write_bytes(json_bytes({"format": 1, "train": settings}))
    lines = [json.dumps({"time": 100.0 + n, **record}) for n, record in enumerate(records)]
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    write_index(
        run / "checkpoints",
        Index("bleu", (Entry("step-00000010", 10, {"bleu": 20.0}), Entry("step-00000020", 20))),
    )
    return run


def start(step: int = 0) -> dict[str, Any]:
    return {"kind": "start", "step": step, "total": 40}


def end(state: str, reason: str = "why") -> dict[str, Any]:
    return {"kind": "end", "step": 30, "state": state, "reason": reason}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([start(), STEP, end("finished", "max_steps=40")], ("finished", "max_steps=40")),
        ([start(), STEP, end("stopped", "interrupted")], ("stopped", "interrupted")),
        ([start(), STEP, end("failed", "out of memory")], ("failed", "out of memory")),
        ([start(), STEP], ("stopped", "killed: its log has no last word")),
        (
            [start(), STEP, end("finished"), start(30), STEP],
            ("stopped", "killed: its log has no last word"),
        ),
        ([start(), end("failed"), start(), STEP, end("finished")], ("finished", "why")),
        ([start(), end("finished"), end("failed", "no data")], ("finished", "why")),
        ([start(), end("stopped"), end("failed", "no data")], ("failed", "no data")),
        ([end("failed", "no such file")], ("failed", "no such file")),
        ([], ("stopped", "nothing is written yet")),
    ],
)
def test_a_free_run_is_what_its_log_says_last(
    tmp_path: Path, records: list[dict[str, Any]], expected: tuple[str, str]
) -> None:
    run = make(tmp_path / "run", *records)
    found = status(run)
    assert (found.state, found.reason) == expected
    assert (found.metric, found.best) == ("bleu", 20.0)
    assert found.step == (30 if records else 20)
    if records:
        assert found.changed == 100.0 + len(records) - 1
    with owned(run):
        assert (status(run).state, status(run).reason) == ("running", "")
    assert (status(run).state, status(run).reason) == expected


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"max_steps": 30}, "finished"),
        ({"max_steps": 31}, "stopped"),
        ({"max_steps": None, "max_epochs": 2}, "finished"),
        ({"max_steps": None, "max_minutes": 1.5}, "finished"),
        ({"max_steps": None, "max_minutes": 1.6}, "stopped"),
    ],
)
def test_logs_of_before_there_were_last_words(
    tmp_path: Path, train: dict[str, Any], expected: str
) -> None:
    assert status(make(tmp_path / "run", STEP, **train)).state == expected


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_golden_runs(name: str) -> None:
    found = status(GOLDEN / name)
    assert (found.state, found.step, found.total) == ("finished", 100, 100)
    assert is_run(GOLDEN / name)
    assert not is_run(GOLDEN)
    assert not is_run(Path(module.__file__).parents[2] / "configs")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"train: [1\n"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"- a list\n"),
        ("checkpoints/index.json", b"{}"),
        ("log.jsonl", b'{"kind": "end", "step": 3, "state": "dreaming"}\n'),
    ],
)
def test_damage_is_a_state_with_its_reason(tmp_path: Path, name: str, content: bytes) -> None:
    run = make(tmp_path / "run", start(), STEP)
    (run / name).write_bytes(content)
    found = status(run)
    assert found.state == "damaged"
    assert str(run / name) in found.reason
    assert "\n" not in found.reason


def test_lines_of_nonsense_in_a_log_are_passed_over(tmp_path: Path) -> None:
    run = make(tmp_path / "run", start(), STEP, end("finished"))
    with (run / "log.jsonl").open("ab") as file:
        file.write(b'\xff\n[]\nnull\n{"step": 1e999}\n{"kind": "train", "st')
    assert (status(run).state, status(run).step) == ("finished", 30)


def test_asking_leaves_the_lock_alone_and_writes_nothing(tmp_path: Path) -> None:
    run = make(tmp_path / "run", start())
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    status(run)
    with owned(run):
        status(run)
    status(run)
    shutil.rmtree(run / "checkpoints")
    (run / ".lock").unlink()
    status(run)
    assert not (run / ".lock").exists()
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")}.items() <= before.items()


def test_whoever_only_asks_stops_no_training(tmp_path: Path) -> None:
    """A shared lock, as asking takes it, is waited for; an exclusive one is refused at once."""
    run = make(tmp_path / "run")
    with (run / ".lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        release = threading.Timer(0.1, fcntl.flock, (asking, fcntl.LOCK_UN))
        release.start()
        with owned(run):
            assert held(run / ".lock")
            with pytest.raises(UserError, match="trained by another process"), owned(run):
                pass
        release.join()
    assert not held(run / ".lock")


def test_a_run_that_ends_while_it_is_asked_about_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log changes between the lock and the log: both are looked at again."""
    run = make(tmp_path / "run", start(), STEP)
    asked = 0

    def starts_and_ends(path: Path) -> bool:
        nonlocal asked
        asked += 1
        busy = held(path)
        if asked == 1:  # another process takes the run up right after it was found to be free
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(start(30)) + "\n")
        if asked == 2:
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(end("finished")) + "\n")
        return busy

    monkeypatch.setattr(module, "held", starts_and_ends)
    assert status(run).state == "finished"
    assert asked == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("no such\nfile"), ("failed", "no such file")),
        (ValueError("shape"), ("failed", "ValueError: shape")),
        (KeyboardInterrupt(), ("stopped", "interrupted")),
    ],
)
@pytest.mark.parametrize("started", [False, True])
def test_a_failing_run_says_why_in_its_log(
    tmp_path: Path, error: BaseException, expected: tuple[str, str], started: bool
) -> None:
    run = tmp_path / "run"
    run.mkdir()

    def train() -> None:
        with Monitor(run, stream=io.StringIO(), tensorboard=False) as monitor:
            monitor.message("run: x")
            if started:
                monitor.start(0, total=3)
            raise error

    with pytest.raises(type(error)):
        train()
    found = status(run)
    assert (found.state, found.reason) == expected
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines][-2:] == ["message", "end"]
