"""Presets of the user's own, as a file and as a folder: what works, what mistakes are told."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nmt import cli, compose
from nmt.commands import train
from nmt.config import Config, resource
from nmt.errors import UserError
from nmt.training.distributed import World
from nmt.training.loop import Outcome

ROOT = Path(__file__).parents[1]
LSTM = "defaults: [lstm, _self_]\n"
EXPERIMENT = "# @package _global_\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose name would break Hydra's grammar."""
    folder = tmp_path / "a, (1) = [ü] ${x}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def put(name: str, text: str) -> None:
    path = Path("configs", f"{name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", "line 2"),
        ("model:\n\twidth: 1\n", "line 2"),
        ("- a\n", "expected sections"),
        ("hello\n", "unknown key 'hello'; known: data, tokenizer"),
        ("modle: {width: 3}\n", "unknown key 'modle'; did you mean 'model'"),
        ("data: {filters: {max_wrods: 3}}\n", r"did you mean 'data\.filters\.max_words'"),
        ("data: {grammar: {train: abc}}\n", r"data\.grammar\.train: Value 'abc'"),
        ("optim: {schedule: cosin}\n", r"optim\.schedule: Invalid value 'cosin', expected one of"),
        ("train: {freeze: encoder}\n", r"train\.freeze: Invalid value"),
        ("train: 7\n", "'train' is a section of keys, got 7"),
        ("train.max_steps: 7\n", r"write it as a section, train: \{max_steps"),
        ("model: lstmm\n", "did you mean 'lstm'"),
        ("defaults: [model: lstmm]\n", "did you mean 'lstm'"),
        ("defaults: [quickstart]\n", "'quickstart' chooses nothing"),
        ("defaults: [modle: lstm]\n", "chooses nothing"),
        ("defaults: [model: lstm]\nmodel: transformer_base\n", "model is chosen twice"),
        ("model: {name: lstm, width: 9}\n", r"defaults: \[model: lstm\]"),
        ("hydra: {run: {dir: x}}\n", "unknown key 'hydra'"),
    ],
)
def test_a_file_with_a_mistake(here: Path, text: str, message: str) -> None:
    file = here / "my, ${own} (2).yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        compose.compose([], file)


def test_a_file_chooses_and_sets(here: Path) -> None:
    file = here / "my, ${own} (2).yaml"
    put("model/mine", f"{LSTM}width: 96\n")
    text = "defaults:\n- override /model: mine\n- experiment: quickstart\n- _self_\n"
    file.write_text(f"{text}debug: tiny\ntrain: {{batch_tokens: 99, max_steps: 3}}\nseed:\n  4\n")
    config = compose.compose(["train.max_epochs=2"], file)
    assert (config.model.name, config.model.width, config.seed) == ("mine", 32, 4)  # debug is last
    assert (config.train.max_minutes, config.train.ema) == (5, 0.995)  # of the experiment
    assert (config.train.batch_tokens, config.train.max_steps) == (1024, 10)
    assert config.train.max_epochs == 2
    other = compose.compose(["model=transformer_small", "debug=null"], file)  # typed choices win
    assert (other.model.name, other.attention.preset) == ("transformer_small", "full")
    assert (other.train.batch_tokens, other.train.max_steps) == (99, 3)
    file.write_text("train:\nmodel: {dropout: 0.25}\n")  # a section with nothing in it
    assert compose.compose([], file).model.dropout == 0.25


def test_the_configuration_of_a_run_is_a_file_too(here: Path) -> None:
    config = compose.compose(["model=lstm", "attention=luong_dot", "optim.learning_rate=1e-3"])
    compose.save(config, here / "config.yaml")
    assert compose.compose([], here / "config.yaml") == config
    assert compose.compose(["seed=5"], here / "config.yaml").seed == 5
    with pytest.raises(UserError, match="model= would change nothing"):
        compose.compose(["model=transformer_small"], here / "config.yaml")


def test_the_flag(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        (["--config"], "needs a file"),
        (["--config=a", "--config", "b"], "given twice"),
        (["--config=absent.yaml"], "no such file"),
        (["--config", "."], "directory"),
    ):
        assert cli.main(["train", *argv, "--dry-run"]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "model/x",
            f"{LSTM}widht: 1\n",
            r"model/x\.yaml: unknown key 'model\.widht'; did you mean",
        ),
        ("model/x", "width: abc\n", r"model/x\.yaml: model\.width: Value 'abc'"),
        ("model/x", "defaults: [lstmm]\n", r"x\.yaml: there is no preset .*did you mean 'lstm'"),
        ("model/lstm", LSTM, "extends itself"),
        ("data/x", "defaults: [/tokenizer: bpe]\n", "/tokenizer@_global_.tokenizer: NAME"),
        ("experiment/x", "train: {max_steps: 1}\n", "first line must be  # @package _global_"),
        ("experiment/x", f"{EXPERIMENT}model: lstm\n", "override /model: lstm"),
        ("experiment/x", f"{EXPERIMENT}defaults: [override /model: y]\n", "'model/y'"),
        ("model/1", "width: 1\n", "rename the preset"),
        ("config", "seed: 2\n", "configs/config.yaml would take the place"),
    ],
)
def test_a_preset_with_a_mistake(here: Path, name: str, text: str, message: str) -> None:
    put(name, text)
    with pytest.raises(UserError, match=message):
        compose.compose([name.replace("/", "=")] if "/" in name else [])


def test_presets_that_extend(here: Path) -> None:
    put("model/mine", f"{LSTM}width: 96\n")
    put("data/mine", "defaults: [base_data, _self_]\nname: corpus\n")
    put("experiment/mine", f"{EXPERIMENT}defaults: [quickstart, override /model: mine, _self_]\n")
    put("search/mine", "defaults: [greedy, _self_]\nlength_penalty: 0.5\n")
    config = compose.compose(["experiment=mine", "data=mine"])
    assert (config.model.name, config.model.kind, config.model.width) == ("mine", "lstm", 96)
    assert (config.data.name, config.attention.preset) == ("corpus", "bahdanau")
    assert config.train.max_minutes == 5
    assert compose.compose(["model=mine", "model.name=hers"]).model.name == "hers"
    searched = compose.with_words(compose.compose([]), ["search=mine"]).search
    assert (searched.beam, searched.length_penalty) == (1, 0.5)


def test_the_examples_of_the_readme(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the training itself, which writes its configuration and is over."""

    def at_once(config: Config, run: Path, world: World) -> Outcome:
        compose.save(config, run / "config.yaml")
        return Outcome("max_steps=10", 10, None, 0.0)

    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    files = re.findall(r"`([\w/]+\.yaml)`[^`]*\n\n```yaml\n(.*?)^```", text, re.M | re.S)
    assert [name for name, _ in files] == [
        *("my.yaml", "configs/model/narrow.yaml", "configs/experiment/mine.yaml")
    ]
    for name, content in files:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(train, "activation_bytes", lambda config: 0.0)  # the dear part of a dry run
    monkeypatch.setenv("HOME", str(here.parent))
    monkeypatch.setattr(train, "train_run", at_once)
    lines = re.findall(r"^\$ nmt (.*)$", text, re.M)
    shown = []
    for line in lines:
        assert cli.main(shlex.split(line)) == 0, capsys.readouterr().err
        shown.append(capsys.readouterr().out)
    assert len(lines) == 6
    assert "run        runs/mine\n" in shown[0]
    assert "width: 128" in shown[0]
    assert "preset: bahdanau" in shown[1]
    tried = compose.load(Path("runs/tried/config.yaml"))
    assert (tried.model.name, tried.seed, tried.train.max_steps, tried.run) == ("lstm", 3, 10, None)
    assert "dropout: 0.1" in shown[3]
    assert "run        runs/mini_en_fr-narrow-luong_general-s1-" in shown[4]
    assert "run        runs/mini_en_fr-narrow-none-s1\n" in shown[5]


@pytest.mark.parametrize("file", sorted(resource("configs").glob("experiment/*.yaml")), ids=str)
def test_an_experiment_says_first_what_to_expect(file: Path) -> None:
    """Score, hardware and minutes; the score is one that was measured."""
    first, second = file.read_text(encoding="utf-8").splitlines()[:2]
    assert first == "# @package _global_"  # Hydra's, which has to be first
    found = re.match(r"# Expected: BLEU (\d+\.\d) on .+; \d+ (?:core|GPU)s? of .+; \d+ min", second)
    assert found, second
    results = (ROOT / "scripts" / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    scores = [f"{float(score):.1f}" for score in re.findall(r"\b\d+\.\d\d\b", results)]
    assert found[1] in scores
