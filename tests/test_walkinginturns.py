"""Tests for the check in passing where it takes several turns of the reactor."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, OperationFailed, Storage, walking
from dicomnode.commits import Sync
from dicomnode.core import dataset
from dicomnode.core.dataset import Walk
from dicomnode.core.pdu import p_data_tf
from dicomnode.filestore import FileStorage
from dicomnode.interfaces import Instance, IOperation, IStorage
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Reactor
from dicomnode.walking import PassingWalking, Stretch
from dicomnode.wire import LEAST_READ, LONG
from tests.cases import begun, store_rq
from tests.files import Producer
from tests.reliability.sessions import CT_IMAGE_STORAGE, data_set

EXPLICIT = "1.2.840.10008.1.2.1"


#: A data set of nothing but empty sequences, behind its header: its walk takes several turns.
ITEMS = (b"\x40\0\x30\xa7SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\xdd\xe0" + bytes(4)) * 6000
DATA = data_set("1.2.3") + ITEMS


def read(data: bytes, message_id: int = 1) -> bytes:
    """Return what one read may bring: a C-STORE, in PDUs of the usual size."""
    request = store_rq(message_id=message_id, sop_instance_uid="1.2.3")
    pdus = [data[start : start + 16_000] for start in range(0, len(data), 16_000)]
    return begun(1, request) + b"".join(p_data_tf(1, False, pdu is pdus[-1], pdu) for pdu in pdus)


def long_value(value: bytes) -> bytes:
    """Return an element behind all others."""
    return b"\xe1\x7f\x10\0OB\0\0" + len(value).to_bytes(4, "little") + value


class InTurnsCase(SynchronousTestCase):
    """Tests in which whatever has been done of a walk is enough for a turn."""

    def setUp(self) -> None:
        super().setUp()
        self.asked = 0
        self.clock = Reactor()
        self.patch(Stretch, "__call__", self.enough)

    def enough(self) -> bool:
        self.asked += 1
        return True

    def turn(self) -> bool:
        """Have done what is due, and not what it leads to, as a Clock would. Return whether anything was."""
        due = [call for call in self.clock.calls if call.getTime() <= self.clock.rightNow]
        for call in due:
            self.clock.calls.remove(call)
            call.func(*call.args, **call.kw)  # type: ignore[misc]
        return bool(due)


class StretchTests(SynchronousTestCase):
    """For how long a walk goes on in a turn."""

    def test_enough(self) -> None:
        """It is enough when it has taken long, by the clock, since that was asked first."""
        clock = Clock()
        stretch = walking.Stretch(clock)
        for _ in range(2):
            clock.advance(100)
            for seconds in (0.0, walking.STRETCH / 2):
                clock.advance(seconds)
                self.assertFalse(stretch())
            clock.advance(walking.STRETCH)
            self.assertTrue(stretch())
            stretch.end = 0.0


class WalkingTests(InTurnsCase):
    """A walk that takes long."""

    def setUp(self) -> None:
        super().setUp()
        self.writer = MemoryWriter(MemoryStorage(), cast(Any, None))
        self.producer = Producer()
        self.walking = PassingWalking(self.writer, Walk(EXPLICIT), self.clock)
        self.walking.registerProducer(self.producer, True)

    def test_turns(self) -> None:
        """The writer has what the walk has seen, and the producer is paused while there is more."""
        for size in (len(DATA), 3000):
            self.setUp()
            fragments = [DATA[start : start + size] for start in range(0, len(DATA), size)]
            self.walking.writeSequence(list(map(memoryview, fragments)))
            seen = [0]
            while True:
                seen.append(self.walking.walk.octets)
                self.assertEqual(b"".join(self.writer.data), DATA[: seen[-1]])
                self.assertLessEqual(seen[-1] - seen[-2], dataset.PIECE)
                behind = self.walking.behind
                self.assertEqual(behind, self.walking.takes_turns)
                self.assertEqual(self.producer.told, ["pause"] if behind else ["pause", "resume"])
                if not self.turn():
                    break
            self.assertGreater(len(seen), 5)
            self.assertIsNone(self.walking.finished())
            self.walking.walk.end()
            self.assertTrue(self.walking.walk.whole)
            self.assertEqual(self.walking.walk.octets, len(DATA))

    def test_what_comes_meanwhile(self) -> None:
        """A fragment that still comes, for a producer may not stop at once, is walked behind the others."""
        half = len(DATA) // 2
        self.walking.write(DATA[:half])
        self.walking.write(DATA[half:])
        finished = self.walking.finished()
        assert finished is not None
        while self.clock.getDelayedCalls():
            self.assertNoResult(finished)
            self.turn()
        self.successResultOf(finished)
        self.assertEqual(b"".join(self.writer.data), DATA)
        self.walking.walk.end()
        self.assertTrue(self.walking.walk.whole)

    def test_abandoned(self) -> None:
        """Where nobody waits for it any more, it goes no further."""
        self.walking.write(DATA)
        finished = self.walking.finished()
        assert finished is not None
        finished.cancel()
        self.failureResultOf(finished, CancelledError)
        seen = self.walking.walk.octets
        self.turn()
        self.assertEqual(self.walking.walk.octets, seen)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unregistered(self) -> None:
        """The writer has its producer until it is given no more; where that fails, so does the walk."""
        for fails in (False, True):
            self.setUp()
            if fails:
                self.patch(self.writer, "unregisterProducer", lambda: 1 / 0)
            self.walking.write(DATA)
            self.walking.unregisterProducer()
            finished = self.walking.finished()
            assert finished is not None
            while self.clock.getDelayedCalls():
                self.assertIs(self.writer.producer, self.walking)
                self.turn()
            if fails:
                self.failureResultOf(finished, ZeroDivisionError)
            else:
                self.successResultOf(finished)
                self.assertIsNone(self.writer.producer)
            self.assertEqual(self.producer.told, ["pause"], "it has gone")

    def test_stops_when_unregistered(self) -> None:
        """A writer may say that it wants no more when it is given none."""
        unregister = self.writer.unregisterProducer

        def stopping() -> None:
            self.walking.stopProducing()
            unregister()

        self.patch(self.writer, "unregisterProducer", stopping)
        self.walking.write(DATA)
        self.walking.unregisterProducer()
        finished = self.walking.finished()
        assert finished is not None
        while self.turn():
            pass
        self.successResultOf(finished)
        self.assertIsNone(self.writer.producer)

    def test_failing(self) -> None:
        """Where the writer, or the walk, fails in a later turn, it has not seen all."""
        for at_the_end in (True, False):
            for failing, name in ((Walk, "feed_sequence"), (MemoryWriter, "writeSequence")):
                self.setUp()
                self.walking.write(DATA)
                finished = self.walking.finished() if at_the_end else None
                with mock.patch.object(failing, name, side_effect=ZeroDivisionError):
                    self.turn()
                self.assertEqual(self.producer.told, ["pause", "stop"])
                self.assertFalse(self.walking.behind)
                finished = finished or self.walking.finished()
                assert finished is not None
                self.failureResultOf(finished, ZeroDivisionError)
                while self.turn():
                    pass


class StoringTests(InTurnsCase):
    """Instances whose walks take turns."""

    def associate(self, storage: IStorage, **arguments: Any) -> Peer:
        peer = Peer(Acceptor(self.clock, [Storage(storage, **arguments)]))
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT]})
        return peer

    def associate_with(self, writer: type[MemoryWriter]) -> Peer:
        """Associate with a storage whose writers are of this kind."""
        storage = MemoryStorage()
        self.patch(storage, "_open", lambda instance: writer(storage, instance))
        return self.associate(storage)

    def turns(self, peer: Peer) -> int:
        """Have all turns taken; return how many."""
        turns = 0
        while self.turn():
            turns += 1
            peer.exchange()
        return turns

    def files(self, sync: Sync = Sync.NONE) -> FileStorage:
        directory = self.mktemp()
        os.mkdir(directory)
        return FileStorage(directory, reactor=Reactor(), sync=sync)

    def kept(self, storage: FileStorage) -> bytes:
        with open(os.path.join(storage.directory, "CT.1.2.3"), "rb") as file:
            return file.read()

    def test_stored(self) -> None:
        """They are judged and kept as any are, however they come."""
        for storage in (self.files(), self.files(Sync.FULL)):
            for data, status in ((DATA, 0x0000), (DATA[:-1], 0xC210)):
                peer = self.associate(storage)
                peer.transport.deliver(read(data))
                self.assertEqual(peer.responses, [])
                self.assertGreater(self.turns(peer), 5)
                self.assertEqual(peer.response.status, status)
                self.assertTrue(self.kept(storage).endswith(DATA))
                self.assertEqual(os.listdir(storage.directory), ["CT.1.2.3"])

    def test_order(self) -> None:
        """What a peer sends behind one waits until that is answered: the last of the same is what is kept."""
        storage = self.files()
        peer = self.associate(storage)
        last = data_set("1.2.3") + long_value(b"the last")
        peer.transport.deliver(read(DATA, 1))
        peer.transport.deliver(read(last, 2))
        self.assertEqual(peer.responses, [])
        self.turns(peer)
        answered = [response.message_id_being_responded_to for response in peer.responses]
        self.assertEqual(answered, [1, 2])
        self.assertTrue(self.kept(storage).endswith(last))

    def test_order_of_coroutines(self) -> None:
        """So it does where the service is performed as a coroutine, as one is that does more."""

        class More(Storage):
            async def perform(self, operation: IOperation) -> int:
                return await super().perform(operation)

        storage = MemoryStorage()
        peer = Peer(Acceptor(self.clock, [More(storage)]))
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT]})
        peer.transport.deliver(read(DATA, 1))
        peer.transport.deliver(read(data_set("1.2.3"), 2))
        self.turns(peer)
        self.assertEqual([response.status for response in peer.responses], [0, 0])
        self.assertEqual(storage.instances["1.2.3"][1], data_set("1.2.3"))

    def test_stops(self) -> None:
        """A writer that stops in a later turn is asked to commit when it has returned; no more is walked."""
        calls: list[str] = []

        class Stopping(MemoryWriter):
            def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
                calls.append("write")
                if len(calls) == 3:
                    assert self.producer is not None
                    self.producer.stopProducing()
                    calls.append("stopped")

            def commit(self) -> Deferred[None]:
                calls.append("commit")
                return fail(OSError(errno.ENOSPC, "full"))

        peer = self.associate_with(Stopping)
        whole = read(DATA)
        peer.transport.deliver(whole, len(whole) // 2 + 1)
        self.turns(peer)
        self.assertEqual(calls, ["write"] * 3 + ["stopped", "commit"])
        self.assertEqual(peer.response.status, 0xA700)

    def test_raises(self) -> None:
        """A writer that raised in a later turn is written to no more."""
        calls: list[str] = []

        class Raising(MemoryWriter):
            def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
                calls.append("write")
                if len(calls) == 3:
                    raise OSError(errno.ENOSPC, "full")

            def abort(self) -> Deferred[None]:
                calls.append("abort")
                return super().abort()

        peer = self.associate_with(Raising)
        whole = read(DATA)
        peer.transport.deliver(whole[: len(whole) // 2])
        self.turns(peer)
        peer.transport.deliver(whole[len(whole) // 2 :])
        peer.exchange()
        self.assertEqual(calls, ["write"] * 3 + ["abort"])
        self.assertEqual(peer.response.status, 0xA700)

    def test_refused(self) -> None:
        """Of what is refused before its walk has ended, no more is walked, and the next need not wait."""
        storage = MemoryStorage()
        peer = self.associate(storage, max_instance_size=len(DATA) // 2)
        peer.transport.deliver(read(DATA, 1))
        self.turns(peer)
        peer.transport.deliver(read(data_set("1.2.3"), 2))
        peer.exchange()
        self.assertEqual([response.status for response in peer.responses], [0xA700, 0x0000])
        self.assertFalse(self.turn())
        self.assertLess(self.asked, len(DATA) // dataset.PIECE)
        self.assertEqual([writer.ended for writer in storage.writers], ["abort", "commit"])

    def test_lost(self) -> None:
        """Of what nobody waits for any more, no more is walked."""
        storage = MemoryStorage()
        peer = self.associate(storage)
        peer.transport.deliver(read(DATA))
        self.turn()
        peer.transport.lose()
        self.assertEqual(storage.writers[0].ended, "abort")
        self.turn()
        self.assertFalse(self.turn())

    def test_veto(self) -> None:
        """Who may refuse an instance is asked when the walk has passed its header, before its pixels."""
        storage = MemoryStorage()
        written: list[bytes] = []

        def consider(instance: Instance) -> None:
            written.append(b"".join(storage.writers[0].data))
            raise OperationFailed(0xA701, "no")

        peer = self.associate(storage, consider=consider)
        header = data_set("1.2.3")
        start = header.index(b"\x10\0\x10\0PN")
        private = ITEMS.replace(b"\x40\0\x30\xa7", b"\x09\0\x10\x10")
        data = header[:start] + private + header[start:] + ITEMS + long_value(bytes(100_000))
        peer.transport.deliver(read(data))
        self.turns(peer)
        self.assertEqual(peer.response.status, 0xA701)
        self.assertLess(self.asked, len(header + private) // dataset.PIECE + 3)
        self.assertLessEqual(len(written[0]), len(header + ITEMS))
        self.assertGreater(len(written[0]), len(ITEMS) - 2 * dataset.PIECE)

    def test_read(self) -> None:
        """A read that leaves turns to be taken is one of which more is to be done."""
        peer = self.associate(MemoryStorage())
        took: list[bool] = []
        self.patch(peer.association._wire, "took", lambda *_, done: took.append(done))

        def enough(stretch: Stretch) -> bool:
            self.clock.rightNow += 2 * LONG  # what is enough has taken long
            return True

        self.patch(Stretch, "__call__", enough)
        peer.begins("1.2.3", DATA)
        self.turns(peer)
        self.assertEqual(set(took), {False})
        took.clear()
        peer.goes_on(long_value(bytes(4 * LEAST_READ)), last=True)
        self.turns(peer)
        self.assertEqual(set(took), {True})
        self.assertEqual(peer.response.status, 0)
