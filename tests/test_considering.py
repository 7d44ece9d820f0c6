"""Tests for :mod:`dicomnode.considering`: the veto before the pixels."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import Acceptor, OperationFailed, Storage
from dicomnode.commits import Sync
from dicomnode.considering import Considering
from dicomnode.contracts import InstanceWriterContract
from dicomnode.core.command import Status
from dicomnode.core.dataset import Walk
from dicomnode.events import Paused, Unexpected
from dicomnode.filestore import FileStorage
from dicomnode.interfaces import IInstanceWriter, Instance, IStorage
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Pool, Reactor, Recorder
from dicomnode.walking import Threads
from tests.files import Producer, instance
from tests.reliability.sessions import deflated
from tests.servicecases import Stubborn

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    tag = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr
    if vr == b"OW":
        return tag + bytes(2) + len(value).to_bytes(4, "little") + value
    return tag + len(value).to_bytes(2, "little") + value


HEADER = b"".join(
    (
        element(0x0008, 0x0016, b"UI", CT.encode()),
        element(0x0008, 0x0018, b"UI", b"1.2.3"),
        element(0x0008, 0x0060, b"CS", b"CT"),
        element(0x0010, 0x0020, b"LO", b"PATIENT"),
        element(0x0020, 0x000D, b"UI", b"1.2"),
        element(0x0020, 0x000E, b"UI", b"1.2.1"),
    )
)
DATA = HEADER + element(0x7FE0, 0x0010, b"OW", bytes(100_000))

REFUSAL = OperationFailed(0xA701, "not this patient")


class ConsideringCase(SynchronousTestCase):
    """Tests of a storage that asks, at the other end of an association in memory."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.recorder = Recorder()
        self.storage = MemoryStorage()
        self.asked: list[tuple[str | None, ...]] = []
        self.decision: Any = None

    def consider(self, instance: Instance) -> Any:
        walk = instance.walk
        assert walk is not None
        self.asked.append((walk.sop_instance_uid, walk.modality, walk.patient_id, walk.study_instance_uid))
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision

    def associate(
        self, syntax: str = EXPLICIT, storage: IStorage | None = None, size: int | None = 1000, **options: Any
    ) -> Peer:
        service = Storage(storage or self.storage, consider=self.consider, **options)
        peer = Peer(Acceptor(self.reactor, [service], observe=self.recorder), size)
        peer.associates({CT: [syntax]})
        return peer

    def written(self) -> int:
        """Return how many octets the storage was given."""
        return sum(len(data) for writer in self.storage.writers for data in writer.data)


class VetoTests(ConsideringCase):
    """Who is asked sees the header, and decides before the pixels are written."""

    def test_accepts(self) -> None:
        """It is asked once, with what the header says; the instance is kept as it came."""
        peer = self.associate()
        peer.stores("1.2.3", DATA)
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(self.asked, [("1.2.3", "CT", "PATIENT", "1.2")])
        self.assertEqual(self.storage.instances["1.2.3"][1], DATA)
        self.assertEqual(self.recorder.of(Paused), [])

    def test_however_it_arrives(self) -> None:
        """It is asked once, and all is kept, in whatever pieces the data set arrives, and without a check."""
        for size in (1, 7, 500, None):
            peer = self.associate(size=size, check=False)
            peer.stores("1.2.3", DATA[:2000])
            self.assertEqual(peer.response.status, Status.SUCCESS)
            self.assertEqual(self.asked.pop(), ("1.2.3", "CT", "PATIENT", "1.2"))
            self.assertEqual(self.asked, [])
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], DATA[:2000])

    def test_refuses(self) -> None:
        """What it refuses is answered with its status, and no pixel is written; the next one is asked for."""
        for decision in (REFUSAL, fail(REFUSAL)):
            peer = self.associate()
            self.decision = decision
            peer.stores("1.2.3", DATA)
            self.assertEqual(
                (peer.response.status, peer.response.error_comment), (0xA701, "not this patient")
            )
            self.assertEqual(self.storage.writers[-1].ended, "abort")
            self.assertEqual(self.storage.instances, {})
            self.assertLess(self.written(), 2500)
            self.decision = None
            peer.stores("1.2.3", DATA)
            self.assertEqual(peer.response.status, Status.SUCCESS)
            self.storage = MemoryStorage()

    def test_coroutine(self) -> None:
        """It may be a coroutine function."""
        turn: Deferred[None] = Deferred()

        async def consider(instance: Instance) -> None:
            await turn
            raise REFUSAL

        self.patch(self, "consider", consider)
        peer = self.associate()
        peer.stores("1.2.3", DATA)
        self.assertEqual(peer.responses, [])
        turn.callback(None)
        peer.exchange()
        self.assertEqual(peer.response.status, 0xA701)

    def test_waits(self) -> None:
        """While it thinks, the peer is paused, and nothing is written; then all is."""
        self.decision = Deferred()
        peer = self.associate()
        peer.stores("1.2.3", DATA)
        self.assertEqual(len(self.recorder.of(Paused)), 1)
        self.assertEqual(peer.responses, [])
        self.assertLess(self.written(), len(HEADER))
        self.decision.callback(None)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(self.storage.instances["1.2.3"][1], DATA)

    def test_waits_at_the_end(self) -> None:
        """It may take its time though all has arrived, and though there is nothing behind the header."""
        for data in (DATA, HEADER):
            for decision, status in ((None, 0), (REFUSAL, 0xA701)):
                self.decision = Deferred()
                peer = self.associate(size=None)
                peer.stores("1.2.3", data)
                self.assertEqual(peer.responses, [])
                if decision is None:
                    self.decision.callback(None)
                else:
                    self.decision.errback(decision)
                peer.exchange()
                self.assertEqual(peer.response.status, status)
        self.assertEqual(
            [writer.ended for writer in self.storage.writers], ["commit", "abort", "commit", "abort"]
        )

    def test_short(self) -> None:
        """A data set that ends with its header is asked for, too."""
        peer = self.associate()
        peer.stores("1.2.3", HEADER)
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(len(self.asked), 1)

    def test_not_whole(self) -> None:
        """What is not whole is refused for that, though it was accepted before."""
        peer = self.associate()
        peer.stores("1.2.3", DATA[:-1])
        self.assertEqual(peer.response.status, Status.CANNOT_UNDERSTAND)
        peer.stores("1.2.3", HEADER[:-1])
        self.assertEqual(peer.response.status, Status.CANNOT_UNDERSTAND)
        self.assertEqual(len(self.asked), 1)
        self.assertEqual(self.storage.instances, {})

    def test_warning(self) -> None:
        """What is let in may be stored with a warning."""
        self.storage = cast(Any, Stubborn())
        self.storage.committing = succeed(0xB000)  # type: ignore[attr-defined]
        peer = self.associate()
        peer.stores("1.2.3", DATA)
        self.assertEqual(peer.response.status, 0xB000)

    def test_commit_is_not_cancelled(self) -> None:
        """What is let in is kept, though the peer goes away meanwhile."""
        cancelled: list[object] = []
        self.storage = cast(Any, Stubborn())
        self.storage.committing = Deferred(cancelled.append)  # type: ignore[attr-defined]
        peer = self.associate()
        peer.stores("1.2.3", DATA)
        peer.transport.lose()
        self.assertEqual(cancelled, [])

    def test_association_ends(self) -> None:
        """Nobody thinks on when the peer has gone; nothing is kept."""
        cancelled: list[object] = []
        for size, data in ((1000, DATA), (None, DATA), (None, HEADER)):
            self.decision = Deferred(cancelled.append)
            peer = self.associate(size=size)
            peer.stores("1.2.3", data)
            peer.transport.lose()
            self.assertEqual(cancelled.pop(), self.decision)
            self.assertEqual(self.storage.writers.pop().ended, "abort")
        self.assertEqual(self.storage.instances, {})
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_bug(self) -> None:
        """One that fails otherwise is a bug: 0x0110, and nothing is kept."""
        self.decision = ZeroDivisionError("oops")
        peer = self.associate()
        peer.stores("1.2.3", DATA)
        self.assertEqual(peer.response.status, Status.PROCESSING_FAILURE)
        self.assertEqual(self.storage.instances, {})
        self.assertEqual(len(self.recorder.of(Unexpected)), 1)

    def test_too_large(self) -> None:
        """What was held back may be too much for an instance, as what was not."""
        self.decision = Deferred()
        peer = self.associate(max_instance_size=len(HEADER) + 100, size=None)
        peer.stores("1.2.3", DATA)
        self.decision.callback(None)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)
        self.assertEqual(self.storage.writers[0].ended, "abort")

    def test_deflated(self) -> None:
        """A data set that is walked in a thread is asked for at its end, at the latest."""
        pool = Pool()
        peer = self.associate(DEFLATED, threads=Threads(self.reactor, cast(Any, pool)))
        self.decision = REFUSAL
        peer.stores("1.2.3", deflated(DATA))
        self.assertEqual(peer.responses, [])
        pool.run()
        peer.exchange()
        self.assertEqual(peer.response.status, 0xA701)
        self.assertEqual(self.asked, [("1.2.3", "CT", "PATIENT", "1.2")])
        self.assertEqual(self.storage.instances, {})

    def test_files(self) -> None:
        """Nothing of what is refused is on the disk."""
        directory = self.mktemp()
        os.makedirs(directory)
        pool = Pool()
        storage = FileStorage(directory, reactor=self.reactor, pool=cast(Any, pool), sync=Sync.NONE)
        peer = self.associate(storage=storage)
        self.decision = REFUSAL
        peer.stores("1.2.3", DATA)
        self.assertEqual(peer.response.status, 0xA701)
        self.assertEqual(os.listdir(directory), [])


class WriterTests(ConsideringCase):
    """The writer passes on what there is to tell."""

    def setUp(self) -> None:
        super().setUp()
        self.writer = MemoryWriter(self.storage, instance())
        self.walk = Walk(EXPLICIT)
        self.considering = Considering(self.writer, instance(walk=self.walk), self.consider)
        self.producer = Producer()
        self.considering.registerProducer(self.producer, True)

    def writes(self, data: bytes) -> None:
        self.walk.feed(data)
        self.considering.write(data)

    def test_backpressure(self) -> None:
        """The producer goes on once both the writer and the decision allow it."""
        self.decision = Deferred()
        self.writes(DATA)
        self.considering.pauseProducing()
        self.decision.callback(None)
        self.assertEqual(self.producer.told, ["pause"])
        self.considering.resumeProducing()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_refused(self) -> None:
        """Nothing more is wanted of what is refused."""
        self.decision = REFUSAL
        self.writes(DATA)
        self.writes(b"more")
        self.assertIn("stop", self.producer.told)
        self.assertTrue(self.considering.stopped)
        self.considering.unregisterProducer()
        self.failureResultOf(self.considering.commit(), OperationFailed)
        self.assertEqual((self.writer.data, self.writer.ended), ([], "abort"))

    def test_commit_is_cancelled(self) -> None:
        """Who cancels a commit that waits for the decision has nothing kept."""
        self.decision = Deferred()
        self.writes(DATA)
        committing = self.considering.commit()
        committing.cancel()
        self.failureResultOf(committing, CancelledError)
        self.assertEqual(self.writer.ended, "abort")

    def test_abort(self) -> None:
        """It may be aborted before it has asked."""
        self.considering.abort()
        self.assertEqual(self.writer.ended, "abort")


class AskingStorage:
    """A storage all of whose writers ask, and are told to go on."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        walked = Instance(
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax_uid,
            instance.calling_ae_title,
            instance.called_ae_title,
            instance.association,
            Walk(EXPLICIT),
        )
        opening = self._storage.open(instance)
        return opening.addCallback(lambda writer: Considering(writer, walked, lambda _: None))


class ContractTests(InstanceWriterContract, SynchronousTestCase):
    """It keeps the promises of a writer, if what it stands before does."""

    def setUp(self) -> None:
        self.storage = MemoryStorage()

    def open_storage(self) -> Any:
        return AskingStorage(self.storage)

    def kept(self, what: Instance) -> bytes | None:
        return self.storage.instances.get(what.sop_instance_uid, (what, None))[1]

    def test_interfaces(self) -> None:
        """It is an instance writer."""
        verifyObject(IInstanceWriter, self.writer())

    def leftovers(self) -> Sequence[object]:
        return ()
