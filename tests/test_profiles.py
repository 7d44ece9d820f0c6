"""Tests for :mod:`dicomnode.profiles`, by what is negotiated."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from OpenSSL import SSL

from dicomnode import pem
from dicomnode.profiles import Profile, openssl_name
from tests.tlscases import TLSTestCase


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
