"""``debug=overfit`` says what it found; ``debug=profile`` leaves a trace for the browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nmt import cli, compose
from nmt.commands.train import BY_HEART, by_heart
from nmt.training.distributed import World
from nmt.training.index import Entry
from nmt.training.loop import Outcome
from nmt.training.profiler import SKIPPED, WARMED, profiled

SMALL = (  # of the trained run's data, which is prepared already
    *("data.grammar.train=400", "tokenizer.vocab_size=400", "model.width=32", "model.ffn=64"),
    *("model.encoder_layers=1", "model.decoder_layers=1", "train.precision=fp32"),
)


def test_pairs_are_learnt_by_heart(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    more = ("optim.learning_rate=1e-2", "train.max_steps=60", "train.validate_every=60")
    words = ("debug=overfit", *SMALL, *more, "train.overfit=2", f"run={run}")
    assert cli.main(["train", *words]) == 0
    err = capsys.readouterr().err
    assert "learnt by heart: 0.0" in err
    assert "2 pairs it was trained on" in err
    records = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    last = next(r for r in reversed(records) if r["kind"] == "validation")
    assert last["loss"] < BY_HEART
    assert last["bleu"] == pytest.approx(100)  # the references are those of the trained pairs


@pytest.mark.parametrize(("loss", "status"), [(BY_HEART, 0), (0.051, 1)])
def test_what_was_not_learnt_is_said(
    loss: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose.compose(["experiment=quickstart", "model=lstm", "debug=overfit"])
    assert (config.model.dropout, config.train.label_smoothing, config.train.ema) == (0, 0, 0)
    assert (config.train.overfit, config.train.max_minutes) == (8, None)
    outcome = Outcome("max_steps=1", 1, Entry("step-1", 1, {"loss": loss}), 1.0)
    assert by_heart(outcome, config, World()) == status
    assert ("NOT learnt" in capsys.readouterr().err) == bool(status)


def test_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cpu, square = torch.device("cpu"), torch.ones(8, 8)
    with profiled(2, tmp_path / "profile", cpu) as each_step:
        for _ in range(SKIPPED + WARMED + 4):
            square @ square
            each_step()
    out = capsys.readouterr().out
    assert "aten::mm" in out
    assert str(tmp_path / "profile" / "trace.json") in out
    assert "aten::mm" in (tmp_path / "profile" / "operators.txt").read_text("utf-8")
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text("utf-8"))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    steps = {name for name in names if name.startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{SKIPPED + WARMED + n}" for n in range(2)}
    assert names.count("aten::mm") == 2
    with profiled(2, tmp_path / "short", cpu) as each_step:
        each_step()
    assert "no profile: training ended within 7 updates" in capsys.readouterr().out
    with profiled(0, tmp_path / "off", cpu) as each_step:
        each_step()
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["profile"]


def test_training_can_be_profiled(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("debug=tiny", "train.validate_sentences=0", "train.metric=loss")
    argv = ["train", *words, f"run={tmp_path / 'run'}", "train.profile_steps=1"]
    assert cli.main([*argv, "train.max_steps=8", "train.validate_every=8"]) == 0
    assert "ProfilerStep" in capsys.readouterr().out
    assert (tmp_path / "run" / "profile" / "trace.json").stat().st_size > 10_000
