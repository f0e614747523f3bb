"""Segmentations drawn at random: the distribution, and that it is the same in every process."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data.subwords import CONTROL, NORMAL, SubwordSampler, read_pieces
from nmt.data.tokenizer import Tokenizer

TEXTS = [
    f"{a} {n} {v} {a} {m}{p}"
    for a, n, v, m, p in itertools.product(
        ("the", "a"), ("dog", "house", "hound"), ("sees", "seems"), ("cat", "mouse"), (".", "!")
    )
]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(
        TEXTS, model_type=request.param, vocab_size=282, user_symbols=["⟨x⟩", "⟦"]
    )


def test_pieces_are_those_of_the_model(tokenizer: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.proto)
    pieces, bpe = read_pieces(tokenizer.proto)
    assert len(pieces) == tokenizer.size
    assert bpe == (read_pieces(tokenizer.proto)[1])
    for i, (text, score, kind) in enumerate(pieces):
        assert text == processor.id_to_piece(i)
        assert score == processor.get_score(i)
        assert (kind == CONTROL) == processor.is_control(i)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30) | st.sampled_from(TEXTS), seed=st.integers(0, 2**63))
def test_any_segmentation_spells_the_same_text(tokenizer: Tokenizer, text: str, seed: int) -> None:
    (drawn,) = tokenizer.sample([text], alpha=0.3, seed=seed)
    assert tokenizer.decode(drawn) == tokenizer.decode(tokenizer.encode([text])[0])


def test_symbols_and_unknown_characters_stay(tokenizer: Tokenizer) -> None:
    text = "the ⟦dog 象 ⟨x⟩house"
    best = tokenizer.encode([text])[0]
    for seed in range(20):
        (drawn,) = tokenizer.sample([text], alpha=0.5, seed=seed)
        for symbol in ("⟦", "⟨x⟩", "<0xE8>"):
            assert symbol in tokenizer.pieces(best)
            assert symbol in tokenizer.pieces(drawn)


def model_of(pieces: dict[str, float], *, bpe: bool) -> bytes:
    """A model file by hand: specials and the given pieces."""
    import struct

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def piece(text: str, score: float, kind: int) -> bytes:
        head = field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score)
        return field(1, head + bytes([3 << 3, kind]))

    body = piece("<unk>", 0.0, 2) + b"".join(piece(t, s, NORMAL) for t, s in pieces.items())
    return body + field(2, bytes([3 << 3, 2 if bpe else 1]))


def test_unigram_draws_from_the_sharpened_distribution() -> None:
    """Against all segmentations, enumerated (Kudo 2018, Eq. 9 with l = infinity)."""
    pieces = {"▁": -2.0, "a": -2.0, "b": -3.0, "ab": -2.5, "▁a": -1.5, "ba": -4.0, "aba": -4.5}
    sampler = SubwordSampler(model_of(pieces, bpe=False))
    names = ["<unk>", *pieces]
    text, alpha, count = "▁aba", 0.7, 30_000

    def ways(rest: str) -> list[tuple[str, ...]]:
        if not rest:
            return [()]
        heads = [p for p in pieces if rest.startswith(p)]
        return [(head, *tail) for head in heads for tail in ways(rest[len(head) :])]

    weights = {w: math.exp(alpha * sum(pieces[p] for p in w)) for w in ways(text)}
    random = Random(1)
    best = [names.index("▁"), names.index("aba")]
    drawn = Counter(
        tuple(names[i] for i in sampler.draw(best, alpha=alpha, random=random))
        for _ in range(count)
    )
    assert drawn.keys() == weights.keys()
    assert len(weights) > 5
    for way, weight in weights.items():
        share = weight / sum(weights.values())
        assert drawn[way] / count == pytest.approx(share, abs=4 * math.sqrt(share / count))


def test_bpe_drops_merges() -> None:
    """Provilkov et al. 2020, Algorithm 1, worked out by hand for two merges that compete."""
    pieces = {"a": 0.0, "b": 0.0, "c": 0.0, "ab": -1.0, "bc": -2.0, "abc": -3.0}
    sampler = SubwordSampler(model_of(pieces, bpe=True))
    p, count, random = 0.3, 30_000, Random(2)
    names = ["<unk>", *pieces]
    drawn = Counter(
        "|".join(names[i] for i in sampler.draw([1, 2, 3], alpha=p, random=random))
        for _ in range(count)
    )
    # a b c: ab survives with 1 - p; else bc with p (1 - p); else nothing is merged.
    expected = {
        "a|b|c": p * p,
        "abc": (1 - p) * (1 - p),  # ab, then ab + c; bc + a is no piece of its own
        "ab|c": (1 - p) * p,
        "a|bc": 0.0,
    }
    after_bc = p * (1 - p)  # a + bc spells abc, which is a piece
    expected["abc"] += after_bc * (1 - p)
    expected["a|bc"] += after_bc * p
    for way, share in expected.items():
        assert drawn[way] / count == pytest.approx(share, abs=0.012), way
    assert sampler.draw([1, 2, 3], alpha=0.0, random=random) == [names.index("abc")]


FRESH = """
import json, sys
from nmt.data.tokenizer import Tokenizer
tokenizer = Tokenizer(bytes.fromhex(sys.argv[1]))
print(json.dumps(tokenizer.sample(json.loads(sys.argv[2]), alpha=0.2, seed=7)))
"""


def test_another_process_draws_the_same(tokenizer: Tokenizer) -> None:
    """SentencePiece's own sampling does not: it would break resuming and part the ranks."""
    argv = [sys.executable, "-c", FRESH, tokenizer.proto.hex(), json.dumps(TEXTS)]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert json.loads(done.stdout) == tokenizer.sample(TEXTS, alpha=0.2, seed=7)
