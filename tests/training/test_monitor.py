from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt.training.monitor import Monitor, Validation, cut_back, describe

RECORD = {
    "step": 3,
    "loss": 4.25,
    "tokens_per_second": 12345.6,
    "real": 0.947,
    "learning_rate": 0.00125,
    "skipped": 0,
    "seconds_left": 3723.0,
}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().split("\n")[:-1]]


def test_a_record_as_people_read_it() -> None:
    text = describe(RECORD)
    assert text == "loss 4.250  12,346 tok/s  95% real  lr 1.25e-03  1:02:03 left"
    assert describe({**RECORD, "skipped": 2, "seconds_left": float("inf")}).endswith("2 skipped")


def test_log_and_plain_lines(tmp_path: Path) -> None:
    stream = io.StringIO()
    monitor = Monitor(tmp_path, stream=stream, tensorboard=False)
    monitor.message("before the start")
    monitor.start(0, total=10)
    monitor.step({**RECORD, "perplexity": float("inf")})
    monitor.validation(3, Validation({"bleu": 31.25}), best=True)
    monitor.message("a sentence with \u2028 in it")
    monitor.close()
    records = lines(tmp_path)
    kinds = [record["kind"] for record in records]
    assert kinds == ["start", "message", "train", "validation", "message"]
    assert records[0]["total"] == 10
    assert records[2]["loss"] == 4.25
    assert records[2]["perplexity"] is None  # JSON has no infinity
    assert records[3]["bleu"] == 31.25
    assert records[3]["best"] is True
    assert records[4]["text"] == "a sentence with \u2028 in it"
    assert [record["step"] for record in records] == [0, 0, 3, 3, 3]
    assert stream.getvalue().split("\n")[:3] == [
        "before the start",
        "step 3  " + describe(RECORD),
        "step 3  validation: bleu 31.25  (best so far)",
    ]


def test_entropy_is_in_the_log_by_layer_and_head(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, stream=io.StringIO(), tensorboard=False)
    monitor.start(0, total=10)
    entropy = {"cross": [[1.23456, 0.0], [0.5, 2.0]]}
    monitor.validation(1, Validation({"bleu": 1.0}, entropy=entropy), best=True)
    monitor.validation(2, Validation({"bleu": 1.0}), best=True)
    monitor.close()
    assert lines(tmp_path)[1]["entropy"] == {"cross": [[1.235, 0.0], [0.5, 2.0]]}
    assert "entropy" not in lines(tmp_path)[2]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    monitor = Monitor(tmp_path, stream=stream, live=True, tensorboard=False)
    monitor.start(0, total=10)
    monitor.step(RECORD)
    monitor.message("[not markup]")
    monitor.close()
    shown = stream.getvalue()
    assert "[not markup]" in shown
    assert "3/10" in shown
    assert "12,346 tok/s" in shown
    assert len(lines(tmp_path)) == 3


def test_other_ranks_keep_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(None)
    monitor.message("hello")
    monitor.start(0, total=None)
    monitor.step(RECORD)
    monitor.validation(3, Validation({"bleu": 1.0}), best=False)
    monitor.close()
    assert capsys.readouterr() == ("", "")


def test_cut_back_keeps_whole_records_up_to_the_step(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    cut_back(path, 3)
    assert not path.exists()
    whole = [
        json.dumps({"step": step, "text": "\u2028 é"}, ensure_ascii=False) for step in range(6)
    ]
    path.write_text("\n".join([*whole, "not json", '["list"]', '{"step": 2, "cu']), "utf-8")
    cut_back(path, 3)
    assert path.read_text("utf-8") == "\n".join(whole[:4]) + "\n"


@pytest.mark.slow
def test_tensorboard_is_a_view_and_is_cut_back(tmp_path: Path) -> None:
    from matplotlib.figure import Figure
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def write(steps: range) -> None:
        monitor = Monitor(tmp_path, stream=io.StringIO())
        monitor.start(steps.start - 1, total=None)
        for step in steps:
            monitor.step({**RECORD, "step": step, "loss": float(10 * steps.stop + step)})
        figures = {"matrix": np.zeros((4, 5, 3), dtype=np.uint8), "figure": Figure()}
        found = Validation(
            {"bleu": 20.0},
            [("a dog", "un chien", "un chien .")],
            figures,
            entropy={"cross": [[0.25, 0.5], [1.0, steps.stop]]},
            missing={"encoder": "linear attention keeps no weights"},
        )
        for step in (steps[-1] - 1, steps[-1]):
            monitor.validation(step, found, best=True)
        monitor.close()

    write(range(1, 7))
    write(range(5, 9))  # resumed from step 4
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/tokens_per_second", "validation/bleu"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"attention/matrix", "attention/figure"}
    assert "samples/0/text_summary" in tags["tensors"]
    heads = [tag for tag in tags["scalars"] if tag.startswith("entropy/")]
    assert sorted(heads) == [f"entropy/cross/{n}.{h}" for n in (0, 1) for h in (0, 1)]
    last = [(event.step, event.value) for event in events.Scalars("entropy/cross/1.1")]
    assert last == [(7, 9.0), (8, 9.0)]  # those of steps 5 and 6 were cut back
    notes = events.Tensors("attention/not_there/text_summary")
    assert [note.step for note in notes] == [5, 7]  # once in each process
    text = notes[0].tensor_proto.string_val[0].decode()
    assert text == "encoder: linear attention keeps no weights"
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    first = [(step, 70.0 + step) for step in range(1, 5)]
    assert losses == first + [(step, 90.0 + step) for step in range(5, 9)]
