"""Tests for :mod:`dicomnode.workers`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError, ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.ledger import Ledger, Page
from dicomnode.testing import Recorder
from dicomnode.workers import (
    DELAY,
    HASTEN,
    KEPT,
    LEDGER,
    LONGEST_DELAY,
    ORDERS,
    OVERDUE,
    REPORTS,
    SOCKETS,
    STDERR,
    STDOUT,
    STEADY,
    Brief,
    CannotShare,
    Shared,
    Workers,
)


class Process:
    """A process that was spawned."""

    def __init__(self, protocol: Any, arguments: list[str], env: dict[str, str], childFDs: Any) -> None:
        self.protocol = protocol
        self.arguments = arguments
        self.env = env
        self.descriptors = childFDs
        self.pid = 1000 + int(arguments[-1])
        self.orders: list[bytes] = []
        self.signals: list[Any] = []
        self.deaf = False
        protocol.makeConnection(self)

    @property
    def brief(self) -> Brief:
        return Brief.of(self.orders[0])

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        assert descriptor == ORDERS
        if self.deaf:
            raise KeyError(descriptor)
        self.orders.append(data)

    def signalProcess(self, number: Any) -> None:
        if self.deaf:
            raise ProcessExitedAlready
        self.signals.append(number)

    def says(self, octets: bytes, descriptor: int = STDERR) -> None:
        self.protocol.childDataReceived(descriptor, octets)

    def ready(self) -> None:
        self.protocol.childDataReceived(REPORTS, b"ready null\n")

    def ends(self, code: int = 0, signal: int | None = None) -> None:
        why = ProcessTerminated(code, signal) if code or signal else ProcessDone(0)
        self.protocol.processEnded(Failure(why))


class Reactor(MemoryReactorClock):
    """A reactor that spawns processes in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.error: OSError | None = None

    def spawnProcess(self, protocol: Any, executable: str, arguments: list[str], **how: Any) -> Process:
        assert executable == sys.executable
        if self.error is not None:
            raise self.error
        self.processes.append(Process(protocol, arguments, **how))
        return self.processes[-1]

    def runs(self) -> None:
        for hook, *_ in self.whenRunningHooks:
            hook()


class Port:
    """A port on a socket, or on none."""

    def __init__(self, descriptor: int, factory: Any) -> None:
        self.descriptor = descriptor
        self.factory = factory
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def fileno(self) -> int:
        return self.descriptor


class Endpoint:
    """An endpoint that listens with a result."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def listen(self, factory: Any) -> Any:
        return self.make(factory)


class WorkersCase(SynchronousTestCase):
    """Tests of workers whose processes are in memory."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.seen = Recorder()
        self.relayed: list[bytes] = []
        self.failed: list[str] = []
        self.lost = 0
        self.policy = "one"
        self.ledger = Ledger.make(2, 3)
        self.addCleanup(os.close, self.ledger.descriptor)
        self.shared = [Shared(Endpoint(None), "tcp:104"), Shared(Endpoint(None), "haproxy:tcp:105")]
        for descriptor, shared in zip((77, 78), self.shared, strict=True):
            shared.descriptor = descriptor
        self.shared[1].wrapped = True
        self.workers = Workers(
            self.reactor,
            self.shared,
            self.ledger,
            brief=lambda: Brief({"grace": 5.0}, "a.reactor", "/here", policy=self.policy),
            relay=self.relayed.append,
            failed=self.failed.append,
            lost=self.has_lost,
            observe=self.seen,
        )
        self.addCleanup(lambda: self.assertEqual(self.reactor.getDelayedCalls(), []))

    def has_lost(self) -> None:
        self.lost += 1

    def start(self, ready: bool = True) -> list[Process]:
        self.workers.start()
        self.assertEqual(self.reactor.processes, [])
        self.reactor.runs()
        if ready:
            for process in self.reactor.processes:
                process.ready()
        return self.reactor.processes

    def drain(self) -> Deferred[None]:
        """Have all end that there are, in the end."""
        return self.workers.drain(5.0)


class StartTests(WorkersCase):
    """There are as many as there are to be."""

    def test_start(self) -> None:
        """Each is told what it needs to know, and inherits what it needs to have."""
        self.assertIsNone(self.workers.buildProtocol(None))
        processes = self.start()
        self.assertEqual(len(processes), 2)
        for number, process in enumerate(processes):
            self.assertEqual(process.arguments[1:], ["-P", "-m", "dicomnode.worker", f"{number + 1}"])
            paths = process.env["PYTHONPATH"].split(os.pathsep)
            self.assertEqual(paths, [os.path.abspath(path) for path in sys.path])
            self.assertEqual(
                process.descriptors,
                {
                    ORDERS: "w",
                    STDOUT: "r",
                    STDERR: "r",
                    REPORTS: "r",
                    LEDGER: self.ledger.descriptor,
                    SOCKETS: 77,
                    SOCKETS + 1: 78,
                },
            )
            brief = Brief(
                {"grace": 5.0},
                "a.reactor",
                "/here",
                "one",
                number + 1,
                ((SOCKETS, None), (SOCKETS + 1, "haproxy:tcp:105")),
                (2, 3, number),
            )
            self.assertEqual(process.brief, brief)
        started = [events.WorkerStarted(1, 1001), events.WorkerStarted(2, 1002)]
        self.assertEqual(self.seen.events, started)

    def test_page(self) -> None:
        """The brief leads to the region of the ledger that is the worker's."""
        self.patch(sys.modules["dicomnode.workers"], "LEDGER", self.ledger.descriptor)
        page = Brief({}, "", "", ledger=(2, 3, 1)).page()
        page.hold(("192.0.2.1", "CT1"))
        self.assertEqual(self.ledger.read(1, 16), 1)

    def test_cannot_start(self) -> None:
        """When one of the first ends before it is ready, that is a failure, and the only one; it says why."""
        for says, code, why in (
            (b"Traceback\ndicomnode: error: no such thing\n", 1, "no such thing"),
            (
                b"Traceback\nImportError: x\n",
                1,
                "a worker process ended at its start: exit code 1: ImportError: x",
            ),
            (b"", 0, "a worker process ended at its start: exit code 0"),
        ):
            self.setUp()
            one, other = self.start(ready=False)
            one.says(says)
            one.ends(code)
            other.says(b"dicomnode: error: so it is with me\n")
            other.ends(1)
            self.assertEqual((self.failed, self.relayed, self.seen.events), ([why], [], []))

    def test_cannot_be_spawned(self) -> None:
        """So it is when there is no process to be had."""
        self.reactor.error = OSError(11, "Resource temporarily unavailable")
        self.start()
        why = "a worker process ended at its start: it cannot be started: Resource temporarily unavailable"
        self.assertEqual(self.failed, [why])

    def test_stopped_before_it_starts(self) -> None:
        """Where it is stopped before the reactor runs, none is started."""
        self.workers.start()
        self.successResultOf(self.drain())
        self.reactor.runs()
        self.assertEqual(self.reactor.processes, [])
        self.workers.stop()


class LineTests(WorkersCase):
    """What they write is passed on, in whole lines."""

    def test_lines(self) -> None:
        """What is no whole line yet waits for its end, or that of its process."""
        one, other = self.start()
        one.says(b"I: a\nI: b")
        other.says(b"I: x\n")
        one.says(b"c\n", STDOUT)
        one.says(b"d\n")
        self.assertEqual(self.relayed, [b"I: a\n", b"I: x\n", b"c\n", b"I: bd\n"])
        other.says(b"cut")
        self.drain()
        other.ends()
        one.ends()
        self.assertEqual(self.relayed[4:], [b"cut\n"])

    def test_before_ready(self) -> None:
        """What is said at start is passed on when the worker is ready."""
        one, _ = self.start(ready=False)
        one.says(b"I: a\n")
        self.assertEqual(self.relayed, [])
        one.ready()
        self.assertEqual(self.relayed, [b"I: a\n"])

    def test_bounded(self) -> None:
        """Of what never ends, the end is kept."""
        one, other = self.start()
        one.says(b"x" * KEPT)
        one.says(b"y\n")
        self.assertEqual(len(self.relayed[0]), KEPT + 2)
        one.says(b"z" * (KEPT + 1))
        self.drain()
        one.ends()
        self.assertEqual(len(self.relayed[1]), KEPT + 1)
        other.ends()


class Heard:
    """Remembers what is reported, in place of what gathers it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def report(self, *what: Any) -> None:
        self.heard.append(what)

    def gone(self, worker: int) -> None:
        self.heard.append(worker)


class ReportTests(WorkersCase):
    """What they report is passed on, with who it was; and that they are no more."""

    def test_reports(self) -> None:
        """A report is a line, and may come in pieces; with the last, a worker is gone."""
        heard = self.workers._gathering = Heard()  # type: ignore[assignment]
        one, other = self.start()
        one.says(b'begun [7, "1.2"]\nkept [7,', REPORTS)
        other.says(b"given-up 7\n", REPORTS)
        one.says(b" {}]\n", REPORTS)
        self.assertEqual(heard.heard, [(1, "begun", [7, "1.2"]), (2, "given-up", 7), (1, "kept", [7, {}])])
        one.ends(signal=9)
        self.drain()
        other.ends()
        self.assertEqual(heard.heard[3:], [1, 2])
        self.assertEqual(self.relayed, [])

    def test_nobody_gathers(self) -> None:
        """Where nobody asks for it, it is passed over."""
        one, other = self.start()
        one.says(b"given-up 7\n", REPORTS)
        self.drain()
        for process in (one, other):
            process.ends()


class DeathTests(WorkersCase):
    """Another takes the place of one that dies."""

    def test_restarted(self) -> None:
        """It has another number, the same region, in which there is no one; and knows what is in force."""
        one, _ = self.start()
        Page(self.ledger, 0).hold(("192.0.2.1", "CT1"))
        self.policy = "another"
        one.ends(signal=9)
        self.assertEqual((self.ledger.held(), self.lost), (0, 1))
        self.assertEqual(self.seen.events[2:], [events.WorkerEnded(1, 1001, "signal 9", 0.0)])
        self.reactor.advance(0)
        brief = self.reactor.processes[2].brief
        self.assertEqual((brief.worker, brief.ledger[2], brief.policy), (3, 0, "another"))

    def test_again_and_again(self) -> None:
        """One that dies at once is waited for, longer each time; not so, when it has lived for a while."""
        self.start()
        delays = []
        for _ in range(10):
            process = self.reactor.processes[-1]
            process.says(b"E: cannot\n")
            process.ends(3)
            ended = self.seen.of(events.WorkerEnded)[-1]
            self.assertEqual(ended.why, "exit code 3")
            delays.append(ended.delay)
            self.reactor.advance(ended.delay or 0)
        self.assertEqual(delays[:4], [0.0, DELAY, 2 * DELAY, 4 * DELAY])
        self.assertEqual(delays[-1], LONGEST_DELAY)
        self.assertEqual(self.relayed, [b"E: cannot\n"] * 10)
        self.reactor.processes[-1].ready()
        self.reactor.advance(STEADY)
        self.reactor.processes[-1].ends()
        self.assertEqual(self.seen.of(events.WorkerEnded)[-1].why, "exit code 0")
        self.assertEqual(self.seen.of(events.WorkerEnded)[-1].delay, 0.0)
        self.reactor.advance(0)
        self.assertEqual(self.failed, [])

    def test_not_while_it_stops(self) -> None:
        """When they stop, none is started any more."""
        one, other = self.start()
        one.ends(signal=9)
        drained = self.drain()
        self.assertNoResult(drained)
        other.ends()
        self.successResultOf(drained)
        self.assertEqual(len(self.reactor.processes), 2)


class StopTests(WorkersCase):
    """They are told things, and stop together."""

    def test_drained(self) -> None:
        """Each is told to stop, and it is over when the last has ended; what went wrong is said."""
        one, other = self.start()
        drained = self.drain()
        self.assertEqual([process.orders[1:] for process in (one, other)], [[b"stop null\n"]] * 2)
        one.ends()
        self.assertNoResult(drained)
        other.ends(2)
        self.successResultOf(drained)
        self.assertEqual(self.seen.events[2:], [events.WorkerEnded(2, 1002, "exit code 2")])

    def test_hastened(self) -> None:
        """The second time they are to end at once, each by a signal; how they do is not said."""
        one, other = self.start()
        drained = self.drain()
        other.deaf = True
        hastened = self.workers.drain(0)
        self.assertEqual((one.signals, one.orders[1:]), ([HASTEN], [b"stop null\n"]))
        for process in (one, other):
            process.ends(1)
        self.successResultOf(drained)
        self.successResultOf(hastened)
        self.assertEqual(len(self.seen.events), 2)
        self.successResultOf(self.drain())

    def test_overdue(self) -> None:
        """One that is still there when the grace is long over is to end at once."""
        one, other = self.start()
        drained = self.drain()
        other.ends()
        self.reactor.advance(5 + OVERDUE - 0.1)
        self.assertEqual(one.signals, [])
        self.reactor.advance(0.1)
        self.assertEqual((one.signals, other.signals), ([HASTEN], []))
        one.ends(1)
        self.successResultOf(drained)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_order(self) -> None:
        """All are told; one that does not listen any more is no reason to fail."""
        one, other = self.start()
        other.deaf = True
        self.workers.order("reread", "a\nb")
        self.assertEqual(one.orders[1:], [b'reread "a\\nb"\n'])


class SharedTests(SynchronousTestCase):
    """An endpoint listens for workers."""

    def setUp(self) -> None:
        self.factory = Factory()

    def shared(self, make: Any) -> Shared:
        return Shared(Endpoint(make), "kind:x")

    def test_listens(self) -> None:
        """It listens, accepts nothing, and knows its socket, and whether anything is in front of it."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        for factory in (None, Factory()):
            ports: list[Port] = []

            def make(given: Any, factory: Any = factory, ports: list[Port] = ports) -> Any:
                ports.append(Port(listening.fileno(), factory or given))
                return succeed(ports[0])

            shared = self.shared(make)
            verifyObject(IStreamServerEndpoint, shared)
            self.assertIs(self.successResultOf(shared.listen(self.factory)), ports[0])
            self.assertFalse(ports[0].reading)
            self.assertEqual(shared.descriptor, listening.fileno())
            self.assertEqual(shared.wrapped, factory is not None)

    def test_cannot_listen(self) -> None:
        """Why it cannot listen is passed on."""
        for error in (CannotListenError("", 104, OSError(98, "in use")), OSError(13, "denied")):
            listening = self.shared(lambda _, error=error: fail(error)).listen(self.factory)
            self.assertIs(self.failureResultOf(listening).value, error)

    def test_cannot_share(self) -> None:
        """What has no socket of its own that listens, or not yet, cannot be shared."""
        connected, other = socket.socketpair()
        self.addCleanup(connected.close)
        self.addCleanup(other.close)
        for make in (
            lambda factory: succeed(object()),
            lambda factory: succeed(Port(connected.fileno(), factory)),
            lambda factory: succeed(Port(-1, factory)),
            lambda factory: Deferred(),
            lambda factory: fail(AttributeError("makeConnection")),
        ):
            failure = self.failureResultOf(self.shared(make).listen(self.factory), CannotShare)
            self.assertEqual(str(failure.value), "kind:x")
