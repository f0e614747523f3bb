"""What may be typed: sorting of words, values taken verbatim, one clear line for mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt import cli
from nmt.errors import UserError

SENTENCES = [
    "A dog runs.",
    'He said: "no", didn\'t he?',
    "1e3",
    "null",
    "true",
    "${oc.env:HOME}",
    "[1, 2]",
    "{a: b}",
    "a=b=c",
    "à l'œil, s'il vous plaît",
    "C:\\new\\table",
    " leading and trailing ",
    "50% #1 @home ~x +y -z",
    "日本語、文",
    "(unbalanced",
    "",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_sentences_are_taken_verbatim(sentence: str) -> None:
    arguments = cli.parse("translate", ["run=runs/x", f"text={sentence}"])
    assert arguments.own == {"run": "runs/x", "text": sentence}
    assert arguments.words == []


@pytest.mark.parametrize("key", ["run", "data.root", "data.cache"])
def test_paths_are_taken_verbatim(key: str) -> None:
    path = "/tmp/ü, (1)/${x}/a=b [2]"
    assert cli.parse("train", [f"{key}={path}"]).own == {key: path}


def test_every_verbatim_key_of_the_contract_is_a_commands_own() -> None:
    """A key that is not in `own` would reach Hydra's grammar."""
    owners = {key for command in cli.COMMANDS.values() for key in command.own}
    contract = "text input output run source target checkpoint hypotheses references"
    assert set(contract.split()) | {"data.root", "data.cache"} <= owners
    for command in cli.COMMANDS.values():
        assert not set(command.own) & set(command.words)


def test_bare_words_fill_positions() -> None:
    arguments = cli.parse("translate", ["runs/x", "A dog."])
    assert arguments.own == {"run": "runs/x", "text": "A dog."}
    with pytest.raises(UserError, match="given twice"):
        cli.parse("info", ["runs/x", "run=runs/y"])
    with pytest.raises(UserError, match="does not know what to do with 'extra'"):
        cli.parse("info", ["runs/x", "extra"])


def test_a_command_that_takes_many_has_them_in_their_order() -> None:
    arguments = cli.parse("compare", ["runs/x", "run=a=b (1)", "worst=3", "runs/y"])
    assert arguments.many == ("runs/x", "a=b (1)", "runs/y")
    assert arguments.own["worst"] == "3"
    assert cli.parse("compare", []).many == ()
    assert cli.parse("info", ["runs/x"]).many == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["translate", "txt=a"], "has no key 'txt'; did you mean 'text'?"),
        (["translate", "model.width=3"], "has no key 'model.width'"),
        (["info", "search.beam=3"], "has no key 'search.beam'"),
        (["train", "--dryrun"], "has no flag '--dryrun'; did you mean '--dry-run'?"),
        (["info"], "needs run=…"),
        (["info", "run=runs/none"], "no such run directory"),
        (["translate", "run=runs/none", "text=a"], "no such run directory"),
        (["train", "model=lstmm"], "no such preset; did you mean 'lstm'?"),
        (["train", "model=lstm", "attention=full"], "attention="),
        (["prepare", "data=files", "data.train=no/where", "data.languages=en-fr"], "no/where"),
        (["evaluate", "run=runs/none", "split=tset"], "no such run directory"),
        (["train", "--config", "absent.yaml"], "no such file"),
    ],
)
def test_mistakes_are_one_line_and_a_status(
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NMT_DEBUG", raising=False)
    assert cli.main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("nmt: ")
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMT_DEBUG", "1")
    with pytest.raises(UserError):
        cli.main(["info", "run=runs/none"])


def test_help_names_every_command_and_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    for name, command in cli.COMMANDS.items():
        assert cli.main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert all(key in out for key in (*command.own, *command.flags))
        assert all(example in out for example in command.examples)


def test_every_example_of_the_help_parses() -> None:
    import shlex

    count = 0
    for name, command in cli.COMMANDS.items():
        for example in command.examples:
            words = shlex.split(example, comments=True)
            words = words[: words.index("<")] if "<" in words else words
            words = words[: words.index(">")] if ">" in words else words
            assert words[:2] == ["nmt", name]
            cli.parse(name, words[2:])
            count += 1
    assert count >= 19
