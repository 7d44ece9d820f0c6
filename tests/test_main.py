"""Tests for :mod:`dicomnode.__main__`."""

from __future__ import annotations

import errno
import io
import os
import runpy
import sys
from importlib import import_module
from typing import Any
from unittest import mock

import twisted.internet
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, LogPublisher, globalLogBeginner, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import __version__, clients
from dicomnode.__main__ import main
from dicomnode.testing import Peer
from tests.servicecases import CT, EXPLICIT_VR_LE, data_set


class Running(MemoryReactorClock):
    """A reactor in memory that runs what it is given, and stops."""

    def __init__(self, meanwhile: Any = None) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def run(self) -> None:
        super().run()
        if self.meanwhile is not None:
            self.meanwhile()
        for callback, arguments, keywords in self.triggers["before"]["shutdown"]:
            callback(*arguments, **keywords)


class MainCase(SynchronousTestCase):
    """Tests of the command, without its process."""

    def setUp(self) -> None:
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        for name, stream in (
            ("stdout", self.stdout),
            ("stderr", self.stderr),
            ("__stderr__", self.stderr),
        ):
            self.patch(sys, name, stream)

    def exits(self, *arguments: str) -> Any:
        """Run the command, and return its exit code: 0 where it just returns."""
        try:
            main(arguments)
        except SystemExit as exit:
            return exit.code or 0
        return 0

    def assert_said(self, stdout: str = "", stderr: str = "") -> None:
        self.assertEqual((self.stdout.getvalue(), self.stderr.getvalue()), (stdout, stderr))


class UsageTests(MainCase):
    """What is asked for is on stdout, what is wrong on stderr, in one line."""

    def test_help(self) -> None:
        """The help names the commands."""
        for option in ("-h", "--help"):
            self.assertEqual(self.exits(option), 0)
            self.assertIn("\n  storescp ", self.stdout.getvalue())
            self.assertEqual(self.stderr.getvalue(), "")

    def test_help_of_a_command(self) -> None:
        """A command has help of its own, with its name as it is called."""
        for option in ("-h", "--help"):
            self.assertEqual(self.exits("storescp", option), 0)
            self.assertIn("--output-directory", self.stdout.getvalue())
            self.assertEqual(self.stderr.getvalue(), "")

    def test_version(self) -> None:
        """The version is told with and without a command, and needs no port."""
        for arguments in (("--version",), ("storescp", "--version")):
            self.assertEqual(self.exits(*arguments), 0)
        self.assert_said(stdout=f"dicomnode {__version__}\n" * 2)

    def test_no_command(self) -> None:
        """A command is needed."""
        self.assertEqual(self.exits(), 2)
        self.assert_said(stderr="dicomnode: error: a command is needed (see dicomnode --help)\n")

    def test_unknown_command(self) -> None:
        """What is no command is said not to be."""
        self.assertEqual(self.exits("storescu", "11112"), 2)
        self.assert_said(stderr="dicomnode: error: no such command: storescu (see dicomnode --help)\n")

    def test_arguments_of_the_process(self) -> None:
        """Without arguments, those of the process are taken."""
        self.patch(sys, "argv", ["dicomnode", "--version"])
        main()
        self.assert_said(stdout=f"dicomnode {__version__}\n")

    def test_as_a_module(self) -> None:
        """It can be run by its name as a module."""
        self.patch(sys, "argv", ["dicomnode", "--version"])
        with mock.patch.dict(sys.modules):
            del sys.modules["dicomnode.__main__"]
            runpy.run_module("dicomnode", run_name="__main__")
        self.assert_said(stdout=f"dicomnode {__version__}\n")

    def test_usage_errors(self) -> None:
        """What is wrong with the arguments is one line, and exit code 2."""
        for arguments, word in (
            ((), "PORT"),
            (("x",), "'x'"),
            (("70000",), "70000"),
            (("11112", "-aet", ""), "AE title"),
            (("11112", "-pdu", "3"), "-pdu"),
            (("11112", "-q", "-v"), "not allowed with"),
            (("11112", "--no-such"), "--no-such"),
            (("11112", "-od"), "expected one argument"),
            (("11112", "--grace", "a\nb"), "--grace"),
        ):
            self.stderr.seek(0)
            self.stderr.truncate()
            self.assertEqual(self.exits("storescp", *arguments), 2)
            line = self.stderr.getvalue()
            self.assertRegex(line, r"\Adicomnode storescp: error: [^\n]+\n\Z")
            self.assertIn(word, line)
        self.assertEqual(self.stdout.getvalue(), "")


class ClientTests(MainCase):
    """The clients end when they are done, and tell by their exit codes how."""

    def setUp(self) -> None:
        super().setUp()
        publisher = LogPublisher()
        self.patch(globalLogPublisher, "_observers", publisher._observers)
        self.patch(
            globalLogBeginner,
            "beginLoggingTo",
            lambda observers, redirectStandardIO: [publisher.addObserver(item) for item in observers],
        )
        self.reactor = MemoryReactorClock()
        import_module("twisted.internet.reactor")  # else there is nothing to patch
        self.patch(twisted.internet, "reactor", self.reactor)
        self.patch(clients.Foreground, "run", self.run_foreground)

    def run_foreground(self) -> int:
        return 7

    def test_usage_errors(self) -> None:
        """What is wrong with the arguments is one line, and exit code 2."""
        for arguments, word in (
            (("echo",), "HOST"),
            (("store", "host", "104"), "PATH"),
            (("echo", "host:104"), "Unknown endpoint type: 'host'"),
        ):
            self.stderr.truncate(self.stderr.seek(0))
            self.assertEqual(self.exits(*arguments), 2)
            line = self.stderr.getvalue()
            self.assertRegex(line, rf"\Adicomnode {arguments[0]}: error: [^\n]+\n\Z")
            self.assertIn(word, line)

    def test_exit_codes(self) -> None:
        """The exit code is that of what was done, however much is said of it."""
        for arguments in (("echo",), ("store", "nowhere")):
            for level in ("-q", "-v", "-ll=error"):
                self.assertEqual(self.exits(arguments[0], "host", "104", *arguments[1:], level), 7)

    def test_runs(self) -> None:
        """What was asked for is done, and said."""
        for command, paths, said in (
            ("store", ["nowhere"], "nowhere: No such file or directory\n0 of 1 files"),
            ("echo", [], ""),
        ):

            def run(foreground: Any) -> int:
                work = Deferred.fromCoroutine(foreground._begin())
                self.reactor.advance(100)
                return self.successResultOf(work)

            self.patch(clients.Foreground, "run", run)
            self.patch(clients, "associate", lambda *_, **__: fail(ConnectionRefusedError()))
            self.assertEqual(self.exits(command, "host", "104", *paths), 1)
            self.assertIn(said, self.stdout.getvalue())

    def test_no_stderr(self) -> None:
        """Where nobody listens, nothing is said, and it is done all the same."""
        for command, paths in (("store", ["nowhere"]), ("echo", [])):
            with mock.patch.object(sys, "stderr", None):
                self.assertEqual(self.exits(command, "host", "104", *paths), 7)

    def test_interrupted(self) -> None:
        """Interrupted before the reactor runs, it ends as it does later."""
        self.patch(clients, "endpoint_for", mock.Mock(side_effect=KeyboardInterrupt))
        self.assertEqual(self.exits("echo", "host", "104"), 130)
        self.assert_said()

    def test_says_what_it_does(self) -> None:
        """With -v, each file is a line on stderr, and so is how far it is."""

        def run(foreground: Any) -> int:
            store = foreground._begin.__self__
            store._log("Sending file: a")
            self.reactor.advance(5)
            store._progress.looks(64)
            return 0

        self.patch(clients.Foreground, "run", run)
        self.assertEqual(self.exits("store", "-v", "host", "104", "a"), 0)
        self.assert_said(stderr="I: Sending file: a\n64 files looked at\n")
        self.assertEqual(self.exits("store", "host", "104", "a"), 0)
        self.assertEqual(self.stderr.getvalue().count("Sending"), 1)


class StoreSCPTests(MainCase):
    """The service runs in the foreground, and says no more than it should."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.mktemp()
        publisher = LogPublisher()
        self.patch(globalLogPublisher, "_observers", publisher._observers)
        self.patch(
            globalLogBeginner,
            "beginLoggingTo",
            lambda observers, redirectStandardIO: [publisher.addObserver(item) for item in observers],
        )

    def run_storescp(self, *arguments: str, meanwhile: Any = None) -> Any:
        self.reactor = Running(meanwhile)
        self.reactor.hasRun = False  # Twisted 24.7 has it that it has
        import_module("twisted.internet.reactor")  # else there is nothing to patch
        self.patch(twisted.internet, "reactor", self.reactor)
        return self.exits("storescp", "--sync", "none", *arguments, "-od", self.directory, "11112")

    def peer(self) -> Peer:
        peer = Peer(self.reactor.tcpServers[0][1])
        peer.associates({CT: [EXPLICIT_VR_LE]})
        return peer

    def test_runs(self) -> None:
        """It listens and stores until it is told to stop; then it exits with 0, and has said nothing."""

        def meanwhile() -> None:
            peer = self.peer()
            peer.stores("1.2.3", data_set())
            self.assertEqual(peer.response.status, 0)
            peer.transport.lose()

        self.assertEqual(self.run_storescp(meanwhile=meanwhile), 0)
        self.assertTrue(self.reactor.hasRun)
        self.assertEqual(os.listdir(self.directory), ["CT.1.2.3"])
        self.assert_said()

    def test_says_what_it_does(self) -> None:
        """With -v, each line is on stderr, once."""
        self.run_storescp("-v", meanwhile=lambda: self.peer().transport.lose())
        lines = self.stderr.getvalue().splitlines()
        self.assertEqual(lines.count("I: Accepting Association"), 1)
        self.assertEqual([line for line in lines if line[:3] not in ("I: ", "W: ")], [])

    def test_error_is_said_once(self) -> None:
        """An error of ours is on stderr, once."""

        def meanwhile() -> None:
            peer = self.peer()
            refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with mock.patch.object(os, "writev", side_effect=refusal):
                peer.stores("1.2.3", data_set())
            peer.transport.lose()

        self.run_storescp(meanwhile=meanwhile)
        self.assertEqual(self.stderr.getvalue().count("No space left on device"), 1)

    def test_quiet(self) -> None:
        """With -q, nothing of ours is said, whatever happens."""

        def meanwhile() -> None:
            peer = self.peer()
            with mock.patch.object(os, "writev", side_effect=OSError(errno.ENOSPC, "full")):
                peer.stores("1.2.3", data_set())
            peer.transport.lose()

        self.run_storescp("-q", meanwhile=meanwhile)
        self.assert_said()

    def test_what_others_say(self) -> None:
        """What Twisted has to say is said when it is an error, and only then."""

        def meanwhile() -> None:
            log = Logger("twisted", observer=globalLogPublisher)
            log.info("a factory starts")
            log.error("a reactor stumbles")

        self.run_storescp("-d", meanwhile=meanwhile)
        self.assertNotIn("a factory starts", self.stderr.getvalue())
        self.assertEqual(self.stderr.getvalue().count("E: a reactor stumbles\n"), 1)

    def test_cannot_start(self) -> None:
        """What prevents it from starting is one line, and exit code 1."""
        with open(self.directory, "w"):
            pass
        self.assertEqual(self.run_storescp(), 1)
        self.assertRegex(self.stderr.getvalue(), r"\Adicomnode: error: output directory [^\n]+\n\Z")
        self.assertFalse(self.reactor.hasRun)
