"""Checkpoints: atomic, complete, self-describing, and safe to load.

::

    checkpoints/step-00001000/model.safetensors     the weights one decodes with
                              training.safetensors  optimiser moments, raw weights beside an EMA
                              state.json            counters and the place in the data
                              manifest.json         format, SHA-256 and size of each file, shapes
    checkpoints/index.json    which checkpoints there are; what is not in it does not exist

A checkpoint is written under a temporary name, flushed, renamed, and then entered into the index,
which is replaced in one rename; only then is an old one deleted. A process that dies anywhere in
between leaves the state before or the state after. Loading runs no code: tensors are safetensors,
the rest is JSON; file names come from this module, never from a file; links are not followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmt.errors import UserError
from nmt.files import (
    SMALL,
    DamagedError,
    json_bytes,
    parsed,
    read_file,
    sealed,
    set_aside,
    unsealed,
)
from nmt.training.index import (
    FORMAT,
    INDEX,
    NAME,
    Entry,
    Index,
    find_entry,
    read_index,
    scores_of,
    write_index,
)
from nmt.training.storage import (
    clear_errors,
    library_versions,
    parsed_tensors,
    tensor_bytes,
    write_folder,
)

WEIGHTS, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Weights:
    """Verified weights of one checkpoint."""

    name: str
    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """A checkpoint in memory, verified; ``training`` is empty where only weights were asked for."""

    entry: Entry
    weights: dict[str, Tensor]
    training: dict[str, Tensor]
    state: dict[str, Any]
    manifest: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    state: Mapping[str, Any],
    scores: Mapping[str, float],
    identity: Mapping[str, str],
    metric: str,
    keep_best: int = 1,
    keep_last: int = 1,
) -> Index:
    """Write ``step-N`` into ``folder`` (RUN/checkpoints), enter it, delete what may go.

    Args:
        weights: what one decodes with; no two names share memory.
        state: what JSON can hold.
        scores: of a validation at this step; empty when there was none.
        identity: what the run is, see `check_identity`; goes into the manifest as it is.

    Raises:
        UserError: the disk is full or read-only; the earlier checkpoints are untouched.
        ValueError: this step is in the index already.
    """
    index = read_index(folder) if (folder / INDEX).exists() else Index(metric)
    if index.last is not None and index.last.step >= step:
        raise ValueError(f"step {step} is not after {index.last.name}")
    entry = Entry(f"step-{step:08d}", step, dict(scores))
    files = {
        WEIGHTS: tensor_bytes(weights),
        TRAINING: tensor_bytes(training),
        STATE: json_bytes(state),
    }
    index = replace(index, metric=metric, kept=(*index.kept, entry))
    index = index.trimmed(keep_best=keep_best, keep_last=keep_last)
    with clear_errors(folder / entry.name):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, entry, files, weights, identity)
        write_index(folder, index)
    _sweep(folder, index)
    return index


def average_checkpoints(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """The mean of the weights of these checkpoints, taken in float64.

    Raises:
        DamagedError: one of them cannot be read.
    """
    entries = [entry for entry in read_index(folder).kept if entry.name in names]
    first, *others = (read_checkpoint(folder, e, training=False).weights for e in entries)
    total = {k: t.double() if t.is_floating_point() else t for k, t in first.items()}
    for other in others:
        for name, tensor in other.items():
            if tensor.is_floating_point():
                total[name] += tensor
    floats = {name for name, tensor in first.items() if tensor.is_floating_point()}
    return {
        name: (total[name] / len(entries)).to(tensor.dtype) if name in floats else tensor
        for name, tensor in first.items()
    }


def save_average(
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    names: list[str],
    scores: Mapping[str, float],
    identity: Mapping[str, str],
) -> Index:
    """Write averaged weights as ``average-N`` (N is the last step) and enter them."""
    index = read_index(folder)
    step = index.kept[-1].step
    entry = Entry(f"average-{step:08d}", step, dict(scores))
    state = {"step": step, "average_of": names}
    with clear_errors(folder / entry.name):
        files = {WEIGHTS: tensor_bytes(weights), STATE: json_bytes(state)}
        _write(folder, entry, files, weights, identity)
        index = replace(index, average=entry)
        write_index(folder, index)
    _sweep(folder, index)
    return index


def _write(
    folder: Path,
    entry: Entry,
    files: Mapping[str, bytes],
    weights: Mapping[str, Tensor],
    identity: Mapping[str, str],
) -> None:
    manifest = {
        "format": FORMAT,
        "step": entry.step,
        "scores": entry.scores,
        "identity": dict(identity),
        "versions": library_versions(),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in files.items()
        },
        "parameters": _shapes(weights),
    }
    write_folder(folder / entry.name, {**files, MANIFEST: sealed(manifest)})


def _sweep(folder: Path, index: Index) -> None:
    """Delete checkpoints and temporary folders that the index, already replaced, does not name."""
    stay = {entry.name for entry in index.kept}
    if index.average:
        stay.add(index.average.name)
    for path in folder.iterdir():
        name = path.name.removeprefix(".").removesuffix(".tmp")
        if NAME.fullmatch(name) and path.name not in stay and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def load_weights(
    folder: Path,
    which: str = "best",
    *,
    identity: Mapping[str, str] | None = None,
    model: nn.Module | None = None,
) -> Weights:
    """The verified weights of a checkpoint in RUN/checkpoints.

    Args:
        which: ``best`` (the last one while none is scored), ``last``, ``average`` or ``step-N``.
        identity: what the checkpoint must have been trained with, see `check_identity`.
        model: when given (``meta`` will do), what the weights are for: a file that could not be
            its weights is refused before it is read.

    Raises:
        UserError: no such checkpoint, or one of something else. DamagedError: names the file.
    """
    saved = read_checkpoint(folder, find_entry(folder, which), training=False, model=model)
    check_identity(saved, identity or {}, origin=str(folder / saved.entry.name))
    return Weights(saved.entry.name, saved.entry.step, saved.weights)


def check_identity(saved: Saved, identity: Mapping[str, str], *, origin: str) -> None:
    """A checkpoint is of this tokenizer and of the settings that its numbers depend on.

    What only one of the two knows is not compared: an older checkpoint knows fewer settings.

    Raises:
        UserError: shows the difference.
    """
    theirs = saved.manifest["identity"]
    changed = [key for key in identity if theirs.get(key, identity[key]) != identity[key]]
    if "tokenizer" in changed:
        raise UserError(
            f"{origin} was trained with another tokenizer ({theirs['tokenizer']}) than the one "
            f"beside it ({identity['tokenizer']}): copy the run directory again, as a whole"
        )
    if changed:
        shown = "; ".join(f"{key} was {theirs[key]}, is {identity[key]}" for key in changed)
        raise UserError(f"{origin} was trained with other settings: {shown}: put them back")


def read_checkpoint(
    folder: Path, entry: Entry, *, training: bool = True, model: nn.Module | None = None
) -> Saved:
    """Read and verify one checkpoint.

    Args:
        training: also read what only resuming needs.
        model: bounds what is read into memory, see `load_weights`.

    Raises:
        DamagedError: names the file and what is wrong with it.
    """
    place = folder / entry.name
    if place.is_symlink() or not place.is_dir():
        raise DamagedError(f"{place} is damaged: it is missing or not a folder")
    manifest = unsealed(place / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DamagedError(f"{place / MANIFEST}: format {manifest.get('format')!r}, not {FORMAT}")
    most = None if model is None else largest_file(model)
    try:
        state = parsed(place / STATE, _verified(place, STATE, manifest, SMALL))
        weights = parsed_tensors(place / WEIGHTS, _verified(place, WEIGHTS, manifest, most))
        moments = {}
        if training:
            data = _verified(place, TRAINING, manifest, most)
            moments = parsed_tensors(place / TRAINING, data)
        if _shapes(weights) != manifest["parameters"]:
            raise DamagedError(f"{place / WEIGHTS} is damaged: not the tensors of its manifest")
        manifest["identity"].get("tokenizer")
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{place / MANIFEST} is damaged: {error!r}") from error
    for file, tensors in ((WEIGHTS, weights), (TRAINING, moments)):
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DamagedError(f"{place / file} is damaged: {name} holds NaN or infinity")
    return Saved(entry, weights, moments, state, manifest)


def largest_file(model: nn.Module) -> int:
    """Bytes that no file of a checkpoint of this model exceeds.

    The largest one holds two moments, the raw weights beside an average, and names.
    """
    tensors: list[Tensor] = list(model.state_dict().values())
    return 4 * sum(t.numel() * t.element_size() for t in tensors) + SMALL


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy weights into a model of exactly these names, types and shapes.

    Raises:
        UserError: they do not fit; names the differences.
    """
    mine, theirs = _shapes(model.state_dict()), _shapes(weights)
    if mine != theirs:
        names = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        shown = ", ".join(f"{k} {theirs.get(k)} for {mine.get(k)}" for k in names[:3])
        raise UserError(f"{origin} does not fit this model: {len(names)} tensors differ ({shown})")
    model.load_state_dict(weights)


def latest(
    folder: Path, *, metric: str, report: Callable[[str], None], model: nn.Module | None = None
) -> Saved | None:
    """The newest intact checkpoint to resume from; None when the run has none yet.

    Only for the process that owns the run: a damaged checkpoint is renamed to ``*.damaged``, taken
    out of the index and reported, and the previous one is taken; a damaged index is rebuilt.

    Raises:
        UserError: there were checkpoints and all of them were damaged.
    """
    if not os.path.lexists(folder / INDEX):
        return None
    try:
        index = read_index(folder)
    except DamagedError as error:
        report(f"{error}; rebuilding the index from the intact checkpoints")
        index = _rebuilt(folder, metric, model)
    while (entry := index.last) is not None:
        try:
            return read_checkpoint(folder, entry, model=model)
        except DamagedError as error:
            aside = set_aside(folder / entry.name)
            report(f"{error}; set aside as {aside}, taking the previous checkpoint")
            index = replace(index, kept=index.kept[:-1])
            write_index(folder, index)
    (folder / INDEX).unlink()
    raise UserError(
        f"every checkpoint in {folder} is damaged (they are kept there as *.damaged): "
        f"the same command again starts from the beginning"
    )


def _rebuilt(folder: Path, metric: str, model: nn.Module | None) -> Index:
    """An index of all intact checkpoints, from their manifests; the damaged ones are set aside."""
    entries = []
    for path in sorted(folder.glob("step-*")):
        if NAME.fullmatch(path.name):
            entry = Entry(path.name, int(path.name.removeprefix("step-")))
            try:
                manifest = read_checkpoint(folder, entry, model=model).manifest
                entries.append(replace(entry, scores=scores_of(manifest["scores"])))
            except (DamagedError, KeyError, TypeError, ValueError):
                set_aside(path)
    set_aside(folder / INDEX)
    index = Index(metric, tuple(entries))
    write_index(folder, index)
    return index


def _verified(place: Path, name: str, manifest: Mapping[str, Any], most: int | None) -> bytes:
    """The bytes of a file that are, in size and SHA-256, those its manifest lists."""
    claim = manifest["files"][name]
    if most is not None and claim["bytes"] > most:
        raise DamagedError(f"{place / name} is damaged: no such file has {claim['bytes']} bytes")
    data = read_file(place / name, size=claim["bytes"])
    if hashlib.sha256(data).hexdigest() != claim["sha256"]:
        raise DamagedError(f"{place / name} is damaged: its SHA-256 is not the manifest's")
    return data


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Name -> [dtype, *shape], as JSON keeps it."""
    return {
        name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape]
        for name, tensor in tensors.items()
    }
