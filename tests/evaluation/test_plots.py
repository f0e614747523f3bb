"""Figures: the right cells, readable labels, any script, and files that can be opened."""

from __future__ import annotations

import html
import itertools
import re
import struct
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from nmt.evaluation import plots
from nmt.evaluation.plots import (
    _fonts,
    _glyphs,
    as_rgb,
    head_grid,
    head_tiles,
    heat_map,
    lacking,
    length_curve,
    save,
)
from nmt.evaluation.scores import Bucket

SOURCE = ["▁A", "▁dog", "</s>"]
TARGET = ["▁Un", "▁chien", ".", "</s>"]
WEIGHTS = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]])


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_rows_are_target_tokens_from_the_top():
    figure = heat_map(WEIGHTS, SOURCE, TARGET, title="a title")
    axes = figure.axes[0]
    assert labels(axes.xaxis) == SOURCE
    assert labels(axes.yaxis) == TARGET
    [image] = axes.get_images()
    assert np.allclose(image.get_array(), WEIGHTS)
    assert axes.yaxis.get_inverted()
    rgb = as_rgb(figure)
    assert rgb.dtype == np.uint8
    assert rgb.shape[2] == 3
    box = axes.get_window_extent()
    height = rgb.shape[0]

    def colour(row, column):
        x = box.x0 + (column + 0.5) / 3 * box.width
        y = height - box.y1 + (row + 0.5) / 4 * box.height
        return rgb[int(y), int(x)].astype(int)

    assert colour(3, 2).sum() > colour(0, 0).sum() > colour(2, 1).sum() > colour(0, 2).sum()


def test_long_labels_of_short_sentences_leave_room_for_the_cells(tmp_path):
    for word in ("w" * 40, "國" * 40):
        figure = heat_map([[1.0]], [word], [word], title="layer 0, head 0")
        as_rgb(figure)
        inches = figure.axes[0].get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert min(inches.width, inches.height) > 0.3
        as_rgb(head_grid(np.ones((1, 2, 1, 1)), [word], [word]))


def test_a_title_fits_over_a_small_picture():
    title = "mean of the layers, mean of the heads, the row that predicts a word"
    figure = heat_map([[1.0]], ["a"], ["b"], title=title)
    as_rgb(figure)
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_an_empty_sentence_is_a_blank_picture():
    for source, target in (([], []), (["a"], []), ([], ["b", "c"])):
        shape = (len(target), len(source))
        as_rgb(heat_map(np.zeros(shape), source, target))
        as_rgb(head_grid(np.zeros((1, 2, *shape)), source, target))


def test_labels_must_fit_the_matrix():
    with pytest.raises(ValueError, match="4 target and 2 source labels"):
        heat_map(WEIGHTS, SOURCE[:2], TARGET)


def test_files_are_pictures_and_the_same_each_time(tmp_path):
    figure = heat_map(WEIGHTS, SOURCE, TARGET, title="dog.v1")
    paths = save(figure, tmp_path / "dog.v1")
    assert [p.name for p in paths] == ["dog.v1.png", "dog.v1.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")
    again = heat_map(WEIGHTS, SOURCE, TARGET, title="dog.v1")
    for one, other in zip(paths, save(again, tmp_path / "again"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_picture_has_the_size_of_its_figure_and_an_svg_its_words(tmp_path):
    figure = heat_map(WEIGHTS, SOURCE, TARGET, title="layer 1, head 0")
    png, svg = save(figure, tmp_path / "dog")
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    inches = figure.get_size_inches()
    assert (width, height) == (int(inches[0] * 150), int(inches[1] * 150))
    written = svg_texts(svg)
    assert {*SOURCE, *TARGET, "source", "target", "layer 1, head 0"} <= set(written)


def svg_texts(path):
    """What an SVG says, whether its letters are text or outlines (then in comments)."""
    content = path.read_text("utf-8")
    ElementTree.fromstring(content)
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", content)]


def test_gold_links_are_framed():
    figure = heat_map(WEIGHTS, SOURCE, TARGET, sure={(1, 1)}, possible={(0, 2), (2, 3)})
    frames = [(p.get_xy(), p.get_linestyle()) for p in figure.axes[0].patches]
    assert [style for _, style in frames] == ["solid", "dotted", "dotted"]
    corners = {(round(x + 0.42), round(y + 0.42)) for (x, y), _ in frames}
    assert corners == {(1, 1), (0, 2), (2, 3)}  # column: source, row: target
    plain = as_rgb(heat_map(WEIGHTS, SOURCE, TARGET))
    assert (as_rgb(figure) != plain).any()


def test_long_sentences_stay_bounded_and_their_labels_apart():
    n = 300
    figure = heat_map(np.eye(n), [f"s{i}" for i in range(n)], [f"t{i}" for i in range(n)])
    width, height = figure.get_size_inches()
    assert width < 18
    assert height < 18
    shown = labels(figure.axes[0].xaxis)
    assert 50 < len(shown) < 200
    assert shown[1] == f"s{figure.axes[0].get_xticks()[1]}"
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].yaxis.get_ticklabels()]
    boxes.sort(key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    "words",
    [
        ["السلام", "שלום", "a\x00b"],
        ["犬", "公園", "고양이"],
        ["$5", "$x_1^", "a\tb"],
        ["", " ", "\u2028"],
        ["🐕", "\ud800", "e\u0301"],
        ["Donaudampfschifffahrtsgesellschaftskapitän", "b", "c"],
    ],
    ids=["right_to_left", "cjk", "mathtext", "blank", "emoji", "long"],
)
def test_any_text_can_be_a_label(tmp_path, words):
    figure = heat_map(np.full((3, 3), 0.3), words, words, title=words[0])
    paths = save(figure, tmp_path / "any")
    ElementTree.parse(paths[1])
    assert all(len(label) <= 24 for label in labels(figure.axes[0].xaxis))
    ticks = figure.axes[0].xaxis.get_ticklabels()
    assert not any(text.get_parse_math() for text in ticks)  # a dollar is no mathematics


def test_what_to_install_is_said_only_where_a_font_is_missing():
    assert lacking(["A dog", "été", "שלום", "السلام", "a\u200fb\u200d"]) == ""
    note = lacking(["a dog \U0003fffd"])
    assert "\U0003fffd: pictures show □ instead" in note
    assert "fonts-noto-core" in note
    assert "\n" not in note


def test_cjk_asks_for_a_cjk_font(monkeypatch):
    monkeypatch.setattr(plots, "_fonts", lambda wanted: (("DejaVu Sans",), wanted & {"日", "本"}))
    note = lacking(["日本 dog"])
    assert "日 本: " in note or "本 日: " in note
    assert "fonts-noto-cjk" in note
    assert "fonts-noto-core" not in note


@pytest.mark.parametrize(
    ("label", "drawn"),
    [
        ("dog", "dog"),
        ("▁שלום", "םולש▁"),
        ("ב-12", "12-ב"),
        ("3.5ש", "ש3.5"),
        ("GPSب", "بGPS"),
        ("אָב", "באָ"),  # a vowel sign stays behind its letter
    ],
)
def test_right_to_left_words_for_a_library_that_draws_from_the_left(monkeypatch, label, drawn):
    monkeypatch.setattr(plots, "_shapes_text", lambda: False)
    figure = heat_map([[1.0]], [label], ["a"])
    assert labels(figure.axes[0].xaxis) == [drawn]


def test_right_to_left_words_are_left_to_a_library_that_knows(monkeypatch):
    monkeypatch.setattr(plots, "_shapes_text", lambda: True)
    figure = heat_map([[1.0]], ["▁שלום"], ["ב-12"])
    assert labels(figure.axes[0].xaxis) == ["▁שלום"]
    assert labels(figure.axes[0].yaxis) == ["ב-12"]


def test_the_first_word_is_the_leftmost_column_in_every_script():
    words = ["אחת", "שתיים", "שלוש"]
    figure = heat_map(np.eye(3), words, ["a", "b", "c"])
    axes = figure.axes[0]
    as_rgb(figure)
    lefts = [axes.transData.transform((place, 0))[0] for place in axes.get_xticks()]
    assert lefts == sorted(lefts)
    assert [sorted(label) for label in labels(axes.xaxis)] == [sorted(word) for word in words]


def test_characters_without_any_font_are_boxes_and_said_to_be():
    unassigned = "\U0003fffd"
    figure = heat_map([[1.0]], [unassigned], ["a"])
    assert labels(figure.axes[0].xaxis) == ["□"]
    assert "no font" in figure.get_supxlabel()
    assert heat_map([[1.0]], ["b"], ["a"]).get_supxlabel() == ""


def test_fonts_are_found_glyph_by_glyph():
    """The STIX fonts that come with matplotlib have characters that DejaVu Sans lacks."""
    from matplotlib import font_manager

    have = _glyphs(font_manager.findfont("DejaVu Sans"))
    stix = _glyphs(font_manager.findfont("STIXGeneral"))
    character = chr(min(c for c in stix - have if c > 0x2000))
    families, missing = _fonts(frozenset("a" + character))
    assert families[0] == "DejaVu Sans"
    assert len(families) == 2
    assert not missing
    heat_map([[1.0]], [character], ["a"]).canvas.draw()


def test_grid_has_one_map_for_each_layer_and_head():
    weights = torch.rand(3, 2, 4, 3)
    figure = head_grid(weights, SOURCE, TARGET, title="cross-attention")
    maps = [axes for axes in figure.axes if axes.get_images()][:6]
    assert [axes.get_title() for axes in maps] == [
        f"layer {layer}, head {head}" for layer in range(3) for head in range(2)
    ]
    for place, axes in enumerate(maps):
        assert np.allclose(axes.get_images()[0].get_array(), weights[place // 2, place % 2])
    assert labels(maps[0].xaxis) == labels(maps[1].xaxis) == SOURCE
    assert labels(maps[2].xaxis) == []
    assert labels(maps[4].yaxis) == TARGET
    assert labels(maps[5].yaxis) == []
    as_rgb(figure)
    with pytest.raises(ValueError, match="labels"):
        head_grid(weights, TARGET, SOURCE)


def test_a_grid_of_chosen_layers_and_heads_has_their_names():
    figure = head_grid(torch.rand(1, 2, 4, 3), SOURCE, TARGET, layers=["mean"], heads=["0", "3"])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["layer mean, head 0", "layer mean, head 3"]


def test_tiles_are_all_heads_in_their_places():
    weights = torch.rand(2, 3, 4, 5)
    figure = head_tiles(weights)
    [image] = figure.axes[0].get_images()
    tiles = np.asarray(image.get_array().filled(np.nan))
    assert tiles.shape == (4 + 1 + 4, 5 + 1 + 5 + 1 + 5)
    for layer, head in itertools.product(range(2), range(3)):
        part = tiles[layer * 5 : layer * 5 + 4, head * 6 : head * 6 + 5]
        assert np.allclose(part, weights[layer, head])
    assert np.isnan(tiles[4]).all()
    assert labels(figure.axes[0].xaxis) == ["0", "1", "2"]
    assert labels(figure.axes[0].yaxis) == ["0", "1"]
    assert list(figure.axes[0].get_xticks()) == [2.0, 8.0, 14.0]
    as_rgb(figure)


def test_curve_over_length():
    short, long = Bucket(0, 5, 10, 40.0, 60.0), Bucket(6, None, 3, 20.0, 50.0)
    figure = length_curve({"none": [short, long], "bahdanau": [long]})
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["none", "bahdanau"]
    assert list(lines[0].get_xdata()) == [0, 1]
    assert list(lines[1].get_xdata()) == [1]
    assert labels(figure.axes[0].xaxis) == ["0-5\nn=10", "6+\nn=3"]
    as_rgb(figure)
