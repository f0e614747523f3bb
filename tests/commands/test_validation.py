"""What each validation shows of attention: the same pairs, their pictures and their entropies."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from nmt import compose
from nmt.commands import validation
from nmt.commands.validation import EXPLAINED, SAMPLES, Validator
from nmt.data.batching import collate
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.data.tokenizer import BOS, EOS, PAD
from nmt.models.seq2seq import Seq2Seq, Source
from nmt.runs import empty_model, stored_config


@pytest.fixture(scope="module")
def prepared(trained: Path) -> Prepared:
    config = stored_config(trained)
    return prepare(config.data, config.tokenizer, report=lambda text: None)


def make(
    trained: Path, prepared: Prepared, *words: str, seed: int = 1
) -> tuple[Validator, Seq2Seq]:
    """A validator, and a model as it is before training."""
    config = compose.with_words(stored_config(trained), ["train.validate_sentences=0", *words])
    torch.manual_seed(seed)
    model = empty_model(config, prepared.tokenizers).eval()
    return Validator(config, prepared), model


def entropy_by_loops(
    weights_BHQK: torch.Tensor, queries: list[int], keys: list[int]
) -> list[float]:
    """Mean entropy of the real rows of each head."""
    found = []
    for head in range(weights_BHQK.shape[1]):
        rows = []
        for pair, (q, k) in enumerate(zip(queries, keys, strict=True)):
            for row in weights_BHQK[pair, head, :q, :k].double().tolist():
                rows.append(-sum(p * math.log(p) for p in row if p > 0))
        found.append(sum(rows) / len(rows))
    return found


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all the rest."""
    monkeypatch.setattr(validation, "as_rgb", lambda figure: figure)


@pytest.mark.usefixtures("undrawn")
def test_entropies_are_those_of_the_first_dev_pairs(trained: Path, prepared: Prepared) -> None:
    validator, model = make(trained, prepared, "model.decoder_layers=2")
    found = validator(model)
    store = prepared.valid
    batch = collate(
        [list(map(int, store.source[i])) for i in range(EXPLAINED)],
        [list(map(int, store.target[i])) for i in range(EXPLAINED)],
        pad=PAD,
        bos=BOS,
        eos=EOS,
    )
    with torch.no_grad():
        weights = model.explain(Source(batch.source_BS, batch.source_keep_BS), batch.target_in_BT)
    s = batch.source_keep_BS.sum(1).tolist()
    t = batch.target_keep_BT.sum(1).tolist()
    sizes = {"encoder": (weights.encoder, s, s), "decoder": (weights.decoder, t, t)}
    sizes["cross"] = (weights.cross, t, s)
    assert found.entropy.keys() == sizes.keys()
    for kind, (all_layers, queries, keys) in sizes.items():
        assert all_layers is not None
        assert len(found.entropy[kind]) == len(all_layers)
        for layer, by_head in enumerate(found.entropy[kind]):
            expected = entropy_by_loops(all_layers[layer], queries, keys)
            assert by_head == pytest.approx(expected, rel=1e-4)


def test_the_pictures_are_of_the_same_pairs_whatever_the_model(
    trained: Path, prepared: Prepared
) -> None:
    shown = []
    for seed in (1, 2):
        validator, model = make(trained, prepared, seed=seed)
        explained = validator._explained(model)
        shown.append([(one.source, one.target) for one in explained])
    assert shown[0] == shown[1]
    figures = validator(model).figures
    assert set(figures) == {*map(str, range(SAMPLES)), "heads"}
    assert all(picture.shape[2] == 3 and picture.std() > 0 for picture in figures.values())
    tokenizers = prepared.tokenizers
    for place in range(SAMPLES):
        source = prepared.sources("valid")[place]
        target = prepared.references("valid")[0][place]
        assert shown[0][place][0][:-1] == tokenizers.source.pieces(
            tokenizers.source.encode([source])[0]
        )
        assert shown[0][place][1][:-1] == tokenizers.target.pieces(
            tokenizers.target.encode([target])[0]
        )


def test_without_weights_there_is_a_reason_and_no_picture(
    trained: Path, prepared: Prepared
) -> None:
    validator, model = make(trained, prepared, "model=lstm", "model.width=16", "attention=none")
    found = validator(model)
    assert found.figures == {}
    assert found.entropy == {}
    assert "attention=none" in found.missing["cross"]
    assert set(found.scores) == {"loss", "perplexity"}


@pytest.mark.usefixtures("undrawn")
def test_linear_attention_keeps_what_weights_there_are(trained: Path, prepared: Prepared) -> None:
    validator, model = make(trained, prepared, "attention.encoder=linear")
    found = validator(model)
    assert set(found.entropy) == {"decoder", "cross"}
    assert set(found.missing) == {"encoder"}
    assert "0" in found.figures


def test_pairs_longer_than_the_model_knows_are_left_out(trained: Path, prepared: Prepared) -> None:
    lengths = [max(len(prepared.valid.source[i]), len(prepared.valid.target[i])) for i in range(8)]
    validator, model = make(trained, prepared)
    model.max_source_length = model.max_target_length = sorted(lengths)[3] + 1
    explained = validator._explained(model)
    assert 0 < len(explained) < EXPLAINED
    assert all(len(one.source) <= model.max_source_length for one in explained)
