"""The configuration: what composes, what is refused and how, and what survives a round trip."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nmt import compose, multirun
from nmt.config import Config, DataConfig, Source, resource
from nmt.errors import UserError
from nmt.models.build import build_model, check_pair

NEEDS = {
    "files": ["data.train=corpus/train"],
    "tsv": ["data.train=corpus/train.tsv"],
    "jsonl": ["data.train=corpus/train.jsonl"],
    "hub": ["data.train=some/corpus"],
}
PRESETS = sorted(
    f.relative_to(resource("configs"))
    for f in resource("configs").rglob("*.yaml")
    if f.parent.name != "story"  # ladders of runs: tests/commands/test_story.py
)


def test_the_number_of_presets() -> None:
    """A walk that stops seeing files would pass every test below."""
    assert len(PRESETS) == 44


@pytest.mark.parametrize("file", PRESETS, ids=str)
def test_every_preset_composes_and_builds(file: Path) -> None:
    group, name = file.parent.name, file.stem
    if group == "sweep":  # not of a run: hydra's own settings
        pytest.importorskip("optuna")
        assert multirun.plan([f"sweep={name}"]).swept
        return
    words = [] if not group else [f"{group}={name}", *NEEDS.get(name, [])]
    if group == "attention" and name not in ("full", "sliding_window", "linear"):
        words.append("model=lstm")
    config = compose.compose(words)
    check_pair(config.model, config.attention)
    with torch.device("meta"):
        model = build_model(config.model, config.attention, source_vocab=100, target_vocab=100)
    assert sum(p.numel() for p in model.parameters()) > 0


def test_no_preset_repeats_a_default() -> None:
    """A preset says what it changes; what it repeats would have two homes."""
    names = {"name", "kind", "source", "type", "preset", "languages"}  # identity, said always
    for file in PRESETS:
        group = file.parent.name
        if group not in ("tokenizer", "optim", "train", "search"):
            continue
        default = compose._plain(compose.GROUPS[group]())
        from omegaconf import OmegaConf

        said = OmegaConf.to_container(OmegaConf.load(resource("configs") / file))
        assert isinstance(said, dict)
        repeated = {k for k, v in said.items() if k not in names and default.get(k) == v}
        assert not repeated, f"{file}: {repeated}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=lstmm"], "did you mean 'lstm'"),
        (["modle=lstm"], "did you mean 'model'"),
        (["model.widht=3"], "did you mean 'model.width'"),
        (["+model.foo=1"], "unknown key 'model.foo'"),
        (["width=3"], "did you mean 'model.width'"),
        (["attention=bahdanu"], "did you mean 'bahdanau'"),
        (["optim.schedule=cosin"], "did you mean 'cosine'"),
        (["seed=-1"], "seed must be at least 0, got -1"),
        (["data.grammar.seed=-1"], "data.grammar.seed must be at least 0"),
        (["model.dropout=3.5"], "model.dropout must be at least 0 and below 1"),
        (["model.dropout=abc"], "model.dropout"),
        (["model.width=1.5"], "model.width"),
        (["train.max_steps=null"], "never end"),
        (
            ["optim.schedule=cosine", "train.max_steps=null", "train.max_epochs=1"],
            "optim.schedule=cosine falls until the last step",
        ),
        (["data=files"], "needs data.train"),
        (["data.languages=english"], "must look like en-fr"),
        (["search.n_best=9"], "needs search.beam"),
        (["seed"], "'seed' is not key=value"),
        (["seed=1,2"], "sweep"),
        (["optim.clip=[0.5"], "^optim.clip=.0.5: this value cannot be read"),
        (["optim.clip=int(x)"], "^optim.clip=int.x.: invalid literal"),
    ],
)
def test_mistakes_are_answered(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose.compose(words)


def test_keys_that_hydra_was_told_to_add_die_when_the_object_is_built() -> None:
    with pytest.raises(UserError, match="foo"):
        compose.to_config({"model": {"foo": 1}})


def test_a_model_brings_its_attention_and_a_typed_one_wins() -> None:
    assert compose.compose(["model=lstm"]).attention.preset == "bahdanau"
    assert compose.compose(["model=lstm", "attention=luong_dot"]).attention.preset == "luong_dot"
    assert compose.compose([]).attention.preset == "full"


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert compose.compose(["optim.learning_rate=1e-3"]).optim.learning_rate == 1e-3


@pytest.mark.parametrize("words", [[], ["data=story_en_fr", "model=lstm"], ["debug=tiny"]])
def test_yaml_round_trip(words: list[str], tmp_path: Path) -> None:
    config = compose.compose(words)
    compose.save(config, tmp_path / "config.yaml")
    assert compose.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: 2\n", "format 2"),
        ("seed: 1\n", "no format number"),
        ("format: 1\nmodel: {widht: 3}\n", "did you mean 'model.width'"),
        ("format: 1\nmodel:\n  width: ${oc.env:HOME}\n", "no interpolations"),
        ("format: 1\nrun: ${oc.env:HOME}\n", "no interpolations"),
        ("format: 1\nrun: !!python/object/apply:os.system ['true']\n", "not a readable"),
        ("[1, 2]\n", "not the configuration of a run"),
        ("a: [\n", "not a readable"),
    ],
)
def test_stored_configurations_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        compose.load(tmp_path / "config.yaml")


def test_typed_words_change_only_what_they_name() -> None:
    stored = compose.compose(["search.beam=7", "search.length_penalty=0.3"])
    changed = compose.with_words(stored, ["search.beam=2"])
    assert (changed.search.beam, changed.search.length_penalty) == (2, 0.3)
    assert compose.with_words(stored, ["search=greedy"]).search.beam == 1
    assert dataclasses.replace(changed, search=stored.search) == stored


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("model: lstm\nattention: luong_dot\ntrain: {max_steps: 7}\n", encoding="utf-8")
    config = compose.compose(["train.max_epochs=3"], file)
    assert (config.model.name, config.attention.preset) == ("lstm", "luong_dot")
    assert (config.train.max_steps, config.train.max_epochs) == (7, 3)
    assert compose.compose(["train.max_steps=8"], file).train.max_steps == 8
    file.write_text("trian: {max_steps: 7}\n", encoding="utf-8")
    with pytest.raises(UserError, match="unknown key 'trian'"):
        compose.compose([], file)
    with pytest.raises(UserError, match="no such file"):
        compose.compose([], tmp_path / "absent.yaml")


def test_presets_in_the_working_directory_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "optim"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "defaults: [base_optim, _self_]\nlearning_rate: 0.5\n", encoding="utf-8"
    )
    (folder / "adam.yaml").write_text(
        "defaults: [base_optim, _self_]\nlearning_rate: 0.25\n", encoding="utf-8"
    )
    assert compose.compose(["optim=mine"]).optim.learning_rate == 0.5
    assert compose.compose([]).optim.learning_rate == 0.25
    assert "mine" in compose.options("optim")


def test_the_forms_of_training_data() -> None:
    def paths(train: object) -> list[tuple[str, list[str], Source]]:
        data = DataConfig(name="x", source=Source.files, train=train)
        return [(c.name, c.path, c.kind) for c in data.train]

    assert paths("a/b") == [("train", ["a/b"], Source.files)]
    assert paths(["a.en", "a.fr"]) == [("train", ["a.en", "a.fr"], Source.files)]
    assert paths([{"path": "x/p"}, {"path": "x/q", "name": "n"}]) == [
        ("p", ["x/p"], Source.files),
        ("n", ["x/q"], Source.files),
    ]
    assert paths({"one": "a"}) == [("one", ["a"], Source.files)]
    assert paths("sacrebleu:wmt14") == [("train", ["wmt14"], Source.sacrebleu)]
    with pytest.raises(UserError, match="unknown key 'pth'"):
        paths([{"pth": "a"}])
    with pytest.raises(UserError, match="same name"):
        paths([{"path": "x/p"}, {"path": "y/p"}])


def test_every_key_is_reachable_by_its_dotted_name() -> None:
    flat = compose.flat(Config())
    assert set(flat) == set(compose.keys())
    assert flat["model.width"] == 128


def test_the_two_homes_of_search_settings_agree() -> None:
    """Configuration and search do not know each other; only this test does."""
    from nmt.config import SearchConfig
    from nmt.decoding.search import SearchOptions

    said = dataclasses.asdict(SearchConfig())
    used = dataclasses.asdict(SearchOptions())
    del said["batch_tokens"], used["seed"]
    assert said.keys() == used.keys()
    assert {k for k in said if said[k] != used[k]} == {"forbid_unk"}
