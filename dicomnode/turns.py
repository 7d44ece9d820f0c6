"""Several processes accept from one socket: each when it has no more connections than the others.

A socket that is inherited wakes them all. Who comes first gets the connection, which is by far not each
in turn: of 32 connections in a burst, one of two processes had 31. To listen on one port with a socket
each (SO_REUSEPORT) spreads by a hash of the addresses, which is as good as throwing dice: of four
long-lived associations, one of two processes had all in one throw of four; what waits in the socket of
a process that dies is lost; and UNIX sockets have no such thing. So the socket is inherited, one
connection is accepted at a time, and whoever has more than another leaves it to that one for a moment.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from select import POLLIN, poll
from typing import Any, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

#: How long a connection is left to those who have fewer, before we look again, in seconds.
PAUSE = 0.002

#: For how long: then it is ours, for the others may be waiting for a disk.
PATIENCE = 0.02

#: How long to wait for descriptors, where there are none left for a connection.
SHORTAGE = 0.1

_log = Logger()


@implementer(IListeningPort)
class Turns(FileDescriptor):
    """A port on a socket which other processes accept from, too.

    :param reactor: one that adopts sockets.
    :param listening: the socket; it is closed when no one listens here any more.
    :param factory: of the connections.
    :param ours: is it our turn? Otherwise someone else has fewer connections.
    """

    reactor: Any

    def __init__(
        self, reactor: Any, listening: socket.socket, factory: IProtocolFactory, ours: Callable[[], bool]
    ) -> None:
        super().__init__(reactor)
        self._socket = listening
        self._factory = factory
        self._ours = ours
        self._left_since: float | None = None
        self._pause: Any = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def startListening(self) -> None:
        self._socket.setblocking(False)
        self._factory.doStart()
        self.connected = 1
        self.startReading()  # type: ignore[no-untyped-call]

    def stopListening(self) -> Deferred[None]:
        if not self.connected:
            return succeed(None)
        self.connected = 0
        self.stopReading()  # type: ignore[no-untyped-call]
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._socket.close()
        return execute(self._factory.doStop)

    def getHost(self) -> IAddress:
        name = self._socket.getsockname()
        if self._socket.family == socket.AF_UNIX:
            return UNIXAddress(os.fsencode(name))
        kind = IPv6Address if self._socket.family == socket.AF_INET6 else IPv4Address
        return kind("TCP", *name)

    def doRead(self) -> None:
        """Someone wants to connect: accept that, or leave it to another for now.

        Nothing is raised, as by ports of Twisted's: the reactor would read from this one no more.
        """
        try:
            self._read()
        except Exception:
            _log.failure("cannot accept a connection")
            self._wait(SHORTAGE)  # it is still there, and would be looked at at once, again and again

    def _read(self) -> None:
        now = self.reactor.seconds()
        if not self._ours():
            if self._left_since is None:
                self._left_since = now
            if now - self._left_since < PATIENCE:
                self._wait(PAUSE)
                return
        self._left_since = None
        try:
            accepted, _ = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._wait(SHORTAGE)
            return  # else it is another's by now, or it has gone away
        with accepted:
            accepted.setblocking(False)
            self._adopt(accepted)

    def _adopt(self, accepted: socket.socket) -> None:
        try:
            self.reactor.adoptStreamConnection(accepted.fileno(), accepted.family, self._factory)
        except OSError:
            pass  # it has gone away; or there are no descriptors left
        except Exception:
            _log.failure("cannot take up a connection")

    def _wait(self, seconds: float) -> None:
        self.stopReading()  # type: ignore[no-untyped-call]
        self._pause = self.reactor.callLater(seconds, self._resume)

    def _resume(self) -> None:
        self._pause = None
        polled = poll()
        polled.register(self._socket, POLLIN)
        if not polled.poll(0):
            self._left_since = None  # someone has taken it
        self.startReading()  # type: ignore[no-untyped-call]


@implementer(IStreamServerEndpoint)
class Inherited:
    """An endpoint on a socket that listens already.

    :param descriptor: of the socket.
    :param ours: as for :class:`Turns`.
    """

    def __init__(self, reactor: Any, descriptor: int, ours: Callable[[], bool]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._ours = ours

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening = socket.socket(fileno=self._descriptor)
        port = Turns(self._reactor, listening, protocolFactory, self._ours)
        port.startListening()
        return succeed(cast(IListeningPort, port))


class Adopting:
    """A reactor on which to listen, wherever that is, is to listen on one socket that is there already.

    For endpoints that are made of others, and put something between: TLS, or the PROXY protocol.
    """

    def __init__(self, reactor: Any, descriptor: int, ours: Callable[[], bool]) -> None:
        self._reactor = reactor
        self._inherited = (reactor, descriptor, ours)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, *_: Any, **__: Any) -> IListeningPort:
        return self._listen(factory)

    def listenUNIX(self, address: str, factory: IProtocolFactory, *_: Any, **__: Any) -> IListeningPort:
        return self._listen(factory)

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, *_: Any, **__: Any
    ) -> IListeningPort:
        from twisted.protocols.tls import TLSMemoryBIOFactory  # which needs pyOpenSSL

        return self._listen(TLSMemoryBIOFactory(contextFactory, False, factory))

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        reactor, descriptor, ours = self._inherited
        port = Turns(reactor, socket.socket(fileno=descriptor), factory, ours)
        port.startListening()
        return cast(IListeningPort, port)


def inherited(
    reactor: Any, descriptor: int, description: str | None, ours: Callable[[], bool]
) -> IStreamServerEndpoint:
    """Return an endpoint on a socket that listens already.

    :param description: of the endpoint, if it puts anything between the socket and the factory.
    """
    if description is None:
        return Inherited(reactor, descriptor, ours)
    endpoint: IStreamServerEndpoint = serverFromString(  # type: ignore[no-untyped-call]
        Adopting(reactor, descriptor, ours), description
    )
    return endpoint
