from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nmt.data import batching
from nmt.data.batching import Cursor
from nmt.errors import UserError
from nmt.models.seq2seq import Seq2Seq
from nmt.training import loop
from nmt.training.checkpoint import load_weights, read_checkpoint, save_checkpoint
from nmt.training.index import find_entry, read_index
from nmt.training.learner import Learner, resolve_precision
from nmt.training.monitor import Validation
from nmt.training.state import LoopOptions, TrainState


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


# --- resume ---


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"ema": 0.9},
        {"sampling": True, "accumulate": 2, "ema": 0.9},
        {"precision": torch.bfloat16},
    ],
    ids=str,
)
def test_stopped_and_resumed_is_bitwise_the_same(
    toy: ModuleType, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    def go(name: str, steps: int) -> Any:
        return toy.run_toy(tmp_path / name, kind=kind, max_steps=steps, **options)

    whole = go("whole", 20)
    first = go("parts", 7)
    assert first.learner.training_tensors().keys() == whole.learner.training_tensors().keys()
    assert TrainState.parse(_state(first.run)["state"]).cursor.consumed > 0  # mid-epoch
    second = go("parts", 20)
    assert whole.same_weights(second)
    theirs = second.learner.training_tensors()
    assert all(torch.equal(v, theirs[k]) for k, v in whole.learner.training_tensors().items())
    mine, theirs = _state(whole.run), _state(second.run)
    for counters in (mine["state"], theirs["state"]):
        del counters["seconds"]
    assert mine["state"]["cursor"] == theirs["state"]["cursor"]
    assert mine["state"]["target_tokens"] == theirs["state"]["target_tokens"]
    assert not whole.same_weights(first)


def test_a_weighted_mixture_resumes_bitwise_in_a_later_epoch(
    toy: ModuleType, tmp_path: Path
) -> None:
    def go(name: str, steps: int, weight: float = 1.5) -> Any:
        pairs = toy.toy_pairs(corpora=[(40, 0.3), (20, weight)])
        return toy.run_toy(tmp_path / name, pairs=pairs, max_steps=steps, validate_every=50)

    whole, first = go("whole", 22), go("parts", 16)
    cursor = TrainState.parse(_state(first.run)["state"]).cursor
    assert cursor.epoch > 0
    assert cursor.consumed > 0
    assert whole.same_weights(go("parts", 22))
    with pytest.raises(UserError, match="other data or batches"):
        go("parts", 24, weight=3.0)


def _state(run: Path) -> dict[str, Any]:
    name = read_index(run / "checkpoints").last
    assert name is not None
    content = (run / "checkpoints" / name.name / "state.json").read_text(encoding="utf-8")
    state: dict[str, Any] = json.loads(content)
    return state


def test_dropout_is_on_and_differs_between_steps(toy: ModuleType, tmp_path: Path) -> None:
    """The bitwise tests above would also pass if dropout were off or always the same."""
    seeds: list[int] = []

    def watch(learner: Learner) -> None:
        real = learner.backward

        def backward(*arguments: Any, **named: Any) -> None:
            seeds.append(torch.initial_seed())
            real(*arguments, **named)

        learner.backward = backward  # type: ignore[method-assign]

    on = toy.run_toy(tmp_path / "on", before=watch, accumulate=2)
    off = toy.run_toy(tmp_path / "off", dropout=0.0, accumulate=2)
    assert not on.same_weights(off)
    assert len(set(seeds)) == len(seeds) > 12


def test_log_is_cut_back_and_goes_on(toy: ModuleType, tmp_path: Path) -> None:
    whole = toy.run_toy(tmp_path / "whole", max_steps=12, validate_every=4)
    toy.run_toy(tmp_path / "parts", max_steps=8, validate_every=4)
    extra = json.dumps({"kind": "train", "step": 10, "loss": 0.0})
    with open(tmp_path / "parts" / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(extra + "\n" + extra[:9])  # a process that died in the middle of a line
    parts = toy.run_toy(tmp_path / "parts", max_steps=12, validate_every=4)
    for kind in ("train", "validation"):
        mine, theirs = log_of(whole.run, kind), log_of(parts.run, kind)
        assert [r["step"] for r in mine] == [r["step"] for r in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert a["loss"] == b["loss"]


def test_changed_data_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.run_toy(tmp_path / "run", max_steps=3)
    for pairs in (toy.toy_pairs(59), toy.toy_pairs(batch_tokens=50)):
        with pytest.raises(UserError, match="other data or batches"):
            toy.run_toy(tmp_path / "run", pairs=pairs)
    with pytest.raises(UserError, match="does not fit this model"):
        toy.run_toy(tmp_path / "run", kind="lstm")


def test_a_change_that_costs_bit_identity_is_said(toy: ModuleType, tmp_path: Path) -> None:
    toy.run_toy(tmp_path / "run", max_steps=3)
    toy.run_toy(tmp_path / "run", max_steps=4)
    said = [record["text"] for record in log_of(tmp_path / "run", "message")]
    assert len(said) == 1
    torch.set_num_threads(2)
    toy.run_toy(tmp_path / "run", max_steps=5)
    said = [record["text"] for record in log_of(tmp_path / "run", "message")]
    assert "not bit-identical to an uninterrupted run: threads 1 -> 2" in said[-1]


def test_a_damaged_checkpoint_costs_its_steps_only(toy: ModuleType, tmp_path: Path) -> None:
    whole = toy.run_toy(tmp_path / "whole", max_steps=12)
    toy.run_toy(tmp_path / "run", max_steps=8, keep_last=2)
    (tmp_path / "run" / "checkpoints" / "step-00000008" / "state.json").write_text("{}")
    again = toy.run_toy(tmp_path / "run", max_steps=12)
    assert whole.same_weights(again)
    said = [record["text"] for record in log_of(tmp_path / "run", "message")]
    assert any("step-00000008.damaged" in text for text in said)


@pytest.mark.parametrize("content", [{}, {"step": 1}, {"cursor": {}, "what": 1}, {"cursor": 3}])
def test_state_of_the_wrong_shape(content: dict[str, Any]) -> None:
    if content == {"cursor": {}, "what": 1} or "cursor" not in content or content["cursor"] == 3:
        with pytest.raises(UserError, match="no training state"):
            TrainState.parse(content)


# --- a process that is killed ---


# One process imports torch; each of its children trains and dies at its own point. A point is
# ("call", n): before the n-th call that changes the file system; ("half", n): in the middle of
# writing file n; ("step", n): before update n. ("count", 0) lives, and says at which calls and
# files the second save began and ended.
KILLER = """
import json, os, shutil, signal, sys, importlib.util
from pathlib import Path
import torch
from nmt import files
from nmt.training import checkpoint, storage
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("toy", sys.argv[1])
toy = importlib.util.module_from_spec(spec)
sys.modules["toy"] = toy
spec.loader.exec_module(toy)
calls = {"call": 0, "half": 0, "step": 0}
saves = []

def deadly(real, kind, at):
    def call(*arguments, **named):
        calls[kind] += 1
        if calls[kind] == at:
            if kind == "half":
                path, data = arguments
                Path(path).write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call

def counted(real):
    def save(*arguments, **named):
        before = dict(calls)
        index = real(*arguments, **named)
        saves.append([before, dict(calls)])
        return index
    return save

def die(kind, at):
    at = {"call": -1, "half": -1, "step": -1, kind: at}
    os.fsync = deadly(os.fsync, "call", at["call"])
    shutil.rmtree = deadly(shutil.rmtree, "call", at["call"])
    files.open = deadly(open, "call", at["call"])
    for name in ("rename", "replace", "mkdir", "unlink"):
        setattr(Path, name, deadly(getattr(Path, name), "call", at["call"]))
    files.write_file = storage.write_file = deadly(files.write_file, "half", at["half"])
    checkpoint.save_checkpoint = counted(checkpoint.save_checkpoint)
    def before(learner):
        learner.step = deadly(learner.step, "step", at["step"])
    return before

settings = json.loads(sys.argv[3])
def child(run, kind, at):
    Path(run).mkdir(parents=True)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        toy.run_toy(Path(run), before=die(kind, at), **settings)
        os.write(write, json.dumps(saves[1]).encode())
        os._exit(0)
    os.close(write)
    end = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return end, os.read(read, 10_000)

folder = sys.argv[2]
toy.run_toy(Path(folder) / "warm", max_steps=1)  # children inherit what it imports
before, after = json.loads(child(folder + "/count", "count", 0)[1])
points = [(k, n) for k in ("call", "half") for n in range(before[k] + 1, after[k] + 1)]
points += [("step", n) for n in (2, 4, 8)]
ends = [[k, n, child(f"{folder}/{k}{n}", k, n)[0]] for k, n in points]
print(json.dumps(ends))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_anywhere_ends_bit_identical(toy: ModuleType, tmp_path: Path) -> None:
    """A real SIGKILL at each file-system call of a save and between saves; then once more.

    With dropout, subword sampling, accumulation, a moving average and early stopping.
    """
    settings = {"max_steps": 40, "validate_every": 3, "ema": 0.9, "accumulate": 2}
    settings |= {"sampling": True, "patience": 2}
    whole = toy.run_toy(tmp_path / "whole", **settings)
    assert whole.outcome.reason.startswith("patience")
    assert whole.outcome.step == 9
    script = str(Path(__file__).with_name("toy.py"))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, script, str(tmp_path), json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.split("\n")[-2])
    kinds = [kind for kind, _, _ in ends]
    assert kinds.count("call") >= 15
    assert kinds.count("half") == 5  # weights, moments, state, manifest, index
    final = whole.learner.weights() | whole.learner.training_tensors()
    for kind, at, end in ends:
        assert end == -signal.SIGKILL, (kind, at)
        again = toy.run_toy(tmp_path / f"{kind}{at}", **settings)
        assert (again.outcome.step, again.outcome.reason) == (9, whole.outcome.reason)
        mine = again.learner.weights() | again.learner.training_tensors()
        assert mine.keys() == final.keys()
        assert all(torch.equal(final[key], mine[key]) for key in final), (kind, at)
        folder = again.run / "checkpoints"
        kept = [entry.name for entry in read_index(folder).kept]
        assert sorted(path.name for path in folder.iterdir()) == ["index.json", *kept]


@pytest.mark.parametrize("sampling", [False, True])
def test_resume_replays_nothing(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: bool
) -> None:
    """Counted, not timed: what is planned, sampled and collated before the next step is the same
    at step 10 and at step 100,000."""
    toy.run_toy(tmp_path / "run", max_steps=1, accumulate=2, sampling=sampling)
    made: list[str] = []

    def counting(holder: Any, name: str) -> None:
        real = getattr(holder, name)

        def call(*arguments: Any, **named: Any) -> Any:
            made.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(holder, name, call)

    counting(batching, "make_plan")
    counting(batching, "collate")
    counting(batching.TrainingPairs, "_make")
    counting(Learner, "backward")
    work = []
    for step, epoch in ((10, 1), (100_000, 12_500)):
        run = tmp_path / str(step)
        shutil.copytree(tmp_path / "run", run)
        saved = read_checkpoint(run / "checkpoints", find_entry(run / "checkpoints", "last"))
        pairs = toy.resampled_pairs() if sampling else toy.toy_pairs()
        state = TrainState.parse(saved.state["state"])
        state.step, state.cursor = step, Cursor(epoch, 2)
        content = {**saved.state, "state": asdict(state), "data": loop.data_of(pairs, state)}
        save_checkpoint(
            run / "checkpoints", step, weights=saved.weights, training=saved.training,
            state=content, scores={}, identity={"tokenizer": "abc"}, metric="loss",
        )  # fmt: skip
        made.clear()
        done = toy.run_toy(run, max_steps=step + 1, accumulate=2, sampling=sampling)
        assert done.outcome.step == step + 1
        work.append(Counter(made))
    assert work[0] == work[1]
    assert work[0]["collate"] == work[0]["backward"] == 2
    assert work[0]["make_plan"] == 1


def test_a_signal_finishes_the_step_and_saves(toy: ModuleType, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        run = tmp_path / number.name

        def strike(learner: Learner, number: int = number) -> None:
            real, calls = learner.step, []

            def step(at: int) -> None:
                calls.append(at)
                if at == 5:
                    signal.raise_signal(number)
                real(at)

            learner.step = step  # type: ignore[method-assign]

        before = signal.getsignal(number)
        stopped = toy.run_toy(run, before=strike)
        assert signal.getsignal(number) is before
        assert (stopped.outcome.reason, stopped.outcome.step) == ("", 5)
        assert [entry.step for entry in read_index(run / "checkpoints").kept] == [4, 5]
        resumed = toy.run_toy(run)
        assert resumed.outcome.reason == "max_steps=12"
        assert resumed.same_weights(toy.run_toy(tmp_path / f"whole{number}"))


def test_a_second_sigint_leaves_at_once(toy: ModuleType, tmp_path: Path) -> None:
    def strike(learner: Learner) -> None:
        real = learner.step

        def step(at: int) -> None:
            if at == 6:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            real(at)

        learner.step = step  # type: ignore[method-assign]

    with pytest.raises(KeyboardInterrupt):
        toy.run_toy(tmp_path / "run", before=strike)
    assert load_weights(tmp_path / "run" / "checkpoints", "last").step == 4


def test_runs_outside_the_main_thread(toy: ModuleType, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(toy.run_toy(tmp_path / "run", max_steps=2))
    )
    thread.start()
    thread.join()
    assert results[0].outcome.step == 2


# --- ends ---


def test_a_finished_run_does_nothing(toy: ModuleType, tmp_path: Path) -> None:
    first = toy.run_toy(tmp_path / "run", average=2)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").rglob("*")}
    second = toy.run_toy(tmp_path / "run", average=2)
    assert second.outcome.reason == first.outcome.reason == "max_steps=12"
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").rglob("*")}


def test_max_epochs_sees_every_pair_that_often(toy: ModuleType, tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(learner: Learner) -> None:
        real = learner.backward

        def backward(batch: Any, *arguments: Any, **named: Any) -> None:
            seen.extend(batch.index_B.tolist())
            real(batch, *arguments, **named)

        learner.backward = backward  # type: ignore[method-assign]

    done = toy.run_toy(tmp_path / "run", max_steps=None, max_epochs=2, accumulate=4, before=watch)
    assert done.outcome.reason == "max_epochs=2"
    assert sorted(seen) == sorted([*range(60), *range(60)])
    assert sorted(seen[:60]) == list(range(60))
    assert [r["step"] for r in log_of(done.run, "validation")][-1] == done.outcome.step


def scripted(scores: list[float], metric: str) -> Callable[[Seq2Seq], Validation]:
    left = iter(scores)
    return lambda model: Validation({metric: next(left)})


@pytest.mark.parametrize(
    ("metric", "scores"), [("bleu", [1.0, 3.0, 2.0, 3.0, 9.0]), ("loss", [4.0, 2.0, 3.0, 2.0, 1.0])]
)
def test_patience_and_best(
    toy: ModuleType, tmp_path: Path, metric: str, scores: list[float]
) -> None:
    done = toy.run_toy(
        tmp_path / "run", validate=scripted(scores, metric), metric=metric, patience=2,
        max_steps=100, validate_every=2,
    )  # fmt: skip
    assert done.outcome.step == 8
    assert done.outcome.reason.startswith("patience=2")
    assert done.outcome.best is not None
    assert done.outcome.best.step == 4
    flags = [record["best"] for record in log_of(done.run, "validation")]
    assert flags == [True, True, False, False]


def test_patience_survives_a_resume(toy: ModuleType, tmp_path: Path) -> None:
    options = {"metric": "bleu", "patience": 3, "validate_every": 2}
    first = scripted([5.0, 4.0, 4.0], "bleu")
    toy.run_toy(tmp_path / "run", validate=first, max_steps=6, **options)
    rest = scripted([3.0, 9.0], "bleu")
    done = toy.run_toy(tmp_path / "run", validate=rest, max_steps=50, **options)
    assert done.outcome.step == 8


def test_minutes_are_summed_over_resumes(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr(loop.time, "monotonic", clock)
    options = {"max_minutes": 1.0, "validate_every": 100}
    first = toy.run_toy(tmp_path / "run", max_steps=6, **options)
    assert 0 < first.outcome.seconds < 60
    second = toy.run_toy(tmp_path / "run", max_steps=None, **options)
    assert second.outcome.reason == "max_minutes=1"
    assert 60 <= second.outcome.seconds < 70


def test_average_of_the_last_validated(toy: ModuleType, tmp_path: Path) -> None:
    done = toy.run_toy(tmp_path / "run", average=3, validate_every=2, max_steps=10)
    folder = tmp_path / "run" / "checkpoints"
    parts = [load_weights(folder, f"step-{step}").tensors for step in (6, 8, 10)]
    average = load_weights(folder, "average")
    for name, tensor in average.tensors.items():
        mean = torch.stack([part[name].double() for part in parts]).mean(0)
        assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-8)
    entry = read_index(folder).average
    assert entry is not None
    assert entry.scores["loss"] == pytest.approx(toy.weight_sum(done.learner.model).scores["loss"])


def test_validation_and_checkpoints_see_the_moving_average(toy: ModuleType, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: Seq2Seq) -> Validation:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return Validation({"loss": 1.0})

    done = toy.run_toy(tmp_path / "run", ema=0.9, validate=validate, keep_last=9)
    assert done.learner.model.training
    for number, step in enumerate((4, 8, 12)):
        saved = load_weights(tmp_path / "run" / "checkpoints", f"step-{step}").tensors
        assert all(torch.equal(seen[number][k], v) for k, v in saved.items())
    raw = dict(done.learner.model.named_parameters())
    assert any(not torch.equal(raw[k], v) for k, v in done.learner.weights().items())


# --- numbers that go wrong ---


def poisoned(steps: set[int]) -> Callable[[Learner], None]:
    def before(learner: Learner) -> None:
        real = learner.step

        def step(at: int) -> None:
            if at in steps:
                next(p for p in learner.model.parameters() if p.grad is not None).grad[0] = (
                    torch.nan
                )
            real(at)

        learner.step = step  # type: ignore[method-assign]

    return before


def test_a_bad_update_is_skipped_and_counted(toy: ModuleType, tmp_path: Path) -> None:
    done = toy.run_toy(tmp_path / "run", before=poisoned({3, 7, 8}), max_steps=8)
    assert all(torch.isfinite(t).all() for t in done.learner.weights().values())
    assert log_of(done.run, "train")[-1]["skipped"] == 3
    assert _state(done.run)["state"]["skipped_in_a_row"] == 2
    resumed = toy.run_toy(tmp_path / "run", max_steps=10)
    assert log_of(resumed.run, "train")[-1]["skipped"] == 3
    assert _state(resumed.run)["state"]["skipped_in_a_row"] == 0


def test_a_skipped_update_leaves_weights_and_moments(toy: ModuleType, tmp_path: Path) -> None:
    one = toy.run_toy(tmp_path / "one", max_steps=2)
    two = toy.run_toy(tmp_path / "two", max_steps=3, before=poisoned({3}))
    assert one.same_weights(two)
    mine, theirs = one.learner.training_tensors(), two.learner.training_tensors()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_too_many_in_a_row_stop_with_the_batch_on_disk(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1\d updates in a row .* not finite"):
        toy.run_toy(tmp_path / "run", max_steps=50, before=poisoned(set(range(5, 99))), log_every=1)
    dump = json.loads((tmp_path / "run" / "non_finite.json").read_text())
    assert dump["step"] == 14
    assert dump["pairs"]
    assert set(dump["pairs"][0]) == {"pair", "source", "target"}
    assert load_weights(tmp_path / "run" / "checkpoints", "last").step in (4, 8, 12)


def test_the_largest_batch_is_tried_before_the_first_step(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = toy.run_toy(tmp_path / "plain", max_steps=4)
    tried: list[int] = []
    real = Learner.rehearse

    def rehearse(learner: Learner, batch: batching.Batch) -> None:
        state = torch.get_rng_state()
        tried.append(batch.rows * (batch.source_BS.shape[1] + batch.target_in_BT.shape[1]))
        real(learner, batch)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in learner.model.parameters())
        assert not learner.sums.any()

    monkeypatch.setattr(Learner, "rehearse", rehearse)
    monkeypatch.setattr(loop, "REHEARSES", ("cpu",))
    done = toy.run_toy(tmp_path / "run", max_steps=4)
    epoch = toy.toy_pairs().epoch(0)
    assert max(tried) == max(epoch.tokens(pairs)[1] for pairs in epoch.plan)
    assert done.same_weights(plain)


def test_out_of_memory_names_the_batch_and_the_setting(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REHEARSES", ("cpu",))

    def full(learner: Learner) -> None:
        def forward(batch: batching.Batch) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        learner.objective.forward = forward  # type: ignore[method-assign]

    with pytest.raises(UserError, match=r"\(\d+, \d+\) source and .*lower train.batch_tokens"):
        toy.run_toy(tmp_path / "run", before=full)
    assert not (tmp_path / "run" / "checkpoints").exists()


# --- what the numbers are ---


def test_the_loss_is_the_mean_over_the_tokens_of_the_update(
    toy: ModuleType, tmp_path: Path
) -> None:
    """At learning rate 0 the record of an epoch is the mean loss of the corpus, in any batching."""
    values = []
    for accumulate, budget in ((1, 64), (3, 40), (2, 200)):
        done = toy.run_toy(
            tmp_path / f"{accumulate}", dropout=0.0, learning_rate=0.0, max_steps=None,
            max_epochs=1, accumulate=accumulate, log_every=1000, validate_every=1000,
            pairs=toy.toy_pairs(batch_tokens=budget),
        )  # fmt: skip
        records = log_of(done.run, "train")
        assert len(records) == 1
        assert records[0]["target_tokens"] == int(toy.toy_pairs().target.lengths.sum()) + 60
        values.append(records[0]["loss"])
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-6)


def test_accumulation_is_one_large_batch(toy: ModuleType, tmp_path: Path) -> None:
    """Uneven micro-batches weigh by their tokens: four of them give the gradient of all pairs."""
    gradients = []
    for accumulate, budget in ((1, 2000), (20, 64)):
        found: dict[str, torch.Tensor] = {}

        def watch(learner: Learner, found: dict[str, torch.Tensor] = found) -> None:
            def step(at: int) -> None:
                named = learner.model.named_parameters()
                found.update({k: p.grad.clone() for k, p in named if p.grad is not None})

            learner.step = step  # type: ignore[method-assign]

        toy.run_toy(
            tmp_path / f"{accumulate}", dropout=0.0, double=True, max_steps=1, before=watch,
            accumulate=accumulate, pairs=toy.toy_pairs(20, batch_tokens=budget),
        )  # fmt: skip
        gradients.append(found)
    one, many = gradients
    assert one.keys() == many.keys()
    for name in one:
        assert torch.allclose(one[name], many[name], rtol=1e-10, atol=1e-14), name


def test_clipping_bounds_the_mean_gradient(toy: ModuleType, tmp_path: Path) -> None:
    norms: list[float] = []

    def watch(learner: Learner) -> None:
        real = learner.optimizer.step

        def step(*arguments: Any, **named: Any) -> Any:
            grads = [p.grad for p in learner.model.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(grads)))
            return real(*arguments, **named)

        learner.optimizer.step = step  # type: ignore[method-assign]

    toy.run_toy(tmp_path / "clipped", clip=0.1, before=watch)
    assert norms == pytest.approx([0.1] * 12, rel=1e-4)
    norms.clear()
    toy.run_toy(tmp_path / "free", clip=None, before=watch)
    assert min(norms) > 0.2


def test_fp16_scales_the_loss_and_nothing_else_sees_the_scale(
    toy: ModuleType, tmp_path: Path
) -> None:
    """On a CPU, where only the arithmetic is of interest: norms and clipping are of true size."""
    exact = toy.run_toy(tmp_path / "fp32", dropout=0.0, log_every=1)
    half = toy.run_toy(tmp_path / "fp16", dropout=0.0, log_every=1, precision=torch.float16)
    norms = [
        [record["gradient_norm"] for record in log_of(done.run, "train")] for done in (exact, half)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert _state(half.run)["scaler"]["scale"] == 2.0**16
    resumed = toy.run_toy(tmp_path / "parts", dropout=0.0, max_steps=5, precision=torch.float16)
    resumed = toy.run_toy(tmp_path / "parts", dropout=0.0, precision=torch.float16)
    assert half.same_weights(resumed)


def test_the_moving_average_is_that_of_the_weights_after_each_step(
    toy: ModuleType, tmp_path: Path
) -> None:
    expected: dict[str, torch.Tensor] = {}

    def watch(learner: Learner) -> None:
        real = learner.step
        named = dict(learner.model.named_parameters())
        expected.update({name: p.detach().clone() for name, p in named.items()})

        def step(at: int) -> None:
            real(at)
            decay = min(0.5, (1 + at) / (10 + at))
            for name, parameter in named.items():
                expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()

        learner.step = step  # type: ignore[method-assign]

    done = toy.run_toy(tmp_path / "run", ema=0.5, before=watch)
    for name, tensor in done.learner.weights().items():
        assert torch.allclose(tensor, expected[name], rtol=1e-4, atol=1e-6)


def test_it_learns(toy: ModuleType, tmp_path: Path) -> None:
    done = toy.run_toy(
        tmp_path / "run", dropout=0.0, max_steps=120, log_every=30, validate_every=120,
        learning_rate=0.1,
    )  # fmt: skip
    losses = [record["loss"] for record in log_of(done.run, "train")]
    assert losses[-1] < 0.95 * losses[0]


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for capabilities, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("fp32", cpu) == torch.float32
    with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
        resolve_precision("fp16", cpu)
    with pytest.raises(UserError, match="unknown"):
        resolve_precision("fp8", cpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert resolve_precision("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert resolve_precision("auto", torch.device("cuda")) == torch.bfloat16


def test_last_step_counts_what_is_left(toy: ModuleType) -> None:
    pairs = toy.toy_pairs()
    plan = len(pairs.epoch(0).plan)
    each = -(-plan // 4)
    options = LoopOptions(seed=1, accumulate=4, max_epochs=3)
    assert loop.last_step(pairs, TrainState(), options) == 3 * each
    state = TrainState(step=1)
    state.cursor = state.cursor.after(pairs.epoch(0).plan, accumulate=4)
    assert loop.last_step(pairs, state, options) == 3 * each
    assert loop.last_step(pairs, state, LoopOptions(seed=1)) is None
    assert loop.last_step(pairs, state, LoopOptions(seed=1, max_steps=2, max_epochs=9)) == 2
