"""Several runs as one, and tags, as they are typed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nmt import Translator, cli
from nmt.commands import evaluate
from nmt.commands.train import training_pairs
from nmt.config import Config
from nmt.data.prepared import Prepared
from nmt.data.store import Ragged
from nmt.errors import UserError
from nmt.models.ensemble import Ensemble

LINES = ["A dog runs.", "", "The man sees the house, and the dog sleeps."]


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


@pytest.fixture
def twin(trained: Path, tmp_path: Path) -> Path:
    """The same run in another place."""
    shutil.copytree(trained, tmp_path / "twin")
    return tmp_path / "twin"


def test_a_run_with_its_twin_is_the_run(
    trained: Path, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    argv = ["search.beam=2", f"input={source}"]
    one = nmt(capsys, "translate", f"run={trained}", *argv)
    assert one == nmt(capsys, "translate", f"run=[{trained}, {twin}]", *argv)
    pair = [f"source={source}", f"target={source}"]
    status, alone, _ = nmt(capsys, "score", f"run=[{trained}]", *pair)
    _, both, _ = nmt(capsys, "score", f"run=[{trained},{twin}]", *pair)
    assert status == 0
    for a, b in zip(alone.split(), both.split(), strict=True):
        assert float(a) == pytest.approx(float(b), abs=2e-3)
    translator = Translator.load([trained, twin], words=["search.beam=1"])
    assert [one.path for one in translator.members] == [trained, twin]
    assert isinstance(translator.run.model, Ensemble)
    assert Translator.load([trained]).members == ()
    status, out, _ = nmt(
        capsys, "translate", f"run=[{trained},{twin}]", "text=A dog.", "format=jsonl"
    )
    assert (status, {"text", "score", "alignment"} <= json.loads(out).keys()) == (0, True)


def test_scores_of_an_ensemble_go_into_no_run(
    trained: Path, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(trained), files(twin)
    home, both = tmp_path / "kept" / "both", f"run=[{trained},{twin}]"
    argv = ["evaluate", both, "split=valid", "search=greedy", "search.max_length=3"]
    status, out, err = nmt(capsys, *argv, f"output={home}", "format=json")
    assert status == 0
    assert re.search(r"step-0+(\d+)\+step-0+\1,", err)
    [record] = json.loads((home / "scores.json").read_text("utf-8"))
    assert record == json.loads(out)
    assert record["runs"] == [str(trained), str(twin)]
    assert (home / record["translations"]).read_text("utf-8").count("\n") == 40
    assert (files(trained), files(twin)) == before
    status, _, err = nmt(capsys, *argv, f"output={twin}")
    assert (status, "is a run, and its scores are its own" in err) == (1, True)
    assert evaluate.home_of(cli.parse("evaluate", [both]), [trained, twin]) is None
    assert evaluate.home_of(cli.parse("evaluate", [f"run={twin}"]), [twin]) == twin


def test_runs_that_do_not_belong_together_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Path(__file__).with_name("golden")
    both = f"run=[{golden / 'lstm'},{golden / 'transformer'}]"
    status, _, err = nmt(capsys, "translate", both, "text=A")
    assert (status, err.count("\n")) == (1, 1)
    assert "golden/lstm and " in err
    assert "golden/transformer cannot decode together: their vocabularies differ" in err
    turned = tmp_path / "turned"
    shutil.copytree(trained, turned)
    config = (turned / "config.yaml").read_text("utf-8")
    (turned / "config.yaml").write_text(config.replace("reverse: false", "reverse: true"), "utf-8")
    _, _, err = nmt(capsys, "translate", f"run=[{trained},{turned}]", "text=A")
    assert "one translates en-fr, the other fr-en" in err
    for typed, message in (
        ("run=[a,]", "needs run="),
        ("run=[]", "needs run="),
        (f"run=[{trained},nowhere]", "nowhere: no such run directory"),
    ):
        status, _, err = nmt(capsys, "translate", typed, "text=A")
        assert status == 1
        assert message in err
    status, _, err = nmt(capsys, "align", f"run=[{trained},{trained}]", "text=A")
    assert "nmt align reads one run, not an ensemble of 2" in err


# --- tags ----------------------------------------------------------------------------------------


@pytest.fixture
def tagged(run: Path) -> Path:
    """A run whose configuration says that it was trained with tags (its vocabulary spells them)."""
    text = (run / "config.yaml").read_text("utf-8")
    rows = [f"  - {{name: {n}, path: [{n}], kind: files, tag: <{n}>}}\n" for n in ("aa", "bb")]
    text = text.replace("  train: null\n", "  train:\n" + "".join(rows), 1)
    (run / "config.yaml").write_text(text, "utf-8")
    return run


def test_a_tag_is_typed_in_the_text_or_beside_it(
    tagged: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = f"run={tagged}"
    typed = nmt(capsys, "translate", run, "text=<bb> b dog 3", "format=jsonl")
    assert typed == nmt(capsys, "translate", run, "text=b dog 3", "tag=bb", "format=jsonl")
    assert typed == nmt(capsys, "translate", run, "text=b dog 3", "tag=<bb>", "format=jsonl")
    record = json.loads(typed[1])
    assert record["source"] == "<bb> b dog 3"
    assert "begin with no tag" not in caplog.text
    assert nmt(capsys, "translate", run, "text=b dog 3")[0] == 0
    assert "1 of 1 lines begin with no tag" in caplog.text
    assert "tag=NAME, of aa, bb" in caplog.text
    for empty in ("text=", "text=<bb>", "text=  "):
        status, out, err = nmt(
            capsys, "translate", run, empty, "tag=bb" if empty[-1] != ">" else run
        )
        assert (status, out, err) == (0, "\n", "")
    status, _, err = nmt(capsys, "translate", run, "text=b", "tag=b")
    assert (status, err) == (1, "nmt: tag=b: the run does not know this tag; did you mean bb? it"
                             " knows aa, bb\n")  # fmt: skip


def test_every_part_of_a_long_line_has_its_tag(tagged: Path) -> None:
    translator = Translator.load(tagged, tag="bb", words=["search=greedy", "search.max_length=3"],
                                 report=lambda line: None)  # fmt: skip
    [found] = translator.translate(["b dog 1 2 3. " * 40])
    assert found.parts > 1
    text = translator.run.tokenizers.source.decode(found.source_ids)
    assert text.count("<bb>") == found.parts
    with pytest.raises(UserError, match="the run does not know this tag; it knows aa, bb"):
        Translator.load(tagged, tag="zz")


def test_a_run_trains_on_its_mixture() -> None:
    """What `nmt train` hands to the loop: pairs as often as the weights say."""
    from types import SimpleNamespace

    rows = Ragged(np.full(8, 5, np.int32), np.arange(9), np.ones(8, np.int32))
    counts = [{"kept": 6, "weight": 1.0}, {"kept": 2, "weight": 2.5}]
    prepared = SimpleNamespace(
        train=SimpleNamespace(source=rows, target=rows),
        tokenizers=None,
        corpora=Prepared.corpora.fget(SimpleNamespace(manifest={"corpora": counts})),  # type: ignore[attr-defined]
    )
    model = SimpleNamespace(max_source_length=None, max_target_length=None)
    pairs = training_pairs(Config(), prepared, model)  # type: ignore[arg-type]
    seen = np.bincount(np.concatenate([*pairs.epoch(0).plan, *pairs.epoch(1).plan]))
    assert seen.tolist() == [2] * 6 + [5] * 2
