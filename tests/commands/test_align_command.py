"""`nmt align` as it is typed: lines, pictures and matrices, and error rates counted by hand."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest
import torch

from nmt import cli
from nmt.commands.attention import has_no_spaces
from nmt.data.grammar import words
from nmt.data.prepare import prepare
from nmt.runs import stored_config
from nmt.translator import Translator

PAIRS = [
    ("the dog sees the cat .", "le chien voit le chat .", "1-1 2-2 3-3 4p4 5-5 6-6"),
    ("a man sleeps", "un homme dort", "1-1 2-2 3p3"),
    ("she runs", "elle court", "1-1 2-2"),
    ("no , no", "non , non", "1-1 3-3 1p3"),
]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Typed words for a bitext and its gold, one of them compressed."""
    bitext, gold = tmp_path / "b, [1].gz", tmp_path / "gold=1.txt"
    bitext.write_bytes(gzip.compress("".join(f"{s} ||| {t}\n" for s, t, _ in PAIRS).encode()))
    gold.write_text("".join(f"{line}\n" for *_, line in PAIRS), encoding="utf-8")
    return [f"bitext={bitext}", f"gold={gold}"]


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["align", *argv])
    return status, *capsys.readouterr()


def counted(lines: list[str], gold: list[str], first: int) -> tuple[float, float, float]:
    """Error rate, precision and recall of Pharaoh lines (Och & Ney 2003), link by link."""
    answers = sure = hit_sure = hit_possible = 0
    for line, right in zip(lines, gold, strict=True):
        found = {tuple(map(int, link.split("-"))) for link in line.split()}
        sures, possibles = set(), set()
        for link in right.split():
            i, j = link.replace("p", "-").split("-")
            possibles.add((int(i) - first, int(j) - first))
            if "p" not in link:
                sures.add((int(i) - first, int(j) - first))
        answers += len(found)
        sure += len(sures)
        hit_sure += len(found & sures)
        hit_possible += len(found & possibles)
    error = 1 - (hit_sure + hit_possible) / (answers + sure)
    return error, hit_possible / answers, hit_sure / sure


def rates(record: dict[str, float]) -> tuple[float, float, float]:
    return record["aer"], record["precision"], record["recall"]


# ---- error rates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["target", "source", "intersection", "union"])
def test_the_rates_of_a_gold_file_are_those_of_the_printed_lines(
    run: Path, given: list[str], capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    view = ["layer=0", "head=1", "row=predicts", f"rule={rule}"]
    status, out, err = nmt(capsys, f"run={run}", *given, *view, "format=pharaoh")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == len(PAIRS)  # nothing is chosen, so that all are scored
    expected = counted(lines, [gold for *_, gold in PAIRS], first=1)
    shown = "AER {:.1f} %  precision {:.1f} %  recall {:.1f} %".format(*(100 * r for r in expected))
    assert shown in err
    status, out, _ = nmt(capsys, f"run={run}", *given, *view)
    assert out.startswith(shown)
    assert "layer 0, head 1, the row that predicts a word\n" in out
    status, out, _ = nmt(capsys, f"run={run}", *given, *view, "format=json")
    record = json.loads(out)
    assert rates(record) == pytest.approx(expected, abs=1e-4)
    assert record["alignments"] == lines
    assert record["rule"] == rule
    assert record["chosen_on"] is None
    diagonal = ["0-0 1-1 2-2 3-3 4-4 5-5", "0-0 1-1 2-2", "0-0 1-1", "0-0 1-1 2-2"]
    expected = counted(diagonal, [gold for *_, gold in PAIRS], first=1)
    assert rates(record["diagonal"]) == pytest.approx(expected, abs=1e-4)


def test_every_view_of_the_table_is_that_view_named(
    run: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["layer=0", "head=0", "row=reads"]
    _, out, _ = nmt(capsys, f"run={run}", *given, *named, "format=json")
    views = json.loads(out)["views"]
    shape = [(view["layer"], view["head"], view["row"]) for view in views]
    heads = ["mean", 0, 1, 2, 3]
    rows = [(0, head, row) for head in heads for row in ("predicts", "reads")]
    assert shape[0] == (0, 0, "reads")
    assert sorted(shape, key=str) == sorted(rows, key=str)
    for view in views[1:4]:
        typed = [f"{key}={view[key]}" for key in ("layer", "head", "row")]
        _, out, _ = nmt(capsys, f"run={run}", *given, *typed, "format=json")
        assert rates(json.loads(out)) == rates(view)
    _, out, _ = nmt(capsys, f"run={run}", *given, *named, "table=true")
    table = out.splitlines()[3:]
    assert table[0].split() == ["layer", "head", "row", "AER", "precision", "recall"]
    assert len(table) == 11
    assert [row for row in table if row.startswith("*")] == [table[1]]


def test_what_is_not_named_is_chosen_on_pairs_that_are_not_scored(
    trained: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = nmt(capsys, f"run={trained}", *given, "choose=3", "format=json")
    record = json.loads(out)
    assert (record["sentences"], record["chosen_on"]["sentences"]) == (1, 3)
    assert "not scored" in record["chosen_on"]["data"]
    lows = []
    for head in ("mean", 0, 1, 2, 3):
        for row in ("predicts", "reads"):
            argv = [f"run={trained}", *given, "layer=0", f"head={head}", f"row={row}"]
            _, out, _ = nmt(capsys, *argv, "format=pharaoh")
            lines, gold = out.splitlines(), [gold for *_, gold in PAIRS]
            error = counted(lines[:3], gold[:3], first=1)[0]
            lows.append((error, head, row, counted(lines[3:], gold[3:], first=1)[0]))
    best = min(lows, key=lambda low: low[0])
    assert record["chosen_on"]["aer"] == pytest.approx(best[0], abs=1e-4)
    assert (record["view"]["head"], record["view"]["row"]) == best[1:3]
    assert record["aer"] == pytest.approx(best[3], abs=1e-4)


def test_a_split_of_the_embedded_corpus_is_scored_with_its_own_gold(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    argv = [f"run={trained}", "split=test", "format=pharaoh", f"output={report}"]
    status, out, err = nmt(capsys, *argv)
    assert status == 0
    config = stored_config(trained)
    prepared = prepare(config.data, config.tokenizer, report=lambda text: None)
    facts = prepared.gold("test")
    assert facts is not None
    gold = [" ".join(f"{i}-{j}" for i, j in fact["alignment"]) for fact in facts]
    expected = counted(out.splitlines(), gold, first=0)
    record = json.loads(report.read_text("utf-8"))
    assert rates(record) == pytest.approx(expected, abs=1e-4)
    assert record["data"] == "test of mini_en_fr"
    assert record["chosen_on"]["data"] == "valid of mini_en_fr"
    assert record["chosen_on"]["sentences"] == len(prepared.valid)
    assert "chosen on valid of mini_en_fr" in err
    lengths = [len(words(target)) for target in prepared.references("test")[0]]
    last = [max(int(link.split("-")[1]) for link in line.split()) for line in out.splitlines()]
    assert all(place < length for place, length in zip(last, lengths, strict=True))


def test_the_dev_set_is_not_chosen_on_itself(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = nmt(capsys, f"run={trained}", "split=valid", "choose=10", "format=json")
    record = json.loads(out)
    assert (record["sentences"], record["chosen_on"]["sentences"]) == (30, 10)
    status, out, err = nmt(capsys, f"run={trained}", "split=valid")
    assert (status, out) == (1, "")
    assert "has 40 sentences, too few to choose a view on the first 50" in err


# ---- one sentence --------------------------------------------------------------------------------


def test_without_gold_it_is_the_mean_unless_dev_chooses(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [f"source={tmp_path / 's'}", f"target={tmp_path / 't'}"]
    (tmp_path / "s").write_text("A dog.\n", encoding="utf-8")
    (tmp_path / "t").write_text("Un chien.\n", encoding="utf-8")
    _, out, err = nmt(capsys, f"run={trained}", *pair, "format=json")
    record = json.loads(out)
    assert record["view"] == {"layer": "mean", "head": "mean", "row": "predicts"}
    assert err == ""
    _, out, err = nmt(capsys, f"run={trained}", *pair, "format=json", "choose=dev")
    assert json.loads(out)["view"] != record["view"]
    assert "chosen on valid of mini_en_fr (40 sentences" in err


@pytest.mark.parametrize(
    ("typed", "rows", "columns"),
    [
        (["words=true"], 2, 2),
        (["words=true", "eos=keep"], 3, 3),
        (["words=true", "eos=keep", "row=reads"], 2, 3),
        (["words=false", "eos=drop"], None, None),
        (["words=false"], None, None),
    ],
)
def test_labels_and_weights_of_a_matrix_agree(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    rows: int | None,
    columns: int | None,
) -> None:
    (tmp_path / "s").write_text("Dogs run\n", encoding="utf-8")
    (tmp_path / "t").write_text("Chiens courent\n", encoding="utf-8")
    pair = [f"source={tmp_path / 's'}", f"target={tmp_path / 't'}"]
    _, out, _ = nmt(capsys, f"run={trained}", *pair, "format=json", *typed)
    record = json.loads(out)
    weights = record["weights"]
    assert len(weights) == len(record["target_labels"])
    assert {len(row) for row in weights} == {len(record["source_labels"])}
    assert all(sum(row) == pytest.approx(1.0, abs=0.01) for row in weights)
    if rows is not None:
        assert (len(weights), len(weights[0])) == (rows, columns)
    ends = record["source_labels"][-1] == "</s>"
    assert ends == ("eos=keep" in typed or typed == ["words=false"])
    if not ends and "words=false" in typed:
        assert "".join(record["source_labels"]).replace("▁", " ").strip() == "Dogs run"


def test_pictures_of_one_head_all_heads_and_some(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {}
    for name, typed in {
        "one": ["head=1"],
        "all": ["head=all"],
        "row": ["layer=mean", "head=all", "words=false"],
    }.items():
        path = tmp_path / f"{name}.png"
        argv = [f"run={trained}", "text=Dogs run.", f"output={path}", *typed]
        assert nmt(capsys, *argv)[:2] == (0, f"{path}\n")
        assert path.read_bytes().startswith(b"\x89PNG")
        sizes[name] = struct.unpack(">II", path.read_bytes()[16:24])
    assert sizes["all"][0] > sizes["one"][0]
    path = tmp_path / "a.svg"
    nmt(capsys, f"run={trained}", "text=Dogs run.", f"output={path}", "head=all", "words=true")
    content = path.read_text("utf-8")
    assert all(f"<!-- layer 0, head {head} -->" in content for head in range(4))
    assert "<!-- Dogs -->" in content


def test_pictures_with_gold_are_numbered_as_in_their_file(
    trained: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all"
    status, out, _ = nmt(capsys, f"run={trained}", *given, "choose=2", f"output={folder}")
    assert status == 0
    assert out.startswith("AER ")
    assert len(out.splitlines()) == 3
    names = {f"{number:04d}.{kind}" for number in (3, 4) for kind in ("png", "svg", "json")}
    assert {path.name for path in folder.iterdir()} == names
    record = json.loads((folder / "0003.json").read_text("utf-8"))
    assert record["source"] == "she runs"


def test_masked_heads_take_effect_and_the_weights_stay(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masked = ["attention.masked_heads=[cross.0.0,cross.0.2]"]
    pair = (["The dog sees the cat."], ["Le chien voit le chat."])
    plain, ablated = Translator.load(trained), Translator.load(trained, words=masked)
    assert ablated.score(*pair) != plain.score(*pair)
    weights = [next(one.explain_pairs(*pair)).cross for one in (plain, ablated)]
    assert weights[0] is not None
    assert torch.equal(weights[0], torch.as_tensor(weights[1]))
    argv = [f"run={trained}", "text=Dogs run.", "search=greedy", "format=json"]
    assert nmt(capsys, *argv, *masked)[0] == 0
    for typed, message in (
        ("attention.masked_heads=[cross.7.0]", "there is no head cross.7.0"),
        ("attention.masked_heads=[heads]", "is no head"),
        ("attention.masked_heads=cross.0.0", "[cross.0.0]"),
        ("attention.masked_heads=cross.0.0,cross.0.1", "a list has brackets"),
    ):
        status, out, err = nmt(capsys, *argv, typed)
        assert (status, out) == (1, "")
        assert message in err
        assert err.count("\n") == 1


# ---- scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一只棕色的狗在公园里跑", True),
        ("犬が公園を走っている。", True),
        ("一 只 棕色 的 狗", False),
        ("A dog runs in the park", False),
        ("갈색 개가 공원에서 달리고 있다", False),
        ("Tokyo 東京", False),
        ("", False),
    ],
)
def test_which_text_has_no_spaces(text: str, expected: bool) -> None:
    assert has_no_spaces(text) is expected


def test_text_without_spaces_is_shown_by_sub_word(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").write_text("A brown dog\n", encoding="utf-8")
    (tmp_path / "t").write_text("一只棕色的狗在公园里跑\n", encoding="utf-8")
    pair = [f"source={tmp_path / 's'}", f"target={tmp_path / 't'}"]
    _, out, err = nmt(capsys, f"run={trained}", *pair)
    assert out == "0-0\n" or out.endswith("-0\n")
    assert "must be cut first" in err
    _, out, _ = nmt(capsys, f"run={trained}", *pair, "format=json")
    assert len(json.loads(out)["target_labels"]) > 10
    _, out, _ = nmt(capsys, f"run={trained}", *pair, "format=json", "words=true")
    assert len(json.loads(out)["target_labels"]) == 1


def test_a_missing_font_is_said_once(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "st":
        (tmp_path / name).write_text("a \U0003fffd\nb \U0003fffd\n", encoding="utf-8")
    pair = [f"source={tmp_path / 's'}", f"target={tmp_path / 't'}"]
    _, _, err = nmt(capsys, f"run={trained}", *pair, f"output={tmp_path / 'out'}")
    assert err.count("no installed font has") == 1
    assert err.count("\n") == 1


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["text=a", "bitext=b"], "needs one of text=SENTENCE"),
        (["source=a"], "go together"),
        (["text=a", "gold=g"], "gold=FILE goes with"),
        (["split=test", "gold=g"], "gold=FILE goes with"),
        (["text=a", "layer=x"], "layer=x: expected a number"),
        (["text=a", "head=-1"], "head=-1: expected a number"),
        (["text=a", "row=next"], "row=next: no such value"),
        (["text=a", "rule=both"], "rule=both: no such value"),
        (["text=a", "format=text"], "format=text: no such value"),
        (["text=a", "table=true"], "needs gold=FILE"),
        (["text=a", "choose=5"], "which is not given"),
        (["split=test", "choose=0"], "expected dev, or a number"),
        (["text=a", "layer=7"], "no layer 7: this model has layer 0 alone"),
        (["text=a", "head=4"], "no head 4: this model has heads 0 to 3"),
        (["split=tset"], "did you mean test?"),
        (["bitext=none.txt"], "cannot read none.txt"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], typed: list[str], message: str
) -> None:
    status, out, err = nmt(capsys, f"run={trained}", *typed)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ("1-1\n", "has 1 lines for 4 sentence pairs"),
        ("1-1\n1-1\n2-3\n1-1\n", "line 3: link 2-3 lies outside a pair of 2 and 2 words"),
        ("1-1\n0-1\n1-1\n1-1\n", "line 2: '0-1' is no link"),
    ],
)
def test_gold_that_does_not_fit_names_the_line(
    trained: Path,
    given: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gold: str,
    message: str,
) -> None:
    (tmp_path / "wrong").write_text(gold, encoding="utf-8")
    status, out, err = nmt(capsys, f"run={trained}", given[0], f"gold={tmp_path / 'wrong'}")
    assert (status, out) == (1, "")
    assert message in err


def test_files_that_are_cut_short_or_do_not_pair_up(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "b.gz"
    broken.write_bytes(gzip.compress(b"a ||| b\n" * 99)[:20])
    status, _, err = nmt(capsys, f"run={trained}", f"bitext={broken}")
    assert status == 1
    assert f"cannot read {broken}" in err
    (tmp_path / "s").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "t").write_text("a\n", encoding="utf-8")
    argv = [f"source={tmp_path / 's'}", f"target={tmp_path / 't'}"]
    assert "has 2 lines, but" in nmt(capsys, f"run={trained}", *argv)[2]
    for name in "st":
        (tmp_path / name).write_text("", encoding="utf-8")
    assert nmt(capsys, f"run={trained}", *argv) == (0, "", "")
