"""Tests of :mod:`dicomnode.events`: who is told of what."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import events
from dicomnode.observers import LogObserver
from dicomnode.testing import Recorder


class Choosy:
    """An observer that wants to be told of one kind of event."""

    def wants(self, kind: type[object]) -> bool:
        return kind is events.OperationEnded

    def __call__(self, event: events.Event) -> None:
        raise ZeroDivisionError


class WantsTests(SynchronousTestCase):
    """An observer says of which events it wants to be told, or is told of all."""

    def assertWants(self, observe: events.Observer, started: bool, ended: bool) -> None:
        kinds = (events.OperationStarted, events.OperationEnded)
        self.assertEqual(tuple(events.wants(observe, kind) for kind in kinds), (started, ended))

    def test_wants(self) -> None:
        """One that does not say is told of all, one that ignores all of nothing."""
        self.assertWants(Recorder(), True, True)
        self.assertWants(events.ignore, False, False)
        self.assertWants(Choosy(), False, True)

    def test_bug(self) -> None:
        """What nobody foresaw is logged where nobody is told of it."""
        events.ignore(events.Started("1"))
        association: Any = None
        events.ignore(events.Unexpected(association, Failure(ZeroDivisionError()), "performing a CStoreRQ"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_fanout(self) -> None:
        """Several are told of what any of them wants."""
        self.assertWants(events.Fanout(), False, False)
        self.assertWants(events.Fanout(events.ignore, Choosy()), False, True)
        self.assertWants(events.Fanout(Choosy(), Recorder()), True, True)

    def test_guarded(self) -> None:
        """One whose failures are caught wants what it wants."""
        self.assertWants(events.guarded(Choosy()), False, True)
        events.guarded(Choosy())(events.Started("1"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_log(self) -> None:
        """A log wants what it has lines for, at its level."""
        log = Logger("test", observer=lambda event: None)  # type: ignore[arg-type]
        self.assertWants(LogObserver("none", log=log), False, False)
        self.assertWants(LogObserver("error", log=log), False, True)
        self.assertWants(LogObserver("debug", log=log), True, True)
