"""What `nmt story` measures, on runs of ten steps and on outputs that were made up."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import sacrebleu
import torch

from nmt import cli, compose
from nmt.commands.pairs import Pairs
from nmt.commands.story import alignment, heads, meaning, sweeps
from nmt.commands.story import bench as bench_module
from nmt.commands.story import command as story
from nmt.commands.story.alignment import error_rate, gold_pairs, with_alignment
from nmt.commands.story.bench import Bench
from nmt.commands.story.domain import travel
from nmt.commands.story.heads import head_counts, head_panel
from nmt.commands.story.ladder import Training, plan
from nmt.config import Source, resource
from nmt.data.grammar import generate, load_lexicon, words
from nmt.decoding.align import END, Explained, Gold, alignment_score, diagonal, read_links
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
        (sweeps.similarities, {"dot": "22.0", "cosine": "11.0", "general": "33.0"}),
        (sweeps.timings, {"general": "33.0", "previous": "50.0"}),
        (meaning.causes, {"Bahdanau": "44.0", "Luong, general": "50.0"}),
    ):
        table = measure(bench)["table"]
        assert table["columns"][-1] == "AER, %"
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
        assert cells.items() <= {row[0]: row[-1] for row in table["rows"]}.items()


def test_so_many_sentences_and_no_more(trained: Path, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, dot=trained)
    dev, test = gold_pairs(bench, "dot")
    prepared = bench.prepared()
    assert (dev.sources, test.sources) == (prepared.sources("valid"), prepared.sources("test"))
    bench.sentences = 7
    assert len(gold_pairs(bench, "dot")[1].sources) == 7


def test_without_gold_a_table_stays_as_it_is(other: Path, tmp_path: Path) -> None:
    numbers = {"caption": "Nothing.", "table": {"columns": ["model"], "rows": [["dot"]]}}
    assert with_alignment(bench_of(tmp_path, dot=other), ["dot"], numbers) is numbers


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
    assert "heads each small 4" in entropy["title"]
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
    assert "(heads each large 4)" in numbers["panels"][-3]["title"]


def test_a_head_has_its_place_and_kinds_are_apart() -> None:
    values = {"encoder.0.0": 1.0, "encoder.0.1": 2.0, "encoder.1.0": 3.0, "encoder.1.1": 4.0}
    panel = head_panel("x", values | {"cross.0.0": 5.0, "cross.0.1": 6.0}, "")
    assert panel["categories"] == ["e0", "e1", "", "c0"]
    assert [one["y"] for one in panel["series"]] == [[1.0, 3.0, None, 5.0], [2.0, 4.0, None, 6.0]]


# ---- 13: another domain --------------------------------------------------------------------------


@dataclass
class Said:
    """In place of `Translator`: what each run says to each source, and how often it was asked."""

    answers: dict[Path, dict[str, str]]
    asked: list[tuple[Path, list[str]]] = field(default_factory=list)

    def load(self, run: Path, words: Sequence[str]) -> Any:
        def translate(lines: Sequence[str]) -> list[Any]:
            self.asked.append((run, list(lines)))
            return [SimpleNamespace(text=self.answers[run][line]) for line in lines]

        def score(sources: Sequence[str], targets: Sequence[str]) -> list[Any]:
            self.asked.append((run, list(sources)))
            return [SimpleNamespace(log_prob=-9.0, tokens=n) for n in (2, 4) * (len(sources) // 2)]

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
    assert asked == 5  # each of two test sets by each of two runs, and one loss
    assert travel(bench)["statistic"] == statistic
    assert said.asked[asked:] == [(trained, abroad.sources)]  # outputs are kept, apart


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
    train = {r["step"]: r["loss"] for r in log if r["kind"] == "train"}
    dev = {r["step"]: r["loss"] for r in log if r["kind"] == "validation"}
    assert set(dev) == {5, 10}
    trained_at = [train[max(n for n in train if n <= step)] for step in (5, 10)]
    [panel] = numbers["panels"]
    assert [one["x"] for one in panel["series"]] == [[5, 10], [5, 10], [5]]
    assert [one["y"] for one in panel["series"]] == [
        trained_at, [dev[5], dev[10]], [3.0],
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
