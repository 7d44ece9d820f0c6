"""Compare ``dicomnode storescp`` with its peers, side by side::

    python -m tests.benchmarks.storescp [--quick] [--rounds 3] [--json FILE] [--calibrate] [SCENARIO ...]

Each round starts every server afresh in turn, another one first each time, drives it with processes that
encoded and associated beforehand (``workers.py``), and checks that every instance is on disk and exact.
What is printed are medians, and medians of the ratios taken within a round: these machines are shared, and
nothing else compares. dicomnode runs with ``--sync none``, for its peers sync nothing; beside that with
``--sync full``, on a real disk, and with ``--processes 2`` where there are several associations. DCMTK and
Orthanc run with ``TCP_NODELAY=1``: as shipped DCMTK answers 22 operations a second, whatever their size.
Files are emptied as soon as they have been checked, and deleted at the end of the run; the next one, on the
same file system, had better be six minutes later (``servers.running`` says why).

``--calibrate`` measures the load generator, too, with a peer that throws away what it is sent: it is
to be at least three times as fast as what it measures.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.files import Inexact
from tests.benchmarks.load import Refused
from tests.benchmarks.scenarios import QUICK, SCENARIOS, Load, Scale, Scenario
from tests.benchmarks.servers import SERVERS, Server, discarding, keeping, missing, running
from tests.benchmarks.workers import Failed


def measure(
    scenario: Scenario, servers: Sequence[Server], rounds: int, scale: Scale, places: dict[str, Path]
) -> report.Row:
    """Measure all servers in one scenario, in turn, again and again."""
    row = report.Row(scenario)
    for server in servers:
        remark = missing(server) or scenario.omits(server)
        if remark:
            row.remarks[server.name] = remark
        else:
            row.rounds[server.name] = []
    for number in range(rounds):
        # Who follows one that has freed gigabytes pays for it: the host of a virtual machine takes back what
        # is free, and gives it again page by page, 11 us each, where that otherwise takes 3.
        first = number * len(servers) // rounds
        for server in (*servers[first:], *servers[:first]):
            if server.name in row.remarks:
                continue
            parent = places["sync" if server.syncs else "none"]
            try:
                with running(server, parent) as started:
                    row.rounds[server.name].append(scenario.run(started, scale))
            except (Failed, Refused, Inexact, OSError) as error:
                row.remarks[server.name] = f"{error or type(error).__name__}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=", ".join(row.name for row in SCENARIOS)
    )
    parser.add_argument("--rounds", type=int, help="how often each server is started (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round, and a quarter of the operations")
    parser.add_argument(
        "--server", action="append", help="measure dicomnode and this one only; may be given again"
    )
    parser.add_argument("--calibrate", action="store_true", help="measure the load generator, too")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    parser.add_argument("--directory", type=Path, help="where the servers keep their files")
    parser.add_argument(
        "--disk", type=Path, help="where --sync full does: a real disk (default: --directory)"
    )
    arguments = parser.parse_args()
    names = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := {*arguments.scenarios} - {*names}:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if unknown := {*(arguments.server or ())} - {server.name for server in SERVERS}:
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    # Idle associations are descriptors, here and in the servers, which inherit the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    rounds = arguments.rounds or (1 if arguments.quick else 3)
    scale = QUICK if arguments.quick else Scale()
    directory = arguments.directory or Path(tempfile.gettempdir())
    with keeping(directory) as none, keeping(arguments.disk or directory) as sync:
        compare(arguments, rounds, scale, {"none": none, "sync": sync})


def compare(arguments: argparse.Namespace, rounds: int, scale: Scale, places: dict[str, Path]) -> None:
    """Measure what is asked for, and print it."""
    names = {scenario.name: scenario for scenario in SCENARIOS}
    about = {"rounds": rounds, "quick": arguments.quick, **report.environment(places)}
    wanted = {SERVERS[0].name, *arguments.server} if arguments.server else None
    servers = [server for server in SERVERS if wanted is None or server.name in wanted]
    print(json.dumps(about))
    if about["file systems"]["sync"] == "tmpfs":
        print("--sync full is on tmpfs, where syncing costs nothing: give --disk", file=sys.stderr)
    print(report.LEGEND)
    began = time.monotonic()
    rows = []
    for scenario in [names[name] for name in arguments.scenarios] or SCENARIOS:
        alone = []
        if arguments.calibrate and isinstance(scenario, Load):
            alone = [discarding(scenario.message(scale))]
        rows.append(measure(scenario, [*servers, *alone], rounds, scale, places))
        print(f"\n{rows[-1].table()}", flush=True)
    print(f"\n{report.goals(rows)}")
    if arguments.calibrate:
        print(f"\n{report.headroom(rows)}")
    about["seconds"] = time.monotonic() - began
    print(f"\n{about['seconds'] / 60:.1f} minutes")
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(rows, about), indent=1))


if __name__ == "__main__":
    main()
