"""Tests for :mod:`dicomnode.credentials`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.cred.credentials import IAnonymous, ICredentials, IUsernamePassword
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import credentials
from dicomnode.core.items import UserIdentity
from dicomnode.credentials import (
    IJSONWebToken,
    IKerberosServiceTicket,
    ISAMLAssertion,
    IUsername,
    credentials_of,
    described,
)

SECRET = b"s3cret"

#: By type: an identity, the interface of its credentials, their attributes, and how a log describes it.
TYPES: tuple[tuple[UserIdentity | None, type[ICredentials], dict[str, bytes], str], ...] = (
    (UserIdentity(1, b"alice"), IUsername, {"username": b"alice"}, "user 'alice', without a passcode"),
    (
        UserIdentity(2, b"alice", SECRET),
        IUsernamePassword,
        {"username": b"alice", "password": SECRET},
        "user 'alice'",
    ),
    (
        UserIdentity(3, SECRET),
        IKerberosServiceTicket,
        {"ticket": SECRET, "response": b""},
        "who has a Kerberos service ticket",
    ),
    (
        UserIdentity(4, SECRET),
        ISAMLAssertion,
        {"assertion": SECRET, "response": b""},
        "who has a SAML assertion",
    ),
    (
        UserIdentity(5, SECRET),
        IJSONWebToken,
        {"token": SECRET, "response": b""},
        "who has a JSON Web Token",
    ),
    (None, IAnonymous, {}, "who offers no user identity"),
)


class CredentialsTests(SynchronousTestCase):
    """Credentials are what twisted.cred can check, and keep to themselves what is secret."""

    def test_types(self) -> None:
        """Each type has an interface of its own, and one only; what is sent is in the attributes."""
        for identity, interface, values, _ in TYPES:
            offered = credentials_of(identity)
            self.assertTrue(verifyObject(interface, offered))
            others = {kind for kind in credentials.INTERFACES if kind.providedBy(offered)}
            self.assertEqual(others, {interface})
            for name, value in values.items():
                self.assertEqual(getattr(offered, name), value)

    def test_repr(self) -> None:
        """Neither the repr of credentials nor what a log says shows a passcode, a ticket or a token."""
        for identity, _, values, description in TYPES:
            offered: Any = credentials_of(identity)
            if "response" in values:
                offered.response = b"s3cret too"
            self.assertNotIn("s3cret", repr(offered))
            self.assertNotIn("s3cret", repr(identity))
            self.assertEqual(described(identity), description)

    def test_passcode(self) -> None:
        """A passcode is the right one, or is not."""
        offered: Any = credentials_of(UserIdentity(2, b"alice", SECRET))
        self.assertTrue(offered.checkPassword(SECRET))
        self.assertFalse(offered.checkPassword(b"other"))

    def test_unknown(self) -> None:
        """There are no other types, and user names are UTF-8, as the standard has it."""
        for identity, why in (
            (UserIdentity(0, b""), "a user identity of type 0 is unknown"),
            (UserIdentity(6, SECRET), "a user identity of type 6 is unknown"),
            (UserIdentity(1, b"\xff"), "the user name is not UTF-8"),
            (UserIdentity(2, b"\xff", SECRET), "the user name is not UTF-8"),
        ):
            error = self.assertRaises(ValueError, credentials_of, identity)
            self.assertEqual(str(error), why)
