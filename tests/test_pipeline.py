"""All commands on one small corpus, as they are typed, and what happens when something is off."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from nmt import Translator, cli
from nmt.errors import UserError
from nmt.runs import owned

SENTENCES = [
    "A dog runs.",
    'He said: "no", didn\'t he?',
    "",
    "1e3",
    "null",
    "${oc.env:HOME}",
    "[1, 2] {a: b} a=b=c",
    "à l'œil\u2028line\x85separators",
    "日本語、文",
    "   ",
    "(unbalanced",
]


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def nmt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(argv))
    return status, *capsys.readouterr()


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)


def test_a_run_is_complete_in_itself(trained: Path) -> None:
    names = {f.name for f in trained.iterdir()}
    assert {"config.yaml", "data.json", "tokenizer", "checkpoints", "log.jsonl"} <= names
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text("utf-8").splitlines()]
    steps = [record["step"] for record in log if record["kind"] == "train"]
    assert steps == [2, 4, 5, 6, 8, 10]
    scores = [record for record in log if record["kind"] == "validation"]
    assert [set(s) >= {"loss", "perplexity", "bleu", "chrf"} for s in scores] == [True, True]


def test_lines_in_are_lines_out(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, "\n".join(SENTENCES).encode())
    status, out, _ = nmt(capsys, "translate", f"run={run}", "search=greedy")
    lines = out.split("\n")
    assert status == 0
    assert len(lines) == len(SENTENCES) + 1  # the last line ends in a newline
    assert all(bool(line) is bool(s.strip()) for line, s in zip(lines, SENTENCES, strict=False))


def test_text_input_and_output_files_agree(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in, put", tmp_path / "out=put"
    source.write_bytes("\n".join(SENTENCES).encode() + b"\n")
    argv = ["translate", f"run={run}", "search.beam=2"]
    assert nmt(capsys, *argv, f"input={source}", f"output={target}")[:2] == (0, "")
    lines = target.read_text("utf-8").split("\n")[:-1]
    assert len(lines) == len(SENTENCES)
    for sentence, line in zip(SENTENCES, lines, strict=True):
        status, out, _ = nmt(capsys, *argv, f"text={sentence}")
        assert (status, out) == (0, line + "\n")


def test_bytes_that_are_not_utf8_cost_no_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"\xef\xbb\xbfA dog.\r\nTwo \xff men.\n\nEnd")
    status, out, _ = nmt(capsys, "translate", f"run={run}", "search=greedy")
    assert (status, out.count("\n")) == (0, 4)


def test_jsonl_holds_scores_n_best_and_alignment(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["translate", f"run={run}", "text=The dog sees the cat.", "search.n_best=3"]
    assert "add format=jsonl" in nmt(capsys, *argv)[2]
    status, out, _ = nmt(capsys, *argv, "format=jsonl")
    record = json.loads(out)
    assert status == 0
    assert len(record["n_best"]) == 3
    assert record["n_best"][0]["text"] == record["text"]
    scores = [one["score"] for one in record["n_best"]]
    assert scores == sorted(scores, reverse=True)
    assert "alignment" in record


def test_a_prefix_is_obeyed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "prefix"
    prefix.write_text("Le chien\n\n", encoding="utf-8")
    feed(monkeypatch, b"A dog.\nA cat.\n")
    status, out, _ = nmt(capsys, "translate", f"run={run}", f"prefix={prefix}", "search=greedy")
    assert status == 0
    assert out.startswith("Le chien")
    feed(monkeypatch, b"A dog.\n")
    assert (
        "1 lines, but 2 prefixes" in nmt(capsys, "translate", f"run={run}", f"prefix={prefix}")[2]
    )


def test_evaluate_keeps_the_hypotheses_beside_the_scores(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = nmt(capsys, "evaluate", f"run={run}", "split=test", "search=greedy")
    assert status == 0
    assert "tok:13a" in out
    assert "source words" in out
    (record,) = json.loads((run / "scores.json").read_text("utf-8"))
    kept = (run / record["translations"]).read_text("utf-8").split("\n")[:-1]
    assert len(kept) == record["sentences"] == 40
    # The same command again measures the same thing again; another search is another record.
    assert nmt(capsys, "evaluate", f"run={run}", "search=greedy")[1] == out
    nmt(capsys, "evaluate", f"run={run}", "split=test_long", "search.beam=2")
    assert len(json.loads((run / "scores.json").read_text("utf-8"))) == 2
    # Scoring the kept file against the references gives the same numbers.
    translator = Translator.load(run)
    from nmt.data.prepare import prepare

    config = translator.run.config
    prepared = prepare(config.data, config.tokenizer, report=lambda _: None)
    references = tmp_path / "references"
    references.write_text("".join(f"{r}\n" for r in prepared.references("test")[0]), "utf-8")
    again = nmt(
        capsys,
        *("evaluate", f"hypotheses={run / record['translations']}"),
        *(f"references={references}", "language=fr", "format=json"),
    )[1]
    assert json.loads(again)["scores"]["bleu"] == record["scores"]["bleu"]


def test_evaluate_names_the_splits_there_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = nmt(capsys, "evaluate", f"run={run}", "split=tset")
    assert status == 1
    assert "did you mean test" in err


def test_tokenised_text_has_a_score_of_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hypotheses, references = tmp_path / "h", tmp_path / "r"
    hypotheses.write_text("a b c d e .\n", encoding="utf-8")
    references.write_text("A b c d e .\n", encoding="utf-8")
    argv = ["evaluate", f"hypotheses={hypotheses}", f"references={references}", "language=fr"]
    status, out, _ = nmt(capsys, *argv, "tokenized=true")
    assert status == 0
    assert out.startswith("tok_bleu_lc 100.00")


def test_align_writes_pharaoh_pictures_and_matrices(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_text("The dog sees the cat.\nA man.\n", encoding="utf-8")
    target.write_text("Le chien voit le chat.\nUn homme.\n", encoding="utf-8")
    pair = [f"source={source}", f"target={target}"]
    status, out, _ = nmt(capsys, "align", f"run={run}", *pair)
    assert status == 0
    rows = [[tuple(map(int, link.split("-"))) for link in row.split()] for row in out.splitlines()]
    assert [{j for _, j in row} for row in rows] == [{0, 1, 2, 3, 4}, {0, 1}]
    for name in ("a.png", "a.svg", "a.json"):
        path = tmp_path / name
        argv = ["align", f"run={run}", "text=A dog.", f"output={path}"]
        assert nmt(capsys, *argv)[:2] == (0, f"{path}\n")
        assert path.stat().st_size > 500
    status, out, _ = nmt(capsys, "align", f"run={run}", *pair, f"output={tmp_path / 'all'}")
    assert status == 0
    assert len(out.splitlines()) == 6
    assert "text=SENTENCE" in nmt(capsys, "align", f"run={run}")[2]
    assert (
        "holds one sentence"
        in nmt(capsys, "align", f"run={run}", *pair, f"output={tmp_path / 'b.png'}")[2]
    )


def test_score_agrees_with_translate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    translator = Translator.load(run, words=["search=greedy"])
    (translation,) = translator.translate(["The dog sees the cat."])
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_text("The dog sees the cat.\n", encoding="utf-8")
    target.write_text(translation.text + "\n", encoding="utf-8")
    status, out, _ = nmt(capsys, "score", f"run={run}", f"source={source}", f"target={target}")
    total, tokens, mean = map(float, out.split("\t"))
    assert status == 0
    assert mean == pytest.approx(total / tokens, abs=1e-3)
    # The text may segment otherwise than the model spelled it; the ids it found score the same.
    if translator.run.tokenizers.target.encode([translation.text])[0] == translation.ids:
        assert total == pytest.approx(translation.log_prob, abs=1e-3)


def test_info_says_what_a_run_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    status, out, _ = nmt(capsys, "info", f"run={run}")
    assert status == 0
    for word in ("transformer_tiny", "mini_en_fr", "step-00000010", "torch", "parameters"):
        assert word in out
    assert json.loads(nmt(capsys, "info", f"run={run}", "format=json")[1])["seed"] == 1
    assert files(run) == before


# --- going on, and refusing to -------------------------------------------------------------------


def test_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run / "checkpoints")
    status, _, err = nmt(capsys, "train", f"run={run}")
    assert status == 0
    assert "finished at step 10" in err
    assert files(run / "checkpoints") == before


def test_a_run_goes_on_with_a_later_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "debug=tiny", f"run={run}", "train.max_steps=12"]
    status, _, err = nmt(capsys, *argv)
    assert status == 0
    assert "going on from" in err
    assert "finished at step 12" in err


def test_a_run_of_another_configuration_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(run)
    status, _, err = nmt(capsys, "train", "debug=tiny", f"run={run}", "model.dropout=0.5")
    assert status == 1
    assert "model.dropout is 0.1, you typed 0.5" in err
    err = nmt(capsys, "train", "debug=overfit", f"run={run}")[2]
    assert "debug=overfit comes with" in err
    assert "you typed" not in err
    assert files(run) == before


def test_one_process_owns_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with owned(run):
        assert "another process" in nmt(capsys, "train", f"run={run}")[2]


def test_a_damaged_checkpoint_is_refused_by_readers_and_set_aside_by_train(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = run / "checkpoints" / "step-00000010" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    before = files(run)
    argv = ["translate", f"run={run}", "checkpoint=last", "text=A dog."]
    status, out, err = nmt(capsys, *argv)
    assert (status, out) == (1, "")
    assert "damaged" in err
    assert files(run) == before, "a reading command moves nothing"
    status, _, err = nmt(capsys, "train", f"run={run}")
    assert status == 0
    assert "damaged" in err
    assert "finished at step 10" in err
    assert nmt(capsys, *argv)[0] == 0


def test_a_run_without_a_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint" in nmt(capsys, "translate", f"run={run}", "text=a")[2]
    status, _, err = nmt(capsys, "train", "debug=tiny", f"run={run}", "seed=7", "train.max_steps=2")
    assert status == 0
    assert "finished at step 2" in err


def test_a_tokenizer_of_another_run_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = run / "tokenizer" / "tokenizer.json"
    card.write_text(card.read_text("utf-8").replace('"hash": "', '"hash": "0'), encoding="utf-8")
    assert nmt(capsys, "translate", f"run={run}", "text=a")[0] == 1


def test_a_changed_corpus_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for language, word in (("en", "dog"), ("fr", "chien")):
        lines = [f"{word} {'abcdefgh'[i % 8] * (i % 5 + 1)} {i}\n" for i in range(300)]
        (tmp_path / f"c.{language}").write_text("".join(lines), encoding="utf-8")
    argv = ["train", "debug=tiny", "data=files", "data.train=c", "data.languages=en-fr"]
    argv += [f"data.root={tmp_path}", f"run={tmp_path / 'r'}", "tokenizer.vocab_size=320"]
    argv += ["data.valid_size=20", "data.test_size=20", "data.filters.script=false"]
    status, _, err = nmt(capsys, *argv, "train.max_steps=2")
    assert status == 0, err
    with (tmp_path / "c.en").open("a") as en, (tmp_path / "c.fr").open("a") as fr:
        en.write("one more\n")
        fr.write("un de plus\n")
    status, _, err = nmt(capsys, *argv, "train.max_steps=4")
    assert status == 1
    assert "other data" in err


def test_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = nmt(capsys, "train", "--dry-run", "model=lstm_small", "train.max_epochs=3")
    assert status == 0
    for word in ("lstm_small-bahdanau", "parameters", "3 epochs", "MiB", "Nothing was written"):
        assert word in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["model=lstm_small", "attention=luong_dot"]])
def test_default_names_and_a_recurrent_model(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trained: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "debug=tiny", *words, "tokenizer.sampling=0.1", "train.ema=0.9"]
    argv += ["train.average=2", "train.accumulate=2", "train.keep_last=2"]
    status, _, err = nmt(capsys, *argv)
    assert status == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("mini_en_fr-lstm_small-luong_dot-s1-")
    argv = ["translate", f"run={run}", "checkpoint=average", "text=A dog.", "search=sample"]
    assert nmt(capsys, *argv)[0] == 0


# --- from Python ---------------------------------------------------------------------------------


def test_the_python_door(trained: Path) -> None:
    translator = Translator.load(trained)
    found = translator.translate(["A dog.", "", "The man."])
    assert len(found) == 3
    assert (found[1].text, found[1].tokens) == ("", 0)
    assert found[0].score <= 0
    explained = next(iter(translator.explain(found[:1])))
    assert explained.cross is not None
    sums = explained.cross.sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    with pytest.raises(UserError, match="no checkpoint"):
        Translator.load(trained, checkpoint="step-3")
