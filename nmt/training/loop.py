"""The training loop, readable top to bottom; ``learner.py`` holds the arithmetic of one update.

Randomness is a function of the place, not of history: the plan is seeded by (seed, epoch), dropout
by (seed, epoch, position of the micro-batch in the plan). So a resumed run needs no generator
states, and dropout is the same for any number of processes.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from nmt.data.batching import Epoch, TrainingPairs
from nmt.errors import UserError
from nmt.models.seq2seq import Seq2Seq
from nmt.training import checkpoint
from nmt.training.distributed import World
from nmt.training.index import LOWER_IS_BETTER, Entry, read_index
from nmt.training.learner import Learner, Update
from nmt.training.monitor import Monitor, Validation
from nmt.training.optim import Schedule
from nmt.training.state import LoopOptions, TrainState

REHEARSES = ("cuda",)
"""Devices whose memory can run out in the middle of a run without the machine's going down."""

Validate = Callable[[Seq2Seq], Validation]


@dataclass(frozen=True)
class Outcome:
    """How training ended: ``reason``, or interrupted (empty reason; the same command goes on)."""

    reason: str
    step: int
    best: Entry | None
    seconds: float


def train(
    learner: Learner,
    pairs: TrainingPairs,
    schedule: Schedule,
    validate: Validate,
    run: Path,
    options: LoopOptions,
    *,
    world: World,
    monitor: Monitor,
    identity: Mapping[str, str],
    each_step: Callable[[], object] = bool,
) -> Outcome:
    """Train, from the run's newest checkpoint where there is one, to the end or an interruption.

    Args:
        validate: scores the model; called on rank 0 alone, with the EMA weights if there are.
        run: the run directory; checkpoints, log.jsonl and tensorboard go there.
        identity: what the run is: the tokenizer's hash and the settings that must not change.
        each_step: is called after each update, for a profiler.

    Raises:
        UserError: data that is not the checkpoint's, too many non-finite updates in a row, a full
            disk; the run's earlier checkpoints stay good.
    """
    state = resume(learner, pairs, run, options, identity, world=world, monitor=monitor)
    if world.device.type in REHEARSES:
        rehearse(learner, pairs.epoch(state.cursor.epoch))
    meter = Meter(learner, options, state)
    monitor.start(state.step, total=last_step(pairs, state, options))
    reason, stop = state.end(options), 0.0
    with caught_signals() as caught:
        while not (reason or stop):
            epoch = pairs.epoch(state.cursor.epoch)
            update = Update.at(epoch, state.cursor, accumulate=options.accumulate)
            rate = schedule(state.step + 1)
            learner.learn(epoch, update, seed=options.seed, step=state.step + 1, rate=rate)
            each_step()
            state.advance(epoch, update, options.accumulate)
            state.seconds, stop = world.agree(meter.clock(), float(bool(caught)))
            meter.add(epoch, update)
            reason = state.end(options)
            validating = state.step % options.validate_every == 0 or bool(reason)
            if validating or stop or state.step % options.log_every == 0:
                learner.check(state, epoch, update, run)
                monitor.step(meter.record(state, rate, last_step(pairs, state, options)))
            scores = {}
            if validating:
                scores = validated(learner, validate, state, options, world, monitor)
                reason = reason or state.end(options)
            if validating or stop:
                save(learner, pairs, run, state, scores, options, identity, world)
                meter.restart()
    if reason:
        finish(learner, validate, run, options, identity, world, monitor)
    monitor.end("finished" if reason else "stopped", reason or "interrupted")
    monitor.close()
    saved = world.first and state.step > 0
    best = read_index(run / "checkpoints").best if saved else None
    return Outcome(reason, state.step, world.broadcast(best), state.seconds)


def resume(
    learner: Learner,
    pairs: TrainingPairs,
    run: Path,
    options: LoopOptions,
    identity: Mapping[str, str],
    *,
    world: World,
    monitor: Monitor,
) -> TrainState:
    """Take up the newest intact checkpoint; a fresh state where the run has none.

    Raises:
        UserError: data, model or settings are not the checkpoint's; all checkpoints are damaged.
    """
    if options.accumulate % world.size:
        monitor.message(
            f"train.accumulate={options.accumulate} does not divide among {world.size} processes: "
            f"some wait while others work"
        )
    folder = run / "checkpoints"
    found = None
    if world.first:
        found = checkpoint.latest(
            folder, metric=options.metric, report=monitor.message, model=learner.model
        )
    saved = world.broadcast(found)
    if saved is None:
        return TrainState()
    origin = str(folder / saved.entry.name)
    checkpoint.check_identity(saved, identity, origin=origin)
    state = TrainState.parse(saved.state.get("state", {}))
    learner.restore(saved, state, origin=origin)
    data, data_now = saved.state.get("data"), data_of(pairs, state)
    if data != data_now or state.cursor.consumed >= data_now["micro_batches"]:
        raise UserError(
            f"{origin} was trained on other data or batches ({data}) than these ({data_now}): "
            f"put them back, or start a new run"
        )
    monitor.message(f"going on from {origin}")
    before, now = saved.state.get("process", {}), process_of(learner, world)
    changed = [f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
    if changed:
        monitor.message(f"not bit-identical to an uninterrupted run: {', '.join(changed)}")
    return state


def rehearse(learner: Learner, epoch: Epoch) -> None:
    """Try the epoch's largest micro-batches before step 1.

    Raises:
        UserError: out of memory; names the batch's shape and the setting to change.
    """
    for number in largest(epoch):
        learner.rehearse(epoch.batch(epoch.plan[number]))


def largest(epoch: Epoch) -> set[int]:
    """Places in the plan of the largest micro-batches, by all tokens and by target tokens."""
    all_tokens = [epoch.tokens(pairs)[1] for pairs in epoch.plan]
    targets = [len(pairs) * int(epoch.target_lengths[pairs].max()) for pairs in epoch.plan]
    return {int(np.argmax(all_tokens)), int(np.argmax(targets))}


def validated(
    learner: Learner,
    validate: Validate,
    state: TrainState,
    options: LoopOptions,
    world: World,
    monitor: Monitor,
) -> dict[str, float]:
    """Score the weights that a checkpoint holds; rank 0 does it and tells the others."""
    scores: dict[str, float] = {}
    if world.first:
        found = score(learner, validate)
        scores = found.scores
        if options.metric not in scores:
            raise ValueError(f"validation gives {', '.join(scores)}, not {options.metric}")
    scores = world.broadcast(scores)
    lower = options.metric in LOWER_IS_BETTER
    best = state.judge(scores[options.metric], lower_is_better=lower)
    if world.first:
        monitor.validation(state.step, found, best=best)
    return scores


def score(learner: Learner, validate: Validate) -> Validation:
    """Call ``validate`` on the model as it would be saved, without dropout."""
    average = learner.average.swapped() if learner.average is not None else nullcontext()
    learner.model.eval()
    with average, torch.no_grad():
        found = validate(learner.model)
    learner.model.train()
    return found


def save(
    learner: Learner,
    pairs: TrainingPairs,
    run: Path,
    state: TrainState,
    scores: Mapping[str, float],
    options: LoopOptions,
    identity: Mapping[str, str],
    world: World,
) -> None:
    """Write a checkpoint of this moment (rank 0)."""
    if not world.first:
        return
    content = {
        "state": asdict(state),
        "seed": options.seed,
        "data": data_of(pairs, state),
        "process": process_of(learner, world),
        "scaler": learner.scaler_state(),
    }
    checkpoint.save_checkpoint(
        run / "checkpoints",
        state.step,
        weights=learner.weights(),
        training=learner.training_tensors(),
        state=content,
        scores=scores,
        identity=identity,
        metric=options.metric,
        keep_best=options.keep_best,
        keep_last=max(options.keep_last, options.average),
    )


def finish(
    learner: Learner,
    validate: Validate,
    run: Path,
    options: LoopOptions,
    identity: Mapping[str, str],
    world: World,
    monitor: Monitor,
) -> None:
    """Average the last checkpoints, once; the model is left with the average (rank 0)."""
    folder = run / "checkpoints"
    if options.average < 2 or not world.first:
        return
    index = read_index(folder)
    names = [entry.name for entry in index.scored[-options.average :]]
    made_at = index.average.step if index.average else None
    if len(names) < 2 or made_at == index.kept[-1].step:
        return
    weights = checkpoint.average_checkpoints(folder, names)
    checkpoint.put_weights(learner.model, weights, origin="the average")
    learner.model.eval()
    with torch.no_grad():
        scores = validate(learner.model).scores
    checkpoint.save_average(folder, weights, names=names, scores=scores, identity=identity)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
    monitor.message(f"average of {', '.join(names)}: {shown}")


def last_step(pairs: TrainingPairs, state: TrainState, options: LoopOptions) -> int | None:
    """The step at which max_steps or max_epochs will end training, as far as is known now."""
    ends = [] if options.max_steps is None else [options.max_steps]
    if options.max_epochs is not None and state.cursor.epoch < options.max_epochs:
        plan = len(pairs.epoch(state.cursor.epoch).plan)
        here = math.ceil((plan - state.cursor.consumed) / options.accumulate)
        later = (options.max_epochs - state.cursor.epoch - 1) * math.ceil(plan / options.accumulate)
        ends.append(state.step + here + later)
    return min(ends, default=None)


def data_of(pairs: TrainingPairs, state: TrainState) -> dict[str, int]:
    """What tells one plan from another."""
    plan = pairs.epoch(state.cursor.epoch).plan
    return {"pairs": len(pairs.source), "micro_batches": len(plan)}


def process_of(learner: Learner, world: World) -> dict[str, str | int]:
    """What must be the same for a resumed run to be bit-identical to an uninterrupted one."""
    cuda = world.device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(world.device) if cuda else world.device.type,
        "precision": str(learner.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


class Meter:
    """Speed and mean loss between two records."""

    def __init__(self, learner: Learner, options: LoopOptions, state: TrainState) -> None:
        self._learner = learner
        self._options = options
        self._began = time.monotonic() - state.seconds
        self._busy = 0.0
        self._reset()
        self.restart()

    def clock(self) -> float:
        """Seconds of training so far, over all resumes."""
        return time.monotonic() - self._began

    def restart(self) -> None:
        """Forget the time since the last update: it went into validation or saving."""
        self._mark = time.monotonic()

    def add(self, epoch: Epoch, update: Update) -> None:
        """Count one update of all processes."""
        now = time.monotonic()
        self._busy += now - self._mark
        self._mark = now
        self._updates += 1
        self._target += update.target_tokens
        for _, pairs in update.micro_batches:
            real, padded = epoch.tokens(pairs)
            self._real += real
            self._padded += padded

    def record(self, state: TrainState, rate: float, end: int | None) -> dict[str, float]:
        """What happened since the last record; waits for the device."""
        loss, nll = self._learner.take_sums()
        norm = float(self._learner.norm)
        self._busy += time.monotonic() - self._mark
        self.restart()
        left = math.inf if end is None else (end - state.step) * self._busy / self._updates
        if self._options.max_minutes is not None:
            left = min(left, max(0.0, 60 * self._options.max_minutes - state.seconds))
        record = {
            "step": state.step,
            "epoch": state.cursor.epoch,
            "loss": loss / self._target,
            "perplexity": math.exp(min(nll / self._target, 700.0)),
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_second": self._real / max(self._busy, 1e-9),
            "real": self._real / self._padded,
            "target_tokens": state.target_tokens,
            "skipped": state.skipped,
            "seconds": round(state.seconds, 3),
            "seconds_left": left,
        }
        self._reset()
        return record

    def _reset(self) -> None:
        self._busy, self._updates, self._target, self._real, self._padded = 0.0, 0, 0, 0, 0


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM are noted in the list; a second SIGINT leaves at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
