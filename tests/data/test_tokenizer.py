from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer, Tokenizers
from nmt.errors import UserError


@pytest.fixture(scope="module")
def texts(pairs: list[tuple[str, str]]) -> list[str]:
    return [text for pair in pairs for text in pair]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request: pytest.FixtureRequest, texts: list[str]) -> Tokenizer:
    return Tokenizer.train(texts, model_type=request.param, vocab_size=312)


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)
    assert tokenizer.pieces([PAD, UNK, BOS, EOS]) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert tokenizer.size == 312
    assert tokenizer.decode([BOS, *tokenizer.encode(["The dog."])[0], EOS, PAD, PAD]) == "The dog."


@pytest.mark.parametrize(
    "text",
    [
        "Le chien voit un chat à la maison.",
        "L’été, c’est « déjà » fini… 50 % ½ ﬁn — №5 x² ①",  # NFKC would change these
        "No\u00a0break\u202fspace",
        "日本語 и кириллица 🙂👩‍👩‍👧",
        "NUL\x00 NEL\x85 LS\u2028 tab\t",
        "",
    ],
)
def test_round_trip_keeps_every_character(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert UNK not in ids


def test_only_spaces_and_composition_change(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(["  e\u0301te\u0301  fini "])[0]) == "été fini"


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
def test_round_trip_of_any_text(text: str) -> None:
    tokenizer = _byte_tokenizer()
    expected = re.sub(" +", " ", unicodedata.normalize("NFC", text)).strip(" ")
    assert tokenizer.decode(tokenizer.encode([text])[0]) == expected


_CACHE: list[Tokenizer] = []


def _byte_tokenizer() -> Tokenizer:
    if not _CACHE:
        _CACHE.append(Tokenizer.train(["a b c"] * 3, model_type="bpe", vocab_size=265))
    return _CACHE[0]


def test_batch_is_the_same_as_one_by_one(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert len(texts) >= 256  # several threads
    assert tokenizer.encode(texts) == [tokenizer.encode([text])[0] for text in texts]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_training_is_deterministic(kind: str, texts: list[str]) -> None:
    first, second = (Tokenizer.train(iter(texts), model_type=kind, vocab_size=305) for _ in "ab")
    other = Tokenizer.train(texts, model_type=kind, vocab_size=306)
    assert first.hash == second.hash != other.hash


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_vocabulary_too_large_names_the_largest_possible(kind: str, texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=(\d+)") as caught:
        Tokenizer.train(texts, model_type=kind, vocab_size=9_000)
    largest = int(re.search(r"vocab_size=(\d+)", str(caught.value))[1])  # type: ignore[index]
    assert Tokenizer.train(texts, model_type=kind, vocab_size=largest).size == largest
    with pytest.raises(UserError, match="larger than this text supports"):
        Tokenizer.train(texts, model_type=kind, vocab_size=largest + 1)


def test_vocabulary_too_small_names_the_smallest_possible(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"smallest possible is tokenizer\.vocab_size=(\d+)") as e:
        Tokenizer.train(texts, model_type="bpe", vocab_size=100)
    smallest = int(re.search(r"vocab_size=(\d+)", str(e.value))[1])  # type: ignore[index]
    assert Tokenizer.train(texts, model_type="bpe", vocab_size=smallest).size == smallest


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text(texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text"):
        Tokenizer.train(texts, model_type="bpe", vocab_size=300)


def test_without_byte_fallback_an_unseen_character_is_unknown(texts: list[str]) -> None:
    tokenizer = Tokenizer.train(texts, model_type="bpe", vocab_size=80, byte_fallback=False)
    (ids,) = tokenizer.encode(["The дog."])
    assert UNK in ids
    assert "⁇" in tokenizer.decode(ids)
    assert tokenizer.byte_ids() == []


def test_byte_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.byte_ids()
    assert len(ids) == 256
    assert set(tokenizer.encode(["\U0001f642"])[0]) & set(ids)


def test_user_symbols_stay_whole(texts: list[str]) -> None:
    tokenizer = Tokenizer.train(
        texts, model_type="unigram", vocab_size=312, user_symbols=["<2fr>", "[x]"]
    )
    (ids,) = tokenizer.encode(["<2fr> The dog[x]."])
    assert {"<2fr>", "[x]"} <= set(tokenizer.pieces(ids))
    assert tokenizer.decode(ids) == "<2fr> The dog[x]."


def test_sampling_depends_on_the_seed_alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    drawn = tokenizer.sample(texts, alpha=0.2, seed=5)
    tokenizer.sample(texts[:7], alpha=0.5, seed=77)
    assert tokenizer.sample(texts, alpha=0.2, seed=5) == drawn
    assert tokenizer.sample(texts, alpha=0.2, seed=6) != drawn
    assert drawn != tokenizer.encode(texts)
    assert [tokenizer.decode(ids) for ids in drawn] == texts


def test_save_and_load(tmp_path: Path, texts: list[str]) -> None:
    joint = Tokenizer.train(texts, model_type="bpe", vocab_size=320)
    other = Tokenizer.train(texts[:100], model_type="bpe", vocab_size=310)
    for tokenizers, files in (
        (Tokenizers(joint, joint), {"joint.model", "tokenizer.json"}),
        (Tokenizers(joint, other), {"source.model", "target.model", "tokenizer.json"}),
    ):
        folder = tmp_path / str(tokenizers.joint)
        tokenizers.save(folder)
        again = Tokenizers.load(folder)
        assert {path.name for path in folder.iterdir()} == files
        assert again.hash == tokenizers.hash
        assert again.joint == tokenizers.joint
        assert again.target.encode(texts) == tokenizers.target.encode(texts)
    assert Tokenizers(joint, other).hash != Tokenizers(other, joint).hash


def test_damaged_tokenizers_are_refused(tmp_path: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer.train(texts, model_type="bpe", vocab_size=320)
    other = Tokenizer.train(texts, model_type="bpe", vocab_size=310)
    with pytest.raises(UserError, match="there is no tokenizer in"):
        Tokenizers.load(tmp_path)
    Tokenizers(tokenizer, tokenizer).save(tmp_path)
    other.save(tmp_path / "joint.model")
    with pytest.raises(UserError, match="damaged"):
        Tokenizers.load(tmp_path)
    (tmp_path / "joint.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="its files were changed"):
        Tokenizers.load(tmp_path)


def test_ten_megabytes_on_a_line(texts: list[str]) -> None:
    tokenizer = Tokenizer.train(texts, model_type="unigram", vocab_size=312)
    text = "The dog sees a cat. " * 500_000
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text.strip()
