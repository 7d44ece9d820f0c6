"""Who uses the requestor: its user identity (PS3.7 D.3.3.7), and a login of :mod:`twisted.cred` with it.

A portal's checkers say who has shown what they know; its realm makes an avatar of that, an
:class:`~dicomnode.interfaces.IUser`, for as long as the association lasts. What checkers and realms raise
is told without its words, which may repeat what was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from twisted.cred import portal as cred
from twisted.cred.checkers import ANONYMOUS, ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import LoginFailed, Unauthorized, UnauthorizedLogin, UnhandledCredentials
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from dicomnode.core.items import UserIdentity
from dicomnode.credentials import credentials_of, described
from dicomnode.errors import AssociationRejected
from dicomnode.interfaces import IUser
from dicomnode.protocol import AssociationProtocol

#: Result, source, reason of PS3.8 Table 9-21: rejected permanent, by the service provider (ACSE related).
#: So is who may not associate to be refused; the standard has no reason for it.
AUTHENTICATION_FAILED = (1, 2, 1)
#: Rejected transient, by the service user: nobody can say now who this is.
AUTHENTICATION_NOT_POSSIBLE = (2, 1, 1)
#: Rejected transient, by the service provider (presentation related).
TEMPORARY_CONGESTION = (2, 3, 1)

_log = Logger()  # for who has no association that could tell

#: What no more is said of, once nobody waits for it.
_REFUSALS = (AssociationRejected, CancelledError, LoginFailed, Unauthorized)

_Found: TypeAlias = tuple[type[Interface], Any, Callable[[], None]]


class CheckerFailed(Exception):
    """A checker, or a realm, has failed otherwise than by refusing. What it has said is not repeated."""


class LoginNotPossible(LoginFailed):
    """No checker has let the user in, and one of them could not say: it has failed, which is told."""


@implementer(IUser)
@dataclass(frozen=True, slots=True)
class User:
    """A user of whom no more is known than the name."""

    name: str


@implementer(cred.IRealm)
class Users:
    """The realm of users who all may do the same. Its avatars are :class:`User`."""

    def requestAvatar(
        self, avatarId: bytes | str | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> _Found:
        if IUser not in interfaces:
            raise NotImplementedError("there are no avatars but users")
        if isinstance(avatarId, str):  # as the checker of UNIX accounts has it
            return IUser, User(avatarId), _nothing
        if isinstance(avatarId, bytes):
            return IUser, User(avatarId.decode("utf-8", "backslashreplace")), _nothing
        if avatarId != ANONYMOUS:  # a checker that returns nothing lets in nobody
            raise TypeError("this is no avatar ID")
        return IUser, User(""), _nothing


def _nothing() -> None:
    """Log out one of :class:`Users`: nothing is held."""


class Portal(cred.Portal):
    """A portal in which several checkers of one kind of credentials are asked in turn.

    In ``twisted.cred.portal.Portal`` the last one takes the place of the others. Here, the first that lets
    the user in has decided; one that fails is told of, and the next is asked.

    :param realm: makes avatars that provide IUser; :class:`Users` does.
    """

    def __init__(self, realm: cred.IRealm, checkers: Iterable[ICredentialsChecker] = ()) -> None:
        self._turns: list[tuple[ICredentialsChecker, Sequence[type[Interface]]]] = []
        super().__init__(realm, checkers)

    def registerChecker(self, checker: ICredentialsChecker, *credentialInterfaces: type[Interface]) -> None:
        super().registerChecker(checker, *credentialInterfaces)
        self._turns.append((checker, credentialInterfaces or tuple(checker.credentialInterfaces)))

    def login(
        self, credentials: ICredentials, mind: object, *interfaces: type[Interface]
    ) -> Deferred[_Found]:
        checkers = [
            checker for checker, kinds in self._turns if any(kind.providedBy(credentials) for kind in kinds)
        ]
        if not checkers:
            return super().login(credentials, mind, *interfaces)  # which fails, as it should
        asking = Deferred.fromCoroutine(self._ask(checkers, credentials, mind))
        return asking.addCallback(self._avatar, mind, interfaces)

    def _avatar(
        self, avatar_id: bytes | tuple[()], mind: object, interfaces: Sequence[type[Interface]]
    ) -> Deferred[_Found]:
        # A realm is not cancelled: what it has begun to make would come, and nobody would log it out.
        making: Deferred[Any] = maybeDeferred(self.realm.requestAvatar, avatar_id, mind, *interfaces)
        return _abandonable(making, mind, lambda: None)

    async def _ask(
        self, checkers: Sequence[ICredentialsChecker], credentials: ICredentials, mind: object
    ) -> bytes | tuple[()]:
        failed = False
        for checker in checkers:
            try:
                return await maybeDeferred(checker.requestAvatarId, credentials)
            except UnauthorizedLogin:
                continue
            except (AssociationRejected, CancelledError):
                raise
            except Exception:
                failed = True
                _tell(_failure(), type(checker).__name__, "checking a user identity", mind)
        raise LoginNotPossible if failed else UnauthorizedLogin


@dataclass(frozen=True, slots=True)
class Login:
    """A user who has logged in, for as long as an association lasts."""

    user: Any  #: the avatar, which provides IUser
    name: str  #: by which a log may know the user
    response: bytes | None = field(repr=False)  #: what the A-ASSOCIATE-AC is to say; None: nothing
    logout: Callable[[], None] = field(repr=False)  #: of cred


async def log_in(
    portal: cred.Portal,
    association: AssociationProtocol,
    identity: UserIdentity | None,
    *,
    clock: IReactorTime,
    seconds: float,
) -> Login:
    """Log in the user of a requestor; the association is the mind.

    If this is cancelled, or takes too long, so is the login of the portal. One that succeeds all the same is
    logged out at once.

    :param seconds: how long it may take; 0 is no limit. In Sta3 no timer of PS3.8 runs.
    :raises dicomnode.errors.AssociationRejected: when the user is not let in.
    """
    try:
        credentials = credentials_of(identity)
    except ValueError as error:
        raise AssociationRejected(*AUTHENTICATION_FAILED, str(error)) from None
    whose = described(identity)

    def late(_: object, seconds: float) -> NoReturn:
        why = f"{whose} could not be checked within {seconds:g} s"
        raise AssociationRejected(*TEMPORARY_CONGESTION, why)

    login = maybeDeferred(portal.login, credentials, association, IUser)
    logging_in = _abandonable(login, association, login.cancel)
    if seconds:
        logging_in.addTimeout(seconds, clock, late)
    codes = AUTHENTICATION_FAILED
    try:
        _, user, logout = await logging_in
    except (AssociationRejected, CancelledError):
        raise
    except UnhandledCredentials:
        why = f"there is no checker for {whose}"
    except LoginNotPossible:
        codes, why = AUTHENTICATION_NOT_POSSIBLE, f"{whose} cannot be checked now"
    except (LoginFailed, Unauthorized):
        why = f"{whose} is not let in"
    except Exception:
        _tell(_failure(), "the portal", "logging in a user", association)
        codes, why = AUTHENTICATION_NOT_POSSIBLE, f"{whose} cannot be checked now"
    else:
        return Login(user, _name(user, identity), _response(credentials, identity), logout)
    raise AssociationRejected(*codes, why)


def _name(user: object, identity: UserIdentity | None) -> str:
    name = str(getattr(user, "name", ""))
    # A checker may have taken a ticket for a name.
    secret = identity.primary if identity is not None and identity.type not in (1, 2) else None
    return "" if secret is not None and secret in name.encode("utf-8", "backslashreplace") else name


def _response(credentials: ICredentials, identity: UserIdentity | None) -> bytes | None:
    if identity is None or not identity.response_requested:
        return None
    response: bytes = getattr(credentials, "response", b"")  # PS3.7 Table D.3-15: types 1 and 2 have none
    return response


def _abandonable(login: Deferred[_Found], mind: object, cancel: Callable[[], None]) -> Deferred[_Found]:
    """Return what fires as a login does; when it is cancelled, it fails at once, whatever the login does.

    :param cancel: is called then. If the login succeeds all the same, it is logged out.
    """
    abandoned = False

    def abandon(_: object) -> None:
        nonlocal abandoned
        abandoned = True
        cancel()

    def succeeded(found: _Found) -> None:
        if abandoned:
            log_out(found[2], mind)
        else:
            result.callback(found)

    def failed(failure: Failure) -> None:
        if not abandoned:
            result.errback(failure)
        elif not isinstance(failure.value, _REFUSALS):
            _tell(failure, "the portal", "logging in a user", mind)

    result: Deferred[_Found] = Deferred(abandon)
    login.addCallbacks(succeeded, failed)
    return result


def log_out(logout: Callable[[], None], mind: object) -> None:
    """Tell a realm that a user is gone."""
    try:
        logout()
    except Exception:
        _tell(_failure(), "the realm", "logging out a user", mind)


def _failure() -> Failure:
    """Return the failure that is being handled."""
    return Failure()  # type: ignore[no-untyped-call]


def _tell(failure: Failure, whose: str, doing: str, mind: object) -> None:
    """Tell what was raised and where, but not what it says."""
    error = CheckerFailed(f"{whose} has raised {type(failure.value).__name__}")
    told = Failure(error, CheckerFailed, failure.getTracebackObject())  # type: ignore[no-untyped-call]
    told.cleanFailure()  # type: ignore[no-untyped-call]
    if isinstance(mind, AssociationProtocol):
        mind.unexpected(told, doing)
    else:
        _log.failure("Failed {doing}", failure=told, doing=doing)
