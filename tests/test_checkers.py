"""Tests for :mod:`dicomnode.checkers`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from twisted.cred import strcred
from twisted.cred.checkers import AllowAnonymousAccess, FilePasswordDB
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import ICheckerFactory
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, implementer

from dicomnode.checkers import checker_of, help_auth, help_auth_type
from dicomnode.credentials import UsernamePasscode


@implementer(ICheckerFactory)
class Method:
    """A method of authentication whose checkers cannot be made."""

    authHelp = "It does not work."
    argStringFormat = "Anything."
    credentialInterfaces: Any = (IUsernamePassword,)

    def __init__(self, name: str, words: str = "") -> None:
        self.authType = name
        self._words = words

    def generateChecker(self, argstring: str) -> object:
        raise RuntimeError(self._words)


class CheckerTests(SynchronousTestCase):
    """A checker is made of its description."""

    def methods(self, *methods: Method) -> None:
        """Let there be these methods, beside those of Twisted."""
        found = [*strcred.findCheckerFactories(), *methods]
        self.patch(strcred, "findCheckerFactories", lambda: found)

    def knows(self, checker: Any, username: bytes, passcode: bytes) -> None:
        """Assert that it knows a user, and no other passcode."""
        asked = checker.requestAvatarId(UsernamePasscode(username, passcode))
        self.assertEqual(self.successResultOf(asked), username)
        self.failureResultOf(checker.requestAvatarId(UsernamePasscode(username, b"x")), UnauthorizedLogin)

    def refuses(self, description: str, why: str) -> None:
        error = self.assertRaises(ValueError, checker_of, description)
        self.assertEqual(str(error), why)

    def test_file(self) -> None:
        """A file of passcodes is named once and for all, wherever the process goes then."""
        path = Path(self.mktemp())
        path.write_text("alice:s3cret\nbob:t0p\n")
        checker = checker_of(f"file:{path}")
        assert isinstance(checker, FilePasswordDB)
        self.assertEqual(checker.filename, os.path.abspath(path))
        self.knows(checker, b"bob", b"t0p")

    def test_no_file(self) -> None:
        """A file that cannot be read is an error, not a warning."""
        path = self.mktemp()
        self.refuses(f"file:{path}", f"file: {path!r}: No such file or directory")
        self.refuses("file", "file: '': No such file or directory")
        self.refuses("file:\0", "file: '\\x00': embedded null byte")

    def test_memory(self) -> None:
        """Users on the command line are found by the octets that a peer sends."""
        checker = checker_of("memory:alice:s3cret:zo\u00eb:t0p")
        self.knows(checker, b"alice", b"s3cret")
        self.knows(checker, "zo\u00eb".encode(), b"t0p")
        self.knows(checker_of("memory:alice:s3cret"), b"alice", b"s3cret")

    def test_anonymous(self) -> None:
        """Anonymous access is a method, too."""
        self.assertIsInstance(checker_of("anonymous"), AllowAnonymousAccess)

    def test_unknown(self) -> None:
        """A method that there is not is named, and its arguments are not."""
        self.refuses("pam:s3cret", "'pam' is no method of authentication; --help-auth lists them")

    def test_unsuited(self) -> None:
        """A method that checks nothing of DICOM's cannot be used."""
        method = Method("keys")
        method.credentialInterfaces = (Interface,)
        self.methods(method)
        self.refuses("keys:s3cret", "keys checks nothing that a DICOM user identity has")

    def test_bad_arguments(self) -> None:
        """What a method says of its arguments is said, unless it repeats any of them."""
        self.refuses("memory:alic3", "memory: argstring must be in format U:P:...")
        self.methods(
            Method("clear", "it is\nnot there"),
            Method("mute"),
            Method("leaks", "cannot bind as admin with s3cret"),
        )
        self.refuses("clear:host:s3cret", "clear: it is not there")
        self.refuses("mute:host:s3cret", "mute: RuntimeError")
        self.refuses("leaks:host:s3cret", "leaks: RuntimeError")


class HelpTests(SynchronousTestCase):
    """There is help for the methods."""

    def setUp(self) -> None:
        self.stdout = io.StringIO()
        self.patch(sys, "stdout", self.stdout)

    def test_methods(self) -> None:
        """The methods that can be used are listed."""
        self.assertEqual(self.assertRaises(SystemExit, help_auth).code, 0)
        for method in ("anonymous", "file", "memory"):
            self.assertRegex(self.stdout.getvalue(), rf"(?m)^  {method} *\t")

    def test_method(self) -> None:
        """There is more on each."""
        self.assertEqual(self.assertRaises(SystemExit, help_auth_type, "file").code, 0)
        self.assertIn("username:password", self.stdout.getvalue())
        self.assertRaises(UsageError, help_auth_type, "pam")
