"""Tests for the check in passing: in place, and in a thread."""

from __future__ import annotations

import zlib
from typing import Any, cast

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import Acceptor, Storage, Verification, walking
from dicomnode.core.dataset import Walk
from dicomnode.interfaces import IInstanceWriter
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Pool, Reactor
from tests.files import Producer
from tests.reliability.sessions import BIG_ENDIAN, CT_IMAGE_STORAGE, DEFLATED, data_set, deflated

EXPLICIT = "1.2.840.10008.1.2.1"


class _WalkingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pool = Pool()
        self.threads = walking.Threads(Reactor(), cast(Any, self.pool))
        self.writer = MemoryWriter(MemoryStorage(), cast(Any, None))
        self.producer = Producer()


class WalkingTests(_WalkingCase):
    """A walk in place."""

    def setUp(self) -> None:
        super().setUp()
        self.walking = walking.Walking(self.writer, Walk(EXPLICIT))
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

    def test_without_a_producer(self) -> None:
        """When the data set has been delivered, there is no one to tell."""
        self.walking.unregisterProducer()
        self.walking.pauseProducing()
        self.walking.resumeProducing()
        self.walking.stopProducing()
        self.assertEqual(self.producer.told, [])
        self.assertIsNone(self.writer.producer)


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
        block = zlib.compress(bytes(1000), wbits=-15).ljust(walking.HIGH_WATER, b"\0")
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

    def test_bug(self) -> None:
        """A walk that fails, as none should, is not taken for one that has seen all."""
        self.patch(Walk, "feed", lambda walk, data: 1 / 0)
        self.walking.write(b"data")
        finished = self.walking.finished()
        self.pool.run()
        self.failureResultOf(finished, ZeroDivisionError)


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

    def test_cut(self) -> None:
        """A deflated data set that is cut is refused."""
        self.peer.stores("1.2.3", deflated(data_set("1.2.3"))[:-9])
        self.pool.run()
        self.peer.exchange()
        self.assertEqual(self.peer.response.status, 0xC210)
        self.assertEqual(self.storage.writers[0].ended, "abort")

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
