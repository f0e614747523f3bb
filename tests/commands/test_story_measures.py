"""What `nmt story` measures, on runs of ten steps and on outputs that were made up."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import sacrebleu
import torch

from nmt import cli, compose
from nmt.commands.pairs import Pairs
from nmt.commands.story import (
    alignment,
    heads,
    meaning,
    measures,
    parallel,
    pipeline,
    sweeps,
)
from nmt.commands.story import bench as bench_module
from nmt.commands.story import command as story
from nmt.commands.story.alignment import error_rate, gold_pairs, with_alignment
from nmt.commands.story.bench import Bench
from nmt.commands.story.domain import travel
from nmt.commands.story.heads import head_counts, head_panel
from nmt.commands.story.ladder import Training, plan
from nmt.commands.story.transfer import transfers
from nmt.config import Source, resource
from nmt.data.grammar import generate, load_lexicon, words
from nmt.decoding.align import END, Explained, Gold, alignment_score, diagonal, read_links
from nmt.evaluation.claims import BY_NUMBER, NEGATED, QUALITY, Outcome, judge
from nmt.evaluation.probes.cues import find_cues
from nmt.evaluation.probes.noise import NoiseEffect
from nmt.evaluation.speed import Speed
from nmt.evaluation.statistics import Interval
from nmt.models.heads import masked
from nmt.translator import Translator


def bench_of(folder: Path, **paths: Path) -> Bench:
    """A bench of one seed, with a finished run for each rung."""
    trainings = {
        f"{rung}-s1": Training(name=f"{rung}-s1", rung=rung, seed=1, words=(), path=path, steps=10)
        for rung, path in paths.items()
    }
    return Bench(folder, trainings, words=["train.device=cpu"])


@pytest.fixture(scope="session")
def other(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a file of 300 pairs, which has no gold alignments."""
    folder = tmp_path_factory.mktemp("other")
    lexicon = load_lexicon(resource("lexicon_en_fr.yaml"))
    pairs = generate(lexicon, train=300, valid=1, test=1, seed=9)["train"]
    lines = [f"{pair.source}\t{pair.target}\n" for pair in pairs]
    (folder / "other.tsv").write_text("".join(lines), "utf-8")
    typed = ["data=tsv", "data.name=other", f"data.train={folder / 'other.tsv'}"]
    short = ["train.max_steps=2", "train.validate_every=2", "train.metric=loss"]
    typed += ["data.languages=en-fr", *short, "train.validate_sentences=0"]
    assert cli.main(["train", "debug=tiny", *typed, f"run={folder / 'run'}"]) == 0
    return folder / "run"


# ---- alignment error rates -----------------------------------------------------------------------


def test_error_rates_are_those_of_nmt_align(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["align", f"run={trained}", "split=test", "format=json"]) == 0
    said = json.loads(capsys.readouterr().out)
    prepared = bench_of(tmp_path, dot=trained).prepared()
    facts = prepared.gold("test")
    assert facts is not None
    gold = [frozenset((i, j) for i, j in one["alignment"]) for one in facts[:8]]
    found = [set(read_links(line).sure) for line in said["alignments"][:8]]
    score = alignment_score(found, [Gold(links, links) for links in gold])
    pairs = zip(prepared.sources("test")[:8], prepared.references("test")[0], strict=False)
    diagonals = [diagonal(len(words(source)), len(words(target))) for source, target in pairs]
    baseline = alignment_score(diagonals, [Gold(links, links) for links in gold]).error_rate
    assert score.error_rate != baseline
    bench = bench_of(tmp_path, dot=trained)
    bench.sentences = 8
    numbers = with_alignment(
        bench, ["dot"], {"caption": "Two.", "table": {"columns": ["model"], "rows": [["dot"]]}}
    )
    assert numbers["table"]["columns"] == ["model", "AER, %"]
    assert numbers["table"]["rows"] == [["dot", f"{100 * score.error_rate:.1f}"]]
    assert numbers["caption"].startswith("Two. AER: ")
    assert f"without a model, has {100 * baseline:.1f} %" in numbers["caption"]
    assert numbers["alignment"]["diagonal"] == pytest.approx(baseline)
    assert numbers["alignment"]["error_rates"]["dot"] == pytest.approx([score.error_rate])


def test_claims_3_4_and_12_have_a_column_of_error_rates(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def references(bench: Bench, rung: str, seed: int, split: str = "test") -> list[str]:
        return bench.test(split).references[0]

    monkeypatch.setattr(Bench, "outputs", references)
    rates = {"cosine": 0.11, "dot": 0.22, "general": 0.33, "bahdanau": 0.44}
    paths = {
        rung: tmp_path / rung for rung in (*rates, "luong_general", "previous_fed", "previous")
    }
    for path in paths.values():
        path.symlink_to(trained)

    def rate(translator: Translator, dev: Pairs, test: Pairs) -> float:
        return rates.get(translator.run.path.name, 0.5)

    monkeypatch.setattr(alignment, "error_rate", rate)
    (tmp_path / "outputs").mkdir()
    bench = bench_of(tmp_path, **paths)
    bench.sentences = 4
    for measure, cells in (
        (sweeps.similarities, {"dot": "22.0", "cosine": "11.0", "general, not fed": "33.0"}),
        (sweeps.timings, {"general, not fed": "33.0", "Luong, general": "50.0"}),
        (meaning.causes, {"Bahdanau": "44.0", "Luong, general": "50.0"}),
    ):
        numbers = measure(bench)
        table = numbers["table"]
        assert table["columns"][-1] == "AER, %"
        assert measure is meaning.causes or numbers["counts"] == {QUALITY: 100}
        if measure is sweeps.similarities:
            assert table["columns"][3:6] == list(sweeps.COST)
        if measure is sweeps.timings:  # of four sentences
            assert "more than 20 words, at least 100 are needed" in numbers["note"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
        assert cells.items() <= {row[0]: row[-1] for row in table["rows"]}.items()


def test_claim_6_compares_the_starts_of_models_that_have_learnt(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learnt start of the model without attention is right, of the other as good as zeros."""
    halves = {"none_zeros", "bahdanau", "bahdanau_zeros"}
    paths = {rung: tmp_path / rung for rung in sweeps.STARTS if not rung.endswith("_last")}
    for path in paths.values():
        path.symlink_to(trained)

    def halved(bench: Bench, rung: str, seed: int, split: str = "test") -> list[str]:
        whole = bench.test(split).references[0]
        return [text[: len(text) // 2] for text in whole] if rung in halves else list(whole)

    bench = bench_of(tmp_path, **paths)
    bench.sentences = 4
    (bench.folder / "outputs").mkdir()
    monkeypatch.setattr(Bench, "outputs", halved)
    numbers = sweeps.starts(bench)
    lost = 100 - np.mean(bench.chrf("none_zeros", 1))
    assert lost > 20
    assert numbers["statistic"]["value"] == pytest.approx(lost / 2)
    assert numbers["by_model"]["bahdanau - bahdanau_zeros"]["value"] == 0
    names = [row[0] for row in numbers["table"]["rows"]]
    assert names == [sweeps.name_of(rung) for rung in sweeps.STARTS if rung in paths]
    assert numbers["counts"] == {QUALITY: 100}
    verdict = judge(BY_NUMBER[6], numbers)
    assert verdict is not None
    assert verdict.outcome is Outcome.reproduced

    blank = bench_of(tmp_path / "blank", **paths)
    blank.sentences = 4
    (blank.folder / "outputs").mkdir(parents=True)
    monkeypatch.setattr(Bench, "outputs", lambda *_, **__: ["le"] * 4)
    verdict = judge(BY_NUMBER[6], sweeps.starts(blank))
    assert verdict is not None
    assert verdict.outcome is Outcome.not_testable


def test_so_many_sentences_and_no_more(trained: Path, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, dot=trained)
    pairs = gold_pairs(bench, "dot")
    assert pairs is not None
    dev, test = pairs
    prepared = bench.prepared()
    assert (dev.sources, test.sources) == (prepared.sources("valid"), prepared.sources("test"))
    bench.sentences = 7
    pairs = gold_pairs(bench, "dot")
    assert pairs is not None
    assert len(pairs[1].sources) == 7


def test_without_gold_a_table_stays_as_it_is(other: Path, tmp_path: Path) -> None:
    numbers = {"caption": "Nothing.", "table": {"columns": ["model"], "rows": [["dot"]]}}
    assert with_alignment(bench_of(tmp_path, dot=other), ["dot"], numbers) is numbers


def test_a_corpus_without_gold_is_measured_on_the_hansards(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rate is that of `nmt align` with the same two files: 50 pairs choose, the rest count."""
    monkeypatch.chdir(tmp_path)  # data.root=. in the run
    (tmp_path / "align").mkdir()
    pairs = [
        line.split("\t") for line in (other.parent / "other.tsv").read_text("utf-8").split("\n")
    ]
    texts = {
        "bitext": "".join(f"{source} ||| {target}\n" for source, target in pairs[:70]),
        "gold": "1-1 2p2\n" * 70,
    }
    for kind, text in texts.items():
        with gzip.open(tmp_path / alignment.HANSARDS[kind], "wt", encoding="utf-8") as file:
            file.write(text)
    files = [f"{kind}={path}" for kind, path in alignment.HANSARDS.items()]
    capsys.readouterr()
    assert cli.main(["align", f"run={other}", *files, "format=json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sentences"] == 20
    numbers = with_alignment(
        bench_of(tmp_path, dot=other),
        ["dot"],
        {"caption": "", "table": {"columns": [], "rows": [[]]}},
    )
    found, diagonal = (numbers["alignment"][name] for name in ("error_rates", "diagonal"))
    assert found["dot"] == [pytest.approx(said["aer"], abs=1e-4)]
    assert diagonal == pytest.approx(said["diagonal"]["aer"], abs=1e-4)
    assert said["aer"] != said["diagonal"]["aer"]
    assert "20 sentences of the Hansards" in numbers["caption"]


def test_the_view_is_chosen_on_dev() -> None:
    """Head 0 is right on dev and wrong on test, head 1 the other way round."""
    straight, turned = torch.eye(4), torch.eye(4)[[1, 2, 0, 3]]
    heads_of = {"dev": (straight, turned), "test": (turned, straight)}

    class Fake:
        def explain_pairs(self, sources: Sequence[str], targets: Sequence[str]) -> list[Explained]:
            return [
                Explained(
                    source=[*(f"▁{word}" for word in source.split()), END],
                    target=[*(f"▁{word}" for word in target.split()), END],
                    encoder=None,
                    decoder=None,
                    cross=torch.stack(heads_of[source.split()[0]])[None],
                    missing={},
                    norms={},
                )
                for source, target in zip(sources, targets, strict=True)
            ]

    links = frozenset((i, i) for i in range(3))
    dev, test = (
        Pairs(name=name, sources=[f"{name} b c"], targets=["x y z"], gold=[Gold(links, links)])
        for name in ("dev", "test")
    )
    assert error_rate(cast(Translator, Fake()), dev, dev) == 0.0
    assert error_rate(cast(Translator, Fake()), dev, test) == 1.0


# ---- 9: each head --------------------------------------------------------------------------------


def test_each_head_of_one_model(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "READ", 12)
    rungs = ("heads_each_small_4", "heads_each_small_16")
    bench = bench_of(tmp_path, **dict.fromkeys(rungs, trained))
    numbers = head_counts(bench)
    *_, entropy, offset, lost = numbers["panels"]
    assert "4 heads, fixed head width, small corpus" in entropy["title"]
    assert entropy["categories"] == ["e0", "", "d0", "", "c0"]
    translator = bench.translator("heads_each_small_4", 1)
    sources, references = bench.test().sources[:12], bench.test().references[0][:12]

    spread, away = [], []
    for one in translator.explain_pairs(sources, references):
        assert one.cross is not None
        for place, row in enumerate(one.cross[0, 2].tolist()):
            spread.append(-sum(weight * math.log(weight) for weight in row if weight))
            away.append(sum(weight * (k - place) for k, weight in enumerate(row)))
    assert entropy["series"][2]["y"][4] == pytest.approx(np.mean(spread), rel=1e-4)
    assert offset["series"][2]["y"][4] == pytest.approx(np.mean(away), rel=1e-4)

    def loss() -> float:
        scores = translator.score(sources, references)
        return -sum(s.log_prob for s in scores) / sum(s.tokens for s in scores)

    whole = loss()
    with masked(translator.run.model, ["cross.0.2"]):
        without = loss()
    assert without != whole
    assert lost["series"][2]["y"][4] == pytest.approx(without - whole, abs=1e-7)
    assert f"loss is {whole:.3f}" in numbers["caption"]


def test_the_model_of_the_large_corpus_where_it_is_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "READ", 2)
    rungs = ("heads_each_small_4", "heads_each_small_16", "heads_each_large_4")
    numbers = head_counts(bench_of(tmp_path, **dict.fromkeys(rungs, trained)))
    assert "(4 heads, fixed head width, large corpus)" in numbers["panels"][-3]["title"]


def test_a_head_has_its_place_and_kinds_are_apart() -> None:
    values = {"encoder.0.0": 1.0, "encoder.0.1": 2.0, "encoder.1.0": 3.0, "encoder.1.1": 4.0}
    panel = head_panel("x", values | {"cross.0.0": 5.0, "cross.0.1": 6.0}, "")
    assert panel["categories"] == ["e0", "e1", "", "c0"]
    assert [one["y"] for one in panel["series"]] == [[1.0, 3.0, None, 5.0], [2.0, 4.0, None, 6.0]]


# ---- 7: speed and quality ------------------------------------------------------------------------


def with_log(path: Path, source: Path, *, rate: str, bleu: Sequence[tuple[float, float]]) -> Path:
    """A copy of a run with another learning rate, and a log of (minute, BLEU)."""
    shutil.copytree(source, path)
    text = (path / "config.yaml").read_text()
    old = next(line for line in text.split("\n") if line.startswith("  learning_rate:"))
    (path / "config.yaml").write_text(text.replace(old, f"  learning_rate: {rate}"))
    records: list[dict[str, Any]] = []
    for minute, value in bleu:
        records.append({"kind": "train", "seconds": 60 * minute})
        records.append({"kind": "validation", "bleu": value})
    (path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_each_model_with_its_best_learning_rate(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = {
        "transformer": ("0.003", [(1.0, 5.0), (2.0, 20.0), (3.0, 30.0)]),
        "transformer_1e-3": ("0.001", [(1.0, 1.0), (2.0, 10.0)]),
        "transformer_2e-3": ("0.002", [(1.0, 6.0), (3.0, 40.0), (4.0, 39.0)]),
        "bahdanau": ("0.002", [(2.0, 11.0), (3.5, 12.0)]),
        "bahdanau_1e-3": ("0.001", [(2.0, 8.0), (5.0, 9.0)]),
    }
    runs = {n: with_log(tmp_path / n, trained, rate=r, bleu=b) for n, (r, b) in logs.items()}
    speeds = {"transformer_2e-3": 0.5, "bahdanau": 0.0}  # exponents of the made-up speeds
    asked: list[str] = []

    def made_up(model: Any) -> list[Speed]:
        asked.append(next(n for n, t in opened.items() if t is model))
        return [Speed(n, 100.0 * n ** speeds[asked[-1]]) for n in (8, 16, 32)]

    bench = bench_of(tmp_path, **runs)
    opened = {name: bench.translator(name, 1).run.model for name in speeds}
    monkeypatch.setattr(parallel, "training_speed", made_up)
    numbers = parallel.parallel(bench)
    assert asked == list(speeds)
    assert numbers["statistic"]["value"] == pytest.approx(0.5)
    assert numbers["counts"] == {"lengths timed": 3}
    assert numbers["rates"] == {
        "transformer": {"3e-3": 30.0, "1e-3": 10.0, "2e-3": 40.0},
        "bahdanau": {"2e-3": 12.0, "1e-3": 9.0},
    }
    assert [(one["name"], one["x"], one["y"]) for one in numbers["panels"][1]["series"]] == [
        ("Transformer, 2e-3", [1.0, 3.0, 4.0], [6.0, 40.0, 39.0]),
        ("Bahdanau, 2e-3", [2.0, 3.5], [11.0, 12.0]),
    ]
    note = numbers["note"]
    assert "Transformer 10.0 with 1e-3, 40.0 with 2e-3, 30.0 with 3e-3" in note
    assert "(not all of 1e-3, 2e-3, 3e-3 have a finished run of both)" in note
    size = sum(p.numel() for n, p in opened["bahdanau"].named_parameters() if "emb" not in n)
    assert abs(size - numbers["parameters"]["bahdanau"]) < 1_000  # but for the output's bias
    assert "After 3.5 minutes" in note
    assert note.endswith("Transformer 40.0 and Bahdanau 12.0 BLEU on dev.")


def test_a_model_without_a_validation_yet_has_no_quality(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = {"transformer": ("0.003", [(5.0, 50.0)]), "bahdanau": ("0.003", [(4.0, 12.0)])}
    runs = {n: with_log(tmp_path / n, trained, rate=r, bleu=b) for n, (r, b) in logs.items()}
    monkeypatch.setattr(parallel, "training_speed", lambda model: [Speed(8, 1.0), Speed(16, 2.0)])
    note = parallel.parallel(bench_of(tmp_path, **runs))["note"]
    assert "After 4.0 minutes" in note
    assert note.endswith("Transformer not validated yet and Bahdanau 12.0 BLEU on dev.")


def test_a_recipes_own_rate_counts_where_the_grid_was_not_trained(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = {"transformer": "0.0015", "transformer_1e-3": "0.001", "bahdanau": "0.0015"}
    runs = {n: with_log(tmp_path / n, trained, rate=r, bleu=[(1, 9)]) for n, r in logs.items()}
    monkeypatch.setattr(parallel, "training_speed", lambda model: [Speed(8, 1.0), Speed(16, 2.0)])
    found = parallel.parallel(bench_of(tmp_path, **runs))["rates"]
    assert found == {"transformer": {"1e-3": 9}, "bahdanau": {"1.5e-3": 9}}


# ---- 16: the pipeline ----------------------------------------------------------------------------


def test_each_step_of_the_work_has_its_time(trained: Path, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, bahdanau=trained, transformer=trained)
    bench.sentences = 3
    prepared = sorted(Path(os.environ["NMT_CACHE"]).iterdir())
    numbers = pipeline.steps(bench)
    assert sorted(Path(os.environ["NMT_CACHE"]).iterdir()) == prepared
    rows = numbers["table"]["rows"]
    assert [row[0][0] for row in rows] == [*"12345", "6", "6", *"78"]
    assert [row[2] for row in rows[:3]] == ["–"] * 3
    assert all(seconds > 0 for seconds in numbers["seconds"].values())
    assert len(numbers["seconds"]) == 6
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    spent = [record["seconds"] for record in log if record["kind"] == "train"][-1]
    assert numbers["seconds"]["6. training, Transformer"] == spent
    [bleu] = (row[1] for row in rows if row[0] == "7. evaluation")
    assert bleu.startswith("3 sentences, bleu ")


# ---- 15: transfer --------------------------------------------------------------------------------


def test_transfer_is_measured_on_each_draw_and_forgetting_on_the_old_task(
    trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two draws: the first has the test set of `other`, the second that of `trained`."""
    homes = {("transformer", 1): trained, ("transformer", 2): trained}
    for kind in ("tuned", "scratch"):
        homes |= {(f"{kind}_1000", 1): other, (f"{kind}_1000", 2): trained}
    homes |= {("tuned_300", 1): other}  # no counterpart: not shown
    trainings = {}
    for (rung, seed), home in homes.items():
        name = f"{rung}-s{seed}"
        (tmp_path / name).symlink_to(home)
        trainings[name] = Training(
            name=name, rung=rung, seed=seed, words=(), path=tmp_path / name, steps=10
        )
    bench = Bench(tmp_path, trainings, words=["train.device=cpu"])
    tests = {home: bench_of(tmp_path, one=home).test() for home in (trained, other)}
    truth = {
        home: dict(zip(test.sources, test.references[0], strict=True))
        for home, test in tests.items()
    }
    everything = truth[trained] | truth[other]

    def cut(share: float) -> dict[str, str]:
        return {source: text[: int(share * len(text))] for source, text in everything.items()}

    shares = {
        "transformer-s1": 0.9, "transformer-s2": 0.9, "tuned_1000-s1": 0.8, "tuned_1000-s2": 0.7,
        "scratch_1000-s1": 0.5, "scratch_1000-s2": 0.6,
    }  # fmt: skip
    said = Said({tmp_path / name: cut(share) for name, share in shares.items()})
    monkeypatch.setattr(bench_module, "Translator", said)
    numbers = transfers(bench)

    def chrf(name: str, home: Path) -> float:
        answers = cut(shares[name])
        found = [sacrebleu.sentence_chrf(answers[s], [t]).score for s, t in truth[home].items()]
        return sum(found) / len(found)

    tuned = [chrf("tuned_1000-s1", other), chrf("tuned_1000-s2", trained)]
    scratch = [chrf("scratch_1000-s1", other), chrf("scratch_1000-s2", trained)]
    assert numbers["statistic"]["value"] == pytest.approx(np.mean(tuned) - np.mean(scratch))
    assert numbers["counts"].keys() == {"draws of the pairs (seeds)", QUALITY}
    assert numbers["counts"]["draws of the pairs (seeds)"] == 2
    hypotheses = [cut(0.8)[source] for source in truth[other]]
    one = sacrebleu.corpus_bleu(hypotheses, [list(truth[other].values())]).score
    hypotheses = [cut(0.7)[source] for source in truth[trained]]
    two = sacrebleu.corpus_bleu(hypotheses, [list(truth[trained].values())]).score
    assert numbers["counts"][QUALITY] == int((one + two) / 2)
    new, old = numbers["panels"]
    assert [one["y"] for one in new["series"]] == [
        [pytest.approx(np.mean(tuned))], [pytest.approx(np.mean(scratch))],
    ]  # fmt: skip
    after = np.mean([chrf(f"tuned_1000-s{seed}", trained) for seed in (1, 2)])
    before = chrf("transformer-s1", trained)
    assert numbers["old_task"] == {
        "before": pytest.approx(before), "after": {"1000": pytest.approx(after)},
    }  # fmt: skip
    assert [one["y"][0] for one in old["series"]] == pytest.approx([after, before])
    assert numbers["table"]["rows"] == [
        ["1,000", *(f"{value:.1f}" for value in (np.mean(tuned), np.mean(scratch), after))]
    ]


# ---- 13: another domain --------------------------------------------------------------------------


@dataclass
class Said:
    """In place of `Translator`: what each run says to each source, and how often it was asked.

    The best checkpoint is that of step 5; the later one of step 10 finds texts twice as probable.
    """

    answers: dict[Path, dict[str, str]]
    asked: list[tuple[Path, list[str]]] = field(default_factory=list)

    def load(self, run: Path, checkpoint: str, words: Sequence[str]) -> Any:
        def translate(lines: Sequence[str]) -> list[Any]:
            self.asked.append((run, list(lines)))
            return [SimpleNamespace(text=self.answers[run][line]) for line in lines]

        def score(sources: Sequence[str], targets: Sequence[str]) -> list[Any]:
            self.asked.append((run, list(sources)))
            log_prob = {"best": -9.0, "step-00000005": -9.0, "step-00000010": -4.5}[checkpoint]
            lengths = (2, 4) * (len(sources) // 2)
            return [SimpleNamespace(log_prob=log_prob, tokens=n) for n in lengths]

        return SimpleNamespace(translate=translate, score=score, run=SimpleNamespace(step=5))


def test_a_model_of_another_domain_against_one_that_travels(
    trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(tmp_path, transformer=trained, domain=other)
    here = dict(zip(bench.test().sources, bench.test().references[0], strict=True))
    abroad = bench.at("domain").test()
    there = dict(zip(abroad.sources, abroad.references[0], strict=True))
    assert len(there) == 30
    assert not here.keys() & there.keys()
    short = {source: text[: len(text) // 3] for source, text in there.items()}
    nearly = {source: text[:-3] for source, text in there.items()}
    said = Said({trained: here | short, other: dict.fromkeys(here, "Non.") | nearly})
    monkeypatch.setattr(bench_module, "Translator", said)
    numbers = travel(bench)

    def chrf(answers: dict[str, str]) -> float:
        found = [sacrebleu.sentence_chrf(answers[s], [text]).score for s, text in there.items()]
        return sum(found) / len(found)

    statistic = numbers["statistic"]
    assert statistic["value"] == pytest.approx(chrf(nearly) - chrf(short))
    assert 0 < statistic["low"] < statistic["value"] < statistic["high"]
    assert numbers["counts"] == {"sentences of another domain": 30}
    rows = {row[0]: row[1:] for row in numbers["table"]["rows"]}
    assert rows["Transformer"][:3] == ["mini_en_fr", *["100.0 [100.0, 100.0]"] * 2]
    assert rows["Transformer of the other domain"][0] == "other"
    assert numbers["gain_at_home"]["value"] > 50
    assert numbers["table"]["columns"][-1] == "chrF on other"
    corpus = sacrebleu.corpus_chrf(list(nearly.values()), [list(there.values())]).score
    assert rows["Transformer of the other domain"][-1].startswith(f"{corpus:.1f} [")

    asked = len(said.asked)
    assert asked == 6  # each of two test sets by each of two runs, and a loss of each checkpoint
    assert travel(bench)["statistic"] == statistic
    assert said.asked[asked:] == [(trained, abroad.sources)] * 2  # outputs are kept, apart


def test_the_losses_are_those_of_the_log_and_of_the_checkpoint_abroad(
    trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(tmp_path, transformer=trained, domain=other)
    texts = [*bench.test().sources, *bench.at("domain").test().sources]
    everything = dict.fromkeys(texts, "Oui.")
    said = Said({trained: everything, other: everything})
    monkeypatch.setattr(bench_module, "Translator", said)
    numbers = travel(bench)
    lines = (trained / "log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    # Without label smoothing, like the loss on dev.
    train = {r["step"]: math.log(r["perplexity"]) for r in log if r["kind"] == "train"}
    dev = {r["step"]: r["loss"] for r in log if r["kind"] == "validation"}
    assert set(dev) == {5, 10}
    trained_at = [train[max(n for n in train if n <= step)] for step in (5, 10)]
    [panel] = numbers["panels"]
    assert [one["x"] for one in panel["series"]] == [[5, 10], [5, 10], [5, 10]]
    assert [one["y"] for one in panel["series"]] == [
        trained_at, [dev[5], dev[10]], [3.0, 1.5],
    ]  # fmt: skip
    assert numbers["losses"] == {"dev": dev[5], "train": trained_at[0], "step": 5, "abroad": 3.0}
    assert numbers["statistic"]["value"] == 0.0


def test_the_model_of_another_domain_differs_in_its_data_alone(tmp_path: Path) -> None:
    config = compose.story(["story.claims=[13]"])
    assert "domain-s1" not in plan(config, "mini_en_fr", [], tmp_path)
    found = plan(config, "multi30k_en_fr", ["data=multi30k_en_fr"], tmp_path)
    assert list(found) == ["transformer-s1", "bahdanau-s1", "domain-s1"]
    story.check(found)
    home, abroad = (compose.compose(found[n].words) for n in ("transformer-s1", "domain-s1"))
    one, two = compose.flat(home), compose.flat(abroad)
    assert {key.partition(".")[0] for key in one if one[key] != two[key]} == {"data"}
    assert abroad.data.source is Source.tsv
    assert (abroad.data.valid, abroad.data.test, abroad.data.languages) == (None, None, "en-fr")
    assert abroad.data.filters == compose.compose(["data=tsv", "data.train=x"]).data.filters


# ---- what a corpus does not have -----------------------------------------------------------------


@pytest.fixture
def french(tmp_path: Path) -> Path:
    """A run of two steps from French to English on the embedded corpus."""
    short = ["train.max_steps=2", "train.validate_every=2", "train.metric=loss"]
    short += ["data.reverse=true", "train.validate_sentences=0", "model=lstm_small"]
    short += ["attention=luong_dot"]
    assert cli.main(["train", "debug=tiny", *short, f"run={tmp_path / 'french'}"]) == 0
    return tmp_path / "french"


def test_what_is_english_alone_is_not_asked_of_another_source(french: Path, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, bahdanau=french, luong_dot=french)
    assert sweeps.noise(bench) == {"missing": "the harmless words are English"}
    assert meaning.causes(bench) == {"missing": "the words put over others are English"}
    for number, measure in ((11, sweeps.noise), (12, meaning.causes)):
        verdict = judge(BY_NUMBER[number], measure(bench))
        assert verdict is not None
        assert verdict.outcome is Outcome.not_testable
        assert verdict.reason.endswith("English")
    anatomy = measures.anatomy(bench)
    *_, context, most, _, _, _, least = anatomy["table"]["rows"]
    assert context[0] == "weighted sum (context)"
    assert most[0].startswith("next piece: ")
    assert float(most[2]) >= float(least[2])
    text = anatomy["caption"].split("”")[0].removeprefix("“")
    assert text in bench.test().sources


def test_noise_of_several_seeds_is_their_mean(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second seed has twice of everything; a story of few sentences asks none of it."""
    trainings = {
        f"bahdanau-s{seed}": Training(
            name=f"bahdanau-s{seed}", rung="bahdanau", seed=seed, words=(), path=trained, steps=10
        )
        for seed in (1, 2)
    }
    bench = Bench(tmp_path, trainings, words=["train.device=cpu"])
    made: list[int] = []

    def effect(noisy: Any, references: Any, translate: Any, explain: Any) -> NoiseEffect:
        made.append(len(noisy))
        seed = 1 + (len(made) > 9)
        cost = Interval(-2.0 * seed, -3.0 * seed, -seed, 30)
        return NoiseEffect(
            30 * seed, 20 * seed, 26 * seed, cost, cost, 0.2, 0.2, 0.1 * seed, None, 30
        )

    monkeypatch.setattr(sweeps, "noise_effect", effect)
    monkeypatch.setattr(Bench, "outputs", lambda bench, *_: bench.test().references[0])
    monkeypatch.setattr(sweeps, "ENOUGH_NOISY", 4)
    (tmp_path / "outputs").mkdir()
    bench.sentences = 3
    few = sweeps.noise(bench)
    assert (few, made) == ({"counts": {"test sentences": 3, QUALITY: 100}}, [])
    bench.sentences = 4
    numbers = sweeps.noise(bench)
    assert numbers["statistic"]["value"] == -3
    assert "95 % intervals over seeds" in numbers["caption"]
    assert numbers["table"]["rows"][0][2:5] == ["45.0", "30.0", "39.0"]
    assert numbers["table"]["rows"][0][6:] == ["15.0", "–"]


def test_claim_5_counts_where_there_is_nothing_to_choose(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(tmp_path, none=trained, bahdanau=trained)
    bench.sentences = 2
    one = meaning.negation_items(bench)[0][:1]
    monkeypatch.setattr(meaning, "negation_items", lambda bench: (one, [], "one pair"))
    found = meaning.negation(bench)
    says_no = re.compile(r"n't\b|\b(?:not|never|no|nobody|nothing)\b", re.IGNORECASE)
    negated = sum(bool(says_no.search(text)) for text in bench.prepared().train.source_texts())
    assert found["counts"] == {"minimal pairs": 1, NEGATED: negated, QUALITY: 0}
    assert negated > 20
    assert [row[0] for row in found["table"]["rows"]] == ["no attention", "Bahdanau"]
    assert judge(BY_NUMBER[5], found).outcome == "not testable here"  # type: ignore[union-attr]
    monkeypatch.setattr(
        bench, "_prepared", SimpleNamespace(source_language="en", target_language="ja")
    )
    assert "no rule here" in meaning.negation(bench)["missing"]


def test_a_negation_is_taken_out_where_nothing_else_changes() -> None:
    wrong = {
        "Il ne chante pas.": "Il chante.",
        "Il n’est pas fatigué.": "Il est fatigué.",
        "Je n'arrive pas.": "J'arrive.",
        "Il dit que ce n’est pas vrai.": "Il dit que c’est vrai.",
        "Je ne sais pas.": "Je sais.",
        "Ne partez pas.": "Partez.",
        "Il n'a pas de pain.": None,  # du pain
        "Il ne doit pas créer d'unités.": None,  # des unités
        "Il n'est pas encore là.": None,
        "Il est là, n'est-ce pas ?": None,
        "Il est là. Ne partez pas.": None,  # a capital within
        "Il ne chante pas et ne danse pas.": None,
    }
    items = meaning.without_negation(["He does not."] * len(wrong), list(wrong))
    assert {item.right: item.wrong for item in items} == {k: v for k, v in wrong.items() if v}
    assert meaning.without_negation(["He sings."], ["Il ne chante pas."]) == []


def test_claim_5_reads_sums_and_shows_means(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By sum attention reads the polarity and the other takes the shorter; by mean both tie."""

    def reads(sources: Sequence[str], targets: Sequence[str]) -> list[Any]:
        negated = [find_cues(source, "en") != [] for source in sources]
        found = [find_cues(target, "fr") != [] for target in targets]
        return [
            SimpleNamespace(log_prob=a == b, mean=0) for a, b in zip(negated, found, strict=True)
        ]

    def shorter(sources: Sequence[str], targets: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(log_prob=-len(target), mean=0) for target in targets]

    scorers = {"none": shorter, "bahdanau": reads}
    monkeypatch.setattr(
        Bench, "translator", lambda bench, rung, seed: SimpleNamespace(score=scorers[rung])
    )
    monkeypatch.setattr(Bench, "outputs", lambda bench, *_: bench.test().references[0])
    monkeypatch.setattr(meaning, "PAIRS", 40)
    bench = bench_of(tmp_path, none=trained, bahdanau=trained)
    (tmp_path / "outputs").mkdir()
    numbers = meaning.negation(bench)
    assert numbers["statistic"]["value"] == pytest.approx(50, abs=15)
    assert numbers["by_mean"]["value"] == 0
    none, attention = numbers["table"]["rows"]
    assert none[1:4] == ["50.0 [50.0, 50.0]", "50.0 [50.0, 50.0]", "0.0 [0.0, 0.0]"]
    assert attention[1] == "100.0 [100.0, 100.0]"
    assert none[4] == attention[4] == "50.0 [50.0, 50.0]"
    assert attention[-1].startswith("100.0 [")
    assert numbers["counts"] == {"minimal pairs": 40, NEGATED: 115, QUALITY: 100}


def test_the_control_of_real_negations_is_affirmative_half_of_the_time(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [f"{name} does not sing." for name in "ABCDEFGH"] + ["He sings.", "It rains."]
    references = [f"{name} ne chante pas." for name in "ABCDEFGH"] + ["Il chante.", "Il pleut."]
    test = bench_module.TestSet(sources, [references])
    monkeypatch.setattr(Bench, "test", lambda bench: test)
    bench = bench_of(tmp_path, none=other)
    items, strangers, _ = meaning.negation_items(bench)
    assert [item.source for item in items] == sources[:8]
    assert sum(stranger in sources[8:] for stranger in strangers) == 4
    assert all(item.source != stranger for item, stranger in zip(items, strangers, strict=True))
    del sources[8:], references[8:]  # nothing affirmative: no control, and so no verdict
    assert meaning.negation_items(bench)[1] == []


def test_an_optional_model_that_ranks_nothing_is_left_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = meaning._masked

    def flat(bench: Bench, rung: str, seed: int) -> Any:
        found = measured(bench, rung, seed)
        return replace(found, raw_taus=()) if rung == silent else found

    monkeypatch.setattr(meaning, "_masked", flat)
    monkeypatch.setattr(meaning, "MASKED", 6)
    bench = bench_of(tmp_path, bahdanau=trained, luong_dot=trained)
    silent = "luong_dot"
    (tmp_path / "outputs").mkdir()
    assert [row[0] for row in meaning.causes(bench)["table"]["rows"]] == ["Bahdanau"]
    silent = "bahdanau"
    assert "missing" in meaning.causes(bench)


def test_claim_1_leaves_out_what_has_no_counterpart(trained: Path, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, none=trained, bahdanau=trained)
    lonely = Training(
        name="luong_dot-s2", rung="luong_dot", seed=2, words=(), path=trained, steps=10
    )
    bench.trainings = {**bench.trainings, lonely.name: lonely}
    bench.sentences = 4
    names = [row[0] for row in measures.length(bench)["table"]["rows"]]
    assert names == ["no attention", "Bahdanau"]
    bench.sentences = 1
    assert measures.length(bench) == {"missing": "all test sentences have one length"}


def test_home_is_the_storys_corpus_whoever_finished_first(
    trained: Path, other: Path, tmp_path: Path
) -> None:
    bench = bench_of(tmp_path, domain=other, transformer=trained)
    assert bench.data().name == "other"
    bench.corpus = "mini_en_fr"
    assert bench.data().name == "mini_en_fr"
    assert bench.at("domain").data().name == "other"
