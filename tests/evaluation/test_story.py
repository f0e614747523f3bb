"""The report from made-up numbers: whole, without a network, every number in the JSON."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nmt.commands.story.panels import points
from nmt.evaluation.claims import CLAIMS, QUALITY, Kind
from nmt.evaluation.figures import draw, svg
from nmt.evaluation.statistics import plain, wilson
from nmt.evaluation.story import Section, Story, TrainingRow, write

SERIES = {"name": "a < b & “c”", "y": [1.0, 2.5], "low": [0.5, None], "high": [1.5, None]}
PANELS: dict[str, dict[str, Any]] = {
    "categories": {
        "kind": "lines", "title": "by length", "x_label": "words", "y_label": "BLEU",
        "categories": ["1–5", "6+"], "marks": [0.0], "series": [SERIES, SERIES],
    },
    "lines": {
        "kind": "lines", "x_label": "length", "y_label": "ms", "x_log": True, "y_log": True,
        "series": [{"name": "x", "x": [64, 128], "y": [1.0, 4.0]}],
    },
    "points": {
        "kind": "points", "x_label": "accuracy, %", "rows": ["one", "two"],
        "series": [{"name": "n", "value": [61.5, None], "low": [60, None], "high": [62, None]}],
    },
    "bars": {"kind": "bars", "x_label": "%", "rows": ["$x_", "y"], "values": [3.25, None]},
    "histogram": {
        "kind": "histogram", "x_label": "tau", "y_label": "n", "edges": [-1, 0, 1],
        "series": [{"name": "h", "counts": [7, 9]}, {"name": "i", "counts": [1, 2]}],
    },
    "heat": {
        "kind": "heat", "x_label": "source", "y_label": "target",
        "matrix": [[100.0, 0.0]], "rows": ["▁la$"], "columns": ["▁the$", "</s>"],
    },
}  # fmt: skip


class Page(HTMLParser):
    """Tags that must be closed are; ids are unique; what is referred to is collected."""

    VOID = ("meta", "br", "hr", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.refers.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    numbers = {
        1: {
            "statistic": {"value": 0.4, "low": 0.3, "high": 0.5},
            "counts": {"test sentences of more than 20 words": 200, QUALITY: 64},
            "panels": list(PANELS.values()),
            "caption": "a <b> caption",
            "table": {"columns": ["model", "BLEU"], "rows": [["x|y", "<1>"]]},
        },
        2: {"panels": [PANELS["heat"]], "caption": "", "table": {"columns": ["a"], "rows": []}},
        5: {"counts": {"minimal pairs": 3}},
    }
    sections = [
        Section(
            claim=claim,
            numbers=numbers.get(claim.number),
            problem="failed: none-s1: out of memory" if claim.number == 8 else "",
            command=f"nmt story story.claims=[{claim.number}]",
            finding="Somebody looked." if claim.number == 5 else "",
        )
        for claim in CLAIMS
    ]
    row = TrainingRow(name="none-s1", state="failed: x", steps=3, minutes=1.25, command="nmt train")
    story = Story(
        title="A story & more", facts=[("corpus", "mini")], sections=sections, trainings=[row]
    )
    assert [path.name for path in write(folder, story)] == [
        "report.html", "report.md", "report.json",
    ]  # fmt: skip
    return folder


def test_the_page_is_whole_and_stands_alone(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.stack == []
    assert len(page.ids) == len(set(page.ids))
    assert all(ref.startswith("#") and ref[1:] in page.ids for ref in page.refers)
    assert not re.search(r"https?://|@import|url\((?!#)|<script", text)
    assert page.tags.count("svg") == 2
    assert page.tags.index("table") < page.tags.index("svg"), "verdicts come first"
    for claim in CLAIMS:
        assert claim.sentence in text
    assert re.findall(r'<section id="claim-(\d+)"', text) == ["1", "2", "5", "8"]
    assert "✓ reproduced" in text
    assert "– not testable here" in text
    assert text.count(str(Kind.later)) == 3
    assert "3 minimal pairs, at least 100 are needed" in text
    assert "Somebody looked." in text
    assert "out of memory" in text


def test_a_story_without_trainings_has_no_table_of_them(tmp_path: Path) -> None:
    story = Story(title="Attention alone", facts=[], sections=[], trainings=[])
    for path in write(tmp_path, story)[:2]:
        assert "raining" not in path.read_text("utf-8")


def test_the_json_has_every_number_of_every_figure(folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text("utf-8"))
    first = found["claims"][0]
    assert first["numbers"]["panels"] == json.loads(json.dumps(list(PANELS.values())))
    assert first["verdict"] == "reproduced"
    assert first["refuted_if"]
    assert [c["state"] for c in found["claims"] if c["number"] in (8, 14)] == [
        "failed", "not built yet",
    ]  # fmt: skip


def test_the_markdown_says_the_same(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    assert text.count("\n## ") == 5  # four claims and the trainings
    assert "| x\\|y | <1> |" in text
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        picture = (folder / name).read_text("utf-8")
        assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert len(picture) < 100_000


def test_text_of_the_corpus_is_no_formula_and_a_share_of_one_has_an_interval() -> None:
    share = plain(wilson(704, 704))
    ends = {"value": [1.0], "low": [share["low"]], "high": [1.0 - 2**-53]}
    pieces = ["$$", "$_$", r"$\\b$"]
    panels = [
        {"kind": "points", "rows": ["all kept"], "series": [{"name": "kept", **ends}]},
        {"kind": "bars", "title": "before “$_$”", "rows": pieces, "values": [1.0, 2.0, 3.0]},
        {"kind": "heat", "rows": pieces, "columns": pieces, "matrix": [[0.0, 1.0, 2.0]] * 3},
    ]
    drawn = svg(panels, "c1", "whatever was in the text")
    assert "$_$" in drawn
    assert "before “$_$”" in drawn


def test_a_figure_that_cannot_be_drawn_costs_no_more_than_itself(tmp_path: Path) -> None:
    panels = {1: [{**PANELS["bars"], "kind": "pie"}], 2: [PANELS["heat"]]}
    sections = [
        Section(claim=claim, numbers={"panels": panels[claim.number], "note": "Here."})
        for claim in CLAIMS[:2]
    ]
    write(tmp_path, Story(title="t", facts=[], sections=sections, trainings=[]))
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert "Its figure could not be drawn (KeyError: " in text
        assert text.count("could not be drawn") == 1
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["claim-2.svg"]
    found = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert found["claims"][0]["numbers"]["panels"] == panels[1]


def test_a_long_title_stays_inside_the_figure() -> None:
    rows = ["a model with a long name"]
    interval = {"value": 1.0, "low": 0.5, "high": 1.5}
    panel = points("%", rows, {"sentences": [interval]}, title="Words of a title that is long " * 3)
    figure = draw([panel])
    figure.canvas.draw()
    [axes] = figure.axes
    assert figure.bbox.x0 <= axes._left_title.get_window_extent().x0  # type: ignore[attr-defined]
    assert axes._left_title.get_window_extent().x1 <= figure.bbox.x1  # type: ignore[attr-defined]


def test_logarithmic_axes_are_in_plain_numbers() -> None:
    """Powers of ten are hard to read beside lengths, and one tick is no scale."""
    panel = {
        "kind": "lines", "x_label": "length", "y_label": "tokens a second", "y_log": True,
        "series": [{"name": "one", "x": [8, 128], "y": [17_909.0, 4_544.0]}],
    }  # fmt: skip
    axes = draw([panel]).axes[0]
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    ticks = dict(
        zip(axes.get_yticks(), (t.get_text() for t in axes.get_yticklabels()), strict=True)
    )
    assert [text for y, text in ticks.items() if low <= y <= high] == ["5,000", "10,000"]


@pytest.mark.parametrize("name", PANELS)
def test_axes_have_labels_and_series_differ_without_colour(name: str) -> None:
    panel = PANELS[name]
    axes = draw([panel]).axes[0]
    assert axes.get_xlabel() == panel["x_label"]
    assert axes.get_ylabel() == panel.get("y_label", "")
    looks = {(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}
    if name == "categories":
        assert len(looks & {("-", "o"), ("--", "s")}) == 2
    if name == "heat":
        assert [t.get_text() for t in axes.texts] == ["100"]
