"""The least Protocol that passes for a Storage SCP: what Twisted itself costs, and nothing else::

    python -m tests.benchmarks.sink PORT DIRECTORY ANSWER...

It accepts all that the load generator proposes with an answer written beforehand, writes what it
receives to a file, P-DATA-TF PDUs as they are, and answers Success when the last PDV came.
"""

from __future__ import annotations

import itertools
import sys
from typing import BinaryIO

from twisted.internet import protocol, reactor

#: The answers, encoded: A-ASSOCIATE-AC, A-RELEASE-RP, C-ECHO-RSP, C-STORE-RSP.
ACCEPTED, RELEASED, ECHOED, STORED = map(bytes.fromhex, sys.argv[3:])


class Sink(protocol.Protocol):
    """An association which asks no questions."""

    numbers = itertools.count(1)
    directory = "."
    rest = b""
    file: BinaryIO | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        data = self.rest + data
        written = end = 0
        while len(data) >= end + 12 or data[end : end + 1] == b"\5":
            kind, control, after = data[end], data[end + 10 : end + 12], end + 6
            after += int.from_bytes(data[end + 2 : after], "big")
            if after > len(data):
                break
            end = after
            if kind != 4 or control[0] == ECHOED[10]:
                self.transport.write({1: ACCEPTED, 4: ECHOED, 5: RELEASED}[kind])
                written = end
            elif self.file is None:
                self.file = open(f"{self.directory}/{next(self.numbers)}", "wb", buffering=0)  # noqa: SIM115
            elif control[1] == 2:
                self.file.write(data[written:end])
                self.file.close()
                self.file, written = None, end
                self.transport.write(STORED)
        if self.file is not None:
            self.file.write(data[written:end])
        self.rest = data[end:]


def main() -> None:
    Sink.directory = sys.argv[2]
    factory = protocol.ServerFactory()
    factory.protocol = Sink
    reactor.listenTCP(int(sys.argv[1]), factory)
    reactor.run()


if __name__ == "__main__":
    main()
