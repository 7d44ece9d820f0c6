"""Tests of ``--processes``, as far as the first of them goes: the service that starts the others."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twisted.internet.defer import succeed
from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import classImplements

from dicomnode import assembly, events, tap
from dicomnode.interfaces import IReadable
from dicomnode.limits import Limits, Slots
from dicomnode.lines import SAID
from dicomnode.observers import LogObserver, Relay, begin_lines, lines_for
from dicomnode.policies import PolicyFile
from dicomnode.records import record
from dicomnode.studies import Arrived
from dicomnode.tap import makeService
from dicomnode.workers import REPORTS, Shared
from tests.certificates import Authority
from tests.tapcases import TapCase
from tests.test_executions import Process as Executed
from tests.test_workers import Port, Process, Reactor

POLICY = '[[allow]]\naet = "{}"'


class Listening(Reactor):
    """A reactor on which ports have a socket, and processes are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Any] = []
        self.stopped = 0
        self.executed: list[Executed] = []

    def spawnProcess(self, protocol: Any, executable: Any, arguments: Any, **how: Any) -> Any:
        if executable == sys.executable:
            return super().spawnProcess(protocol, executable, arguments, **how)
        self.executed.append(Executed(protocol, executable, arguments, how["env"]))
        protocol.makeConnection(self.executed[-1])
        return self.executed[-1]

    def listenTCP(self, port: int, factory: Any, *_: Any, **__: Any) -> Any:
        listening = socket.create_server(("127.0.0.1", 0))
        self.ports.append(Port(listening.fileno(), factory))
        self.ports[-1].getHost = lambda: "somewhere"
        self.ports[-1].stopListening = lambda: succeed(listening.close())
        return self.ports[-1]

    def stop(self) -> None:
        self.stopped += 1


class ServiceCase(TapCase):
    """Tests of the first process, whose others are in memory."""

    reactor: Listening

    def setUp(self) -> None:
        super().setUp()
        self.install(Listening())

    def begin(self, *arguments: str, **how: Any) -> Any:
        """Start the service of a command line for two processes, and have those started."""
        self.service = makeService(self.options("--processes", "2", *arguments), **how)
        self.service.privilegedStartService()
        self.service.startService()
        self.reactor.runs()
        self.addCleanup(self.end)
        return self.service

    def end(self) -> None:
        stopping = self.service.stopService()
        for process in list(self.processes):
            if process.protocol.region in self.service._acceptor._workers:
                process.ends()
        self.successResultOf(stopping)
        os.close(self.service._acceptor._ledger.descriptor)

    @property
    def processes(self) -> list[Process]:
        return self.reactor.processes


class ServiceTests(ServiceCase):
    """The first process listens, and has others accept."""

    def test_starts(self) -> None:
        """It listens once, accepts nothing, and tells each what the command line said."""
        self.begin("-v", "--grace", "7")
        (port,) = self.reactor.ports
        self.assertFalse(port.reading)
        self.assertEqual(len(self.processes), 2)
        for process in self.processes:
            brief = process.brief
            self.assertEqual((brief.options["grace"], brief.policy), (7.0, None))
            self.assertEqual(brief.options["output-directory"], os.path.abspath(self.directory))
            self.assertEqual((brief.reactor, brief.directory), (type(self.reactor).__module__, os.getcwd()))
        self.assertEqual(self.stderr.getvalue().count("Listening on"), 1)

    def test_records(self) -> None:
        """Each may hold as many associations as there may be, or as it may have descriptors."""
        infinite = resource.RLIM_INFINITY
        for associations, allowed, expected in (
            (500, (1024, 1024), 500),
            (500, (100, 100), 100),
            (0, (1024, 1024), 1024),
            (0, (infinite, infinite), assembly.MOST),
        ):
            self.patch(resource, "getrlimit", lambda _, allowed=allowed: allowed)
            self.assertEqual(assembly.most_associations(Limits(associations)), expected)

    def test_ignore(self) -> None:
        """Where nothing is stored, there is no directory, and nothing to remove in it."""
        self.begin("--ignore")
        self.assertIsNone(self.processes[0].brief.options["output-directory"])
        self.processes[0].ready()
        self.processes[0].ends(signal=9)
        self.assertFalse(os.path.exists(self.directory))

    def test_dead_parts(self) -> None:
        """What a worker that dies has left of a file goes, and that is told; no directory is no error."""
        self.begin("-v")
        for process in self.processes:
            process.ready()
        with open(os.path.join(self.directory, ".CT.1.2.3.1-1.part"), "w"):
            pass
        self.processes[0].ends(signal=9)
        self.assertEqual(os.listdir(self.directory), [])
        self.assertIn("Removed what a dead process has left", self.stderr.getvalue())
        os.rmdir(self.directory)
        self.processes[1].ends(signal=9)

    def test_cannot_start(self) -> None:
        """Where workers cannot start, it says so, and ends with 1."""
        ended: list[Any] = []
        self.patch(tap, "end_soon", lambda reactor, code: ended.append((reactor, code)))
        self.begin()
        self.processes[0].says(b"dicomnode: error: no such thing\n")
        self.processes[0].ends(1)
        self.assertEqual(self.stderr.getvalue(), "dicomnode: error: no such thing\n")
        self.assertEqual((ended, self.reactor.stopped), ([(self.reactor, 1)], 1))

    def test_cannot_share(self) -> None:
        """A port that has no socket is an error at start."""
        self.patch(self.reactor, "listenTCP", lambda *_, **__: object())
        service = makeService(self.options("--processes", "2"))
        self.addCleanup(os.close, service._acceptor._ledger.descriptor)
        line = (
            "argument PORT: tcp:11112: it has no socket that several processes could accept from; leave out "
            "--processes"
        )
        self.assert_cannot_start(line, service.privilegedStartService)

    def test_signals(self) -> None:
        """The first signal has them all stop, the second at once."""
        service = self.begin()
        for process in self.processes:
            process.ready()
        stopping = service.stopService()
        self.assertEqual([process.orders[1:] for process in self.processes], [[b"stop null\n"]] * 2)
        service._signals.hasten()
        self.assertEqual([process.signals for process in self.processes], [[signal.SIGUSR1]] * 2)
        for process in self.processes:
            process.ends(1)
        self.successResultOf(stopping)

    def test_policy(self) -> None:
        """Upon SIGHUP it reads the policy file, and tells them what is in force, good or as before."""
        path = self.mktemp()
        for text in (POLICY.format("CT1"), POLICY.format("MR1"), "nonsense"):
            with open(path, "w") as file:
                file.write(text)
            if not self.processes:
                service = self.begin("--policy", path)
                self.assertEqual(self.processes[0].brief.policy, POLICY.format("CT1"))
            else:
                service._signals.reread()
                order = self.processes[0].orders[-1]
                self.assertEqual(order, b'reread ["[[allow]]\\naet = \\"MR1\\"", [null]]\n')
        self.assertIn("The policy stays as it was", self.stderr.getvalue())
        self.assertEqual(len(self.processes[0].orders), 2, "what stays as it was need not be said again")

    def test_certificates(self) -> None:
        """Upon SIGHUP it reads certificates, and tells them what is in force, where that has changed."""
        directory = Path(self.mktemp())
        directory.mkdir()
        authority = Authority(directory)
        key, certificate = map(os.path.abspath, authority.issue("node"))
        port = f"dicom-tls:0:privateKey={key}:certKey={certificate}:clientCertificate=none"
        service = self.begin("--policy", self.policy("CT1"), "-p", port)
        before = {path: Path(path).read_text("latin-1") for path in (key, certificate)}
        self.assertEqual(self.processes[0].brief.contents, (None, before))
        service._signals.reread()
        self.assertEqual(len(self.processes[0].orders), 1)
        for path, other in zip((key, certificate), authority.issue("other"), strict=True):
            Path(path).write_bytes(Path(other).read_bytes())
        after = {path: Path(path).read_text("latin-1") for path in (key, certificate)}
        service._signals.reread()
        order, _, argument = self.processes[0].orders[-1].partition(b" ")
        self.assertEqual((order, json.loads(argument)), (b"reread", [POLICY.format("CT1"), [None, after]]))
        self.processes[0].ready()
        self.processes[0].ends(1)
        self.reactor.advance(0)
        self.assertEqual(len(self.processes), 3)
        self.assertEqual(self.processes[-1].brief.contents, (None, after))

    def policy(self, title: str) -> str:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(POLICY.format(title))
        return path

    def test_endpoint_of_others(self) -> None:
        """What can only be read again is so by each, though it be in vain, and whatever it fails with."""

        class Endpoint(Shared):
            path = "others"

            def read(self) -> None:
                raise OSError("no")

        classImplements(Endpoint, IReadable)
        make = tap.endpoint_of
        self.patch(tap, "endpoint_of", lambda *what: Endpoint(make(*what), "tcp:11112"))
        service = self.begin()
        service._signals.reread()
        self.assertEqual(self.processes[0].orders[1:], [b"reread [null, [null]]\n"])
        self.assertIn("The certificates stay as they were: no\n", self.stderr.getvalue())

    def test_again(self) -> None:
        """A service that has stopped and is started again has others: they may fail at first."""
        service = self.begin()
        for process in self.processes:
            process.ready()
        stopping = service.stopService()
        for process in self.processes:
            process.ends()
        self.successResultOf(stopping)
        self.reactor.whenRunningHooks.clear()  # it does not run for the first time
        service.startService()
        self.reactor.runs()
        self.assertEqual([process.brief.worker for process in self.processes], [1, 2, 3, 4])
        third, fourth = self.processes[2:]
        fourth.ready()
        third.ready()
        fourth.ends(signal=9)
        self.assertEqual(len(self.processes), 4)
        self.reactor.advance(0)
        self.assertEqual(len(self.processes), 5)

    def test_one(self) -> None:
        """One process is the node itself."""
        service = self.start("--processes", "1")
        self.assertIs(type(service._acceptor._slots), Slots)

    def test_relay(self) -> None:
        """Their lines go where ours go: to stderr, and to Twisted's log where that is another place."""
        for same in (False, True):
            self.patch(tap, "_is_stderr", lambda _, same=same: same)
            self.logged.clear()
            relay = tap._relay_to(self.options())
            relay(b"I: [1] a\nI: [2] b\xff\n")
            ours = [event["line"] for event in self.logged if event["log_namespace"] == "dicomnode.workers"]
            self.assertEqual(ours, [] if same else ["I: [1] a", "I: [2] b\\xff"])
        self.assertEqual(self.stderr.getvalue(), "I: [1] a\nI: [2] b\\xff\n" * 2)
        options = self.options()
        options.parent = None
        tap._relay_to(options)(b"I: [1] c\n")
        self.assertEqual(self.logged[-1]["line"], "I: [1] c")
        self.assertNotIn("c", self.stderr.getvalue().replace("dicomnode", ""))

    def test_own_relay(self) -> None:
        """Who runs the service may have them go elsewhere."""
        stream = io.StringIO()
        self.begin("-v", relay=Relay(stream))
        self.processes[0].says(b"I: a\n")
        self.processes[0].ready()
        self.assertEqual(stream.getvalue(), "I: a\n")


class StudyTests(ServiceCase):
    """Upon the end of a study the first process executes a command, whichever has received of it."""

    @property
    def executed(self) -> list[Executed]:
        return self.reactor.executed

    def kept(self, process: Process, path: str, calling: str = "CT1") -> None:
        arrived = Arrived("1.2", calling, "HERE", "192.0.2.1", 100, self.reactor.seconds(), path)
        process.says(f"begun [7, {json.dumps('1.2')}]\n".encode(), REPORTS)
        process.says(f"kept [7, {json.dumps(asdict(arrived))}]\n".encode(), REPORTS)

    def commands(self) -> list[Any]:
        return [
            (*one.arguments[2:], one.environment[b"DICOMNODE_INSTANCES"].decode()) for one in self.executed
        ]

    def end(self) -> None:
        for one in self.executed:
            if not one.gone:
                one.ends()
        super().end()

    def test_executed(self) -> None:
        """One command, when nothing has come for so long to any of them, though one of them has died."""
        self.begin("-xcs", "sh -c #p #a", "-tos", "10", "-xcr", "sh #f", "--exec-processes", "9")
        one, other = self.processes
        for process in (one, other):
            process.ready()
        self.kept(one, "/a/1/x")
        self.reactor.advance(6)
        self.kept(other, "/a/2/y", "MR1")
        other.says(b'begun [8, "1.2"]\n', REPORTS)
        self.reactor.advance(10)
        other.ends(signal=9)
        self.assertEqual(self.executed, [])
        self.reactor.advance(10)
        self.assertEqual(self.commands(), [("/a", "MR1", "2")])
        self.assertEqual(self.service._behind._executions._most, 3)

    def test_stop(self) -> None:
        """What comes while they stop is counted: studies end when all of them have ended."""
        service = self.begin("-xcs", "sh -c #p #a")
        one, other = self.processes
        for process in (one, other):
            process.ready()
        self.kept(one, "/a/x")
        stopping = service.stopService()
        one.ends()
        self.kept(other, "/a/y")
        self.assertEqual(self.executed, [])
        other.ends()
        self.assertEqual(self.commands(), [("/a", "CT1", "2")])
        self.assertEqual(self.executed[0].environment[b"DICOMNODE_BECAUSE"], b"stopped")
        self.assertNoResult(stopping)
        self.executed[0].ends()
        self.successResultOf(stopping)

    def test_without(self) -> None:
        """Where no command is executed for studies, nothing is gathered."""
        self.begin("-xcr", "sh #f")
        self.assertIsNone(self.service._acceptor._gathering)
        self.processes[0].ready()
        self.kept(self.processes[0], "/a/x")
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class WordTests(SynchronousTestCase):
    """What is said of workers, and by them."""

    def said(self, event: Any) -> list[str]:
        return [line for _, words in SAID[type(event)].words for line in words(event)]

    def test_lines(self) -> None:
        """That one has started, or ended, is a line."""
        started = events.WorkerStarted(3, 1234)
        self.assertEqual(self.said(started), ["Worker 3 accepts associations (process 1234)"])
        for delay, more in ((None, ""), (0.0, "; another takes its place at once"), (2.5, None)):
            line = "Worker 3 (process 1234) has ended: signal 9"
            line += "; another takes its place in 2.5 s" if more is None else more
            self.assertEqual(self.said(events.WorkerEnded(3, 1234, "signal 9", delay)), [line])

    def test_records(self) -> None:
        """It is a record, too."""
        started = record(events.WorkerStarted(3, 1234))
        self.assertEqual(started, {"event": "WorkerStarted", "worker": 3, "process": 1234})
        ended = record(events.WorkerEnded(3, 1234, "signal 9", 1.0))
        values = {"worker": 3, "process": 1234, "why": "signal 9", "delay": 1.0}
        self.assertEqual(ended, {"event": "WorkerEnded", **values})

    def test_whose(self) -> None:
        """Lines of workers say which it is, in text and in JSON."""
        for log_format, expected in (("text", "I: [3] Listening on x\n"), ("json", '"worker": 3, "event": ')):
            for worker in (3, None):
                stream = io.StringIO()
                lines = lines_for(log_format, stream, worker)
                LogObserver("info", log=Logger("dicomnode", observer=lines))(
                    events.Listening("x")  # type: ignore[arg-type]
                )
                self.assertEqual(expected in stream.getvalue(), worker == 3, stream.getvalue())

    def test_others(self) -> None:
        """What Twisted has to say is of a worker, too, and said when something is wrong."""
        stream, publisher = io.StringIO(), LogPublisher()
        beginner = sys.modules["dicomnode.observers"].globalLogBeginner  # type: ignore[attr-defined]
        self.patch(
            beginner,
            "beginLoggingTo",
            lambda observers, redirectStandardIO: [publisher.addObserver(item) for item in observers],
        )
        begin_lines("text", stream, 3)
        for log in (Logger("other", observer=publisher), Logger("dicomnode", observer=publisher)):
            log.info("nothing")
            log.error("wrong")
        self.assertEqual(stream.getvalue(), "E: [3] wrong\nI: [3] nothing\nE: [3] wrong\n")

    def test_relay_to_nowhere(self) -> None:
        """What goes nowhere is no error."""
        Relay(None)(b"x\n")


class SharedTests(SynchronousTestCase):
    """What is shared is the same everywhere."""

    def test_policy_text(self) -> None:
        """A policy whose text is known needs no file; a bad text changes nothing."""
        policy = PolicyFile("/no/such", POLICY.format("CT1"))
        self.assertEqual(len(policy), 1)
        self.assertRaises(ValueError, policy.use, "nonsense")
        self.assertEqual((len(policy), policy.text), (1, POLICY.format("CT1")))

    def test_holders_gone(self) -> None:
        """Where those who hold the slots are gone by the time they are counted, none is named."""
        self.assertEqual(Slots._most([]), "others")
