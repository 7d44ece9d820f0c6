"""Tests for :mod:`dicomnode.filestore`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.acceptor import Acceptor
from dicomnode.commits import Sync
from dicomnode.contracts import InstanceWriterContract
from dicomnode.core.command import CStoreRQ
from dicomnode.errors import OperationFailed
from dicomnode.events import InstanceKept, InstanceNotKept
from dicomnode.filestore import (
    FileStorage,
    default_name,
)
from dicomnode.interfaces import IInstanceWriter, Instance, IStorage
from dicomnode.layout import Layout
from dicomnode.part10 import part10_header
from dicomnode.partfile import BUFFERS, OnDuplicate, remove_dead_parts
from dicomnode.services import Discard, Storage
from dicomnode.testing import MemoryStorage, Peer
from tests.files import CT, ERRORS, EXPLICIT_VR_LE, FileStorageCase, Producer, instance

#: Each call of a store whose failure is the store's, in order.
REFUSED = ("open", "fstat", "writev", "dup", "close", "replace")


class FileWriterContractTests(InstanceWriterContract, FileStorageCase):
    """A file writer keeps the contract of writers."""

    def open_storage(self) -> IStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        name = default_name(what)
        return self.data_set(name, what) if os.path.exists(self.path(name)) else None

    def leftovers(self) -> Sequence[str]:
        return [name for name in self.files() if name.startswith(".")]


class ImmediateTests(FileStorageCase):
    """An instance that has come as a whole is kept at one stretch."""

    def keep(self, *data: bytes, what: Instance | None = None, **arguments: Any) -> None:
        storage = self.make_storage(**arguments) if arguments else self.storage
        self.assertTrue(storage.immediate)
        storage.keep(what or instance(), data)

    def test_whole(self) -> None:
        """It is what a writer would have kept, for fewer calls: nobody sees its part file."""
        self.keep(b"da", b"ta")
        self.assertEqual(self.files(), ["CT.1.2.3"])
        self.assertEqual(self.data_set(), b"data")
        self.assertEqual(self.disk.calls, ["open", "writev", "close", "replace"])
        self.assertEqual(
            self.recorder.events, [InstanceKept(cast(Any, None), instance(), "CT.1.2.3", False, False)]
        )

    def test_many_fragments(self) -> None:
        """It may have more fragments than one system call takes."""
        self.keep(*[b"octets"] * 2 * BUFFERS)
        self.assertEqual(self.data_set(), b"octets" * 2 * BUFFERS)

    def test_replaces(self) -> None:
        """Another's place is taken, and that is told."""
        self.puts("CT.1.2.3")
        self.keep(b"data")
        self.assertEqual(self.data_set(), b"data")
        self.assertEqual(
            self.recorder.events, [InstanceKept(cast(Any, None), instance(), "CT.1.2.3", True, False)]
        )

    def test_another_has_the_name(self) -> None:
        """What is to become of an instance whose name is taken becomes of it."""
        self.puts("CT.1.2.3")
        self.keep(b"data", on_duplicate=OnDuplicate.KEEP)
        self.assertRaises(OperationFailed, self.keep, b"data", on_duplicate=OnDuplicate.REFUSE)
        self.assertEqual(self.files(), ["CT.1.2.3"])
        self.keep(b"data", on_duplicate=OnDuplicate.RENAME)
        self.assertEqual(self.data_set("CT.1.2.3~1"), b"data")
        self.assertEqual(self.contents(), b"precious")

    def test_layout(self) -> None:
        """Its name may lead through directories that are not there yet."""
        for uid in ("1.2.3", "1.2.4"):
            self.keep(b"data", what=instance(uid), name=Layout("{calling}/{instance}"))
        self.assertEqual(self.tree(), ["PEER/1.2.3", "PEER/1.2.4"])

    def test_refused(self) -> None:
        """Whichever call fails, and with what, that is raised and told; only an older copy stays."""
        for call in ("open", "writev", "close", "replace"):
            for code in ERRORS:
                self.keep(b"good")
                self.recorder.events.clear()
                self.disk.breaks(call, code)
                error = self.assertRaises(OSError, self.keep, b"not so good")
                self.assertEqual(error.errno, code)
                (event,) = self.recorder.events
                self.assertEqual(
                    event, InstanceNotKept(cast(Any, None), instance(), "CT.1.2.3", self.directory, error)
                )
                self.disk.recovers()
                self.assertEqual(self.files(), ["CT.1.2.3"])
                self.assertEqual(self.data_set(), b"good")

    def test_no_name(self) -> None:
        """What cannot be named is not begun."""

        def name(what: Instance) -> str:
            raise OperationFailed(0xA700, "no name")

        self.assertRaises(OperationFailed, self.keep, b"data", name=name)
        self.assertEqual((self.files(), self.recorder.events), ([], []))

    def test_taken_for_dead(self) -> None:
        """A part file that someone removes in between is written once more, and locked."""
        sweep = self.disk.call
        swept: list[str] = []

        def call(name: str, *arguments: Any, **keywords: Any) -> Any:
            if name == "replace" and not swept:
                swept.extend(remove_dead_parts(self.directory))
            return sweep(name, *arguments, **keywords)

        self.patch(self.disk, "call", call)
        self.keep(b"data")
        self.assertEqual(swept, [f".CT.1.2.3.{os.getpid()}-1.part"])
        self.assertEqual(self.files(), ["CT.1.2.3"])
        self.assertEqual(self.data_set(), b"data")

    def test_opened_otherwise(self) -> None:
        """A storage that opens instances in a way of its own is asked to open each."""

        class Own(FileStorage):
            def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
                return super().open(instance)

        own = Own(self.directory, reactor=self.reactor, pool=cast(Any, self.pool), sync=Sync.NONE)
        self.assertFalse(own.immediate)

    def test_not_immediate(self) -> None:
        """Where the disk may have to be waited for, an instance is opened, and waited for in a thread."""
        self.assertFalse(self.make_storage(Sync.FULL).immediate)
        self.assertFalse(self.make_storage(Sync.FILE).immediate)
        self.slow()
        self.assertFalse(self.storage.immediate)
        self.slow(False)
        self.assertTrue(self.storage.immediate)
        self.disk.stalls()
        self.storage.keep(instance(), [b"data"])
        self.assertFalse(self.storage.immediate)

    def test_refused_slowly(self) -> None:
        """That the disk is slow is learned from what is refused, too."""
        self.puts("CT.1.2.3")
        storage = self.make_storage(on_duplicate=OnDuplicate.REFUSE)
        self.disk.stalls()
        self.assertRaises(OperationFailed, storage.keep, instance(), [b"data"])
        self.assertFalse(storage.immediate)


class SlowFileWriterContractTests(FileWriterContractTests):
    """A file writer keeps the contract of writers when all its writes go to threads, too."""

    def setUp(self) -> None:
        super().setUp()
        self.disk.stalls()
        self.slow()

    def settle(self) -> None:
        self.pool.run()


class DurableFileWriterContractTests(FileWriterContractTests):
    """A file writer keeps the contract of writers when it waits for the disk, too."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = self.make_storage(Sync.FULL)

    def settle(self) -> None:
        self.pool.run()


class MemoryWriterContractTests(InstanceWriterContract, SynchronousTestCase):
    """The storage in memory keeps the contract of writers."""

    def setUp(self) -> None:
        self.storage = MemoryStorage()

    def open_storage(self) -> IStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        return self.storage.instances.get(what.sop_instance_uid, (what, None))[1]


class DiscardContractTests(InstanceWriterContract, SynchronousTestCase):
    """What is discarded is not kept; else it keeps the contract of writers."""

    keeps = False

    def open_storage(self) -> IStorage:
        return Discard()

    def kept(self, what: Instance) -> bytes | None:
        return None


class FailureTests(FileStorageCase):
    """When the file system refuses, what was kept stays, nothing is left, and the next store succeeds."""

    def attempts(self) -> Any:
        """Try to store another version of the instance; return what commit fails with."""
        writer = self.open()
        producer = Producer()
        writer.registerProducer(producer, True)
        for piece in (b"not", b"so", b"good"):
            writer.writeSequence([piece])
        writer.unregisterProducer()
        committing = writer.commit()
        self.pool.run()
        return self.failureResultOf(committing, OSError).value

    def test_each_call_and_error(self) -> None:
        """Whichever call fails, and with what, commit fails with that error; it is told once."""
        for slow in (False, True):
            for call in REFUSED:
                for code in ERRORS:
                    self.stores()
                    self.slow(slow)
                    self.recorder.events.clear()
                    self.disk.breaks(call, code)
                    if slow:
                        self.disk.stalls()
                    error = self.attempts()
                    self.assertEqual((error.errno, error.strerror), (code, os.strerror(code)))
                    (event,) = self.recorder.events
                    self.assertEqual(
                        event,
                        InstanceNotKept(cast(Any, None), instance(), "CT.1.2.3", self.directory, error),
                    )
                    self.assertEqual(self.files(), ["CT.1.2.3"])
                    self.assertEqual(self.data_set(), b"good")
                    self.disk.recovers()
                    self.slow(False)

    def test_disk_full(self) -> None:
        """A disk that fills up at any octet leaves nothing behind."""
        whole = len(part10_header(instance())) + len(b"notsogood")
        for space in range(whole):
            self.disk.space = space
            self.assertEqual(self.attempts().errno, errno.ENOSPC)
            self.assertEqual(self.files(), [])
        self.disk.recovers()
        self.stores()

    def test_disk_full_while_slow(self) -> None:
        """A slow disk that fills up fails the commit, and leaves nothing behind."""
        self.disk.stalls()
        self.slow()
        self.disk.space = 200
        self.assertEqual(self.attempts().errno, errno.ENOSPC)
        self.assertEqual(self.files(), [])

    def test_producer_is_stopped(self) -> None:
        """Who produces is told at once that there is no use; later octets touch nothing."""
        self.disk.breaks("writev", errno.ENOSPC)
        writer = self.open()
        producer = Producer()
        writer.registerProducer(producer, True)
        writer.writeSequence([b"data"])
        self.assertEqual(producer.told, ["stop"])
        self.assertEqual(self.files(), [])
        self.disk.recovers()
        writer.writeSequence([b"more"])
        self.assertEqual(self.files(), [])
        self.failureResultOf(writer.commit(), OSError)
        self.assertEqual(self.files(), [])

    def test_abort_after_failure(self) -> None:
        """A writer that failed may be aborted."""
        self.disk.breaks("writev", errno.EIO)
        writer = self.open()
        writer.writeSequence([b"data"])
        self.assertIsNone(self.successResultOf(writer.abort()))
        self.assertEqual(self.files(), [])

    def test_discarding_fails(self) -> None:
        """That a part file cannot be removed fails no abort."""
        writer = self.open()
        writer.writeSequence([b"data"])
        self.disk.breaks("unlink", errno.EIO)
        self.disk.breaks("close", errno.EIO)
        self.assertIsNone(self.successResultOf(writer.abort()))
        self.assertEqual(len(self.files()), 1)

    def test_target_is_a_directory(self) -> None:
        """A directory under the final name is an error of the storage, and stays."""
        os.mkdir(self.path())
        self.failureResultOf(self.commit_of(b"data"), IsADirectoryError)
        self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_directory_is_gone(self) -> None:
        """A directory that has gone is an error of the storage; one that is back is stored into."""
        os.rmdir(self.directory)
        self.failureResultOf(self.commit_of(b"data"), FileNotFoundError)
        os.mkdir(self.directory)
        self.stores()

    def test_no_descriptors(self) -> None:
        """Without a free descriptor, commit fails; the next store succeeds."""
        self.disk.breaks("open", errno.EMFILE)
        self.assertEqual(self.attempts().errno, errno.EMFILE)
        self.disk.recovers()
        self.stores()

    def commit_of(self, data: bytes) -> Deferred[None]:
        writer = self.open()
        writer.write(data)
        return cast("Deferred[None]", writer.commit())

    def test_unforeseen(self) -> None:
        """What nobody foresaw fails the commit too, in a thread as well, and leaves nothing behind."""
        for slow in (False, True):
            for call in ("open", "close", "replace"):
                self.disk.errors[call], self.disk.once = ValueError("embedded null byte"), True
                if slow:
                    self.disk.stalls()
                writer = self.open()
                self.slow(slow)
                if slow or call != "open":
                    writer.write(b"data")
                committing = writer.commit()
                self.pool.run()
                self.failureResultOf(committing, ValueError)
                self.disk.recovers()
                self.slow(False)
                self.assertEqual(self.files(), [])
        self.assertEqual(self.recorder.events, [])

    def test_unforeseen_while_writing(self) -> None:
        """What nobody foresaw is raised where it happens; the writer can still be aborted."""
        writer = self.open()
        writer.write(b"data")
        self.disk.errors["writev"] = MemoryError()
        self.assertRaises(MemoryError, writer.write, b"data")
        self.successResultOf(writer.abort())
        self.assertEqual(self.files(), [])


class PeerCase(FileStorageCase):
    """Tests of a storage that waits for the disk, by peers."""

    def serve(self, on_duplicate: OnDuplicate = OnDuplicate.REPLACE, sync: Sync = Sync.FULL) -> None:
        self.storage = self.make_storage(
            sync, name=Layout("{calling}/{instance}"), on_duplicate=on_duplicate, reserve=1
        )
        service = Storage(self.storage, check=False, walk=False)
        self.acceptor = Acceptor(self.reactor, [service])

    def associate(self) -> Peer:
        peer = Peer(self.acceptor)
        peer.associates({CT: [EXPLICIT_VR_LE]})
        return peer

    def status(self, peer: Peer, uid: str, data: bytes) -> int:
        """Return the status of a C-STORE."""
        peer.stores(uid, data)
        self.pool.run()
        peer.exchange()
        return peer.response.status


class FaultTests(PeerCase):
    """Whatever call fails, and with what: the peer is told, and nothing is lost, torn or left."""

    #: The calls of a store that can fail it, and on which file: in order.
    FAULTS = (
        ("statvfs", ""),
        ("open", ".part"),
        ("fstat", ""),
        ("writev", ""),
        ("fsync", ".part"),
        ("dup", ""),
        ("close", ".part"),
        ("mkdir", ""),
        ("replace", ""),
    )
    DIRECTORY_FAULTS = (("open", "PEER"), ("fsync", "PEER"), ("close", "PEER"), ("fsync", "temp"))

    def faults(self, *faults: tuple[str, str]) -> Iterator[tuple[str, int]]:
        for call, name in faults:
            for code in ERRORS:
                self.disk.breaks(call, code, name)
                yield call, code
                self.disk.recovers()

    def test_each(self) -> None:
        """An error is answered with A700 and its text; the older copy stays; the next store succeeds."""
        for sync in Sync:
            self.serve(sync=sync)
            peer = self.associate()
            self.assertEqual(self.status(peer, "1.2.3", b"older"), 0)
            for call, code in self.faults(*self.FAULTS):
                if call == "mkdir" or (call == "fsync" and sync is Sync.NONE):
                    continue
                self.assertEqual(self.status(peer, "1.2.3", b"newer"), 0xA700, (call, code))
                self.assertEqual(peer.response.error_comment, os.strerror(code))
                self.assertEqual(self.tree(), ["PEER/1.2.3"])
                self.assertEqual(self.data_set("PEER/1.2.3"), b"older")
                self.disk.recovers()
                self.assertEqual(self.status(peer, "1.2.3", b"older"), 0)
            self.assertEqual(self.tree(), ["PEER/1.2.3"])
            os.unlink(self.path("PEER/1.2.3"))

    def test_directory_cannot_be_made(self) -> None:
        """Where a directory cannot be made, there is no file; where it can again, there is."""
        self.serve()
        peer = self.associate()
        for _, code in self.faults(("mkdir", "")):
            self.assertEqual(self.status(peer, "1.2.3", b"data"), 0xA700)
            self.assertEqual(peer.response.error_comment, os.strerror(code))
            self.assertEqual(self.files(), [])
        self.assertEqual(self.status(peer, "1.2.3", b"data"), 0)

    def test_directory_cannot_be_synced(self) -> None:
        """Where the name may not last, the peer is told so: what is under it is whole, and the newer."""
        for call, name in self.DIRECTORY_FAULTS:
            for code in ERRORS:
                self.serve()
                peer = self.associate()
                self.disk.breaks(call, code, name)
                self.assertEqual(self.status(peer, "1.2.3", b"newer"), 0xA700, (call, code))
                self.assertEqual(peer.response.error_comment, os.strerror(code))
                self.assertEqual(self.tree(), ["PEER/1.2.3"])
                self.assertEqual(self.data_set("PEER/1.2.3"), b"newer")
                self.disk.recovers()
                self.assertEqual(self.status(peer, "1.2.3", b"again"), 0)
                self.assertEqual(self.data_set("PEER/1.2.3"), b"again")

    def test_locking_fails(self) -> None:
        """A file system without locks stores all the same."""
        self.serve()
        peer = self.associate()
        for _ in self.faults(("flock", "")):
            self.assertEqual(self.status(peer, "1.2.3", b"data"), 0)

    def test_linking_fails(self) -> None:
        """Where a name is not to be taken from another, an error of linking is the store's."""
        for on_duplicate in (OnDuplicate.KEEP, OnDuplicate.REFUSE, OnDuplicate.RENAME):
            self.serve(on_duplicate)
            peer = self.associate()
            for _ in self.faults(("link", "")):
                self.assertEqual(self.status(peer, "1.2.3", b"data"), 0xA700)
                self.assertEqual(self.tree(), [])
            # Without hard links it is renamed, and that may fail.
            for code in ERRORS:
                self.disk.breaks("link", errno.EOPNOTSUPP)
                self.disk.errors["rename"] = OSError(code, os.strerror(code))
                self.assertEqual(self.status(peer, "1.2.3", b"data"), 0xA700)
                self.assertEqual(self.tree(), [])
                self.disk.recovers()
            self.assertEqual(self.status(peer, "1.2.3", b"data"), 0)
            os.unlink(self.path("PEER/1.2.3"))

    def test_unlinking_fails(self) -> None:
        """A part file that cannot be removed goes with the next start: the instance is kept."""
        self.serve(OnDuplicate.KEEP)
        peer = self.associate()
        for _, code in self.faults(("unlink", "")):
            self.assertEqual(self.status(peer, f"1.2.{code}", b"data"), 0)
        self.assertEqual(len(list(remove_dead_parts(self.directory))), len(ERRORS))
        self.assertEqual(self.tree(), sorted(f"PEER/1.2.{code}" for code in ERRORS))


class SameMomentTests(PeerCase):
    """Two associations that send one instance at the same moment never mix."""

    def test_two_associations(self) -> None:
        """Fragments of the two come in turn; what is kept is one of them, whole, as both were told."""
        for on_duplicate, statuses, kept in (
            (OnDuplicate.REPLACE, [0, 0], {"1.2.3": b"b" * 500}),
            (OnDuplicate.KEEP, [0, 0], {"1.2.3": b"a" * 500}),
            (OnDuplicate.REFUSE, [0, 0x0111], {"1.2.3": b"a" * 500}),
            (OnDuplicate.RENAME, [0, 0], {"1.2.3": b"a" * 500, "1.2.3~1": b"b" * 500}),
        ):
            for sync in Sync:
                self.serve(on_duplicate, sync)
                peers = [self.associate(), self.associate()]
                request = CStoreRQ(affected_sop_class_uid=CT, message_id=7, affected_sop_instance_uid="1.2.3")
                for peer in peers:
                    peer._core.send_command(1, request, True)
                for last in (False, False, False, False, True):
                    for peer, fragment in zip(peers, (b"a", b"b"), strict=True):
                        peer._core.send_data_set(1, fragment * 100, last=last)
                        peer.exchange()
                for _ in peers:  # one after the other
                    self.pool.run()
                    self.reactor.advance(0)
                for peer in peers:
                    peer.exchange()
                self.assertEqual([peer.response.status for peer in peers], statuses)
                self.assertEqual(self.tree(), [f"PEER/{name}" for name in kept])
                for name, data in kept.items():
                    self.assertEqual(self.data_set(f"PEER/{name}"), data)
                    os.unlink(self.path(f"PEER/{name}"))


class NamingTests(FileStorageCase):
    """A name is given when the data set has been seen."""

    def test_late(self) -> None:
        """It is asked for when the instance is complete, however slow the disk is."""
        names: list[str] = []
        self.storage = self.make_storage(name=lambda what: names[0])
        writer = self.busy()
        names.append("later")
        committing = writer.commit()
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.files(), ["later"])

    def test_fails(self) -> None:
        """A function that fails to give a name fails the commit, and nothing is left."""

        def name(what: Instance) -> str:
            raise KeyError("study")

        for sync in Sync:
            self.storage = self.make_storage(sync, name=name)
            for slow in (False, True):
                self.slow(slow)
                writer = self.open()
                writer.write(b"data")
                committing = writer.commit()
                self.pool.run()
                self.failureResultOf(committing, KeyError)
                self.assertEqual(self.files(), [])
        self.assertEqual(self.recorder.events, [])
