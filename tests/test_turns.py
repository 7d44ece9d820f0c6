"""Tests for :mod:`dicomnode.turns`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import socket
import sys
from types import ModuleType
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import turns
from dicomnode.turns import PATIENCE, PAUSE, SHORTAGE, Adopting, Inherited, Turns, inherited


class Socket:
    """A socket that listens, on which so many wait to be accepted."""

    def __init__(self, family: int = socket.AF_INET, name: Any = ("192.0.2.1", 104)) -> None:
        self.family = family
        self.name = name
        self.waiting = 0
        self.error = 0
        self.closed = False

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def getsockname(self) -> Any:
        return self.name

    def fileno(self) -> int:
        return 77

    def close(self) -> None:
        self.closed = True

    def accept(self) -> Any:
        if self.error:
            raise OSError(self.error, "no")
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody")
        self.waiting -= 1
        return socket.socket(), None


class TurnsCase(SynchronousTestCase):
    """Tests of a port whose turn it is, or not."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.socket = Socket()
        self.ours = True
        self.factory = Factory()
        self.patch(turns, "poll", lambda: self)
        self.port = self.listen(self.socket)

    # as a poll object
    def register(self, polled: Socket, what: int) -> None:
        self.assertIs(polled, self.socket)

    def poll(self, seconds: int) -> bool:
        return bool(self.socket.waiting)

    def listen(self, listening: Any) -> Turns:
        port = Turns(self.reactor, listening, self.factory, lambda: self.ours)
        port.startListening()
        return port

    def comes(self, number: int = 1) -> None:
        """Let someone connect, and the reactor look once, if it does."""
        self.socket.waiting += number
        self.looks()

    def looks(self) -> None:
        if self.port in self.reactor.getReaders():
            self.port.doRead()

    def passes(self, seconds: float) -> None:
        self.reactor.advance(seconds)
        self.looks()

    @property
    def accepted(self) -> int:
        return len(self.reactor.adoptedStreamConnections)


class TurnsTests(TurnsCase):
    """Who has no more connections than the others accepts."""

    def test_port(self) -> None:
        """It is a port, which tells where it listens."""
        verifyObject(IListeningPort, self.port)
        self.assertEqual(self.port.fileno(), 77)
        for family, name, address in (
            (socket.AF_INET, ("192.0.2.1", 104), IPv4Address("TCP", "192.0.2.1", 104)),
            (socket.AF_INET6, ("::1", 104, 0, 0), IPv6Address("TCP", "::1", 104)),
            (socket.AF_UNIX, "/run/x", UNIXAddress(b"/run/x")),
        ):
            self.assertEqual(self.listen(Socket(family, name)).getHost(), address)

    def test_ours(self) -> None:
        """When it is our turn, one connection is accepted at a time."""
        self.comes(2)
        self.assertEqual((self.accepted, self.socket.waiting), (1, 1))
        self.looks()
        self.assertEqual((self.accepted, self.socket.waiting), (2, 0))
        ((_, family, factory), _) = self.reactor.adoptedStreamConnections
        self.assertEqual((family, factory), (socket.AF_INET, self.factory))

    def test_taken_by_another(self) -> None:
        """What someone else has accepted before us is no error."""
        self.looks()
        self.assertEqual(self.accepted, 0)
        self.assertIn(self.port, self.reactor.getReaders())

    def test_left(self) -> None:
        """What is left to another for a moment is accepted when it is our turn by then."""
        self.ours = False
        self.comes()
        self.assertEqual((self.accepted, self.reactor.getReaders()), (0, []))
        self.ours = True
        self.passes(PAUSE)
        self.assertEqual(self.accepted, 1)

    def test_patience(self) -> None:
        """What nobody takes is ours in the end."""
        self.ours = False
        self.comes()
        for _ in range(9):
            self.passes(PAUSE)
            self.assertEqual(self.accepted, 0)
        self.passes(PATIENCE)
        self.assertEqual(self.accepted, 1)

    def test_each_is_left(self) -> None:
        """When someone has taken it, the next is left to them for as long."""
        self.ours = False
        for _ in range(20):
            self.comes()
            self.socket.waiting = 0
            self.passes(PAUSE)
        self.assertEqual(self.accepted, 0)

    def test_shortage(self) -> None:
        """Where there are no descriptors, it waits for some; other errors are its peer's."""
        self.socket.error = errno.EMFILE
        self.comes()
        self.assertEqual(self.reactor.getReaders(), [])
        self.socket.error = errno.ECONNABORTED
        self.passes(SHORTAGE)
        self.assertEqual((self.accepted, self.reactor.getReaders()), (0, [self.port]))
        self.socket.error = 0
        self.looks()
        self.assertEqual(self.accepted, 1)

    def test_gone(self) -> None:
        """Who has gone away before it could be adopted is nobody's concern."""

        def adopt(*_: object) -> None:
            raise OSError(errno.ENOTCONN, "gone")

        self.patch(self.reactor, "adoptStreamConnection", adopt)
        self.comes()
        self.assertEqual(self.socket.waiting, 0)

    def test_bug(self) -> None:
        """What fails for one connection is logged, and the port goes on: it is every one's."""

        def adopt(*_: object) -> None:
            raise ZeroDivisionError

        adopting = self.patch(self.reactor, "adoptStreamConnection", adopt)
        self.comes(2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        adopting.restore()
        self.looks()
        self.assertEqual((self.accepted, self.socket.waiting), (1, 0))

    def test_bug_before(self) -> None:
        """So it does where it cannot tell whose turn it is: later, for nothing may have changed by then."""

        def ours() -> bool:
            raise ZeroDivisionError

        self.patch(self.port, "_ours", ours)
        self.comes()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.reactor.getReaders(), [])
        self.patch(self.port, "_ours", lambda: True)
        self.passes(SHORTAGE)
        self.assertEqual(self.accepted, 1)

    def test_stopped(self) -> None:
        """When it stops, it closes its socket, also while it waits; twice is no error."""
        for ours in (True, False):
            self.socket, self.ours = Socket(), ours
            self.port = self.listen(self.socket)
            self.comes()
            for _ in range(2):
                self.successResultOf(self.port.stopListening())
            self.assertTrue(self.socket.closed)
            self.assertEqual(self.factory.numPorts, 1)  # that of setUp
            self.assertNotIn(self.port, self.reactor.getReaders())
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class EndpointTests(SynchronousTestCase):
    """What listens already is an endpoint, also below another."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.factory = Factory()

    def descriptor(self) -> int:
        """Return the descriptor of a socket that is bound to an address of its own."""
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        self.address = IPv4Address("TCP", *bound.getsockname())
        return bound.detach()

    def assert_listens(self, port: Any, factory: Any = None) -> None:
        self.assertEqual(port.getHost(), self.address)
        self.assertIn(port, self.reactor.getReaders())
        self.assertIs(port._factory, factory or self.factory)
        self.successResultOf(port.stopListening())

    def test_inherited(self) -> None:
        """It listens there."""
        endpoint = inherited(self.reactor, self.descriptor(), None, bool)
        verifyObject(IStreamServerEndpoint, endpoint)
        self.assertIsInstance(endpoint, Inherited)
        self.assert_listens(self.successResultOf(endpoint.listen(self.factory)))

    def test_description(self) -> None:
        """An endpoint of any kind listens there, instead of where it says."""
        endpoint = inherited(self.reactor, self.descriptor(), "haproxy:tcp:104", bool)
        port: Any = self.successResultOf(endpoint.listen(self.factory))
        self.assertIs(port._factory.wrappedFactory, self.factory)
        self.assert_listens(port, port._factory)

    def test_reactor(self) -> None:
        """Whatever an endpoint asks of the reactor to listen leads there; the rest is the reactor's."""
        adopting = Adopting(self.reactor, self.descriptor(), bool)
        self.assert_listens(adopting.listenTCP(104, self.factory, backlog=5, interface=""))
        adopting = Adopting(self.reactor, self.descriptor(), bool)
        self.assert_listens(adopting.listenUNIX("/run/x", self.factory, 5, mode=0o600))
        self.assertEqual(adopting.seconds(), self.reactor.seconds())

    def test_tls(self) -> None:
        """TLS is put between, where it should be."""
        made = []

        def wrapping(*arguments: object) -> Factory:
            made.append(arguments)
            return wrapper

        wrapper = Factory()
        module: Any = ModuleType("twisted.protocols.tls")
        module.TLSMemoryBIOFactory = wrapping
        self.patch_module("twisted.protocols.tls", module)
        adopting = Adopting(self.reactor, self.descriptor(), bool)
        self.assert_listens(adopting.listenSSL(2762, self.factory, "context", backlog=5), wrapper)
        self.assertEqual(made, [("context", False, self.factory)])

    def patch_module(self, name: str, module: Any) -> None:
        before = sys.modules.get(name)

        def restore() -> None:
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before

        sys.modules[name] = module
        self.addCleanup(restore)
