"""Keys, certificates and revocation lists: what is in PEM files (RFC 7468), for :mod:`dicomnode.tls`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import crypto
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from dicomnode.contents import Contents

_T = TypeVar("_T")

_END_OF_CRL = b"-----END X509 CRL-----"


class InvalidCertificates(ValueError):
    """Keys or certificates cannot be used. The message is one line that says which, and why."""


def private_key(path: str, files: Contents) -> crypto.PKey:
    """Return the private key in a file. It has no password: nobody is there to be asked for it.

    :param files: from which it is read.
    :raises InvalidCertificates: when there is none; so do the others here.
    """
    key = _load("private key", path, files, lambda data: load_pem_private_key(data, None))
    return crypto.PKey.from_cryptography_key(key)  # type: ignore[arg-type]


def certificates(what: str, path: str, files: Contents) -> list[crypto.X509]:
    """Return the certificates in a file, at least one.

    :param what: what they are, for who is told that they cannot be read.
    """
    found = _load(what, path, files, x509.load_pem_x509_certificates)
    return [crypto.X509.from_cryptography(certificate) for certificate in found]


def trust_roots(path: str, files: Contents) -> Any:
    """Return the certificates in a file, or in the ``.pem`` and ``.crt`` files of a directory, as trusted."""
    try:
        paths = files.below(path, ".pem", ".crt")
    except OSError as error:
        raise InvalidCertificates(f"trust roots {path!r}: {error.strerror or error}") from None
    paths = [path] if paths is None else paths
    roots = [Certificate(root) for one in paths for root in certificates("trust roots", one, files)]  # type: ignore[no-untyped-call]
    if not roots:
        raise InvalidCertificates(f"trust roots {path!r}: there are none")
    return trustRootFromCertificates(roots)  # type: ignore[no-untyped-call]


def crls(path: str, files: Contents) -> list[x509.CertificateRevocationList]:
    """Return the certificate revocation lists in a file, at least one."""

    def load(data: bytes) -> list[x509.CertificateRevocationList]:
        parts = data.split(_END_OF_CRL)[:-1] or [data]
        return [x509.load_pem_x509_crl(part + _END_OF_CRL) for part in parts]

    return _load("CRL", path, files, load)


def dh_parameters(path: str, files: Contents) -> bytes:
    """Return the file with the group of DHE, once it is seen that it may be one."""

    def load(data: bytes) -> bytes:
        if b"DH PARAMETERS-----" not in data:
            raise ValueError(path)
        return data

    return _load("DH parameters", path, files, load)


def ffdhe2048() -> bytes:
    """Return the group ffdhe2048 of RFC 7919 A.1: a prime with the digits of e in its middle, and 2."""
    one = 1 << 2048
    e, term, number = 0, one, 0
    while term:
        e, number = e + term, number + 1
        term //= number
    prime = (1 << 2048) - (1 << 1984) + ((e * (1 << 1918) // one + 560316) << 64) - 1
    # PKCS #3's DHParameter, a SEQUENCE of two INTEGERs; the prime's has an octet more, for it is positive.
    der = bytes.fromhex("30820108 02820101 00") + prime.to_bytes(256, "big") + bytes.fromhex("020102")
    return b"-----BEGIN DH PARAMETERS-----\n" + base64.encodebytes(der) + b"-----END DH PARAMETERS-----\n"


def _load(what: str, path: str, files: Contents, load: Callable[[bytes], _T]) -> _T:
    try:
        return load(files.read(path))
    except OSError as error:
        raise InvalidCertificates(f"{what} {path!r}: {error.strerror or error}") from None
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise InvalidCertificates(f"{what} {path!r}: there is none that can be read as PEM") from None
