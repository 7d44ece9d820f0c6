"""Tests for :mod:`dicomnode.reports`: studies of which several processes receive."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import json
import os
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.hooks import InstanceReceived
from dicomnode.reports import Gathering, Reporter, Reports
from dicomnode.studies import Because, Studies, StudyEnded
from tests.test_studies import instance


class ReportsTests(SynchronousTestCase):
    """A worker tells things, and waits for nobody who does not listen."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.addCleanup(lambda: self.reading < 0 or os.close(self.reading))
        self.addCleanup(os.close, self.writing)
        self.reports = Reports(self.reactor, self.writing)

    def heard(self) -> bytes:
        """Return what can be read."""
        heard = b""
        try:
            while octets := os.read(self.reading, 1 << 20):
                heard += octets
        except BlockingIOError:
            pass
        return heard

    def fill(self) -> bytes:
        """Tell so much that there is no room for the last of it, and return all."""
        lines = []
        while not self.reactor.getWriters():
            self.reports.tell("x", "y" * 4000)
            lines.append(b'x "%b"\n' % (b"y" * 4000))
        return b"".join(lines)

    def test_at_once(self) -> None:
        """What it tells can be read as soon as it is told, a line each."""
        self.reports.tell("ready")
        self.reports.tell("begun", [1, "1.2\n"])
        self.assertEqual(self.heard(), b'ready null\nbegun [1, "1.2\\n"]\n')
        self.assertEqual(self.reports.fileno(), self.writing)
        self.assertEqual(self.reactor.getWriters(), [])
        self.successResultOf(self.reports.told())

    def test_no_room(self) -> None:
        """That for which there is no room waits, and what is told after it, until there is."""
        expected = self.fill()
        self.reports.tell("last")
        told = [self.reports.told(), self.reports.told()]
        heard = self.heard()
        self.assertNotIn(b"last", heard)
        (writer,) = self.reactor.getWriters()
        self.assertIsNone(writer.doWrite())
        for one in told:
            self.successResultOf(one)
        self.assertEqual(self.reactor.getWriters(), [])
        self.assertEqual(heard + self.heard(), expected + b"last null\n")

    def test_piecemeal(self) -> None:
        """It may be that there is room for a part of what waits."""
        self.fill()
        for _ in range(40):
            self.reports.tell("x", "y" * 4000)
        told = self.reports.told()
        heard = self.heard()
        (writer,) = self.reactor.getWriters()
        writer.doWrite()
        self.assertNoResult(told)
        self.assertEqual(self.reactor.getWriters(), [writer])
        while self.reactor.getWriters():
            heard += self.heard()
            writer.doWrite()
        self.successResultOf(told)
        self.assertEqual({*(heard + self.heard()).splitlines()}, {b'x "%b"' % (b"y" * 4000)})

    def test_gone(self) -> None:
        """Who is not there any more is told nothing, and not waited for."""
        self.fill()
        told = self.reports.told()
        os.close(self.reading)
        self.reading = -1
        failed = self.reports.doWrite()
        assert failed is not None
        self.reports.connectionLost(failed)  # type: ignore[arg-type]
        self.successResultOf(told)
        self.reports.tell("x")
        self.successResultOf(self.reports.told())
        self.assertEqual(self.reactor.getWriters(), [])

    def test_gone_already(self) -> None:
        """So it is when nobody is there from the start."""
        os.close(self.reading)
        self.reading = -1
        self.reports.tell("x")
        self.reports.tell("y")
        self.successResultOf(self.reports.told())


class Told(Reports):
    """Reports that are heard as soon as they are told, unless they are held up."""

    def __init__(self, worker: int, gathering: Gathering) -> None:
        self.worker = worker
        self.gathering = gathering

    def tell(self, word: str, value: Any = None) -> None:
        self.gathering.report(self.worker, word, json.loads(json.dumps(value)))


class GatheringTests(SynchronousTestCase):
    """A study is quiet across the workers of a node."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ended: list[StudyEnded] = []
        self.gathering = Gathering(Studies(self.clock, self.ended.append, quiet=10.0))
        self.workers = [Reporter(Told(number, self.gathering)) for number in (1, 2)]

    def receives(self, worker: Reporter, study: str | None, path: str | None = None, **of: Any) -> None:
        arriving = instance(study, **of)
        if study:
            worker.begun(arriving)
        worker.received(InstanceReceived(arriving, 100, self.clock.seconds(), path))

    def test_one_study(self) -> None:
        """What several receive of one study is one study, and ends once, after the last of it."""
        one, other = self.workers
        self.receives(one, "1.2", "/a/1/x", calling="CT1")
        self.clock.advance(6)
        self.receives(other, "1.2", "/a/2/\udcffy", calling="MR1")
        self.receives(other, "1.3", calling="MR1")
        self.clock.advance(9)
        self.assertEqual(self.ended, [])
        self.clock.advance(1)
        self.assertEqual(
            self.ended[0],
            StudyEnded(
                "1.2", ("CT1", "MR1"), ("HERE",), ("192.0.2.1",), 2, 200, "/a", 0.0, 6.0, Because.QUIET
            ),
        )
        self.assertEqual([study.study_instance_uid for study in self.ended[1:]], ["1.3"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_arriving(self) -> None:
        """While one worker receives an instance of it, it has not ended, whatever the others do."""
        one, other = self.workers
        self.receives(one, "1.2")
        arriving = instance("1.2")
        other.begun(arriving)
        self.clock.advance(10)
        self.assertEqual(self.ended, [])
        other.given_up(arriving)
        other.given_up(arriving)
        self.clock.advance(10)
        self.assertEqual([study.instances for study in self.ended], [1])

    def test_same_number(self) -> None:
        """Workers number what arrives each for itself: of two that have one number, both are arriving."""
        self.receives(self.workers[0], "1.2")
        for worker in (1, 2):
            self.gathering.report(worker, "begun", [4711, "1.2"])
        self.gathering.report(1, "given-up", 4711)
        self.clock.advance(10)
        self.assertEqual(self.ended, [])
        self.gathering.report(2, "given-up", 4711)
        self.clock.advance(10)
        self.assertEqual(len(self.ended), 1)

    def test_gone(self) -> None:
        """What was arriving with a worker that dies does not keep its study; what it has kept is counted."""
        one, other = self.workers
        self.receives(one, "1.2")
        self.receives(other, "1.2")
        one.begun(instance("1.2"))
        self.clock.advance(10)
        self.assertEqual(self.ended, [])
        self.gathering.gone(1)
        self.gathering.gone(1)
        self.clock.advance(10)
        self.assertEqual([study.instances for study in self.ended], [2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_study(self) -> None:
        """What is of no study is not told."""
        (one, _) = self.workers
        self.receives(one, None)
        one.given_up(instance(None))
        self.clock.advance(10)
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), ([], []))

    def test_later_told(self) -> None:
        """An instance is heard of when it is told; when it was kept is what is said of it."""
        arriving = instance("1.2")
        received = InstanceReceived(arriving, 100, self.clock.seconds())
        self.clock.advance(5)
        self.workers[0].received(received)
        self.clock.advance(9)
        self.assertEqual(self.ended, [])
        self.clock.advance(1)
        self.assertEqual([(study.first, study.last) for study in self.ended], [(0.0, 0.0)])
