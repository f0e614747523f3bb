"""Guided alignment, coverage loss and coverage penalty as they are typed."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from nmt import cli

TINY = ("debug=tiny", "train.max_steps=2", "train.validate_every=2", "train.log_every=1")


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


def records(run: Path) -> list[dict[str, float]]:
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == "train"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("model=lstm", "attention=none", "train.guided_alignment=0.1"),
            "train.guided_alignment=0.1: attention=none reads one fixed vector",
        ),
        (
            ("model=lstm", "attention=none", "train.coverage_loss=0.1"),
            "train.coverage_loss=0.1: attention=none reads one fixed vector",
        ),
        (
            ("attention.cross=linear", "search.coverage_penalty=0.1"),
            "search.coverage_penalty=0.1: attention.cross=linear keeps running sums",
        ),
        (
            ("data=multi30k_en_fr", "train.guided_alignment=0.1"),
            "data=multi30k_en_fr has no word alignments; give them with data.alignments=FILE",
        ),
        (("train.guided_alignment=-1",), "train.guided_alignment must be at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_has_no_meaning_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, error = nmt(capsys, "train", *words, "--dry-run")
    assert (status != 0, out) == (True, "")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_on_the_embedded_corpus(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss has more in it, perplexity and validation have not; search takes the penalty."""
    plain, guided = tmp_path / "plain", tmp_path / "guided"
    words = (*TINY, "model=lstm", "attention=bahdanau", "search.max_length=2", "model.dropout=0")
    words = (*words, "train.label_smoothing=0", "train.precision=fp32")
    assert nmt(capsys, "train", *words, f"run={plain}")[0] == 0
    losses = ("train.guided_alignment=0.5", "train.coverage_loss=0.1")
    assert nmt(capsys, "train", *words, *losses, f"run={guided}")[0] == 0
    one, other = records(plain)[0], records(guided)[0]
    assert one["loss"] == pytest.approx(math.log(one["perplexity"]), rel=1e-6)
    assert other["perplexity"] == pytest.approx(one["perplexity"], rel=1e-6)
    assert other["loss"] > one["loss"] + 0.5
    penalised = "search.coverage_penalty=0.5"
    argv = ("translate", f"run={guided}", "text=A dog sees the cat.", "format=jsonl")
    (_, without, _), (status, out, error) = nmt(capsys, *argv), nmt(capsys, *argv, penalised)
    assert status == 0, error
    assert json.loads(out)["score"] < json.loads(without)["score"]


@pytest.mark.slow
def test_given_alignments_reversed_and_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMT_CACHE", str(tmp_path / "cache"))
    nouns = ["dog", "cat", "bird", "child", "man", "woman", "boy", "girl"]
    pairs = [(f"the {a} sees a {b} .", f"das {b} {a} von sieht .") for a in nouns for b in nouns]
    for side, language in enumerate(("en", "de")):
        text = "".join(pair[side] + "\n" for pair in [*pairs, ("", "")])
        (tmp_path / f"all.{language}").write_text(text, "utf-8")
    links = "0-0 1-2 2-4 4-1 5-5\n" * len(pairs) + "\n"
    (tmp_path / "links.gz").write_bytes(gzip.compress(links.encode()))
    words = [
        *("data=files", "data.languages=en-de", "data.reverse=true", "data.train=all"),
        *("data.alignments=links", f"data.root={tmp_path}", "tokenizer.vocab_size=280"),
        *("data.valid_size=5", "data.test_size=5", "tokenizer.sampling=0.2"),
    ]
    words = [*TINY, *words]
    run = tmp_path / "run"
    status, _, error = nmt(capsys, "train", *words, "train.guided_alignment=1", f"run={run}")
    assert status == 0, error
    assert records(run)[0]["loss"] > math.log(records(run)[0]["perplexity"]) + 0.5
    (tmp_path / "links.gz").write_bytes(gzip.compress(links.replace("5-5", "5-6", 1).encode()))
    other = f"run={tmp_path / 'other'}"
    status, _, error = nmt(capsys, "train", *words, "train.guided_alignment=1", other)
    assert status != 0
    assert "links.gz, line 1: the link 5-6 is outside the sentences" in error
