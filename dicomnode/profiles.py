"""The Secure Transport Connection Profiles of PS3.15 Annex B, as data."""

from __future__ import annotations

from enum import Enum
from typing import Any

from OpenSSL import SSL
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion

#: Older versions of Twisted do not speak the version, either, that the maximum is lowered to.
_EXCLUSIVE = bool(CertificateOptions(lowerMaximumSecurityTo=TLSVersion.TLSv1_3)._options & SSL.OP_NO_TLSv1_3)


class Profile(Enum):
    """A Secure Transport Connection Profile of PS3.15, by the name that it has in an endpoint string.

    Whatever the profile, TLS 1.0 and 1.1 are not spoken. Where the standard leaves suites to the
    implementation, they are those of RFC 9325 4.2. The standard has retired the first three in favour of
    the last: they are of BCP 195 as it was, whose DHE and static RSA RFC 9325 4.1 would not have negotiated.
    """

    #: BCP 195 TLS (B.9), with what the AES TLS profile (B.3) had in TLS 1.2: it is for the installed base
    BCP_195 = "bcp195"
    #: Non-Downgrading BCP 195 TLS (B.10)
    NON_DOWNGRADING = "non-downgrading"
    #: Extended BCP 195 TLS (B.11): no suites but those it names, so no TLS 1.3 either
    EXTENDED = "extended"
    #: BCP 195 RFC 8996, 9325 TLS (B.12), the one in force
    RFC_9325 = "rfc9325"

    @property
    def suites(self) -> tuple[str, ...]:
        """The cipher suites of TLS 1.2, preferred first."""
        return _SUITES[self]

    @property
    def maximum(self) -> Any:
        """The newest version of TLS, as Twisted's ``lowerMaximumSecurityTo``; None is any."""
        if self is not Profile.EXTENDED:
            return None
        return TLSVersion.TLSv1_3 if _EXCLUSIVE else TLSVersion.TLSv1_2

    @property
    def ciphers(self) -> Any:
        """The suites, as Twisted's ``acceptableCiphers``."""
        names = ":".join(map(openssl_name, self.suites))
        return AcceptableCiphers.fromOpenSSLCipherString(names)  # type: ignore[no-untyped-call]


_ECDHE = (
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
)
_DHE = ("TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256")

#: B.11 would have Camellia in GCM, too, where it is there: OpenSSL has none.
_SUITES = {
    Profile.BCP_195: (*_ECDHE, *_DHE, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    Profile.NON_DOWNGRADING: (*_ECDHE, *_DHE),
    Profile.EXTENDED: (*_ECDHE, *_DHE),
    Profile.RFC_9325: _ECDHE,
}


def openssl_name(suite: str) -> str:
    """Return what OpenSSL calls a cipher suite of TLS 1.2."""
    if suite == "TLS_RSA_WITH_AES_128_CBC_SHA":
        return "AES128-SHA"
    return suite.removeprefix("TLS_").replace("WITH_AES_", "AES").replace("_", "-")
