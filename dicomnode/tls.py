"""TLS: the ``dicom-tls:`` endpoints, and the Secure Transport Connection Profiles of PS3.15 Annex B.

:class:`ServerOptions` and :func:`client_options` are to Twisted what its own ``CertificateOptions`` and
``optionsForClientTLS`` are; the endpoint strings are made of them. An association on TLS is one on any
other transport: ARTIM runs from the TCP connection on, so that the handshake has no time of its own.

This module needs pyOpenSSL (``dicomnode[tls]``); no other does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, cast

from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import (
    CertificateOptions,
    DiffieHellmanParameters,
    TLSVersion,
    optionsForClientTLS,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from zope.interface import implementer

from dicomnode import pem
from dicomnode.contents import Contents, known
from dicomnode.interfaces import IShareable
from dicomnode.pem import InvalidCertificates
from dicomnode.profiles import Profile

#: Registered for ``dicom-tls``: DICOM over TLS (PS3.8 9.1.1, PS3.15 B.9).
PORT = 2762

_log = Logger()
_E = TypeVar("_E", bound=Enum)


class ClientCertificate(Enum):
    """What becomes of a client's certificate."""

    REQUIRE = "require"  #: without one there is no connection
    REQUEST = "request"  #: it may come without one; a policy sees whether it did
    NONE = "none"  #: it is not asked for one


#: What the peer's certificate was not accepted for, by OpenSSL's X509_V_ERR number.
_UNVERIFIED = {
    3: "there is no CRL of its issuer",
    9: "it is not valid yet",
    10: "it has expired",
    12: "the CRL of its issuer has expired",
    18: "it is self-signed, and not trusted",
    19: "its root is not trusted",
    20: "its issuer is not trusted",
    21: "its issuer is not trusted",
    23: "it is revoked",
    26: "it is for another use",
    66: "its key is too short",
    67: "the key of its issuer is too short",
    68: "the digest of its signature is too weak",
}


def _arguments(
    profile: Profile,
    files: Contents,
    private_key: str | None,
    certificate: str | None,
    extra_chain: str | None = None,
) -> dict[str, Any]:
    """Return what there is to say to CertificateOptions about a profile, and of who we are."""
    arguments: dict[str, Any] = {
        "acceptableCiphers": profile.ciphers,
        "raiseMinimumTo": TLSVersion.TLSv1_2,
        "lowerMaximumSecurityTo": profile.maximum,
    }
    if private_key is not None and certificate is not None:
        key = arguments["privateKey"] = pem.private_key(private_key, files)
        ours, *chain = pem.certificates("certificate", certificate, files)
        if ours.to_cryptography().public_key() != key.to_cryptography_key().public_key():  # type: ignore[union-attr]
            raise InvalidCertificates(f"private key {private_key!r}: it is not that of {certificate!r}")
        arguments["certificate"] = ours
        if extra_chain is not None:
            chain += pem.certificates("certificate chain", extra_chain, files)
        arguments["extraCertChain"] = chain
    return arguments


@implementer(IOpenSSLServerConnectionCreator, IShareable)
class ServerOptions:
    """What a server shows of itself, and whom it lets in. All files are PEM.

    Certificates that a policy sees have been verified against the trust roots.

    :param private_key: the file of the private key, without a password.
    :param certificate: the file of its certificate, those that lead to its root behind it; by default it
        is in the file of the private key.
    :param extra_chain: a file of more certificates that lead to the root.
    :param trust_roots: whose certificates clients may have: a file, or a directory of ``.pem`` and
        ``.crt`` files.
    :param crl: a file of certificate revocation lists; there must be one of each issuer of a client's.
    :param dh_parameters: a file of those of DHE; the 2048 bits of RFC 7919 by default.
    :raises InvalidCertificates: when one of them cannot be used.
    """

    def __init__(
        self,
        private_key: str,
        certificate: str | None = None,
        *,
        extra_chain: str | None = None,
        trust_roots: str | None = None,
        client_certificate: ClientCertificate = ClientCertificate.REQUIRE,
        crl: str | None = None,
        dh_parameters: str | None = None,
        profile: Profile = Profile.RFC_9325,
    ) -> None:
        if client_certificate is ClientCertificate.NONE:
            if trust_roots is not None or crl is not None:
                raise InvalidCertificates(
                    "trust roots and CRLs are of no use: no client is asked for a certificate"
                )
        elif trust_roots is None:
            raise InvalidCertificates("client certificates need trust roots to be checked against")
        self.path = certificate or private_key
        self._own = (private_key, self.path, extra_chain)
        self._trust_roots = trust_roots
        self._crl = crl
        self._dh_parameters = dh_parameters
        self._profile = profile
        self._verify = {
            ClientCertificate.REQUIRE: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
            ClientCertificate.REQUEST: SSL.VERIFY_PEER,
            ClientCertificate.NONE: SSL.VERIFY_NONE,
        }[client_certificate]
        self.use(known())

    def read(self) -> None:
        """Read the files again: for connections from now on.

        :raises InvalidCertificates: when they cannot be used; what was read before stays in force.
        """
        self.use({})

    def use(self, contents: Mapping[str, bytes]) -> None:
        """Let what is in the files, as someone else has read them, be in force; as above."""
        files = Contents(contents)
        arguments = _arguments(self._profile, files, *self._own)
        if self._trust_roots is not None:
            arguments["trustRoot"] = pem.trust_roots(self._trust_roots, files)
        crls = [] if self._crl is None else pem.crls(self._crl, files)
        group = pem.dh_parameters(self._dh_parameters, files) if self._dh_parameters else pem.ffdhe2048()
        try:
            context = _context(arguments, group)
        except SSL.Error as error:
            raise InvalidCertificates(f"certificate {self.path!r}: {reasons(error)}") from None
        except OSError as error:
            why = error.strerror or error
            raise InvalidCertificates(f"a temporary file for DH parameters: {why}") from None
        store = context.get_cert_store()
        if crls and store is not None:
            for crl in crls:
                store.add_crl(crl)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
        self._context = context
        #: what is in force of the files, by their paths
        self.contents = files

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        def verified(_: object, certificate: crypto.X509, error: int, depth: int, good: int) -> bool:
            if not good:
                subject = _subject(certificate)
                why = _UNVERIFIED.get(error, f"it is not verified (X509_V_ERR {error})")
                cast(_Transport, protocol).unverified = f"{subject}: {why}"
            return bool(good)

        connection = SSL.Connection(self._context, None)
        connection.set_verify(self._verify, verified)
        return connection


def _subject(certificate: crypto.X509) -> str:
    """Return the subject of a certificate as text (RFC 4514); what is not as it should be, after its kind."""
    try:
        return certificate.to_cryptography().subject.rfc4514_string()
    except (ValueError, TypeError):  # it has letters, say, that its kind of string has not
        parts = [b"%b=%b" % component for component in reversed(certificate.get_subject().get_components())]
        return b",".join(parts).decode("utf-8", "backslashreplace")


def _context(arguments: dict[str, Any], group: bytes) -> SSL.Context:
    """Return the context for these arguments, with a group of DHE."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # OpenSSL reads it from no other place
        file.write(group)
        file.flush()
        parameters = DiffieHellmanParameters.fromFile(FilePath(file.name))  # type: ignore[no-untyped-call]
        return CertificateOptions(**arguments, dhParameters=parameters).getContext()


def client_options(
    hostname: str,
    *,
    private_key: str | None = None,
    certificate: str | None = None,
    trust_roots: str | None = None,
    profile: Profile = Profile.RFC_9325,
) -> IOpenSSLClientConnectionCreator:
    """Return how to connect to a server. All files are PEM, as those of :class:`ServerOptions`.

    :param hostname: the name or address that is in the server's certificate.
    :param private_key: the file of our private key, if we are to show a certificate.
    :param trust_roots: whose certificates the server may have; those of the platform by default.
    :raises InvalidCertificates: when one of them cannot be used.
    """
    if private_key is None and certificate is not None:
        raise InvalidCertificates("a certificate needs its private key")
    files = Contents()
    arguments = _arguments(profile, files, private_key, certificate or private_key)
    roots = None if trust_roots is None else pem.trust_roots(trust_roots, files)
    options: IOpenSSLClientConnectionCreator = optionsForClientTLS(
        hostname, trustRoot=roots, extraCertificateOptions=arguments
    )
    return options


@implementer(IStreamServerEndpoint, IShareable)
class TLSServerEndpoint:
    """Speaks TLS on what another endpoint listens on."""

    def __init__(self, endpoint: IStreamServerEndpoint, options: ServerOptions) -> None:
        self.path = options.path
        self._endpoint = endpoint
        self._options = options

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(_Factory(self._options, False, protocolFactory))

    @property
    def contents(self) -> Mapping[str, bytes]:
        """What is in force of the files of the options."""
        return self._options.contents

    def read(self) -> None:
        """Read the files of the options again."""
        self._options.read()

    def use(self, contents: Mapping[str, bytes]) -> None:
        """Let what someone else has read of them be in force."""
        self._options.use(contents)


class _Transport(TLSMemoryBIOProtocol):
    """TLS on a transport. Not Twisted's default, which waits for more to write: we write what there is."""

    factory: _Factory
    #: of a certificate that was not accepted: whose it is, and why
    unverified = ""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        failure = getattr(self, "_reason", None)
        if failure is not None and failure.check(SSL.Error):
            peer = self.getPeer()  # type: ignore[no-untyped-call]
            self.factory.failed(peer, self.unverified or reasons(failure.value))
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class _Factory(TLSMemoryBIOFactory):
    protocol = _Transport

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]
        wrapped: IProtocol | None = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)  # type: ignore[no-untyped-call]

    def failed(self, peer: IAddress, why: str) -> None:
        """Say that there is no TLS with a peer, or none any more."""
        tell = getattr(self.wrappedFactory, "tls_failed", None)
        if tell is None:
            _log.warn("TLS with {peer} failed: {why}", peer=peer, why=why)
        else:
            tell(peer, why)


def reasons(error: SSL.Error) -> str:
    """Return what OpenSSL has to say of an error."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(entry[-1] for entry in entries) or str(error) or "TLS failed"


# The endpoint strings: their keys are those of Twisted's ``ssl:`` and ``tls:``, where these have them


def server_endpoint(
    reactor: Any,
    port: str = f"{PORT}",
    *,
    privateKey: str | None = None,
    certKey: str | None = None,
    extraCertChain: str | None = None,
    trustRoots: str | None = None,
    clientCertificate: str = "require",
    crl: str | None = None,
    dhParameters: str | None = None,
    profile: str = "rfc9325",
    interface: str = "",
    backlog: str = "1024",
    endpoint: str | None = None,
) -> TLSServerEndpoint:
    """Return what ``dicom-tls:...`` describes, on a TCP port or on ``endpoint=``."""
    if privateKey is None:
        raise InvalidCertificates("privateKey= is needed")
    options = ServerOptions(
        os.path.abspath(privateKey),
        certKey and os.path.abspath(certKey),
        extra_chain=extraCertChain and os.path.abspath(extraCertChain),
        trust_roots=trustRoots and os.path.abspath(trustRoots),
        client_certificate=_choice(ClientCertificate, "clientCertificate", clientCertificate),
        crl=crl and os.path.abspath(crl),
        dh_parameters=dhParameters and os.path.abspath(dhParameters),
        profile=_choice(Profile, "profile", profile),
    )
    if endpoint is None:
        tcp = TCP4ServerEndpoint(reactor, int(port), int(backlog), interface)  # type: ignore[no-untyped-call]
        return TLSServerEndpoint(tcp, options)
    return TLSServerEndpoint(serverFromString(reactor, endpoint), options)  # type: ignore[no-untyped-call]


def client_endpoint(
    reactor: Any,
    host: str,
    port: str = f"{PORT}",
    *,
    privateKey: str | None = None,
    certificate: str | None = None,
    trustRoots: str | None = None,
    hostname: str | None = None,
    profile: str = "rfc9325",
    timeout: str = "30",
    bindAddress: str | None = None,
) -> IStreamClientEndpoint:
    """Return what ``dicom-tls:HOST:PORT...`` describes.

    :param hostname: the name in the server's certificate, where that is another than ``host``.
    """
    options = client_options(
        hostname or host,
        private_key=privateKey,
        certificate=certificate,
        trust_roots=trustRoots,
        profile=_choice(Profile, "profile", profile),
    )
    bind = None if bindAddress is None else (bindAddress, 0)
    endpoint: IStreamClientEndpoint = wrapClientTLS(
        options, HostnameEndpoint(reactor, host, int(port), float(timeout), bind)
    )
    return endpoint


def _choice(kind: type[_E], key: str, text: str) -> _E:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(one.value) for one in kind)
        raise InvalidCertificates(f"{key}={text} is none of {known}") from None
