from __future__ import annotations

import ast
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.config import (
    Corpus,
    DataConfig,
    FilterConfig,
    GrammarConfig,
    InvalidUtf8,
    Source,
    Subwords,
    TokenizerConfig,
)
from nmt.data import corpus as corpora
from nmt.data import staging
from nmt.data.grammar import Example
from nmt.data.prepare import cache_folder, prepare
from nmt.data.prepared import Prepared, open_prepared, show_examples
from nmt.data.tokenizer import UNK
from nmt.errors import UserError

Pairs = list[tuple[str, str]]
Write = Callable[[str, Pairs], str]
Made = Callable[..., Prepared]
ALL_FILTERS = dict.fromkeys(
    ("too_long", "ratio", "duplicate_pair", "duplicate_source", "identical", "control", "script"),
    True,
) | {"overlap": True}


def texts_of(prepared: Prepared, split: str) -> Pairs:
    store = prepared.split(split)
    return list(zip(store.source_texts(), store.target_texts(), strict=True))


# --- what is prepared ----------------------------------------------------------------------------


def test_files_with_all_parts(pairs: Pairs, write: Write, made: Made) -> None:
    write("train", pairs[:150]), write("dev", pairs[150:160]), write("t1", pairs[160:180])
    write("t2", pairs[180:])
    prepared = made(train="train", valid="dev", test={"t1": "t1", "t2": "t2"})
    assert texts_of(prepared, "train") == pairs[:150]
    assert texts_of(prepared, "valid") == pairs[150:160]
    assert list(prepared.tests) == ["t1", "t2"]
    assert texts_of(prepared, "t2") == pairs[180:]
    assert prepared.references("t1") == [[target for _, target in pairs[160:180]]]
    assert prepared.sources("t1") == [source for source, _ in pairs[160:180]]
    assert (prepared.source_language, prepared.target_language) == ("en", "fr")
    assert prepared.gold("train") is None
    for side, texts in (("source", 0), ("target", 1)):
        tokenizer = getattr(prepared.tokenizers, side)
        ragged = getattr(prepared.train, side)
        assert [ids.tolist() for ids in ragged] == tokenizer.encode([p[texts] for p in pairs[:150]])
    manifest = prepared.manifest
    assert manifest["format"] == 1
    assert manifest["funnel"] == {"read": 150, "removed": {}, "held_out": {}, "kept": 150}
    assert manifest["tokenizer"]["hash"] == prepared.tokenizers.hash
    assert manifest["splits"]["t2"]["pairs"] == 12
    assert manifest["splits"]["train"]["source"]["tokens"] == prepared.train.source.offsets[-1]
    assert manifest["config"]["data"]["languages"] == "en-fr"
    assert len(manifest["inputs"]) == 8
    assert prepared.folder.name == f"toy-{prepared.fingerprint[:10]}"


def test_missing_parts_are_split_off(pairs: Pairs, write: Write, made: Made) -> None:
    write("all", pairs)
    lines: list[str] = []
    prepared = made(train="all", lines=lines)
    found = {name: set(texts_of(prepared, name)) for name in ("train", "valid", "test")}
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 172,
        "valid": 10,
        "test": 10,
    }
    assert set.union(*found.values()) == set(pairs)
    assert prepared.manifest["funnel"]["held_out"] == {"valid": 10, "test": 10}
    again = made(train="all", name="shuffled")
    assert texts_of(again, "valid") == texts_of(prepared, "valid")
    assert any("split off for valid" in line for line in lines)


def test_a_small_corpus_gives_at_most_a_tenth(pairs: Pairs, write: Write, made: Made) -> None:
    write("all", pairs)
    lines: list[str] = []
    prepared = made(train="all", valid_size=1_000, test_size=0, lines=lines)
    assert len(prepared.valid) == 19
    assert prepared.tests == {}
    assert any("data.valid_size=1000 is more than a tenth" in line for line in lines)
    with pytest.raises(UserError, match="needs dev data"):
        made(train="all", valid_size=0)


def test_several_references(pairs: Pairs, write: Write, made: Made, tmp_path: Path) -> None:
    write("all", pairs)
    for name, texts in (("src", ["A", "B"]), ("ref1", ["1", "2"]), ("ref2", ["eins", "zwei"])):
        (tmp_path / name).write_text("\n".join(texts) + "\n", "utf-8")
    prepared = made(train="all", test={"two": ["src", "ref1", "ref2"]})
    assert prepared.references("two") == [["1", "2"], ["eins", "zwei"]]
    assert prepared.tests["two"].target_texts() == ["1", "2"]
    reverse = made(train="all", test={"two": ["src", "ref1", "ref2"]}, reverse=True)
    assert (reverse.source_language, reverse.target_language) == ("fr", "en")
    assert texts_of(reverse, "two") == [("1", "A"), ("2", "B")]
    assert reverse.references("two") == [["A", "B"]]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["files", "tsv", "jsonl", "hub"])
def test_every_kind_gives_the_same(
    kind: str,
    reverse: bool,
    pairs: Pairs,
    made: Made,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    rows = [{"en": source, "fr": target} for source, target in pairs]
    if kind == "files":
        path = write("all", pairs)
    elif kind == "tsv":
        path = "all.tsv"
        (tmp_path / path).write_text("".join(f"{a}\t{b}\n" for a, b in pairs), "utf-8")
    elif kind == "jsonl":
        path = "all.jsonl"
        (tmp_path / path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        path = "set"
        nested = [{"translation": row} for row in rows]
        datasets.Dataset.from_list(nested).save_to_disk(str(tmp_path / path))
    prepared = made(Source(kind), train=path, reverse=reverse)
    expected = [pair[::-1] for pair in pairs] if reverse else pairs
    splits = [row for name in ("train", "valid", "test") for row in texts_of(prepared, name)]
    assert sorted(splits) == sorted(expected)
    train = set(texts_of(prepared, "train"))
    assert texts_of(prepared, "train") == [pair for pair in expected if pair in train]


def test_columns(pairs: Pairs, made: Made, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("".join(f"{b}\tid\t{a}\n" for a, b in pairs), "utf-8")
    prepared = made(Source.tsv, train="x.tsv", columns=["2", "0"])
    assert set(texts_of(prepared, "train")) < set(pairs)
    swapped = made(Source.tsv, train="x.tsv", columns=["2", "0"], reverse=True)
    assert {pair[::-1] for pair in texts_of(swapped, "train")} < set(pairs)
    with pytest.raises(UserError, match="numbers from 0"):
        made(Source.tsv, train="x.tsv", columns=["en", "fr"])
    rows = "".join(json.dumps({"q": a, "a": b}) + "\n" for a, b in pairs)
    (tmp_path / "x.jsonl").write_text(rows, "utf-8")
    named = made(Source.jsonl, train="x.jsonl", columns=["q", "a"])
    assert set(texts_of(named, "train")) < set(pairs)


def test_parts_of_a_data_set_are_found(
    pairs: Pairs, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    rows = [{"translation": {"en": a, "fr": b}} for a, b in pairs]
    cuts = {"train": rows[:150], "validation": rows[150:170], "extra": rows[170:]}
    sets = {name: datasets.Dataset.from_list(part) for name, part in cuts.items()}
    datasets.DatasetDict(sets).save_to_disk(str(tmp_path / "set"))
    prepared = made(Source.hub, train="set", test={"more": "set:extra"})
    assert texts_of(prepared, "valid") == pairs[150:170]
    assert texts_of(prepared, "more") == pairs[170:]
    assert len(prepared.train) == 150
    with pytest.raises(UserError, match="no part 'nothing'"):
        made(Source.hub, train="set:nothing")


def test_named_corpora_and_tags(pairs: Pairs, made: Made, write: Write) -> None:
    write("a", pairs[:100]), write("b", pairs[100:]), write("dev", pairs[:5])
    train = [{"name": "a", "path": "a"}, {"name": "b", "path": "b", "tag": "<b>"}]
    prepared = made(train=train, valid="dev")
    sources = [
        source
        for part in (prepared.train, prepared.tests["test"])
        for source in part.source_texts()
    ]
    assert sum(source.startswith("<b> The ") for source in sources) == 92
    assert sum(source.startswith("The ") for source in sources) == 100
    tokenizer = prepared.tokenizers.source
    tagged = next(i for i, text in enumerate(prepared.train.source_texts()) if text[0] == "<")
    assert "<b>" in tokenizer.pieces(prepared.train.source[tagged])


def test_separate_vocabularies(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    settings = TokenizerConfig(type=Subwords.bpe, vocab_size=300, joint=False)
    prepared = made(train="all", tokenizer=settings)
    assert not prepared.tokenizers.joint
    assert prepared.tokenizers.source.hash != prepared.tokenizers.target.hash
    assert (
        prepared.train.target[0].tolist()
        == prepared.tokenizers.target.encode([prepared.train.target_text(0)])[0]
    )
    too_large = TokenizerConfig(type=Subwords.bpe, vocab_size=5_000, joint=False)
    with pytest.raises(UserError, match=r"tokenizer of the source: .*largest possible"):
        made(train="all", tokenizer=too_large)


def test_of_many_pairs_a_sample_trains_the_tokenizer(
    pairs: Pairs, made: Made, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("all", pairs)
    whole = made(train="all")
    monkeypatch.setattr(staging, "_TOKENIZER_PAIRS", 60)
    sampled = made(train="all", cache=str(tmp_path / "one"))
    again = made(train="all", cache=str(tmp_path / "two"))
    assert whole.tokenizers.hash != sampled.tokenizers.hash == again.tokenizers.hash
    assert len(sampled.train) == len(whole.train)


# --- cleaning ------------------------------------------------------------------------------------


def test_every_filter_in_the_funnel(pairs: Pairs, made: Made, write: Write, tmp_path: Path) -> None:
    bad = [
        ("", "vide"),
        ("control\x00", "contrôle"),
        ("long " * 300, "long " * 299),
        ("one", "un " * 12),
        ("same", "same"),
        ("кириллица", "cyrillique"),
        pairs[3],
        (pairs[4][0], "Une autre traduction."),
    ]
    write("all", pairs + bad), write("dev", [pairs[7], (pairs[8][0], "Autre.")])
    (tmp_path / "all.en").write_bytes((tmp_path / "all.en").read_bytes() + b"\xff\n")
    (tmp_path / "all.fr").write_bytes((tmp_path / "all.fr").read_bytes() + b"x\n")
    lines: list[str] = []
    prepared = made(
        train="all",
        valid="dev",
        test_size=0,
        filters=ALL_FILTERS,
        invalid_utf8=InvalidUtf8.drop,
        lines=lines,
    )
    expected = {"invalid_utf8": 1, "empty": 1, "control": 1, "too_long": 1, "ratio": 1}
    expected |= {"identical": 1, "script": 1, "duplicate_pair": 1, "duplicate_source": 1}
    expected |= {"overlap": 2}
    funnel = prepared.manifest["funnel"]
    assert funnel["removed"] == expected
    assert funnel["read"] == len(pairs) + len(bad) + 1
    assert funnel["kept"] == len(prepared.train) == len(pairs) - 2
    assert prepared.manifest["overlap"] == {"valid": {"sources": 2, "pairs": 1}}
    printed = " ".join(lines)
    assert "pairs read" in printed
    assert "2 training pairs share the source, 1 of them the target too" in printed


def test_overlap_is_reported_where_filters_are_off(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs), write("dev", pairs[:3])
    prepared = made(train="all", valid="dev")
    assert prepared.manifest["overlap"] == {"valid": {"sources": 3, "pairs": 3}}
    assert prepared.manifest["funnel"]["removed"] == {}


def test_dev_and_test_sets_are_never_filtered(pairs: Pairs, made: Made, write: Write) -> None:
    odd = [("", ""), ("same", "same"), ("same", "same"), ("a\x00b\u2028", "x " * 999)]
    write("all", pairs), write("dev", odd), write("test", odd)
    prepared = made(train="all", valid="dev", test={"test": "test"}, filters=ALL_FILTERS)
    assert texts_of(prepared, "valid") == texts_of(prepared, "test") == odd


def test_too_much_removed_and_nothing_left(pairs: Pairs, made: Made, write: Write) -> None:
    write("half", pairs[:20] + [("same", "same")] * 21)
    filters = {"identical": True}
    with pytest.raises(UserError, match=r"removed 51% of 41 pairs, most by identical.*max_removed"):
        made(train="half", filters=filters, valid_size=1, test_size=0)
    settings = TokenizerConfig(type=Subwords.bpe, vocab_size=290)
    allowed = {"valid_size": 1, "test_size": 0, "max_removed": 0.6, "tokenizer": settings}
    assert len(made(train="half", filters=filters, **allowed).train) == 19
    write("none", [("same", "same")] * 5), write("empty", []), write("dev", pairs[:3])
    for name, read in (("none", 5), ("empty", 0)):
        with pytest.raises(UserError, match=f"no pair is left for training of {read} read"):
            made(train=name, valid="dev", test={"t": "dev"}, filters=filters)
    with pytest.raises(UserError, match="too few to split off"):
        made(train="empty")
    with pytest.raises(UserError, match=r"data\.valid: .*empty\.en has no pairs"):
        made(train="half", valid="empty")


def test_a_line_of_ten_megabytes(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", [*pairs, ("x " * 5_000_000, "y " * 5_000_000), ("z" * 10_000_000, "z")])
    prepared = made(train="all", filters={"too_long": True})
    assert prepared.manifest["funnel"]["removed"] == {"too_long": 2}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    source=st.lists(st.binary(max_size=12), max_size=12),
    target=st.lists(st.binary(max_size=12), max_size=12),
    drop=st.booleans(),
    filtered=st.booleans(),
)
def test_any_bytes_are_prepared_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory,
    source: list[bytes],
    target: list[bytes],
    drop: bool,
    filtered: bool,
) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "x.en").write_bytes(b"\n".join(source))
    (root / "x.fr").write_bytes(b"\n".join(target))
    data = DataConfig(
        name="any",
        source=Source.files,
        root=str(root),
        cache=str(root / "cache"),
        train="x",
        valid_size=2,
        test_size=0,
        max_removed=1.0,
        invalid_utf8=InvalidUtf8.drop if drop else InvalidUtf8.error,
        filters=FilterConfig(**ALL_FILTERS) if filtered else FilterConfig(empty=False),
    )
    settings = TokenizerConfig(type=Subwords.bpe, vocab_size=262)
    try:
        prepared = prepare(data, settings, report=lambda line: None)
    except UserError as refused:
        message = str(refused)
        assert message
        assert "\n" not in message
        assert sorted(p.name for p in (root / "cache").iterdir() if p.is_dir()) == []
    else:
        funnel = prepared.manifest["funnel"]
        assert funnel["read"] == (root / "x.en").read_bytes().count(b"\n") + bool(
            source and source[-1] and not (root / "x.en").read_bytes().endswith(b"\n")
        )
        gone = sum(funnel["removed"].values()) + sum(funnel["held_out"].values())
        assert funnel["read"] == gone + funnel["kept"]
        assert funnel["kept"] == len(prepared.train)


# --- bad input -----------------------------------------------------------------------------------


def test_all_missing_files_and_the_hint_are_named(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    with pytest.raises(UserError) as caught:
        made(train="all", valid="dev", test={"t": "t"}, hint="get it from the shop")
    for part in ("data=toy", "dev.en", "dev.fr", "t.en", "t.fr", "get it from the shop"):
        assert part in str(caught.value)
    assert "all.en" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes() + b"one more\n"), "has 193 lines and .* has 192"),
        (
            lambda p: p.write_bytes(b"\xe9" + p.read_bytes()),
            r"all\.en, line 1: byte 1 is not UTF-8",
        ),
        (lambda p: p.write_bytes(b""), "has 0 lines and .* has 192"),
        (lambda p: p.unlink(), "there is no file .*all.en"),
    ],
)
def test_bad_files(
    damage: Callable[[Path], Any],
    message: str,
    pairs: Pairs,
    made: Made,
    write: Write,
    tmp_path: Path,
) -> None:
    write("all", pairs)
    damage(tmp_path / "all.en")
    with pytest.raises(UserError, match=message):
        made(train="all")
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_carriage_returns_and_byte_order_marks_are_reported(
    pairs: Pairs, made: Made, write: Write, tmp_path: Path
) -> None:
    write("all", pairs)
    for name in ("all.en", "all.fr"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    lines: list[str] = []
    prepared = made(train="all", lines=lines)
    assert set(texts_of(prepared, "train")) < set(pairs)
    assert prepared.manifest["notes"] == {
        "byte-order marks removed": 2,
        "CR LF line ends read as LF": 384,
    }
    assert any("CR LF line ends read as LF: 384" in line for line in lines)


def test_separators_and_nul_stay_inside_their_line(pairs: Pairs, made: Made, write: Write) -> None:
    odd = [("a\u2028b\x85c\x00d\x0ce\x1c", "x\u2029y\rz")]
    write("all", pairs + odd), write("dev", odd)
    prepared = made(train="all", valid="dev")
    assert texts_of(prepared, "valid") == odd
    assert odd[0] in texts_of(prepared, "train") + texts_of(prepared, "test")


@pytest.mark.parametrize("name", ["train", "valid", "a/b", "..", "é", ""])
def test_names_of_test_sets(name: str, pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    test = [Corpus(name=name, path=["all"], kind=Source.files)]
    with pytest.raises(UserError, match="cannot be the name of a test set"):
        made(train="all", test=test)


def test_vocabulary_too_large(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    with pytest.raises(UserError, match=r"largest possible is tokenizer\.vocab_size=\d+"):
        made(train="all", tokenizer=TokenizerConfig(vocab_size=8_000))


def test_unknown_split_and_paths_of_tables(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    with pytest.raises(UserError, match=r"no split 'tset'; .*did you mean test"):
        made(train="all").split("tset")
    with pytest.raises(UserError, match="takes one path"):
        made(Source.tsv, train=["a", "b"])
    with pytest.raises(UserError, match="needs data=files"):
        made(Source.grammar, train="all")


def test_a_cache_that_cannot_be_written(
    pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    write("all", pairs)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write prepared data in .*data\.cache="):
        made(train="all")


def test_unknown_characters_are_warned_about(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs), write("dev", [("日本語", "日本語")])
    lines: list[str] = []
    settings = TokenizerConfig(type=Subwords.bpe, vocab_size=90, byte_fallback=False)
    prepared = made(train="all", valid="dev", tokenizer=settings, lines=lines)
    assert UNK in prepared.valid.source[0]
    assert prepared.manifest["splits"]["valid"]["source"]["unknown_share"] > 0.3
    assert prepared.manifest["splits"]["train"]["source"]["unknown_share"] == 0
    assert any(line.startswith("warning") and "of valid are unknown" in line for line in lines)
    write("odd", [*pairs, ("A \u2581 sign.", "Un signe.")])
    made(train="odd", valid="dev", lines=lines)
    assert any("do not come back" in line and "A \u2581 sign." in line for line in lines)


# --- once ----------------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_second_call_does_nothing(
    pairs: Pairs, made: Made, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("all", pairs)
    first = made(train="all")
    before = state(tmp_path)

    def untouched(*_: object, **__: object) -> None:
        raise AssertionError("a second call must not read the inputs")

    monkeypatch.setattr(corpora, "_raw_lines", untouched)
    monkeypatch.setattr("hashlib.file_digest", untouched)
    lines: list[str] = []
    second = made(train="all", lines=lines)
    assert second.folder == first.folder
    assert state(tmp_path) == before
    assert len(lines) == 1
    assert "up to date" in lines[0]


def test_a_changed_input_is_noticed(pairs: Pairs, made: Made, write: Write, tmp_path: Path) -> None:
    write("all", pairs)
    first = made(train="all")
    path = tmp_path / "all.fr"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"chien", b"chiot"))  # same size
    os.utime(path, ns=(1, 1))
    lines: list[str] = []
    second = made(train="all", lines=lines)
    assert second.folder != first.folder
    assert "chiot" in " ".join(second.train.target_texts())
    assert any("all.fr has changed" in line for line in lines)
    assert len(open_prepared(first.folder).train) == len(first.train), "the old one is still there"
    path.write_bytes(content)
    assert made(train="all").folder == first.folder


def test_only_what_matters_asks_for_new_data(
    pairs: Pairs, made: Made, write: Write, tmp_path: Path
) -> None:
    write("all", pairs)
    first = made(train="all")
    os.utime(tmp_path / "all.en", ns=(5, 5))  # touched, not changed
    write("copy", pairs)
    settings = {"type": Subwords.bpe, "vocab_size": 310}
    same: list[dict[str, Any]] = [
        {"train": "all"},
        {"train": "copy"},
        {"train": "all", "show": 3, "hint": "x"},
        {"train": "all", "max_removed": 0.9},
        {"train": "all", "tokenizer": TokenizerConfig(**settings, sampling=0.1)},
    ]
    for values in same:
        assert made(**values).folder == first.folder, values
    other: list[dict[str, Any]] = [
        {"train": "all", "reverse": True},
        {"train": "all", "valid_size": 11},
        {"train": "all", "filters": {"script": True}},
        {"train": "all", "invalid_utf8": InvalidUtf8.drop},
        {"train": "all", "test": {"t": "all"}},
        {"train": "all", "tokenizer": TokenizerConfig(**settings, joint=False)},
    ]
    folders = {made(**values).folder for values in other}
    assert len(folders) == len(other)
    assert first.folder not in folders


def test_a_smaller_allowance_is_checked_on_prepared_data(
    pairs: Pairs, made: Made, write: Write
) -> None:
    write("all", pairs + [("same", "same")] * 40)
    made(train="all", filters={"identical": True})
    with pytest.raises(UserError, match="removed 17% of 232 pairs"):
        made(train="all", filters={"identical": True}, max_removed=0.1)


def _prepare_in_process(data: DataConfig, queue: Any) -> None:
    lines: list[str] = []
    settings = TokenizerConfig(type=Subwords.bpe, vocab_size=310)
    prepared = prepare(data, settings, report=lines.append)
    queue.put((str(prepared.folder), len(prepared.train), lines))


def test_two_processes_prepare_it_once(
    pairs: Pairs, config: Callable[..., DataConfig], write: Write, tmp_path: Path
) -> None:
    write("all", pairs * 20)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    jobs = [
        context.Process(target=_prepare_in_process, args=(config(train="all"), queue))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    results = [queue.get(timeout=120) for _ in jobs]
    for job in jobs:
        job.join()
    assert len({folder for folder, _, _ in results}) == 1
    assert len({size for _, size, _ in results}) == 1
    built = sum(any("preparing" in line for line in lines) for _, _, lines in results)
    assert built == 1
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_what_a_killed_process_left_is_replaced(
    pairs: Pairs, made: Made, write: Write, tmp_path: Path
) -> None:
    write("all", pairs)
    folder = made(train="all").folder
    (folder / "manifest.json").unlink()  # as if the folder were not whole
    draft = folder.with_name(f".{folder.name}.part")
    draft.mkdir()
    (draft / "train.arrow").write_text("half")
    assert made(train="all").folder == folder
    assert not draft.exists()


def test_a_damaged_folder_is_refused(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    prepared = made(train="all")
    folder = prepared.folder
    (folder / "valid.arrow").write_bytes((folder / "test.arrow").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"valid\.arrow"):
        open_prepared(folder)
    (folder / "valid.arrow").write_bytes((folder / "train.arrow").read_bytes())
    with pytest.raises(UserError, match="is not the file that was prepared"):
        open_prepared(folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for change, message in (
        ({"tokenizer": {"hash": "0"}}, "do not belong together"),
        ({"format": 99}, "format 99"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change), "utf-8")
        with pytest.raises(UserError, match=message):
            open_prepared(folder)
    with pytest.raises(UserError, match="holds no prepared data"):
        open_prepared(folder.parent)


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NMT_CACHE", raising=False)
    assert cache_folder("x") == Path("x")
    checkout = Path(__file__).resolve().parents[2]
    assert cache_folder(None) == checkout / "data" / "prepared"
    monkeypatch.setenv("NMT_CACHE", str(tmp_path))
    assert cache_folder(None) == tmp_path
    assert cache_folder("x") == Path("x")


def test_show_examples(pairs: Pairs, made: Made, write: Write) -> None:
    write("all", pairs)
    prepared = made(train="all")
    lines: list[str] = []
    show_examples(prepared, 3, lines.append)
    assert len(lines) == 9
    assert lines[0] == "[train 0]"
    assert lines[1] == f"  en  {prepared.train.source_text(0)}"
    assert lines[-1] == f"  fr  {prepared.train.target_text(len(prepared.train) - 1)}"


# --- the embedded corpus and real ones -----------------------------------------------------------


def embedded(cache: Path, **values: Any) -> DataConfig:
    grammar = GrammarConfig(train=1_500, valid=60, test=60)
    return DataConfig(grammar=grammar, cache=str(cache), **values)


@pytest.mark.slow
def test_embedded_corpus(tmp_path: Path) -> None:
    settings = TokenizerConfig(vocab_size=800)
    prepared = prepare(embedded(tmp_path), settings, report=lambda line: None)
    assert list(prepared.tests) == ["test", "test_long", "test_unseen"]
    assert len(prepared.train) == 1_500
    assert len(prepared.valid) == 60
    for split in ("train", "valid", "test", "test_long", "test_unseen"):
        gold = prepared.gold(split)
        assert gold is not None
        assert [(fact["source"], fact["target"]) for fact in gold] == texts_of(prepared, split)
    lines: list[str] = []
    show_examples(prepared, 2, lines.append)
    assert sum("alignment" in line for line in lines) == 2
    swapped = prepare(embedded(tmp_path, reverse=True), settings, report=lambda line: None)
    assert texts_of(swapped, "test") == [pair[::-1] for pair in texts_of(prepared, "test")]
    there, back = prepared.gold("test"), swapped.gold("test")
    assert there is not None
    assert back is not None
    for one, other in zip(there, back, strict=True):
        flipped = Counter((j, i) for i, j in one["alignment"])
        assert Counter(map(tuple, other["alignment"])) == flipped


def test_gold_follows_the_filters(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ("too many words " * 4, "trop de mots")
    rows = [odd, *pairs[:90], pairs[0], *pairs[90:], odd]
    examples = [Example(a, b, ((0, 0),), (), ()) for a, b in rows]
    splits = {"train": examples} | dict.fromkeys(corpora.EMBEDDED_SPLITS[1:], examples[:3])
    monkeypatch.setattr(corpora.Generated, "splits", splits)
    filters = FilterConfig(too_long=True, max_words=10, duplicate_pair=True)
    data = embedded(tmp_path, filters=filters)
    settings = TokenizerConfig(type=Subwords.bpe, vocab_size=310)
    prepared = prepare(data, settings, report=lambda line: None)
    for split in ("train", "test"):
        gold = prepared.gold(split)
        assert gold is not None
        assert [(fact["source"], fact["target"]) for fact in gold] == texts_of(prepared, split)
    assert texts_of(prepared, "train") == pairs


def test_the_rules_of_the_embedded_corpus_count_as_input() -> None:
    """A module that the grammar imports and that is no input would change data unnoticed."""
    room = Path(corpora.__file__).parent
    found, todo = set(), ["grammar"]
    while todo:
        name = todo.pop()
        found.add(name)
        for node in ast.walk(ast.parse((room / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
                parts = [
                    n.removeprefix("nmt.data.").split(".")[0] for n in names if "nmt.data." in n
                ]
                todo += [n for n in parts if n not in found and (room / f"{n}.py").exists()]
    assert {path.stem for path in corpora.module_files("grammar")} == found


def test_multi30k(data_root: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    data = DataConfig(
        name="multi30k_en_fr",
        source=Source.files,
        root=str(data_root),
        cache=str(tmp_path),
        train="multi30k/train",
        valid="multi30k/val",
        test={"test": "multi30k/test_2016_flickr"},
    )
    settings = TokenizerConfig(type=Subwords.bpe)
    prepared = prepare(data, settings, report=lines.append)
    counts = [len(prepared.split(name)) for name in ("train", "valid", "test")]
    assert counts == [29_000, 1_014, 1_000]
    assert prepared.manifest["funnel"]["removed"] == {}
    assert prepared.manifest["overlap"]["test"]["sources"] == 0
    assert not [line for line in lines if line.startswith("warning")]
