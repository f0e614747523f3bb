"""The run directory: what it is called, who may write it, and how it is read back.

::

    runs/NAME/config.yaml  tokenizer/  checkpoints/  log.jsonl  tensorboard/  scores.json

It is complete in itself: it can be copied to another machine and read there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nmt import compose
from nmt.config import Config, Schedule
from nmt.data.tokenizer import Tokenizers
from nmt.errors import UserError
from nmt.files import DamagedError, check_tree, held, read_file, replace_file
from nmt.models.build import build_model
from nmt.models.seq2seq import Seq2Seq
from nmt.models.shapes import shapes_only, undrawn
from nmt.training.checkpoint import load_weights, put_weights
from nmt.training.distributed import pick_device
from nmt.training.learner import resolve_precision

NAMED = ("data", "model", "attention", "seed")
"""Typed keys that a run's default name spells out; all others go into its hash."""

MAY_CHANGE = (
    "train.max_steps",
    "train.max_epochs",
    "train.max_minutes",
    "train.patience",
    "train.log_every",
    "train.device",
    "train.threads",
    "train.precision",
    "train.validate_every",
    "train.keep_best",
    "train.keep_last",
    "train.profile_steps",
    "data.root",
    "data.cache",
)
"""Keys that may differ when a run is taken up again; all others belong to what the run is."""


def default_run(config: Config, words: Sequence[str], file: Path | None) -> Path:
    """``runs/<data>-<model>-<attention>-s<seed>``, with a hash of whatever else was typed."""
    other = sorted(word for word in words if word.partition("=")[0] not in NAMED)
    if file is not None:
        other.append(file.read_text(encoding="utf-8"))
    name = f"{config.data.name}-{config.model.name}-{config.attention.preset}-s{config.seed}"
    if other:
        name += "-" + hashlib.sha256("\0".join(other).encode()).hexdigest()[:6]
    return Path("runs") / name


def differences(stored: Config, typed: Config, words: Sequence[str]) -> list[str]:
    """Where the typed words disagree with a stored run, as ``key: stored, typed`` lines.

    A typed group (``model=lstm``) stands for all keys of its section, an experiment for all keys.
    """
    old, new = compose.flat(stored), compose.flat(typed)
    heads = [word.lstrip("+~").partition("=")[0] for word in words]
    whole = [word for word, head in zip(words, heads, strict=True) if head in compose.EXTRA_GROUPS]

    def typed_itself(key: str) -> bool:
        return any(key == head or key.startswith(f"{head}.") for head in heads)

    return [
        f"{key} is {old[key]!r}, "
        f"{'you typed' if typed_itself(key) else f'{whole[0]} comes with'} {new[key]!r}"
        for key in new
        if key not in ("run", *MAY_CHANGE)
        and (whole or typed_itself(key))
        and old.get(key) != new[key]
    ]


def taken_up(stored: Config, typed: Config, words: Sequence[str], run: Path) -> Config:
    """The configuration with which an existing run goes on: the stored one with what may change.

    Raises:
        UserError: the typed words describe another run; shows the difference.
    """
    found = differences(stored, typed, words)
    if found:
        raise UserError(
            f"{run} is a run of another configuration: {'; '.join(found)}. "
            "Choose another run=…, or go on with its own: nmt train run=" + str(run)
        )
    heads = {word.partition("=")[0] for word in words}
    changes = {key: compose.flat(typed)[key] for key in MAY_CHANGE if key in heads}
    return compose.with_values(stored, changes)


def costs(stored: Config, config: Config) -> list[str]:
    """What an allowed change of a run's plan means, a sentence each."""
    old, new = stored.train.max_steps, config.train.max_steps
    falls = config.optim.schedule in (Schedule.cosine, Schedule.linear)
    if old == new or not falls:
        return []
    return [
        f"train.max_steps {old} -> {new}: with optim.schedule={config.optim.schedule.value} the "
        "learning rates from here on are those of the new plan, those so far were of the old one"
    ]


def identity(config: Config, tokenizers: Tokenizers) -> dict[str, str]:
    """What a run is and stays: each setting that its weights depend on, and its tokenizer.

    Search may be set anew at any time; what the data is, its own fingerprint says.
    """
    settings = {
        key: json.dumps(value)
        for key, value in compose.flat(config).items()
        if key not in MAY_CHANGE and not key.startswith(("search.", "data.")) and key != "run"
    }
    return {"tokenizer": tokenizers.hash, **settings}


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Hold a run directory for writing; one process at a time.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        check_tree(run)
        handle = open(run / ".lock", "a", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot write to {run}: {error.strerror}") from error
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # It may have been `nmt runs`, which holds the lock for the instant of its asking.
                if held(run / ".lock"):
                    raise UserError(f"{run} is being trained by another process") from None
            time.sleep(0.01)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run opened for reading: its configuration, tokenizers and the weights of a checkpoint."""

    path: Path
    config: Config
    tokenizers: Tokenizers
    model: Seq2Seq
    checkpoint: str
    """Name of its folder, such as ``step-00001000``."""
    step: int
    device: torch.device
    precision: torch.dtype | None
    """The type to decode in under autocast; None for the weights' own."""

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language, as the run was trained."""
        source, target = self.config.data.languages.split("-")
        return (target, source) if self.config.data.reverse else (source, target)

    @property
    def target_language(self) -> str:
        return self.languages[1]


def stored_config(run: Path) -> Config:
    """The configuration of an existing run.

    Raises:
        UserError: it is no run directory.
    """
    if not run.is_dir():
        several = "; several runs are run=[a,b]" if "," in str(run) else ""
        raise UserError(f"{run}: no such run directory{several or _others(run)}")
    check_tree(run)
    return compose.load(run / "config.yaml")


def _others(run: Path) -> str:
    folder = run.parent if run.parent.is_dir() else Path("runs")
    names = sorted(str(f.parent) for f in folder.glob("*/config.yaml"))
    return compose.nearest(str(run), names) if names else "; nmt train makes one"


def open_run(run: Path, *, checkpoint: str = "best", words: Sequence[str] = ()) -> Run:
    """Open a run for reading.

    Args:
        run: the run directory.
        checkpoint: ``best``, ``last``, ``average`` or ``step-N``.
        words: typed configuration words, applied on top of the stored configuration.

    Raises:
        UserError: no run, no such checkpoint, a damaged one, or a tokenizer that is not the one
            the run was trained with.
    """
    stored = config = stored_config(run)
    if words:
        compose.check_words(words)
        config = compose.with_words(config, words)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = pick_device(config.train.device.value)
    tokenizers = Tokenizers.load(run / "tokenizer")
    weights = load_weights(
        run / "checkpoints",
        checkpoint,
        identity={
            key: value
            for key, value in identity(stored, tokenizers).items()
            if key.startswith(("tokenizer", "model.", "attention."))
        },
        model=outline(config, tokenizers),
    )
    with undrawn():
        model = empty_model(config, tokenizers)
    put_weights(model, weights.tensors, origin=f"{run}, checkpoint {weights.name}")
    model.to(device).eval()
    return Run(
        path=run,
        config=config,
        tokenizers=tokenizers,
        model=model,
        checkpoint=weights.name,
        step=weights.step,
        device=device,
        precision=decoding_precision(config, words, device),
    )


def decoding_precision(
    config: Config, words: Sequence[str], device: torch.device
) -> torch.dtype | None:
    """Reading commands compute in the weights' own fp32 unless ``train.precision`` is typed."""
    if not any(word.startswith("train.precision=") for word in words):
        return None
    precision = resolve_precision(config.train.precision.value, device)
    return None if precision is torch.float32 else precision


def empty_model(config: Config, tokenizers: Tokenizers) -> Seq2Seq:
    """The model of a configuration, freshly initialised.

    Raises:
        UserError: an impossible pair, or sizes that no memory could hold.
    """
    try:
        return build_model(
            config.model,
            config.attention,
            source_vocab=tokenizers.source.size,
            target_vocab=tokenizers.target.size,
        )
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no model can be built from this configuration: {reason}") from error


def outline(config: Config, tokenizers: Tokenizers) -> Seq2Seq:
    """`empty_model` without memory: names and shapes, to be compared before anything is made."""
    with shapes_only():
        return empty_model(config, tokenizers)


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file, or ``default`` where there is none."""
    if not os.path.lexists(path):
        return default
    try:
        return json.loads(read_file(path, limit=2**28))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not readable as JSON: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file atomically."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    replace_file(path, f"{text}\n".encode())
