"""Keys and certificates, made when a test asks for them."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
_DAY = datetime.timedelta(days=1)


def pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as they are in a file."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def private_pem(key: Key, password: bytes | None = None) -> bytes:
    """Return a private key as it is in a file."""
    how = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Authority:
    """A certification authority, whose files go to a directory."""

    def __init__(self, directory: Path, name: str = "Hospital CA") -> None:
        self._directory = directory
        self._name = _name(name)
        self._key: Key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self._name, self._key, authority=True)
        self.path = self.write(f"{name}.pem", pem(self.certificate))

    def write(self, name: str, data: bytes) -> str:
        """Write a file, and return its path."""
        path = self._directory / name
        path.write_bytes(data)
        return str(path)

    def issue(
        self, common_name: str, *, rsa_key: bool = False, days: int = 1, key_size: int = 2048
    ) -> tuple[str, str]:
        """Return the files of a new private key and its certificate, for localhost."""
        key: Key
        if rsa_key:
            key = rsa.generate_private_key(public_exponent=65537, key_size=key_size)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(common_name), key, days=days)
        return (
            self.write(f"{common_name}.key", private_pem(key)),
            self.write(f"{common_name}.pem", pem(certificate)),
        )

    def revoke(self, certificates: Iterable[str] = (), *, name: str = "crl.pem", days: int = 1) -> str:
        """Return the file of a CRL with these certificates' files."""
        builder = x509.CertificateRevocationListBuilder(
            self._name, last_update=_NOW - 2 * _DAY, next_update=_NOW + days * _DAY
        )
        for path in certificates:
            found = x509.load_pem_x509_certificate(Path(path).read_bytes())
            revoked = x509.RevokedCertificateBuilder(found.serial_number, _NOW - _DAY).build()
            builder = builder.add_revoked_certificate(revoked)
        return self.write(name, builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def _sign(
        self, subject: x509.Name, key: Key, *, authority: bool = False, days: int = 1
    ) -> x509.Certificate:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=_NOW - 2 * _DAY,
            not_valid_after=_NOW + days * _DAY,
        ).add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())
