"""Heat maps of matrices made by hand: what is drawn, and that it is the same everywhere."""

import os
import re
import subprocess
import sys
from html import unescape
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from osler.differences import MatrixDifference, difference
from osler.errors import RunError
from osler.heatmaps import SCALES, grid_of, in_words, ink_on, write_heat_map
from osler.matrix import Matrix, build_matrix
from test_matrix import floored, rows, written


@pytest.fixture
def matrix(tmp_path):
    """CT: large and of few rows; OCT: tested by the second line only. Only the first line has a floor."""
    runs = [
        written(tmp_path / "ct", floored(rows("CT", 97, 23) + rows("MRI", 61, 59)), ["CT"]),
        written(tmp_path / "mri", rows("CT", 11, 9) + rows("MRI", 113, 7) + rows("OCT", 60, 60), ["MRI"]),
    ]
    return build_matrix(runs, "modality")


@pytest.fixture
def less(tmp_path):
    """CT and MRI less an earlier model: +25.0 on 120 rows of CT, -10.0 on 20 of MRI."""
    a = written(tmp_path / "a", rows("CT", 90, 30) + rows("MRI", 10, 10), ["CT"])
    b = written(tmp_path / "b", rows("CT", 60, 60) + rows("MRI", 12, 8), ["CT"], "sft")
    return difference([a], [b], "modality")


@pytest.fixture
def both(matrix, less):
    return [matrix, less]


def texts_of(svg):
    """What the drawn texts of an SVG say: matplotlib writes it as a comment before their outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.fromstring(svg, parser=parser)
    return [unescape(one.text.strip()) for one in root.iter() if one.tag is ElementTree.Comment]


def drawn(built, tmp_path, form="svg"):
    return write_heat_map(built, tmp_path / f"map.{form}").read_bytes()


# --- what is drawn


def test_every_cell_has_its_accuracy_interval_n_and_floor(matrix, tmp_path):
    texts = texts_of(drawn(matrix, tmp_path))
    for line in matrix.lines:
        for cell in (*line.cells.values(), line.overall):
            if cell.n:
                a, floor = cell.accuracy, cell.floor
                assert f"{100 * a.value:.1f}" in texts
                assert f"[{100 * a.ci_low:.1f}, {100 * a.ci_high:.1f}]" in texts
                assert f"n {a.n}" + (f", floor {100 * floor.value:.1f}" if floor else "") in texts
    assert {"CT", "MRI", "OCT", "all rows", "CT · grpo", "MRI · grpo"} <= set(texts)
    assert "accuracy, %" in texts


def test_every_difference_has_its_interval_n_and_q(less, tmp_path):
    texts, ct = texts_of(drawn(less, tmp_path)), less.lines[0].cells["CT"]
    assert {"+25.0", "-10.0"} <= set(texts)
    assert f"[{100 * ct.estimate.ci_low:+.1f}, {100 * ct.estimate.ci_high:+.1f}]" in texts
    assert "n 120, q < 0.001" in texts
    assert f"n 20, q {less.lines[0].cells['MRI'].q:.3f}" in texts
    assert "n 140" in texts
    assert "difference, points" in texts


def test_small_cells_are_hatched_empty_ones_blank_and_the_diagonal_framed(matrix):
    grid = grid_of(matrix)
    assert [[tile.hatched for tile in tiles] for tiles in grid.tiles] == [[False] * 4, [True, False, False, False]]
    assert [[tile.value is None for tile in tiles] for tiles in grid.tiles] == [[False, False, True, False], [False] * 4]
    assert [[tile.framed for tile in tiles] for tiles in grid.tiles] == [
        [True, False, False, False],
        [False, True, False, False],
    ]
    empty = grid.tiles[0][2]
    assert (empty.text, empty.lines, empty.dot, empty.tick) == ("", (), None, None)
    assert "CT · grpo, OCT: no rows" in in_words(grid)


def test_the_floor_is_marked_where_there_is_one(matrix):
    first, second = grid_of(matrix).tiles
    assert (first[0].dot, first[0].tick) == (pytest.approx(97 / 120), 1.0)
    assert (second[0].dot, second[0].tick) == (0.55, None)


def test_only_small_cells_have_a_hatch_in_the_picture(matrix, less, tmp_path):
    hatched = [drawn(built, tmp_path).decode().count("fill: url(#") for built in (matrix, less)]
    assert hatched == [1, 1]


def test_differences_are_bold_where_they_are_found_and_the_scale_holds_what_is_coloured(less):
    grid = grid_of(less)
    assert [tile.bold for tile in grid.tiles[0]] == [True, False, False]
    assert [tile.hatched for tile in grid.tiles[0]] == [False, True, False]
    assert (grid.low, grid.high) == (-0.5, 0.5)
    assert (grid_of(build_empty(less)).low, grid_of(build_empty(less)).high) == (-0.1, 0.1)


def test_what_is_hatched_does_not_stretch_the_scale(tmp_path):
    a = written(tmp_path / "a", rows("CT", 63, 57) + rows("MRI", 18, 2), ["CT"])
    b = written(tmp_path / "b", rows("CT", 60, 60) + rows("MRI", 12, 8), ["CT"], "sft")
    grid = grid_of(difference([a], [b], "modality"))
    assert [tile.text for tile in grid.tiles[0]] == ["+2.5", "+30.0", "+6.4"]
    assert (grid.low, grid.high) == (-0.1, 0.1)


def build_empty(less):
    """`less` without its line."""
    return MatrixDifference(less.axis, less.columns, (), less.unmatched)


@pytest.mark.parametrize("scale", SCALES.values())
def test_numbers_can_be_read_on_every_colour(scale):
    def luminance(colour):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    for shade in np.linspace(0, 1, 101):
        colour = matplotlib.colormaps[scale](shade)[:3]
        ink = 0.0 if ink_on(colour) == "#000000" else 1.0
        bright, dark = max(luminance(colour), ink), min(luminance(colour), ink)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


# --- the file


def test_an_svg_stands_alone_and_says_what_it_shows(both, tmp_path):
    for built in both:
        svg = drawn(built, tmp_path)
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{http://www.w3.org/2000/svg}title").text == grid_of(built).title
        assert grid_of(built).about in "".join(root.itertext())
        assert not list(root.iter("{http://www.w3.org/2000/svg}text"))  # outlines, which need no font
        loaded = [value for one in root.iter() for name, value in one.items() if name.endswith("href")]
        assert all(value.startswith(("#", "data:")) for value in loaded)


def test_a_png_opens_and_is_fine_enough_to_print(both, tmp_path):
    for built in both:
        with Image.open(write_heat_map(built, tmp_path / "map.PNG")) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width > 200 * 1.2 * (len(built.columns) + 1)
            assert image.text["Title"] == grid_of(built).title
            assert len(image.convert("RGB").getcolors(2**24)) > 50


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_matrix_gives_the_same_bytes_whatever_the_users_settings(both, tmp_path, form):
    before = [drawn(built, tmp_path, form) for built in both]
    assert before[0] != before[1]
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "svg.fonttype": "none", "savefig.transparent": True}):
        settings = dict(matplotlib.rcParams)
        assert [drawn(built, tmp_path, form) for built in both] == before
        assert dict(matplotlib.rcParams) == settings
    assert not re.search(rb"20\d\d-\d\d-\d\d", before[0])
    assert sorted(path.name for path in tmp_path.glob("map*")) == [f"map.{form}"]


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(matrix, tmp_path):
    code = (
        "import sys; from pathlib import Path; from osler.runs import Run; from osler.matrix import build_matrix;"
        "from osler.heatmaps import write_heat_map;"
        "assert 'matplotlib' not in sys.modules, 'loaded before it is needed';"
        "runs = [Run.open(path) for path in sys.argv[2:]];"
        "write_heat_map(build_matrix(runs, 'modality'), Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    command = [sys.executable, "-c", code, tmp_path / "other.svg", tmp_path / "mri", tmp_path / "ct"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (tmp_path / "other.svg").read_bytes() == drawn(matrix, tmp_path)


def test_labels_are_drawn_as_they_are_written(tmp_path):
    run = written(
        tmp_path / "run", rows("CT", 3, 1), ["CT"], r"$\frac$_c--d <&> long-hyphenated-name-of-a-model-after-training"
    )
    texts = " ".join(texts_of(drawn(build_matrix([run], "modality"), tmp_path)))
    assert r"$\frac$_c" in texts  # the comment may hold no "--"
    assert "<&>" in texts


def test_what_cannot_be_drawn_is_refused(matrix, less, tmp_path):
    with pytest.raises(RunError, match=r"written as \.svg or \.png"):
        write_heat_map(matrix, tmp_path / "map.pdf")
    for empty in (Matrix("modality", (), ()), build_empty(less)):
        with pytest.raises(RunError, match="without a line or a column"):
            write_heat_map(empty, tmp_path / "map.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(RunError, match="is a folder"):
        write_heat_map(matrix, tmp_path / "folder.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_heat_map(matrix, tmp_path / "file" / "map.svg")
