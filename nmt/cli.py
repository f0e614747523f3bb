"""`nmt <command> [arguments] [key=value …]`: what may be typed, and which module answers.

Importing this module and asking for help costs nothing: a command's code, and with it Hydra and
torch, is imported only when the command runs.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from nmt.errors import UserError, one_line

VERBATIM = (
    "text",
    "input",
    "output",
    "bitext",
    "gold",
    "run",
    "tag",
    "source",
    "target",
    "prefix",
    "checkpoint",
    "hypotheses",
    "references",
    "baseline",
    "folder",
    "data.root",
    "data.cache",
)
"""Keys whose value is everything after the first ``=``: Hydra's grammar never sees it."""

SEARCH = ("search", "search.*")
DEVICE = ("train.device", "train.precision", "train.threads")
MASKED = "attention.masked_heads"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word of the command line.

    ``own`` maps the keys that belong to the command alone to their help, ``values`` those that
    have a few values to them, the default first; ``words`` names the configuration keys it accepts
    (``group.*`` for a whole section); ``positional`` the keys that words without ``=`` fill, in
    order (the last one again and again where ``many``).
    """

    summary: str
    usage: str
    examples: tuple[str, ...]
    own: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    flags: dict[str, str] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    many: bool = False


_RUN = {"run": "the run directory", "checkpoint": "best (default), last, average or step-N"}
_RUNS = _RUN | {"run": "the run directory; [A,B,…]: an ensemble, the mean of their probabilities"}
_TAG = {"tag": "a tag of the training data to put in front of each source, as bt for <bt>"}
_CHECKPOINTS = {"checkpoint": ("best", "last", "average")}
_SPLITS = {"split": ("test", "valid", "train")}
_EVERYTHING = ("data", "tokenizer", "model", "attention", "optim", "train", "search")

COMMANDS = {
    "prepare": Command(
        summary="read, clean, split and tokenise a corpus",
        usage="nmt prepare [data=NAME] [key=value …]",
        examples=(
            "nmt prepare data=mini_en_fr data.show=20",
            "nmt prepare data=files data.languages=en-de data.train=corpus/train",
            "nmt prepare data=files data.languages=en-de"
            " 'data.train=[{name:a,path:a},{name:b,path:b,weight:2,tag:bt}]'",
        ),
        own={
            "data.root": "the folder in which corpus files lie",
            "data.cache": "the folder for prepared data",
        },
        words=("data", "data.*", "tokenizer", "tokenizer.*", "experiment", "debug", "seed"),
        flags={"--config": "FILE: a preset of your own; typed keys win over it"},
    ),
    "train": Command(
        summary="prepare if needed, train, validate, keep the best",
        usage="nmt train [data=NAME] [model=NAME] [attention=NAME] [key=value …]",
        examples=(
            "nmt train model=lstm attention=luong_dot seed=2",
            "nmt train run=runs/mine train.max_minutes=30 optim.learning_rate=1e-3",
            "nmt train run=runs/mine            # goes on where it stopped",
            "nmt train model=transformer_small --dry-run",
            "nmt train -m model=lstm attention=none,luong_dot,bahdanau seed=1,2 run=runs/scores",
            "nmt train -m sweep=learning_rate hydra.sweeper.n_trials=30 run=runs/rates",
        ),
        own={
            "run": "the run directory; default runs/<data>-<model>-<attention>-s<seed>",
            "train.init_from": "a run whose weights and tokenizer a new run starts from",
            "impossible": "with -m: refuse (default) the sweep, or skip jobs that cannot be",
            "data.root": "the folder in which corpus files lie",
            "data.cache": "the folder for prepared data",
        },
        values={"impossible": ("refuse", "skip")},
        words=(
            *(*_EVERYTHING, *(f"{g}.*" for g in _EVERYTHING), "experiment", "debug", "seed"),
            *("sweep", "hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler"),
            *("hydra.launcher.*", "hydra.sweeper.*"),
        ),
        flags={
            "-m": "a sweep: a run for each combination of values a,b,c; run= is their folder",
            "--multirun": "the same",
            "--config": "FILE: a preset of your own; typed keys win over it",
            "--dry-run": "show configuration, size, steps and memory; write nothing",
        },
        positional=("run",),
    ),
    "find-batch": Command(
        summary="the largest micro-batch that fits the device, and how fast each size is",
        usage="nmt find-batch [memory=GIB] [most=TOKENS] [the words of nmt train]",
        examples=(
            "nmt find-batch model=transformer_base train.precision=bf16",
            "nmt find-batch experiment=multi30k_lstm data.root=corpora memory=8",
        ),
        own={
            "memory": "GiB it may take; default what is free. A tenth of it stays unused",
            "most": "largest size to try; default 65536 on a CPU, all that fits on a GPU",
            "run": "a run, whose configuration is then meant",
            "train.init_from": "a run whose tokenizer the new one will have",
            "data.root": "the folder in which corpus files lie",
            "data.cache": "the folder for prepared data",
        },
        words=(*_EVERYTHING, *(f"{g}.*" for g in _EVERYTHING), "experiment", "debug", "seed"),
        flags={"--config": "FILE: a preset of your own; typed keys win over it"},
        positional=("run",),
    ),
    "evaluate": Command(
        summary="score a run, or a file of translations, against references",
        usage="nmt evaluate run=RUN [split=test] | hypotheses=FILE references=FILE[,FILE …]",
        examples=(
            "nmt evaluate run=runs/mine split=test search.beam=5",
            "nmt evaluate 'run=[runs/a,runs/b]' output=results/a-and-b",
            "nmt evaluate hypotheses=out.fr references=test.fr language=fr",
        ),
        own={
            **_RUNS,
            "output": "a folder for scores.json and translations; default the run itself, for an"
            " ensemble none",
            "split": "train, valid, test (default) or the name of a test set",
            "hypotheses": "a file of translations, instead of a run",
            "references": "its references; several files with commas between them",
            "source": "its source sentences, for the table by length",
            "language": "target language of hypotheses=, for the tokenizer of BLEU",
            "tokenized": "true: the files are tokenised text; scores it as tok_bleu_lc",
            "format": "text (default) or json",
            "data.root": "the folder in which corpus files lie",
            "data.cache": "the folder for prepared data",
        },
        values={
            **_CHECKPOINTS,
            **_SPLITS,
            "tokenized": ("false", "true"),
            "format": ("text", "json"),
        },
        words=(*SEARCH, *DEVICE, MASKED),
        positional=("run",),
    ),
    "translate": Command(
        summary="translate lines: N in, N out, in the same order",
        usage="nmt translate run=RUN [text=SENTENCE | input=FILE] [output=FILE] < in > out",
        examples=(
            "nmt translate run=runs/mine < in.en > out.fr",
            "nmt translate run=runs/mine text='A dog runs.' format=jsonl search.n_best=3",
            "nmt translate 'run=[runs/a,runs/b]' tag=formal < in.en > out.fr",
        ),
        own={
            **_RUNS,
            **_TAG,
            "text": "one sentence",
            "input": "a file, one sentence a line; default standard input",
            "output": "a file; default standard output",
            "prefix": "a file of forced beginnings of the translations, one a line",
            "format": "text (default) or jsonl: scores, n-best, alignment",
        },
        values={**_CHECKPOINTS, "format": ("text", "jsonl")},
        words=(*SEARCH, *DEVICE, MASKED, "seed"),
        positional=("run", "text"),
    ),
    "align": Command(
        summary="which word attends to which: Pharaoh lines, heat maps, matrices, error rates",
        usage="nmt align run=RUN (text=SENTENCE | source=FILE target=FILE | bitext=FILE | split=S)"
        " [gold=FILE] [output=…]",
        examples=(
            "nmt align run=runs/mine text='A dog runs.' output=dog.png",
            "nmt align run=runs/mine text='A dog runs.' output=heads.svg head=all words=false",
            "nmt align run=runs/mine source=in.en target=in.fr > alignments.txt",
            "nmt align run=runs/mine split=test table=true",
            "nmt align run=runs/mine bitext=hansards.en-fr.txt.gz gold=hansards.gold.txt.gz",
        ),
        own={
            **_RUN,
            "text": "a sentence: it is translated, then explained",
            "source": "a file of sentences, with target= their given translations",
            "target": "the translations to be explained",
            "bitext": "a file of 'source ||| target' lines, plain or .gz",
            "split": "valid, test, …: of the embedded corpus, which has gold alignments",
            "gold": "gold links, a line a pair: 3-4 sure, 3p4 possible, source-target from 1",
            "output": "a .png, .svg or .json file, or a folder for one file a sentence",
            "format": "pharaoh (default, links from 0), json; with gold: text (default: scores)",
            "layer": "a decoder layer from 0, mean (default without gold), or all in one picture",
            "head": "a head from 0, mean (default without gold), or all in one picture",
            "row": "predicts (default without gold) or reads: which decoder row aligns a word",
            "choose": "dev (default with gold): find what is not typed of layer, head and row on"
            " the run's dev set; N: on the first N pairs, which are then not scored (50 where the"
            " dev set has no gold)",
            "rule": "target (default: each target word's heaviest source word), source,"
            " intersection, union",
            "table": "true: error rates of every layer, head and row (format=json has them)",
            "words": "true: whole words; false: sub-words, the default for scripts without spaces",
            "eos": "keep or drop (default for words) the end-of-sentence token",
            "data.root": "the folder in which corpus files lie, for split=",
            "data.cache": "the folder for prepared data, for split=",
        },
        values={
            **_CHECKPOINTS,
            **_SPLITS,
            "format": ("pharaoh", "json", "text"),
            "layer": ("mean", "all"),
            "head": ("mean", "all"),
            "row": ("predicts", "reads"),
            "choose": ("dev",),
            "rule": ("target", "source", "intersection", "union"),
            "table": ("false", "true"),
            "words": ("true", "false"),
            "eos": ("drop", "keep"),
        },
        words=(*SEARCH, *DEVICE, MASKED),
        positional=("run", "text"),
    ),
    "score": Command(
        summary="log-probability of given translations",
        usage="nmt score run=RUN source=FILE target=FILE",
        examples=("nmt score run=runs/mine source=in.en target=in.fr",),
        own={**_RUNS, **_TAG, "source": "a file of sentences", "target": "their translations"},
        values={**_CHECKPOINTS},
        words=(*DEVICE, MASKED),
        positional=("run",),
    ),
    "story": Command(
        summary="train a ladder of models and test the claims of the translation story",
        usage="nmt story [data=NAME] [story.budget=full] [story.claims=[1,5]] [key=value …]",
        examples=(
            "nmt story                                  # six trainings, one a core at a time",
            "nmt story story.claims=[1,5] story.jobs=1",
            "nmt story data=story_en_fr data.root=../shared/data story.claims=[1,3,5,8]",
            "nmt story story.scale=0.01 run=runs/try    # a hundredth of the updates",
        ),
        own={
            "run": "the story's directory; default runs/story-<data>; goes on where it stopped",
            "data.root": "the folder in which corpus files lie",
            "data.cache": "the folder for prepared data",
            "story.budget": "default, or full: all claims that are built, three seeds, all sweeps",
            "story.claims": "numbers of claims, as [1,5,8]",
            "story.seeds": "seeds of every training, as [1,2,3]",
            "story.jobs": "trainings at once; default one a core, or one on an accelerator",
            "story.scale": "all numbers of updates times this",
            "story.sentences": "test sentences that are measured; default all",
        },
        values={"story.budget": ("default", "full")},
        words=("data", "data.*", "train.device", "train.precision"),
        flags={"--dry-run": "show what would be trained; write nothing"},
        positional=("run",),
    ),
    "info": Command(
        summary="what a run is: model, size, data, scores, versions",
        usage="nmt info run=RUN",
        examples=("nmt info run=runs/mine", "nmt info run=runs/mine format=json"),
        own={"run": "the run directory", "format": "text (default) or json"},
        values={"format": ("text", "json")},
        positional=("run",),
    ),
    "compare": Command(
        summary="runs side by side: what differs, scores, significance, speed, size",
        usage="nmt compare RUN RUN … [baseline=RUN] [key=value …]",
        examples=(
            "nmt compare runs/none runs/bahdanau runs/luong baseline=runs/none",
            "nmt compare runs/none-s1 runs/none-s2 runs/dot-s1 runs/dot-s2 format=markdown",
            "nmt compare runs/none runs/bahdanau worst=20",
        ),
        own={
            "run": "a run directory, as often as there are; the same as a bare word",
            "baseline": "the run that the others are tested against; default the first",
            "split": "the test set that nmt evaluate had (default test); its newest record counts",
            "metric": "bleu,chrf (default), ter: those to be shown",
            "seeds": "group (default): runs that differ only in their seed are one row, mean and"
            " standard deviation; each: a row for each run",
            "significance": "true (default): p by paired bootstrap and by paired approximate"
            " randomisation; of seeds: the largest p of the pairs, 1 where they disagree in"
            " direction; false: leave it out",
            "worst": "N: the N sentences that lose most chrF (or what metric= has instead) against"
            " the baseline, with source, reference and both outputs",
            "force": "true: also runs with other test sets or signatures; their cells are marked *",
            "format": "text (default), markdown, csv or json; csv with worst= lists the sentences",
            "data.cache": "the folder of prepared data, which holds the references",
        },
        values={
            **_SPLITS,
            "metric": ("bleu", "chrf", "ter"),
            "seeds": ("group", "each"),
            "significance": ("true", "false"),
            "force": ("false", "true"),
            "format": ("text", "markdown", "csv", "json"),
        },
        positional=("run",),
        many=True,
    ),
    "runs": Command(
        summary="every run under a folder: state, step, best score, age",
        usage="nmt runs [DIR] [state=STATE] [sort=age|score|path]",
        examples=("nmt runs", "nmt runs runs/sweep state=failed", "nmt runs sort=score format=csv"),
        own={
            "folder": "where to look, at any depth; also as a bare word; default runs",
            "state": "all (default), running, finished, stopped (goes on when trained again),"
            " failed, damaged",
            "sort": "age (default, newest first), score (best first) or path",
            "format": "text (default), json or csv",
        },
        values={
            "state": ("all", "running", "finished", "stopped", "failed", "damaged"),
            "sort": ("age", "score", "path"),
            "format": ("text", "json", "csv"),
        },
        positional=("folder",),
    ),
    "completion": Command(
        summary="teach your shell to complete commands, keys, presets and paths",
        usage="nmt completion bash|zsh|fish",
        examples=(
            "nmt completion bash > ~/.nmt-completion  # and 'source' it in ~/.bashrc",
            "nmt completion fish > ~/.config/fish/completions/nmt.fish",
        ),
        own={"shell": "bash (default), zsh or fish"},
        values={"shell": ("bash", "zsh", "fish")},
        positional=("shell",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What was typed, sorted by who reads it."""

    command: str
    own: dict[str, str]
    """The command's own keys, verbatim."""
    many: tuple[str, ...] = ()
    """All that fill the last position, where a command takes many."""
    words: list[str]
    """Configuration words for Hydra."""
    flags: frozenset[str]
    config: Path | None

    def runs(self) -> list[Path]:
        """The run directory that was named, or those of an ensemble: ``run=[runs/a,runs/b]``.

        Raises:
            UserError: none was.
        """
        typed = self.own.get("run", "")
        names = [typed]
        if typed.startswith("[") and typed.endswith("]") and not Path(typed).exists():
            names = [name.strip() for name in typed[1:-1].split(",")]
        if not all(names):
            raise UserError(f"nmt {self.command} needs run=…, a run directory such as runs/mine")
        return [Path(name) for name in names]

    def run(self) -> Path:
        """The one run directory that was named.

        Raises:
            UserError: none was, or several.
        """
        found = self.runs()
        if len(found) > 1:
            raise UserError(f"nmt {self.command} reads one run, not an ensemble of {len(found)}")
        return found[0]

    def choice(self, key: str, *names: str) -> str:
        """The value of an own key with a closed set of them, the first of which is the default.

        The set is that of `Command.values`, which the shell offers, or ``names``.
        """
        names = names or COMMANDS[self.command].values[key]
        value = self.own.get(key, names[0])
        if value not in names:
            near = difflib.get_close_matches(value, names, n=1, cutoff=0.0)
            raise UserError(f"{key}={value}: no such value; did you mean {near[0]!r}?")
        return value


def help_text() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {c.summary}" for name, c in COMMANDS.items())
    return (
        "usage: nmt <command> [arguments] [key=value …]\n\n"
        f"{rows}\n\n"
        "nmt <command> --help explains one of them; NMT_DEBUG=1 shows tracebacks."
    )


def command_help(name: str) -> str:
    command = COMMANDS[name]
    lines = [f"usage: {command.usage}", "", command.summary[0].upper() + command.summary[1:] + "."]
    if command.own or command.flags:
        rows = {**command.own, **command.flags}
        width = max(map(len, rows))
        lines += ["", *(f"  {key:{width}}  {text}" for key, text in rows.items())]
    if command.words:
        lines += ["", "configuration: " + ", ".join(command.words), *_presets(command)]
    return "\n".join([*lines, "", "examples:", *(f"  {e}" for e in command.examples)])


def _presets(command: Command) -> list[str]:
    from nmt.config import resource

    folder = resource("configs")
    groups = [word for word in command.words if (folder / word).is_dir()]
    names = {g: sorted(f.stem for f in (folder / g).glob("*.yaml")) for g in groups}
    return [f"  {group}={'|'.join(found)}" for group, found in names.items() if found]


def parse(name: str, argv: Sequence[str]) -> Arguments:
    """Sort what was typed after the command's name.

    Raises:
        UserError: a flag or key that the command does not know, or too many bare words.
    """
    command = COMMANDS[name]
    own: dict[str, str] = {}
    words: list[str] = []
    flags: set[str] = set()
    bare: list[str] = []
    config: Path | None = None
    rest = iter(argv)
    for token in rest:
        key, equals, value = token.partition("=")
        if token.startswith("-"):
            if key not in command.flags:
                _unknown(key, [*command.flags, "--help"], f"nmt {name} has no flag")
            if key == "--config":
                if config is not None:
                    raise UserError("--config is given twice; one file a run")
                value = value if equals else next(rest, "")
                if not value or value.startswith("-"):
                    raise UserError("--config needs a file: --config my.yaml")
                config = Path(value).expanduser()
            flags.add(key)
        elif not equals and not token.startswith(("+", "~")):
            bare.append(token)
        elif command.many and key == command.positional[-1]:
            bare.append(value)
        elif key in command.own:
            own[key] = value
        else:
            _check_key(key, name, command)
            words.append(token)
    if len(bare) > len(command.positional) and not command.many:
        raise UserError(f"nmt {name} does not know what to do with {bare[-1]!r}; use key=value")
    for key, value in zip(command.positional, bare, strict=False):
        if key in own:
            raise UserError(f"{key} is given twice: {own[key]!r} and {value!r}")
        own[key] = value
    return Arguments(
        command=name,
        own=own,
        many=tuple(bare[len(command.positional) - 1 :]) if command.many else (),
        words=words,
        flags=frozenset(flags),
        config=config,
    )


def _check_key(key: str, name: str, command: Command) -> None:
    """Refuse, before anything heavy is imported, keys of sections the command does not read."""
    bare = key.lstrip("+~")
    section = bare.partition(".")[0]
    if bare in command.words or f"{section}.*" in command.words or bare.startswith("hydra."):
        return
    known = [*command.own, *(w for w in command.words if not w.endswith("*"))]
    _unknown(bare, known, f"nmt {name} has no key")


def _unknown(word: str, known: list[str], text: str) -> NoReturn:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(known)}"
    raise UserError(f"{text} {word!r}; {hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status.

    A :class:`UserError` or an error of the file system (a full disk, no permission) becomes one
    line on stderr and status 1; ``NMT_DEBUG=1`` lets it through with its traceback.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    if not typed or typed[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if typed[0] == "--version":
        from nmt import __version__

        print(f"nmt {__version__}")
        return 0
    if typed[0] == "__complete":  # asked by the shell, at every Tab
        from nmt.completion import complete

        print("\n".join(complete(typed[1:])))
        return 0
    try:
        name = typed[0]
        if name not in COMMANDS:
            _unknown(name, list(COMMANDS), "there is no command")
        if any(word in ("-h", "--help") for word in typed[1:]):
            print(command_help(name))
            return 0
        arguments = parse(name, typed[1:])
        module = importlib.import_module(f"nmt.commands.{name.replace('-', '_')}")
        status = module.main(arguments)
        assert isinstance(status, int)
        return status
    except UserError as error:
        if os.environ.get("NMT_DEBUG"):
            raise
        print(f"nmt: {one_line(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output went away (| head); point stdout elsewhere so that the
        # interpreter's last flush does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if os.environ.get("NMT_DEBUG"):
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"nmt: {place}{error.strerror or one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nmt: interrupted", file=sys.stderr)
        return 130
