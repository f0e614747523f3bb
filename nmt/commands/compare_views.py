"""A comparison as text, Markdown, CSV and JSON."""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from typing import Any

from nmt.commands.compared import NUMBERS, Comparison, Mean, Row, Worst, differing
from nmt.commands.table import Table, terminal_width

NAMES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}
UNKNOWN = "-"


def show(found: Comparison, form: str) -> None:
    """Print a comparison; notes that have no place in the format go to stderr."""
    if form == "json":
        print(json.dumps(facts(found), ensure_ascii=False, indent=1))
        return
    if form == "csv":
        print(worst_table(found).csv() if found.worst else flat_table(found).csv())
        for note in found.notes:
            print(f"nmt: {note}", file=sys.stderr)
        return
    print("\n\n".join(sections(found, markdown=form == "markdown")))


# --- text and Markdown ---------------------------------------------------------------------------


def sections(found: Comparison, *, markdown: bool) -> list[str]:
    """Titled tables, then notes, then sentences."""
    tables = [("Runs", runs_table(found)), ("Differences", differences_table(found))]
    data = next((m.data for row in found.rows for s in row.scored if (m := s.measured)), "")
    tables += [
        (f"{NAMES[name]}, {found.split} of {data}", score_table(found, name))
        for name in found.metrics
        if any(name in row.scores for row in found.rows)
    ]
    tables.append(("Speed and size", speed_table(found)))
    heading = "### {}\n\n{}" if markdown else "{}\n\n{}"
    parts = []
    for title, table in tables:
        if table.rows:
            body = table.markdown() if markdown else table.text()
        else:
            body = "The configurations do not differ."
        parts.append(heading.format(title, body))
    if lines := footnotes(found):
        parts.append("\n".join(f"- {line}" if markdown else filled(line) for line in lines))
    for worst in found.worst:
        text, title = worst_text(worst), worst_title(worst)
        parts.append(heading.format(title, f"```text\n{text}\n```" if markdown else text))
    return parts


def filled(line: str) -> str:
    """A line folded at spaces to the terminal, what follows indented."""
    return textwrap.fill(
        line,
        terminal_width(),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def runs_table(found: Comparison) -> Table:
    rows = []
    for number, row in enumerate(found.rows):
        kept = [side.measured.checkpoint if side.measured else UNKNOWN for side in row.sides]
        rows.append(
            [
                row.label,
                "\n".join(str(side.run) for side in row.sides),
                "\n".join(str(side.seed) for side in row.sides),
                "\n".join(kept),
                "baseline" if number == 0 else "",
            ]
        )
    return Table(
        headers=("", "run", "seed", "scored checkpoint", " "), rows=rows, numbers=("seed",)
    )


def differences_table(found: Comparison) -> Table:
    """One row for each key that differs, a column for each row of the other tables."""
    first = [row.sides[0] for row in found.rows]
    rows = [[key, *(spoken(side.settings.get(key)) for side in first)] for key in differing(first)]
    headers = ("key", *(row.label for row in found.rows))
    return Table(headers=headers, rows=rows, whole=("key",))


def spoken(value: Any) -> str:
    """A value of a configuration; strings without quotes, corpora as their values in a row."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "; ".join(" ".join(map(spoken, item.values())).strip() for item in value)
    if isinstance(value, list) and value:
        return "+".join(map(spoken, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def name_of(row: Row) -> str:
    more = f" and {len(row.sides) - 1} more" if len(row.sides) > 1 else ""
    return f"{row.label} {row.sides[0].run.name}{more}"


def score_table(found: Comparison, metric: str) -> Table:
    """Score, interval or spread, and the two tests against the baseline."""
    headers = ["run", NAMES[metric], "95 %", "difference"]
    headers += ["p (bootstrap)", "p (random.)"] if found.tested else []
    rows = []
    for row in found.rows:
        mean = row.scores.get(metric)
        cells = [UNKNOWN] * 5 if mean is None else score_cells(mean)
        if row.mark:
            cells = [cell + "*" if cell else "" for cell in cells]
        rows.append([name_of(row), *cells[: len(headers) - 1]])
    return Table(headers=headers, rows=rows, numbers=headers[1:])


def score_cells(mean: Mean) -> list[str]:
    if mean.low is not None and mean.high is not None:
        spread = f"[{mean.low:.1f}, {mean.high:.1f}]"
    else:
        spread = "" if mean.std is None else f"std {mean.std:.2f}, n={mean.n}"
    return [
        f"{mean.score:.1f}",
        spread,
        "" if mean.difference is None else f"{mean.difference:+.1f}",
        "" if mean.bootstrap is None else f"{mean.bootstrap:.4f}",
        "" if mean.randomisation is None else f"{mean.randomisation:.4f}",
    ]


def speed_table(found: Comparison) -> Table:
    headers = ("run", "parameters", "tokens/s", "minutes", "steps")
    rows = []
    for row in found.rows:
        values = [average(row, name) for name in NUMBERS]
        shown = [
            UNKNOWN if value is None else f"{value:,.1f}" if name == "minutes" else f"{value:,.0f}"
            for name, value in zip(NUMBERS, values, strict=True)
        ]
        rows.append([name_of(row), *shown])
    return Table(headers=headers, rows=rows, numbers=headers[1:])


def footnotes(found: Comparison) -> list[str]:
    """What the tables leave unsaid: tests, seeds, marks, signatures, what is missing."""
    lines = []
    if any(mean.bootstrap is not None for row in found.rows for mean in row.scores.values()):
        lines.append(
            f"p: of a difference from {found.rows[0].label} at least as large, if both were equally"
            " good; sacreBLEU's paired bootstrap (1,000 samples) and paired approximate"
            " randomisation (10,000 shuffles)."
        )
    if any(len(row.sides) > 1 for row in found.rows):
        lines.append(
            "Several seeds: mean and sample standard deviation (std) of n runs; each seed is tested"
            " against the baseline's run of that seed, or its first, and p is the largest of them,"
            " or 1 where they differ in opposite directions."
        )
    lines += [f"* not comparable: {row.mark}" for row in found.rows if row.mark]
    for name in found.metrics:
        signatures = {r.scores[name].signature for r in found.rows if name in r.scores}
        lines += [f"{NAMES[name]}: {signature}" for signature in sorted(signatures)]
    return [*lines, *found.notes]


def worst_title(worst: Worst) -> str:
    return (
        f"The {len(worst.losses)} sentences by which {worst.row.label} ({worst.pair.side.run}) "
        f"loses most against {worst.pair.base.run}, by {NAMES[worst.metric]}"
    )


def worst_text(worst: Worst) -> str:
    """Source, references and both outputs of each sentence."""
    pair, blocks = worst.pair, []
    for one in worst.losses:
        rows = [("source", pair.test.sources[one.number])]
        rows += [("reference", lines[one.number]) for lines in pair.test.references]
        rows += [
            ("baseline", pair.baseline[one.number]),
            (worst.row.label, pair.system[one.number]),
        ]
        head = (
            f"line {one.number + 1}: {NAMES[worst.metric]} {one.score:.1f}, "
            f"baseline {one.baseline:.1f} ({one.difference:+.1f})"
        )
        blocks.append("\n".join([head, *(f"  {name:9}  {text}" for name, text in rows)]))
    return "\n".join(blocks)


# --- CSV and JSON --------------------------------------------------------------------------------


def flat_table(found: Comparison) -> Table:
    """A row for each run or group of seeds; an empty cell is what is not known."""
    keys = differing([row.sides[0] for row in found.rows])
    columns = ("score", "std", "n", "low", "high", *_TESTS)
    headers = ["label", "runs", "seeds", *keys]
    headers += [f"{name}_{column}" for name in found.metrics for column in (*columns, "mark")]
    headers += NUMBERS
    rows = []
    for row in found.rows:
        one = row_facts(row, found)
        cells = [row.label, " ".join(one["runs"]), " ".join(map(str, one["seeds"]))]
        cells += [spoken(row.sides[0].settings.get(key)) for key in keys]
        for name in found.metrics:
            scores = one["scores"].get(name, {})
            cells += [_cell(scores.get(column)) for column in columns]
            cells.append("" if scores.get("comparable", True) else "*")
        cells += [_cell(one[name]) for name in NUMBERS]
        rows.append(cells)
    return Table(headers=headers, rows=rows)


def worst_table(found: Comparison) -> Table:
    headers = ("run", "baseline_run", "line", "metric", "baseline_score", "score", "difference")
    texts = ("source", "reference", "baseline_output", "output")
    rows = []
    for worst in found.worst:
        for one in worst_facts(worst):
            texts_of = [one["source"], "\n".join(one["references"]), one["baseline"], one["output"]]
            numbers = [one[name] for name in headers[2:]]
            rows.append([one["run"], one["baseline_run"], *map(str, numbers), *texts_of])
    return Table(headers=(*headers, *texts), rows=rows)


_TESTS = ("difference", "p_bootstrap", "p_randomisation")


def facts(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON has it."""
    first = [row.sides[0] for row in found.rows]
    return {
        "split": found.split,
        "baseline": found.rows[0].label,
        "differences": {
            key: {
                row.label: side.settings.get(key)
                for row, side in zip(found.rows, first, strict=True)
            }
            for key in differing(first)
        },
        "rows": [row_facts(row, found) for row in found.rows],
        "worst": [one for worst in found.worst for one in worst_facts(worst)],
        "notes": found.notes,
    }


def row_facts(row: Row, found: Comparison) -> dict[str, Any]:
    return {
        "label": row.label,
        "runs": [str(side.run) for side in row.sides],
        "seeds": [side.seed for side in row.sides],
        "checkpoints": [s.measured.checkpoint if s.measured else None for s in row.sides],
        "scores": {
            name: {
                "score": mean.score,
                "std": mean.std,
                "n": mean.n,
                "low": mean.low,
                "high": mean.high,
                "signature": mean.signature,
                "difference": mean.difference,
                "p_bootstrap": mean.bootstrap,
                "p_randomisation": mean.randomisation,
                "comparable": row.mark is None,
            }
            for name, mean in row.scores.items()
        },
        "not_comparable": row.mark,
        **{name: average(row, name) for name in NUMBERS},
    }


def worst_facts(worst: Worst) -> list[dict[str, Any]]:
    pair = worst.pair
    return [
        {
            "run": str(pair.side.run),
            "baseline_run": str(pair.base.run),
            "line": one.number + 1,
            "metric": worst.metric,
            "baseline_score": one.baseline,
            "score": one.score,
            "difference": one.difference,
            "source": pair.test.sources[one.number],
            "references": [lines[one.number] for lines in pair.test.references],
            "baseline": pair.baseline[one.number],
            "output": pair.system[one.number],
        }
        for one in worst.losses
    ]


# --- values --------------------------------------------------------------------------------------


def average(row: Row, name: str) -> float | None:
    """The mean of one of `NUMBERS` over a row's runs, as far as it is known of them."""
    known = [side.numbers[name] for side in row.sides if name in side.numbers]
    return statistics.fmean(known) if known else None


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
