"""Tests for :mod:`dicomnode.progress`."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.progress import Bar, Lines, Progress, progress_on


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class ProgressTests(SynchronousTestCase):
    """How far it is, is said where there is somebody to see it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.said: list[str] = []

    def make(self, stream: io.StringIO) -> Progress:
        return progress_on(stream, self.said.append, self.clock.seconds)

    def goes_through(self, progress: Progress) -> None:
        for _ in range(3):
            progress.looks(64)
            self.clock.advance(4)
        progress.begins(3, 200)
        for files, octets in ((0, 20), (1, 100), (3, 200)):
            progress.comes(files, octets)
            self.clock.advance(4)
        progress.begins(0, 0)
        progress.comes(0, 0)
        progress.ends()

    def test_silence(self) -> None:
        """Nothing is said, if nothing is to be."""
        self.goes_through(Progress())

    def test_lines(self) -> None:
        """Without a terminal there is a line every five seconds."""
        progress = self.make(io.StringIO())
        self.assertIsInstance(progress, Lines)
        self.goes_through(progress)
        self.assertEqual(
            self.said,
            [
                "64 files looked at\n",
                "1 of 3 files sent, 50 % of 200 octets\n",
                "0 of 0 files sent, 100 % of 0 octets\n",
            ],
        )

    def test_bar(self) -> None:
        """On a terminal there is a bar, which goes when it is done."""
        self.patch_terminal("xterm")
        terminal = Terminal()
        progress = self.make(terminal)
        self.assertIsInstance(progress, Bar)
        self.goes_through(progress)
        self.assertIn("Sending", terminal.getvalue())
        self.assertEqual(self.said, [])

    def test_dumb_terminal(self) -> None:
        """On a terminal where nothing can be drawn there are lines."""
        self.patch_terminal("dumb")
        self.assertIsInstance(self.make(Terminal()), Lines)

    def test_without_rich(self) -> None:
        """Without rich there are lines."""
        real = builtins.__import__

        def without(name: str, *rest: Any) -> Any:
            if name.startswith("rich"):
                raise ImportError(name)
            return real(name, *rest)

        self.patch(builtins, "__import__", without)
        self.assertIsInstance(self.make(Terminal()), Lines)

    def patch_terminal(self, kind: str) -> None:
        environment = mock.patch.dict(os.environ, {"TERM": kind})
        environment.start()
        self.addCleanup(environment.stop)

    if importlib.util.find_spec("rich") is None:
        for _test in (test_bar, test_dumb_terminal):
            _test.skip = "not installed: rich"  # type: ignore[attr-defined]
