"""How an instance comes to its storage, whatever that does."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from zope.interface.verify import verifyObject

from dicomnode import services
from dicomnode.acceptor import Acceptor
from dicomnode.commits import Sync
from dicomnode.core.command import CStoreRQ, Status
from dicomnode.errors import OperationFailed
from dicomnode.events import InstanceKept, InstanceNotKept, Unexpected
from dicomnode.filestore import SLOW, FileStorage
from dicomnode.interfaces import (
    IInstanceWriter,
    Instance,
    IOperation,
)
from dicomnode.services import Storage
from dicomnode.testing import MemoryWriter, Peer, Pool, Reactor
from tests.servicecases import (
    CT,
    EXPLICIT_VR_LE,
    ServiceCase,
    Stubborn,
    StubbornWriter,
    data_set,
    whole,
)


class ImmediateTests(ServiceCase):
    """What a storage on files can keep at one stretch is refused, and kept, as anything is."""

    def store(self, data: bytes, **arguments: Any) -> Peer:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        storage = FileStorage(self.directory, reactor=Reactor(), pool=cast(Any, Pool()), sync=Sync.NONE)
        peer = self.associate(storage, **arguments)
        opened: list[Instance] = []
        self.patch(storage, "open", opened.append)
        peer.sends(whole("1.2.3", data))
        self.assertEqual(opened, [], "it was kept at one stretch")
        return peer

    def assert_kept(self, data: bytes) -> None:
        with open(os.path.join(self.directory, "CT.1.2.3"), "rb") as file:
            self.assertTrue(file.read().endswith(data))

    def test_checked_or_not(self) -> None:
        """Garbage is refused where data sets are checked, and kept where they are not, walked or not."""
        for arguments in ({"check": False}, {"check": False, "walk": False}):
            for data in (data_set(), b"no data set"):
                self.assert_answered(0x0000, peer=self.store(data, **arguments))
                self.assert_kept(data)
        self.assert_answered(0x0000, peer=self.store(data_set()))
        self.assert_kept(data_set())
        refused = self.store(b"no data set").response
        self.assertEqual(refused.status, Status.CANNOT_UNDERSTAND)
        self.assertEqual(os.listdir(self.directory), [])

    def test_size(self) -> None:
        """One that is larger than it may be is not begun."""
        data = data_set(size=1000)
        self.assert_answered(0x0000, peer=self.store(data, max_instance_size=len(data)))
        larger = self.store(data, max_instance_size=len(data) - 1)
        why = f"the instance has more than {len(data) - 1} octets"
        self.assert_answered(Status.OUT_OF_RESOURCES, why, larger)
        self.assertEqual(os.listdir(self.directory), [])


class WrappedTests(ServiceCase):
    """Who wraps an operation has the last word on what a storage is given."""

    def test_wrapped_operation(self) -> None:
        """A small data set comes through the wrapper, too, though the storage could keep it at once."""

        class Anonymous:
            def __init__(self, operation: Any) -> None:
                self._operation = operation

            def __getattr__(self, name: str) -> Any:
                return getattr(self._operation, name)

            def deliver_data_set(self, consumer: Any) -> Any:
                write = consumer.writeSequence
                consumer.writeSequence = lambda data: write([b"".join(data).replace(b"A^B", b"X^X")])
                return self._operation.deliver_data_set(consumer)

        class Anonymizing(Storage):
            async def perform(self, operation: Any) -> int:
                return await super().perform(Anonymous(operation))

        directory = self.mktemp()
        os.mkdir(directory)
        storage = FileStorage(directory, reactor=Reactor(), pool=cast(Any, Pool()), sync=Sync.NONE)
        peer = Peer(Acceptor(Reactor(), [Anonymizing(storage)]))
        peer.associates({CT: [EXPLICIT_VR_LE]})
        peer.sends(whole("1.2.3", data_set()))
        self.assertEqual(peer.response.status, 0)
        with open(os.path.join(directory, "CT.1.2.3"), "rb") as file:
            self.assertIn(b"X^X", file.read())


class FailureTests(ServiceCase):
    """Whatever a storage does, the peer is answered, and the writer is ended once."""

    def test_out_of_resources(self) -> None:
        """An OSError says what failed, and not where; it is the same whoever raised it, and when."""
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            for moment in ("opening", "writing", "committing"):
                setattr(self.storage, moment, OSError(code, os.strerror(code), "/srv/secret/path"))
                self.peer.stores("1.2.3", data_set(size=100_000))
                self.assert_answered(0xA700, os.strerror(code))
                setattr(self.storage, moment, None)
        self.assertEqual(self.storage.instances, {})
        self.peer.stores("1.2.3", data_set())
        self.assert_answered(0x0000)
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_nameless_error(self) -> None:
        """An OSError without a text of the system's says no more than that."""
        self.storage.committing = OSError("/srv/secret/path is full")
        self.peer.stores("1.2.3", data_set())
        self.assert_answered(0xA700, "the storage failed")

    def test_status_of_its_own(self) -> None:
        """A storage may answer a status of its own."""
        for moment in ("opening", "writing", "committing"):
            setattr(self.storage, moment, OperationFailed(0x0111, "it is here already"))
            self.peer.stores("1.2.3", data_set())
            self.assert_answered(0x0111, "it is here already")
            setattr(self.storage, moment, None)

    def test_unforeseen(self) -> None:
        """A bug is answered, and told with its traceback; the peer is not bothered with it."""
        for number, moment in enumerate(("opening", "writing", "committing")):
            setattr(self.storage, moment, KeyError("/srv/secret/path"))
            self.peer.stores("1.2.3", data_set())
            self.assert_answered(0x0110)
            setattr(self.storage, moment, None)
            self.assertEqual(len(self.recorder.of(Unexpected)), number + 1)
        self.assertEqual([writer.ended for writer in self.storage.writers], ["abort", "commit"])

    def test_ended_once(self) -> None:
        """A writer whose commit failed is not aborted; any other that failed is, once."""
        self.storage.committing = OSError(errno.EIO, "")
        self.peer.stores("1.2.3", data_set())
        self.storage.committing = None
        self.storage.writing = OSError(errno.EIO, "")
        self.peer.stores("1.2.3", data_set())
        self.storage.writing = None
        self.peer.stores("1.2.3", b"garbage")
        self.assertEqual([writer.ended for writer in self.storage.writers], ["commit", "abort", "abort"])

    def test_writer_that_wants_no_more(self) -> None:
        """A writer that stops its producer has not seen all: what is answered is its own error."""
        self.storage.stops = True
        self.storage.committing = OSError(errno.ENOSPC, "No space left on device")
        for check in (True, False):
            peer = self.associate(size=1000, check=check)
            peer.stores("1.2.3", data_set(size=100_000))
            self.assert_answered(0xA700, "No space left on device", peer)
        self.assertEqual(
            [len(b"".join(writer.data)) > 1000 for writer in self.storage.writers], [False, False]
        )

    def test_full_disk(self) -> None:
        """A disk that fills up while a data set arrives is the answer, and not that the data set is bad."""
        directory = self.mktemp()
        os.makedirs(directory)
        pool: Any = Pool()
        storage = FileStorage(directory, reactor=Reactor(), pool=pool, sync=Sync.NONE, observe=self.recorder)
        peer = self.associate(storage, size=1000)
        peer.stores("1.2.3", data_set())
        writev, written = os.writev, []

        def full(descriptor: int, buffers: Sequence[bytes]) -> int:
            written.append(b"".join(buffers))
            if len(written) > 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return writev(descriptor, buffers)

        with mock.patch.object(os, "writev", full):
            peer.stores("1.2.3", data_set(size=100_000))
            self.assert_answered(0xA700, os.strerror(errno.ENOSPC), peer)
        self.assertEqual(os.listdir(directory), ["CT.1.2.3"])
        self.assertEqual(len(self.recorder.of(InstanceNotKept)), 1)
        peer.stores("1.2.3", data_set(size=100_000))
        self.assert_answered(0x0000, peer=peer)
        self.assertGreater(os.path.getsize(os.path.join(directory, "CT.1.2.3")), 100_000)
        self.assertEqual(len(self.recorder.of(InstanceKept)), 2)

    def test_slow_disk(self) -> None:
        """The writer's producer pauses and resumes the peer, through what checks the data set."""
        reactor, pool = Reactor(), Pool()
        directory = self.mktemp()
        os.makedirs(directory)
        storage = FileStorage(
            directory, reactor=reactor, pool=cast(Any, pool), sync=Sync.NONE, observe=self.recorder
        )
        storage.took(2 * SLOW)
        peer = self.associate(storage, size=1 << 20)
        peer.stores("1.2.3", data_set(size=6 << 20))
        self.assertTrue(peer.transport.paused)
        self.assertEqual(peer.responses, [])
        storage.took(2 * SLOW)
        while pool.jobs:
            pool.run(1)
            storage.took(2 * SLOW)
        peer.exchange()
        self.assertFalse(peer.transport.paused)
        self.assert_answered(0x0000, peer=peer)
        self.assertGreater(os.path.getsize(os.path.join(directory, "CT.1.2.3")), 6 << 20)

    def test_association_lost(self) -> None:
        """When the peer is gone in the middle of a data set, the writer is aborted, once."""
        for how in ("lose", "abort"):
            peer = self.associate(size=100)
            sent = self.begins(peer)
            self.assertEqual(self.storage.writers[-1].ended, "")
            self.assertGreater(sent, 0)
            if how == "lose":
                peer.transport.lose()
            else:
                peer.aborts()
            self.assertEqual(self.storage.writers[-1].ended, "abort")
        self.assert_nothing_kept()
        self.assertEqual(self.recorder.of(Unexpected), [])

    def begins(self, peer: Peer) -> int:
        """Send a C-STORE-RQ and some of its data set."""
        request = CStoreRQ(affected_sop_class_uid=CT, message_id=7, affected_sop_instance_uid="1.2.3")
        context = peer.context(CT)
        core = peer._core
        core.send_command(context.id, request, True)
        core.send_data_set(context.id, data_set(size=1000)[:500], last=False)
        peer.exchange()
        return len(b"".join(self.storage.writers[-1].data))

    def test_association_lost_under_commit(self) -> None:
        """When the peer is gone while its instance is kept, that is not stopped, nor aborted."""
        cancelled: list[Deferred[None]] = []
        self.storage.committing = Deferred(cancelled.append)
        self.peer.stores("1.2.3", data_set())
        self.peer.transport.lose()
        self.assertEqual(cancelled, [])
        self.assertEqual(self.storage.writers[0].ended, "commit")
        self.storage.committing.callback(None)
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_commit_fails_late(self) -> None:
        """What it fails with then is nobody's business any more, unless it is a bug: that is logged."""
        for error, logged in ((OSError("full"), 0), (OperationFailed(0xA700), 0), (TypeError("a bug"), 1)):
            peer = self.associate()
            self.storage.committing = Deferred()
            peer.stores("1.2.3", data_set())
            peer.transport.lose()
            self.storage.committing.errback(error)
            self.storage.committing = None
            gc.collect()
            self.assertEqual(len(self.flushLoggedErrors(TypeError)), logged)
            self.assertEqual(self.recorder.of(Unexpected), [])

    def test_abort_is_not_cancelled(self) -> None:
        """When the peer goes away while an instance is being forgotten, that goes on."""
        cancelled: list[Deferred[None]] = []
        self.storage.aborting = Deferred(cancelled.append)
        self.peer.stores("1.2.3", data_set()[:-1])
        self.peer.transport.lose()
        self.assertEqual(cancelled, [])
        self.storage.aborting.callback(None)
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_warning(self) -> None:
        """An instance may be stored with a warning, sooner or later; no other status is a way to say so."""
        for status, answered in ((None, 0), (0, 0), (0xB000, 0xB000), (Status.ELEMENTS_DISCARDED, 0xB006)):
            self.storage.committing = succeed(status)
            self.peer.stores("1.2.3", data_set())
            self.assert_answered(answered)
            self.storage.committing = later = Deferred[Any]()
            self.peer.stores("1.2.3", data_set())
            later.callback(status)
            self.peer.exchange()
            self.assert_answered(answered)
        self.assertEqual(self.recorder.of(Unexpected), [])
        self.storage.committing = succeed(0xA700)
        self.peer.stores("1.2.3", data_set())
        self.assert_answered(0x0110)
        self.assertIsInstance(self.recorder.of(Unexpected)[0].failure.value, ValueError)

    def test_ends_the_association(self) -> None:
        """A storage may abort the association when it is to open: what it opens is aborted."""
        for size in (None, 100):
            peer = self.associate(size=size)

            def opens(instance: Instance) -> Deferred[IInstanceWriter]:
                instance.association.abort()
                return Stubborn.open(self.storage, instance)

            self.patch(self.storage, "open", opens)
            peer.stores("1.2.3", data_set(size=1000))
            self.assertEqual(self.storage.writers.pop().ended, "abort")
            self.assertEqual(peer.responses, [])
        self.assert_nothing_kept()
        self.assertEqual(self.recorder.of(Unexpected), [])

    def stores_however(self) -> Iterator[Peer]:
        """Store an instance in PDUs of any length, in small ones, and in one read; yield after each."""
        for size, at_once in ((None, False), (100, False), (None, True)):
            for check in (True, False):
                peer = self.associate(size=size, check=check)
                if at_once:
                    peer.sends(whole("1.2.3", data_set(size=1000)))
                else:
                    peer.stores("1.2.3", data_set(size=1000))
                yield peer

    def test_ends_the_association_itself(self) -> None:
        """A writer that aborts the association, whenever it is called, is aborted, or committed, once."""
        for method in ("registerProducer", "writeSequence", "unregisterProducer", "commit"):
            for size, at_once in ((None, False), (100, False), (None, True)):
                peer = self.associate(size=size)

                def ends(writer: Any, *args: Any, method: str = method, peer: Peer = peer) -> Any:
                    result = getattr(MemoryWriter, method)(writer, *args)
                    peer.association.abort()
                    return result

                with mock.patch.object(StubbornWriter, method, ends):
                    if at_once:
                        peer.sends(whole("1.2.3", data_set(size=1000)))
                    else:
                        peer.stores("1.2.3", data_set(size=1000))
                writer = self.storage.writers.pop()
                self.assertIn(writer.ended, ("abort", "commit"), (method, size, at_once))
                self.assertEqual("1.2.3" in self.storage.instances, writer.ended == "commit")
                self.storage.instances.clear()
                self.assertEqual((writer.producer, list(peer.responses)), (None, []))
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_fails_with_the_association(self) -> None:
        """A writer that aborts the association and fails, too, is aborted, once."""
        for method in ("registerProducer", "writeSequence", "unregisterProducer"):
            for size in (None, 100):
                peer = self.associate(size=size)

                def ends(writer: Any, *_: Any, peer: Peer = peer) -> None:
                    peer.association.abort()
                    raise OSError(errno.EIO, "no")

                with mock.patch.object(StubbornWriter, method, ends):
                    peer.stores("1.2.3", data_set(size=1000))
                self.assertNotEqual(self.storage.writers[-1].ended, "", (method, size))
                self.assertEqual(list(peer.responses), [])

    def test_register_fails(self) -> None:
        """A writer that takes no producer is aborted; how that failed is answered."""
        self.storage.registering = OSError(errno.ENOSPC, "full")
        for peer in self.stores_however():
            self.assert_answered(0xA700, "full", peer)
            self.assertEqual(self.storage.writers.pop().ended, "abort")
        self.assert_nothing_kept()
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_stops_at_once(self) -> None:
        """A writer that wants no octet at all says by its commit why."""
        self.storage.stops_at_once = True
        for peer in self.stores_however():
            # The storage is asked to commit by then.
            self.assertEqual(self.storage.writers.pop().ended, "commit")
            self.assertEqual(peer.response.status, 0)
        self.storage.committing = OSError(errno.ENOSPC, "full")
        for peer in self.stores_however():
            self.assert_answered(0xA700, "full", peer)
            self.assertEqual(self.storage.writers.pop().ended, "commit")
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_no_status(self) -> None:
        """A commit that fires with what is no status at all is a bug of the writer's."""
        for odd in (0.0, "0", b"", (), True, False):
            self.storage.committing = succeed(odd)
            self.peer.stores("1.2.3", data_set())
            self.assert_answered(0x0110)
        self.assertEqual(len(self.recorder.of(Unexpected)), 6)

    def test_abort_fails_late(self) -> None:
        """How an abort fails after the association has ended is told of that association."""
        peer = self.associate(size=100)
        self.begins(peer)
        self.storage.aborting = Deferred()
        peer.transport.lose()
        self.assertEqual(self.recorder.of(Unexpected), [])
        self.storage.aborting.errback(TypeError("a bug"))
        (unexpected,) = self.recorder.of(Unexpected)
        self.assertIsInstance(unexpected.failure.value, TypeError)

    def test_let_go(self) -> None:
        """Once a data set is written, none of it is kept for as long as its commit takes."""
        fragments: list[weakref.ref[memoryview]] = []

        def written(writer: Any, data: Sequence[memoryview]) -> None:
            fragments.extend(map(weakref.ref, data))

        self.patch(StubbornWriter, "writeSequence", written)
        for size in (None, 1000):
            committing: Deferred[None] = Deferred()
            self.storage.committing = committing
            peer = self.associate()
            peer.transport.deliver(whole("1.2.3", data_set(size=4000)), size)
            self.assertEqual(self.storage.writers[-1].ended, "commit")
            gc.collect()
            self.assertTrue(fragments)
            self.assertEqual([fragment() for fragment in fragments], [None] * len(fragments), size)
            fragments.clear()
            committing.callback(None)
            peer.exchange()
            self.assertEqual(peer.response.status, 0x0000)

    def test_association_lost_behind_open(self) -> None:
        """An A-ABORT that waits, unread, until the storage has opened, aborts what that opens."""
        opening: Deferred[IInstanceWriter] = Deferred()
        self.storage.opening = opening
        peer = self.associate(size=100)
        peer.begins("1.2.3", data_set(size=1000)[:500])
        peer.aborts()
        writer = MemoryWriter(self.storage, cast(Instance, None))
        opening.callback(writer)
        peer.exchange()
        peer.transport.lose()
        self.assertEqual((writer.ended, writer.producer), ("abort", None))
        self.assertEqual(self.recorder.of(Unexpected), [])

    def test_slow_to_open(self) -> None:
        """Until the storage has opened, nothing is read; then all is."""
        opening: Deferred[IInstanceWriter] = Deferred()
        self.storage.opening = opening
        peer = self.associate(size=100)
        peer.stores("1.2.3", data_set(size=10_000))
        self.assertTrue(peer.transport.paused)
        self.storage.opening = None
        instance = Instance(CT, "1.2.3", EXPLICIT_VR_LE, "PEER", "ANY-SCP", cast(Any, peer.association))
        opening.callback(self.successResultOf(self.storage.open(instance)))
        peer.exchange()
        self.assert_answered(0x0000, peer=peer)
        self.assertEqual(self.storage.instances["1.2.3"][1], data_set(size=10_000))

    def test_association_lost_under_open(self) -> None:
        """When the peer is gone before the storage has opened, what it opens is aborted."""
        for outcome in ("writer", "failure"):
            opening: Deferred[IInstanceWriter] = Deferred()
            self.storage.opening = opening
            peer = self.associate()
            peer.stores("1.2.3", data_set())
            peer.transport.lose()
            writer = MemoryWriter(self.storage, cast(Instance, None))
            if outcome == "writer":
                opening.callback(writer)
                self.assertEqual(writer.ended, "abort")
            else:
                opening.errback(OSError(errno.EIO, "no"))
            self.assertEqual(self.recorder.of(Unexpected), [])


class ReplacedTests(ServiceCase):
    """Who puts another ``perform`` in the place of a Storage's has it called."""

    def test_replaced(self) -> None:
        """For each operation, from then on."""
        service = Storage(self.storage)
        performed: list[IOperation] = []
        perform = service.perform
        peer = Peer(Acceptor(Reactor(), [service]))
        peer.associates({CT: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", data_set())

        def counted(operation: IOperation) -> Any:
            performed.append(operation)
            return perform(operation)

        self.patch(service, "perform", counted)
        peer.stores("1.2.3", data_set())
        self.assertEqual((peer.response.status, len(performed)), (0, 1))


class Derived(Storage):
    """A Storage whose operations a coroutine performs, as that of anyone who derives one may."""

    async def perform(self, operation: IOperation) -> int:
        return await super().perform(operation)


class CoroutineTests(FailureTests):
    """All of that is the same where a coroutine performs the operation."""

    service = Derived


class SizeTests(ServiceCase):
    """An instance may have so many octets."""

    def test_largest(self) -> None:
        """An instance that is as large as it may be is stored."""
        data = data_set(size=1000)
        for check in (True, False):
            for size in (None, 1, 100):
                peer = self.associate(max_instance_size=len(data), check=check, size=size)
                peer.stores("1.2.3", data, CT)
                self.assertEqual(peer.response.status, Status.SUCCESS)
                self.assertEqual(self.storage.instances.pop("1.2.3")[1], data)

    def test_larger(self) -> None:
        """A larger one is refused with A700; what follows it is not."""
        data = data_set(size=1000)
        for check in (True, False):
            for size in (None, 1, 100):
                peer = self.associate(max_instance_size=len(data) - 1, check=check, size=size)
                peer.stores("1.2.3", data, CT)
                response = peer.response
                self.assertEqual(response.status, Status.OUT_OF_RESOURCES)
                comment = f"the instance has more than {len(data) - 1} octets"
                self.assertEqual(response.error_comment, comment)
                self.assertEqual(self.storage.writers[-1].ended, "abort")
                self.assertEqual(self.storage.instances, {})
                peer.stores("1.2.4", data_set("1.2.4"), CT)
                self.assertEqual(peer.response.status, Status.SUCCESS)
                self.storage.instances.clear()

    def test_at_once(self) -> None:
        """What is too large is forgotten with the octet that is too many; the rest is dropped."""
        peer = self.associate(max_instance_size=1000, check=False)
        request = CStoreRQ(affected_sop_class_uid=CT, message_id=7, affected_sop_instance_uid="1.2.3")
        peer._core.send_command(1, request, True)
        for number in range(20):
            peer._core.send_data_set(1, bytes(100), last=False)
            peer.exchange()
            self.assertEqual(self.storage.writers[-1].ended, "abort" if number >= 10 else "")
        self.assertEqual(sum(map(len, cast(MemoryWriter, self.storage.writers[-1]).data)), 1000)
        peer._core.send_data_set(1, b"", last=True)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)

    def test_write(self) -> None:
        """It counts by whichever method it is written."""
        for method in ("write", "writeSequence"):
            writer = MemoryWriter(self.storage, cast(Instance, None))
            bounded: Any = services._Bounded(writer, 3)
            verifyObject(IInstanceWriter, bounded)
            for octets in (b"ab", b"c"):
                getattr(bounded, method)(octets if method == "write" else [octets])
            self.assertEqual(b"".join(writer.data), b"abc")
            self.assertRaises(OperationFailed, bounded.write, b"d")

    def test_no_limit(self) -> None:
        """0 is no limit."""
        peer = self.associate(max_instance_size=0)
        peer.stores("1.2.3", data_set(size=1 << 20), CT)
        self.assertEqual(peer.response.status, Status.SUCCESS)
