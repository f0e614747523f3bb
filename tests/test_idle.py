"""A typed key that would change nothing is refused; the same key of a preset is not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nmt import cli, compose
from nmt.config import ModelConfig
from nmt.errors import UserError
from nmt.idle import RECURRENT, TRANSFORMER, idle


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("model=lstm model.heads=8", "model.heads belongs to a Transformer"),
        ("model=lstm model.positions=rotary", "model.positions belongs to a Transformer"),
        ("model=lstm model.attention_dropout=0.3", "belongs to a Transformer"),
        ("model=transformer_tiny model.cell=gru", "model.cell belongs to a recurrent model"),
        ("model.bridge=last", "model.bridge belongs to a recurrent model"),
        ("model.max_positions=99", "belongs to model.positions=learned"),
        ("model=lstm attention=bahdanau attention.span=3", "attention.span belongs to a window"),
        ("model=lstm attention=none attention.span=3", "attention.span belongs to a window"),
        ("attention.span=3", "attention.span belongs to a window"),
        ("optim.min_ratio=0.1", "belongs to optim.schedule=cosine or linear"),
    ],
)
def test_what_would_change_nothing_is_refused(
    words: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--dry-run", *words.split()]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert f"nmt: {words.split()[-1]} would have no effect" in said


@pytest.mark.parametrize(
    "words",
    [
        "experiment=quickstart model=lstm_small",  # the preset has rotary positions
        "model=transformer_tiny model.heads=8 model.norm=post",
        "model=transformer_tiny model.positions=learned model.max_positions=99",
        "model=lstm model.cell=gru model.bridge=last model.embedding=64",
        "model=lstm attention=local_p attention.span=3",
        "attention=sliding_window attention.span=3",
        "optim.schedule=cosine optim.min_ratio=0.1",
    ],
)
def test_what_counts_is_not(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--dry-run", *words.split()]) == 0


def test_every_key_of_a_model_belongs_to_one_kind_or_to_both() -> None:
    both = {"name", "kind", "encoder_layers", "decoder_layers", "width", "tie", "dropout"}
    assert {*RECURRENT, *TRANSFORMER, *both} == {field.name for field in fields(ModelConfig)}
    assert not {*RECURRENT} & {*TRANSFORMER}
    known = compose.keys()
    for words in ([], ["model=lstm"]):
        assert set(idle(compose.compose(words))) <= set(known)


def test_what_samples_is_not_said_to_a_beam() -> None:
    stored = compose.compose([])
    with pytest.raises(
        UserError, match=r"search.temperature=0.7 would .* sampling \(search=sample"
    ):
        compose.with_words(stored, ["search.temperature=0.7"])
    found = compose.with_words(
        stored, ["search=sample", "search.temperature=0.7", "search.n_best=3"]
    )
    assert (found.search.temperature, found.search.n_best, found.search.beam) == (0.7, 3, 1)
