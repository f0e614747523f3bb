"""A new run from an old one: weights, tokenizer, added symbols, parts held fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nmt import Translator, cli, compose
from nmt.data.tokenizer import Tokenizers
from nmt.training.checkpoint import load_weights

FEW = ("train.max_steps=2", "train.validate_sentences=0", "train.metric=loss")


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return load_weights(run / "checkpoints", which).tensors


@pytest.fixture
def argv(trained: Path, tmp_path: Path) -> list[str]:
    """A new run from the trained one, on another corpus, without a word about the model."""
    lines = [(f"A dog sees {n} cats.", f"Un chien voit {n} chats.") for n in range(60)]
    for side, name in enumerate(("en", "fr")):
        text = "".join(f"{pair[side]}\n" for pair in lines)
        (tmp_path / f"c.{name}").write_text(text, encoding="utf-8")
    return [
        *("train", f"run={tmp_path / 'new run'}", f"train.init_from={trained}", "data=files"),
        *("data.train=c", f"data.root={tmp_path}", "data.valid_size=5", "data.test_size=5", *FEW),
    ]


def test_weights_and_tokenizer_are_taken_over(
    trained: Path, tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "new run"
    status, _, err = nmt(capsys, *argv, "optim.learning_rate=1e-12", "model.dropout=0.0")
    assert status == 0, err
    assert f"weights of {trained}, step-000000" in err
    old, new = weights(trained, "best"), weights(run)
    assert old.keys() == new.keys()
    assert all(torch.allclose(old[k], new[k], atol=1e-6) for k in old)
    assert Tokenizers.load(run / "tokenizer").hash == Tokenizers.load(trained / "tokenizer").hash
    config = compose.load(run / "config.yaml")
    assert (config.model.width, config.model.dropout, config.data.name) == (32, 0.0, "files")
    # It is a run like any other: it goes on without the old one, is evaluated and translates.
    argv[2] = f"train.init_from={tmp_path / 'gone'}"
    status, _, err = nmt(capsys, "train", f"run={run}", "train.max_steps=3")
    assert status == 0, err
    assert "weights of" not in err
    status, _, err = nmt(capsys, "evaluate", f"run={run}", "search=greedy", "search.max_length=5")
    assert status == 0, err
    assert Translator.load(run, words=["search.max_length=5"]).translate(["A dog."])[0].text


def test_added_symbols_get_rows_of_their_own(
    trained: Path, tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "new run"
    status, _, err = nmt(capsys, *argv, "tokenizer.user_symbols=['<de>','⟦x⟧']")
    assert status == 0, err
    assert "have new rows" in err
    old, new = (Tokenizers.load(r / "tokenizer").source for r in (trained, run))
    assert new.size == old.size + 2
    text = "A dog sees <de> a cat ⟦x⟧."
    ids = new.encode([text])[0]
    assert new.size - 2 in ids
    assert new.size - 1 in ids
    assert new.decode(ids) == text
    assert new.encode(["A dog sees a cat."]) == old.encode(["A dog sees a cat."])
    grown = [k for k, t in weights(run).items() if t.shape != weights(trained)[k].shape]
    assert grown
    assert all(len(weights(run)[k]) == new.size for k in grown)


def test_another_model_is_refused_with_the_difference(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = nmt(capsys, *argv, "model.ffn=48")
    assert status == 1
    assert "does not fit this model" in err
    argv[2] = "train.init_from=runs/nowhere"
    status, _, err = nmt(capsys, *argv)
    assert (status, err.count("\n")) == (1, 1)
    assert "runs/nowhere: no such run directory" in err


def test_frozen_parts_stay_bitwise_what_they_were(
    trained: Path, tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "new run"
    status, _, err = nmt(capsys, *argv, "train.freeze=[encoder]", "train.ema=0.5")
    assert status == 0, err
    assert "held fast: encoder" in err
    status, _, err = nmt(capsys, "train", f"run={run}", "train.max_steps=3")  # it also resumes
    assert status == 0, err
    old, new = weights(trained, "best"), weights(run)
    frozen = {name for name in old if name.startswith("encoder.")}
    assert frozen
    for name in old:
        assert torch.equal(old[name], new[name]) == (name in frozen), name
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert any("are trained" in r.get("text", "") for r in log)


def test_an_unknown_part_is_refused_with_those_there_are(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = nmt(capsys, *argv, "train.freeze=[encodr]")
    assert (status, err.rstrip("\n").count("nmt: ")) == (1, 1)
    assert "no part 'encodr'; did you mean 'encoder'?" in err
    assert "target_embedding" in err
    status, _, err = nmt(capsys, *argv, "train.freeze=[encoder,decoder,target_embedding]")
    assert status in (0, 1)
    assert status == 0 or "leaves nothing to train" in err
