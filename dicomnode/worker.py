"""One of the processes that accept the associations of a node: ``python -m dicomnode.worker``.

It is started by :mod:`dicomnode.workers`, and of no use without it: what it is to do comes by its
standard input. SIGTERM stops it alone, within its grace, and another takes its place. SIGINT and SIGHUP,
which a terminal sends to all processes of a group, are left to the one that has started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, TextIO, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

from dicomnode.reports import Reports
from dicomnode.workers import HASTEN, ORDERS, READY, REPORTS, Brief

#: Octets of orders that are read at a time.
SIZE = 1 << 16


class Orders(FileDescriptor):
    """What the process that has started this one has to say.

    :param descriptor: by which it says that.
    :param obey: is told each order with its argument; and, when there is no one any more, to stop.
    """

    def __init__(self, reactor: Any, descriptor: int, obey: Callable[[str, Any], None]) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self._obey = obey
        self._rest = b""

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> Exception | None:
        data = os.read(self._descriptor, SIZE)
        if not data:
            return CONNECTION_DONE
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            order, _, argument = line.decode().partition(" ")
            self._obey(order, json.loads(argument))
        return None

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._obey("stop", None)


def main() -> None:
    """Accept associations until told to stop."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the last until it is handled
        signal.signal(number, signal.SIG_IGN)
    with open(ORDERS, "rb", buffering=0, closefd=False) as orders:
        line = orders.readline()  # octet by octet, so that nothing behind it is taken
    if not line.endswith(b"\n"):
        return  # who started this is gone
    brief = Brief.of(line)
    with suppress(OSError):
        os.chdir(brief.directory)
    install = getattr(import_module(brief.reactor), "install", None)
    if install is not None and "twisted.internet.reactor" not in sys.modules:
        install()

    from twisted.internet import reactor as installed

    from dicomnode.observers import begin_lines
    from dicomnode.signals import end_soon
    from dicomnode.tap import make_worker

    reactor: Any = installed
    begin_lines(brief.options["log-format"], cast(TextIO, sys.__stderr__), brief.worker)
    reports = Reports(reactor, REPORTS)
    service, reread = make_worker(brief, reports)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            reactor.stop()

    def obey(order: str, argument: Any) -> None:
        if order == "reread":
            reread(argument)
        else:
            stop()

    def hasten(*_: object) -> None:
        end_soon(reactor, 1)
        reactor.callFromThread(service.hasten)
        reactor.callFromThread(stop)

    reading = Orders(reactor, ORDERS, obey)

    def ready() -> None:
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(stop))
        signal.signal(HASTEN, hasten)
        reading.startReading()  # type: ignore[no-untyped-call]
        reports.tell(READY)

    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(ready)
    reactor.run()


if __name__ == "__main__":
    main()
