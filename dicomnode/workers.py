"""The processes that accept the associations of a node: the part of the process that starts them.

It listens, and accepts nothing; its workers inherit its sockets, each of them a whole reactor
(:mod:`dicomnode.worker`). One that dies is replaced. What a worker has to know comes by its standard
input: a line of JSON at its start, and then orders, a word each. Its end is the end of this process,
however it ended: workers stop, as if they were told to. What a worker writes is passed on in whole lines.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode import events
from dicomnode.ledger import Ledger, Page
from dicomnode.reports import Gathering

#: A worker that has lived for so long was no failure to start, in seconds.
STEADY = 10.0

#: How long to wait before there is another for one that died: the first time, and at most.
DELAY, LONGEST_DELAY = 1.0, 60.0

#: For so long beyond their grace workers that stop are waited for, in seconds: one whose reactor waits for a
#: disk itself does not see that the grace is over.
OVERDUE = 5.0

#: Octets of a worker's that are kept until it is ready, or its line is whole.
KEPT = 1 << 16

#: The descriptors of a worker: orders, two for what it writes, its reports, the ledger, and sockets.
ORDERS, STDOUT, STDERR, REPORTS, LEDGER, SOCKETS = range(6)

#: What a worker reports first.
READY = "ready"


#: The signal upon which a worker ends at once. SIGTERM may come twice, where it is sent to all of a group.
HASTEN = signal.SIGUSR1


@dataclass(frozen=True, slots=True)
class Brief:
    """What a worker is told at its start."""

    #: of the command line; their paths are absolute
    options: Mapping[str, Any]
    #: the module of the reactor
    reactor: str
    #: from where relative paths are
    directory: str
    #: what is in force of the policy file, if there is one
    policy: str | None = None
    #: the worker's number; no two of a node have the same
    worker: int = 0
    #: descriptors to accept from, and the descriptions of endpoints that put anything between
    sockets: tuple[tuple[int, str | None], ...] = ()
    #: of the ledger: how many regions, how many records in each, and which region is the worker's
    ledger: tuple[int, int, int] = (1, 0, 0)
    #: of each socket's endpoint, what is in force of its files, if it says so: their octets, in Latin-1
    contents: tuple[Mapping[str, str] | None, ...] = ()

    @classmethod
    def of(cls, line: bytes) -> Brief:
        """Read what :meth:`encode` wrote."""
        values = json.loads(line)
        values["sockets"] = tuple((descriptor, description) for descriptor, description in values["sockets"])
        values["ledger"] = tuple(values["ledger"])
        values["contents"] = tuple(values["contents"])
        return cls(**values)

    def encode(self) -> bytes:
        """Return it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def page(self) -> Page:
        """Return where the worker writes who holds its slots."""
        regions, records, region = self.ledger
        return Page(Ledger(LEDGER, regions, records), region)


class CannotShare(Exception):
    """An endpoint does not listen on a socket that workers could inherit."""


@implementer(IStreamServerEndpoint)
class Shared:
    """An endpoint on which this process listens, and workers accept.

    :param endpoint: what listens.
    :param description: of it.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, description: str) -> None:
        self.endpoint = endpoint
        self.description = description
        #: of the socket, while this listens
        self.descriptor = -1
        #: something is between the socket and what it accepts, which a worker has to make again
        self.wrapped = False

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening = self.endpoint.listen(protocolFactory)
        if not listening.called:
            listening.addErrback(lambda _: None).cancel()
            return fail(CannotShare(self.description))
        return listening.addCallbacks(self._listening, self._not_listening, (protocolFactory,))

    def _not_listening(self, failure: Failure) -> Failure:
        if failure.check(CannotListenError, OSError):  # type: ignore[no-untyped-call]
            return failure
        raise CannotShare(self.description)  # it has asked for a protocol, say

    def _listening(self, port: Any, factory: IProtocolFactory) -> IListeningPort:
        try:
            port.stopReading()
            self.descriptor = port.fileno()
            with socket.socket(fileno=os.dup(self.descriptor)) as listening:
                if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raise CannotShare(self.description)
        except (AttributeError, OSError):
            raise CannotShare(self.description) from None
        self.wrapped = port.factory is not factory
        found: IListeningPort = port
        return found


class Workers(Factory):
    """As many processes as there are regions in a ledger. To a node, they are what accepts.

    :param reactor: which spawns them.
    :param endpoints: whose sockets they inherit.
    :param brief: returns what each is to know, besides what is ours to tell.
    :param relay: is given the lines that workers write, in octets, a newline behind each.
    :param failed: is called, with why, when one of the first cannot start.
    :param lost: is called when one has died.
    :param gathering: is told what they report of studies, and whoever has ended.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[Shared],
        ledger: Ledger,
        *,
        brief: Callable[[], Brief],
        relay: Callable[[bytes], None],
        failed: Callable[[str], None],
        lost: Callable[[], None] = lambda: None,
        gathering: Gathering | None = None,
        observe: events.Observer = events.ignore,
    ) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._ledger = ledger
        self._brief = brief
        self.relay = relay
        self._failed = failed
        self._lost = lost
        self._gathering = gathering
        self._observe = events.guarded(observe)
        self._command = [sys.executable, "-P", "-m", "dicomnode.worker"]
        self._path = os.pathsep.join(map(os.path.abspath, sys.path))
        self._workers: dict[int, _Worker] = {}  # by region
        self._waiting: dict[int, Any] = {}  # for their turn to start again
        self._failures = [0] * ledger.regions
        self._number = 0
        self._first = 0  # how many there were before those of this start
        #: which services listen for them: one
        self.nodes: set[Any] = set()
        self._has_failed = False
        self._draining: list[Deferred[None]] = []
        self._overdue: IDelayedCall | None = None  # when those that stop are to end at once

    def buildProtocol(self, addr: Any) -> None:
        """Accept no one: that is for workers."""

    def accept(self) -> None:
        """Accept associations, once they are started: again, where they were drained."""
        self._draining = []
        self._overdue = None
        self._first = self._number
        self._failures = [0] * self._ledger.regions

    def start(self) -> None:
        """Start them, as soon as the reactor runs."""
        self._reactor.callWhenRunning(self._start_all)

    def stop(self) -> None:
        """There is nothing left to stop, once they are drained."""

    def order(self, order: str, argument: object = None) -> None:
        """Tell all of them something."""
        for worker in self._workers.values():
            worker.order(order, argument)

    def drain(self, grace: float) -> Deferred[None]:
        """Have all stop, within the grace that they know of; if they stop already, at once.

        :param grace: how long that is, in seconds; those that are left a while after that end at once.

        :return: fires when none is left.
        """
        if self._draining:
            self._hasten()
        else:
            self.order("stop")
            self._overdue = self._reactor.callLater(grace + OVERDUE, self._hasten)
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()
        drained: Deferred[None] = Deferred()
        self._draining.append(drained)
        self._all_ended()
        return drained

    def _hasten(self) -> None:
        for worker in self._workers.values():
            worker.hasten()

    def _all_ended(self) -> None:
        if self._draining and not self._workers:
            if self._overdue is not None and self._overdue.active():
                self._overdue.cancel()
            for drained in self._draining:
                if not drained.called:
                    drained.callback(None)

    def _start_all(self) -> None:
        for region in range(self._ledger.regions):
            if not (self._draining or region in self._workers):
                self._start(region)

    def _start(self, region: int) -> None:
        self._waiting.pop(region, None)
        self._number += 1
        first = self._number - self._first <= self._ledger.regions
        brief = replace(
            self._brief(),
            worker=self._number,
            sockets=tuple(
                (SOCKETS + index, shared.description if shared.wrapped else None)
                for index, shared in enumerate(self._endpoints)
            ),
            ledger=(self._ledger.regions, self._ledger.records, region),
        )
        worker = _Worker(self, brief, first, self._reactor.seconds())
        self._workers[region] = worker
        descriptors: dict[int, int | str] = {ORDERS: "w", STDOUT: "r", STDERR: "r", REPORTS: "r"}
        descriptors[LEDGER] = self._ledger.descriptor
        descriptors |= {SOCKETS + index: shared.descriptor for index, shared in enumerate(self._endpoints)}
        try:
            self._reactor.spawnProcess(
                worker,
                sys.executable,
                [*self._command, str(self._number)],
                env={**os.environ, "PYTHONPATH": self._path},
                childFDs=descriptors,
            )
        except OSError as error:  # no process, or no descriptors, to be had
            self.ended(worker, f"it cannot be started: {error.strerror}")

    def reported(self, worker: _Worker, word: str, value: Any) -> None:
        """A worker has something to say."""
        if word == READY:
            worker.is_ready()
            self._observe(events.WorkerStarted(worker.number, worker.process))
        elif self._gathering is not None:
            self._gathering.report(worker.number, word, value)

    def ended(self, worker: _Worker, why: str) -> None:
        """A worker is no more."""
        if self._gathering is not None:
            self._gathering.gone(worker.number)
        del self._workers[worker.region]
        self._ledger.clear(worker.region)
        if self._draining:
            if why and len(self._draining) == 1:
                self._observe(events.WorkerEnded(worker.number, worker.process, why))
            self._all_ended()
            return
        if worker.first and not worker.ready:
            if not self._has_failed:
                self._has_failed = True
                self._failed(worker.said(why))
            return
        self._lost()
        if self._reactor.seconds() - worker.since >= STEADY:
            self._failures[worker.region] = 0
        failures = self._failures[worker.region]
        self._failures[worker.region] += 1
        delay = min(DELAY * 2 ** min(failures - 1, 16), LONGEST_DELAY) if failures else 0.0
        self._observe(events.WorkerEnded(worker.number, worker.process, why or "exit code 0", delay))
        self._waiting[worker.region] = self._reactor.callLater(delay, self._start, worker.region)


class _Worker(ProcessProtocol):
    """A worker, seen from the process that has started it."""

    transport: Any  # a process's; none while it could not be started

    def __init__(self, workers: Workers, brief: Brief, first: bool, since: float) -> None:
        self._workers = workers
        self._brief = brief
        self.region = brief.ledger[-1]
        self.number = brief.worker
        self.first = first
        self.since = since
        self.process = 0
        self.ready = False
        self._kept = {STDOUT: b"", STDERR: b""}
        self._report = b""  # what has come of the next

    def order(self, order: str, argument: object = None) -> None:
        with suppress(KeyError):  # it has closed its end
            self.transport.writeToChild(ORDERS, f"{order} {json.dumps(argument)}\n".encode())

    def hasten(self) -> None:
        with suppress(ProcessExitedAlready):  # not by an order: it may be waiting for a thread
            self.transport.signalProcess(HASTEN)

    def connectionMade(self) -> None:
        self.process = self.transport.pid
        self.transport.writeToChild(ORDERS, self._brief.encode())

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD != REPORTS:
            self._pass_on(childFD, data)
            return
        *lines, self._report = (self._report + data).split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            self._workers.reported(self, word, json.loads(value))

    def is_ready(self) -> None:
        """It accepts associations, and what it writes is the log's."""
        self.ready = True
        self._pass_on(STDOUT, b"")
        self._pass_on(STDERR, b"")

    def _pass_on(self, descriptor: int, data: bytes) -> None:
        lines, newline, rest = (self._kept[descriptor] + data).rpartition(b"\n")
        if self.ready and lines + newline:
            self._workers.relay(lines + newline)
        else:
            rest = lines + newline + rest
        self._kept[descriptor] = rest[-KEPT:]

    def said(self, why: str) -> str:
        """Return why it could not start: what it said last, or else how it ended."""
        said = (self._kept[STDOUT] + self._kept[STDERR]).decode("utf-8", "backslashreplace").splitlines()
        last = said[-1] if said else ""
        prefix, error, words = last.partition("dicomnode: error: ")
        if error and not prefix:
            return words
        return f"a worker process ended at its start: {why or 'exit code 0'}{': ' if last else ''}{last}"

    def processEnded(self, reason: Failure) -> None:
        if self.ready or not self.first:
            for kept in filter(None, self._kept.values()):
                self._workers.relay(kept if kept.endswith(b"\n") else kept + b"\n")
        status: Any = reason.value
        if getattr(status, "signal", None) is not None:
            why = f"signal {status.signal}"
        else:
            why = f"exit code {status.exitCode}" if status.exitCode else ""
        self._workers.ended(self, why)
