"""Checkers of user identities from a command line: ``METHOD[:ARGUMENTS]``, as strcred has it.

What stands behind the colon may be secret, and is in no message.
"""

from __future__ import annotations

import os
import sys

from twisted.cred import strcred
from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse

from dicomnode.credentials import INTERFACES


def checker_of(description: str) -> ICredentialsChecker:
    """Return the checker that a description means.

    :raises ValueError: with one line on what is wrong with it.
    """
    method, _, arguments = description.partition(":")
    try:
        factory = strcred.findCheckerFactory(method)  # type: ignore[no-untyped-call]
    except strcred.InvalidAuthType:
        raise ValueError(f"{method!r} is no method of authentication; --help-auth lists them") from None
    if not _help().supportsCheckerFactory(factory):  # type: ignore[no-untyped-call]
        raise ValueError(f"{method} checks nothing that a DICOM user identity has")
    if method == "file":  # of which strcred itself would only warn
        try:
            open(arguments, "rb").close()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{method}: {arguments!r}: {why}") from None
    try:
        checker: ICredentialsChecker = factory.generateChecker(arguments)
    except Exception as error:  # whatever a plugin makes of what it is given
        raise ValueError(f"{method}: {_without(arguments, error)}") from None
    if isinstance(checker, FilePasswordDB):
        checker.filename = os.path.abspath(checker.filename)  # a daemon goes elsewhere
    elif isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        # strcred gives it text, where it is asked about octets.
        checker.users = {_octets(name): _octets(passcode) for name, passcode in checker.users.items()}
    return checker


def _octets(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _without(arguments: str, error: Exception) -> str:
    """Return what a plugin has to say, if it repeats nothing of what it was given."""
    words = " ".join(str(error).split())
    repeats = any(part in words for part in arguments.split(":") if part)
    return type(error).__name__ if repeats or not words else words


class _Help(strcred.AuthOptionMixin):
    """What strcred has to say on methods, as far as they check what we know."""

    supportedInterfaces = INTERFACES


def _help() -> _Help:
    about = _Help()
    about.authOutput = sys.stdout
    return about


def help_auth() -> None:
    """Print the methods, and exit."""
    _help().opt_help_auth()  # type: ignore[no-untyped-call]


def help_auth_type(method: str) -> None:
    """Print what there is to know of a method, and exit.

    :raises twisted.python.usage.UsageError: when there is no such method.
    """
    _help().opt_help_auth_type(method)  # type: ignore[no-untyped-call]
