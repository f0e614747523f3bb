"""``debug=overfit`` says what it found; ``debug=profile`` leaves a trace for the browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nmt import cli, compose
from nmt.training.profiler import SKIPPED, WARMED

SMALL = (
    *("data.grammar.train=400", "tokenizer.vocab_size=400", "model.width=32", "model.ffn=64"),
    *("model.encoder_layers=1", "model.decoder_layers=1", "train.precision=fp32"),
)


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


def test_pairs_are_learnt_by_heart(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "debug=overfit", *SMALL, "train.overfit=2", "train.validate_sentences=2")
    run = tmp_path / "run"
    more = ("optim.learning_rate=1e-2", "train.max_steps=80", "train.validate_every=80")
    status, _, err = nmt(capsys, *words, *more, f"run={run}")
    assert status == 0, err
    assert "learnt by heart: 0.0" in err
    assert "2 pairs it was trained on" in err
    records = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    last = next(r for r in reversed(records) if r["kind"] == "validation")
    assert last["loss"] < 0.05
    assert last["bleu"] == pytest.approx(100)  # the references are those of the trained pairs
    status, _, err = nmt(capsys, *words, "train.max_steps=2", f"run={tmp_path / 'short'}")
    assert status == 1
    assert "NOT learnt by heart" in err


def test_the_preset_takes_all_that_hinders_away() -> None:
    config = compose.compose(["experiment=quickstart", "model=lstm", "debug=overfit"])
    assert (config.model.dropout, config.train.label_smoothing, config.train.ema) == (0, 0, 0)
    assert (config.train.overfit, config.train.max_minutes) == (8, None)


def test_a_profile(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ("train", "debug=tiny", f"run={run}", "train.profile_steps=2")
    status, out, err = nmt(capsys, *words, "train.max_steps=10")
    assert status == 0, err
    assert "aten::mm" in out
    assert str(run / "profile" / "trace.json") in out
    trace = json.loads((run / "profile" / "trace.json").read_text("utf-8"))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    steps = {name for name in names if name.startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{SKIPPED + WARMED + n}" for n in range(2)}
    assert "aten::mm" in names
    assert "aten::mm" in (run / "profile" / "operators.txt").read_text("utf-8")
    # A run that goes on may be profiled, or not; one that ends too early says so.
    status, out, err = nmt(capsys, "train", f"run={run}", "train.max_steps=12")
    assert (status, "no profile" in out) == (0, True), err
    status, out, err = nmt(
        capsys, "train", f"run={run}", "train.max_steps=14", "train.profile_steps=0"
    )
    assert (status, out) == (0, ""), err
