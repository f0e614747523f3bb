"""`nmt find-batch`: the largest `train.batch_tokens` that fits, and the speed of each size tried.

Every size is tried with the model, the data, the losses and the optimiser of the configuration: the
largest micro-batches of the plan, forward, backward and a step (of rate zero), then a few ordinary
ones by the clock. A GPU says itself when its memory is over. A CPU's memory has no such end that
the machine would survive, so there the process is watched, and a size whose memory would be above
the limit by what the sizes before it took is not tried.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from nmt import runs
from nmt.cli import Arguments
from nmt.commands import begin
from nmt.commands.memory import GIB, Memory, memory_of
from nmt.commands.train import checked, make_learner, training_pairs
from nmt.config import Config
from nmt.data.batching import Epoch
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.errors import UserError
from nmt.training.distributed import World, join
from nmt.training.learner import Learner, Update, resolve_precision
from nmt.training.loop import largest

STEP = 512
"""Sizes tried are multiples of this."""
MARGIN = 0.1
"""Share of the memory that stays unused: for validation, other sentences, other programs."""
MOST_ON_CPU = 65_536
"""Processors gain nothing from larger micro-batches, and trying them takes minutes."""
TIMED = 3
"""Ordinary micro-batches by whose time a size is judged."""
PAYS = 0.95
"""Share of the highest speed from which on a larger size does not pay."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one size did.

    ``peak`` is in bytes, expected ones where it was not run; ``speed`` is in real tokens a second,
    None where it was not run to the end.
    """

    size: int
    fits: bool
    peak: float
    speed: float | None = None
    skipped: bool = False


def search(fits: Callable[[int], bool], *, least: int, most: int, step: int = STEP) -> int:
    """The largest multiple of ``step`` in [least, most] that fits, 0 where none does.

    Doubles until a size does not fit, then bisects; whatever fits, so does anything smaller.
    """
    most //= step
    low, high = 0, most + 1  # fits, does not fit, in steps
    size = -(-least // step)
    while low + 1 < high:
        if fits(size * step):
            low = size
        else:
            high = size
        if not low:
            return 0
        size = min(2 * low, most) if high > most else (low + high) // 2
    return low * step


def main(arguments: Arguments) -> int:
    own = arguments.own
    budget, most = positive(own, "memory"), positive(own, "most")
    words = {key: value for key, value in own.items() if key not in ("memory", "most")}
    with join() as world:
        if world.size > 1:
            raise UserError("nmt find-batch runs in one process; all GPUs of a run are alike")
        config, _ = checked(replace(arguments, own=words))
        bench = Bench.of(config, world.on(config.train.device.value), budget)
    longest = bench.longest()
    default = MOST_ON_CPU if bench.learner.world.device.type == "cpu" else bench.whole_pool()
    limit = min(int(most or default), bench.whole_pool())
    if limit < longest:
        raise UserError(f"most={limit}: the longest pair alone has {longest} tokens; raise it")
    print(f"  {'batch_tokens':>12}  {'peak GiB':>8}  {'real tokens/s':>13}")
    largest = max(limit // STEP, -(-longest // STEP)) * STEP
    try:
        found = search(bench, least=longest, most=largest)
    finally:
        bench.memory.close()
    return conclude(found, bench, largest)


def conclude(found: int, bench: Bench, largest: int) -> int:
    """Say what fits and what pays, as words to type; ``largest`` is where the search ended."""
    said = f"{1 - MARGIN:.0%} of {bench.memory.budget / GIB:.1f} GiB"
    if not found:
        raise UserError(
            f"not even the longest pair fits into {said}: a smaller model, train.precision=bf16, "
            "or shorter sentences (data.filters.max_words)"
        )
    if found == largest:
        print(f"train.batch_tokens={found} fits into {said}; nothing larger was tried (most=)")
    else:
        print(f"The largest that fits into {said}: train.batch_tokens={found}")
    speeds = {trial.size: trial.speed for trial in bench.trials if trial.fits and trial.speed}
    best = max(speeds.values())
    enough = min(size for size, speed in speeds.items() if speed >= PAYS * best)
    if enough < found:
        print(f"Above train.batch_tokens={enough} it is at most {1 - PAYS:.0%} faster.")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr)


def positive(own: dict[str, str], key: str) -> float | None:
    """A number above zero that was typed, or None."""
    if key not in own:
        return None
    try:
        value = float(own[key])
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{key}={own[key]}: a number above 0 is needed, such as {key}=8")
    return value


@dataclass
class Bench:
    """Tries sizes; calling it says whether one fits, and prints a row of the table."""

    config: Config
    prepared: Prepared
    learner: Learner
    memory: Memory
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def of(cls, config: Config, world: World, budget: float | None) -> Bench:
        """Prepare the data and build model and optimiser, as training would."""
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        given = begin.old_tokenizers(config) if config.train.init_from else None
        prepared = prepare(config.data, config.tokenizer, report=say, tokenizers=given)
        model = runs.empty_model(config, prepared.tokenizers).to(world.device)
        if config.train.freeze:
            begin.freeze(model, config.train.freeze)
        precision = resolve_precision(config.train.precision.value, world.device)
        learner = make_learner(config, model, world, precision)
        memory = memory_of(world.device, budget=budget and budget * GIB, margin=MARGIN)
        return cls(config, prepared, learner, memory)

    def longest(self) -> int:
        """Tokens of the longest pair, ends of sentence included."""
        store = self.prepared.train
        return int((store.source.lengths.astype(np.int64) + store.target.lengths).max()) + 2

    def whole_pool(self) -> int:
        """Tokens above which a size changes nothing: a micro-batch ends with its pool."""
        rows = min(self.config.train.pool, len(self.prepared.train))
        return -(-rows * self.longest() // STEP) * STEP

    def __call__(self, size: int) -> bool:
        trial = self.measure(size)
        self.trials.append(trial)
        speed = f"{trial.speed:,.0f}" if trial.speed else "not run" if trial.skipped else "-"
        note = "" if trial.fits else "  does not fit"
        print(f"  {size:12}  {trial.peak / GIB:8.2f}  {speed:>13}{note}", flush=True)
        return trial.fits

    def measure(self, size: int) -> Trial:
        """Run a size, unless it is known to be too large."""
        expected = self.memory.expected(size, [(t.size, t.peak) for t in self.trials if t.fits])
        if expected > self.memory.budget:
            return Trial(size, False, expected, skipped=True)
        try:
            if not self.trials:  # the optimiser's moments are there from now on
                self._run(size, warm=True)
            speed = self._run(size)
        except (UserError, torch.OutOfMemoryError) as error:
            if not any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__cause__)):
                raise
            self.learner.optimizer.zero_grad(set_to_none=True)
            return Trial(size, False, self.memory.peak())
        peak = self.memory.peak()
        return Trial(size, peak <= self.memory.limit, peak, speed)

    def _run(self, size: int, *, warm: bool = False) -> float:
        """Real tokens a second of ordinary micro-batches, after the largest ones."""
        settings = replace(self.config, train=replace(self.config.train, batch_tokens=size))
        epoch = training_pairs(settings, self.prepared, self.learner.model).epoch(0)
        self.memory.begin()
        for number in largest(epoch):
            self._update(epoch, number)
        ordinary = np.linspace(0, len(epoch.plan) - 1, min(TIMED, len(epoch.plan))).astype(int)
        tokens = sum(epoch.tokens(epoch.plan[number])[0] for number in ordinary)
        began = time.perf_counter()
        for number in ordinary[: 0 if warm else None]:
            self._update(epoch, int(number))
        self.learner.take_sums()  # waits for the device
        return tokens / (time.perf_counter() - began)

    def _update(self, epoch: Epoch, number: int) -> None:
        pairs = epoch.plan[number]
        update = Update(0, [(number, pairs)], epoch.target_tokens(pairs))
        self.learner.learn(epoch, update, seed=self.config.seed, step=1, rate=0.0)
