"""Feed an acceptor mutated sessions, and see that nothing of it stays, and nothing is unexpected::

    python -m tests.reliability.mutants [--streams 100000] [--seed N]

Everything is in memory, files excepted: no sockets, and a clock that is told. Of each stream it is
asserted that no exception left the protocol, no event is Unexpected, no control character is in a line
of the log, and no timer, association or part file is left once the peer has gone; of all together, that
memory and descriptors are what they were.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import sys
import tempfile
import threading
import time
from typing import Any, cast

from twisted.logger import LogEvent, Logger, formatEvent, globalLogPublisher

from dicomnode import Acceptor, FileStorage, Storage, Verification, events
from dicomnode.commits import Sync
from dicomnode.observers import LogObserver
from dicomnode.testing import Pool, Reactor, Transport
from tests.reliability.sessions import SESSIONS

INTERESTING = (0, 1, 2, 3, 4, 5, 7, 8, 0x10, 0x7F, 0x80, 0xFE, 0xFF)


def mutate(session: list[bytes], random: random.Random) -> bytes:
    """Return a session's octets, changed in a few places, now and then in the order of its PDUs."""
    pdus = list(session)
    for _ in range(random.choice((0, 0, 1, 2))):
        index = random.randrange(len(pdus))
        what = random.randrange(4)
        if what == 0:
            pdus.insert(index, random.choice(random.choice(SESSIONS)))
        elif what == 1:
            del pdus[index : index + 1]
        elif what == 2:
            other = random.randrange(len(pdus))
            pdus[index], pdus[other] = pdus[other], pdus[index]
        else:
            pdus.append(pdus[index])
        if not pdus:
            break
    octets = bytearray(b"".join(pdus))
    for _ in range(random.choice((0, 1, 1, 2, 5, 20))):
        if not octets:
            break
        position = random.randrange(len(octets))
        what = random.randrange(5)
        if what == 0:
            octets[position] = random.choice(INTERESTING)
        elif what == 1:
            octets[position] ^= 1 << random.randrange(8)
        elif what == 2:
            octets[position : position + 4] = random.choice((0, 1, 0xFFFFFFFF, 1 << 31, 65536)).to_bytes(
                4, "big"
            )
        elif what == 3:
            del octets[position : position + random.choice((1, 2, 8, 1000))]
        else:
            octets[position:position] = random.randbytes(random.choice((1, 2, 8, 100)))
    return bytes(octets[: random.choice((None, None, None, random.randrange(len(octets) + 1)))])


class Run:
    """An acceptor and what it has been through."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.reactor = Reactor()
        self.pool = Pool()
        self.unexpected: list[events.Event] = []
        self.lines = LogObserver("debug", log=Logger("dicomnode", observer=self.line))
        self.seen: dict[str, int] = {}
        files = FileStorage(
            directory, reactor=self.reactor, pool=cast(Any, self.pool), sync=Sync.NONE, observe=self.observe
        )
        self.acceptor = Acceptor(self.reactor, [Verification(), Storage(files)], observe=self.observe)

    def observe(self, event: events.Event) -> None:
        kind = type(event).__name__
        self.seen[kind] = self.seen.get(kind, 0) + 1
        self.lines(event)
        if isinstance(event, events.Unexpected):
            self.unexpected.append(event)
            event.failure.printTraceback()

    def line(self, event: LogEvent) -> None:
        text = formatEvent(event)
        assert text.isprintable(), text

    def stream(self, data: bytes, size: int | None) -> None:
        """One peer comes, says ``data`` and goes."""
        protocol = self.acceptor.buildProtocol(None)
        assert protocol is not None
        transport = Transport(protocol)
        transport.connect()
        transport.deliver(data, size)
        self.pool.run()  # now and then the disk has not been heard of for a second
        self.reactor.advance(0.1)
        transport.lose()
        self.pool.run()
        left = [call for call in self.reactor.getDelayedCalls() if call.active()]
        assert not left, left
        assert not self.acceptor.associations
        parts = [name for name in os.listdir(self.directory) if name.endswith(".part")]
        assert not parts, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    random_ = random.Random(arguments.seed)
    logged: list[object] = []
    globalLogPublisher.addObserver(lambda event: event.get("log_failure") and logged.append(event))
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as directory:
        run = Run(directory)
        warm = before = 0
        for number in range(arguments.streams):
            data = mutate(random_.choice(SESSIONS), random_)
            size = random_.choice((None, None, 1, 7, 100, 65536))
            try:
                run.stream(data, size)
                assert not run.unexpected
                assert not logged, logged
            except Exception:
                print(
                    f"seed {arguments.seed}, stream {number}, reads of {size}: {data.hex()}", file=sys.stderr
                )
                raise
            if number == min(2000, arguments.streams // 2):
                gc.collect()
                warm = _resident()
                before = len(os.listdir("/proc/self/fd"))
        gc.collect()
        grown = _resident() - warm
        descriptors = len(os.listdir("/proc/self/fd")) - before
        print(f"{arguments.streams} streams, seed {arguments.seed}: nothing unexpected, nothing left")
        print(f"resident {grown / 1024:+.1f} MiB, descriptors {descriptors:+d}", end=", ")
        print(f"threads {threading.active_count()}")
        print(", ".join(f"{kind} {count}" for kind, count in sorted(run.seen.items())))
        assert grown < 16 << 10, f"{grown} KiB more"
        assert not descriptors


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


if __name__ == "__main__":
    main()
