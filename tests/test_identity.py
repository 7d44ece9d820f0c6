"""Tests for :mod:`dicomnode.identity`: users log in, or are refused, and nobody learns their secrets."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import pwd
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.cred.checkers import (
    AllowAnonymousAccess,
    FilePasswordDB,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin, UnhandledCredentials
from twisted.cred.portal import IRealm
from twisted.cred.portal import Portal as OnePortal
from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, implementer
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.machine import State
from dicomnode.core.pdu import AssociateAC, AssociateRJ
from dicomnode.credentials import IJSONWebToken, IKerberosServiceTicket, ISAMLAssertion, IUsername, Username
from dicomnode.errors import AssociationRejected
from dicomnode.identity import CheckerFailed, LoginNotPossible, Portal, User, Users
from dicomnode.interfaces import IUser
from dicomnode.limits import Limits
from dicomnode.services import Verification
from dicomnode.testing import Peer
from dicomnode.timers import Timeouts
from tests.cases import ShellTestCase
from tests.logs import WHO, LogCase

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
        self.assertRegex(traceback, r"test_identity.py\W.*requestAvatarId\n")

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


class TimeTests(LoginCase):
    """A login has as long as ARTIM runs."""

    def waits(self, **options: Any) -> tuple[Deferred[bytes], Peer]:
        """Return what a checker waits for, and the peer that waits for the checker."""
        answer: Deferred[bytes] = Deferred()
        self.lets_in(Checker(answer=answer), **options)
        peer = self.offers(ALICE)
        self.assertState(peer, State.STA3)
        return answer, peer

    def test_in_time(self) -> None:
        """A checker may take its time, and no timer outlives it."""
        answer, peer = self.waits()
        self.passes(9.9)
        answer.callback(b"alice")
        peer.exchange()
        self.assertEstablished(peer)

    def test_too_late(self) -> None:
        """A login that hangs is cancelled, and the peer may try again later."""
        _, peer = self.waits()
        self.passes(9.9)
        self.assertState(peer, State.STA3)
        self.passes(0.2)
        self.assertRefused(peer, TOO_LATE, "user 'alice' could not be checked within 10 s")
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_no_limit(self) -> None:
        """Where the timeout is 0, there is none."""
        answer, peer = self.waits(timeouts=Timeouts(0, 0, 0))
        self.assertPatient()
        answer.callback(b"alice")
        peer.exchange()
        self.assertEstablished(peer)

    def test_success_too_late(self) -> None:
        """A login that succeeds when the peer has been refused is logged out at once."""
        login: Deferred[Any] = Deferred(lambda deferred: deferred.callback(self.realm_found()))
        self.accepts(Verification(), portal=self.portal_of(login))
        peer = self.offers(ALICE)
        self.passes(10)
        self.assertRefused(peer, TOO_LATE, "user 'alice' could not be checked within 10 s")
        self.assertEqual((self.realm.went, self.acceptor.logins), (1, {}))

    def test_success_after_the_peer_has_gone(self) -> None:
        """So is one that succeeds when the peer has gone."""
        for leave in (Peer.aborts, lambda peer: peer.transport.lose()):
            self.realm.went = 0
            login: Deferred[Any] = Deferred(lambda deferred: deferred.callback(self.realm_found()))
            self.accepts(Verification(), portal=self.portal_of(login))
            leave(self.offers(ALICE))
            self.assertEqual((self.realm.went, self.acceptor.logins), (1, {}))
        self.assertEqual(self.seen.of(events.LoggedIn), [])

    def test_success_much_later(self) -> None:
        """Even when it takes its time to succeed."""
        inner: Deferred[Any] = Deferred(lambda _: None)
        found: Deferred[Any] = Deferred()
        inner.addErrback(lambda _: found)
        self.accepts(Verification(), portal=self.portal_of(inner))
        self.offers(ALICE).aborts()
        self.assertEqual(self.realm.went, 0)
        found.callback(self.realm_found())
        self.assertEqual((self.realm.went, self.acceptor.logins), (1, {}))

    def test_slow_realm(self) -> None:
        """An avatar that a realm makes for a peer that has gone meanwhile is logged out at once."""
        for leaves in (True, False):
            made: Deferred[Any] = Deferred()  # as of a thread, which nothing stops
            self.realm = Realm()
            self.patch(self.realm, "requestAvatar", lambda *_, made=made: made)
            self.lets_in(Checker())
            peer = self.offers(ALICE)
            peer.aborts() if leaves else self.passes(10)
            self.assertEqual(self.realm.went, 0)
            made.callback(self.realm_found())
            self.assertEqual((self.realm.went, self.acceptor.logins), (1, {}))
        self.assertEqual(self.seen.of(events.LoggedIn), [])
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_failure_too_late(self) -> None:
        """One that fails then, and not by refusing, is told of; one that refuses is not."""
        for error, count in ((KeyError("s3cret"), 1), (UnauthorizedLogin(), 0)):
            self.seen.events.clear()
            login = Deferred[Any](partial(self.fails, error))
            self.accepts(Verification(), portal=self.portal_of(login))
            self.offers(ALICE).aborts()
            self.assertEqual(len(self.seen.of(events.Unexpected)), count)

    def fails(self, error: Exception, login: Deferred[Any]) -> None:
        login.errback(error)

    def test_policy_takes_no_notice(self) -> None:
        """Whose policy takes no notice that the peer has gone is logged out at once, too."""
        later: Deferred[None] = Deferred()

        class Policy:
            def consider(self, request: object, peer: object) -> Deferred[None]:
                considered: Deferred[None] = Deferred(lambda deferred: deferred.callback(None))
                return considered.addCallback(lambda _: later)

        self.lets_in(Checker(), policy=Policy())
        self.offers(ALICE).transport.lose()
        self.assertEqual(self.realm.came, [])
        later.callback(None)
        self.assertEqual((len(self.realm.came), self.realm.went, self.acceptor.logins), (1, 1, {}))
        self.assertEqual(self.seen.of(events.LoggedIn), [])

    def realm_found(self) -> Any:
        return IUser, User("alice"), self.realm.logout

    def portal_of(self, login: Deferred[Any]) -> Any:
        """Return a portal whose login is this one."""

        class Given:
            def login(self, *_: object) -> Deferred[Any]:
                return login

        return Given()


class LogoutTests(LoginCase):
    """A user is logged in for as long as the association lasts."""

    def test_mind(self) -> None:
        """The association is the mind; the acceptor knows the avatar."""
        self.lets_in(Checker())
        peer = self.offers(ALICE)
        self.assertEqual(self.realm.came, [(b"alice", peer.association)])
        login = self.acceptor.logins[cast(Any, peer.association)]
        self.assertIs(login.user, self.realm.avatar)
        self.assertEqual(login.name, "alice")

    def test_ends(self) -> None:
        """However the association ends, the user is logged out, once."""
        for leave in (Peer.releases, Peer.aborts, Peer.exchange):
            self.realm.went = 0
            self.lets_in(Checker())
            peer = self.offers(ALICE)
            leave(peer)
            peer.transport.lose()
            self.assertEqual((self.realm.went, self.acceptor.logins), (1, {}))

    def test_failure(self) -> None:
        """A realm that fails to log out is told of, without its words; nothing else comes of it."""

        def logout() -> None:
            raise KeyError("s3cret")

        self.realm.logout = logout
        self.lets_in(Checker())
        self.offers(ALICE).transport.lose()
        (event,) = self.seen.of(events.Unexpected)
        self.assertEqual(event.doing, "logging out a user")
        self.assertEqual(event.failure.getErrorMessage(), "the realm has raised KeyError")
        self.assertEqual(self.acceptor.associations, set())

    def test_nameless(self) -> None:
        """An avatar without a name is as good as any."""
        self.realm.avatar = object()
        self.lets_in(Checker())
        self.assertEstablished(self.offers(ALICE))
        self.assertEqual(self.last(events.LoggedIn).user, "")


class PortalTests(SynchronousTestCase):
    """A portal and a realm may be used without an association, as any of Twisted's."""

    def test_users(self) -> None:
        """Users have the names by which their checkers know them."""
        realm = Users()
        self.assertTrue(verifyObject(IRealm, realm))
        for avatar_id, name in (
            (b"zo\xc3\xab", "zo\u00eb"),
            (b"\xff", "\\xff"),
            ("alice", "alice"),
            ((), ""),
        ):
            kind, user, logout = realm.requestAvatar(avatar_id, None, IUser)
            self.assertIs(kind, IUser)
            self.assertTrue(verifyObject(IUser, user))
            self.assertEqual(user.name, name)
            logout()
        self.assertRaises(NotImplementedError, realm.requestAvatar, b"alice", None, Interface)
        self.assertRaises(TypeError, realm.requestAvatar, None, None, IUser)

    def test_login(self) -> None:
        """Somebody without an association logs in, and what fails is in Twisted's log."""
        portal = Portal(Users(), [Checker(IUsername, answer=KeyError("s3cret"))])
        credentials = Username(b"alice")
        self.failureResultOf(portal.login(credentials, None, IUser), LoginNotPossible)
        (failure,) = self.flushLoggedErrors(CheckerFailed)
        self.assertNotIn("s3cret", failure.getTraceback())
        portal.registerChecker(Checker())
        portal.registerChecker(Checker(), IUsername)
        self.assertEqual(portal.listCredentialsInterfaces(), [IUsername, IUsernamePassword])
        _, user, _ = self.successResultOf(portal.login(credentials, None, IUser))
        self.assertEqual(user, User("alice"))
        self.flushLoggedErrors(CheckerFailed)

    def test_unhandled(self) -> None:
        """Where there is no checker, the portal says so as Twisted's does."""
        self.failureResultOf(Portal(Users()).login(Username(b"alice"), None, IUser), UnhandledCredentials)


class LogTests(LogCase):
    """Whatever becomes of a login, no log has a passcode, a ticket, a token or a server's response."""

    IDENTITIES = (
        UserIdentity(1, b"alice", b"s3cret-passcode", True),
        UserIdentity(2, b"alice", b"s3cret-passcode", True),
        UserIdentity(3, b"s3cret-ticket", b"", True),
        UserIdentity(4, b"s3cret-assertion", b"", True),
        UserIdentity(5, b"s3cret-token", b"", True),
        UserIdentity(6, b"s3cret-unknown", b"s3cret-passcode", True),
    )
    KINDS = (IUsername, IUsernamePassword, IKerberosServiceTicket, ISAMLAssertion, IJSONWebToken)

    def told(self, identity: UserIdentity, portal: Any, level: str, json: bool = False) -> str:
        """Return what is written of an association with this identity, from its beginning to its end."""
        peer = self.start(level, json=json, trace=True, portal=portal)
        information = UserInformation(max_length=16382, user_identity=identity)
        peer.associates(calling="STORESCU", user_information=information)
        peer.transport.lose()
        return self.written()

    def checkers(self, credentials_of: Callable[[Any], Any]) -> list[Any]:
        """Return checkers that answer by what they are asked about."""

        class Asking(Checker):
            def requestAvatarId(self, credentials: Any) -> Any:
                if hasattr(credentials, "response"):
                    credentials.response = b"s3cret-response"
                return credentials_of(credentials)

        return [Asking(*self.KINDS), Checker(*self.KINDS, answer=UnauthorizedLogin("s3cret-refusal"))]

    def test_nothing_secret(self) -> None:
        """Not at the debug level, as text or as JSON, of whoever is let in, refused, or not to be checked."""

        def secret(credentials: Any) -> bytes:
            names = ("ticket", "assertion", "token", "password")
            return next((getattr(credentials, name) for name in names if hasattr(credentials, name)), b"")

        def known(credentials: Any) -> bytes:
            return getattr(credentials, "username", None) or secret(credentials)

        def refuse(credentials: Any) -> Any:
            raise UnauthorizedLogin(secret(credentials))

        def breaks(credentials: Any) -> Any:
            passcode = secret(credentials)
            raise KeyError(passcode, credentials)

        def breaks_later(credentials: Any) -> Any:
            passcode = secret(credentials)
            return fail(ValueError(f"what is {passcode!r}?"))

        def breaks_twice(credentials: Any) -> Any:
            try:
                raise KeyError(secret(credentials))
            except KeyError as error:
                raise RuntimeError(f"{credentials}") from error

        for identity in self.IDENTITIES:
            for behave in (known, refuse, breaks, breaks_later, breaks_twice):
                for make in (Portal, OnePortal):
                    for json in (False, True):
                        checkers = self.checkers(behave)
                        portal = make(Users(), checkers if make is Portal else checkers[:1])
                        written = self.told(identity, portal, "debug", json)
                        self.assertTrue(written)
                        for text in (written, repr(self.recorder.events)):
                            self.assertNotIn("s3cret", text, (identity.type, behave.__name__, json))

    def test_lines(self) -> None:
        """The log says who has logged in, and who has not."""
        portal = Portal(Users(), [InMemoryUsernamePasswordDatabaseDontUse(alice=SECRET)])
        self.assertEqual(
            self.told(ALICE, portal, "info").splitlines()[:2],
            ["I: User alice has logged in", "I: Accepting Association"],
        )
        self.assertIn(
            f"W: Association rejected: user 'al\\x1bce' is not let in ({WHO})\n",
            self.told(UserIdentity(2, b"al\x1bce", SECRET), portal, "info"),
        )
