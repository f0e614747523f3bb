"""`nmt align`: what each target word looked at: Pharaoh lines, heat maps, matrices and scores."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

from nmt.cli import Arguments
from nmt.commands.attention import (
    Axis,
    Look,
    describe,
    has_no_spaces,
    links_of,
    named,
    percents,
    rates,
    record,
    table,
    write,
    write_json,
)
from nmt.commands.pairs import Pairs, check_inputs, embedded_pairs, given_pairs
from nmt.config import Source
from nmt.decoding.align import (
    AlignmentScore,
    Explained,
    Row,
    Rule,
    View,
    diagonal_score,
    seen,
)
from nmt.decoding.views import ROWS, Choice, ViewScores, best_view, candidates
from nmt.errors import UserError
from nmt.evaluation.plots import lacking
from nmt.translator import Translator

Name = TypeVar("Name", bound=str)
CHOSEN_ON = 50
"""Sentences of a gold file that choose the view where the run's own dev set has no gold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed; None where nothing was."""

    form: str
    output: Path | None
    look: Look
    row: Row | None
    table: bool
    choose: int | Literal["dev"] | None

    @property
    def report(self) -> Path | None:
        """Where gold is given, a .json file is for the scores; a folder, for the sentences."""
        return self.output if self.output and self.output.suffix == ".json" else None

    @property
    def choices(self) -> tuple[Choice, Choice]:
        """The layer and head that were named; a picture of all names none."""
        layer = None if self.look.layer == "all" else self.look.layer
        return layer, None if self.look.head == "all" else self.look.head


@dataclass(frozen=True, slots=True)
class Scored:
    """Rates by view, the one that counts first, and its Pharaoh lines."""

    table: list[tuple[View, AlignmentScore]]
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a view was chosen on, and how well it did there."""

    on: str
    sentences: int
    score: AlignmentScore

    def __str__(self) -> str:
        error = f"{100 * self.score.error_rate:.1f} %"
        return f"chosen on {self.on} ({self.sentences:,} sentences, AER there {error})"


def main(arguments: Arguments) -> int:
    run = arguments.run()
    options = _options(arguments)
    check_inputs(arguments.own)
    translator = Translator.load(
        run, checkpoint=arguments.own.get("checkpoint", "best"), words=arguments.words
    )
    pairs = given_pairs(arguments.own, translator)
    view, chosen, pairs = _choose(options, pairs, translator, arguments.own)
    if chosen is not None and pairs.gold is None:
        _say(f"{describe(view)}; {chosen}")
    if options.form == "pharaoh" and any(map(has_no_spaces, (*pairs.sources, *pairs.targets))):
        _say("words are what spaces part; text in a script without spaces must be cut first")
    look = replace(options.look, view=view)
    if pairs.gold is None:
        _show(options, pairs, translator, look)
    else:
        found = _score(options, pairs, translator, look)
        _report(options, pairs, found, look, chosen)
    if options.output is not None and (note := lacking([*pairs.sources, *pairs.targets])):
        _say(note)
    return 0


def _say(text: str) -> None:
    print(f"nmt: {text}", file=sys.stderr)


# ---- what was typed ------------------------------------------------------------------------------


def _options(arguments: Arguments) -> Options:
    own = arguments.own
    has_gold = "gold" in own or "split" in own
    with_table = bool(_either(arguments, "table", "true", "false"))
    if with_table and not has_gold:
        raise UserError("table=true scores every view: it needs gold=FILE or split=NAME")
    return Options(
        form=arguments.choice("format", *(("text",) if has_gold else ()), "pharaoh", "json"),
        output=Path(own["output"]) if "output" in own else None,
        look=Look(
            layer=_axis(own, "layer"),
            head=_axis(own, "head"),
            rule=_among(arguments, "rule", get_args(Rule)),
            words=_either(arguments, "words", "true", "false"),
            end=_either(arguments, "eos", "keep", "drop"),
            view=View(),
        ),
        row=_among(arguments, "row", ROWS) if "row" in own else None,
        table=with_table,
        choose=_choose_on(own["choose"], has_gold) if "choose" in own else None,
    )


def _among(arguments: Arguments, key: str, names: tuple[Name, ...]) -> Name:
    return names[names.index(arguments.choice(key, *names))]


def _either(arguments: Arguments, key: str, yes: str, no: str) -> bool | None:
    return arguments.choice(key, yes, no) == yes if key in arguments.own else None


def _choose_on(typed: str, has_gold: bool) -> int | Literal["dev"]:
    if typed == "dev":
        return "dev"
    if not typed.isdecimal() or not int(typed):
        raise UserError(f"choose={typed}: expected dev, or a number of sentences")
    if not has_gold:
        raise UserError(f"choose={typed} takes sentences of gold=FILE, which is not given")
    return int(typed)


def _axis(own: dict[str, str], key: str) -> Axis:
    match own.get(key):
        case None | "mean" | "all" as name:
            return name
        case number if number.isdecimal():
            return int(number)
        case other:
            raise UserError(f"{key}={other}: expected a number counted from 0, mean, or all")


# ---- which view ----------------------------------------------------------------------------------


def _choose(
    options: Options, pairs: Pairs, translator: Translator, own: dict[str, str]
) -> tuple[View, Chosen | None, Pairs]:
    """The view that counts, what it was chosen on, and the pairs that are left.

    What was named is taken. The rest is chosen by alignment error rate on the run's own dev set,
    where that has gold alignments, or else on the first sentences of the gold file, which are then
    left out. Without gold it is the mean, and the row that predicts, unless ``choose=dev`` says so.

    Raises:
        UserError: nothing to choose on, no cross-attention, or no such layer or head.
    """
    layer, head = options.choices
    plain = View(_number(layer), _number(head), options.row or "predicts")
    if not pairs.sources:
        if pairs.gold is not None:
            raise UserError(f"{pairs.name}: there are no sentences to score")
        return plain, None, pairs
    first = next(pairs.part(0, 1, pairs.name).explained(translator))
    open_views = _views(first, layer, head, options.row)
    if pairs.gold is None and options.choose is None:
        return plain, None, pairs
    if len(open_views) == 1:
        return open_views[0], None, pairs
    dev, pairs = _dev(options, pairs, translator, own)
    assert dev.gold is not None
    view, score = best_view(
        dev.explained(translator),
        dev.words(),
        dev.gold,
        layer=layer,
        head=head,
        row=options.row,
        rule=options.look.rule,
    )
    return view, Chosen(dev.name, len(dev.sources), score), pairs


def _dev(
    options: Options, pairs: Pairs, translator: Translator, own: dict[str, str]
) -> tuple[Pairs, Pairs]:
    """Pairs to choose a view on, and pairs to look at with it."""
    if options.choose in (None, "dev") and translator.run.config.data.source is Source.grammar:
        dev = embedded_pairs("valid", translator, own)
        if dev.name != pairs.name:
            return dev, pairs
    if pairs.gold is None:
        raise UserError(
            "choose=dev needs a run on the embedded corpus, whose dev set has gold alignments; "
            "name the view instead with layer=, head= and row="
        )
    count = options.choose if isinstance(options.choose, int) else CHOSEN_ON
    if count >= len(pairs.sources):
        raise UserError(
            f"{pairs.name} has {len(pairs.sources)} sentences, too few to choose a view on the "
            f"first {count}: type a smaller choose=N, or name layer=, head= and row="
        )
    name = f"the first sentences of {pairs.name}, not scored"
    return pairs.part(0, count, name), pairs.part(count, None, pairs.name)


def _views(explained: Explained, layer: Choice, head: Choice, row: Row | None) -> list[View]:
    """The views that what was named leaves open.

    Raises:
        UserError: no cross-attention, or no such layer or head.
    """
    seen(explained, [View(_number(layer), _number(head))])
    assert explained.cross is not None
    layers, heads = explained.cross.shape[:2]
    return candidates(layers, heads, layer=layer, head=head, row=row)


def _number(choice: Choice) -> int | None:
    return choice if isinstance(choice, int) else None


# ---- showing and scoring -------------------------------------------------------------------------


def _show(options: Options, pairs: Pairs, translator: Translator, look: Look) -> None:
    """A line or a file of each sentence."""
    for pair in pairs.each(translator):
        if options.output is not None:
            for path in write(pair, options.output, look):
                print(path)
        elif options.form == "json":
            print(json.dumps(record(pair, look), ensure_ascii=False))
        else:
            print(links_of(pair, look))


def _score(options: Options, pairs: Pairs, translator: Translator, look: Look) -> Scored:
    """Score all pairs; print lines and write pictures of them on the way, where asked for."""
    assert pairs.gold is not None
    with_others = options.table or options.form == "json" or options.report is not None
    scores: ViewScores | None = None
    lines = []
    for pair in pairs.each(translator):
        if scores is None:
            rest = _views(pair.explained, None, None, None) if with_others else []
            views = [look.view, *(view for view in rest if view != look.view)]
            scores = ViewScores(views, look.rule)
        assert pair.gold is not None
        scores.add(pair.explained, pair.words, pair.gold)
        if options.form != "text" or options.report is not None:
            lines.append(links_of(pair, look))
        if options.form == "pharaoh":
            print(lines[-1])
        if options.output is not None and options.report is None:
            for path in write(pair, options.output, look):
                print(path, file=sys.stderr)
    assert scores is not None
    return Scored(scores.scores(), lines)


def _report(
    options: Options, pairs: Pairs, found: Scored, look: Look, chosen: Chosen | None
) -> None:
    """Print or write the scores; standard output holds what ``format`` names, and only that."""
    assert pairs.gold is not None
    view, score = found.table[0]
    baseline = diagonal_score(pairs.words(), pairs.gold)
    content = {
        "data": pairs.name,
        "sentences": len(pairs.sources),
        **rates(score),
        "rule": look.rule,
        "view": named(view),
        "chosen_on": chosen
        and {"data": chosen.on, "sentences": chosen.sentences, **rates(chosen.score)},
        "diagonal": rates(baseline),
        "views": [named(one) | rates(other) for one, other in found.table],
        "alignments": found.lines,
    }
    if options.report is not None:
        print(write_json(options.report, content), file=sys.stderr)
    if options.form == "json":
        print(json.dumps(content, ensure_ascii=False, indent=1))
        return
    text = [
        f"{percents(score)}  ({pairs.name}, {len(pairs.sources):,} sentences)",
        f"view: {describe(view)}{f'; {chosen}' if chosen else ''}",
        f"links by rule={look.rule}; the diagonal, without a model, has {percents(baseline)}",
        *(table(found.table, view) if options.table else []),
    ]
    print("\n".join(text), file=sys.stdout if options.form == "text" else sys.stderr)
