"""Draw what ``growth.py`` has measured::

    python -m tests.benchmarks.plots FILE [DIRECTORY]

One SVG for each sweep: time and memory. It needs matplotlib, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

DIRECTORY = Path(__file__).parents[2] / "docs" / "performance"

#: So that the same figures make the same files, which have text and not outlines of it.
STYLE: Any = {
    "svg.hashsalt": "dicomnode",
    "svg.fonttype": "none",
    "font.size": 9,
    "xtick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}

#: What is drawn on the left, with its label.
TIMES = {"p50": "an operation, median", "cpu": "of it, processor time of the server"}
MEMORY = {"peak": "peak", "idle": "before the first operation"}
COLOURS = ("#1f5fa8", "#d06a1c")


def draw(name: str, sweep: Mapping[str, Any], directory: Path) -> Path:
    """Draw one sweep."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    times, memory = figure.subplots(1, 2)
    # What is unlimited stands at the right, behind the last value.
    points = sorted(sweep["points"], key=lambda point: point["value"] or 1 << 62)
    values = [point["value"] for point in points]
    unlimited = values[-1] == 0
    if unlimited:
        values[-1] = values[-2] * 4

    def label(value: float, _: int | None = None) -> str:
        return "unlimited" if unlimited and value == values[-1] else short(value)

    for axes, unit, lines in ((times, "ms", TIMES), (memory, "MB resident", MEMORY)):
        for (name_of, legend), colour in zip(lines.items(), COLOURS, strict=True):
            line(axes, values, [point["rounds"] for point in points], name_of, legend, colour)
        axes.set_xscale("log", base=2 if "octets" in sweep["axis"] else 10)
        axes.xaxis.set_major_formatter(FuncFormatter(label))
        axes.set_xlabel(sweep["axis"])
        axes.set_ylabel(unit)
        bottom, top = axes.dataLim.intervaly
        if top > 20 * bottom > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.set_ylim(0, top * 1.3)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(sweep["title"])
    path = directory / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def line(
    axes: Axes, values: Sequence[int], rounds: Iterable[Any], name: str, legend: str, colour: str
) -> None:
    """Draw the medians of a figure as a line, and all that was measured as a band."""
    measured = [[figures[name] for figures in each] for each in rounds]
    axes.plot(values, [statistics.median(each) for each in measured], "o-", ms=3, color=colour, label=legend)
    axes.fill_between(values, [*map(min, measured)], [*map(max, measured)], color=colour, alpha=0.15, lw=0)


def short(value: float) -> str:
    """Write a number of octets, or of anything, as short as may be."""
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("M", 10**6), ("k", 10**3)):
        if value >= size and value % size == 0:
            return f"{value / size:g} {unit}"
    return f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("file", type=Path, help="what growth.py --json wrote")
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY, help="where the plots go")
    arguments = parser.parse_args()
    measured = json.loads(arguments.file.read_text())
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, sweep in measured["sweeps"].items():
            print(draw(name, sweep, arguments.directory))


if __name__ == "__main__":
    main()
