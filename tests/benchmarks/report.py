"""What was measured, as tables and as JSON.

These machines are shared, and nothing compares but what was taken side by side: a ratio is the median
of those within each round.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.scenarios import Figures, Goal, Scenario
from tests.benchmarks.servers import SERVERS, find_program

#: The figures, with their headings and how they are written.
FIGURES = {
    "rate": ("op/s", ".1f"),
    "MB/s": ("MB/s", ".1f"),
    "p10": ("p10 ms", ".3f"),
    "p50": ("p50 ms", ".3f"),
    "p99": ("p99 ms", ".3f"),
    "cpu": ("CPU ms/op", ".3f"),
    "load": ("SCU ms/op", ".3f"),
    "share": ("SCU %", ".0f"),
    "peak": ("peak MB", ".1f"),
    "held": ("held", ".0f"),
    "rss": ("RSS MB", ".1f"),
    "busy": ("CPU %", ".2f"),
    "kept": ("speed %", ".0f"),
}
LEGEND = """\
Medians of the rounds; of p10, the lowest. CPU: of the server and its children, per operation. SCU: of the
load generator, per operation and in percent of one core. Ratios: dicomnode's op/s in theirs, medians of
those within each round."""

SERIAL = {server.name for server in SERVERS if server.serial}
OURS = SERVERS[0].name
#: What takes as many cores as there are is compared with us in one process, and in two.
SEVERAL = next(server.name for server in SERVERS if server.processes > 1)
ALONE = "generator alone"  #: the load generator, with a peer that discards what it is sent


@dataclass
class Row:
    """A scenario, and what was measured in it."""

    scenario: Scenario
    rounds: dict[str, list[Figures]] = field(default_factory=dict)  #: by server
    remarks: dict[str, str] = field(default_factory=dict)  #: why there are none, by server

    def figure(self, server: str, name: str) -> float | None:
        """Return the median of a figure, or the lowest 10th percentile."""
        values = [figures[name] for figures in self.rounds.get(server, []) if name in figures]
        if not values:
            return None
        return min(values) if name == "p10" else statistics.median(values)

    def ratio(self, other: str, ours: str = OURS) -> float | None:
        """Return the median of the ratios of dicomnode's rate and another's."""
        pairs = zip(self.rounds.get(ours, []), self.rounds.get(other, []), strict=False)
        # Of the large instance, a part may have been sent.
        unit = "MB/s" if "rate" not in self.scenario.figures else "rate"
        ratios = [ours[unit] / theirs[unit] for ours, theirs in pairs if unit in ours and theirs.get(unit)]
        return statistics.median(ratios) if ratios else None

    def table(self) -> str:
        """Return the row as a table."""
        names = self.scenario.figures
        lines = [self.scenario.title]
        lines.append(" " * 18 + "".join(f"{FIGURES[name][0]:>11}" for name in names) + "   dicomnode is")
        for server, rounds in self.rounds.items():
            if not rounds:
                continue
            line = f"  {server:16}"
            for name in names:
                value = self.figure(server, name)
                line += f"{'-' if value is None else format(value, FIGURES[name][1]):>11}"
            ratio = self.ratio(server)
            if server not in (OURS, ALONE) and ratio is not None:
                line += f"{ratio:13.2f} x"
            lines.append(line)
        lines += [f"  {server:16} {remark}" for server, remark in self.remarks.items()]
        return "\n".join(lines)

    def verdicts(self) -> list[dict[str, Any]]:
        """Return what became of the goals: with one process, and where that was measured with several."""
        found = []
        for goal in self.scenario.goals:
            found.append(self._verdict(goal, OURS))
            if goal.than and self.rounds.get(SEVERAL):
                found.append(self._verdict(goal, SEVERAL))
        return found

    def _verdict(self, goal: Goal, ours: str) -> dict[str, Any]:
        measured = self.ratio(goal.than, ours) if goal.than else self.figure(ours, goal.figure)
        what = f"x {goal.than}" if goal.than else FIGURES[goal.figure][0]
        return {
            "scenario": self.scenario.title,
            "server": ours,
            "what": what if ours == OURS else f"x {goal.than}, with {ours}",
            "measured": measured,
            "must": goal.must,
            "met": _met(measured, goal.must, goal.at_most),
            "target": goal.target,
            "target met": _met(measured, goal.target, goal.at_most),
            "at most": goal.at_most,
        }


def _met(measured: float | None, wanted: float | None, at_most: bool) -> bool | None:
    if measured is None or wanted is None:
        return None
    return measured <= wanted if at_most else measured >= wanted


def goals(rows: Sequence[Row]) -> str:
    """Return what became of all goals, as a table."""
    lines = [f"{'goals':46}{'':34}{'measured':>10}{'must':>10}{'':8}{'target':>9}"]
    for verdict in (verdict for row in rows for verdict in row.verdicts()):
        bound = "<=" if verdict["at most"] else ">="
        line = f"{verdict['scenario']:46}{verdict['what']:34}{_number(verdict['measured']):>10}"
        line += f"{bound + ' ' + _number(verdict['must']):>10} {_word(verdict['met']):7}"
        if verdict["target"] is not None:
            line += f"{_number(verdict['target']):>9} {_word(verdict['target met'])}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}" if value >= 100 else f"{value:.2f}"


def _word(met: bool | None) -> str:
    return {None: "-", True: "met", False: "missed"}[met]


def headroom(rows: Sequence[Row]) -> str:
    """Say how much faster the load generator is than what it measures, as a table."""
    lines = [
        "the load generator: its median operation with a peer that discards what it is sent, how many times",
        "that dicomnode and the fastest take, and how many times what it takes of a processor in them",
        f"{'':46}{'alone':>12}{'dicomnode':>12}{'fastest':>10}{'dicomnode':>12}{'fastest':>10}",
    ]
    for row in rows:
        times = {
            server: row.figure(server, "p50") or 0.0
            for server, rounds in row.rounds.items()
            # Where most associations wait for their turn, an operation is short, and the rate no higher.
            if rounds and not (getattr(row.scenario, "associations", 1) > 1 and server in SERIAL)
        }
        if (alone := times.pop(ALONE, 0.0)) and OURS in times:
            best = min(times, key=lambda server: times[server])
            line = f"  {row.scenario.title:44}{alone:9.3f} ms"
            line += "".join(
                f"{times[server] / alone:{width}.1f} x" for server, width in ((OURS, 10), (best, 8))
            )
            for server, width in ((OURS, 10), (best, 8)):
                line += f"{times[server] / (row.figure(server, 'load') or alone):{width}.1f} x"
            lines.append(f"{line}  ({best})")
    return "\n".join(lines)


def environment(directories: Mapping[str, Path]) -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {}
    for package in ("dicomnode", "Twisted", "pydicom", "pynetdicom"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    for name in ("storescp", "Orthanc"):
        if program := find_program(name):
            said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            versions[name] = said.strip().partition("\n")[0].strip("$ ").rpartition("/")[2]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load average": os.getloadavg(),
        "versions": versions,
        "file systems": {name: file_system(path) for name, path in directories.items()},
    }


def file_system(path: Path) -> str:
    """Return the type of the file system that a directory is on."""
    best, found = 0, "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= best:
            best, found = len(mount), kind
    return found


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of it, for ``json.dump``."""
    return {
        **about,
        "scenarios": {
            row.scenario.name: {
                "title": row.scenario.title,
                "goals": [asdict(goal) for goal in row.scenario.goals],
                "verdicts": row.verdicts(),
                "ratios": {server: row.ratio(server) for server in row.rounds if server != OURS},
                "ratios of several processes": {
                    server: row.ratio(server, SEVERAL) for server in row.rounds if row.rounds.get(SEVERAL)
                },
                "medians": {
                    server: {name: row.figure(server, name) for name in FIGURES}
                    for server, rounds in row.rounds.items()
                    if rounds
                },
                "rounds": row.rounds,
                "remarks": row.remarks,
            }
            for row in rows
        },
    }
