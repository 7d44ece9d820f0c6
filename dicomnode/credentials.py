"""What a user identity (PS3.7 D.3.3.7) is to :mod:`twisted.cred`: credentials, of five types.

A user name with a passcode is cred's own ``IUsernamePassword``, which every checker of passwords knows;
who offers no identity is ``IAnonymous``. The other four types have interfaces here. A checker names those
that it checks in ``credentialInterfaces``. None of them shows what is secret in its ``repr``.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from twisted.cred.credentials import Anonymous, IAnonymous, ICredentials, IUsernamePassword
from zope.interface import Attribute, implementer

from dicomnode.core.items import UserIdentity


class IUsername(ICredentials):
    """A user name, and nothing that proves it (type 1)."""

    username: bytes = Attribute("In UTF-8.")


class IKerberosServiceTicket(ICredentials):
    """A Kerberos service ticket (type 3)."""

    ticket: bytes = Attribute("The AP-REQ of RFC 4120.")
    response: bytes = Attribute("The Kerberos server ticket: who checks the ticket may set it.")


class ISAMLAssertion(ICredentials):
    """A SAML assertion (type 4)."""

    assertion: bytes = Attribute("In XML.")
    response: bytes = Attribute("The SAML response: who checks the assertion may set it.")


class IJSONWebToken(ICredentials):
    """A JSON Web Token (type 5)."""

    token: bytes = Attribute("As RFC 7519 has it.")
    response: bytes = Attribute("What is sent in return: who checks the token may set it.")


@implementer(IUsername)
@dataclass(frozen=True, slots=True, eq=False)
class Username:
    """A user name."""

    username: bytes


@implementer(IUsernamePassword)
@dataclass(frozen=True, slots=True, eq=False)
class UsernamePasscode:
    """A user name and a passcode (type 2)."""

    username: bytes
    password: bytes = field(repr=False)  #: cred's word for the passcode

    def checkPassword(self, password: bytes) -> bool:
        """Is this the passcode? That takes as long whether it is or not."""
        return hmac.compare_digest(self.password, password)


@implementer(IKerberosServiceTicket)
@dataclass(slots=True, eq=False)
class KerberosServiceTicket:
    """A Kerberos service ticket."""

    ticket: bytes = field(repr=False)
    response: bytes = field(default=b"", repr=False)


@implementer(ISAMLAssertion)
@dataclass(slots=True, eq=False)
class SAMLAssertion:
    """A SAML assertion."""

    assertion: bytes = field(repr=False)
    response: bytes = field(default=b"", repr=False)


@implementer(IJSONWebToken)
@dataclass(slots=True, eq=False)
class JSONWebToken:
    """A JSON Web Token."""

    token: bytes = field(repr=False)
    response: bytes = field(default=b"", repr=False)


#: What can be checked.
INTERFACES = (
    IUsername,
    IUsernamePassword,
    IKerberosServiceTicket,
    ISAMLAssertion,
    IJSONWebToken,
    IAnonymous,
)

#: Of the types that are one thing: the credentials, and what they are called.
_ONE: Mapping[int, tuple[Callable[[bytes], ICredentials], str]] = {
    3: (KerberosServiceTicket, "a Kerberos service ticket"),
    4: (SAMLAssertion, "a SAML assertion"),
    5: (JSONWebToken, "a JSON Web Token"),
}


def credentials_of(identity: UserIdentity | None) -> ICredentials:
    """Return the credentials that a peer offers.

    :raises ValueError: when they are of no type that the standard knows, or a user name is not UTF-8.
    """
    if identity is None:
        return Anonymous()
    if identity.type in _ONE:
        make, _ = _ONE[identity.type]
        return make(identity.primary)
    if identity.type not in (1, 2):
        raise ValueError(f"a user identity of type {identity.type} is unknown")
    try:
        identity.primary.decode()
    except UnicodeDecodeError:
        raise ValueError("the user name is not UTF-8") from None
    if identity.type == 1:
        return Username(identity.primary)
    return UsernamePasscode(identity.primary, identity.secondary)


def described(identity: UserIdentity | None) -> str:
    """Return what a log may say of an identity that has credentials."""
    if identity is None:
        return "who offers no user identity"
    if identity.type in _ONE:
        _, name = _ONE[identity.type]
        return f"who has {name}"
    without = "" if identity.type == 2 else ", without a passcode"
    return f"user {identity.primary.decode('utf-8', 'backslashreplace')!r}{without}"
