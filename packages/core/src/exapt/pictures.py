"""Pictures of numbers at places: heat maps and curves, drawn without a display."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exapt.data.files import check_free, writing
from exapt.errors import OutputError, listed

SUFFIXES = (".pdf", ".png", ".svg")
"""What the name of a picture may end in."""
FOLD = 60
"""Columns of one panel; more go into further panels below it."""

_CELL = 0.16
"""Inches, as all lengths below."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 0.5, 1.0, 0.45, 0.2, 0.5
_NARROWEST, _SHORTEST_BAR, _SIDE = 3.0, 0.6, 2.4
_DOTS = 150
# Beyond this, programs refuse to open a picture: of very long sequences the dots get coarser.
_TALLEST = 30_000
_STYLE: dict[Any, Any] = {
    "text.usetex": False,
    "text.parse_math": False,
    "font.size": 6.0,
    "axes.linewidth": 0.5,
    "svg.fonttype": "none",
    # Otherwise the ids in an SVG differ from one run to another.
    "svg.hashsalt": "exapt",
}
# Otherwise the day stands in the file.
_UNDATED: dict[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}


def check_picture(path: str | Path, overwrite: bool = False) -> Path:
    """Return where a picture can be saved.

    Raises ``OutputError`` for another suffix, a folder that is not there, a file that is, and where no matplotlib is
    installed: ask before the work that the picture shows.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"'{path}' is no picture that can be drawn: its name must end in {listed(SUFFIXES)}.")
    if find_spec("matplotlib") is None:
        raise OutputError(f"'{path.name}' cannot be drawn without matplotlib: pip install 'exapt[pictures]'")
    with writing(path):
        check_free(path, overwrite)
    return path


def save_heat_map(
    path: str | Path,
    values: npt.ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    unit: str,
    marks: Iterable[tuple[int, int]] = (),
    overwrite: bool = False,
) -> None:
    """Draw ``values`` [rows, columns] in diverging colours around 0, NaN grey, and save the picture whole or not at all.

    ``unit`` says what the colours count; ``marks`` are the cells (row, column) that are dotted. More than ``FOLD``
    columns fold into panels. The suffix tells the format. Raises ``OutputError`` as ``check_picture`` does.
    """
    path = check_picture(path, overwrite)
    shown = np.asarray(values, dtype=np.float64)
    if shown.shape != (len(rows), len(columns)) or not shown.size:
        raise ValueError(f"values of the shape {shown.shape} are no heat map of {len(rows)} x {len(columns)}")
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name may have letters that the font lacks, which are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        _save(_figure(shown, rows, columns, title, unit, frozenset(marks)), path)


@dataclass(frozen=True)
class Panel:
    """One curve: ``points`` [n] over ``places`` [n], which are on a logarithmic scale, an even ``line`` [n] through them, and
    the place that is marked, if any.
    """

    name: str
    places: Sequence[float]
    points: Sequence[float]
    line: Sequence[float]
    mark: float | None = None


def save_curves(
    path: str | Path, panels: Sequence[Panel], *, title: str, across: str, up: str, overwrite: bool = False
) -> None:
    """Draw curves side by side, and save the picture whole or not at all.

    ``across`` and ``up`` say what the axes count. Raises ``OutputError`` as ``check_picture`` does.
    """
    path = check_picture(path, overwrite)
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        height = _TOP + _SIDE + _GAP
        figure = _titled(len(panels) * (_SIDE + _RIGHT) + _LEFT, height, title)
        for number, panel in enumerate(panels):
            left = _LEFT + number * (_SIDE + _RIGHT)
            width = figure.get_figwidth()
            axes = figure.add_axes((left / width, _GAP / height, _SIDE / width, _SIDE / height))
            axes.set(xscale="log", title=panel.name, xlabel=across, ylabel=up)
            axes.xaxis.set_major_formatter(lambda place, _: f"{place:g}")
            axes.tick_params(axis="x", labelrotation=45)
            axes.plot(panel.places, panel.points, ".", color="0.75", markersize=2)
            axes.plot(panel.places, panel.line, color="tab:blue", linewidth=1)
            if panel.mark is not None:
                axes.axvline(panel.mark, color="tab:red", linewidth=0.8)
                axes.annotate(f" {panel.mark:.2g}", (panel.mark, 1), xycoords=("data", "axes fraction"), va="top")
        _save(figure, path)


def _figure(
    values: npt.NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    unit: str,
    marks: frozenset[tuple[int, int]],
) -> Any:
    starts = range(0, len(columns), FOLD)
    width = max(_NARROWEST, _LEFT + _CELL * min(FOLD, len(columns)) + _RIGHT)
    panel = _CELL * len(rows)
    height = _TOP + len(starts) * (panel + _GAP) + _BOTTOM
    figure = _titled(width, height, title)
    # Colours mean the same in all panels; of nothing but zeros and gaps any range does.
    most = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    for number, start in enumerate(starts):
        stop = min(start + FOLD, len(columns))
        bottom = height - _TOP - (number + 1) * panel - number * _GAP
        place = (_LEFT / width, bottom / height, _CELL * (stop - start) / width, panel / height)
        image = _panel(figure.add_axes(place), values[:, start:stop], most)
        _label(image.axes, rows, columns[start:stop])
        dotted = [(column - start, row) for row, column in sorted(marks) if start <= column < stop]
        if dotted:
            image.axes.scatter(*zip(*dotted, strict=True), s=2, c="black", linewidths=0)
        if not number:
            bar = max(panel, _SHORTEST_BAR)
            beside = (place[0] + place[2] + 0.12 / width, (bottom + panel - bar) / height, 0.12 / width, bar / height)
            _colours(figure, image, beside, unit)
    return figure


def _titled(width: float, height: float, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=min(_DOTS, _TALLEST / height))
    figure.text(_LEFT / width, 1 - 0.2 / height, title, fontsize=8, va="center")
    return figure


def _panel(axes: Any, values: npt.NDArray[np.float64], most: float) -> Any:
    import matplotlib

    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.8")
    axes.set_facecolor("0.8")
    return axes.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")


def _label(axes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.set_xticks(range(len(columns)), labels=columns, rotation=90 if max(map(len, columns)) > 1 else 0)
    axes.tick_params(length=0, pad=2)


def _colours(figure: Any, image: Any, place: tuple[float, float, float, float], unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(image, cax=figure.add_axes(place))
    bar.locator = MaxNLocator(nbins=4)
    bar.set_label(unit)
    bar.ax.tick_params(length=2, width=0.5)


def _save(figure: Any, path: Path) -> None:
    suffix = path.suffix.lower()
    with writing(path), tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", dir=path.parent) as folder:
        draft = Path(folder, f"picture{suffix}")
        figure.savefig(draft, format=suffix[1:], metadata=_UNDATED[suffix], bbox_inches="tight")
        draft.replace(path)
