from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from nmt.errors import UserError
from nmt.training.distributed import World, join, pick_device, start
from nmt.training.index import read_index


def together(size: int, folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Run what torchrun would start on one machine; the exit status and stderr of each rank."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    processes = []
    for rank in range(size):
        with open(folder / f"stderr{rank}", "w", encoding="utf-8") as errors:
            here = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, *arguments]
            processes.append(subprocess.Popen(command, env=here, stderr=errors))
    try:
        ends = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(end, (folder / f"stderr{rank}").read_text()) for rank, end in enumerate(ends)]


def weights_of(run: Path, rank: int) -> dict[str, Tensor]:
    return dict(safetensors.torch.load_file(run / f"rank{rank}.safetensors"))


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of the difference over the norm, all tensors together."""
    assert one.keys() == other.keys()
    difference = sum(float((one[k].double() - other[k].double()).pow(2).sum()) for k in one)
    return (difference / sum(float(t.double().pow(2).sum()) for t in one.values())) ** 0.5


@pytest.mark.slow
def test_two_processes_do_what_one_does(toy: ModuleType, tmp_path: Path) -> None:
    """1 x 4 = 2 x 2 micro-batches, dropout on and off, with empty ones, and across a resume."""
    double = {"double": True, "dropout": 0.0, "accumulate": 4, "max_steps": 10}
    cases: dict[str, dict[str, Any]] = {
        "double": double,
        "lstm": {**double, "kind": "lstm"},
        # A plan of 15 micro-batches: the last update of an epoch has empty ones on both ranks, and
        # with an odd accumulate one rank gets an empty one in every update.
        "odd": {**double, "accumulate": 3, "max_steps": 12},
        "lonely": {**double, "accumulate": 1, "max_steps": 3},
        "dropout": {**double, "dropout": 0.3, "ema": 0.9, "average": 2},
        "single": {"dropout": 0.0, "accumulate": 4, "max_steps": 1, "clip": None},
        "patience": {**double, "max_steps": 50, "validate_every": 2, "patience": 2},
    }
    resumed = tmp_path / "resumed"
    toy.run_toy(resumed, **{**double, "max_steps": 6})
    runs = [(tmp_path / name, settings) for name, settings in cases.items()]
    work = json.dumps([(str(run), settings) for run, settings in [*runs, (resumed, double)]])
    script = str(Path(__file__).with_name("toy.py"))
    for status, errors in together(2, tmp_path, script, work):
        assert status == 0, errors
    for name, settings in cases.items():
        alone = toy.run_toy(tmp_path / f"{name}-alone", **settings).learner
        ranks = [weights_of(tmp_path / name, rank) for rank in (0, 1)]
        assert distance(ranks[0], ranks[1]) == 0.0, name
        tolerance = 1e-10 if settings.get("double") else 1e-6
        assert distance(alone.weights(), ranks[0]) < tolerance, name
        theirs, mine = (
            read_index(tmp_path / run / "checkpoints") for run in (name, name + "-alone")
        )
        assert [entry.step for entry in mine.kept] == [entry.step for entry in theirs.kept]
    assert distance(weights_of(tmp_path / "double", 0), weights_of(resumed, 0)) < 1e-10
    assert "processes 1 -> 2" in (resumed / "log.jsonl").read_text()


GRADIENTS = """
import sys, torch, importlib.util
from pathlib import Path
import safetensors.torch
from nmt.training.distributed import start
spec = importlib.util.spec_from_file_location("toy", sys.argv[1])
toy = importlib.util.module_from_spec(spec)
sys.modules["toy"] = toy
spec.loader.exec_module(toy)
torch.set_num_threads(1)
with start("cpu", timeout_minutes=1) as world:
    def watch(learner):
        def step(at):
            grads = {k: p.grad.clone() for k, p in learner.model.named_parameters()}
            safetensors.torch.save_file(grads, Path(sys.argv[2]) / f"rank{world.rank}.safetensors")
        learner.step = step
    run = Path(sys.argv[2])
    toy.run_toy(run, world=world, before=watch, dropout=0.0, accumulate=4, max_steps=1)
    assert world.agree(world.rank, -world.rank) == (1.0, 0.0)
    assert world.broadcast({"rank": world.rank}) == {"rank": 0}
    assert world.all_sum(torch.tensor([1.0, world.rank])).tolist() == [2.0, 1.0]
"""


@pytest.mark.slow
def test_gradients_in_single_precision(toy: ModuleType, tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("toy.py"))
    for status, errors in together(2, tmp_path, "-c", GRADIENTS, script, str(tmp_path / "two")):
        assert status == 0, errors
    found: dict[str, Tensor] = {}

    def watch(learner: Any) -> None:
        def step(at: int) -> None:
            found.update({k: p.grad.clone() for k, p in learner.model.named_parameters()})

        learner.step = step

    toy.run_toy(tmp_path / "one", before=watch, dropout=0.0, accumulate=4, max_steps=1)
    for rank in (0, 1):
        assert distance(found, weights_of(tmp_path / "two", rank)) < 1e-6


FAILING = """
import sys, torch
from nmt.training.distributed import start
from nmt.errors import UserError
with start("cpu", timeout_minutes=1) as world:
    world.agree(0)
    if world.rank == 1:
        raise UserError("rank 1 found a broken pair")
    for _ in range(100):
        world.agree(0)
"""


@pytest.mark.slow
def test_a_failing_rank_stops_the_others(tmp_path: Path) -> None:
    (first, _), (second, errors) = together(2, tmp_path, "-c", FAILING)  # it must not hang
    assert "rank 1 found a broken pair" in errors
    assert first != 0
    assert second != 0


def test_no_thread_outlives_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that were in the store's C++ code while Python shuts down would abort the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": "0"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    before = threading.active_count()
    with join(timeout_minutes=1):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with start("cpu") as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        module, tensor = nn.Linear(1, 1), torch.ones(2)
        assert world.wrap(module) is module
        assert world.all_sum(tensor) is tensor
        assert world.broadcast("x") == "x"
        assert world.agree(1.5, 0.0) == (1.5, 0.0)
        with world.syncing(module, last=False):
            pass


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto") == torch.device("cpu")
    assert World().device == torch.device("cpu")
    with pytest.raises(UserError, match=r"train\.device=cuda: process 1 .* finds 0 GPU"):
        pick_device("cuda")
    with pytest.raises(UserError, match=r"train\.device=mps: there is none"):
        pick_device("mps")
    with pytest.raises(UserError, match=r"unknown train\.device=tpu"):
        pick_device("tpu")
