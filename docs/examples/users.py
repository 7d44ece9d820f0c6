"""Users who log in: with a JSON Web Token that was signed with our key, or with a passcode.

``python users.py`` runs it on port 11112, and keeps nothing.
"""

import hmac
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable

from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from zope.interface import implementer

from dicomnode import Acceptor, Discard, Storage
from dicomnode.credentials import IJSONWebToken
from dicomnode.identity import Portal, User
from dicomnode.interfaces import IAssociation, IUser


@implementer(ICredentialsChecker)
class SignedTokens:
    """Knows whom a token names, if it was signed with a key (HS256 of RFC 7518) and is still valid."""

    credentialInterfaces = (IJSONWebToken,)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def requestAvatarId(self, credentials: IJSONWebToken) -> bytes:
        try:
            signed, signature = credentials.token.rsplit(b".", 1)
            header, claims = (json.loads(decoded(part)) for part in signed.split(b"."))
            genuine = hmac.compare_digest(decoded(signature), hmac.digest(self._key, signed, "sha256"))
            if header["alg"] == "HS256" and genuine and time.time() < claims["exp"]:
                return claims["sub"].encode()
        except (KeyError, TypeError, ValueError):
            pass  # it is no token, or does not say what we need
        raise UnauthorizedLogin


def decoded(part: bytes) -> bytes:
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4))


@implementer(IRealm)
class Door:
    """Says who comes and goes."""

    def requestAvatar(
        self, avatarId: bytes, mind: IAssociation, *interfaces: type
    ) -> tuple[type, User, Callable[[], None]]:
        user = User(avatarId.decode())
        print(f"{user.name} has come from {mind.peer.host}")
        return IUser, user, lambda: print(f"{user.name} has gone")


def main(
    reactor, description: str = "tcp:11112", key: bytes = b"of 32 octets or more, from a file"
) -> Deferred[None]:
    portal = Portal(Door(), [SignedTokens(key), InMemoryUsernamePasswordDatabaseDontUse(ct1=b"sesame")])
    acceptor = Acceptor(reactor, [Storage(Discard())], portal=portal)
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
