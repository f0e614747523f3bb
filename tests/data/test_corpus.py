from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.data.corpus import (
    Hub,
    JsonLines,
    PlainFiles,
    Table,
    doubtful_line,
    plain_files,
    read_lines,
    sacrebleu_files,
)
from nmt.errors import UserError

EN_FR = ("en", "fr")


def lines(path: Path, content: bytes, **options: bool) -> tuple[list[str | None], Counter[str]]:
    path.write_bytes(content)
    notes: Counter[str] = Counter()
    return list(read_lines(path, notes, **options)), notes


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),  # a last line without its end is a line
        (b"a\n\nb\n", ["a", "", "b"]),
        (" a\u2028b\x00c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\u2029 \nx\n".encode(), None),
        (b"a\rb\n", ["a\rb"]),  # a lone carriage return is inside the line
        (b"a\r\r\n", ["a\r"]),
    ],
)
def test_lines_end_at_newline_only(
    tmp_path: Path, content: bytes, expected: list[str] | None
) -> None:
    if expected is None:
        expected = [content.decode().split("\n")[0], "x"]
    assert lines(tmp_path / "x", content)[0] == expected


def test_byte_order_mark_and_carriage_returns_go_and_are_counted(tmp_path: Path) -> None:
    content = "\ufeffa\r\nb\ufeff\r\n\ufeffc\n".encode()
    texts, notes = lines(tmp_path / "x", content)
    assert texts == ["a", "b\ufeff", "\ufeffc"]
    assert notes == {"byte-order marks removed": 1, "CR LF line ends read as LF": 2}


def test_invalid_utf8_is_an_error_with_its_line_or_none(tmp_path: Path) -> None:
    content = "été\n".encode() + "xx été\n".encode("latin-1") + b"end\n"
    with pytest.raises(UserError, match=r"x, line 2: byte 4 is not UTF-8.*invalid_utf8=drop"):
        lines(tmp_path / "x", content)
    assert lines(tmp_path / "x", content, drop_invalid=True)[0] == ["été", None, "end"]


def test_utf16_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: .*looks like UTF-16"):
        lines(tmp_path / "x", "été\n".encode("utf-16"))


def test_gzip_by_name_or_content(tmp_path: Path) -> None:
    zipped = gzip.compress("a\nété\n".encode())
    assert lines(tmp_path / "x.gz", zipped)[0] == ["a", "été"]
    assert lines(tmp_path / "x", zipped)[0] == ["a", "été"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(b"".join(b"%d line\n" % i for i in range(5_000))))
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"not gzip\n")
    with pytest.raises(UserError, match=r"x\.gz is not a whole gzip file"):
        lines(tmp_path / "x.gz", bytes(content))


def test_a_folder_or_nothing_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="cannot read"):
            list(read_lines(path, Counter()))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_lines_or_a_clear_error(tmp_path: Path, content: bytes) -> None:
    if content.startswith(b"\x1f\x8b"):
        return
    raw = content.split(b"\n")
    raw = raw[:-1] if raw[-1] == b"" else raw
    texts, notes = lines(tmp_path / "x", content, drop_invalid=True)
    assert len(texts) == len(raw)
    again = "\n".join("" if text is None else text for text in texts)
    assert again.count("\n") == max(len(raw) - 1, 0), "no line end inside a line"
    try:
        content.decode()
    except UnicodeDecodeError:
        assert None in texts
        with pytest.raises(UserError, match="is not UTF-8"):
            lines(tmp_path / "x", content)
    else:
        assert None not in texts
        mended = notes["CR LF line ends read as LF"] + 3 * notes["byte-order marks removed"]
        ends = len(raw) if content.endswith(b"\n") else max(len(raw) - 1, 0)
        assert len(again.encode()) + mended + ends - max(len(raw) - 1, 0) == len(content)


# --- plain files ---------------------------------------------------------------------------------


def write_sides(folder: Path, *sides: list[str]) -> PlainFiles:
    paths = []
    for number, texts in enumerate(sides):
        paths.append(folder / f"side{number}")
        paths[-1].write_text("".join(text + "\n" for text in texts), "utf-8", newline="\n")
    return PlainFiles(tuple(paths))


def test_prefix_and_explicit_paths(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\n")
    (tmp_path / "a.fr.gz").write_bytes(gzip.compress(b"un\n"))
    corpus = plain_files(["a"], EN_FR, tmp_path)
    assert list(corpus.rows(Counter())) == [("one", "un")]
    assert corpus.inputs() == [tmp_path / "a.en", tmp_path / "a.fr.gz"]
    explicit = plain_files(["a.fr.gz", str(tmp_path / "a.en")], EN_FR, tmp_path)
    assert list(explicit.rows(Counter())) == [("un", "one")]


def test_several_references(tmp_path: Path) -> None:
    corpus = write_sides(tmp_path, ["a", "b"], ["1", "2"], ["eins", "zwei"])
    assert list(corpus.rows(Counter())) == [("a", "1", "eins"), ("b", "2", "zwei")]


def test_a_side_that_is_not_utf8_drops_the_pair(tmp_path: Path) -> None:
    corpus = write_sides(tmp_path, ["a", "b", "c"], ["1", "2", "3"])
    corpus.paths[1].write_bytes(b"1\n\xff\n3\n")
    assert list(corpus.rows(Counter(), drop_invalid=True)) == [("a", "1"), None, ("c", "3")]


@pytest.mark.parametrize("lost", [0, 4, 17, 29])
@pytest.mark.parametrize("side", [0, 1])
def test_different_lengths_name_both_counts_and_the_line(
    tmp_path: Path, lost: int, side: int
) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 40, 30)
    sides = [["w " * size for size in sizes], ["mot " * size for size in sizes]]
    del sides[side][lost]
    corpus = write_sides(tmp_path, *sides)
    counts = r"side0 has 30 lines and .*side1 has 29" if side else r"side0 has 29 .*side1 has 30"
    with pytest.raises(UserError, match=rf"{counts}.* apart at line {lost + 1}$"):
        list(corpus.rows(Counter()))


def test_a_file_that_stops_early(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).integers(1, 99, 30)
    assert doubtful_line(sizes, 2 * sizes[:12]) == 13
    assert doubtful_line(2 * sizes[:12], sizes) == 13
    assert doubtful_line(sizes[:0], sizes) == 1


# --- tables --------------------------------------------------------------------------------------


def table(path: Path, content: str, columns: tuple[int, ...] = (0, 1)) -> list[Any]:
    path.write_bytes(content.encode())
    return list(Table(path, columns).rows(Counter()))


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    assert table(path, 'a "b\t1\nc\u2028\t\n') == [('a "b', "1"), ("c\u2028", "")]
    assert table(path, "id\ta\t1\n7\tb\t2\n", (2, 1)) == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize(
    ("content", "columns", "line", "found", "expected"),
    [
        ("a\t1\nb\n", (0, 1), 2, 1, 2),
        ("a\t1\nb\t2\t3\n", (0, 1), 2, 3, 2),
        ("a\t1\n\nb\t2\n", (0, 1), 2, 1, 2),
        ("a b\n", (0, 1), 1, 1, 2),
        ("a\t1\n", (0, 5), 1, 2, 6),
    ],
)
def test_wrong_number_of_columns(
    tmp_path: Path, content: str, columns: tuple[int, ...], line: int, found: int, expected: int
) -> None:
    message = rf"x\.tsv, line {line}: {found} columns where {expected} were expected"
    with pytest.raises(UserError, match=message):
        table(tmp_path / "x.tsv", content, columns)


# --- JSON lines ----------------------------------------------------------------------------------


def json_lines(path: Path, content: str, columns: tuple[str, ...] = EN_FR) -> tuple[list, Counter]:
    path.write_bytes(content.encode())
    notes: Counter[str] = Counter()
    return list(JsonLines(path, columns).rows(notes)), notes


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    content = '{"en": "a\\u2028", "fr": "\\u00e9", "x": 1}\n{"fr": "2", "en": "b"}\n'
    assert json_lines(path, content) == ([("a\u2028", "é"), ("b", "2")], Counter())
    nested = '{"translation": {"en": "a", "fr": "1"}}\n'
    assert json_lines(path, nested)[0] == [("a", "1")]
    named = '{"q": "a", "r": "1", "s": null}\n'
    assert json_lines(path, named, ("q", "r", "s"))[0] == [("a", "1", "")]


def test_line_ends_inside_a_json_text_become_spaces(tmp_path: Path) -> None:
    rows, notes = json_lines(tmp_path / "x", '{"en": "a\\nb\\r\\nc", "fr": "d\\re"}\n')
    assert rows == [("a b c", "d e")]
    assert notes == {"line ends inside a text read as spaces": 2}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"en": "a", "fr": ', "not JSON"),
        ("", "not JSON"),
        ('["a", "b"]', "JSON object was expected"),
        ('{"en": "a"}', "no key 'fr' .*data.columns"),
        ('{"en": "a", "fr": 3}', "text was expected, not '3'"),
        ('{"en": "a", "fr": "\\ud800"}', "surrogate"),
    ],
)
def test_bad_json_names_the_line(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"x\.jsonl, line 2: .*{message}"):
        json_lines(tmp_path / "x.jsonl", '{"en": "a", "fr": "b"}\n' + bad + "\n")


# --- Hugging Face data sets ----------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these tests goes into the user's cache of data sets."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


PAIRS = [("A dog.", "Un chien."), ("A\ncat.", "Un chat."), ("A bird.", None)]
CLEAN = [("A dog.", "Un chien."), ("A cat.", "Un chat."), ("A bird.", "")]


def records(nested: bool) -> list[dict[str, Any]]:
    rows = [dict(zip(EN_FR, pair, strict=True)) for pair in PAIRS]
    return [{"translation": row, "id": i} if nested else row for i, row in enumerate(rows)]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("form", ["json", "parquet", "saved", "saved_split"])
def test_local_data_set(tmp_path: Path, form: str, nested: bool) -> None:
    import datasets

    folder = tmp_path / "set"
    folder.mkdir()
    data = datasets.Dataset.from_list(records(nested))
    if form == "json":
        text = "".join(json.dumps(row) + "\n" for row in records(nested))
        (folder / "train.jsonl").write_text(text, "utf-8")
    elif form == "parquet":
        data.to_parquet(folder / "train-00000-of-00001.parquet")
    elif form == "saved":
        datasets.DatasetDict(train=data, validation=data.select([0])).save_to_disk(str(folder))
    else:
        data.save_to_disk(str(folder))
    corpus = Hub("set", "train", EN_FR, folder=folder)
    notes: Counter[str] = Counter()
    assert list(corpus.rows(notes)) == CLEAN
    assert notes == {"line ends inside a text read as spaces": 1}
    assert corpus.splits() == (["train", "validation"] if form == "saved" else ["train"])
    assert corpus.inputs()
    assert all(path.is_file() for path in corpus.inputs())
    swapped = Hub("set", "train", ("fr", "en"), columns=("fr", "en"), folder=folder)
    assert next(swapped.rows(Counter())) == CLEAN[0][::-1]


@pytest.mark.usefixtures("hub_cache")
def test_data_set_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    folder = tmp_path / "set"
    datasets.Dataset.from_list(records(True)).save_to_disk(str(folder))
    with pytest.raises(UserError, match="no part 'test'; it has train"):
        list(Hub("set", "test", EN_FR, folder=folder).rows(Counter()))
    with pytest.raises(UserError, match=r"no columns de, fr; it has en, fr: .*data\.columns"):
        list(Hub("set", "train", ("de", "fr"), folder=folder).rows(Counter()))
    with pytest.raises(UserError, match="no columns a, b"):
        list(Hub("set", "train", EN_FR, columns=("a", "b"), folder=folder).rows(Counter()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot load the Hugging Face data set nothing"):
        list(Hub("nothing", "train", EN_FR, folder=tmp_path / "empty").rows(Counter()))


# --- sacreBLEU -----------------------------------------------------------------------------------


def test_sacrebleu_unknown_names() -> None:
    with pytest.raises(UserError, match="no test set 'wmt14x'; did you mean wmt14"):
        sacrebleu_files("wmt14x", EN_FR)
    with pytest.raises(UserError, match=r"wmt14 has no en-sw; it has .*en-fr"):
        sacrebleu_files("wmt14", ("en", "sw"))


def test_sacrebleu_reads_the_files_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sacrebleu

    corpus = write_sides(tmp_path, ["a"], ["1"], ["eins"])
    source, *references = map(str, corpus.paths)
    asked = []
    monkeypatch.setattr(sacrebleu, "get_source_file", lambda *a: asked.append(a) or source)
    monkeypatch.setattr(sacrebleu, "get_reference_files", lambda *a: references)
    assert list(sacrebleu_files("wmt14", EN_FR).rows(Counter())) == [("a", "1", "eins")]
    assert asked == [("wmt14", "en-fr")]


def test_sacrebleu_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import sacrebleu

    def fail(*_: str) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(sacrebleu, "get_source_file", fail)
    with pytest.raises(UserError, match="wmt14 cannot be downloaded"):
        sacrebleu_files("wmt14", EN_FR)
