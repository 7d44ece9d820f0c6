"""Tests for :mod:`dicomnode.tap`: where its lines and events go."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

from twisted.application.twist._options import TwistOptions
from twisted.internet.testing import MemoryReactorClock
from twisted.scripts.twistd import ServerOptions

from dicomnode.tap import makeService
from tests.tapcases import TapCase


class Descriptor(io.StringIO):
    """A stream with the number of a descriptor."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def fileno(self) -> int:
        return self.number


class LogTests(TapCase):
    """Our lines go to stderr, and to Twisted's log; but not to one place twice."""

    def lines(self) -> list[str]:
        return self.stderr.getvalue().splitlines()

    def ours(self) -> list[dict[str, Any]]:
        return [event for event in self.logged if event.get("log_namespace") == "dicomnode"]

    def test_levels(self) -> None:
        """The level decides what is logged."""
        for arguments, some, debug in (
            ((), False, False),
            (("-q",), False, False),
            (("-ll", "error"), False, False),
            (("-v",), True, False),
            (("-ll", "info"), True, False),
            (("-d",), True, True),
        ):
            self.stderr.seek(0)
            self.stderr.truncate()
            self.install(MemoryReactorClock())
            self.start(*arguments)
            self.associate()
            self.assertEqual("I: Accepting Association" in self.lines(), some, arguments)
            self.assertEqual(any(line.startswith("D:") for line in self.lines()), debug, arguments)

    def test_json(self) -> None:
        """The format may be one object a line."""
        self.start("-v", "--log-format", "json")
        self.associate()
        self.assertTrue(self.lines())
        for line in self.lines():
            self.assertIsInstance(json.loads(line), dict)

    def test_elsewhere(self) -> None:
        """In an application of one's own, stderr is that one's: events go to Twisted's log alone."""
        options = self.options("-v")
        options.parent = None
        service = makeService(options)
        service.startService()
        self.addCleanup(self.stop, service)
        self.associate()
        self.assertEqual(self.lines(), [])
        self.assertIn("Accepting Association", [event.get("line") for event in self.ours()])

    def test_both(self) -> None:
        """Each event goes to stderr and to Twisted's log, where they differ."""
        self.same(True)
        self.start("-v")
        self.associate()
        self.assertEqual(self.lines().count("I: Accepting Association"), 1)
        self.assertTrue(self.ours())

    def twistd(self, *arguments: str) -> Any:
        """Return the options of a command line of twistd."""
        options = ServerOptions()
        options.parseOptions([*arguments, "storescp", "-v", "-od", self.directory, "11112"])
        return options.subOptions

    def twist(self, *arguments: str) -> Any:
        """Return the options of a command line of twist."""
        options = TwistOptions()
        options.parseOptions([*arguments, "storescp", "-v", "-od", self.directory, "11112"])
        return options.subOptions

    def assert_logged(self, options: Any, twisted_too: bool) -> None:
        """Assert that what happens is on stderr, and whether it is in Twisted's log, too."""
        self.logged.clear()
        self.stderr.seek(0)
        self.stderr.truncate()
        self.install(MemoryReactorClock())
        service = makeService(options)
        service.startService()
        self.associate()
        self.assertEqual(self.lines().count("I: Accepting Association"), 1)
        self.assertEqual(bool(self.ours()), twisted_too)
        self.stop(service)

    def same(self, same: bool) -> None:
        """Let stdout and stderr be the same file, or not."""
        self.patch(os.path, "sameopenfile", lambda one, other: same or one == other)

    def test_twistd(self) -> None:
        """With twistd it is a question of whether its log goes to stdout, and stdout where stderr goes."""
        for arguments, same, twisted_too in (
            (("-n",), True, False),
            (("-n", "--logfile=-"), True, False),
            (("-n",), False, True),
            (("-n", f"--logfile={self.mktemp()}"), True, True),
            (("-n", "--syslog"), True, True),
            ((), True, True),
        ):
            self.same(same)
            self.assert_logged(self.twistd(*arguments), twisted_too)

    def test_twist(self) -> None:
        """With twist it is a question of which file its log is."""
        for arguments, same, twisted_too in (
            ((), True, False),
            ((), False, True),
            (("--log-file=-",), True, False),
            (("--log-file=+",), False, False),
            (("--log-file=+",), True, False),
            ((f"--log-file={self.mktemp()}",), False, True),
        ):
            self.same(same)
            self.patch(sys.modules["twisted.application.twist._options"], "stdout", Descriptor(1))
            self.patch(sys.modules["twisted.application.twist._options"], "stderr", Descriptor(2))
            options = self.twist(*arguments)
            log_file = options.parent["logFile"]
            if not isinstance(log_file, Descriptor):
                self.addCleanup(log_file.close)
            self.assert_logged(options, twisted_too)

    def test_log_that_is_no_file(self) -> None:
        """A log that is no file of the system is another place than stderr."""
        options = self.twist()
        options.parent["logFile"] = io.StringIO()
        self.assert_logged(options, True)

    def test_closed_descriptors(self) -> None:
        """Where stdout or stderr is closed, the two are not the same."""

        def sameopenfile(one: int, other: int) -> bool:
            raise OSError(9, "Bad file descriptor")

        self.patch(os.path, "sameopenfile", sameopenfile)
        self.assert_logged(self.twistd("-n"), True)
