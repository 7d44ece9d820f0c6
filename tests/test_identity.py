"""Tests for :mod:`dicomnode.identity`: users log in, or are refused, and nobody learns their secrets."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import pwd
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.cred.checkers import (
    AllowAnonymousAccess,
    FilePasswordDB,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.cred.portal import Portal as OnePortal
from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred, fail
from zope.interface import Interface

from dicomnode import events
from dicomnode.core.items import UserIdentity
from dicomnode.core.pdu import AssociateRJ
from dicomnode.credentials import IJSONWebToken, IKerberosServiceTicket, ISAMLAssertion, IUsername
from dicomnode.errors import AssociationRejected
from dicomnode.identity import CheckerFailed, Portal, User, Users
from dicomnode.limits import Limits
from dicomnode.services import Verification
from tests.identitycases import ALICE, NOT_NOW, REFUSED, SECRET, Checker, LoginCase


class StockCheckerTests(LoginCase):
    """User names with passcodes are checked by every checker of Twisted's."""

    def assertChecks(self, checker: Any) -> None:
        """Assert that it knows alice and her passcode."""
        self.lets_in(checker, realm=Users())
        self.assertEstablished(self.offers(ALICE))
        self.assertEqual(self.last(events.LoggedIn).user, "alice")
        self.assertRefused(
            self.offers(UserIdentity(2, b"alice", b"other")), REFUSED, "user 'alice' is not let in"
        )
        self.assertRefused(self.offers(UserIdentity(2, b"bob", SECRET)), REFUSED, "user 'bob' is not let in")
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_memory(self) -> None:
        """A dict of passcodes."""
        self.assertChecks(InMemoryUsernamePasswordDatabaseDontUse(alice=SECRET))

    def test_file(self) -> None:
        """A file of passcodes."""
        path = Path(self.mktemp())
        path.write_text("bob:t0p\nalice:s3cret\n")
        self.assertChecks(FilePasswordDB(str(path)))

    def test_hashed_file(self) -> None:
        """A file of what passcodes are hashed to."""
        path = Path(self.mktemp())
        path.write_text("alice:terc3s\n")
        self.assertChecks(FilePasswordDB(str(path), hash=lambda username, passcode, found: passcode[::-1]))

    def test_no_file(self) -> None:
        """Without the file nobody is let in; the checker says so in its log."""
        self.lets_in(FilePasswordDB(self.mktemp()))
        self.assertRefused(self.offers(ALICE), REFUSED, "user 'alice' is not let in")

    def test_unix(self) -> None:
        """The accounts of a UNIX system, whose checker makes text of the user's name."""
        checker = makeChecker("unix")

        def account(name: str) -> SimpleNamespace:
            return SimpleNamespace(pw_passwd={"alice": "terc3s"}[name])

        self.patch(pwd, "getpwnam", account)
        self.patch(checker, "checkSpwd", lambda *_: None)
        plugin = import_module(type(checker).__module__)
        self.patch(
            plugin, "verifyCryptedPassword", lambda crypted, passcode: crypted.encode() == passcode[::-1]
        )
        self.assertChecks(checker)

    def test_anonymous(self) -> None:
        """Who offers no identity is let in where that is said; who offers a wrong one is not."""
        self.lets_in(
            AllowAnonymousAccess(), InMemoryUsernamePasswordDatabaseDontUse(alice=SECRET), realm=Users()
        )
        peer = self.offers(None)
        self.assertEstablished(peer)
        self.assertEqual(self.last(events.LoggedIn).user, "")
        self.assertIsNone(self.answer(peer).user_information.user_identity_response)
        self.assertRefused(self.offers(UserIdentity(2, b"bob")), REFUSED, "user 'bob' is not let in")


class TypeTests(LoginCase):
    """Each type of user identity has its checkers, and its response."""

    TYPES: Sequence[tuple[UserIdentity, type[Interface], bytes]] = (
        (UserIdentity(1, b"alice"), IUsername, b""),
        (UserIdentity(2, b"alice", SECRET), IUsernamePassword, b""),
        (UserIdentity(3, SECRET), IKerberosServiceTicket, b"server ticket"),
        (UserIdentity(4, SECRET), ISAMLAssertion, b"<response/>"),
        (UserIdentity(5, SECRET), IJSONWebToken, b""),
    )

    def test_types(self) -> None:
        """Each is let in by a checker of its own; a response is sent when asked for, and not otherwise."""
        for identity, kind, response in self.TYPES:
            for wanted in (False, True):
                checker = Checker(kind, response=response)
                self.lets_in(checker)
                offered = UserIdentity(identity.type, identity.primary, identity.secondary, wanted)
                peer = self.offers(offered)
                self.assertEstablished(peer)
                self.assertEqual(len(checker.asked), 1)
                information = self.answer(peer).user_information
                self.assertEqual(information.user_identity_response, response if wanted else None)
                self.assertEqual(information.max_length, 16382)
                self.assertNotIn("server ticket", repr(self.acceptor.logins))

    def test_no_checker(self) -> None:
        """What nobody checks is refused."""
        self.lets_in(AllowAnonymousAccess())
        self.assertRefused(
            self.offers(UserIdentity(5, SECRET)), REFUSED, "there is no checker for who has a JSON Web Token"
        )
        self.lets_in(Checker())
        self.assertRefused(self.offers(None), REFUSED, "there is no checker for who offers no user identity")
        self.assertRefused(
            self.offers(UserIdentity(1, b"alice")),
            REFUSED,
            "there is no checker for user 'alice', without a passcode",
        )

    def test_unknown_type(self) -> None:
        """What the standard does not know is refused, and no checker asked."""
        checker = Checker(Interface)
        self.lets_in(checker)
        self.assertRefused(self.offers(UserIdentity(9, b"")), REFUSED, "a user identity of type 9 is unknown")
        self.assertEqual(checker.asked, [])

    def test_names(self) -> None:
        """A ticket is no name, should somebody take it for one."""
        for name, shown in (("alice@EXAMPLE", "alice@EXAMPLE"), ("s3cret", ""), ("b's3cret'", "")):
            self.realm.avatar = User(name)
            self.lets_in(Checker(IKerberosServiceTicket))
            self.offers(UserIdentity(3, SECRET))
            self.assertEqual(self.last(events.LoggedIn).user, shown)

    def test_no_portal(self) -> None:
        """Without a portal nobody looks at identities, and no response is sent."""
        self.accepts(Verification())
        peer = self.offers(UserIdentity(2, b"alice", b"any", True))
        self.assertEstablished(peer)
        self.assertIsNone(self.answer(peer).user_information.user_identity_response)
        self.assertEqual(self.seen.of(events.LoggedIn), [])


class RefusalTests(LoginCase):
    """Who is not let in is refused; the log says why, and no secret."""

    def test_unauthorized(self) -> None:
        """A checker refuses at once, or later, and so does a realm."""
        for answer in (UnauthorizedLogin("s3cret"), fail(UnauthorizedLogin("s3cret"))):
            self.lets_in(Checker(answer=answer))
            self.assertRefused(self.offers(ALICE), REFUSED, "user 'alice' is not let in")
        self.realm.avatar = LoginDenied("s3cret")
        self.lets_in(Checker())
        self.assertRefused(self.offers(ALICE), REFUSED, "user 'alice' is not let in")
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_own_codes(self) -> None:
        """A checker, or a realm, may refuse with other codes, and is the last that is asked then."""
        rejected = AssociationRejected(2, 3, 2, "alice has enough associations")
        other = Checker()
        self.lets_in(Checker(answer=rejected), other)
        self.assertRefused(self.offers(ALICE), (2, 3, 2), "alice has enough associations")
        self.assertEqual(other.asked, [])
        self.realm.avatar = rejected
        self.lets_in(Checker())
        self.assertRefused(self.offers(ALICE), (2, 3, 2), "alice has enough associations")

    def assertUnexpected(self, words: str, doing: str) -> None:
        """Assert what was told of a failure, once; and that there is where it was, and nothing secret."""
        (event,) = self.seen.of(events.Unexpected)
        self.assertEqual((event.failure.getErrorMessage(), event.doing), (words, doing))
        self.assertIs(event.failure.type, CheckerFailed)
        for detail in ("default", "verbose"):
            self.assertNotIn("s3cret", event.failure.getTraceback(detail=detail))
        self.seen.events.clear()

    def test_failure(self) -> None:
        """A checker that fails refuses transiently, and is told of once, without its words."""
        for answer in (KeyError("s3cret"), fail(KeyError("s3cret"))):
            self.lets_in(Checker(answer=answer))
            self.assertRefused(self.offers(ALICE), NOT_NOW, "user 'alice' cannot be checked now")
            self.assertUnexpected("Checker has raised KeyError", "checking a user identity")

    def test_traceback(self) -> None:
        """It is told where a checker has failed."""
        self.lets_in(Checker(answer=KeyError("s3cret")))
        self.offers(ALICE)
        traceback = self.last(events.Unexpected).failure.getTraceback()
        self.assertRegex(traceback, r"identitycases.py\W.*requestAvatarId\n")

    def test_failing_realm(self) -> None:
        """So does a realm, in our portal and in Twisted's."""
        self.realm.avatar = KeyError("s3cret")
        for portal in (Portal(self.realm, [Checker()]), OnePortal(self.realm, [Checker()])):
            self.accepts(Verification(), portal=portal)
            self.assertRefused(self.offers(ALICE), NOT_NOW, "user 'alice' cannot be checked now")
            self.assertUnexpected("the portal has raised KeyError", "logging in a user")

    def test_failing_checker_of_another_portal(self) -> None:
        """So does the only checker of Twisted's portal."""
        portal = OnePortal(self.realm, [Checker(answer=KeyError("s3cret"))])
        self.accepts(Verification(), portal=portal)
        self.assertRefused(self.offers(ALICE), NOT_NOW, "user 'alice' cannot be checked now")
        self.assertUnexpected("the portal has raised KeyError", "logging in a user")

    def test_forgetful_checker(self) -> None:
        """A checker that forgets to say anything lets in nobody."""
        self.lets_in(Checker(answer=None), realm=Users())
        self.assertRefused(self.offers(ALICE), NOT_NOW, "user 'alice' cannot be checked now")
        self.assertUnexpected("the portal has raised TypeError", "logging in a user")

    def test_policy_first(self) -> None:
        """Whom the policy refuses, no checker is asked about."""

        class Policy:
            def consider(self, request: object, peer: object) -> None:
                raise AssociationRejected(1, 1, 3, "a stranger")

        checker = Checker()
        self.lets_in(checker, policy=Policy())
        self.assertRefused(self.offers(ALICE), (1, 1, 3), "a stranger")
        self.assertEqual(checker.asked, [])

    def test_limits(self) -> None:
        """Who is let in and finds no slot is logged out when the connection is closed."""
        self.lets_in(Checker(), limits=Limits(associations=1))
        self.assertEstablished(self.offers(ALICE))
        peer = self.offers(ALICE)
        self.assertAnswered(peer, AssociateRJ(2, 3, 2))
        self.assertEqual(self.realm.went, 0)
        peer.transport.lose()
        self.assertEqual(self.realm.went, 1)


class TurnTests(LoginCase):
    """Several checkers of one kind are asked in turn."""

    def test_first(self) -> None:
        """The first that lets the user in has decided."""
        checkers = [Checker(answer=UnauthorizedLogin()), Checker(answer=b"second"), Checker()]
        self.lets_in(*checkers)
        self.assertEstablished(self.offers(ALICE))
        self.assertEqual([len(checker.asked) for checker in checkers], [1, 1, 0])
        self.assertEqual([name for name, _ in self.realm.came], [b"second"])

    def test_stock(self) -> None:
        """Users may be in one of two stock checkers."""
        databases = [
            InMemoryUsernamePasswordDatabaseDontUse(alice=SECRET),
            InMemoryUsernamePasswordDatabaseDontUse(bob=b"t0p"),
        ]
        self.lets_in(*databases, realm=Users())
        for identity in (ALICE, UserIdentity(2, b"bob", b"t0p")):
            self.assertEstablished(self.offers(identity))
        self.assertRefused(self.offers(UserIdentity(2, b"bob", SECRET)), REFUSED, "user 'bob' is not let in")

    def test_nobody(self) -> None:
        """When none lets the user in, the association is refused."""
        self.lets_in(Checker(answer=UnauthorizedLogin()), Checker(answer=fail(UnauthorizedLogin())))
        self.assertRefused(self.offers(ALICE), REFUSED, "user 'alice' is not let in")

    def test_failure(self) -> None:
        """One that fails is told of, and the next one asked."""
        self.lets_in(Checker(answer=KeyError("s3cret")), Checker())
        self.assertEstablished(self.offers(ALICE))
        (event,) = self.seen.of(events.Unexpected)
        self.assertEqual(event.failure.getErrorMessage(), "Checker has raised KeyError")

    def test_failure_and_refusal(self) -> None:
        """Where one cannot say, a refusal by the others is transient."""
        self.lets_in(Checker(answer=KeyError("s3cret")), Checker(answer=UnauthorizedLogin()))
        self.assertRefused(self.offers(ALICE), NOT_NOW, "user 'alice' cannot be checked now")
        self.assertEqual(len(self.seen.of(events.Unexpected)), 1)

    def test_others_are_not_asked(self) -> None:
        """Only checkers of the kind are asked, each once."""
        hashed = Checker(IUsernamePassword, IUsernameHashedPassword, answer=UnauthorizedLogin())
        ticket = Checker(IKerberosServiceTicket)
        self.lets_in(hashed, ticket)
        self.assertRefused(self.offers(ALICE), REFUSED, "user 'alice' is not let in")
        self.assertEqual((len(hashed.asked), len(ticket.asked)), (1, 0))

    def test_cancelled(self) -> None:
        """When the peer leaves, the checker is cancelled, and the next one is not asked."""
        cancelled: list[object] = []
        other = Checker()
        self.lets_in(Checker(answer=Deferred(cancelled.append)), other)
        self.offers(ALICE).transport.lose()
        self.assertEqual((len(cancelled), other.asked), (1, []))
        self.assertEqual(self.seen.of(events.Unexpected), [])
