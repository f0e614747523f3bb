"""Figures: the right cells, readable labels, any script, and files that can be opened."""

from __future__ import annotations

import itertools
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from nmt.evaluation.plots import _fonts, _glyphs, as_rgb, head_grid, heat_map, length_curve, save
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


def test_curve_over_length():
    short, long = Bucket(0, 5, 10, 40.0, 60.0), Bucket(6, None, 3, 20.0, 50.0)
    figure = length_curve({"none": [short, long], "bahdanau": [long]})
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["none", "bahdanau"]
    assert list(lines[0].get_xdata()) == [0, 1]
    assert list(lines[1].get_xdata()) == [1]
    assert labels(figure.axes[0].xaxis) == ["0-5\nn=10", "6+\nn=3"]
    as_rgb(figure)
