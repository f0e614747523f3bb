"""Run directories made to do harm: refused with one line, or harmless; nothing outside is touched.

Each case changes a copy of a good run. Then every command that reads a run reads it, `train` goes
on with it, and what was opened, what was written, how much memory it took and what was said is
looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nmt import cli
from nmt.files import json_bytes, sealed
from nmt.training.storage import tensor_bytes

SECRET = "the-content-of-a-file-outside"
GIGABYTE = 2**30
STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class")

pytestmark = pytest.mark.timeout(300)


class Watch:
    """Files opened, and commands started, while it is on (an audit hook cannot be taken off)."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[str] = []
        self.started: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: Any) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            self.opened.append(os.fsdecode(arguments[0]))
        if event in STARTS:
            self.started.append(event)


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """At most so many bytes more than now, where the system can say so."""
    if not sys.platform.startswith("linux"):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def tree(folder: Path) -> dict[str, bytes]:
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size < GIGABYTE:
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


# --- what is done to a run; each case returns nothing ---------------------------------------------


def rewrite(place: Path, files: dict[str, bytes], **facts: Any) -> None:
    """Change files of a checkpoint and make its manifest vouch for them."""
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["checksum"]
    for name, data in files.items():
        (place / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"sha256": digest, "bytes": len(data)}
    (place / "manifest.json").write_bytes(sealed({**manifest, **facts}))


def last(run: Path) -> Path:
    return run / "checkpoints" / "step-00000010"


def tensors(run: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    import safetensors.torch

    return dict(safetensors.torch.load((last(run) / name).read_bytes()))


def shapes(found: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {k: [str(t.dtype).removeprefix("torch."), *t.shape] for k, t in found.items()}


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path, Path], None]:
    """Weights changed, with a manifest that agrees."""

    def case(run: Path, outside: Path) -> None:
        found = tensors(run)
        change(found)
        rewrite(last(run), {"model.safetensors": tensor_bytes(found)}, parameters=shapes(found))

    return case


def with_moments(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path, Path], None]:
    def case(run: Path, outside: Path) -> None:
        found = tensors(run, "training.safetensors")
        change(found)
        rewrite(last(run), {"training.safetensors": tensor_bytes(found)})

    return case


def with_state(**changes: Any) -> Callable[[Path, Path], None]:
    def case(run: Path, outside: Path) -> None:
        content = json.loads((last(run) / "state.json").read_text())
        for key, value in changes.items():
            if value is None:
                del content["state"][key]
            else:
                content["state"][key] = value
        rewrite(last(run), {"state.json": json_bytes(content)})

    return case


def with_index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    def case(run: Path, outside: Path) -> None:
        path = run / "checkpoints" / "index.json"
        content = json.loads(path.read_text())
        del content["checksum"]
        change(content)
        path.write_bytes(sealed(content))

    return case


def with_config(**changes: Any) -> Callable[[Path, Path], None]:
    """Keys (a__b is a.b) of config.yaml; {outside} in a value is the folder outside."""

    def case(run: Path, outside: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        for key, value in changes.items():
            *sections, leaf = key.split("__")
            node = content
            for section in sections:
                node = node.setdefault(section, {})
            node[leaf] = value.format(outside=outside) if isinstance(value, str) else value
        (run / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    return case


def with_yaml(text: str) -> Callable[[Path, Path], None]:
    def case(run: Path, outside: Path) -> None:
        with open(run / "config.yaml", "a", encoding="utf-8") as file:
            file.write(text.replace("{outside}", str(outside)))

    return case


def with_link(name: str) -> Callable[[Path, Path], None]:
    """A file or folder of the run becomes a link to one outside."""

    def case(run: Path, outside: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
            path.symlink_to(outside / "folder")
        else:
            path.unlink(missing_ok=True)
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(outside / "file")

    return case


def with_pipe(name: str) -> Callable[[Path, Path], None]:
    def case(run: Path, outside: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return case


def with_bytes(name: str, data: bytes) -> Callable[[Path, Path], None]:
    def case(run: Path, outside: Path) -> None:
        path = run / name
        if path.parent == last(run):
            rewrite(last(run), {path.name: data})
        else:
            path.write_bytes(data)

    return case


def sparse(name: str) -> Callable[[Path, Path], None]:
    """A file of 20 GB that takes no room on the disk."""

    def case(run: Path, outside: Path) -> None:
        with open(run / name, "r+b") as file:
            file.truncate(20 * GIGABYTE)

    return case


def sparse_weights(run: Path, outside: Path) -> None:
    """20 GB of weights that the manifest vouches for in size."""
    sparse("checkpoints/step-00000010/model.safetensors")(run, outside)
    manifest = json.loads((last(run) / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["files"]["model.safetensors"]["bytes"] = 20 * GIGABYTE
    (last(run) / "manifest.json").write_bytes(sealed(manifest))


def other_tokenizer(run: Path, outside: Path) -> None:
    """A SentencePiece model of nonsense that the card vouches for."""
    data = b"\x0a\x80\x80\x80\x80\x08" + b"a" * 64
    (run / "tokenizer" / "joint.model").write_bytes(data)
    card = json.loads((run / "tokenizer" / "tokenizer.json").read_text())
    card["hash"] = hashlib.sha256(data).hexdigest()
    (run / "tokenizer" / "tokenizer.json").write_text(json.dumps(card))


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch {outside}/ran",)


PICKLE = pickle.dumps(Evil())
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12)
)
HEADER = (10 * GIGABYTE).to_bytes(8, "little") + b"{}"
HUGE = json.dumps({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]}}).encode()
STEP = "checkpoints/step-00000010"

REFUSED = {
    # tensors
    "pickle as weights": with_bytes(f"{STEP}/model.safetensors", PICKLE),
    "10 GB header": with_bytes(f"{STEP}/model.safetensors", HEADER),
    "absurd shape": with_bytes(
        f"{STEP}/model.safetensors", len(HUGE).to_bytes(8, "little") + HUGE + bytes(16)
    ),
    "20 GB of weights": sparse_weights,
    "missing tensor": with_tensors(lambda t: t.pop(next(iter(t)))),
    "extra tensor": with_tensors(lambda t: t.update(extra=torch.zeros(3))),
    "tensor named like a path": with_tensors(lambda t: t.update({"../../x": torch.zeros(3)})),
    "other shape": with_tensors(lambda t: t.update({next(iter(t)): torch.zeros(2, 2)})),
    "other type": with_tensors(lambda t: t.update({k: v.to(torch.int8) for k, v in t.items()})),
    "double precision": with_tensors(lambda t: t.update({k: v.double() for k, v in t.items()})),
    "NaN": with_tensors(lambda t: next(iter(t.values())).fill_(torch.nan)),
    "infinity": with_tensors(lambda t: next(iter(t.values())).fill_(torch.inf)),
    # small files
    "pickle as manifest": with_bytes(f"{STEP}/../step-00000010/manifest.json", PICKLE),
    "20 GB manifest": sparse(f"{STEP}/manifest.json"),
    "20 GB index": sparse("checkpoints/index.json"),
    "path in the index": with_index(lambda c: c["kept"][-1].update(name="../../../outside/folder")),
    "absolute path in the index": with_index(lambda c: c["kept"][-1].update(name="/etc")),
    "step that is not the name's": with_index(lambda c: c["kept"][-1].update(step=11)),
    "scores of the wrong type": with_index(lambda c: c["kept"][-1].update(scores=["x"])),
    "index of numbers": with_index(lambda c: c.update(kept=[1, 2, 3])),
    "nonsense as tokenizer": other_tokenizer,
    "pickle as tokenizer card": with_bytes("tokenizer/tokenizer.json", PICKLE),
    "list as tokenizer card": with_bytes("tokenizer/tokenizer.json", b"[]"),
    # configuration
    "python object": with_yaml("x: !!python/object/apply:os.system ['touch {outside}/ran']\n"),
    "python name": with_yaml("x: !!python/name:os.system\n"),
    "any tag": with_yaml("x: !!set {a, b}\n"),
    "anchor bomb": with_yaml(BOMB),
    "one alias": with_yaml("x: &x [1]\ny: *x\n"),
    "deep nesting": with_yaml("x: " + "[" * 5_000 + "]" * 5_000 + "\n"),
    "_target_": with_config(model___target_="os.system"),
    "_target_ at the top": with_config(_target_="os.system"),
    "interpolation": with_config(data__root="${{oc.env:HOME}}"),
    "unknown resolver": with_config(data__name="${{evil:1}}"),
    "a key with control characters": with_config(**{"model__\x1b[2J": 1}),
    "a long key": with_config(**{"model__" + "x" * 100_000: 1}),
    "a string for a number": with_config(model__width="wide"),
    "NaN for a number": with_config(search__length_penalty=float("nan")),
    "huge width": with_config(model__width=10**9),
    "huge feed-forward": with_config(model__ffn=10**12),
    "huge numbers": with_config(model__width=10**40),
    "endless layers": with_config(model__encoder_layers=10**9),
    "many layers": with_config(model__encoder_layers=190),
    "endless beam": with_config(search__beam=10**9),
    "endless threads": with_config(train__threads=10**6),
    "another activation": with_config(model__activation="gelu"),
    "another norm": with_config(model__norm="post"),
    "folder in the data's name": with_config(data__name="../../outside/folder/x"),
    "not YAML": with_bytes("config.yaml", b"\x00\xff{{{"),
    "20 GB configuration": sparse("config.yaml"),
    "newer format": with_config(format=2),
    # links and pipes
    **{
        f"link: {name}": with_link(name)
        for name in (
            *("config.yaml", "tokenizer", "tokenizer/joint.model", "tokenizer/tokenizer.json"),
            *("checkpoints", "checkpoints/index.json", STEP, f"{STEP}/model.safetensors"),
            *(f"{STEP}/manifest.json", f"{STEP}/state.json", "data.json", "log.jsonl", ".lock"),
            *("scores.json", "translations", "tensorboard", ".config.yaml.tmp", "anything"),
        )
    },
    **{f"pipe: {name}": with_pipe(name) for name in ("config.yaml", f"{STEP}/model.safetensors")},
}
"""Cases that no reading command may answer."""

TRAIN_REFUSES = {
    "moments missing": with_moments(lambda t: t.pop(next(iter(t)))),
    "moments of another shape": with_moments(lambda t: t.update({next(iter(t)): torch.zeros(7)})),
    "moments of another name": with_moments(lambda t: t.update({"optimizer/e/x": torch.ones(1)})),
    "moments of NaN": with_moments(lambda t: next(iter(t.values())).fill_(torch.nan)),
    "pickle as moments": with_bytes(f"{STEP}/training.safetensors", PICKLE),
    "step of text": with_state(step="ten"),
    "negative place": with_state(cursor={"epoch": -1, "consumed": 0}),
    "place beyond the plan": with_state(cursor={"epoch": 0, "consumed": 10**9}),
    "place of text": with_state(cursor={"epoch": "x", "consumed": 0}),
    "state with code": with_state(__class__="os.system"),
    "state without a cursor": with_state(cursor=None),
    "time that is none": with_state(seconds="long"),
    "20 GB state": sparse(f"{STEP}/state.json"),
    "data of another fingerprint": with_bytes("data.json", b'{"fingerprint": "x"}'),
    "data.json of 20 GB": sparse("data.json"),
    "another learning rate": with_config(optim__learning_rate=9.0),
}
"""Cases that readers of weights need not see, and that train refuses or sets aside."""

REBUILT = (
    *("20 GB index", "path in the index", "absolute path in the index", "index of numbers"),
    *("step that is not the name's", "scores of the wrong type"),
)
"""Training makes a new index from the checkpoints, which are whole, and says so."""

HARMLESS = {
    "log of 20 GB": sparse("log.jsonl"),
    "log of nonsense": with_bytes("log.jsonl", b'{"step": "x"}\n[]\n\xff\n{"step": 1e999}\nnull\n'),
    "file of its own": with_bytes("evil.py", b"import os; os.system('touch ran')"),
    "hydra folder": with_bytes("hydra.py", b"raise SystemExit(9)"),
}


@pytest.fixture(scope="session")
def good(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run with its last checkpoint alone: training has no other to fall back to."""
    run = tmp_path_factory.mktemp("good") / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("tensorboard", "step-00000005"))
    with_index(lambda c: c.update(kept=c["kept"][-1:], best="step-00000010"))(run, run)
    with_config(search__max_length=8)(run, run)
    return run


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    shutil.copytree(good, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What a hostile run points at; beside the run, and never to be opened or changed."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text(SECRET)
    (folder / "folder" / "file").write_text(SECRET)
    return folder


def command(
    argv: list[str], outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run one command under watch; its status and what it said on stderr."""
    capsys.readouterr()
    before = tree(outside)
    watch.opened.clear()
    watch.started.clear()
    watch.on = True
    try:
        with little_memory(3 * GIGABYTE):
            status = cli.main(argv)
    finally:
        watch.on = False
    out, err = capsys.readouterr()
    assert tree(outside) == before, "something outside the run was written"
    assert not [path for path in watch.opened if "/outside/" in path], "and nothing is opened"
    assert not watch.started
    assert SECRET not in out + err
    assert "\x1b" not in err
    assert "Traceback" not in err
    assert all(len(line) < 2_000 for line in err.split("\n"))
    return status, err


def test_the_run_itself_is_good(
    run: Path, outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["translate", f"run={run}", "text=A dog."], ["train", f"run={run}"]):
        status, err = command(argv, outside, watch, capsys)
        assert status == 0, err


@pytest.mark.parametrize("name", REFUSED)
def test_reading_refuses(
    name: str, run: Path, outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    REFUSED[name](run, outside)
    before = tree(run)
    argv = ["translate", f"run={run}", "text=A dog.", "checkpoint=last"]
    status, err = command(argv, outside, watch, capsys)
    assert status == 1, name
    assert err.startswith("nmt: ")
    assert err.count("\n") == 1
    status, err = command(["info", f"run={run}"], outside, watch, capsys)
    assert err.count("\n") <= 1  # info tells what it can of a damaged run
    assert tree(run) == before, "a reading command changes nothing"


@pytest.mark.parametrize("name", [*TRAIN_REFUSES, *REFUSED])
def test_training_refuses(
    name: str, run: Path, outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    (TRAIN_REFUSES | REFUSED)[name](run, outside)
    status, err = command(["train", f"run={run}"], outside, watch, capsys)
    if name in REBUILT:
        assert (status, "rebuilding the index" in err) == (0, True)
        return
    assert status == 1, err
    assert err.rstrip("\n").rpartition("\n")[2].startswith("nmt: ")


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(
    name: str, run: Path, outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    HARMLESS[name](run, outside)
    for argv in (["translate", f"run={run}", "text=A dog."], ["train", f"run={run}"]):
        status, err = command(argv, outside, watch, capsys)
        assert status == 0, err
    assert not (run / "ran").exists()


def test_evaluate_writes_nothing_through_a_planted_link(
    run: Path, outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("translations", "scores.json", "scores.json.tmp"):
        with_link(name)(run, outside)
        status, err = command(["evaluate", f"run={run}"], outside, watch, capsys)
        assert (status, err.count("\n")) == (1, 1)
        assert "link" in err
        (run / name).unlink()


def test_one_changed_byte_in_each_file(
    run: Path, outside: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused, or the same translation: a change in what the weights depend on is never silent."""
    argv = ["translate", f"run={run}", "text=A dog sees a cat.", "search=greedy"]
    argv.append("search.max_length=8")
    assert cli.main(argv) == 0
    good = capsys.readouterr().out
    names = [name for name, data in tree(run).items() if data and "tensorboard" not in name]
    assert len(names) >= 10
    for name in names:
        data = (run / name).read_bytes()
        refused = 0
        for place in range(len(data) // 13, len(data), len(data) // 2 + 1):
            flipped = bytes([data[place] ^ 1])
            (run / name).write_bytes(data[:place] + flipped + data[place + 1 :])
            capsys.readouterr()
            watch.on = True
            status = cli.main(argv)
            watch.on = False
            out, err = capsys.readouterr()
            assert (status, out) in ((0, good), (1, "")), (name, place)
            assert err.count("\n") == status, (name, place)
            refused += status
        (run / name).write_bytes(data)
        # An older checkpoint and what only training reads are not opened by translate.
        if name.startswith("tokenizer/") or name.endswith("index.json"):
            assert refused, name
    assert cli.main(argv) == 0


def test_struct_is_little_endian() -> None:
    """The headers above mean what they say."""
    assert struct.unpack("<Q", HEADER[:8])[0] == 10 * GIGABYTE
