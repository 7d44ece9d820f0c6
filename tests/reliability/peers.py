"""Stage the same faults on dicomnode, pynetdicom's storescp and DCMTK's, and lay them side by side::

    python -m tests.reliability.peers [--rst] [--json FILE] [--server NAME ...] [FAULT ...]

Each fault starts each server afresh (``servers.py``), does to all of them the same, and says what it
observed (``stores.py``, ``crowds.py``): nothing in the table is known beforehand. dicomnode runs as it is
installed, ``--sync full`` therefore; DCMTK with ``+B +xa``, and ``--fork`` where several associations are
needed at once. Timeouts are 5 s for all where a fault has to be waited for. A disk that is full needs root,
who may mount a small one.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from tests.reliability import crowds, stores
from tests.reliability.servers import available, versions

#: What stages a fault on a server of some kind, and says what it saw.
Fault = Callable[..., str]

FAULTS: dict[str, Fault] = {
    "truncated": stores.truncated,
    "garbage": stores.garbage,
    "mismatch": stores.mismatch,
    "cut": stores.cut,
    "full": stores.full,
    "killed": crowds.killed,
    "twice": stores.twice,
    "one-pdu": stores.one_pdu,
    "mutated": crowds.mutated,
    "enormous": crowds.enormous,
    "inflating": crowds.inflating,
    "stalled": crowds.stalled,
    "silent": crowds.silent,
    "dropped": crowds.dropped,
    "terminated": stores.terminated,
    "synced": stores.synced,
    "gigabyte": stores.gigabyte,
    "exact": stores.exact,
}


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in here after so long, whatever is waited for."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not over in {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def staged(fault: Callable[[], str], limit: int) -> str:
    """Stage one fault on one server; that it could not be staged is an observation, too."""
    try:
        with bounded(limit):
            return fault()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def title(fault: Fault) -> str:
    """Return what a fault is."""
    return (fault.__doc__ or "").partition("\n")[0].rstrip(".")


def aligned(table: dict[str, dict[str, str]], kinds: list[str], width: int = 38) -> str:
    """Lay the table out for a terminal."""
    lines = []
    for cells in (["", *kinds], *([title(FAULTS[name]), *row.values()] for name, row in table.items())):
        wrapped = [textwrap.wrap(cell, width) for cell in cells]
        for number in range(max(map(len, wrapped))):
            parts = (cell[number] if number < len(cell) else "" for cell in wrapped)
            lines.append("  ".join(part.ljust(width) for part in parts).rstrip())
        lines.append("")
    return "\n".join(lines)


def restructured(table: dict[str, dict[str, str]], kinds: list[str]) -> str:
    """Lay the table out for the documentation."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in (["Fault", *kinds], *([title(FAULTS[name]), *row.values()] for name, row in table.items())):
        for number, cell in enumerate(cells):
            wrapped = textwrap.wrap(cell, 105) or [""]
            lines.append(f"   {'-' if number else '*'} - {wrapped[0]}".replace("   - -", "     -"))
            lines += [f"       {more}" for more in wrapped[1:]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("::")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--server", action="append", choices=available(), help="these alone")
    parser.add_argument("--rst", action="store_true", help="print a reStructuredText list-table")
    parser.add_argument("--json", type=Path, help="write all that was observed to this file, too")
    parser.add_argument("--rounds", type=int, default=4, help="of killing (default: 4)")
    parser.add_argument("--streams", type=int, default=500, help="mutated, within 60 s (default: 500)")
    parser.add_argument("--limit", type=int, default=180, help="seconds for one fault on one server")
    arguments = parser.parse_args()
    for name in arguments.faults:
        if name not in FAULTS:
            parser.error(f"no such fault: {name}")
    kinds = arguments.server or available()
    options = {"killed": {"rounds": arguments.rounds}, "mutated": {"streams": arguments.streams}}
    table: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for name in arguments.faults or FAULTS:
        table[name], seconds[name] = {}, {}
        for kind in kinds:
            began = time.monotonic()
            fault = partial(FAULTS[name], kind, **options.get(name, {}))
            table[name][kind] = staged(fault, arguments.limit)
            seconds[name][kind] = round(time.monotonic() - began, 1)
            print(
                f"{name}, {kind}, {seconds[name][kind]} s: {table[name][kind]}", file=sys.stderr, flush=True
            )
    found = versions()
    headings = [f"{kind} {found[kind]}" for kind in kinds]
    print((restructured if arguments.rst else aligned)(table, headings))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"versions": found, "observed": table, "seconds": seconds}, indent=1)
        )


if __name__ == "__main__":
    main()
