"""`nmt compare`: what it shows is what the runs hold, and what cannot be compared is refused."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import random
import re
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nmt import cli, compose, runs
from nmt.commands.compare_views import spoken
from nmt.config import Config
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.data.tokenizer import Tokenizers
from nmt.evaluation import significance
from nmt.evaluation.scores import score

GOLDEN = Path(__file__).parents[1] / "golden"
REFERENCES = (GOLDEN / "corpus" / "test.fr").read_text("utf-8").split("\n")[:-1]
SOURCES = (GOLDEN / "corpus" / "test.en").read_text("utf-8").split("\n")[:-1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The golden corpus, prepared; its references are what the runs below were scored against."""
    config = compose.with_values(
        compose.load(GOLDEN / "lstm" / "config.yaml"),
        {"data.root": str(GOLDEN / "corpus"), "data.cache": str(tmp_path_factory.mktemp("cache"))},
    )
    tokenizers = Tokenizers.load(GOLDEN / "lstm" / "tokenizer")
    return prepare(config.data, config.tokenizer, report=lambda _: None, tokenizers=tokenizers)


READ: dict[bytes, Config] = {}
"""Configurations that were read before, by their text: reading one takes longer than all else."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, prepared: Prepared) -> None:
    """Few samples; the same text is read once; the data is where it would be looked for."""
    real = runs.stored_config

    def remembered(run: Path) -> Config:
        path = run / "config.yaml"
        text = path.read_bytes() if path.exists() else b""
        if text not in READ:
            READ[text] = real(run)
        return READ[text]

    monkeypatch.setattr(runs, "stored_config", remembered)
    monkeypatch.setattr(significance, "SAMPLES", 40)
    monkeypatch.setattr(significance, "TRIALS", 60)
    monkeypatch.setenv("NMT_CACHE", str(prepared.folder.parent))
    monkeypatch.setenv("COLUMNS", "300")


def spoilt(share: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = sorted({word for line in REFERENCES for word in line.split()})
    return [
        " ".join(rng.choice(words) if rng.random() < share else word for word in line.split())
        for line in REFERENCES
    ]


def make(run: Path, prepared: Prepared, hypotheses: Sequence[str] = (), **settings: Any) -> Path:
    """A finished run like the golden one, with a record in scores.json where it has hypotheses."""
    golden = GOLDEN / "lstm"
    run.mkdir(parents=True)
    shutil.copytree(golden / "tokenizer", run / "tokenizer")
    shutil.copy(golden / "log.jsonl", run)
    text = (golden / "config.yaml").read_text("utf-8")
    for key, value in settings.items():
        indent = "" if key == "seed" else "  "
        text, count = re.subn(rf"^{indent}{key}: .*$", f"{indent}{key}: {value}", text, flags=re.M)
        assert count == 1, key
    (run / "config.yaml").write_text(text, "utf-8")
    if hypotheses:
        add_record(run, prepared, hypotheses)
    return run


def add_record(run: Path, prepared: Prepared, hypotheses: Sequence[str], **changes: Any) -> None:
    config = runs.stored_config(run)
    found = score(
        hypotheses, [REFERENCES], target_language="fr", metrics=("bleu", "chrf"), samples=20
    )
    record = {
        "data": "files",
        "split": "test",
        "checkpoint": "step-00000100",
        "search": dataclasses.asdict(config.search),
        "sentences": len(hypotheses),
        "scores": {name: one.to_dict() for name, one in found.items()},
        "data_fingerprint": prepared.fingerprint,
        **changes,
    }
    name = hashlib.sha256(json.dumps(record).encode()).hexdigest()[:8]
    record["translations"] = f"translations/{name}.txt"
    path = run / record["translations"]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in hypotheses), "utf-8")
    old = json.loads((run / "scores.json").read_text()) if (run / "scores.json").exists() else []
    (run / "scores.json").write_text(json.dumps([*old, record]))


def nmt(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["compare", *map(str, argv)])
    return status, *capsys.readouterr()


def report(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    status, out, err = nmt(capsys, *argv, "format=json")
    assert status == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def contents(run: Path) -> dict[Path, tuple[int, bytes]]:
    return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in run.rglob("*") if f.is_file()}


def test_two_runs(tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    one = make(tmp_path / "one", prepared, spoilt(0.4, 1))
    other = make(tmp_path / "other", prepared, spoilt(0.1, 2), dropout=0.25)
    before = contents(tmp_path)
    found = report(capsys, one, other, "worst=2")
    assert contents(tmp_path) == before, "comparing writes nothing"
    assert found["differences"].keys() == {"model.dropout"}
    assert found["differences"]["model.dropout"]["B"] == 0.25
    rows = found["rows"]
    for row, run in zip(rows, (one, other), strict=True):
        stored = json.loads((run / "scores.json").read_text())[0]["scores"]
        for name in ("bleu", "chrf"):
            for key in ("score", "low", "high", "signature"):
                assert row["scores"][name][key] == stored[name][key]
        assert row["parameters"] == 3120
        assert row["tokens_per_second"] == statistics.median(
            [2180.503213911785, 2839.6391041233082]
        )
        assert row["minutes"] == 12.635 / 60
        assert row["steps"] == 100
    gap = rows[1]["scores"]["bleu"]["score"] - rows[0]["scores"]["bleu"]["score"]
    assert rows[1]["scores"]["bleu"]["difference"] == gap > 0
    assert rows[1]["scores"]["bleu"]["p_randomisation"] == pytest.approx(1 / 61, abs=1e-6)
    assert rows[0]["scores"]["bleu"]["p_bootstrap"] is None
    assert [entry["run"] for entry in found["worst"]] == [str(other)] * 2
    losses = [entry["difference"] for entry in found["worst"]]
    assert losses == sorted(losses)
    first = found["worst"][0]
    assert first["source"] == SOURCES[first["line"] - 1]
    assert first["references"] == [REFERENCES[first["line"] - 1]]
    assert first["baseline"] == spoilt(0.4, 1)[first["line"] - 1]
    assert first["output"] == spoilt(0.1, 2)[first["line"] - 1]
    argv = (one, other, f"baseline={other}", "significance=false", "metric=chrf,ter")
    turned = report(capsys, *argv)
    assert [row["runs"] for row in turned["rows"]] == [[str(other)], [str(one)]]
    assert turned["rows"][1]["scores"].keys() == {"chrf"}, "nothing was scored by TER"
    assert turned["rows"][1]["scores"]["chrf"]["p_bootstrap"] is None


def test_seeds_become_mean_and_spread(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{kind}-s{seed}" for kind in ("one", "other") for seed in (1, 2)]
    for name in names:
        kind, seed = name.split("-s")
        share = {"one": 0.3, "other": 0.28}[kind]
        more = {"dropout": 0.2} if kind == "other" else {}
        number = int(seed) + 10 * len(kind)
        make(tmp_path / name, prepared, spoilt(share, number), seed=seed, **more)
    every = [tmp_path / name for name in names]
    found = report(capsys, *every, "metric=chrf")
    assert [row["seeds"] for row in found["rows"]] == [[1, 2], [1, 2]]
    assert found["differences"].keys() == {"model.dropout"}
    stored = [json.loads((run / "scores.json").read_text())[0]["scores"] for run in every]
    for row, values in zip(found["rows"], (stored[:2], stored[2:]), strict=True):
        scores = [one["chrf"]["score"] for one in values]
        shown = row["scores"]["chrf"]
        assert shown["score"] == pytest.approx(statistics.fmean(scores))
        assert shown["std"] == pytest.approx(statistics.stdev(scores))
        assert (shown["n"], shown["low"]) == (2, None)
    pairs = [
        report(capsys, every[i], every[i + 2], "metric=chrf")["rows"][1]["scores"]["chrf"]
        for i in range(2)
    ]
    grouped = found["rows"][1]["scores"]["chrf"]
    for key in ("p_bootstrap", "p_randomisation"):
        assert grouped[key] == max(pair[key] for pair in pairs)
    text = nmt(capsys, *every, "significance=false")[1]
    assert re.search(r"A one-s1 and 1 more +\d+\.\d +std \d+\.\d\d, n=2", text)
    each = report(capsys, *every[:2], "seeds=each", "significance=false")
    assert [row["seeds"] for row in each["rows"]] == [[1], [2]]
    copy = shutil.copytree(every[0], tmp_path / "copy")  # the same seed again is no other draw
    again = report(capsys, *every[:2], copy, "significance=false")
    assert [row["seeds"] for row in again["rows"]] == [[1, 2], [1]]


def test_seeds_that_contradict_each_other_prove_nothing(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed is better than the baseline, the other worse, each beyond doubt."""
    for name, shares in (("one", (0.3, 0.3)), ("other", (0.0, 0.7))):
        for seed, share in enumerate(shares, start=1):
            more = {"dropout": 0.2} if name == "other" else {}
            make(tmp_path / f"{name}-s{seed}", prepared, spoilt(share, seed), seed=seed, **more)
    each = [
        report(capsys, *(tmp_path / f"{name}-s{seed}" for name in ("one", "other")), "metric=chrf")
        for seed in (1, 2)
    ]
    apart = [found["rows"][1]["scores"]["chrf"] for found in each]
    assert all(one["p_randomisation"] < 0.1 for one in apart)
    grouped = report(capsys, *sorted(tmp_path.iterdir()), "metric=chrf")["rows"][1]
    assert grouped["scores"]["chrf"]["p_randomisation"] == 1.0
    assert grouped["scores"]["chrf"]["p_bootstrap"] == 1.0


def test_other_test_sets_and_signatures_are_refused_or_marked(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path / "one", prepared, spoilt(0.4, 1))
    other = make(tmp_path / "other", prepared, dropout=0.25)
    add_record(other, prepared, spoilt(0.1, 2), data_fingerprint="0" * 64)
    status, out, err = nmt(capsys, one, other)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "cannot be compared with that of" in err
    assert "force=true" in err
    status, out, err = nmt(capsys, one, other, "force=true")
    assert status == 0
    line = next(x for x in out.split("\n") if x.startswith("B other") and "[" in x)
    assert re.fullmatch(r"B other +\d+\.\d\* +\[.*\]\* +\+\d+\.\d\*", line.strip())
    assert "* not comparable: " in out
    row = report(capsys, one, other, "force=true")["rows"][1]
    assert row["scores"]["bleu"]["comparable"] is False
    assert row["scores"]["bleu"]["p_bootstrap"] is None, "other sentences cannot be paired"
    signed = make(tmp_path / "signed", prepared, dropout=0.1)
    add_record(signed, prepared, spoilt(0.1, 2))
    path = signed / "scores.json"
    path.write_text(path.read_text().replace("tok:13a", "tok:zh"))
    status, _, err = nmt(capsys, one, signed, "metric=bleu")
    assert status == 1
    assert "its bleu has the signature nrefs:1|" in err
    assert "tok:zh" in err
    out = nmt(capsys, one, signed, "metric=bleu", "force=true", "format=csv")[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["bleu_mark"] for row in rows] == ["", "*"]
    assert nmt(capsys, one, signed, "metric=chrf", "significance=false")[0] == 0


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path / "one", prepared, spoilt(0.4, 1))
    add_record(one, prepared, spoilt(0.3, 1), search={"beam": 9, "length_penalty": 0.5})
    bare = make(tmp_path / "a run", prepared, dropout=0.25)
    gone = make(tmp_path / "gone", prepared, spoilt(0.2, 3), dropout=0.1)
    shutil.rmtree(gone / "translations")
    (gone / "log.jsonl").unlink()
    status, out, _ = nmt(capsys, one, bare, gone, "format=text")
    assert status == 0
    assert f"{one}: the newest of 2 records of split test is shown: step-00000100, beam 9" in out
    assert re.search(r"^search\.beam +9 +\d+ +\d+$", out, re.MULTILINE)
    command = f"nmt evaluate 'run={bare}' split=test search.beam=9 search.length_penalty=0.5"
    assert f"{bare}: no score for split test; {command} makes one" in out
    assert f"no significance, {gone / 'translations'}" in out
    assert f"{gone}: its log has no step of training yet" in out
    assert "no score for split valid; nmt evaluate" in nmt(capsys, one, gone, "split=valid")[1]


def test_damaged_runs_are_left_out_with_a_line(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path / "one", prepared, spoilt(0.4, 1))
    two = make(tmp_path / "two", prepared, spoilt(0.2, 1), dropout=0.2)
    broken = make(tmp_path / "broken", prepared, spoilt(0.2, 1))
    (broken / "config.yaml").write_text("format: 1\nmodel: [\n")
    status, out, err = nmt(capsys, one, broken, two, "significance=false")
    assert status == 1, "not all that was asked for"
    assert "B two" in out
    assert f"{broken} is left out: {broken / 'config.yaml'}: not a readable" in err
    assert nmt(capsys, one, broken)[:2] == (1, "")
    assert nmt(capsys, broken, one, two)[:2] == (1, "")
    for content in ("[1]", '[{"split": "test", "scores": 3}]', "["):
        (two / "scores.json").write_text(content)
        status, out, err = nmt(capsys, one, two, "significance=false")
        assert status == 0, err
        assert "scores.json" in out
        assert "Traceback" not in err
    outside = json.loads((one / "scores.json").read_text())
    outside[0]["translations"] = "../one/config.yaml"
    (two / "scores.json").write_text(json.dumps(outside))
    assert "said to lie elsewhere" in nmt(capsys, one, two)[1]


def test_changed_translations_are_noticed(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path / "one", prepared, spoilt(0.4, 1))
    two = make(tmp_path / "two", prepared, spoilt(0.2, 1), dropout=0.2)
    (path,) = (two / "translations").iterdir()
    path.write_text("".join(f"{line}\n" for line in spoilt(0.3, 9)), "utf-8")
    assert f"{two}: its bleu is" in nmt(capsys, one, two)[1]
    path.write_text("one line\n")
    assert "has 1 lines for 30 sentences" in nmt(capsys, one, two)[1]


def test_every_format_parses(
    tmp_path: Path,
    prepared: Prepared,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = make(tmp_path / "one", prepared, spoilt(0.4, 1))
    two = make(tmp_path / "two", prepared, spoilt(0.2, 1), dropout=0.2)
    (row, other) = csv.DictReader(io.StringIO(nmt(capsys, one, two, "format=csv")[1]))
    assert (row["label"], row["runs"], row["model.dropout"]) == ("A", str(one), "0.3")
    assert float(other["bleu_difference"]) > 0
    out = nmt(capsys, one, two, "format=csv", "worst=3")[1]
    assert len(list(csv.DictReader(io.StringIO(out)))) == 3
    out = nmt(capsys, one, two, "format=markdown", "worst=1")[1]
    assert out.count("### ") == 6
    for block in re.findall(r"(?:^\|.*\n)+", out, re.MULTILINE):
        lines = block.splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert set(lines[1]) <= set("|-: ")
    monkeypatch.setenv("COLUMNS", "80")
    head = nmt(capsys, one, two, "worst=1")[1].partition("The 1 sentences")[0]
    lines = [x for x in head.split("\n") if str(tmp_path) not in x and "nrefs" not in x]
    assert max(map(len, lines)) <= 80


def test_values_of_a_configuration_are_short_and_hide_nothing() -> None:
    corpus = {"name": "news", "path": ["a.en", "a.fr"], "kind": "files", "weight": 2.0, "tag": ""}
    assert spoken([corpus, corpus]) == "news a.en+a.fr files 2.0; news a.en+a.fr files 2.0"
    said = [spoken(value) for value in (None, True, "lstm", 0.5, [])]
    assert said == ["null", "true", "lstm", "0.5", "[]"]


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv, message in (
        ([], "needs two runs or more"),
        (["runs/one"], "needs two runs or more"),
        (["runs/one", "runs/one"], "needs two runs or more"),
        (["runs/one", "runs/two"], "runs/one: no such run directory"),
        (["runs/one", "runs/two", "metric=rouge"], "'rouge' is none of bleu, chrf, ter"),
        (["runs/one", "runs/two", "worst=-1"], "worst=-1: a whole number is needed"),
        (["runs/one", "runs/two", "format=html"], "no such value"),
        (["runs/one", "runs/two", "search.beam=3"], "has no key 'search.beam'"),
    ):
        status, out, err = nmt(capsys, *argv)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert message in err
