"""Tests of :mod:`dicomnode.tls`: an association on TLS, in memory, with OpenSSL as the other end."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface.verify import verifyObject

from dicomnode import events, pem, tls
from dicomnode.contents import knowing
from dicomnode.core.pdu import AssociateRJ
from dicomnode.interfaces import IReadable, IShareable
from dicomnode.limits import Limits
from dicomnode.policies import CertificateSubject, certificate_of, common_name
from dicomnode.profiles import Profile
from dicomnode.services import Verification
from dicomnode.testing import Transport
from dicomnode.tls import (
    ClientCertificate,
    InvalidCertificates,
    ServerOptions,
    TLSServerEndpoint,
    client_options,
)
from tests.cases import CT_IMAGE_STORAGE
from tests.certificates import Authority, private_pem
from tests.tlscases import Endpoint, TLSPeer, TLSTestCase, Wires

NO_CERTIFICATE = "peer did not return a certificate"


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

    def test_subject_that_is_not_as_it_should_be(self) -> None:
        """Whose a certificate is that is refused, and why, is said though its subject breaks the rules."""
        self.listens()
        (self.directory / "foreign").mkdir()
        key, path = Authority(self.directory / "foreign", "Foreign CA").issue("stranger")
        octets = crypto.load_certificate(crypto.FILETYPE_PEM, Path(path).read_bytes())
        # Latin-1 in a PrintableString, as old certificates have it
        broken = crypto.dump_certificate(crypto.FILETYPE_ASN1, octets).replace(
            b"\x0c\x08stranger", b"\x13\x08str\xe4nger"
        )
        certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, broken)
        Path(path).write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, certificate))
        peer = self.client(key, path)
        peer.transport.lose()
        self.assertEqual(self.last(events.TLSFailed).why, r"CN=str\xe4nger: its issuer is not trusted")

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

    def test_shared(self) -> None:
        """What one process has read, another uses, whatever has become of the files."""
        roots = self.directory / "roots"
        roots.mkdir()
        Path(self.authority.path).rename(roots / "ca.pem")
        options = ServerOptions(self.key, self.certificate, trust_roots=str(roots))
        endpoint = TLSServerEndpoint(Endpoint(), options)
        verifyObject(IShareable, options)
        verifyObject(IShareable, endpoint)
        paths = [self.key, self.certificate, str(roots / "ca.pem")]
        self.assertEqual(endpoint.contents, {path: Path(path).read_bytes() for path in paths})
        for path in paths:
            Path(path).write_bytes(b"nothing")
        with knowing(endpoint.contents):
            other = ServerOptions(self.key, self.certificate, trust_roots=str(roots))
        self.assertEqual(other.contents, endpoint.contents)
        self.assertRaises(InvalidCertificates, endpoint.use, dict.fromkeys(paths, b"nothing"))
        self.assertRaises(InvalidCertificates, endpoint.read)
        self.assertEqual(other.contents, endpoint.contents)
        endpoint.use(other.contents)

    def test_no_room(self) -> None:
        """A temporary file that cannot be made is said like what is wrong with the others."""
        self.patch(tempfile, "NamedTemporaryFile", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        self.invalid("a temporary file for DH parameters: No space left")

    def test_no_listing(self) -> None:
        """So is a directory that cannot be listed."""
        self.patch(os, "listdir", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
        roots = str(Path(self.authority.path).parent)
        with self.assertRaises(InvalidCertificates) as raised:
            ServerOptions(self.key, self.certificate, trust_roots=roots)
        self.assertEqual(str(raised.exception), f"trust roots {roots!r}: Permission denied")

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
