"""What a run tells: one record per logged step, to three readers.

``log.jsonl`` is the truth, one JSON object a line; TensorBoard and the terminal are views of the
same records. All of them are cut back to the checkpoint's step when a run is resumed. Each time a
run is taken up it writes a ``start`` record, and an ``end`` record with its state (``finished``,
``stopped``, ``failed``) and the reason: a start without an end is a process that was killed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from nmt.errors import UserError, one_line
from nmt.files import replace_file, set_aside

LARGEST_LOG = 2**28
"""Bytes; a million records. A larger one is no log that this program wrote."""


@dataclass
class Validation:
    """What one validation found.

    Args:
        scores: by name: loss, perplexity, bleu, chrf, …
        samples: (source, hypothesis, reference) sentences to look at.
        figures: matplotlib figures or RGB arrays [height, width, 3] by name.
        entropy: of attention in nats, by kind (cross, encoder, decoder), layer and head.
        missing: why a kind of attention has no weights, by kind.
    """

    scores: dict[str, float]
    samples: list[tuple[str, str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    entropy: dict[str, list[list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class Monitor:
    """Writes a run's progress; one that was made with ``run=None`` (other ranks) keeps silent.

    As a context it also writes down how what is inside fails.

    Args:
        run: the run directory.
        stream: the terminal or file for people; standard output belongs to results.
        live: a progress bar; None asks whether the stream is a terminal.
        tensorboard: also write RUN/tensorboard.
    """

    def __init__(
        self,
        run: Path | None,
        *,
        stream: IO[str] | None = None,
        live: bool | None = None,
        tensorboard: bool = True,
    ) -> None:
        self.run = run
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty() if live is None else live
        self._with_tensorboard = tensorboard
        self._log: IO[str] | None = None
        self._board: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._early: list[dict[str, Any]] = []
        self._step = 0
        self._told_missing = False

    def start(self, step: int, *, total: int | None) -> None:
        """Open the log behind ``step``: records of later steps, from a run that died, go.

        Args:
            total: the step at which training is expected to end, where that is known.
        """
        if self.run is None:
            return
        self._step = step
        path = self.run / "log.jsonl"
        cut_back(path, step)
        self._log = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - see close
        self._write({"kind": "start", "step": step, "total": total})
        self._write_early()
        if self._with_tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self.run / "tensorboard"), purge_step=step + 1)
        if self.live:
            self._open_bar(step, total)

    def step(self, record: Mapping[str, float]) -> None:
        """A logged step: ``step`` and numbers; the terminal knows the names in ``describe``."""
        self._step = int(record["step"])
        self._write({"kind": "train", **record})
        if self._board is not None:
            for name in record.keys() - {"step", "seconds_left"}:
                self._board.add_scalar(f"train/{name}", record[name], int(record["step"]))
        if self._bar is not None:
            self._bar.update(self._task, completed=int(record["step"]), text=describe(record))
        elif self.run is not None:
            self._print(f"step {int(record['step'])}  {describe(record)}")

    def validation(self, step: int, found: Validation, *, best: bool) -> None:
        """Scores, sample translations, figures and entropies of one validation."""
        record = {"kind": "validation", "step": step, **found.scores, "best": best}
        if found.entropy:
            record["entropy"] = {
                kind: [[round(value, 3) for value in heads] for heads in layers]
                for kind, layers in found.entropy.items()
            }
        self._write(record)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in found.scores.items())
        self._print(f"step {step}  validation: {shown}{'  (best so far)' if best else ''}")
        if self._board is None:
            return
        for name, value in found.scores.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        for number, (source, hypothesis, reference) in enumerate(found.samples):
            text = f"source: {source}  \nmodel: {hypothesis}  \nreference: {reference}"
            self._board.add_text(f"samples/{number}", text, step)
        for name, figure in found.figures.items():
            if hasattr(figure, "savefig"):
                self._board.add_figure(f"attention/{name}", figure, step)
            else:
                self._board.add_image(f"attention/{name}", figure, step, dataformats="HWC")
        for kind, layers in found.entropy.items():
            for layer, heads in enumerate(layers):
                for head, value in enumerate(heads):
                    self._board.add_scalar(f"entropy/{kind}/{layer}.{head}", value, step)
        if found.missing and not self._told_missing:
            reasons = (f"{kind}: {reason}" for kind, reason in found.missing.items())
            self._board.add_text("attention/not_there", "  \n".join(reasons), step)
            self._told_missing = True
        self._board.flush()

    def message(self, text: str) -> None:
        """One line for people, also kept in the log."""
        self._write({"kind": "message", "step": self._step, "text": text})
        self._print(text)

    def end(self, state: str, reason: str) -> None:
        """The last record of a process that still can write one; see the module's docstring."""
        self._write({"kind": "end", "step": self._step, "state": state, "reason": reason})

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self.run is None:
            return
        if self._bar is not None:
            self._bar.stop()
        with suppress(OSError):  # the disk may be what failed
            if self._log is None:  # before the start
                path = self.run / "log.jsonl"
                cut_back(path, math.inf)
                self._log = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
                self._write_early()
            stopped = isinstance(error, KeyboardInterrupt)
            self.end(*(("stopped", "interrupted") if stopped else ("failed", reason_of(error))))
            self._log.close()

    def close(self) -> None:
        """End the bar and close the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()
        if self._log is not None:
            self._log.close()
        self._bar = self._board = self._log = None

    def _write_early(self) -> None:
        for record in self._early:
            self._write({**record, "step": self._step})
        self._early.clear()

    def _write(self, record: dict[str, Any]) -> None:
        if self._log is None:
            if self.run is not None:
                self._early.append(record)
            return
        plain = {k: _finite(v) if isinstance(v, float) else v for k, v in record.items()}
        plain["time"] = round(time.time(), 3)
        self._log.write(json.dumps(plain, ensure_ascii=False) + "\n")
        self._log.flush()

    def _print(self, text: str) -> None:
        if self.run is None:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def _open_bar(self, step: int, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=Console(file=self.stream), refresh_per_second=4)
        self._task = self._bar.add_task("training", total=total, completed=step, text="")
        self._bar.start()


def describe(record: Mapping[str, float]) -> str:
    """A train record as people read it."""
    text = (
        f"loss {record['loss']:.3f}  {record['tokens_per_second']:,.0f} tok/s  "
        f"{100 * record['real']:.0f}% real  lr {record['learning_rate']:.2e}"
    )
    if record["skipped"]:
        text += f"  {record['skipped']:.0f} skipped"
    left = record["seconds_left"]
    return f"{text}  {_clock(left)} left" if math.isfinite(left) else text


def reason_of(error: BaseException) -> str:
    """A failure in one line; what is not meant for users says its kind."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{one_line(error)}"


def cut_back(path: Path, step: float) -> None:
    """Drop records of steps after ``step`` and a line that was cut short; atomic.

    A file far too large for a log is renamed, not read.
    """
    if not path.exists():
        return
    if path.stat().st_size > LARGEST_LOG:
        set_aside(path)
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            if line and json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    replace_file(path, b"".join(kept))


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
