"""What tests of the command as a plugin have in common."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import twisted.internet
from twisted.internet.defer import succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import filestore, uids
from dicomnode.core.association import AssociateConfirmed
from dicomnode.options import Options
from dicomnode.tap import CannotStart, makeService
from dicomnode.testing import Peer
from tests.servicecases import CT, EXPLICIT_VR_LE, IMPLICIT_VR_LE

EXPLICIT_VR_BE = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"


class Unwilling(MemoryReactorClock):
    """A reactor on which no port can be listened on."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def listenTCP(self, *_: Any, **__: Any) -> Any:
        raise self.error

    listenUNIX = listenTCP


#: Options of twistd: what is there of them that matters here.
TWISTD = {"nodaemon": True, "logfile": "twistd.log"}


class TapCase(SynchronousTestCase):
    """Tests of the service that options describe, on a reactor in memory."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.patch(filestore, "TRUST", float("inf"))  # no thread can report to a reactor in memory
        self.install(MemoryReactorClock())
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def install(self, reactor: MemoryReactorClock) -> None:
        self.reactor = reactor
        import_module("twisted.internet.reactor")  # else there is nothing to patch
        self.patch(twisted.internet, "reactor", reactor)

    def options(self, *arguments: str) -> Options:
        """Return the options of a command line of twistd, whose log is a file."""
        options = Options()
        options.parent = TWISTD
        options.parseOptions(["--sync", "none", *arguments, "-od", self.directory, "11112"])
        return options

    def start(self, *arguments: str) -> Any:
        """Start the service of a command line, and return it."""
        service = makeService(self.options(*arguments))
        service.startService()
        self.addCleanup(self.stop, service)
        return service

    def stop(self, service: Any) -> None:
        """Stop a service that still runs, and let its peers hang up."""
        stopping = service.stopService() if service.running else succeed(None)
        for association in list(service._acceptor.associations):
            association.transport.lose()
        self.successResultOf(stopping)

    def peer(self) -> Peer:
        """Return a peer of what listens on the first port."""
        return Peer(self.reactor.tcpServers[0][1])

    def associate(self, *syntaxes: str, called: str = "ANY-SCP", sop_class_uid: str = CT) -> Peer:
        """Return a peer that has asked for an association to store and to echo."""
        peer = self.peer()
        contexts = {sop_class_uid: syntaxes or (EXPLICIT_VR_LE,), uids.VERIFICATION: (IMPLICIT_VR_LE,)}
        peer.associates(contexts, called=called)
        return peer

    def answer(self, peer: Peer) -> Any:
        (confirmed,) = [item for item in peer.indications if isinstance(item, AssociateConfirmed)]
        return confirmed.answer

    def results(self, peer: Peer) -> list[int]:
        """Return what became of each presentation context."""
        return [context.result for context in sorted(self.answer(peer).contexts, key=lambda item: item.id)]

    def assert_cannot_start(self, line: str, make: Any) -> None:
        """Assert that it exits with 1 and one line on stderr."""
        error = self.assertRaises(CannotStart, make)
        self.assertIsInstance(error, SystemExit)
        self.assertEqual(error.code, 1)
        self.assertEqual(self.stderr.getvalue(), f"dicomnode: error: {line}\n")
