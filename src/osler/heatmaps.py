"""Matrices as pictures for papers: SVG or PNG, the same bytes for the same matrix.

Each cell has its numbers in it, so that no colour needs to be read off. Colours are cividis for accuracies and purple to orange
for differences, which colour-blind readers can tell apart. Text is drawn as outlines, and looks the same everywhere. The
interactive heat map of the report is `osler.charts`'.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from osler.differences import Difference, MatrixDifference
from osler.errors import RunError
from osler.matrix import Matrix
from osler.runs import write_named
from osler.stats import Estimate
from osler.summary import SMALL, Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALES = {"accuracy": "cividis", "difference": "PuOr_r"}
LIMITS = (0.1, 0.2, 0.5, 1.0)
"""Where the scale of differences may end: the first that holds all that is coloured, so that figures can be compared."""
STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "svg.hashsalt": "osler",
    "svg.fonttype": "path",
    "axes.unicode_minus": False,
    "hatch.color": "#d4d4d4",
    "hatch.linewidth": 1.2,
}
CELL_IN = (1.2, 0.86)
DPI = 200
FOUND = 0.05
"""A difference is printed in bold below this q."""

_GREY, _INK, _PAPER = "#efefef", "#222222", "#ffffff"
_GAP = 0.18  # before the column of all rows, in cells


@dataclass(frozen=True)
class Tile:
    """What one cell shows: its number, small lines below it, and marks at its foot (dot: accuracy, tick: floor, in 0..1)."""

    value: float | None
    text: str
    lines: tuple[str, ...]
    bold: bool
    hatched: bool
    framed: bool
    dot: float | None = None
    tick: float | None = None


@dataclass(frozen=True)
class Grid:
    """Tiles by row; the last column is of all rows together. `low` and `high` are the ends of the colour scale."""

    title: str
    scale: str
    low: float
    high: float
    about: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    tiles: tuple[tuple[Tile, ...], ...]


def write_heat_map(built: Matrix | MatrixDifference, file: Path) -> Path:
    """`file`, an .svg or .png that shows `built`, written whole or not at all; the same bytes for the same matrix.

    Cells of fewer than `SMALL` rows are grey and hatched, empty ones blank; what is tested on what it was trained on is framed.
    Errors: RunError for a matrix without lines, another ending, or a file that cannot be written.
    """
    if not built.lines or not built.columns:
        raise RunError("a matrix without a line or a column has no heat map. Name evaluations that have records.")
    return write_grid(grid_of(built), file)


def write_grid(grid: Grid, file: Path) -> Path:
    """`file`, an .svg or .png that shows `grid`, written whole or not at all.

    Errors: RunError for another ending, or a file that cannot be written.
    """
    form = file.suffix.lower().removeprefix(".")
    if form not in ("svg", "png"):
        raise RunError(f"{file}: a heat map is written as .svg or .png. Name a file that ends so.")
    return write_named(file, _drawn(grid, form))


def grid_of(built: Matrix | MatrixDifference) -> Grid:
    """What the heat map of `built` shows."""
    return _of_matrix(built) if isinstance(built, Matrix) else _of_difference(built)


def _of_matrix(built: Matrix) -> Grid:
    axis = built.axis.replace("_", " ")
    about = (
        f"Numbers in %: accuracy, read strictly, and its 95 % interval. Frame: tested on the {axis} that it was trained on. "
        f"Hatched: fewer than {SMALL} rows. At the foot of a cell, from 0 to 100 %: ● accuracy, | floor, the best of "
        "four blind attackers."
    )
    tiles = [
        (*(_tile(cell, column == line.domain) for column, cell in line.cells.items()), _tile(line.overall, False))
        for line in built.lines
    ]
    return Grid(
        title=f"Accuracy by {axis}: trained on (rows), tested on (columns)",
        scale="accuracy",
        low=0.0,
        high=1.0,
        about=about,
        rows=built.rows,
        columns=(*built.columns, "all rows"),
        tiles=tuple(tiles),
    )


def _of_difference(built: MatrixDifference) -> Grid:
    axis = built.axis.replace("_", " ")
    about = (
        "Numbers in points: accuracy less accuracy on the same rows, read strictly, and its 95 % interval. Frame: tested on "
        f"the {axis} that it was trained on. Hatched: fewer than {SMALL} rows. q: of {built.tested} paired tests, by Benjamini "
        f"and Hochberg; bold below {FOUND}. Descriptive."
    )
    tiles = [
        (*(_difference_tile(cell, column == line.domain) for column, cell in line.cells.items()),
         _difference_tile(line.overall, False))
        for line in built.lines
    ]  # fmt: skip
    largest = max(
        (abs(tile.value) for row in tiles for tile in row if tile.value is not None and not tile.hatched), default=0.0
    )
    limit = next((limit for limit in LIMITS if limit >= largest), LIMITS[-1])
    return Grid(
        title=f"Difference in accuracy by {axis}: trained on (rows), tested on (columns)",
        scale="difference",
        low=-limit,
        high=limit,
        about=about,
        rows=built.rows,
        columns=(*built.columns, "all rows"),
        tiles=tuple(tiles),
    )


def _tile(cell: Cell, framed: bool) -> Tile:
    accuracy, floor = cell.accuracy, cell.floor.value if cell.floor else None
    if accuracy.value is None:
        return _empty(framed)
    counted = f"n {accuracy.n:,}" + ("" if floor is None else f", floor {100 * floor:.1f}")
    lines = (_interval(accuracy, ".1f"), counted)
    text = f"{100 * accuracy.value:.1f}"
    return Tile(accuracy.value, text, lines, True, cell.small, framed, dot=accuracy.value, tick=floor)


def _difference_tile(cell: Difference, framed: bool) -> Tile:
    value = cell.estimate.value
    if value is None:
        return _empty(framed)
    counted = f"n {cell.n:,}" + ("" if cell.q is None else f", q {cell.q:.3f}" if cell.q >= 0.001 else ", q < 0.001")
    bold = cell.q is not None and cell.q < FOUND
    return Tile(value, f"{100 * value:+.1f}", (_interval(cell.estimate, "+.1f"), counted), bold, cell.small, framed)


def _empty(framed: bool) -> Tile:
    return Tile(None, "", (), False, False, framed)


def _interval(estimate: Estimate, form: str) -> str:
    return f"[{100 * (estimate.ci_low or 0.0):{form}}, {100 * (estimate.ci_high or 0.0):{form}}]"


# --- drawing


def _drawn(grid: Grid, form: str) -> bytes:
    """The bytes of the picture. matplotlib is loaded here, without a window and without pyplot's global state."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    about = {"Title": grid.title, "Description": in_words(grid)}
    metadata = {**about, "Creator": "osler", "Date": None} if form == "svg" else {**about, "Software": "osler"}
    with style.context(["default", dict(STYLE)]), io.BytesIO() as out:
        width, height = len(grid.columns) * CELL_IN[0], len(grid.rows) * CELL_IN[1]
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        _draw(figure, grid)
        figure.savefig(out, format=form, dpi=DPI, bbox_inches="tight", pad_inches=0.1, metadata=metadata)
        return out.getvalue()


def in_words(grid: Grid) -> str:
    """What the picture shows, as text: a line a cell. It goes into the file, for who cannot see it."""
    cells = [
        f"{row}, {column}: " + ("no rows" if tile.value is None else ", ".join((tile.text, *tile.lines)))
        for row, tiles in zip(grid.rows, grid.tiles, strict=True)
        for column, tile in zip(grid.columns, tiles, strict=True)
    ]
    return "\n".join([grid.about, *cells])


def _draw(figure: "Figure", grid: Grid) -> None:
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    last = len(grid.columns) - 1
    left_of = [float(at) + (_GAP if at == last else 0.0) for at in range(len(grid.columns))]
    axes.set_xlim(0, left_of[-1] + 1)
    axes.set_ylim(len(grid.rows), 0)
    axes.axis("off")
    for top, tiles in enumerate(grid.tiles):
        for left, tile in zip(left_of, tiles, strict=True):
            _draw_tile(axes, tile, left, top, _colour(grid, tile))
    _label(axes, grid, left_of)
    _draw_scale(figure, grid)


def _label(axes: "Axes", grid: Grid, left_of: Sequence[float]) -> None:
    """Column labels above, row labels on the left, the title on top, and what the marks mean below."""
    plain: dict[str, Any] = {"color": _INK, "parse_math": False}
    wrapped = [fill(column, 15) for column in grid.columns]
    for left, column in zip(left_of, wrapped, strict=True):
        axes.text(left + 0.5, -0.08, column, ha="center", va="bottom", fontsize=8.5, **plain)
    for top, row in enumerate(grid.rows):
        axes.text(-0.08, top + 0.5, fill(row, 34), ha="right", va="center", fontsize=8.5, **plain)
    above = -0.28 - 0.16 * max(column.count("\n") + 1 for column in wrapped)
    axes.text(
        0, above, fill(grid.title, _characters(grid, 11)), ha="left", va="bottom", fontsize=10, fontweight="bold", **plain
    )
    about = fill(grid.about, _characters(grid, 19))
    axes.text(0, len(grid.rows) + 0.12, about, ha="left", va="top", fontsize=6.5, linespacing=1.4, **plain)


def _characters(grid: Grid, a_cell: int) -> int:
    """How many characters fit below or above the cells."""
    return max(40, round(CELL_IN[0] * a_cell * len(grid.columns)))


def _draw_tile(axes: "Axes", tile: Tile, left: float, top: float, colour: tuple[float, float, float] | None) -> None:
    from matplotlib.patches import Rectangle

    pad = 0.02
    place, width, height = (left + pad, top + pad), 1 - 2 * pad, 1 - 2 * pad
    if tile.value is None:
        axes.add_patch(Rectangle(place, width, height, facecolor=_PAPER, edgecolor="#dddddd", linewidth=0.6))
    elif colour is None:
        axes.add_patch(Rectangle(place, width, height, facecolor=_GREY, hatch="////", linewidth=0))
    else:
        axes.add_patch(Rectangle(place, width, height, facecolor=colour, linewidth=0))
    if tile.framed:
        axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor="#000000", linewidth=2.2, zorder=3))
    ink = _INK if colour is None else ink_on(colour)
    if tile.value is not None:
        weight = "bold" if tile.bold else "normal"
        axes.text(left + 0.5, top + 0.26, tile.text, ha="center", va="center", fontsize=11, fontweight=weight, color=ink)
    for at, line in enumerate(tile.lines):
        axes.text(left + 0.5, top + 0.51 + 0.18 * at, line, ha="center", va="center", fontsize=6.5, color=ink)
    _draw_marks(axes, tile, left, top + 0.87, ink)


def _draw_marks(axes: "Axes", tile: Tile, left: float, y: float, ink: str) -> None:
    """A line from 0 to 100 % with a dot at the accuracy and a tick at the floor; nothing where the tile has neither."""
    start, length = left + 0.12, 0.76
    if tile.dot is not None:
        axes.plot([start, start + length], [y, y], color=ink, linewidth=0.6, alpha=0.6, solid_capstyle="butt")
        axes.plot([start + length * tile.dot], [y], marker="o", markersize=3.2, color=ink, markeredgewidth=0)
    if tile.tick is not None:
        x = start + length * tile.tick
        axes.plot([x, x], [y - 0.06, y + 0.06], color=ink, linewidth=1.4, solid_capstyle="butt")


def _draw_scale(figure: "Figure", grid: Grid) -> None:
    """The colour scale, on the right."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    width = 0.14 / figure.get_figwidth()
    axes = figure.add_axes((1 + 1.4 * width, 0.0, width, 1.0))
    shades = ScalarMappable(Normalize(100 * grid.low, 100 * grid.high), matplotlib.colormaps[SCALES[grid.scale]])
    bar = figure.colorbar(shades, cax=axes)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, width=0.4, length=2)
    bar.set_label("accuracy, %" if grid.scale == "accuracy" else "difference, points", fontsize=7.5)
    if bar.solids:
        bar.solids.set_edgecolor("face")  # else viewers show seams


def _colour(grid: Grid, tile: Tile) -> tuple[float, float, float] | None:
    """Red, green and blue of `tile` in 0..1, None where it is hatched or empty."""
    import matplotlib

    if tile.value is None or tile.hatched:
        return None
    shade = (tile.value - grid.low) / (grid.high - grid.low)
    red, green, blue, _ = matplotlib.colormaps[SCALES[grid.scale]](shade)
    return float(red), float(green), float(blue)


def ink_on(colour: Iterable[float]) -> str:
    """Black or white, whichever stands out more from `colour` (0..1): at least 4.5 to 1 (WCAG 2's relative luminance)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"
