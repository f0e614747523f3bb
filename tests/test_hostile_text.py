"""Any bytes in, as many lines out, or a clear error; never a crash, a hang or a lost line."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmt import Translator, cli
from nmt.data import cleaning, staging
from nmt.data.cleaning import Funnel
from nmt.data.corpus import read_lines as corpus_lines
from nmt.decoding.lines import read_chunks, read_lines
from nmt.errors import UserError

GOLDEN = Path(__file__).with_name("golden")
LINE_ENDS = ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"]
HOSTILE = [
    "Straße 北京 Москва القاهرة ירושלים ქართული हिन्दी ไทย 한국어 かな",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩 👍🏽",
    "zero\u200bwidth\u200c\u200djoin\u2060er\ufeff",
    "\u202eright to left\u202c \u2066isolate\u2069 \u200f\u200e",
    "e\u0301" + "\u0301\u0323\u0489" * 200,
    "\u0000\u0001\x1b[2J\x7f\x9b",
    "\U000e0041\U0010ffff\ufffe\uffff\ufdd0",
    "▁ ▁▁ <unk> <s> </s> <0x41> ⁇",
    "a" * 5_000,
    "İIıi ǅ ﬁ Å Å",
    "\u3000\u00a0\u2009 \u1680",
    "=${x} {a: b} [1, 2] null 1e3 %s {0} \\n",
]
FEW = settings(max_examples=25, deadline=None)
TEXT = st.text(max_size=40) | st.sampled_from(HOSTILE)
BYTES = st.binary(max_size=60) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def translator() -> Translator:
    words = ["search=greedy", "search.max_length=4", "train.device=cpu"]
    return Translator.load(GOLDEN / "transformer", words=words, report=lambda text: None)


# --- readers --------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(BYTES.map(lambda b: b.replace(b"\n", b" ")), max_size=8), last=st.booleans())
def test_readers_keep_every_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], last: bool
) -> None:
    data = b"\n".join(lines) + b"\n" * (last and bool(lines))
    count = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    found = read_lines(io.BytesIO(data), report=lambda text: None)
    assert len(found) == count
    assert not any("\n" in line for line in found)
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(data)
    if data[:2] == b"\x1f\x8b":
        return
    dropped = list(corpus_lines(path, Counter(), drop_invalid=True))
    assert len(dropped) == count
    if None not in dropped:
        assert list(corpus_lines(path, Counter())) == dropped
        return
    with pytest.raises(UserError, match=f"line {dropped.index(None) + 1}: byte"):
        list(corpus_lines(path, Counter()))


@FEW
@given(data=st.binary(max_size=40))
def test_what_claims_to_be_gzip_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "file.gz"
    path.write_bytes(b"\x1f\x8b\x08" + data)
    with pytest.raises(UserError, match="not a whole gzip file"):
        list(corpus_lines(path, Counter()))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT) | st.none(), max_size=12))
def test_the_funnel_adds_up_for_any_text(rows: list[tuple[str, str] | None]) -> None:
    filters = cleaning.pair_filters(
        cleaning.PAIR_FILTERS, source_language="en", target_language="zh", max_words=20,
        max_characters=100, max_ratio=3.0, min_script_share=0.5,
    )  # fmt: skip
    funnel = Funnel()
    kept = list(cleaning.clean(rows, filters, funnel))
    assert funnel.read == len(rows)
    assert funnel.kept == len(kept) == len(rows) - funnel.removed.total()
    assert all(rows[number] == (source, target) for number, source, target in kept)


# --- translate ------------------------------------------------------------------------------------


@FEW
@given(data=st.lists(BYTES, max_size=6))
@example(data=[text.encode() for text in HOSTILE])
@example(data=[end.join("abc").encode() for end in LINE_ENDS])
@example(data=[b"\xed\xa0\x80", b"\xff\xfe", b"\xc3", b"\xf4\x90\x80\x80"])
def test_translate_gives_a_line_for_a_line(translator: Translator, data: list[bytes]) -> None:
    raw = b"\n".join(data)
    lines = read_lines(io.BytesIO(raw), report=lambda text: None)
    found = translator.translate(lines)
    assert len(found) == len(lines)
    for line, one in zip(lines, found, strict=True):
        assert one.source == line
        assert not set(one.text) & {"\n", "\r"}
        if not line.strip():
            assert one.text == ""
        one.text.encode()


def test_lone_surrogates_of_the_command_line(translator: Translator) -> None:
    assert len(translator.translate(["\udcff\ud800 a"])) == 1


def test_a_line_of_a_hundred_thousand_tokens(translator: Translator) -> None:
    text = "dog cat " * 50_000
    assert len(translator.run.tokenizers.source.encode([text])[0]) >= 100_000
    before, (found,), after = (translator.translate([t]) for t in ("a dog", text, "a dog"))
    assert found.parts > 200
    assert found.source == text
    assert before == after


def test_a_line_without_a_place_to_cut(translator: Translator) -> None:
    (found,) = translator.translate(["ab" * 20_000])
    assert found.parts > 50


def test_a_million_empty_lines(translator: Translator) -> None:
    chunks = [len(chunk) for chunk in read_chunks(io.BytesIO(b"\n" * 1_000_000))]
    assert sum(chunks) == 1_000_000
    assert max(chunks) <= 2_000  # memory is that of one chunk, so a part of them shows the rest
    chunk = read_chunks(io.BytesIO(b"\n" * 100_000))
    assert sum(translation.text == "" for translation in translator.stream(chunk)) == 100_000


# --- files and pipes ------------------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one line\n" * 400_000)
    with path.open("rb") as stream:
        chunks = read_chunks(stream)
        first = next(chunks)
        with path.open("ab") as more:
            more.write(b"grown\n" * 5)
        lines = [*first, *(line for chunk in chunks for line in chunk)]
    assert len(lines) == 400_005
    with path.open("rb") as stream:
        chunks = read_chunks(stream)
        first = next(chunks)
        os.truncate(path, 100)
        rest = [line for chunk in chunks for line in chunk]
    assert set(first) == {"one line"}
    assert all("one line".startswith(line) for line in rest[-1:])


def test_a_corpus_that_changes_while_it_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("en", "fr"):
        text = (GOLDEN / "corpus" / f"train.{side}").read_text("utf-8")
        (tmp_path / f"c.{side}").write_text(text, "utf-8")
    real = staging.train_tokenizers

    def train(*arguments: Any, **named: Any) -> Any:
        with (tmp_path / "c.en").open("a", encoding="utf-8") as file:
            file.write("one more line\n")
        return real(*arguments, **named)

    argv = ["prepare", "data=files", "data.train=c", f"data.root={tmp_path}"]
    argv += [f"data.cache={tmp_path / 'cache'}", "tokenizer.vocab_size=320"]
    with monkeypatch.context() as patch:
        patch.setattr(staging, "train_tokenizers", train)
        assert cli.main(argv) == 1
    err = capsys.readouterr().err
    assert err.endswith("c.en was changed while it was read: run the command again\n")
    assert not list((tmp_path / "cache").glob("files-*"))
    with (tmp_path / "c.fr").open("a", encoding="utf-8") as file:
        file.write("une ligne de plus\n")
    assert cli.main(argv) == 0


class Pipes:
    """`nmt translate` in a thread, between two real pipes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
        stdin, self.feed = os.pipe()
        self.take, stdout = os.pipe()
        source = io.TextIOWrapper(os.fdopen(stdin, "rb"), encoding="utf-8")
        target = io.TextIOWrapper(os.fdopen(stdout, "wb"), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", source)
        monkeypatch.setattr(sys, "stdout", target)
        self.status: list[int] = []

        def work() -> None:
            self.status.append(cli.main(argv))
            target.close()

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def lines(self) -> Iterator[bytes]:
        with open(self.take, "rb", buffering=0) as stream:
            yield from stream

    def end(self) -> int:
        self.thread.join(timeout=120)
        assert not self.thread.is_alive()
        return self.status[0]


ARGV = ["translate", f"run={GOLDEN / 'lstm'}", "search=greedy", "search.max_length=4"]


def test_output_streams_while_stdin_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = Pipes(monkeypatch, ARGV)
    lines = pipes.lines()
    for number in range(3):  # the next line is written after the answer to this one is there
        os.write(pipes.feed, f"a dog {number}\n".encode())
        assert next(lines).endswith(b"\n")
    os.write(pipes.feed, b"the end, without a newline")
    os.close(pipes.feed)
    assert len(list(lines)) == 1
    assert pipes.end() == 0


def test_a_pipe_that_closes_early(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pipes = Pipes(monkeypatch, ARGV)
    os.write(pipes.feed, b"a dog\n")
    assert next(pipes.lines()).endswith(b"\n")  # the reader goes with the generator
    for _ in range(3):
        os.write(pipes.feed, b"a cat\n" * 100)
    os.close(pipes.feed)
    assert pipes.end() == 141
    assert "Traceback" not in capfd.readouterr().err
