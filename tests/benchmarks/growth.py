"""How the cost of ``dicomnode storescp`` grows::

    python -m tests.benchmarks.growth [--quick] [--rounds 3] [--json FILE] [SWEEP ...]
    python -m tests.benchmarks.plots FILE [DIRECTORY]

Time and memory against the size of an instance, the number of associations, of instances on one
association, of files in the directory, of presentation contexts, the maximum length of a PDU, and the
number of processes. For each value the server is started afresh (``--sync none``), driven as
``storescp.py`` drives it, and what it stored is checked, and kept to the end of the run. For all sweeps
that takes some 5 GB, and 4 million inodes. The second command draws what the first has written, as often
as one likes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks import files, report
from tests.benchmarks.messages import uid
from tests.benchmarks.scenarios import GIB, KIB, MIB, Figures, figures_of
from tests.benchmarks.servers import SERVERS, Running, Server, keeping, running
from tests.benchmarks.workers import Plan, working

DICOMNODE = SERVERS[0]


@dataclass(frozen=True)
class Sweep:
    """Something that grows."""

    name: str
    title: str
    axis: str
    values: tuple[int, ...]
    quick: int  #: the greatest value that ``--quick`` measures
    point: Callable[[int, Path], Figures]


def _with(*options: str) -> Server:
    """Return what is measured, with these options."""
    return replace(DICOMNODE, command=lambda port, path: [*DICOMNODE.command(port, path), *options])


def _drive(server: Server, parent: Path, *plans: Plan) -> Figures:
    """Start a server, carry out some plans, and check what is in its directory."""
    with running(server, parent) as started:
        figures = _carry_out(started, *plans)
        expected = {number: what for plan in plans for number, what in plan.instances().items()}
        files.check(started.directory, expected)
    return figures


def _carry_out(server: Running, *plans: Plan) -> Figures:
    idle = server.resident()
    with working(server.port, plans) as workers:
        before = server.cpu()
        workers.go()
        outcomes = workers.outcomes()
        figures = figures_of(plans, outcomes, server.cpu() - before)
        figures |= {"idle": idle, "rss": server.resident(), "peak": server.peak()}
        workers.release()
    return figures


def size(octets: int, parent: Path) -> Figures:
    """Instances of a size, one after the other: 256 MiB of them, but 1,000 at most."""
    return _drive(DICOMNODE, parent, Plan(max(min(256 * MIB // octets, 1000), 1), octets))


def associations(number: int, parent: Path) -> Figures:
    """Instances of 64 KiB over so many associations, all held; four SCUs use theirs in turn."""
    scus = min(number, 4)
    # No fewer than one on each, and 2,000 in all.
    shares = [number // scus + (scu < number % scus) for scu in range(scus)]
    plans: list[Plan] = []
    for share in shares:
        count = max(share, 2000 // scus)
        plans.append(
            Plan(count, 64 * KIB, first=1 + len(plans) * 10_000, turn=37 * len(plans), associations=share)
        )
    return _drive(DICOMNODE, parent, *plans)


def instances(number: int, parent: Path) -> Figures:
    """Instances of 4 KiB on one association. Each is another: to replace one would be to delete a file."""
    return _drive(DICOMNODE, parent, Plan(number, 4 * KIB))


def contexts(number: int, parent: Path) -> Figures:
    """Associate and release, with so many presentation contexts, all accepted."""
    return _drive(DICOMNODE, parent, Plan(300, each=True, silent=True, contexts=number))


def pdu(octets: int, parent: Path) -> Figures:
    """Instances of 1 MiB, in PDUs of a length, which is the server's maximum, too. 0: all in one PDU."""
    server = _with("-pdu", str(octets))
    return _drive(server, parent, Plan(256, MIB, fragment=octets - 6 if octets else 2 * MIB))


def processes(number: int, parent: Path) -> Figures:
    """Instances of 512 KiB over four associations, to so many processes."""
    return _shared(number, parent, 300, 512 * KIB)


def small(number: int, parent: Path) -> Figures:
    """Instances of 4 KiB over four associations, to so many processes."""
    return _shared(number, parent, 2000, 4 * KIB)


def _shared(number: int, parent: Path, count: int, octets: int) -> Figures:
    server = replace(_with("--processes", str(number)), processes=number)
    return _drive(server, parent, *(Plan(count, octets, first=1 + scu * count, turn=scu) for scu in range(4)))


def crowd(number: int, parent: Path) -> Figures:
    """Instances of 4 KiB into a directory that has so many files already."""
    directory = Path(tempfile.mkdtemp(prefix="crowd-", dir=parent))
    for present in range(number):
        os.mknod(directory / f"CT.1.2.826.0.1.3680043.10.1.4.{present:08d}")
    plan = Plan(1000, 4 * KIB)
    server = replace(DICOMNODE, command=lambda port, _: DICOMNODE.command(port, directory))
    began = time.perf_counter()
    with running(server, parent) as started:
        seconds = time.perf_counter() - began
        figures = _carry_out(started, plan)
    figures["start"] = seconds
    for one, (octets, turn) in plan.instances().items():
        if not files.exact(directory / f"CT.{uid(one)}", one, octets, turn):
            raise files.Inexact(f"instance {one} is not what was sent")
    return figures


SWEEPS = (
    Sweep(
        "size", "Size of an instance", "octets", tuple(4 * KIB << 2 * i for i in range(11)), 256 * MIB, size
    ),
    Sweep(
        "associations",
        "Associations, 64 KiB on one after the other",
        "associations",
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
        200,
        associations,
    ),
    Sweep(
        "instances",
        "Instances of 4 KiB on one association",
        "instances",
        tuple(10**i for i in range(6)),
        1000,
        instances,
    ),
    Sweep(
        "files",
        "Files in the directory",
        "files",
        (1, 10, 100, 1000, 10_000, 100_000, 1_000_000),
        10_000,
        crowd,
    ),
    Sweep(
        "contexts",
        "Presentation contexts of an association without operations",
        "presentation contexts",
        tuple(1 << i for i in range(8)),
        128,
        contexts,
    ),
    Sweep(
        "pdu",
        "Maximum length of a PDU, 1 MiB instances",
        "octets",
        (*(4 * KIB << i for i in range(9)), 0),
        GIB,
        pdu,
    ),
    Sweep("processes", "Processes, 512 KiB over four associations", "processes", (1, 2, 4), 2, processes),
    Sweep("small", "Processes, 4 KiB over four associations", "processes", (1, 2, 4), 2, small),
)

_SHOWN = ("rate", "MB/s", "p10", "p50", "cpu", "load", "rss", "peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=", ".join(sweep.name for sweep in SWEEPS))
    parser.add_argument("--rounds", type=int, help="how often each value is measured (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round, without the greatest values")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    parser.add_argument("--directory", type=Path, help="where the server keeps its files")
    arguments = parser.parse_args()
    if unknown := {*arguments.sweeps} - {sweep.name for sweep in SWEEPS}:
        parser.error(f"no such sweep: {', '.join(sorted(unknown))}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with keeping(arguments.directory or Path(tempfile.gettempdir())) as parent:
        measure(arguments, parent)


def measure(arguments: argparse.Namespace, parent: Path) -> None:
    """Measure what is asked for, and print it."""
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    about = {"rounds": rounds, "quick": arguments.quick, **report.environment({"none": parent})}
    print(json.dumps(about))
    found = {}
    for sweep in SWEEPS:
        if arguments.sweeps and sweep.name not in arguments.sweeps:
            continue
        values = [value for value in sweep.values if not arguments.quick or value <= sweep.quick]
        points: dict[int, list[Figures]] = {value: [] for value in values}
        print(f"\n{sweep.title}\n{'':14}" + "".join(f"{report.FIGURES[name][0]:>11}" for name in _SHOWN))
        for _ in range(rounds):
            for value in values:
                points[value].append(figures := sweep.point(value, parent))
                cells = (format(figures[name], report.FIGURES[name][1]) for name in _SHOWN)
                print(f"  {value:12}" + "".join(f"{cell:>11}" for cell in cells), flush=True)
        found[sweep.name] = {
            "title": sweep.title,
            "axis": sweep.axis,
            "about": sweep.point.__doc__,
            "points": [{"value": value, "rounds": rounds} for value, rounds in points.items()],
        }
        if arguments.json:
            arguments.json.write_text(json.dumps({**about, "sweeps": found}, indent=1))


if __name__ == "__main__":
    main()
