"""How long a login takes, when it ends, and who is told of it."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.cred.checkers import (
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin, UnhandledCredentials
from twisted.cred.portal import IRealm
from twisted.cred.portal import Portal as OnePortal
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.machine import State
from dicomnode.credentials import IJSONWebToken, IKerberosServiceTicket, ISAMLAssertion, IUsername, Username
from dicomnode.identity import CheckerFailed, LoginNotPossible, Portal, User, Users
from dicomnode.interfaces import IUser
from dicomnode.services import Verification
from dicomnode.testing import Peer
from dicomnode.timers import Timeouts
from tests.identitycases import ALICE, SECRET, TOO_LATE, Checker, LoginCase, Realm
from tests.logs import WHO, LogCase


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
