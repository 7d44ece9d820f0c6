"""Tests of :mod:`dicomnode.tls`: an association on TLS, in memory, with OpenSSL as the other end."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import events, pem, tls
from dicomnode.core import association as core
from dicomnode.core.machine import Role
from dicomnode.core.pdu import AssociateRJ
from dicomnode.interfaces import IReadable
from dicomnode.limits import Limits
from dicomnode.policies import CertificateSubject, certificate_of, common_name
from dicomnode.profiles import Profile, openssl_name
from dicomnode.services import Verification
from dicomnode.testing import Peer, Transport
from dicomnode.tls import (
    ClientCertificate,
    InvalidCertificates,
    ServerOptions,
    TLSServerEndpoint,
    client_options,
)
from tests.cases import CT_IMAGE_STORAGE, ShellTestCase
from tests.certificates import Authority, private_pem

NO_CERTIFICATE = "peer did not return a certificate"


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


class HandshakeTests(TLSTestCase):
    """Who gets in, and who does not."""

    def test_association(self) -> None:
        """An association on TLS is one as any other; when it ends, so does TLS."""
        self.listens()
        peer = self.client(*self.authority.issue("ct1"))
        self.assertEqual(peer.transport.client.get_protocol_version_name(), "TLSv1.3")
        self.assertTrue(peer.transport.no_delay)
        peer.associates({CT_IMAGE_STORAGE: ["1.2.840.10008.1.2"]})
        for number in range(3):
            peer.stores(f"1.2.{number}", bytes(200_000))
        self.assertResponses(peer, 0, 0, 0)
        self.assertEqual({len(data) for _, data in self.storage.instances.values()}, {200_000})
        peer.releases()
        peer.transport.client.shutdown()
        peer.transport.handshake()
        self.assertTrue(peer.transport.disconnecting)
        peer.transport.lose()
        self.assertEqual(self.last(events.AssociationEnded).how, "released")
        self.assertEqual(self.seen.of(events.TLSFailed), [])

    def test_no_certificate(self) -> None:
        """Without a certificate there is no TLS, of either version."""
        self.listens()
        for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.assertRefused(self.client(newest=newest), NO_CERTIFICATE)

    def test_foreign_certificate(self) -> None:
        """A certificate of somebody else's authority is not accepted, nor one that has expired."""
        self.listens()
        (self.directory / "foreign").mkdir()
        foreign = Authority(self.directory / "foreign", "Foreign CA")
        late = self.authority.issue("late", days=-1)
        self.assertRefused(self.client(*foreign.issue("ct1")), "CN=ct1: its issuer is not trusted")
        self.assertRefused(self.client(*late), "CN=late: it has expired")

    def test_unforeseen(self) -> None:
        """What else may be wrong with a certificate has its number."""
        self.listens()
        self.patch(tls, "_UNVERIFIED", {})
        late = self.authority.issue("late", days=-1)
        self.assertRefused(self.client(*late), "CN=late: it is not verified (X509_V_ERR 10)")

    def test_old_versions(self) -> None:
        """TLS 1.1 is not spoken, whatever the profile."""
        hello = b"\x03\x02" + bytes(32) + b"\x00" + b"\x00\x04\xc0\x13\x00\x2f" + b"\x01\x00"
        for profile in Profile:
            self.listens(profile=profile)
            peer = self.connects_by_tls(self.context(), handshake=False)
            message = b"\x01" + len(hello).to_bytes(3, "big") + hello
            Transport.deliver(peer.transport, b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
            alert = Transport.taken(peer.transport)
            self.assertEqual(
                (alert[:1], alert[3:]), (b"\x15", b"\x00\x02\x02\x46")
            )  # fatal, protocol_version
            self.assertRefused(peer, "unsupported protocol")

    def test_request(self) -> None:
        """Where a certificate is only asked for, one may come without; but not with a foreign one."""
        self.listens(client_certificate=ClientCertificate.REQUEST)
        without, ours = self.client(), self.client(*self.authority.issue("ct1"))
        for peer, name in ((without, None), (ours, "ct1")):
            self.assertWorks(peer)
            self.assertEqual(common_name(certificate_of(peer.association.transport)), name)
        (self.directory / "foreign").mkdir()
        foreign = Authority(self.directory / "foreign", "Foreign CA")
        self.seen.events.clear()
        peer = self.client(*foreign.issue("ct1"))
        peer.transport.lose()
        self.assertEqual(self.last(events.TLSFailed).why, "CN=ct1: its issuer is not trusted")

    def test_none(self) -> None:
        """Where no certificate is asked for, none is seen."""
        self.listens(client_certificate=ClientCertificate.NONE, trust_roots=None)
        peer = self.client(*self.authority.issue("ct1"))
        self.assertWorks(peer)
        self.assertIsNone(certificate_of(peer.association.transport))

    def test_crl(self) -> None:
        """A revoked certificate is not accepted; nor any, if there is no CRL in force."""
        good, bad = self.authority.issue("good"), self.authority.issue("bad")
        self.listens(crl=self.authority.revoke([bad[1]]))
        self.assertWorks(self.client(*good))
        self.seen.events.clear()
        self.peers.pop().transport.lose()
        self.assertRefused(self.client(*bad), "CN=bad: it is revoked")
        self.listens(crl=self.authority.revoke(days=-1))
        self.assertRefused(self.client(*good), "CN=good: the CRL of its issuer has expired")
        (self.directory / "foreign").mkdir()
        self.listens(crl=Authority(self.directory / "foreign", "Foreign CA").revoke())
        self.assertRefused(self.client(*good), "CN=good: there is no CRL of its issuer")

    def test_plain(self) -> None:
        """Who speaks DICOM without TLS is not understood."""
        self.listens()
        peer = self.connects_by_tls(self.context(), handshake=False)
        Transport.deliver(peer.transport, b"\x01\x00\x00\x00\x00\x40\x00\x01\x00\x00" + bytes(60))
        self.assertTrue(peer.transport.disconnecting)
        peer.transport.lose()
        self.assertEqual(len(self.seen.of(events.TLSFailed)), 1)

    def test_broken(self) -> None:
        """Octets that were changed on their way end the association: it is lost."""
        self.listens()
        peer = self.client(*self.authority.issue("ct1"))
        self.assertWorks(peer)
        Transport.deliver(peer.transport, b"\x17\x03\x03\x00\x20" + bytes(32))
        self.assertTrue(peer.transport.disconnecting)
        peer.transport.lose()
        self.assertIn("bad", self.last(events.TLSFailed).why)
        self.assertEqual(self.last(events.AssociationEnded).how, "lost")

    def test_gone(self) -> None:
        """Who goes in the middle of the handshake has not failed: nothing is said of it."""
        self.listens()
        self.connects_by_tls(self.context(), handshake=False).transport.lose()
        self.assertEqual(self.seen.of(events.TLSFailed), [])

    def test_draining(self) -> None:
        """No one is accepted any more when the acceptor stops."""
        self.listens()
        self.acceptor.drain(1.0)
        self.assertIsNone(self.endpoint.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5)))

    def test_other_factory(self) -> None:
        """A factory that does not want to know why there is no TLS has it in Twisted's log."""
        options = self.listens()
        TLSServerEndpoint(self.endpoint, options).listen(Factory.forProtocol(Protocol))
        logged: list[LogEvent] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        protocol = self.endpoint.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5))
        wires = Wires(cast(Protocol, protocol), self.context())
        wires.connect()
        wires.handshake()
        wires.lose()
        self.assertEqual([event["why"] for event in logged if "why" in event], [NO_CERTIFICATE])


class ProfileTests(TLSTestCase):
    """The profiles of PS3.15, by what is negotiated."""

    def negotiated(self, profile: Profile, ciphers: str, rsa_key: bool) -> str | None:
        """Return the cipher suite that is negotiated in TLS 1.2, if any."""
        self.key, self.certificate = self.keys[rsa_key]
        self.listens(profile=profile)
        peer = self.client(*self.ours, ciphers=ciphers.encode(), newest=SSL.TLS1_2_VERSION)
        if peer.transport.error is not None:
            self.assertRefused(peer, "no shared cipher")
            return None
        peer.transport.lose()
        return peer.transport.client.get_cipher_name()

    def setUp(self) -> None:
        super().setUp()
        self.keys = (self.key, self.certificate), self.authority.issue("rsa", rsa_key=True)
        self.ours = self.authority.issue("ct1", rsa_key=True)  # one on a curve needs a suite with curves

    def test_suites(self) -> None:
        """Each profile has its suites of TLS 1.2, and no others."""
        ecdhe = {
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        }
        dhe = {"DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-AES128-GCM-SHA256"}
        others = {
            "AES128-SHA",
            "AES128-GCM-SHA256",
            "AES256-SHA",
            "DHE-RSA-AES128-SHA",
            "DHE-RSA-AES128-SHA256",
            "ECDHE-ECDSA-AES128-SHA",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "ECDHE-RSA-AES128-SHA",
            "ECDHE-RSA-AES256-SHA384",
            "ECDHE-RSA-CHACHA20-POLY1305",
        }
        for profile, expected in (
            (Profile.RFC_9325, ecdhe),
            (Profile.EXTENDED, ecdhe | dhe),
            (Profile.NON_DOWNGRADING, ecdhe | dhe),
            (Profile.BCP_195, ecdhe | dhe | {"AES128-SHA"}),
        ):
            self.assertEqual(set(map(openssl_name, profile.suites)), expected)
            for name in ecdhe | dhe | others:
                found = self.negotiated(profile, f"{name}:@SECLEVEL=0", "ECDSA" not in name)
                self.assertEqual(found, name if name in expected else None, (profile, name))

    def test_preferred(self) -> None:
        """We choose, and the longest key."""
        self.assertEqual(
            self.negotiated(Profile.BCP_195, "AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256:" + "ALL", True),
            "ECDHE-RSA-AES256-GCM-SHA384",
        )

    def test_recommended(self) -> None:
        """The profile in force has the suites that RFC 9325 4.2 recommends, and no others."""
        recommended = {
            f"TLS_ECDHE_{key}_WITH_AES_{size}"
            for key in ("RSA", "ECDSA")
            for size in ("128_GCM_SHA256", "256_GCM_SHA384")
        }
        self.assertEqual({*Profile.RFC_9325.suites}, recommended)
        for profile in Profile:  # 4.1: none with RC4, without encryption, or with less than 128 bits
            self.assertEqual([suite for suite in profile.suites if "_WITH_AES_" not in suite], [])

    def test_nothing_resumed(self) -> None:
        """No session is kept, and no ticket given, so no key of these has to be changed (RFC 9325 3.4)."""
        context = self.listens()._context
        self.assertEqual(context.get_session_cache_mode(), SSL.SESS_CACHE_OFF)
        self.assertTrue(context.set_options(0) & SSL.OP_NO_TICKET)
        self.assertTrue(context.set_options(0) & SSL.OP_NO_COMPRESSION)

    def test_short_keys(self) -> None:
        """A client whose key is too short is refused (RFC 9325 4.5), with any profile."""
        short = self.authority.issue("short", rsa_key=True, key_size=1024)
        for profile in Profile:
            self.listens(profile=profile)
            context = self.context()
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
            context.use_privatekey_file(short[0])
            context.use_certificate_file(short[1])
            peer = self.connects_by_tls(context)
            self.assertRefused(peer, "CN=short: its key is too short")

    def test_tls_1_3(self) -> None:
        """TLS 1.3 has suites that the extended profile does not name: it ends at TLS 1.2."""
        for profile in Profile:
            self.listens(profile=profile)
            peer = self.client(*self.ours)
            version = peer.transport.client.get_protocol_version_name()
            self.assertEqual(version, "TLSv1.2" if profile is Profile.EXTENDED else "TLSv1.3")

    def test_dhe(self) -> None:
        """The group of DHE is one of 2048 bits, or what is in a file."""
        self.assertEqual(pem.ffdhe2048()[:27], b"-----BEGIN DH PARAMETERS---")
        path = self.authority.write("dh.pem", pem.ffdhe2048())
        self.key, self.certificate = self.keys[True]
        self.listens(profile=Profile.EXTENDED, dh_parameters=path)
        peer = self.client(*self.ours, ciphers=b"DHE", newest=SSL.TLS1_2_VERSION)
        self.assertIsNone(peer.transport.error)


class TimeTests(TLSTestCase):
    """Who does not come to the point is dropped: TLS has no time of its own."""

    def test_no_handshake(self) -> None:
        """Who says nothing is dropped when ARTIM expires, and counts as half-open until then."""
        self.listens()
        peer = self.connects_by_tls(self.context(), handshake=False)
        self.assertIn(peer.association, self.acceptor.associations)
        self.passes(9.9)
        self.assertFalse(peer.transport.disconnecting)
        self.passes(0.2)
        self.assertTrue(peer.transport.aborted)
        self.assertTimedOut("ACSE", 10.0)

    def test_slow_handshake(self) -> None:
        """An octet now and then gains nothing."""
        self.listens()
        peer = self.connects_by_tls(self.context(), handshake=False)
        for octet in (b"\x16", b"\x03", b"\x01", b"\x02"):
            Transport.deliver(peer.transport, octet)
            self.reactor.advance(3.0)
        self.assertTrue(peer.transport.aborted)

    def test_no_request(self) -> None:
        """Who says nothing on TLS is sent its end, and dropped if it does not answer that."""
        self.listens()
        peer = self.client(*self.authority.issue("ct1"))
        self.reactor.advance(10.0)
        self.assertFalse(peer.transport.aborted)
        peer.transport.taken()
        self.assertTrue(peer.transport.client.get_shutdown() & SSL.RECEIVED_SHUTDOWN)
        self.reactor.advance(10.0)
        self.assertTrue(peer.transport.aborted)

    def test_abort(self) -> None:
        """An A-ABORT goes through TLS; who does not close after it is dropped."""
        self.listens()
        peer = self.client(*self.authority.issue("ct1"))
        self.assertWorks(peer)
        peer.association.abort()
        self.assertAborted(peer)
        self.reactor.advance(10.0)
        self.assertTrue(peer.transport.aborted)

    def test_half_open(self) -> None:
        """Who has not shaken hands is the first to go when there are too many."""
        self.accepts(Verification(), limits=Limits(half_open=2))
        self.listens()
        peers = [self.connects_by_tls(self.context(), handshake=False) for _ in range(3)]
        self.assertEqual([peer.transport.aborted for peer in peers], [True, False, False])

    def test_paused(self) -> None:
        """While its storage stalls, no more is read from a peer; then all of it arrives."""
        self.listens()
        peer = self.client(*self.authority.issue("ct1"))
        peer.associates({CT_IMAGE_STORAGE: ["1.2.840.10008.1.2"]})
        self.storage.stalls()
        for number in range(4):
            peer.stores(f"1.2.{number}", bytes(100_000))
        self.assertTrue(peer.transport.paused)
        self.storage.recovers()
        peer.exchange()
        self.assertFalse(peer.transport.paused)
        self.assertResponses(peer, 0, 0, 0, 0)
        self.assertEqual(len(self.storage.instances), 4)

    def test_not_reading(self) -> None:
        """From who does not read what we write, no more is read either."""
        self.listens()
        peer = self.client(*self.authority.issue("ct1"))
        self.assertWorks(peer)
        producer = peer.transport.producer
        assert producer is not None
        producer.pauseProducing()
        self.assertReading(peer, False)
        peer.echoes()
        self.assertResponses(peer)
        producer.resumeProducing()
        peer.exchange()
        self.assertReading(peer)
        self.assertResponses(peer, 0)


class PolicyTests(TLSTestCase):
    """A policy sees who the peer is."""

    def test_subject(self) -> None:
        """The Common Name decides; who has no certificate is refused."""
        self.accepts(Verification(), policy=CertificateSubject("ct1", "mr1"))
        self.listens(client_certificate=ClientCertificate.REQUEST)
        self.assertWorks(self.client(*self.authority.issue("mr1")))
        for files in ((), self.authority.issue("xx")):
            peer = self.client(*files)
            peer.associates()
            self.assertAnswered(peer, AssociateRJ(1, 1, 1))
        self.assertEqual(
            [rejected.why for rejected in self.seen.of(events.AssociationRejected)],
            ["it has shown no certificate", "xx is not one that is allowed"],
        )


class FileTests(TLSTestCase):
    """What is in the files, and what may be wrong with it."""

    def invalid(self, why: str, *files: str, **options: Any) -> None:
        """Assert that options cannot be used, and what is said of it."""
        with self.assertRaises(InvalidCertificates) as raised:
            ServerOptions(
                *files or (self.key, self.certificate), **{"trust_roots": self.authority.path} | options
            )
        self.assertEqual(str(raised.exception).replace(f"{self.directory}/", ""), why)

    def test_verify(self) -> None:
        """It is what Twisted takes for the options of a server."""
        options = self.listens()
        verifyObject(IOpenSSLServerConnectionCreator, options)
        verifyObject(IReadable, options)
        self.assertIsInstance(TLSMemoryBIOFactory(options, False, self.acceptor), TLSMemoryBIOFactory)
        endpoint = TLSServerEndpoint(self.endpoint, options)
        verifyObject(IReadable, endpoint)
        verifyObject(IStreamServerEndpoint, endpoint)
        self.assertEqual(endpoint.path, self.certificate)

    def test_invalid(self) -> None:
        """What cannot be used is said in a line, with the file."""
        empty = self.authority.write("empty.pem", b"")
        key = pem.load_pem_private_key(Path(self.key).read_bytes(), None)
        locked = self.authority.write("locked.key", private_pem(cast(Any, key), b"secret"))
        other, _ = self.authority.issue("other")
        nothing = self.directory / "nothing"
        nothing.mkdir()
        none = "there is none that can be read as PEM"
        self.invalid("private key 'absent': No such file or directory", str(self.directory / "absent"))
        self.invalid(f"private key 'empty.pem': {none}", empty, self.certificate)
        self.invalid(f"private key 'locked.key': {none}", locked, self.certificate)
        self.invalid(f"certificate 'node.key': {none}", self.key)
        self.invalid("private key 'other.key': it is not that of 'node.pem'", other, self.certificate)
        self.invalid(f"certificate chain 'empty.pem': {none}", extra_chain=empty)
        self.invalid(f"trust roots 'empty.pem': {none}", trust_roots=empty)
        self.invalid("trust roots 'nothing': there are none", trust_roots=str(nothing))
        self.invalid(f"CRL 'empty.pem': {none}", crl=empty)
        self.invalid(f"DH parameters 'empty.pem': {none}", dh_parameters=empty)
        small = self.authority.issue("small", rsa_key=True, key_size=1024)
        self.invalid("certificate 'small.pem': ee key too small", *small)
        self.invalid("client certificates need trust roots to be checked against", trust_roots=None)
        self.invalid(
            "trust roots and CRLs are of no use: no client is asked for a certificate",
            client_certificate=ClientCertificate.NONE,
        )

    def test_one_file(self) -> None:
        """Key, certificate and chain may be in one file, or in three."""
        (self.directory / "other").mkdir()
        chain = Authority(self.directory / "other", "Other CA").path
        parts = [Path(path).read_bytes() for path in (self.key, self.certificate, chain)]
        one = self.authority.write("one.pem", b"".join(parts))
        client = self.authority.issue("ct1")
        for files, options in (((one,), {}), ((self.key, self.certificate), {"extra_chain": chain})):
            self.endpoint = Endpoint()
            found = ServerOptions(*files, trust_roots=self.authority.path, **cast(Any, options))
            TLSServerEndpoint(self.endpoint, found).listen(self.acceptor)
            sent = self.client(*client).transport.client.get_peer_cert_chain() or []
            self.assertEqual([common.get_subject().CN for common in sent], ["node", "Other CA"])

    def test_directory(self) -> None:
        """Trust roots may be the files of a directory."""
        roots = self.directory / "roots"
        roots.mkdir()
        second = Authority(roots, "Second CA")
        shutil.copy(self.authority.path, roots / "first.crt")
        (roots / "README").write_text("nothing")
        self.listens(trust_roots=str(roots))
        self.assertWorks(self.client(*self.authority.issue("ct1")))
        self.assertWorks(self.client(*second.issue("mr1")))

    def test_read_again(self) -> None:
        """What is read again is for those who come then; what cannot be used changes nothing."""
        options = self.listens()
        client = self.authority.issue("ct1")

        def serial() -> int:
            certificate = self.client(*client).transport.client.get_peer_certificate()
            assert certificate is not None
            return certificate.get_serial_number()

        before = serial()
        again = self.authority.issue("node")
        self.assertEqual(serial(), before)
        options.read()
        after = serial()
        self.assertNotEqual(after, before)
        Path(again[1]).write_bytes(b"")
        self.assertRaises(InvalidCertificates, options.read)
        self.assertEqual(serial(), after)
        self.assertWorks(self.peers[0])


class ClientTests(TLSTestCase):
    """The options of a client, against those of a server."""

    def connects_with(self, **options: Any) -> tuple[TLSPeer, Any]:
        """Connect with Twisted's TLS; return the server's end, and what the client's was told."""
        told: dict[str, Any] = {"lost": None, "received": b""}

        class Client(Protocol):
            def connectionLost(self, reason: Any = None) -> None:
                told["lost"] = reason

        factory = TLSMemoryBIOFactory(
            client_options("localhost", **options), True, Factory.forProtocol(Client)
        )
        client: Any = factory.buildProtocol(cast(Any, None))
        peer = TLSPeer(self.endpoint, self.context())
        self.peers.append(peer)
        ours = Transport(client)
        ours.connect()
        for _ in range(6):
            if octets := ours.taken():
                Transport.deliver(peer.transport, octets)
            if octets := Transport.taken(peer.transport):
                ours.deliver(octets)
        told["connection"] = client.getHandle()
        told["disconnecting"] = ours.disconnecting
        ours.lose()
        return peer, told

    def test_trusted(self) -> None:
        """Each end is shown the other's certificate; the profile is ours as well."""
        self.listens()
        key, certificate = self.authority.issue("ct1")
        for profile in Profile:
            peer, told = self.connects_with(
                private_key=key, certificate=certificate, trust_roots=self.authority.path, profile=profile
            )
            self.assertFalse(told["disconnecting"], profile)
            self.assertEqual(common_name(certificate_of(peer.tls)), "ct1")

    def test_untrusted(self) -> None:
        """A server of a foreign authority is not spoken to; nor one that is not the one meant."""
        self.listens(client_certificate=ClientCertificate.NONE, trust_roots=None)
        peer, told = self.connects_with()
        self.assertTrue(told["disconnecting"])
        peer.transport.lose()
        self.assertIn("unknown ca", self.last(events.TLSFailed).why)

    def test_invalid(self) -> None:
        """What cannot be used is said in a line."""
        other, _ = self.authority.issue("other")
        for options, why in (
            ({"certificate": self.certificate}, "a certificate needs its private key"),
            ({"private_key": other, "certificate": self.certificate}, "it is not that of"),
            ({"trust_roots": "absent"}, "trust roots 'absent': No such file or directory"),
        ):
            with self.assertRaises(InvalidCertificates) as raised:
                client_options("localhost", **cast(Any, options)).clientConnectionForTLS(cast(Any, None))
            self.assertIn(why, str(raised.exception))


class EndpointTests(SynchronousTestCase):
    """The strings that describe endpoints."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self.key, self.certificate = self.authority.issue("node")
        self.reactor = MemoryReactorClock()
        self.files = f"privateKey={self.key}:certKey={self.certificate}"

    def server(self, description: str) -> None:
        endpoint = serverFromString(self.reactor, description)
        endpoint.listen(Factory.forProtocol(Protocol))

    def invalid(self, why: str, description: str) -> None:
        with self.assertRaises((TypeError, ValueError)) as raised:
            serverFromString(self.reactor, description)
        self.assertIn(why, str(raised.exception))

    def test_server(self) -> None:
        """It listens on the registered port, or where it is told to."""
        trust = f"{self.files}:trustRoots={self.authority.path}"
        self.server(f"dicom-tls:{trust}")
        self.server(f"dicom-tls:104:{trust}:interface=192.0.2.7:backlog=5:profile=extended")
        self.server(
            rf"dicom-tls:{trust}:endpoint=tcp6\:11112\:interface=\:\:1".replace(r"=\:\:1", r"=\\\:\\\:1")
        )
        found = [(port, interface, backlog) for port, _, backlog, interface in self.reactor.tcpServers]
        self.assertEqual(found, [(2762, "", 1024), (104, "192.0.2.7", 5), (11112, "::1", 50)])

    def test_all_keys(self) -> None:
        """Each key of the description has its effect."""
        dh = self.authority.write("dh.pem", pem.ffdhe2048())
        self.server(
            f"dicom-tls:0:{self.files}:trustRoots={self.authority.path}:crl={self.authority.revoke()}:"
            f"extraCertChain={self.authority.path}:dhParameters={dh}:clientCertificate=request:profile=bcp195"
        )
        self.server(f"dicom-tls:0:{self.files}:clientCertificate=none")
        self.assertEqual(len(self.reactor.tcpServers), 2)

    def test_paths(self) -> None:
        """Files are found again wherever the process goes."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        path = os.path.abspath("node.pem")
        endpoint: Any = serverFromString(
            self.reactor, "dicom-tls:0:privateKey=node.key:certKey=node.pem:clientCertificate=none"
        )
        os.chdir("/")
        endpoint.read()
        self.assertEqual(endpoint.path, path)

    def test_invalid(self) -> None:
        """What is wrong with a description is said in a line."""
        self.invalid("privateKey= is needed", "dicom-tls:0")
        self.invalid("client certificates need trust roots", f"dicom-tls:0:{self.files}")
        self.invalid(
            "profile=strong is none of bcp195, non-downgrading, extended, rfc9325",
            f"dicom-tls:0:{self.files}:clientCertificate=none:profile=strong",
        )
        self.invalid(
            "clientCertificate=yes is none of require, request, none",
            f"dicom-tls:0:{self.files}:clientCertificate=yes",
        )
        self.invalid("unexpected keyword argument 'colour'", f"dicom-tls:0:{self.files}:colour=red")

    def test_client(self) -> None:
        """A client connects to the registered port, or where it is told to, with a certificate or without."""
        client = f"privateKey={self.key}:certificate={self.certificate}:trustRoots={self.authority.path}"
        for description, address in (
            ("dicom-tls:host=192.0.2.7", ("192.0.2.7", 2762)),
            (f"dicom-tls:192.0.2.7:104:{client}:hostname=pacs:profile=extended", ("192.0.2.7", 104)),
            ("dicom-tls:192.0.2.7:104:timeout=3:bindAddress=192.0.2.9", ("192.0.2.7", 104)),
        ):
            endpoint: Any = clientFromString(self.reactor, description)
            hosted = endpoint._wrappedEndpoint
            self.assertEqual((hosted._hostText, hosted._port), address)
            self.assertEqual(hosted._timeout, 3 if "timeout" in description else 30)
            self.assertEqual(hosted._bindAddress, ("192.0.2.9", 0) if "bind" in description else None)

    def test_not_installed(self) -> None:
        """Without pyOpenSSL, it is said what to install."""
        self.addCleanup(sys.modules.update, {"OpenSSL": sys.modules["OpenSSL"]})
        sys.modules["OpenSSL"] = cast(Any, None)
        for parse in (serverFromString, clientFromString):
            with self.assertRaises(ValueError) as raised:
                parse(self.reactor, "dicom-tls:0")
            self.assertEqual(str(raised.exception), "TLS needs dicomnode[tls]: pip install 'dicomnode[tls]'")
