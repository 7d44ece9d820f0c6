"""What the tests of TLS share: an acceptor behind TLS, and peers at whose end is OpenSSL."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from dicomnode import events
from dicomnode.core import association as core
from dicomnode.core.machine import Role
from dicomnode.testing import Peer, Transport
from dicomnode.tls import ServerOptions, TLSServerEndpoint
from tests.cases import ShellTestCase
from tests.certificates import Authority


@implementer(IStreamServerEndpoint)
class Endpoint:
    """An endpoint that listens to whom it is told about."""

    factory: IProtocolFactory

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        self.factory = protocolFactory
        return Deferred()


class Wires(Transport):
    """The transport of a server, at whose other end is OpenSSL: what is delivered is encrypted."""

    def __init__(self, protocol: Protocol, context: SSL.Context) -> None:
        super().__init__(protocol)
        self.client = SSL.Connection(context, None)
        self.client.set_connect_state()
        self.error: SSL.Error | None = None

    def handshake(self) -> None:
        """Let both ends say what they have to, until they are done."""
        for _ in range(6):
            try:
                self.client.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                self.error = error
            self._send()
            self._receive()

    def deliver(self, data: bytes, size: int | None = None) -> None:
        if self.error is None:
            self.client.sendall(data)
            self._send()

    def taken(self) -> bytes:
        self._receive()
        taken = []
        try:
            while True:
                taken.append(self.client.recv(1 << 16))
        except (SSL.WantReadError, SSL.ZeroReturnError):
            pass
        except SSL.Error as error:
            self.error = error
        return b"".join(taken)

    def _send(self) -> None:
        try:
            while True:
                super().deliver(self.client.bio_read(1 << 16))
        except SSL.WantReadError:
            pass

    def _receive(self) -> None:
        data = super().taken()
        if data:
            self.client.bio_write(data)


class TLSPeer(Peer):
    """A requestor on TLS."""

    transport: Wires

    def __init__(self, endpoint: Endpoint, context: SSL.Context) -> None:
        protocol = endpoint.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        assert protocol is not None
        self.tls = cast(Any, protocol)
        self.association = self.tls.wrappedProtocol
        self.transport = Wires(self.tls, context)
        self.indications: list[core.Indication] = []
        self._core = core.Association(Role.REQUESTOR)
        self._size = None
        self._message_id = 0
        self.transport.connect()


class TLSTestCase(ShellTestCase):
    """An acceptor behind TLS."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self.key, self.certificate = self.authority.issue("node")

    def listens(self, **options: Any) -> ServerOptions:
        """Let the acceptor listen on TLS."""
        options = {"trust_roots": self.authority.path} | options
        found = ServerOptions(self.key, self.certificate, **options)
        self.endpoint = Endpoint()
        TLSServerEndpoint(self.endpoint, found).listen(self.acceptor)
        return found

    def context(
        self, *files: str, ciphers: bytes | None = None, newest: int = SSL.TLS1_3_VERSION
    ) -> SSL.Context:
        """Return what a client is like, with a key and a certificate or none."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(newest)
        if ciphers is not None:
            context.set_cipher_list(ciphers)
        if files:
            key, certificate = files
            context.use_privatekey_file(key)
            context.use_certificate_file(certificate)
        return context

    def connects_by_tls(self, context: SSL.Context, handshake: bool = True) -> TLSPeer:
        peer = TLSPeer(self.endpoint, context)
        self.peers.append(peer)
        if handshake:
            peer.transport.handshake()
        return peer

    def client(self, *files: str, **how: Any) -> TLSPeer:
        """Return a peer that has gone through the handshake, or has not."""
        return self.connects_by_tls(self.context(*files, **how))

    def assertRefused(self, peer: TLSPeer, why: str) -> None:
        """Assert that there is no TLS, and that it is said why, once."""
        self.assertTrue(peer.transport.disconnecting)
        peer.transport.lose()
        (failed,) = self.seen.of(events.TLSFailed)
        self.assertEqual((failed.peer, failed.why), (peer.transport.getPeer(), why))
        self.assertEqual(self.last(events.AssociationEnded).how, "never")
        self.assertEqual(self.acceptor.associations, set())
        self.seen.events.clear()

    def assertWorks(self, peer: Peer) -> None:
        """Assert that there is an association, on which there is an answer."""
        peer.associates()
        self.assertEstablished(peer)
        peer.echoes()
        self.assertResponses(peer, 0)
