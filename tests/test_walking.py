"""Tests for the check in passing: in place, and in a thread."""

from __future__ import annotations

import os
import zlib
from functools import partial
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import Acceptor, Storage, Verification, walking
from dicomnode.core.dataset import Walk
from dicomnode.core.pdu import p_data_tf
from dicomnode.filestore import FileStorage
from dicomnode.fragments import OVERHEAD
from dicomnode.interfaces import IInstanceWriter
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Pool, Reactor
from tests.files import Producer
from tests.reliability.sessions import BIG_ENDIAN, CT_IMAGE_STORAGE, DEFLATED, data_set, deflated

EXPLICIT = "1.2.840.10008.1.2.1"


def bomb(octets: int) -> bytes:
    """Return a data set that inflates to so many octets."""
    data = data_set("1.2.3") + b"\xe0\x7f\x10\0OW\0\0" + octets.to_bytes(4, "little") + bytes(octets)
    return deflated(data)


class _WalkingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pool = Pool()
        self.threads = walking.Threads(Reactor(), cast(Any, self.pool))
        self.writer = MemoryWriter(MemoryStorage(), cast(Any, None))
        self.producer = Producer()
        self.clock = Clock()


class WalkingTests(_WalkingCase):
    """A walk in place."""

    def setUp(self) -> None:
        super().setUp()
        self.walking = walking.PassingWalking(self.writer, Walk(EXPLICIT), self.clock)
        self.walking.registerProducer(self.producer, True)

    def test_interface(self) -> None:
        """It is an instance writer, and its writer's producer."""
        verifyObject(IInstanceWriter, self.walking)
        verifyObject(IPushProducer, self.walking)

    def test_passes(self) -> None:
        """The writer is given what the walk has seen."""
        octets = data_set("1.2.3")
        self.walking.write(octets[:10])
        self.walking.writeSequence([memoryview(octets)[10:]])
        self.assertEqual(b"".join(self.writer.data), octets)
        self.assertEqual(self.walking.walk.sop_instance_uid, "1.2.3")
        self.assertIsNone(self.walking.finished())

    def test_backpressure(self) -> None:
        """What the writer tells its producer reaches that."""
        self.walking.pauseProducing()
        self.walking.resumeProducing()
        self.walking.stopProducing()
        self.assertEqual(self.producer.told, ["pause", "resume", "stop"])
        self.assertTrue(self.walking.stopped)

    def test_unhashable(self) -> None:
        """Any writer may pause its producer."""
        self.patch(MemoryWriter, "__hash__", None)
        self.walking.pauseProducing()
        self.walking.resumeProducing()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_without_a_producer(self) -> None:
        """When the data set has been delivered, there is no one to tell."""
        self.walking.unregisterProducer()
        self.walking.pauseProducing()
        self.walking.resumeProducing()
        self.walking.stopProducing()
        self.assertEqual(self.producer.told, [])
        self.assertIsNone(self.writer.producer)


class ThreadsTests(_WalkingCase):
    """Some threads of a pool."""

    def test_most(self) -> None:
        """No more jobs are done at a time; the others wait, in order, and behind one that fails, too."""
        order: list[int] = []
        jobs = [self.threads.run(partial(order.append, number)) for number in range(4)]
        failing = self.threads.run(lambda: 1 // 0)
        last = self.threads.run(lambda: order.append(4) or "last")  # type: ignore[func-returns-value]
        for _ in range(6):
            self.assertLessEqual(len(self.pool.jobs), walking.WALKERS)
            self.pool.run(1)
        for job in jobs:
            self.successResultOf(job)
        self.failureResultOf(failing, ZeroDivisionError)
        self.assertEqual(self.successResultOf(last), "last")
        self.assertEqual(order, [0, 1, 2, 3, 4])


class ThreadedWalkingTests(_WalkingCase):
    """A walk in a thread."""

    def setUp(self) -> None:
        super().setUp()
        self.walking = walking.ThreadedWalking(self.writer, Walk(DEFLATED), self.threads)
        self.walking.registerProducer(self.producer, True)

    def test_order(self) -> None:
        """Batches are walked one after the other, and the writer does not wait for them."""
        octets = deflated(data_set("1.2.3"))
        for start in range(0, len(octets), 10):
            self.walking.write(octets[start : start + 10])
        self.walking.unregisterProducer()
        self.assertIsNone(self.writer.producer)
        self.assertEqual(b"".join(self.writer.data), octets)
        self.assertEqual(len(self.pool.jobs), 1)
        finished = self.walking.finished()
        self.assertNoResult(finished)
        self.pool.run()
        self.successResultOf(finished)
        self.walking.walk.end()
        self.assertTrue(self.walking.walk.whole)
        self.assertEqual(self.walking.walk.sop_instance_uid, "1.2.3")

    def test_pauses(self) -> None:
        """A walk that is behind pauses the peer, and lets it go on when it has caught up."""
        block = zlib.compress(bytes(1000), wbits=-15).ljust(walking.HIGH_WATER - OVERHEAD, b"\0")
        self.walking.write(block)
        self.assertEqual(self.producer.told, [])
        self.walking.write(block)
        self.assertEqual(self.producer.told, ["pause"])
        self.pool.run()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_two_reasons(self) -> None:
        """The peer goes on when neither the walk nor the writer is behind."""
        self.walking.pauseProducing()
        for _ in range(2):
            self.walking.write(bytes(walking.HIGH_WATER))
        self.pool.run()
        self.assertEqual(self.producer.told, ["pause"])
        self.walking.resumeProducing()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_many(self) -> None:
        """All that waits to be walked may be so much, however many they are."""
        self.threads.backlog.most = 3000
        others = []
        for _ in range(4):
            other = walking.ThreadedWalking(MemoryWriter(MemoryStorage(), None), Walk(DEFLATED), self.threads)
            others.append(Producer())
            other.registerProducer(others[-1], True)
            other.write(bytes(1000))
        self.assertEqual([producer.told for producer in others], [[], [], ["pause"], ["pause"]])
        self.pool.run()
        self.assertEqual([producer.told for producer in others[2:]], [["pause", "resume"]] * 2)
        self.assertEqual(self.threads.backlog.octets, 0)

    def test_turns(self) -> None:
        """What inflates far takes several jobs, and those of others are done between them."""
        self.patch(walking, "JOB", 1 << 20)
        self.walking.write(bomb(8 << 20))
        finished = self.walking.finished()
        others = []
        jobs = 0
        while self.pool.jobs:
            jobs += 1
            others.append(self.threads.run(lambda: None))
            self.pool.run(2)
            self.successResultOf(others[-1])
        self.successResultOf(finished)
        self.assertEqual(jobs, 8)
        self.walking.walk.end()
        self.assertTrue(self.walking.walk.whole)

    def test_abandoned(self) -> None:
        """Where nobody waits for it any more, it is not walked to its end."""
        self.patch(walking, "JOB", 1 << 20)
        self.walking.write(bomb(8 << 20))
        finished = self.walking.finished()
        self.pool.run(1)
        self.walking.write(b"behind that")
        finished.cancel()
        self.failureResultOf(finished, CancelledError)
        self.assertEqual(self.threads.backlog.octets, 0)
        self.pool.run(1)
        self.assertFalse(self.pool.jobs)
        self.assertEqual(self.threads.backlog.octets, 0)

    def test_bug(self) -> None:
        """A walk that fails, as none should, is not taken for one that has seen all."""
        self.patch(Walk, "inflate", lambda walk, data: 1 / 0)
        self.walking.write(b"data")
        finished = self.walking.finished()
        self.pool.run()
        self.failureResultOf(finished, ZeroDivisionError)
        self.assertEqual(self.producer.told, ["stop"])
        self.walking.write(b"that was on its way")
        self.assertFalse(self.pool.jobs)
        self.assertEqual(self.threads.backlog.octets, 0)
        self.failureResultOf(self.walking.finished(), ZeroDivisionError)


class StorageTests(_WalkingCase):
    """Deflated data sets that are stored."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = MemoryStorage()
        reactor = Reactor()
        services = [Verification(), Storage(self.storage, threads=self.threads)]
        self.peer = Peer(Acceptor(reactor, services))
        contexts = {CT_IMAGE_STORAGE: [DEFLATED], "1.2.840.10008.5.1.4.1.1.4": [BIG_ENDIAN]}
        self.peer.associates(contexts)

    def test_answered_behind_the_walk(self) -> None:
        """Success waits for the walk."""
        octets = deflated(data_set("1.2.3"))
        self.peer.stores("1.2.3", octets)
        self.assertEqual(self.peer.responses, [])
        self.pool.run()
        self.peer.exchange()
        self.assertEqual(self.peer.response.status, 0x0000)
        self.assertEqual(self.storage.instances["1.2.3"][1], octets)

    def test_end_while_behind(self) -> None:
        """Where the producer's going on brings the end, it waits for what has yet to be walked."""
        size = walking.HIGH_WATER + walking.LOW_WATER // 4
        value = b"\xe1\x7f\x10\0OB\0\0" + size.to_bytes(4, "little") + os.urandom(size)
        octets = deflated(data_set("1.2.3") + value)
        first = walking.HIGH_WATER - walking.LOW_WATER // 4
        self.peer.begins("1.2.3", b"")
        for read in (octets[:first], octets[first:]):
            pdus = (read[start : start + 16_000] for start in range(0, len(read), 16_000))
            self.peer.transport.deliver(b"".join(p_data_tf(1, False, False, pdu) for pdu in pdus))
        self.assertTrue(self.peer.transport.paused)
        self.peer.goes_on(b"", last=True)
        self.assertEqual(self.peer.responses, [])
        self.pool.run()
        self.peer.exchange()
        self.assertEqual(self.peer.response.status, 0x0000)

    def test_order(self) -> None:
        """The same instance, sent again, waits until the one that threads are walking is answered."""
        self.patch(walking, "JOB", 1 << 16)
        again = deflated(data_set("1.2.3"))
        self.peer.stores("1.2.3", bomb(1 << 20))
        self.peer.stores("1.2.3", again)
        self.pool.run()
        self.peer.exchange()
        self.assertEqual([response.status for response in self.peer.responses], [0, 0])
        self.assertEqual(self.storage.instances["1.2.3"][1], again)

    def test_unchecked(self) -> None:
        """What it says is known when it is to be kept, though nobody checks it."""
        known: list[Any] = []

        class Asking(MemoryWriter):
            def commit(self) -> Deferred[None]:
                known.append(self.instance.walk.sop_instance_uid)
                return super().commit()

        storage = MemoryStorage()
        self.patch(storage, "_open", lambda instance: Asking(storage, instance))
        for threads in (self.threads, None):
            peer = Peer(Acceptor(Reactor(), [Storage(storage, check=False, threads=threads)]))
            peer.associates({CT_IMAGE_STORAGE: [DEFLATED]})
            peer.stores("1.2.3", deflated(data_set("1.2.3")))
            self.pool.run()
            peer.exchange()
            self.assertEqual(peer.response.status, 0x0000)
        self.assertEqual(known, ["1.2.3", "1.2.3"])

    def test_cut(self) -> None:
        """A deflated data set that is cut is refused."""
        self.peer.stores("1.2.3", deflated(data_set("1.2.3"))[:-9])
        self.pool.run()
        self.peer.exchange()
        self.assertEqual(self.peer.response.status, 0xC210)
        self.assertEqual(self.storage.writers[0].ended, "abort")

    def test_commit_beside_bombs(self) -> None:
        """Ten peers with what inflates without measure keep a commit waiting for two jobs at most."""
        self.patch(walking, "JOB", 1 << 20)
        directory = self.mktemp()
        os.mkdir(directory)
        pool = cast(Any, self.pool)
        files = FileStorage(directory, reactor=Reactor(), pool=pool)
        acceptor = Acceptor(Reactor(), [Storage(files, threads=self.threads)])
        peers = [Peer(acceptor) for _ in range(11)]
        octets = bomb(8 << 20)
        for number, peer in enumerate(peers):
            peer.associates({CT_IMAGE_STORAGE: [DEFLATED if number < 10 else EXPLICIT]})
        for number, peer in enumerate(peers[:10]):
            peer.stores(f"1.2.3.{number}", octets)
        self.pool.run(20)  # all are at it
        peers[10].stores("1.2.3", data_set("1.2.3"))
        self.pool.run(3 + walking.WALKERS)  # the first write, and the commit, each behind two walks
        peers[10].exchange()
        self.assertEqual(peers[10].response.status, 0x0000)
        self.assertEqual([status for peer in peers[:10] for status in peer.responses], [])
        self.pool.run()
        for peer in peers[:10]:
            peer.exchange()
            self.assertEqual(peer.response.status, 0xA900)  # it is another instance

    def test_peer_gone(self) -> None:
        """When the peer goes while its data set is being walked, the writer is told."""
        self.peer.stores("1.2.3", deflated(data_set("1.2.3")))
        self.peer.transport.lose(Failure(ConnectionError()))  # type: ignore[no-untyped-call]
        self.assertEqual(self.storage.writers[0].ended, "abort")
        self.pool.run()

    def test_others_are_walked_in_place(self) -> None:
        """What is not deflated needs no thread."""
        self.peer.stores("1.2.3", data_set("1.2.3", ">"), "1.2.840.10008.5.1.4.1.1.4")
        self.assertEqual(self.peer.response.status, 0xA900)  # it is a CT
        self.assertFalse(self.pool.jobs)
