from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.errors import UserError
from nmt.files import DamagedError, sealed
from nmt.training.checkpoint import (
    average_checkpoints,
    latest,
    load_weights,
    put_weights,
    read_checkpoint,
    save_average,
    save_checkpoint,
)
from nmt.training.index import Entry, Index, find_entry, read_index
from nmt.training.storage import tensor_bytes

FILES = ("model.safetensors", "training.safetensors", "state.json", "manifest.json")


def weights_at(step: int) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), float(step)), "steps": torch.tensor([step])}


def save(folder: Path, step: int, bleu: float | None = None, **changes: Any) -> Index:
    options: dict[str, Any] = {
        "weights": weights_at(step),
        "training": {"optimizer/exp_avg/a": torch.full((2, 3), step / 2)},
        "state": {"step": step, "cursor": {"epoch": 0, "consumed": step}},
        "scores": {} if bleu is None else {"bleu": bleu},
        "identity": {"tokenizer": "abc"},
        "metric": "bleu",
        **changes,
    }
    return save_checkpoint(folder, step, **options)


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


def test_round_trip(folder: Path) -> None:
    save(folder, 7, 1.5)
    weights = load_weights(folder, "last", identity={"tokenizer": "abc"})
    assert (weights.name, weights.step) == ("step-00000007", 7)
    assert all(torch.equal(weights.tensors[k], v) for k, v in weights_at(7).items())
    saved = read_checkpoint(folder, find_entry(folder, "best"))
    assert saved.state["cursor"] == {"epoch": 0, "consumed": 7}
    assert torch.equal(saved.training["optimizer/exp_avg/a"], torch.full((2, 3), 3.5))
    assert saved.manifest["format"] == 1
    assert saved.manifest["parameters"]["a"] == ["float32", 2, 3]
    assert folders(folder) == ["index.json", "step-00000007"]
    assert folders(folder / "step-00000007") == sorted(FILES)


def test_retention_keeps_the_best_and_the_last(folder: Path) -> None:
    for step, bleu in ((1, 5.0), (2, 9.0), (3, 7.0), (4, 6.0), (5, 4.0), (6, 3.0)):
        index = save(folder, step, bleu, keep_best=2, keep_last=2)
    assert [entry.step for entry in index.kept] == [2, 3, 5, 6]
    assert folders(folder) == ["index.json", *(f"step-{n:08d}" for n in (2, 3, 5, 6))]
    assert (index.best, index.last) == (index.kept[0], index.kept[-1])
    assert read_index(folder) == index


def test_an_interruption_displaces_nothing(folder: Path) -> None:
    for step, bleu in ((1, 5.0), (2, 4.0), (3, None), (4, 3.0)):
        index = save(folder, step, bleu, keep_best=1, keep_last=3)
    assert [entry.step for entry in index.kept] == [1, 2, 4]
    assert [entry.step for entry in save(folder, 5, None, keep_last=2).kept] == [1, 2, 4, 5]


def test_lower_is_better_for_a_loss(folder: Path) -> None:
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5)):
        index = save(folder, step, scores={"loss": loss}, metric="loss", keep_best=2)
    assert [entry.step for entry in index.ranked()] == [2, 3]


def test_names(folder: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in"):
        load_weights(folder)
    save(folder, 1)
    assert find_entry(folder, "best").step == 1  # nothing is scored yet
    save(folder, 2, 1.0)
    assert find_entry(folder, "step-2").step == find_entry(folder, "step-00000002").step == 2
    for which in ("average", "step-9", "../x", ""):
        with pytest.raises(UserError, match=r"there are best, last, step-2"):
            find_entry(folder, which)
    with pytest.raises(UserError, match="another tokenizer"):
        load_weights(folder, identity={"tokenizer": "xyz"})


def test_a_step_is_saved_once_and_forward(folder: Path) -> None:
    save(folder, 5)
    for step in (4, 5):
        with pytest.raises(ValueError, match="is not after"):
            save(folder, step)


def test_average(folder: Path) -> None:
    for step in (1, 2, 3, 4):
        save(folder, step, 1.0, keep_last=3)
    names = [f"step-{step:08d}" for step in (2, 3, 4)]
    mean = average_checkpoints(folder, names)
    assert torch.equal(mean["a"], torch.full((2, 3), 3.0))
    assert mean["a"].dtype == torch.float32
    assert torch.equal(mean["steps"], torch.tensor([2]))  # integers are not averaged
    save_average(folder, mean, names=names, scores={"bleu": 2.0}, identity={"tokenizer": "abc"})
    index = read_index(folder)
    assert index.average == Entry("average-00000004", 4, {"bleu": 2.0})
    assert torch.equal(load_weights(folder, "average").tensors["a"], mean["a"])
    save(folder, 5, 0.0)
    assert read_index(folder).average == index.average
    assert (folder / "average-00000004").exists()


# --- damage ---


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["changed", "cut", "missing", "link", "folder"])
def test_damage_is_named(folder: Path, name: str, how: str) -> None:
    save(folder, 1)
    path = folder / "step-00000001" / name
    data = bytearray(path.read_bytes())
    path.unlink()
    if how == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "link":
        (folder / "elsewhere").write_bytes(data)
        path.symlink_to(folder / "elsewhere")
    elif how == "folder":
        path.mkdir()
    with pytest.raises(DamagedError, match=name):
        read_checkpoint(folder, find_entry(folder, "last"))
    if name != "training.safetensors":  # a reader of weights has no use for it
        with pytest.raises(DamagedError, match=name):
            load_weights(folder, "last")


def test_every_byte_of_the_small_files_counts(folder: Path) -> None:
    save(folder, 1)
    entry = find_entry(folder, "last")
    for path in (folder / "step-00000001" / "manifest.json", folder / "index.json"):
        data = path.read_bytes()
        for place in range(0, len(data) - 1, 7):
            path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            with pytest.raises(DamagedError):
                read_index(folder) if path.name == "index.json" else read_checkpoint(folder, entry)
        path.write_bytes(data)
    read_checkpoint(folder, entry)


def rewrite(place: Path, **files: bytes) -> None:
    """Change files of a checkpoint and make its manifest say so: damage that checksums miss."""
    import hashlib

    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["checksum"]
    for key, data in files.items():
        name = {"model": FILES[0], "training": FILES[1], "state": FILES[2]}[key]
        (place / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"sha256": digest, "bytes": len(data)}
    (place / "manifest.json").write_bytes(sealed(manifest))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model": tensor_bytes({"a": torch.zeros(2, 3)})}, "not the tensors"),
        ({"model": tensor_bytes({**weights_at(1), "b": torch.zeros(1)})}, "not the tensors"),
        ({"model": tensor_bytes({**weights_at(1), "a": torch.zeros(3, 2)})}, "not the tensors"),
        (
            {"model": tensor_bytes({**weights_at(1), "a": torch.full((2, 3), float("nan"))})},
            "NaN",
        ),
        ({"model": b"\x80\x04cposix\nsystem\n."}, "damaged"),  # a pickle in disguise
        ({"model": (10 * 2**30).to_bytes(8, "little") + b"{}"}, "damaged"),
        ({"model": (8).to_bytes(8, "little") + b'{"a":[]}'}, "damaged"),
        ({"state": b"[" * 100_000}, "damaged"),
        ({"state": b"[1]"}, "not a JSON object"),
        ({"state": b"\xff"}, "damaged"),
    ],
)
def test_hostile_content_with_matching_checksums(
    folder: Path, files: dict[str, bytes], reason: str
) -> None:
    save(folder, 1)
    rewrite(folder / "step-00000001", **files)
    with pytest.raises(DamagedError, match=reason):
        load_weights(folder, "last")


@pytest.mark.parametrize(
    "kept",
    [
        [{"name": "../../etc", "step": 1, "scores": {}}],
        [{"name": "/etc", "step": 1, "scores": {}}],
        [{"name": "step-00000001/..", "step": 1, "scores": {}}],
        [{"name": "step-00000001", "step": "1", "scores": {}}],
        [{"name": "step-00000001", "step": 1, "scores": {"bleu": "high"}}],
        [{"name": "step-00000001", "step": 1}],
        ["step-00000001"],
        7,
    ],
)
def test_hostile_index(folder: Path, kept: Any) -> None:
    save(folder, 1)
    content = {"format": 1, "metric": "bleu", "average": None, "kept": kept}
    (folder / "index.json").write_bytes(sealed(content))
    with pytest.raises(DamagedError, match=r"index\.json is damaged"):
        load_weights(folder, "last")


def test_links_to_other_places_are_not_followed(folder: Path, tmp_path: Path) -> None:
    save(folder, 1)
    place = folder / "step-00000001"
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="not a folder"):
        load_weights(folder, "last")
    place.unlink()
    (tmp_path / "elsewhere").rename(place)
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "away")
    with pytest.raises(DamagedError, match="link"):
        load_weights(folder, "last")


def test_reading_never_writes(folder: Path) -> None:
    save(folder, 1)
    (folder / "step-00000001" / "state.json").write_text("{}")
    before = folders(folder)
    with pytest.raises(DamagedError):
        load_weights(folder)
    assert folders(folder) == before


# --- training's way out ---


def test_latest_sets_damage_aside_and_takes_the_previous(folder: Path) -> None:
    for step in (1, 2, 3):
        save(folder, step, float(step), keep_best=3, keep_last=3)
    for step, name in ((3, "model.safetensors"), (2, "training.safetensors")):
        (folder / f"step-{step:08d}" / name).write_bytes(b"junk")
    said: list[str] = []
    saved = latest(folder, metric="bleu", report=said.append)
    assert saved is not None
    assert saved.entry.step == 1
    assert len(said) == 2
    assert "model.safetensors" in said[0]
    assert "step-00000003.damaged" in said[0]
    index = read_index(folder)
    assert (index.best, index.last) == (saved.entry, saved.entry)
    assert folders(folder) == [
        "index.json",
        "step-00000001",
        "step-00000002.damaged",
        "step-00000003.damaged",
    ]
    save(folder, 3, 3.0)
    assert "step-00000003.damaged" in folders(folder)  # evidence is never swept


def test_latest_without_any_intact_checkpoint(folder: Path) -> None:
    assert latest(folder, metric="bleu", report=print) is None
    save(folder, 1)
    (folder / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged"):
        latest(folder, metric="bleu", report=lambda _: None)
    assert latest(folder, metric="bleu", report=print) is None  # the next call starts afresh
    assert folders(folder) == ["step-00000001.damaged"]


def test_latest_rebuilds_a_damaged_index(folder: Path) -> None:
    for step in (1, 2, 3):
        index = save(folder, step, float(-step), keep_last=3)
    (folder / "step-00000002" / "state.json").unlink()
    (folder / "index.json").write_bytes(b"\0" * 100)
    said: list[str] = []
    saved = latest(folder, metric="bleu", report=said.append)
    assert saved is not None
    assert saved.entry == index.last
    assert read_index(folder).kept == (index.kept[0], index.kept[2])
    assert "index.json" in said[0]


def test_leftovers_of_a_dead_process_do_no_harm(folder: Path) -> None:
    save(folder, 1)
    for name in (".step-00000002.tmp", "step-00000002", ".index.json.tmp"):
        path = folder / name
        path.write_text("") if "json" in name else (path.mkdir(), (path / "x").write_text("x"))
    saved = latest(folder, metric="bleu", report=print)
    assert saved is not None
    assert saved.entry.step == 1  # what is not in the index does not exist
    save(folder, 2, keep_last=1)
    assert folders(folder) == ["index.json", "step-00000002"]
    assert load_weights(folder, "last").step == 2


# --- a full disk ---


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of one save that changes the file system fails in turn."""
    calls = 0

    def failing(real: Any, fails_at: int) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        return call

    for fails_at in range(1, 30):
        folder = tmp_path / str(fails_at) / "checkpoints"
        save(folder, 1)
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync, fails_at))
            for name in ("rename", "replace", "mkdir"):
                patch.setattr(Path, name, failing(getattr(Path, name), fails_at))
            if fails_at == 13:
                save(folder, 2)  # it has made all its calls
                break
            with pytest.raises(UserError, match=r"could not save .*No space left.*untouched"):
                save(folder, 2)
        saved = latest(folder, metric="bleu", report=print)
        assert saved is not None
        assert saved.entry.step == (2 if fails_at == 12 else 1)  # 12: the index is in place
        assert torch.equal(saved.weights["a"], weights_at(saved.entry.step)["a"])
        assert not [name for name in folders(folder) if name.endswith(".tmp")]
        save(folder, 3)
        assert load_weights(folder, "last").step == 3
    assert fails_at == 13


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from nmt.training.checkpoint import save_checkpoint
def save(step, size):
    save_checkpoint(Path(sys.argv[1]), step, weights={"a": torch.zeros(size)}, training={},
                    state={}, scores={}, identity={}, metric="bleu")
save(1, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save(2, 10_000)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX file limits")
def test_a_real_file_limit(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "File too large; earlier checkpoints are untouched" in done.stderr
    assert load_weights(folder, "last").step == 1
    assert folders(folder) == ["index.json", "step-00000001"]


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not save"):
        save(folder, 1)


def test_weights_of_another_model_are_refused() -> None:
    model = nn.Linear(2, 3)
    put_weights(model, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, origin="x")
    assert (model.weight == 1).all()
    for weights in ({"weight": torch.ones(3, 2)}, {"weight": torch.ones(1), "bias": torch.ones(3)}):
        with pytest.raises(UserError, match=r"x does not fit this model: 1 tensors differ"):
            put_weights(model, weights, origin="x")
