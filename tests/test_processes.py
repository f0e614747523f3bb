"""The commands as several processes run them: the same results, one message, nobody hangs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt import cli
from nmt.training.checkpoint import load_weights

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden")
SENTENCES = ["A dog sees a cat.", "", "The man likes a small dog today.", "a", "  ", "A cat."] * 3

SCRIPT = """
import contextlib, io, json, os, signal, sys
from pathlib import Path
import torch
from nmt import cli
from nmt.training import learner
torch.set_num_threads(1)
folder, work = Path(sys.argv[1]), json.loads(sys.argv[2])
rank, attempt = os.environ["RANK"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
real = learner.Learner.step
def step(self, at):
    killed = os.environ.get("KILL")
    if killed == f"{rank} {at} {attempt}":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("FAIL") == f"{rank} {at}":
        raise learner.UserError("rank one found a broken pair")
    if os.environ.get("HANG") == f"{rank} {at}":
        import time
        time.sleep(1000)
    real(self, at)
learner.Learner.step = step
for number, (port, argv) in enumerate(work):
    if port:
        os.environ["MASTER_PORT"] = str(port)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out):
        status = cli.main(argv)
    out.flush()
    (folder / f"out{number}.{rank}").write_bytes(out.buffer.getvalue())
    if status:
        sys.exit(status)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def together(
    size: int, folder: Path, *commands: list[str], **environment: str
) -> list[tuple[int, str]]:
    """The commands after each other, in `size` processes; status and stderr of each rank."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = [free_port() for _ in commands]
    common = {
        **os.environ, **environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0]),
        "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    work = json.dumps(list(zip(ports, commands, strict=True)))
    processes = []
    for rank in range(size):
        here = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        argv = [sys.executable, "-c", SCRIPT, str(folder), work]
        with open(folder / f"err{rank}", "w", encoding="utf-8") as errors:
            processes.append(subprocess.Popen(argv, env=here, stderr=errors))
    try:
        ends = [process.wait(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(end, (folder / f"err{rank}").read_text()) for rank, end in enumerate(ends)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "checkpoints", "last").tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> bool:
    assert one.keys() == other.keys()
    far = sum(float((one[k].double() - other[k].double()).pow(2).sum()) for k in one)
    return far <= tolerance**2 * sum(float(t.double().pow(2).sum()) for t in one.values())


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NMT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(GOLDEN / "lstm", tmp_path / "lstm")
    return tmp_path / "lstm"


def going_on(run: Path, steps: int) -> list[str]:
    root = f"data.root={GOLDEN / 'corpus'}"
    return ["train", f"run={run}", root, f"train.max_steps={steps}", "train.validate_every=4"]


@pytest.mark.slow
def test_three_processes_do_what_one_does(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training on 1 -> 3 -> 1 processes, translate and evaluate: the same, in the same order."""
    alone = tmp_path / "alone"
    shutil.copytree(golden, alone)
    assert cli.main(going_on(alone, 112)) == 0
    source = tmp_path / "in"
    source.write_text("".join(f"{line}\n" for line in SENTENCES), encoding="utf-8")
    output = tmp_path / "out"
    few = ["search.max_length=12"]
    translate = ["translate", f"run={golden}", f"input={source}", "checkpoint=last", *few]
    sampled = [*translate, "format=jsonl", "search=sample", "search.beam=2", "search.n_best=2"]
    evaluate = ["evaluate", f"run={golden}", f"data.root={GOLDEN / 'corpus'}", "format=json", *few]
    evaluate += ["checkpoint=last"]
    work = [going_on(golden, 108), [*translate, f"output={output}"], translate, sampled, evaluate]
    for status, errors in together(3, tmp_path / "three", *work):
        assert status == 0, errors
    log = (golden / "log.jsonl").read_text("utf-8")
    assert "processes 1 -> 3" in log
    for number, argv in enumerate(work[1:], 1):
        capsys.readouterr()
        mine = tmp_path / "mine"
        assert cli.main([word.replace(str(output), str(mine)) for word in argv]) == 0
        expected = capsys.readouterr().out
        found = [(tmp_path / "three" / f"out{number}.{rank}").read_text() for rank in range(3)]
        assert found[1:] == ["", ""]
        if argv is evaluate:
            expected, found[0] = (
                json.dumps(json.loads(text)["scores"]) for text in (expected, found[0])
            )
        assert found[0] == expected
        assert output.read_text("utf-8") == mine.read_text("utf-8") if number == 1 else True
    # Back on one process, with the weights that one process alone would have had.
    assert cli.main(going_on(golden, 112)) == 0
    assert "processes 3 -> 1" in (golden / "log.jsonl").read_text("utf-8")
    assert same(weights(golden), weights(alone), 1e-5)


@pytest.mark.slow
def test_the_failing_rank_is_what_the_user_reads(golden: Path, tmp_path: Path) -> None:
    """An exception, and a process that hangs meanwhile: all stop, one says why."""
    began = time.monotonic()
    ends = together(3, tmp_path / "three", going_on(golden, 200), FAIL="1 103", HANG="2 103")
    assert time.monotonic() - began < 300  # the hanging one would take 1000 seconds
    assert [status for status, _ in ends] == [1, 1, 1]
    said = "".join(errors for _, errors in ends)
    assert said.count("nmt: ") == 1
    assert "nmt: rank one found a broken pair" in said
    assert "Traceback" not in said
    (status, errors), *others = together(
        2, tmp_path / "wrong", ["train", f"run={golden}", "model.width=9"]
    )
    assert (status, errors.count("\n")) == (1, 1)
    assert "model.width is 8, you typed 9" in errors
    assert others == [(1, "")]


@pytest.mark.slow
def test_a_killed_worker_comes_back(golden: Path, tmp_path: Path) -> None:
    """torchrun --max-restarts: training goes on from the last checkpoint, bit-identical."""
    whole = tmp_path / "whole"
    shutil.copytree(golden, whole)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def torchrun(run: Path, **environment: str) -> str:
        argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
        argv += ["--max-restarts=1", f"--master-port={free_port()}", str(script), str(tmp_path)]
        common = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*argv, json.dumps([(0, going_on(run, 108))])],
            env=common, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    torchrun(whole)
    assert torchrun(golden, KILL="1 106 0").count("going on from") == 2
    log = [json.loads(line) for line in (golden / "log.jsonl").read_text("utf-8").splitlines()]
    assert [r["text"] for r in log if r["kind"] == "message"][-1].endswith("step-00000104")
    assert same(weights(golden), weights(whole), 0.0)


def test_parts_cover_all_lines_in_order() -> None:
    from nmt.commands.share import part

    cases: list[list[str]] = [[], ["a"], ["a", "b"], [""] * 7, ["x" * 10_000, *["a"] * 9]]
    for lines in cases:
        for size in (1, 2, 3, 5):
            cuts = [part(lines, rank=r, size=size) for r in range(size)]
            assert [i for a, b in cuts for i in range(a, b)] == list(range(len(lines)))
    even: list[Any] = [part(["abc"] * 90, rank=r, size=3) for r in range(3)]
    assert [b - a for a, b in even] == [30, 30, 30]
