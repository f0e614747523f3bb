"""`nmt story`: what is trained, what is not trained again, and what a failure costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nmt import compose
from nmt.cli import command_help, main, parse
from nmt.commands.story import command as story
from nmt.commands.story.ladder import Ladder, State, Stopped, Training, plan, time_left
from nmt.commands.story.meaning import saturated, undecided
from nmt.config import Config
from nmt.errors import UserError
from nmt.evaluation.claims import CLAIMS, RATES


class Fake:
    """A training that ends after some polls, and leaves what a real one leaves."""

    def __init__(self, training: Training, code: int, polls: int) -> None:
        self.training, self.code, self.left = training, code, polls
        self.signals: list[int] = []
        self.deaf = False

    def poll(self) -> int | None:
        self.left -= 1
        if self.left > 0:
            return None
        folder = self.training.path / "checkpoints"
        if self.code == 0:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "index.json").write_text("{}")
            record = {"kind": "train", "step": 7, "seconds": 12.5, "seconds_left": 0.0}
            (self.training.path / "log.jsonl").write_text(json.dumps(record) + "\n")
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.left = 10**6 if self.deaf else 0

    def kill(self) -> None:
        self.signals.append(signal.SIGKILL)
        self.left = 0


class Spawner:
    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.fails, self.started = fails, []
        self.alive, self.most = [], 0
        self.fails = fails

    def __call__(self, training: Training, log: Path) -> Any:
        self.started.append(training.name)
        code = int(training.name in self.fails)
        if code:
            log.write_text("step 1\nnmt: the disk is full\n")
        fake = Fake(training, code, polls=2)
        self.alive.append(fake)
        self.most = max(self.most, sum(one.left > 0 for one in self.alive))
        return fake


def trainings(folder: Path, **after: str) -> dict[str, Training]:
    return {
        name: Training(
            name=name,
            rung=name[:-3],
            seed=1,
            words=(f"attention={name}",),
            path=folder / "runs" / name,
            steps=7,
            after=after.get(name[:-3], ""),
        )
        for name in ("none-s1", "bahdanau-s1", "luong_dot-s1")
    }


def climb(folder: Path, spawn: Spawner, **after: str) -> dict[str, State]:
    ladder = Ladder(
        folder=folder, trainings=trainings(folder, **after), jobs=2, spawn=spawn, pause=0.0
    )
    return ladder.run()


def test_each_is_trained_once_and_two_at_a_time(tmp_path: Path) -> None:
    spawn = Spawner()
    states = climb(tmp_path, spawn)
    assert [state.status for state in states.values()] == ["finished"] * 3
    assert states["none-s1"].seconds == 12.5
    assert spawn.started == ["none-s1", "bahdanau-s1", "luong_dot-s1"]
    assert spawn.most == 2
    again = Spawner()
    assert all(state.status == "finished" for state in climb(tmp_path, again).values())
    assert again.started == []


def test_other_words_and_a_lost_checkpoint_are_trained_again(tmp_path: Path) -> None:
    climb(tmp_path, Spawner())
    (tmp_path / "runs" / "none-s1" / "checkpoints" / "index.json").unlink()
    known = json.loads((tmp_path / "ladder.json").read_text())
    known["bahdanau-s1"]["words"].append("seed=2")
    (tmp_path / "ladder.json").write_text(json.dumps(known))
    spawn = Spawner()
    climb(tmp_path, spawn)
    assert spawn.started == ["none-s1", "bahdanau-s1"]


def test_a_failure_ends_nothing_else_and_is_tried_again(tmp_path: Path) -> None:
    spawn = Spawner(fails=("none-s1",))
    states = climb(tmp_path, spawn, luong_dot="none-s1")
    assert states["none-s1"].status == "failed"
    assert states["none-s1"].reason.startswith("the disk is full (status 1; ")
    assert states["bahdanau-s1"].status == "finished"
    assert states["luong_dot-s1"].reason == "none-s1 failed before it"
    spawn = Spawner()
    states = climb(tmp_path, spawn, luong_dot="none-s1")
    assert spawn.started == ["none-s1", "luong_dot-s1"]
    assert {state.status for state in states.values()} == {"finished"}


def test_a_signal_stops_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    spawn = Spawner()
    before = signal.getsignal(signal.SIGTERM)

    def show(states: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    ladder = Ladder(
        folder=tmp_path, trainings=trainings(tmp_path), jobs=2, spawn=spawn, show=show, pause=0.0
    )
    with pytest.raises(Stopped):
        ladder.run()
    assert [one.signals for one in spawn.alive] == [[signal.SIGTERM]] * 2
    assert spawn.started == ["none-s1", "bahdanau-s1"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_whoever_asks_twice_does_not_wait(tmp_path: Path) -> None:
    spawn = Spawner()

    def show(states: Any) -> None:
        for one in spawn.alive:
            one.deaf = True
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    ladder = Ladder(
        folder=tmp_path, trainings=trainings(tmp_path), jobs=2, spawn=spawn, show=show, pause=0.0
    )
    with pytest.raises(Stopped):
        ladder.run()
    assert [one.signals[-1] for one in spawn.alive] == [signal.SIGKILL] * 2


def test_time_left_counts_what_waits() -> None:
    states = {
        "a": State("finished", seconds=100, step=100),
        "b": State("running", seconds=50, step=50, seconds_left=50.0),
        "c": State("waiting"),
    }
    steps = {"a": 100, "b": 100, "c": 100}
    assert time_left(states, steps, jobs=1) == 150
    assert time_left(states, steps, jobs=2) == 75
    begun = {"a": states["a"], "b": State("running")}  # goes on at the pace of the others
    assert time_left(begun, steps, jobs=2) == 100
    assert time_left({"c": State()}, steps, jobs=2) is None


# ---- presets and words ---------------------------------------------------------------------------


@pytest.mark.parametrize("budget", compose.options("story"))
@pytest.mark.parametrize("data", ["mini_en_fr", "multi30k_en_fr"])
def test_every_rung_is_a_run_that_can_be(budget: str, data: str, tmp_path: Path) -> None:
    config = compose.story([f"story.budget={budget}"])
    found = plan(config, data, [f"data={data}"], tmp_path)
    rungs = {claim_rung for claim in CLAIMS for claim_rung in (*claim.needs, *claim.also)}
    assert set(config.rungs) <= rungs | {rung.after for rung in config.rungs.values()}
    seen: set[tuple[str, ...]] = set()
    for training in [t for t in found.values() if t.seed == config.seeds[0]]:
        settings = frozenset(training.words)
        assert settings not in seen, "two rungs of the same words"
        seen.add(settings)  # type: ignore[arg-type]
        checked = ("transformer", "none") if data != "mini_en_fr" else config.rungs
        if budget == "default" and training.rung in checked:
            story.check({training.name: training})


def test_the_default_ladder_serves_its_claims() -> None:
    config = compose.story([])
    assert config.claims == [1, 2, 5, 8, 10, 12]
    assert len(plan(config, "mini_en_fr", [], Path())) == 6
    for claim in CLAIMS:
        if claim.number in story.MEASURES:
            assert set(claim.needs) <= set(config.rungs)


def test_scale_claims_and_predecessors(tmp_path: Path) -> None:
    config = compose.story(["story.scale=0.01", "story.claims=2", "story.seeds=[3]"])
    [training] = plan(config, "mini_en_fr", ["train.device=cpu"], tmp_path).values()
    assert training.name == "luong_dot-s3"
    assert training.steps == 15
    assert training.words[-4:] == (
        "train.device=cpu", "train.max_steps=15", "optim.warmup=3", "seed=3",
    )  # fmt: skip
    config.rungs["luong_dot"].recipe = "nothing"
    with pytest.raises(UserError, match="rung luong_dot has recipe 'nothing'"):
        plan(config, "mini_en_fr", [], tmp_path)


@pytest.mark.parametrize("data", ["mini_en_fr", "multi30k_en_fr"])
def test_claim_7_tries_the_same_learning_rates_for_both(data: str, tmp_path: Path) -> None:
    config = compose.story(["story.claims=[7]"])
    found = plan(config, data, [f"data={data}"], tmp_path)
    tried: dict[str, list[float]] = {"transformer": [], "bahdanau": []}
    for training in found.values():
        model = training.rung.partition("_")[0]
        tried[model].append(compose.compose(training.words).optim.learning_rate)
    own = [1.5e-3] if data != "mini_en_fr" else []  # of the recipe, for the other claims
    assert sorted(tried["transformer"]) == sorted([*RATES, *own])
    assert sorted(tried["bahdanau"]) == sorted(RATES)


def test_a_typed_word_does_not_make_a_rung_another_one(tmp_path: Path) -> None:
    config = compose.story(["story.claims=[15]"])
    with pytest.raises(UserError, match=r"data.reverse=true: rung tuned_100 .* sets data.reverse"):
        plan(config, "mini_en_fr", ["data=mini_en_fr", "data.reverse=true"], tmp_path)
    config = compose.story(["story.claims=[1]"])
    found = plan(config, "mini_en_fr", ["data.reverse=true"], tmp_path)
    assert "data.reverse=true" in found["bahdanau-s1"].words


def test_a_rung_whose_predecessor_is_not_trained_here_is_refused(tmp_path: Path) -> None:
    config = compose.story(["story.claims=[15]"])
    config.rungs["blank"].only = ["multi30k_en_fr"]
    with pytest.raises(UserError, match="rung scratch_100 starts from blank-s1, which is not"):
        plan(config, "mini_en_fr", [], tmp_path)


def test_a_story_does_not_go_on_with_runs_on_other_terms(tmp_path: Path) -> None:
    config = compose.story(["story.claims=[2]", "story.scale=0.002"])
    config.recipes["mini_en_fr/lstm"].warmup = 0
    tiny = ["debug=tiny"]
    [training] = plan(config, "mini_en_fr", tiny, tmp_path).values()
    assert training.steps == 3
    assert main(["train", *training.words, f"run={training.path}"]) == 0
    story.check({"one": training})
    config.scale = 0.004
    with pytest.raises(UserError, match=r"begun with train.max_steps=3, .* asks for 6: choose"):
        story.check(plan(config, "mini_en_fr", tiny, tmp_path))
    config.scale = 0.002
    with pytest.raises(UserError, match=r"begun with train.precision=bf16, .* asks for fp32"):
        story.check(plan(config, "mini_en_fr", [*tiny, "train.precision=fp32"], tmp_path))
    config.recipes["mini_en_fr/lstm"].words.remove("train.precision=bf16")  # no word for it now
    with pytest.raises(UserError, match=r"begun with train.precision=bf16, .* asks for fp32"):
        story.check(plan(config, "mini_en_fr", tiny, tmp_path))


def test_claim_15_draws_its_pairs_once_a_seed(tmp_path: Path) -> None:
    config = compose.story(["story.claims=[15]", "story.seeds=[1,2]"])
    found = plan(config, "mini_en_fr", [], tmp_path)
    drawn = {
        (t.rung.partition("_")[0], t.seed): compose.compose(
            [word for word in t.words if not word.startswith("train.init_from")]
        ).data.grammar.seed
        for t in found.values()
    }
    home = {"transformer": 1, "blank": 1}
    assert drawn == {
        (kind, seed): home.get(kind, 1000 + seed)
        for kind in ("transformer", "blank", "tuned", "scratch")
        for seed in (1, 2)
    }


def test_a_story_goes_on_after_a_rung_that_starts_from_another(tmp_path: Path) -> None:
    tiny = ["debug=tiny"]
    config = compose.story([])
    config.claims, config.scale = [15], 0.001
    found = plan(config, "mini_en_fr", tiny, tmp_path)
    first, second = found["transformer-s1"], found["tuned_100-s1"]
    pair = {first.name: first, second.name: second}
    story.check(pair)  # before anything is there
    for training in pair.values():
        assert main(["train", *training.words, f"run={training.path}"]) == 0
        story.check(pair)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["story.budget=ful"], "did you mean 'full'"),
        (["story.clams=[1]"], "did you mean 'story.claims'"),
        (["story.claims=[1,19]"], "there is no claim 19"),
        (["story.claims=[]"], "at least one"),
        (["story.seeds=[1,-2]"], "story.seeds must be at least 0, got -2"),
        (["story.jobs=0"], "story.jobs must be at least 1"),
        (["story.scale=-1"], "story.scale must be above 0"),
        (["story.scale=x"], "scale"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match="(?s)" + message.replace("[", r"\[")):
        compose.story(words)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        ("story.clams=[1]", "did you mean 'story.claims'"),
        ("model=lstm", "nmt story has no key 'model'"),
        ("story.budget=ful", "did you mean 'full'"),
        ("data=mini", "did you mean 'mini_en_fr'"),
    ):
        assert main(["story", wrong]) == 1
        assert message in capsys.readouterr().err
    assert main(["story", "--dry-run", "story.claims=[1]"]) == 0
    out = capsys.readouterr().out
    assert "none_long-s1" in out
    assert "Nothing was written" in out
    assert not Path("runs/story-mini_en_fr").exists()
    assert "story.budget" in command_help("story")
    words = parse("story", ["story.claims=[1,5]", "run=x"])
    assert story.command(words, 5) == "nmt story 'story.claims=[5]' run=x"


def test_the_storys_keys_are_no_part_of_a_run() -> None:
    assert not any(key.startswith("story") for key in compose.keys(Config))


# ---- from runs to a report -----------------------------------------------------------------------


def test_a_report_with_a_failure_and_measurements_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def measure(number: int) -> Any:
        def numbers(bench: Any) -> dict[str, Any]:
            calls.append(number)
            if number == 12:
                raise ValueError("broken")
            return {"statistic": {"value": 2.0, "low": 1.9, "high": 2.1}, "counts": {
                "lengths measured": 8, "minimal pairs": 400}}  # fmt: skip

        return numbers

    def spawn(threads: int) -> Spawner:
        return Spawner(fails=("none-s1",))

    monkeypatch.setattr(story, "train_process", spawn)
    monkeypatch.setattr(story, "identity", lambda path: "step-1")
    monkeypatch.setattr(story, "check", lambda trainings: None)
    monkeypatch.setattr(story, "MEASURES", {n: measure(n) for n in (1, 2, 5, 8, 10, 12)})
    monkeypatch.setattr("nmt.commands.story.ladder.time.sleep", lambda seconds: None)
    run = tmp_path / "story"
    assert main(["story", f"run={run}", "train.device=cpu", "story.jobs=6"]) == 1
    out = capsys.readouterr().out
    assert out.strip().endswith(str(run / "report.html"))
    assert calls == [2, 8, 10, 12]  # 1 and 5 need the run that failed
    found = {c["number"]: c for c in json.loads((run / "report.json").read_text())["claims"]}
    assert found[1]["state"] == found[5]["state"] == found[12]["state"] == "failed"
    assert "none-s1: the disk is full" in found[1]["reason"]
    assert found[12]["reason"] == "failed: ValueError: broken"
    assert found[10]["verdict"] == found[8]["verdict"] == "reproduced"
    assert found[3]["state"] == "not asked"
    assert "seed 1 alone (intervals are over sentences" in (run / "report.md").read_text("utf-8")
    (run / "findings").mkdir()
    (run / "findings" / "1.txt").write_text("The disk was full, says the log.\n", "utf-8")
    assert main(["story", f"run={run}", "train.device=cpu", "story.jobs=6"]) == 1
    assert calls == [2, 8, 10, 12, 12]
    assert "The disk was full, says the log." in (run / "report.md").read_text("utf-8")
    monkeypatch.setattr(story, "train_process", lambda threads: Spawner())
    whole = [f"run={tmp_path / 'whole'}", "train.device=cpu", "story.jobs=6"]
    assert main(["story", *whole, "story.claims=[10]"]) == 0
    assert main(["story", *whole, "story.claims=[10,12]"]) == 1  # a measurement failed
    monkeypatch.setitem(story.MEASURES, 13, measure(13))
    assert main(["story", *whole, "story.claims=[13]"]) == 0
    found = {
        c["number"]: c for c in json.loads((run.parent / "whole/report.json").read_text())["claims"]
    }
    assert found[13]["state"] == "not testable here"
    assert "no domain for this corpus" in found[13]["reason"]


def test_a_story_without_a_test_set_is_refused_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"a {n}\tb {n}\n" for n in range(9))
    (tmp_path / "pairs.tsv").write_text(lines, "utf-8")
    words = ["data=tsv", f"data.train={tmp_path / 'pairs.tsv'}", f"run={tmp_path / 'story'}"]
    assert main(["story", *words, f"data.test={{news: {tmp_path / 'pairs.tsv'}}}"]) == 1
    assert "there is news: name one test" in capsys.readouterr().err
    assert main(["story", *words, "data.test_size=0"]) == 1
    assert "there is none: name one test" in capsys.readouterr().err
    assert not (tmp_path / "story").exists()


def test_a_training_is_a_process_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    started: list[Any] = []

    def popen(words: list[str], **how: Any) -> None:
        started.append((words, how))

    monkeypatch.setattr(subprocess, "Popen", popen)
    training = trainings(tmp_path)["none-s1"]
    story.train_process(3)(training, tmp_path / "log")
    [(words, how)] = started
    assert words[1:5] == ["-m", "nmt", "train", "attention=none-s1"]
    assert words[5:] == ["train.threads=3", f"run={training.path}"]
    assert how["start_new_session"] is True
    assert how["env"]["OMP_NUM_THREADS"] == "3"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 100, "confidence": 0.95}


def test_a_note_says_which_seeds_were_read() -> None:
    numbers = {"note": "Mind."}
    assert story.with_seeds(numbers, [1, 2], [2, 1]) is numbers
    assert story.with_seeds(numbers, [], [1, 2]) is numbers
    note = story.with_seeds(numbers, [1], [1, 2, 3])["note"]
    assert note == "Of the seeds 1, 2, 3 only 1 has all trainings that the rule reads. Mind."


def test_a_note_says_that_nothing_was_to_be_gained() -> None:
    kept = {"none": {"share": interval(0.8)}, "bahdanau": {"share": interval(0.97)}}
    note = saturated(interval(0.978), kept)["note"]
    for number in ("97.8 [96.8, 98.8] %", "80.0 [79.0, 81.0] %", "97.0 [96.0, 98.0] %"):
        assert number in note
    assert saturated(interval(0.90), kept) == {}


def test_a_note_says_that_pairs_are_not_told_apart() -> None:
    """49 % of sentences and 5 % of pairs: one of the two is right in 88 % of the pairs."""
    note = undecided({"accuracy": interval(0.49), "both": interval(0.05)}, "A corpus.")["note"]
    assert "in 5 % of the pairs and in one of the two in 88 %" in note
    assert note.endswith("A corpus.")
    assert undecided({"accuracy": interval(0.8), "both": interval(0.6)}, "") == {}
