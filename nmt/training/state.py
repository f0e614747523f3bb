"""What training was asked for, and everything that changes in it besides tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nmt.data.batching import Cursor, Epoch
from nmt.errors import UserError
from nmt.training.learner import Update

COUNTS = ("step", "target_tokens", "stale", "skipped", "skipped_in_a_row")


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How to train. Whatever ends training first does; None never does."""

    seed: int
    max_steps: int | None = None
    max_epochs: int | None = None
    max_minutes: float | None = None  # wall time, summed over resumes
    accumulate: int = 1  # micro-batches of an update, over all processes
    validate_every: int = 500
    metric: str = "loss"
    patience: int | None = None  # validations without a better metric
    keep_best: int = 1
    keep_last: int = 1
    average: int = 0  # of the last so many validated checkpoints, at the end
    log_every: int = 20


@dataclass
class TrainState:
    """Everything that changes in training besides tensors; what state.json holds."""

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    seconds: float = 0.0
    target_tokens: int = 0
    best: float | None = None
    stale: int = 0  # validations since the best one
    skipped: int = 0  # non-finite updates, in all and in a row
    skipped_in_a_row: int = 0

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> TrainState:
        """The state in a checkpoint's JSON.

        Raises:
            UserError: it is not one.
        """
        try:
            values = dict(content)
            state = cls(cursor=Cursor(**values.pop("cursor")), **values)
            counts = [getattr(state, name) for name in COUNTS]
            counts += [state.cursor.epoch, state.cursor.consumed]
            if any(type(count) is not int or count < 0 for count in counts):
                raise ValueError(f"{counts} are not all counts")
            if not 0 <= state.seconds < math.inf or not isinstance(state.best, float | int | None):
                raise ValueError(f"{state.seconds} and {state.best} are not both numbers")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"the checkpoint's state.json is no training state: {error}") from error
        return state

    def advance(self, epoch: Epoch, update: Update, accumulate: int) -> None:
        """One update further."""
        self.step += 1
        self.cursor = self.cursor.after(epoch.plan, accumulate=accumulate)
        self.target_tokens += update.target_tokens

    def judge(self, score: float, *, lower_is_better: bool) -> bool:
        """Take in a validation's score; whether it is the best so far."""
        better = self.best is None or (score < self.best if lower_is_better else score > self.best)
        self.best = score if better else self.best
        self.stale = 0 if better else self.stale + 1
        return better

    def end(self, options: LoopOptions) -> str:
        """Why training is over; empty while it is not."""
        if options.max_steps is not None and self.step >= options.max_steps:
            return f"max_steps={options.max_steps}"
        if options.max_epochs is not None and self.cursor.epoch >= options.max_epochs:
            return f"max_epochs={options.max_epochs}"
        if options.patience is not None and self.stale >= options.patience:
            return f"patience={options.patience}: no better {options.metric} since"
        if options.max_minutes is not None and self.seconds >= 60 * options.max_minutes:
            return f"max_minutes={options.max_minutes:g}"
        return ""
