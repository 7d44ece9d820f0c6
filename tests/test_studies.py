"""Tests for :mod:`dicomnode.studies`: when nothing more comes of a study."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.dataset import Walk
from dicomnode.errors import OperationFailed
from dicomnode.hooks import InstanceReceived
from dicomnode.interfaces import Instance
from dicomnode.studies import SENDERS, Because, Studies, StudyEnded

PEER = IPv4Address("TCP", "192.0.2.1", 50000)


def instance(
    study: str | None, calling: str = "CT1", called: str = "HERE", peer: IAddress = PEER, walked: bool = True
) -> Instance:
    walk = Walk("1.2.840.10008.1.2")
    walk.study_instance_uid = study
    association = cast(Any, SimpleNamespace(peer=peer))
    return Instance("1.2", "1.2.3", "1.2", calling, called, association, walk if walked else None)


class StudiesTests(SynchronousTestCase):
    """A study has ended when nothing of it has come for a while."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ended: list[StudyEnded] = []
        self.studies = Studies(self.clock, self.ended.append, quiet=10.0, most=3)

    def receives(self, study: str | None, path: str | None = None, octets: int = 100, **of: Any) -> None:
        arriving = instance(study, **of)
        self.studies.begun(arriving)
        self.studies.received(InstanceReceived(arriving, octets, self.clock.seconds(), path))

    def uids(self) -> list[str]:
        """Return, and forget, which have ended."""
        ended, self.ended[:] = [study.study_instance_uid for study in self.ended], []
        return ended

    def test_quiet(self) -> None:
        """It has ended so long after the last instance, once, and that is said with what was received."""
        self.receives("1.2", octets=100)
        self.clock.advance(6)
        self.receives("1.2", octets=50)
        self.clock.advance(9.5)
        self.assertEqual(self.ended, [])
        self.clock.advance(0.5)
        ended = StudyEnded("1.2", ("CT1",), ("HERE",), ("192.0.2.1",), 2, 150, None, 0.0, 6.0, Because.QUIET)
        self.assertEqual(self.ended, [ended])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_several(self) -> None:
        """Each ends by itself, whoever sends it, and there is one timer for all of them."""
        self.receives("1.1")
        self.clock.advance(1)
        self.receives("1.2")
        self.clock.advance(1)
        self.receives("1.3")
        self.receives("1.1", calling="MR1")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(8.5)
        self.assertEqual(self.uids(), [])
        self.clock.advance(0.5)
        self.assertEqual(self.uids(), ["1.2"])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1)
        self.assertEqual(self.uids(), ["1.3", "1.1"])

    def test_anew(self) -> None:
        """What comes after that begins it anew."""
        for _ in range(2):
            self.receives("1.2")
            self.clock.advance(10)
        self.assertEqual(
            [(study.study_instance_uid, study.instances) for study in self.ended], [("1.2", 1)] * 2
        )

    def test_no_study(self) -> None:
        """What belongs to no study, or is not walked, is not waited for."""
        self.receives(None)
        self.receives("")
        self.receives("1.2", walked=False)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_arriving(self) -> None:
        """While an instance is arriving, its study has not ended; when it is given up, it has, in time."""
        self.receives("1.2")
        self.receives("1.3")
        arriving = instance("1.2")
        self.studies.begun(arriving)
        self.studies.begun(instance(None))
        self.clock.advance(10)
        self.assertEqual(self.uids(), ["1.3"])
        self.clock.advance(10)
        self.studies.given_up(arriving)
        self.clock.advance(9)
        self.assertEqual(self.uids(), [])
        self.clock.advance(1)
        self.assertEqual(self.uids(), ["1.2"])

    def test_crowded(self) -> None:
        """When there are too many, the one that has been quiet for longest ends early."""
        for study in ("1.1", "1.2", "1.3", "1.1", "1.4"):
            self.receives(study)
            self.clock.advance(1)
        self.assertEqual(
            [(study.study_instance_uid, study.because) for study in self.ended], [("1.2", Because.CROWDED)]
        )
        self.clock.advance(10)
        self.assertEqual(self.uids(), ["1.2", "1.3", "1.1", "1.4"])

    def test_stop(self) -> None:
        """When the service stops, all have ended; nothing is waited for."""
        self.studies.stop()
        self.receives("1.1")
        self.receives("1.2")
        self.studies.stop()
        self.assertEqual([study.because for study in self.ended], [Because.STOPPED] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_senders(self) -> None:
        """Of who sends it, the last are remembered, the very last at the end."""
        local = UNIXAddress(None)
        for number in range(SENDERS + 4):
            self.receives("1.2", calling=f"CT{number}", called=f"HERE{number}")
        self.receives("1.2", calling="CT7", called="HERE7", peer=local)
        self.clock.advance(10)
        (ended,) = self.ended
        self.assertEqual(len(ended.calling_ae_titles), SENDERS)
        self.assertEqual(ended.calling_ae_titles[-2:], (f"CT{SENDERS + 3}", "CT7"))
        self.assertEqual(ended.called_ae_titles[-2:], (f"HERE{SENDERS + 3}", "HERE7"))
        self.assertEqual(ended.hosts, ("192.0.2.1", "UNIX sockets"))

    def test_directory(self) -> None:
        """The directory is the deepest that has all of the files."""
        for paths, directory in (
            (["/a/b/1", "/a/b/2"], "/a/b"),
            (["/a/b/1", "/a/c/2", "/a/b/3"], "/a"),
            (["/a/1"], "/a"),
            ([None, "/a/1"], "/a"),
        ):
            for path in paths:
                self.receives("1.2", path)
            self.clock.advance(10)
            self.assertEqual(self.ended.pop().directory, directory)

    def test_hook_fails(self) -> None:
        """What a hook fails with is logged; the others are called, one after the other."""
        turn: Deferred[None] = Deferred()

        async def hook(ended: StudyEnded) -> None:
            await turn
            raise OperationFailed(0xA700)

        self.studies = Studies(self.clock, hook, self.ended.append, quiet=10.0)
        self.receives("1.2")
        self.clock.advance(10)
        self.assertEqual(self.ended, [])
        turn.callback(None)
        self.assertEqual(len(self.ended), 1)
        self.assertEqual(len(self.flushLoggedErrors(OperationFailed)), 1)

    def test_hook_brings_more(self) -> None:
        """A hook may bring more of the same, or of another study."""

        def hook(ended: StudyEnded) -> None:
            if len(self.ended) < 3:
                self.receives("1.2")
                self.receives("1.3")
            self.ended.append(ended)

        self.studies = Studies(self.clock, hook, quiet=10.0)
        self.receives("1.2")
        self.receives("1.3")
        for _ in range(5):
            self.clock.advance(10)
        self.assertEqual(sorted(self.uids())[:2], ["1.2", "1.2"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BehindTests(SynchronousTestCase):
    """As what is behind a node, studies end with it, and their hooks have their share of the grace."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.going: list[Deferred[None]] = []
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def studies(self, hook: Any) -> Studies:
        studies = Studies(self.clock, hook, quiet=10.0)
        studies.start()
        arriving = instance("1.2")
        studies.received(InstanceReceived(arriving, 100, self.clock.seconds(), None))
        return studies

    def goes_on(self, ended: StudyEnded) -> Deferred[None]:
        self.assertIs(ended.because, Because.STOPPED)
        self.going.append(Deferred())
        return self.going[-1]

    def test_nothing_to_wait_for(self) -> None:
        """A hook that has done when it returns is not waited for; and so each time that the service stops."""
        ended: list[StudyEnded] = []
        studies = self.studies(ended.append)
        for number in (1, 2):
            studies.stop_within(5)
            self.assertIsNone(self.successResultOf(studies.finished()))
            self.assertEqual(len(ended), number)
            studies.start()
            studies.received(InstanceReceived(instance("1.3"), 100, self.clock.seconds(), None))
        self.clock.advance(10)
        self.assertIs(ended[-1].because, Because.QUIET)

    def test_hook_goes_on(self) -> None:
        """One that takes its time is waited for."""
        studies = self.studies(self.goes_on)
        studies.stop_within(5)
        finished = studies.finished()
        self.clock.advance(4)
        self.assertNoResult(finished)
        self.going[0].callback(None)
        self.assertIsNone(self.successResultOf(finished))

    def test_grace_is_over(self) -> None:
        """One that takes too long is cancelled, which is logged; and what it does then is not waited for."""

        async def hook(ended: StudyEnded) -> None:
            try:
                await self.goes_on(ended)
            finally:
                await self.goes_on(ended)

        for ends in ("in time", "at once", "before"):
            studies = self.studies(hook)
            studies.stop_within(5)
            if ends == "before":  # what was in flight has taken all of it
                self.clock.advance(5)
            finished = studies.finished()
            if ends == "in time":
                self.assertNoResult(finished)
                self.clock.advance(5)
            elif ends == "at once":
                self.assertNoResult(finished)
                studies.stop_within(0)
            self.assertIsNone(self.successResultOf(finished))
            with capturedLogs() as logged:
                self.going[-1].callback(None)
            (event,) = logged
            self.assertIn("A hook was cancelled upon StudyEnded", formatEvent(event))
            self.assertEqual(event["log_level"], LogLevel.error)
