"""The report of `nmt story`: the same content as a page, as Markdown and as JSON.

The page holds everything it needs (style and figures are inline, nothing is loaded), reads on a
phone and on paper, and says every verdict in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from nmt.errors import UserError, one_line
from nmt.evaluation.claims import Claim, Kind, Outcome, Verdict, judge
from nmt.evaluation.figures import svg

MARKS = {
    Outcome.reproduced: "✓",
    Outcome.not_reproduced: "✗",
    Outcome.inconclusive: "?",
    Outcome.not_testable: "–",
}
FILES = ("report.html", "report.md", "report.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One claim with what was found.

    Args:
        numbers: what was measured; None where nothing was.
        problem: why nothing was measured, or what went wrong.
        command: what measures it again.
        finding: what a person found out about it.
    """

    claim: Claim
    numbers: Mapping[str, Any] | None = None
    problem: str = ""
    command: str = ""
    finding: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """None for demonstrations and for what was not measured."""
        return judge(self.claim, self.numbers) if self.numbers is not None else None

    @property
    def state(self) -> str:
        """The verdict in words, or what there is instead of one."""
        if self.verdict is not None:
            return str(self.verdict.outcome)
        if self.claim.kind is Kind.later:
            return str(Kind.later)
        if self.numbers is None:
            return self.problem.partition(":")[0] or "not asked"
        return "shown"

    @property
    def told(self) -> bool:
        """Whether there is more to say than the line in the table of verdicts."""
        return self.numbers is not None or bool(self.finding) or self.state == "failed"

    @property
    def mark(self) -> str:
        return MARKS[Outcome(self.state)] if self.state in MARKS else "·"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """A training as the report lists it."""

    name: str
    state: str
    steps: int
    minutes: float
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the report says.

    Args:
        facts: (name, value) pairs for the head of the page: corpus, machine, version.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    trainings: Sequence[TrainingRow]


def write(folder: Path, story: Story) -> list[Path]:
    """Write ``report.html``, ``report.md`` with ``figures/``, and ``report.json``; their paths.

    A figure that cannot be drawn is left out, and its section says why: hours of training may lie
    behind the rest.

    Raises:
        UserError: the folder cannot be written.
    """
    drawn: dict[int, str] = {}
    shown = replace(story, sections=[_drawn(section, drawn) for section in story.sections])
    texts = {
        "report.html": page(shown, drawn),
        "report.md": markdown(shown),
        "report.json": json.dumps(as_json(story), ensure_ascii=False, indent=1) + "\n",
    }
    try:
        figures = folder / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        for number, text in drawn.items():
            text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
            _write(figures / f"claim-{number}.svg", text + "\n")
        for name, text in texts.items():
            _write(folder / name, text)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return [folder / name for name in texts]


def _drawn(section: Section, drawn: dict[int, str]) -> Section:
    """Draw the figure of a section into ``drawn``; the section without it where that fails."""
    claim, numbers = section.claim, section.numbers or {}
    if not numbers.get("panels"):
        return section
    try:
        drawn[claim.number] = svg(numbers["panels"], f"c{claim.number}", claim.title)
    except Exception as error:  # whatever a drawing library may raise
        problem = f"Its figure could not be drawn ({type(error).__name__}: {one_line(error)})."
        note = " ".join(filter(None, [numbers.get("note"), problem]))
        return replace(section, numbers={**numbers, "panels": [], "note": note})
    return section


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


# ---- JSON ----------------------------------------------------------------------------------------


def as_json(story: Story) -> dict[str, Any]:
    """Everything, with every number of every figure."""
    return {
        "format": 1,
        "title": story.title,
        "facts": dict(story.facts),
        "claims": [_claim_json(section) for section in story.sections],
        "trainings": [
            {
                "name": row.name,
                "state": row.state,
                "steps": row.steps,
                "minutes": row.minutes,
                "command": row.command,
            }
            for row in story.trainings
        ],
    }


def _claim_json(section: Section) -> dict[str, Any]:
    claim, verdict = section.claim, section.verdict
    return {
        "number": claim.number,
        "title": claim.title,
        "sentence": claim.sentence,
        "kind": str(claim.kind),
        "state": section.state,
        "verdict": str(verdict.outcome) if verdict else None,
        "reason": verdict.reason if verdict else section.problem,
        "statistic": claim.rule.statistic if claim.rule else None,
        "refuted_if": claim.rule.refuted if claim.rule else None,
        "command": section.command,
        "finding": section.finding,
        "numbers": section.numbers,
    }


# ---- Markdown ------------------------------------------------------------------------------------


def markdown(story: Story) -> str:
    """The report as Markdown; figures are files beside it."""
    lines = [f"# {story.title}", ""]
    lines += [f"- {name}: {value}" for name, value in story.facts]
    rows = [
        [
            str(s.claim.number),
            f"{s.mark} {s.state}",
            s.claim.sentence,
            s.verdict.reason if s.verdict else s.problem,
        ]
        for s in story.sections
    ]
    lines += ["", *_markdown_table(["#", "verdict", "claim", "in numbers"], rows)]
    for section in story.sections:
        if section.told:
            lines += ["", *_markdown_section(section)]
    if not story.trainings:  # claims that measure attention alone
        return "\n".join(lines) + "\n"
    lines += ["", "## Trainings", ""]
    shown = [[r.name, r.state, f"{r.steps:,}", f"{r.minutes:.1f}"] for r in story.trainings]
    lines += _markdown_table(["training", "state", "updates", "minutes"], shown)
    lines += ["", "```console", *(row.command for row in story.trainings), "```"]
    return "\n".join(lines) + "\n"


def _markdown_section(section: Section) -> list[str]:
    claim, numbers = section.claim, section.numbers or {}
    lines = [f"## {claim.number}. {claim.title}: {section.state}", "", f"*{claim.sentence}*", ""]
    lines += [f"{text}\n" for text in _paragraphs(section)]
    if numbers.get("panels"):
        lines += [f"![{claim.title}](figures/claim-{claim.number}.svg)", ""]
    if caption := numbers.get("caption"):
        lines += [caption, ""]
    if table := numbers.get("table"):
        lines += [*_markdown_table(table["columns"], table["rows"]), ""]
    return [*lines, "```console", section.command, "```"] if section.command else lines


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, rows)]


def _paragraphs(section: Section) -> list[str]:
    """What a section says in sentences, in order."""
    claim, verdict = section.claim, section.verdict
    found = []
    if verdict is not None:
        assert claim.rule is not None
        found.append(
            f"{str(verdict.outcome).capitalize()}: {claim.rule.statistic}: {verdict.reason}."
        )
    elif section.problem:
        found.append(f"{section.problem[0].upper()}{section.problem[1:]}.")
    if claim.rule is not None:
        found.append(f"It would be refuted if {claim.rule.refuted}.")
    found += [text for text in (claim.experiment, section.finding) if text]
    if section.numbers and (note := section.numbers.get("note")):
        found.append(str(note))
    return found


# ---- the page ------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 Georgia, "DejaVu Serif", serif; color: #111; background: #fff;
  max-width: 46rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; line-height: 1.25; }
table { border-collapse: collapse; width: 100%; font: .85rem/1.4 "DejaVu Sans", Arial, sans-serif; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid #bbb; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td.n { white-space: nowrap; }
.wide { overflow-x: auto; }
.v { white-space: nowrap; font-weight: bold; }
.reproduced { border-left: .4rem solid #000; padding-left: .4rem; }
.not-reproduced { border-left: .4rem double #000; padding-left: .4rem; }
.inconclusive { border-left: .4rem dotted #000; padding-left: .4rem; }
.other { border-left: .4rem solid #ccc; padding-left: .4rem; font-weight: normal; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; max-width: 36rem; }
figcaption { font-size: .9rem; }
pre { background: #f2f2f2; padding: .6rem; white-space: pre-wrap; word-break: break-word;
  font: .8rem/1.4 "DejaVu Sans Mono", monospace; }
.claim { font-style: italic; } a { color: inherit; }
.facts { font-size: .9rem; padding-left: 1.2rem; }
@media (max-width: 34rem) { .verdicts thead { display: none; }
  .verdicts tr { display: block; padding: .5rem 0; border-bottom: 1px solid #bbb; }
  .verdicts td { display: block; border: 0; padding: .1rem 0; text-align: left; }
  .verdicts td.n { float: left; min-width: 2rem; }
  .verdicts td.v { padding-left: .4rem; white-space: normal; } }
@media print { body { max-width: none; font-size: 10pt; padding: 0; }
  figure, .verdicts tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<ul class="facts">
$facts
</ul>
<p>A verdict is <em>reproduced</em>, <em>not reproduced</em>, <em>inconclusive</em> (the interval
decides nothing) or <em>not testable here</em> (the corpus lacks the material). Each claim has one
statistic and one rule, fixed in code before any run. Brackets hold 95 % intervals.</p>
<table class="verdicts">
<thead><tr><th class="n">#</th><th>verdict</th><th>claim</th><th>in numbers</th></tr></thead>
<tbody>
$verdicts
</tbody>
</table>
$sections
$trainings
</body>
</html>
"""
)

CLASSES = {
    Outcome.reproduced: "reproduced",
    Outcome.not_reproduced: "not-reproduced",
    Outcome.inconclusive: "inconclusive",
}


def page(story: Story, figures: Mapping[int, str]) -> str:
    """The report as one page of HTML; ``figures`` are SVG elements by claim."""
    return PAGE.substitute(
        title=escape(story.title),
        style=STYLE,
        facts="\n".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in story.facts),
        verdicts="\n".join(_verdict_row(section) for section in story.sections),
        sections="\n".join(
            _section(section, figures.get(section.claim.number, ""))
            for section in story.sections
            if section.told
        ),
        trainings=_trainings(story.trainings) if story.trainings else "",
    )


def _trainings(rows: Sequence[TrainingRow]) -> str:
    table = _table(
        ["training", "state", "updates", "minutes"],
        [[r.name, r.state, f"{r.steps:,}", f"{r.minutes:.1f}"] for r in rows],
    )
    commands = escape("\n".join(row.command for row in rows))
    return (
        f'<h2 id="trainings">Trainings</h2>\n<div class="wide">{table}</div>\n<pre>{commands}</pre>'
    )


def _verdict_row(section: Section) -> str:
    claim, verdict = section.claim, section.verdict
    kind = CLASSES.get(verdict.outcome, "other") if verdict else "other"
    number = str(claim.number)
    if section.told:
        number = f'<a href="#claim-{number}">{number}</a>'
    reason = verdict.reason if verdict else section.problem
    return (
        f'<tr><td class="n">{number}</td><td class="v {kind}">{section.mark} '
        f"{escape(section.state)}</td><td>{escape(claim.sentence)}</td>"
        f"<td>{escape(reason)}</td></tr>"
    )


def _section(section: Section, figure: str) -> str:
    claim, numbers = section.claim, section.numbers or {}
    parts = [
        f'<section id="claim-{claim.number}">',
        f"<h2>{claim.number}. {escape(claim.title)}: {escape(section.state)}</h2>",
        f'<p class="claim">{escape(claim.sentence)}</p>',
        *(f"<p>{escape(text)}</p>" for text in _paragraphs(section)),
    ]
    caption = escape(str(numbers.get("caption") or ""))
    if figure:
        parts.append(f"<figure>{figure}<figcaption>{caption}</figcaption></figure>")
    elif caption:
        parts.append(f"<p>{caption}</p>")
    if table := numbers.get("table"):
        parts.append(f'<div class="wide">{_table(table["columns"], table["rows"])}</div>')
    if section.command:
        parts.append(f"<pre>{escape(section.command)}</pre>")
    return "\n".join([*parts, "</section>"])


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The first column is words, the others are numbers."""

    def line(cells: Sequence[Any], tag: str) -> str:
        first, *others = (escape(str(cell)) for cell in cells)
        rest = "".join(f'<{tag} class="n">{cell}</{tag}>' for cell in others)
        return f"<tr><{tag}>{first}</{tag}>{rest}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n<thead>{line(columns, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
