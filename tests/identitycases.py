"""What tests of user identities have in common: checkers and realms that do as they are told."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import IRealm
from zope.interface import Interface, implementer

from dicomnode import events
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.pdu import AssociateAC, AssociateRJ
from dicomnode.identity import Portal, User
from dicomnode.services import Verification
from dicomnode.testing import Peer
from tests.cases import ShellTestCase

SECRET = b"s3cret"
ALICE = UserIdentity(2, b"alice", SECRET)

REFUSED, NOT_NOW, TOO_LATE = (1, 2, 1), (2, 1, 1), (2, 3, 1)


@implementer(ICredentialsChecker)
class Checker:
    """A checker that answers as it is told, and remembers what it was asked."""

    def __init__(self, *kinds: type[Interface], answer: Any = b"alice", response: bytes = b"") -> None:
        self.credentialInterfaces = kinds or (IUsernamePassword,)
        self.answer = answer
        self.response = response
        self.asked: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked.append(credentials)
        if self.response:
            credentials.response = self.response
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@implementer(IRealm)
class Realm:
    """A realm that remembers who came, and who went."""

    def __init__(self, avatar: object = None) -> None:
        self.avatar = User("alice") if avatar is None else avatar
        self.came: list[tuple[object, object]] = []
        self.went = 0
        self.logout: Callable[[], None] = self._logout

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: type[Interface]) -> Any:
        self.came.append((avatarId, mind))
        if isinstance(self.avatar, Exception):
            raise self.avatar
        return interfaces[0], self.avatar, self.logout

    def _logout(self) -> None:
        self.went += 1


class LoginCase(ShellTestCase):
    """Tests of an acceptor with a portal."""

    def setUp(self) -> None:
        super().setUp()
        self.realm = Realm()

    def lets_in(self, *checkers: Any, realm: Any = None, **options: Any) -> None:
        """Have an acceptor whose portal has these checkers."""
        portal = Portal(self.realm if realm is None else realm, checkers)
        self.accepts(Verification(), portal=portal, **options)

    def offers(self, identity: UserIdentity | None) -> Peer:
        """Return a peer that has offered a user identity."""
        return self.associates(user_information=UserInformation(max_length=16382, user_identity=identity))

    def assertRefused(self, peer: Peer, codes: tuple[int, int, int], why: str) -> None:
        peer.exchange()
        self.assertAnswered(peer, AssociateRJ(*codes))
        self.assertEqual(self.last(events.AssociationRejected).why, why)

    def answer(self, peer: Peer) -> AssociateAC:
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC)
        return confirmed.answer
