"""Tests for :mod:`dicomnode.worker`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import socket
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import twisted.internet
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogPublisher, formatEvent, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import classImplements

from dicomnode import signals, tap, worker, workers
from dicomnode.core.association import Aborted
from dicomnode.core.pdu import AssociateRJ
from dicomnode.interfaces import IReadable
from dicomnode.ledger import Ledger
from dicomnode.options import Options
from dicomnode.reports import Reports
from dicomnode.tap import CannotStart, make_worker
from dicomnode.testing import Peer
from dicomnode.worker import Orders, main
from dicomnode.workers import HASTEN, Brief
from tests.certificates import Authority
from tests.servicecases import CT, EXPLICIT_VR_LE, data_set
from tests.test_hooks import in_study

POLICY = '[[allow]]\naet = "{}"'


class Running(MemoryReactorClock):
    """A reactor in memory that runs what it is given, and stops when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Any = lambda: None
        self.hasRun = False  # Twisted 24.7 has it that it has
        self.stopped = 0

    def run(self) -> None:
        self.hasRun = True
        for hook, arguments, keywords in self.whenRunningHooks:
            hook(*arguments, **keywords)
        self.meanwhile()

    def stop(self) -> None:
        self.stopped += 1
        for callback, arguments, keywords in self.triggers["before"]["shutdown"]:
            callback(*arguments, **keywords)

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


class WorkerCase(SynchronousTestCase):
    """Tests of a worker, without its process."""

    def setUp(self) -> None:
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.reactor = Running()
        import_module("twisted.internet.reactor")  # else there is nothing to patch
        self.patch(twisted.internet, "reactor", self.reactor)
        publisher = LogPublisher()
        self.patch(globalLogPublisher, "_observers", publisher._observers)
        self.patch(
            globalLogBeginner,
            "beginLoggingTo",
            lambda observers, redirectStandardIO: [publisher.addObserver(item) for item in observers],
        )
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.ledger = Ledger.make(2, 4)
        self.addCleanup(os.close, self.ledger.descriptor)
        self.patch(workers, "LEDGER", self.ledger.descriptor)
        self.reported, self.reporting = os.pipe()
        for descriptor in (self.reported, self.reporting):
            self.addCleanup(os.close, descriptor)

    def brief(self, policy: str | None = None, description: str | None = None, **options: Any) -> Brief:
        """Return what a worker is told, whose one socket is bound to an address of its own."""
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        defaults = Options()
        defaults.parseOptions(["11112"])
        chosen = {**defaults, "output-directory": self.directory, "sync": "none", "log-level": "info"}
        chosen |= {"processes": 2, **options}
        if policy is not None:
            chosen["policy"] = "/the/policy"
        sockets = ((bound.detach(), description),)
        return Brief(chosen, "twisted.internet.reactor", "/no/such", policy, 3, sockets, (2, 4, 1))

    @property
    def port(self) -> Any:
        (port,) = [reader for reader in self.reactor.getReaders() if not isinstance(reader, Orders)]
        return port

    def peer(self, calling: str = "CT1") -> Peer:
        """Return a peer that has asked for an association."""
        peer = Peer(self.port._factory)
        peer.associates({CT: [EXPLICIT_VR_LE]}, calling=calling)
        return peer

    def refused(self, peer: Peer) -> bool:
        return isinstance(getattr(peer.indications[0], "answer", None), AssociateRJ)


class ServiceTests(WorkerCase):
    """The service of a worker is that of a node, with what it shares."""

    def make(self, brief: Brief) -> Any:
        service, self.reread = make_worker(brief, Reports(self.reactor, self.reporting))
        service.startService()
        self.addCleanup(lambda: service.running and service.stopService())
        return service

    def test_shares(self) -> None:
        """What it holds is in the ledger, and its turn is when it has no more connections than others."""
        self.make(self.brief(**{"max-associations": 1}))
        port = self.port
        self.assertTrue(port._ours())
        peer = self.peer()
        self.assertFalse(self.refused(peer))
        self.assertTrue(self.refused(self.peer()))
        self.assertEqual((self.ledger.held(), self.ledger.fewest()), (1, 2))
        self.ledger.write(0, 0, 1)  # another listens, and has no one
        self.assertFalse(port._ours())
        peer.transport.lose()
        self.assertEqual(self.ledger.held(), 0)

    def test_stopped(self) -> None:
        """When it stops, nothing is left to it any more."""
        service = self.make(self.brief())
        self.ledger.write(0, 0, 1)
        self.ledger.write(0, 8, 5)
        self.assertEqual(self.ledger.fewest(), 0)
        service.stopService()
        self.assertEqual(self.ledger.fewest(), 5)

    def test_half_open(self) -> None:
        """Of connections without an association, it has its share, and one at least."""
        for limit, dropped in ((4, [True, False, False]), (1, [True, True, False]), (0, [False] * 3)):
            self.setUp()
            self.make(self.brief(**{"max-half-open": limit}))
            peers = [Peer(self.port._factory) for _ in range(3)]
            self.assertEqual([peer.transport.aborted for peer in peers], dropped)

    def test_policy(self) -> None:
        """The policy is what it is told, then and later; it reads no file."""
        self.make(self.brief(POLICY.format("CT1")))
        self.assertEqual([self.refused(self.peer(title)) for title in ("CT1", "MR1")], [False, True])
        self.reread([POLICY.format("MR1"), [None]])
        self.assertEqual([self.refused(self.peer(title)) for title in ("CT1", "MR1")], [True, False])

    def test_certificates(self) -> None:
        """What endpoints have to read again is read; and what is wrong with it is said."""
        read = []

        class Endpoint:
            path = "node.pem"

            def listen(self, factory: Factory) -> Any:
                raise AssertionError

            def read(self) -> None:
                read.append(1)
                raise ValueError("bad")

        classImplements(Endpoint, IReadable)
        self.patch(tap, "inherited", lambda *_: Endpoint())
        _, reread = make_worker(self.brief(), Reports(self.reactor, self.reporting))
        said: list[Any] = []
        globalLogPublisher.addObserver(said.append)
        reread([None, [None]])
        self.assertEqual(read, [1])
        self.assertIn("The certificates stay as they were: bad", [formatEvent(event) for event in said])

    def test_shared_certificates(self) -> None:
        """Certificates are what it is told, then and later, whatever is in the files by then."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        authority = Authority(directory)
        first, second = (authority.issue(name) for name in ("first", "second"))
        contents = [{path: Path(path).read_text("latin-1") for path in pair} for pair in (first, second)]
        contents[1] = dict(zip(contents[0], contents[1].values(), strict=True))  # of the same files
        for path in first:
            Path(path).unlink()
        description = f"dicom-tls:11112:privateKey={first[0]}:certKey={first[1]}:clientCertificate=none"
        self.assertRaises(CannotStart, make_worker, self.brief(description=description), None)
        brief = replace(self.brief(description=description), contents=(contents[0],))
        made: list[Any] = []
        inherited = tap.inherited
        self.patch(tap, "inherited", lambda *what: made.append(inherited(*what)) or made[-1])
        self.make(brief)
        for now, found in ((contents[1], contents[1]), (dict.fromkeys(first, ""), contents[1])):
            self.reread([None, [now]])
            self.assertEqual({path: text.decode() for path, text in made[0].contents.items()}, found)

    def test_cannot_start(self) -> None:
        """An endpoint that cannot be made again says why."""
        self.assertRaises(CannotStart, make_worker, self.brief(description="nonsense:x"), None)
        self.assertRegex(self.stderr.getvalue(), r"^dicomnode: error: [^\n]*nonsense[^\n]*\n$")


class MainTests(WorkerCase):
    """A worker does as it is told."""

    def setUp(self) -> None:
        super().setUp()
        self.handlers: dict[int, Any] = {}
        self.patch(signal, "signal", self.handlers.__setitem__)
        self.patch(signals, "end_soon", lambda reactor, code: self.ended.append(code))
        self.ended: list[int] = []
        reading, self.orders = os.pipe()
        for name, descriptor in (("ORDERS", reading), ("REPORTS", self.reporting)):
            self.patch(worker, name, descriptor)
        self.addCleanup(os.close, reading)
        self.addCleanup(lambda: self.orders < 0 or os.close(self.orders))

    def runs(self, meanwhile: Any, **options: Any) -> None:
        os.write(self.orders, self.brief(**options).encode())
        self.reactor.meanwhile = meanwhile
        main()

    def obeys(self, orders: bytes = b"") -> None:
        """Tell it something; or, that there is no one to tell it anything."""
        if orders:
            os.write(self.orders, orders)
        else:
            os.close(self.orders)
            self.orders = -1
        for reader in self.reactor.getReaders():
            if isinstance(reader, Orders):
                self.assertEqual(reader.fileno(), worker.ORDERS)
                gone = reader.doRead()
                if gone is not None:
                    reader.connectionLost(Failure(gone))

    def test_accepts(self) -> None:
        """It says that it is ready, accepts and stores, and its lines say whose they are."""

        def meanwhile() -> None:
            self.assertEqual(os.read(self.reported, 99), b"ready null\n")
            peer = self.peer()
            peer.stores("1.2.3", data_set())
            self.assertEqual(peer.response.status, 0)
            peer.transport.lose()
            self.obeys(b"stop null\n")
            self.assertEqual(self.reactor.stopped, 1)

        self.runs(meanwhile)
        self.assertEqual(os.listdir(self.directory), ["CT.1.2.3"])
        lines = self.stderr.getvalue().splitlines()
        self.assertIn("I: [3] Accepting Association", lines)
        self.assertEqual([line for line in lines if "[3] " not in line or "Listening" in line], [])
        self.assertEqual(self.handlers[signal.SIGINT], signal.SIG_IGN)
        self.assertEqual(self.handlers[signal.SIGHUP], signal.SIG_IGN)

    def test_studies(self) -> None:
        """What it receives of a study it tells before it answers; it executes nothing itself."""

        def meanwhile() -> None:
            os.read(self.reported, 99)
            peer = self.peer()
            peer.stores("1.2.3", in_study("1.2"))
            self.assertEqual(peer.response.status, 0)
            begun, kept = os.read(self.reported, 4096).decode().splitlines()
            number, study = json.loads(begun.removeprefix("begun "))
            self.assertEqual(study, "1.2")
            again, arrived = json.loads(kept.removeprefix("kept "))
            self.assertEqual((again, arrived["study_instance_uid"]), (number, "1.2"))
            self.assertEqual(arrived["path"], os.path.join(self.directory, "CT.1.2.3"))
            peer.transport.lose()
            self.obeys(b"stop null\n")
            self.assertEqual(self.reactor.getWriters(), [])

        self.runs(meanwhile, **{"exec-on-eostudy": "sh #p"})

    def test_stops_once(self) -> None:
        """However often it is to stop, and by whom, it stops once."""

        def meanwhile() -> None:
            self.handlers[signal.SIGTERM](signal.SIGTERM, None)
            self.obeys(b"stop null\nstop null\n")
            self.obeys()
            self.handlers[signal.SIGTERM](signal.SIGTERM, None)
            self.assertEqual((self.reactor.stopped, self.ended), (1, []))

        self.runs(meanwhile)

    def test_orphan(self) -> None:
        """When the process that has started it is no more, it stops."""

        def meanwhile() -> None:
            self.obeys()
            self.assertEqual(self.reactor.stopped, 1)

        self.runs(meanwhile)

    def test_orphan_from_the_start(self) -> None:
        """When that was before it knew what to do, it does nothing."""
        os.write(self.orders, b"{")
        os.close(self.orders)
        self.orders = -1
        main()
        self.assertFalse(self.reactor.hasRun)

    def test_hastened(self) -> None:
        """A signal has it end at once: what is in flight is aborted."""

        def meanwhile() -> None:
            peer = self.peer()
            self.handlers[HASTEN](HASTEN, None)
            self.assertEqual((self.reactor.stopped, self.ended), (1, [1]))
            self.reactor.advance(0)
            peer.exchange()
            self.assertIsInstance(peer.indications[-1], Aborted)
            peer.transport.lose()

        self.runs(meanwhile)

    def test_rereads(self) -> None:
        """It is told the policy that is in force from now on, also in pieces."""

        def meanwhile() -> None:
            order = b"reread [\"[[allow]]\\naet = 'MR1'\", [null]]\n"
            self.obeys(order[:9])
            self.assertTrue(self.refused(self.peer("MR1")))
            self.obeys(order[9:])
            self.assertFalse(self.refused(self.peer("MR1")))

        self.runs(meanwhile, policy=POLICY.format("CT1"))

    def test_reactor(self) -> None:
        """Its reactor is of the kind of the process that has started it."""
        installed: list[str] = []
        module: Any = type(sys)("a_reactor")
        module.install = lambda: installed.append("it")
        self.patch(worker, "import_module", lambda name: module)
        saved = sys.modules.pop("twisted.internet.reactor")
        self.addCleanup(sys.modules.__setitem__, "twisted.internet.reactor", saved)
        self.runs(lambda: None)
        self.assertEqual(installed, ["it"])

    def test_as_a_module(self) -> None:
        """It is run by its name as a module."""
        os.close(self.orders)
        self.orders = -1
        self.patch(workers, "ORDERS", worker.ORDERS)
        with mock.patch.dict(sys.modules):
            del sys.modules["dicomnode.worker"]
            runpy.run_module("dicomnode.worker", run_name="__main__")
        self.assertFalse(self.reactor.hasRun)
