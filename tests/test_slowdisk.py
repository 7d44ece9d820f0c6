"""A storage on files whose disk takes its time."""

from __future__ import annotations

import errno
import os

from twisted.internet.defer import CancelledError

from dicomnode import filestore
from dicomnode.commits import STALLED, Sync
from dicomnode.events import InstanceKept, InstanceNotKept
from dicomnode.filestore import (
    HIGH_WATER,
    INSTANCE,
    LOW_WATER,
    QUICK_JOBS,
    SLOW,
    TRUST,
)
from dicomnode.fragments import OVERHEAD
from tests.files import FileStorageCase, Producer, instance

#: Each call of a store whose failure is the store's, in order.
REFUSED = ("open", "fstat", "writev", "dup", "close", "replace")


class SlowDiskTests(FileStorageCase):
    """Once a write has taken long, writes go to a thread, until they are quick again."""

    def test_moves_to_the_pool(self) -> None:
        """The write that takes long is the last by the reactor thread."""
        writer = self.open()
        writer.writeSequence([b"quick "])
        self.disk.seconds = SLOW
        writer.writeSequence([b"just quick enough "])
        self.disk.stalls()
        writer.writeSequence([b"slow "])
        self.assertFalse(self.pool.jobs)
        writer.writeSequence([b"threaded"])
        self.assertEqual(len(self.pool.jobs), 1)
        self.pool.run()
        committing = writer.commit()
        self.assertNoResult(committing)
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.data_set(), b"quick just quick enough slow threaded")

    def test_order(self) -> None:
        """What comes while a thread writes is written after that, in order."""
        writer = self.busy()
        for number in range(10):
            writer.writeSequence([b"%d" % number, b","])
            self.assertEqual(len(self.pool.jobs), 1)
        self.pool.run(1)
        writer.writeSequence([b"last"])
        self.assertEqual(len(self.pool.jobs), 1)
        committing = writer.commit()
        self.pool.run(1)
        self.assertNoResult(committing)
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.data_set(), b"inline threaded 0,1,2,3,4,5,6,7,8,9,last")

    def test_quick_again(self) -> None:
        """Once a thread found the disk quick, the reactor thread writes again."""
        self.patch(filestore, "QUICK_JOBS", 1)
        writer = self.busy()
        self.disk.recovers()
        writer.writeSequence([b"waiting "])
        self.pool.run(1)
        self.assertFalse(self.pool.jobs)
        writer.writeSequence([b"inline"])
        self.assertFalse(self.pool.jobs)
        self.successResultOf(writer.commit())
        self.assertEqual(self.data_set(), b"inline threaded waiting inline")

    def test_quick_for_long_enough(self) -> None:
        """One quick write does not make a slow disk quick: many in a row do."""
        writer = self.busy()
        self.pool.run()
        self.disk.recovers()
        for _ in range(QUICK_JOBS):
            writer.writeSequence([b"threaded"])
            self.assertEqual(len(self.pool.jobs), 1)
            self.pool.run()
        writer.writeSequence([b"inline"])
        self.assertFalse(self.pool.jobs)
        self.successResultOf(writer.abort())

    def test_other_writers(self) -> None:
        """The disk is as slow for others; but who still has a thread writing waits for it."""
        self.patch(filestore, "QUICK_JOBS", 1)
        writer = self.busy()
        other = self.open(instance("1.2.4"))
        other.writeSequence([b"other "])
        self.assertEqual(len(self.pool.jobs), 2)
        self.disk.recovers()
        writer_job = self.pool.jobs.popleft()
        self.pool.run()
        self.assertFalse(self.storage.slow)
        writer.writeSequence([b"after"])
        committing = writer.commit()
        self.assertNoResult(committing)
        self.successResultOf(other.commit())
        writer_job()
        self.successResultOf(committing)
        self.assertEqual(self.data_set(), b"inline threaded after")
        self.assertEqual(self.data_set("CT.1.2.4", instance("1.2.4")), b"other ")

    def test_slow_commit(self) -> None:
        """A rename that takes long is a sign of a slow disk, too."""
        replace = self.disk.replace
        self.patch(self.disk, "replace", lambda *names: self.reactor.advance(1) or replace(*names))
        self.stores()
        self.assertTrue(self.storage.slow)

    def test_one_name(self) -> None:
        """Of two that threads give one name, the one that is told of last is the one that is there."""
        self.patch(filestore, "QUICK_JOBS", 6)
        self.storage.took(2 * SLOW)
        told: list[int] = []
        writers = [self.open(), self.open(), self.open(instance("1.2.4"))]
        for number, writer in enumerate(writers):
            writer.write(b"%d" % number)
        self.pool.run()
        for number, writer in enumerate(writers):
            writer.commit().addCallback(lambda _, number=number: told.append(number))
        self.assertEqual(len(self.pool.jobs), 2, "one for each name")
        self.pool.run(2)
        self.assertEqual(told, [0, 2])
        self.assertEqual(self.data_set()[-1:], b"0")
        self.reactor.advance(0)
        # Others commit where nobody waits for the disk, once that is quick again: but not those of this name.
        self.storage.took(0.0)
        other = self.open()
        other.write(b"3")
        other.commit().addCallback(lambda _: told.append(3))
        self.assertFalse(self.storage.slow)
        self.assertFalse(self.storage.immediate)
        self.pool.run()
        self.assertEqual(told, [0, 2, 1])
        self.reactor.advance(0)
        self.assertEqual(told, [0, 2, 1, 3])
        self.assertEqual(self.data_set()[-1:], b"3")

    def test_complete_first(self) -> None:
        """What was complete first is kept first, though it is written last: as when its sender has gone."""
        for sync in Sync:
            self.disk.recovers()
            self.storage = self.make_storage(sync)
            self.storage.took(2 * SLOW)
            first, second = self.open(), self.open()
            first.write(b"first")
            keeping = first.commit()
            keeping.cancel()
            self.failureResultOf(keeping, CancelledError)
            second.write(b"second")
            committing = second.commit()
            late = self.pool.jobs.popleft()
            self.pool.run()
            self.assertNoResult(committing)
            late()
            for _ in range(2):
                self.pool.run()
                self.reactor.advance(0)
            self.successResultOf(committing)
            self.assertEqual(self.data_set(), b"second")
            self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_flood(self) -> None:
        """While too much waits for a disk that stands still, no more is begun; then it is again."""
        self.patch(filestore, "FLOOD", 12_000)
        writers = [self.busy()]
        for number in range(4):
            writers.append(self.open(instance(f"1.3.{number}")))
            writers[-1].write(bytes(3000))
        refused = self.failureResultOf(self.storage.open(instance("1.2.9")), OSError)
        self.assertEqual(refused.value.strerror, "too much waits for the disk")
        (told,) = self.recorder.of(InstanceNotKept)
        self.assertIs(told.error, refused.value)
        self.pool.run(2)
        writers.append(self.open(instance("1.2.9")))
        for writer in writers:
            aborting = writer.abort()
            self.pool.run()
            self.successResultOf(aborting)

    def test_flood_of_small_ones(self) -> None:
        """However small they are, and whatever is waited for: so does each instance that is to be kept."""
        self.patch(filestore, "FLOOD", 3 * INSTANCE)
        for sync in (Sync.NONE, Sync.FULL):
            self.storage = self.make_storage(sync)
            self.storage.took(2 * SLOW)
            kept = [self.open(instance(f"1.3.{number}")).commit() for number in range(4)]
            self.failureResultOf(self.storage.open(instance("1.2.9")), OSError)
            for _ in range(2):
                self.pool.run()
            for committing in kept:
                self.successResultOf(committing)
            aborting = self.open().abort()
            self.pool.run()
            self.successResultOf(aborting)

    def test_stalled_sync(self) -> None:
        """While a sync has been running for long, nothing is written by the reactor thread; then it is."""
        self.storage = self.make_storage(Sync.FULL)
        committing = self.open().commit()
        self.reactor.advance(STALLED)
        self.assertFalse(self.storage.slow)
        self.reactor.advance(0.1)
        other = self.open(instance("1.2.4"))
        other.write(b"threaded")
        self.assertEqual(self.files(), [])
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(len(self.files()), 2)
        other.write(b" inline")
        self.assertFalse(self.pool.jobs)
        committing = other.commit()
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.data_set("CT.1.2.4", instance("1.2.4")), b"threaded inline")

    def test_not_heard_of(self) -> None:
        """A disk that was not used for a while is touched by a thread first: it may stand still."""
        self.reactor.advance(TRUST)
        self.stores()
        self.reactor.advance(TRUST + 0.1)
        writers = [self.open(instance(f"1.2.{number}")) for number in (5, 6)]
        for writer in writers:
            writer.write(b"threaded")
        self.assertEqual(len(self.pool.jobs), 2)
        self.pool.run(1)
        writers[0].write(b" inline")
        self.assertEqual(len(self.pool.jobs), 1)
        self.pool.run()
        for writer in writers:
            self.successResultOf(writer.commit())
        self.assertEqual(self.data_set("CT.1.2.5", instance("1.2.5")), b"threaded inline")

    def test_water_marks(self) -> None:
        """Above the high-water mark the producer is paused, once; below the low one it goes on, once."""
        writer = self.busy()
        producer = Producer()
        writer.registerProducer(producer, True)
        half = HIGH_WATER // 2 - OVERHEAD
        threaded = len(b"threaded ") + OVERHEAD
        writer.writeSequence([bytes(half)])
        writer.writeSequence([bytes(half - threaded)])
        self.assertEqual(producer.told, [])
        writer.writeSequence([b""])
        self.assertEqual(producer.told, ["pause"])
        writer.writeSequence([b"a little more"])
        self.assertEqual(producer.told, ["pause"])
        self.pool.run(1)
        self.assertEqual(producer.told, ["pause"])
        writer.writeSequence([bytes(LOW_WATER - OVERHEAD)])
        self.pool.run(1)
        self.assertEqual(producer.told, ["pause"])
        self.pool.run(1)
        self.assertEqual(producer.told, ["pause", "resume"])
        writer.unregisterProducer()
        committing = writer.commit()
        self.pool.run()
        self.successResultOf(committing)
        length = 2 * half - threaded + len(b"inline threaded a little more") + LOW_WATER - OVERHEAD
        self.assertEqual(len(self.data_set()), length)

    def test_many_writers(self) -> None:
        """All writers may have so much waiting, however many: then each is paused until it has nothing."""
        self.patch(filestore, "TOTAL_WATER", 10_000)
        self.storage = self.make_storage()
        first = self.busy()
        others = [self.open(instance(f"1.2.{number}")) for number in range(4, 8)]
        producers = []
        for writer in others:
            producers.append(Producer())
            writer.registerProducer(producers[-1], True)
            writer.writeSequence([bytes(3000)])
        self.assertEqual([producer.told for producer in producers], [[], [], ["pause"], ["pause"]])
        others[0].writeSequence([bytes(100)])
        self.assertEqual(producers[0].told, ["pause"])
        self.pool.run(2)  # the first writer's, and the first of this one: it has something waiting yet
        self.assertEqual(producers[0].told, ["pause"])
        self.pool.run()
        self.assertEqual(
            [producer.told for producer in producers],
            [["pause", "resume"], [], ["pause", "resume"], ["pause", "resume"]],
        )
        self.assertEqual(self.storage.backlog.octets, 0)
        for writer in (first, *others):
            writer.unregisterProducer()
            aborting = writer.abort()
            self.pool.run()
            self.successResultOf(aborting)

    def test_counted_no_more(self) -> None:
        """However it ends, what waited for the disk is not held against others."""
        for end in ("abort", "error", "error and abort", "commit"):
            writer = self.busy()
            writer.writeSequence([b"waiting"])
            self.assertGreater(self.storage.backlog.octets, 0)
            if "error" in end:
                self.disk.breaks("writev", errno.EIO)
            ending = writer.abort() if "abort" in end else writer.commit()
            self.pool.run()
            self.assertEqual(self.storage.backlog.octets, 0, end)
            ending.addErrback(lambda failure: failure.trap(OSError))
            self.successResultOf(ending)
            self.disk.recovers()

    def test_overhead(self) -> None:
        """Each fragment counts for more than its octets: a peer that sends one at a time is paused, too."""
        writer = self.busy()
        producer = Producer()
        writer.registerProducer(producer, True)
        for _ in range(HIGH_WATER // (OVERHEAD + 1) - 1):
            writer.writeSequence([b"x"])
        self.assertEqual(producer.told, [])
        writer.writeSequence([b"x"])
        self.assertEqual(producer.told, ["pause"])
        aborting = writer.abort()
        self.pool.run()
        self.successResultOf(aborting)

    def test_producer_resumes_at_once(self) -> None:
        """A producer that produces the moment it is resumed does not overtake what waits."""
        self.patch(filestore, "QUICK_JOBS", 1)
        writer = self.busy()
        disk = self.disk

        class Eager(Producer):
            def resumeProducing(self) -> None:
                disk.recovers()
                writer.writeSequence([b"late"])

        writer.registerProducer(Eager(), True)
        writer.writeSequence([bytes(HIGH_WATER)])
        # Two batches: the first big, so that its end resumes; the second is what waits then.
        self.pool.run(1)
        writer.writeSequence([b"early "])
        self.disk.recovers()
        self.pool.run()
        writer.unregisterProducer()
        self.successResultOf(writer.commit())
        self.assertEqual(self.data_set(), b"inline threaded " + bytes(HIGH_WATER) + b"early late")

    def test_commit_while_busy(self) -> None:
        """A commit waits for the thread, and keeps all."""
        writer = self.busy()
        committing = writer.commit()
        self.assertNoResult(committing)
        self.assertEqual(len(self.pool.jobs), 1)
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.data_set(), b"inline threaded ")

    def test_abort_while_busy(self) -> None:
        """An abort waits for the thread; what else waited is not written."""
        writer = self.busy()
        writer.writeSequence([b"never"])
        writes = self.disk.calls.count("writev")
        aborting = writer.abort()
        self.assertNoResult(aborting)
        self.pool.run()
        self.assertIsNone(self.successResultOf(aborting))
        self.assertEqual(self.disk.calls.count("writev"), writes + 1)
        self.assertEqual(self.files(), [])

    def test_error_in_a_thread(self) -> None:
        """An error in a thread stops the producer; what waits is dropped and commit fails."""
        writer = self.busy()
        producer = Producer()
        writer.registerProducer(producer, True)
        writer.writeSequence([b"waiting"])
        self.disk.breaks("writev", errno.EIO)
        self.pool.run()
        self.assertEqual(producer.told, ["stop"])
        self.assertEqual(self.files(), [])
        writer.writeSequence([b"more"])
        writer.unregisterProducer()
        committing = writer.commit()
        self.pool.run()
        self.assertEqual(self.failureResultOf(committing, OSError).value.errno, errno.EIO)
        self.assertEqual(len(self.recorder.of(InstanceNotKept)), 1)

    def test_error_under_a_commit(self) -> None:
        """A commit that waits for a thread fails with that thread's error, once nothing is left."""
        writer = self.busy()
        committing = writer.commit()
        self.disk.breaks("writev", errno.EIO)
        self.pool.run(1)
        self.assertNoResult(committing)
        self.pool.run()
        self.failureResultOf(committing, OSError)
        self.assertEqual(self.files(), [])

    def test_error_under_an_abort(self) -> None:
        """An abort that waits for a thread is done though that thread fails."""
        writer = self.busy()
        aborting = writer.abort()
        self.disk.breaks("writev", errno.EIO)
        self.pool.run()
        self.assertIsNone(self.successResultOf(aborting))
        self.assertEqual(self.files(), [])

    def test_rename_fails_in_a_thread(self) -> None:
        """A commit that fails in a thread fails once nothing is left."""
        writer = self.busy()
        committing = writer.commit()
        self.disk.breaks("replace", errno.EACCES)
        self.pool.run(2)
        self.assertNoResult(committing)
        self.pool.run()
        self.failureResultOf(committing, PermissionError)
        self.assertEqual(self.files(), [])

    def test_commit_is_cancelled_while_busy(self) -> None:
        """Who waits for a commit may be cancelled: the instance is kept, and that is told."""
        for jobs in (0, 1):
            writer = self.busy()
            committing = writer.commit()
            self.pool.run(jobs)
            committing.cancel()
            self.failureResultOf(committing, CancelledError)
            self.pool.run()
            self.assertEqual(self.data_set(), b"inline threaded ")
            os.unlink(self.path())
            self.disk.recovers()
            self.slow(False)
        self.assertEqual(len(self.recorder.of(InstanceKept)), 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancelled_commit_fails(self) -> None:
        """A commit that fails when no one waits for it any more is told, and leaves nothing behind."""
        for call in ("writev", "replace"):
            writer = self.busy()
            committing = writer.commit()
            committing.cancel()
            self.failureResultOf(committing, CancelledError)
            self.disk.breaks(call, errno.EIO)
            self.pool.run()
            self.assertEqual(self.files(), [])
            self.disk.recovers()
            self.slow(False)
        self.assertEqual(len(self.recorder.of(InstanceNotKept)), 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_two_at_a_time(self) -> None:
        """Two writers of one instance do not mix in threads either: who commits last wins, whole."""
        writers = [self.busy(), self.open()]
        for number, writer in enumerate(writers):
            for _ in range(10):
                writer.writeSequence([b"%d" % number] * 10)
        first, second = (writer.commit() for writer in writers)
        # The jobs of the two in turn, as two threads would do them.
        while self.pool.jobs:
            self.pool.run(1)
            self.pool.jobs.rotate(1)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertIn(self.data_set(), (b"inline threaded " + b"0" * 100, b"1" * 100))
        self.assertEqual(self.files(), ["CT.1.2.3"])
        self.assertEqual([event.replaced for event in self.recorder.of(InstanceKept)], [False, True])
