"""SentencePiece: train, load, encode, decode, sample. The special ids live here and nowhere else.

Unigram follows Kudo (2018, "Subword Regularization"), BPE Sennrich et al. (2016). Text is composed
(Unicode NFC) and otherwise left alone: what goes in comes out again, except that runs of spaces
become one and spaces at the ends go.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import sentencepiece

from nmt.data.subwords import SubwordSampler, add_symbols
from nmt.errors import UserError
from nmt.files import DamagedError, parsed, read_file

PAD, UNK, BOS, EOS = 0, 1, 2, 3

_SILENT = frozenset((PAD, BOS, EOS))
_TRAINING_THREADS = 4  # part of the result: the sums of unigram training depend on their number
_LARGEST_MODEL = 2**28  # bytes of a model file; half a million pieces take 2**24
_LONGEST_TRAINING_TEXT = 16_384  # bytes; longer ones would cost memory and teach nothing


class Tokenizer:
    """One SentencePiece model with the ids `PAD, UNK, BOS, EOS`."""

    def __init__(self, proto: bytes) -> None:
        self.proto = proto
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.size: int = self._processor.get_piece_size()
        self.hash: str = hashlib.sha256(proto).hexdigest()

    @cached_property
    def _sampler(self) -> SubwordSampler:
        return SubwordSampler(self.proto)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        model_type: str,
        vocab_size: int,
        character_coverage: float = 1.0,
        byte_fallback: bool = True,
        user_symbols: Sequence[str] = (),
    ) -> Tokenizer:
        """Train on `texts`; the same texts in the same order give the same model.

        Args:
            texts: training text, one sentence each.
            model_type: ``unigram`` or ``bpe``.
            vocab_size: number of pieces, special ids and bytes included.
            character_coverage: share of the characters that get a piece of their own.
            byte_fallback: spell other characters as UTF-8 bytes; without it they are unknown.
            user_symbols: strings that are always one piece.

        Raises:
            UserError: no text, or a vocabulary that these texts do not support.
        """
        proto = io.BytesIO()
        texts = _composed(texts)
        first = next(texts, None)
        if first is None:
            raise UserError("there is no text to train the tokenizer on")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_chained(first, texts),
                model_writer=proto,
                model_type=model_type,
                vocab_size=vocab_size,
                character_coverage=character_coverage,
                byte_fallback=byte_fallback,
                user_defined_symbols=list(user_symbols),
                normalization_rule_name="identity",
                max_sentence_length=_LONGEST_TRAINING_TEXT,
                num_threads=_TRAINING_THREADS,
                pad_id=PAD,
                unk_id=UNK,
                bos_id=BOS,
                eos_id=EOS,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise _explained(str(error), vocab_size) from None
        return cls(proto.getvalue())

    def save(self, path: Path) -> None:
        path.write_bytes(self.proto)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without begin and end."""
        threads = 1 if len(texts) < 256 else min(os.cpu_count() or 1, 16)
        ids: list[list[int]] = self._processor.encode(
            list(_composed(texts, empty=True)), num_threads=threads
        )
        return ids

    def sample(self, texts: Sequence[str], *, alpha: float, seed: int) -> list[list[int]]:
        """Like `encode`, with segmentations drawn at random; texts and seed alone decide which.

        For unigram, `alpha` sharpens the distribution over all segmentations (0 is uniform); for
        BPE it is the probability that a merge is left out. See `SubwordSampler`.
        """
        random = Random(seed)
        return [self._sampler.draw(best, alpha=alpha, random=random) for best in self.encode(texts)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; padding, begin and end are dropped, an unknown shows as ⁇."""
        text: str = self._processor.decode([int(i) for i in ids if i not in _SILENT])
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id; ▁ marks the start of a word."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def special_ids(self) -> tuple[int, int, int, int]:
        """Ids of padding, unknown, begin and end as the model file has them."""
        p = self._processor
        return p.pad_id(), p.unk_id(), p.bos_id(), p.eos_id()

    def byte_ids(self) -> list[int]:
        """Ids of the pieces that spell one byte; empty without byte fallback."""
        return [i for i in range(self.size) if self._processor.is_byte(i)]


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """The tokenizers of both sides; one and the same object when the vocabulary is joint."""

    source: Tokenizer
    target: Tokenizer

    @property
    def joint(self) -> bool:
        return self.source is self.target

    @property
    def hash(self) -> str:
        """Identity of the vocabulary: data and weights belong together if it is equal."""
        return _hash([self.source.hash] if self.joint else [self.source.hash, self.target.hash])

    @property
    def protos(self) -> tuple[bytes, ...]:
        """The model files: one where the vocabulary is joint, else source and target."""
        both = self.source.proto, self.target.proto
        return both[:1] if self.joint else both

    @classmethod
    def of(cls, protos: Sequence[bytes]) -> Tokenizers:
        """From what `protos` gave."""
        made = [Tokenizer(proto) for proto in protos]
        return cls(made[0], made[-1])

    def with_symbols(self, symbols: Sequence[str]) -> Tokenizers:
        """The same vocabularies with further symbols behind all other ids."""
        return Tokenizers.of([add_symbols(proto, symbols) for proto in self.protos])

    def save(self, folder: Path) -> None:
        """Write ``joint.model``, or ``source.model`` and ``target.model``; ``tokenizer.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.joint:
            self.source.save(folder / "joint.model")
        else:
            self.source.save(folder / "source.model")
            self.target.save(folder / "target.model")
        card = {"format": 1, "joint": self.joint, "hash": self.hash}
        card |= {"source_size": self.source.size, "target_size": self.target.size}
        (folder / "tokenizer.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Tokenizers:
        """Read what `save` wrote.

        Raises:
            UserError: missing, damaged, or not the vocabulary that was saved.
        """
        card_file = folder / "tokenizer.json"
        if not os.path.lexists(card_file):
            raise UserError(f"there is no tokenizer in {folder}")
        card = parsed(card_file, read_file(card_file))
        names = ("joint",) if card.get("joint") is True else ("source", "target")
        # SentencePiece sees no byte before the hash has vouched for all of them.
        protos = [read_file(folder / f"{name}.model", limit=_LARGEST_MODEL) for name in names]
        if _hash([hashlib.sha256(proto).hexdigest() for proto in protos]) != card.get("hash"):
            raise DamagedError(f"the tokenizer in {folder} is damaged: its files were changed")
        try:
            tokenizers = cls.of(protos)
        except RuntimeError as error:
            raise DamagedError(f"cannot read the tokenizer in {folder}: {error}") from None
        for one in (tokenizers.source, tokenizers.target):
            if one.special_ids() != (PAD, UNK, BOS, EOS):
                raise DamagedError(f"the tokenizer in {folder} is none that nmt made")
        return tokenizers


def _hash(hashes: list[str]) -> str:
    """The identity of one joint vocabulary, or of two."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _composed(texts: Iterable[str], *, empty: bool = False) -> Iterator[str]:
    """Texts in Unicode NFC; empty ones are skipped unless `empty`."""
    for text in texts:
        if text or empty:
            yield text if text.isascii() else unicodedata.normalize("NFC", text)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _explained(message: str, vocab_size: int) -> UserError:
    """The errors of SentencePiece's trainer in words that name what to type."""
    if found := re.search(r"too high.*?<= (\d+)", message):
        return UserError(
            f"a vocabulary of {vocab_size:,} is larger than this text supports; the largest "
            f"possible is tokenizer.vocab_size={found[1]}"
        )
    if found := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return UserError(
            f"a vocabulary of {vocab_size:,} is smaller than the characters of this text; the "
            f"smallest possible is tokenizer.vocab_size={found[1]}, or lower "
            "tokenizer.character_coverage"
        )
    return UserError(f"SentencePiece cannot train the tokenizer: {message.splitlines()[0]}")
