"""Tests for :mod:`dicomnode.filestore`."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, cast

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import filestore
from dicomnode.events import InstanceKept, InstanceNotKept
from dicomnode.filestore import (
    BUFFERS,
    HIGH_WATER,
    LOW_WATER,
    OVERHEAD,
    SLOW,
    FileStorage,
    default_name,
    part10_header,
)
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import IAssociation, Instance, IStorage
from dicomnode.services import Discard
from dicomnode.testing import InstanceWriterContract, MemoryStorage, Pool, Reactor, Recorder

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"

#: What a file system refuses with.
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS)
#: Each call that a store makes, in order.
CALLS = ("open", "writev", "close", "replace")


def instance(
    uid: str = "1.2.3", sop_class_uid: str = CT, calling: str = "PEER", called: str = "ANY-SCP"
) -> Instance:
    return Instance(sop_class_uid, uid, EXPLICIT_VR_LE, calling, called, cast(IAssociation, None))


def descriptors() -> set[tuple[str, str]]:
    """Return the open files of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # that of listdir itself
            continue
    return found


class Disk:
    """The module os, for a disk that is slow or breaks. What is not said here is as ever."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.errors: dict[str, BaseException] = {}  #: what each call raises
        self.seconds = 0.0  #: how long a writev takes
        self.longest: int | None = None  #: the most that a writev takes
        self.space: int | None = None  #: what the file system has left
        self.calls: list[str] = []
        self.buffers: list[int] = []  #: of each writev

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _calls(self, name: str) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]

    def open(self, *arguments: Any) -> int:
        self._calls("open")
        return os.open(*arguments)

    def writev(self, descriptor: int, buffers: Sequence[bytes]) -> int:
        self._calls("writev")
        self._reactor.advance(self.seconds)
        self.buffers.append(len(buffers))
        if self.longest is None and self.space is None:
            return os.writev(descriptor, buffers)
        data = b"".join(buffers)[: self.longest]
        if self.space is not None:
            if data and not self.space:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.space]
            self.space -= len(data)
        return os.write(descriptor, data)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)  # it is gone, whatever close reports
        self._calls("close")

    def replace(self, source: str, target: str) -> None:
        self._calls("replace")
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        self._calls("unlink")
        os.unlink(path)

    def breaks(self, call: str, code: int) -> None:
        self.errors[call] = OSError(code, os.strerror(code), "/srv/secret/path")

    def stalls(self) -> None:
        self.seconds = 2 * SLOW

    def recovers(self) -> None:
        self.errors.clear()
        self.seconds = 0.0
        self.space = self.longest = None


class Producer:
    """A push producer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class FileStorageCase(SynchronousTestCase):
    """Tests that store into an empty directory; at the end no descriptor is left open."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.reactor = Reactor()
        self.pool = Pool()
        self.recorder = Recorder()
        self.disk = Disk(self.reactor)
        self.patch(filestore, "os", self.disk)
        self.storage = self.make_storage()
        before = descriptors()
        self.addCleanup(lambda: self.assertEqual(descriptors() - before, set()))

    def make_storage(self, **arguments: Any) -> FileStorage:
        return FileStorage(
            self.directory,
            reactor=self.reactor,
            pool=cast(Any, self.pool),
            observe=self.recorder,
            **arguments,
        )

    def open(self, what: Instance | None = None, storage: FileStorage | None = None) -> Any:
        return self.successResultOf((storage or self.storage).open(what or instance()))

    def path(self, name: str = "CT.1.2.3") -> str:
        return os.path.join(self.directory, name)

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def contents(self, name: str = "CT.1.2.3") -> bytes:
        with open(self.path(name), "rb") as file:
            return file.read()

    def data_set(self, name: str = "CT.1.2.3", of: Instance | None = None) -> bytes:
        """Return the data set of a file, once its header is what it should be."""
        header = part10_header(of or instance())
        contents = self.contents(name)
        self.assertEqual(contents[: len(header)], header)
        return contents[len(header) :]

    def stores(self, data: Iterable[bytes] = (b"good",)) -> None:
        """Store the instance in one go."""
        writer = self.open()
        writer.writeSequence(list(data))
        self.assertIsNone(self.successResultOf(writer.commit()))

    def busy(self) -> Any:
        """Return a writer for which a thread is writing: ``self.pool.run(1)`` lets that be done."""
        self.disk.stalls()
        writer = self.open()
        writer.writeSequence([b"inline "])
        writer.writeSequence([b"threaded "])
        self.assertEqual(len(self.pool.jobs), 1)
        return writer


class FileWriterContractTests(InstanceWriterContract, FileStorageCase):
    """A file writer keeps the contract of writers."""

    def open_storage(self) -> IStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        name = default_name(what)
        return self.data_set(name, what) if os.path.exists(self.path(name)) else None

    def leftovers(self) -> Sequence[str]:
        return [name for name in self.files() if name.startswith(".")]


class SlowFileWriterContractTests(FileWriterContractTests):
    """A file writer keeps the contract of writers when all its writes go to threads, too."""

    def setUp(self) -> None:
        super().setUp()
        self.disk.stalls()
        self.storage.slow = True

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


class HeaderTests(SynchronousTestCase):
    """pydicom is the oracle of what precedes the data set."""

    def oracle(self, what: Instance, calling: str | None = None, called: str | None = None) -> bytes:
        """Return what pydicom writes, given AE titles as they are to be written."""
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = UID(what.sop_class_uid)
        meta.MediaStorageSOPInstanceUID = UID(what.sop_instance_uid)
        meta.TransferSyntaxUID = UID(what.transfer_syntax_uid)
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        calling = what.calling_ae_title if calling is None else calling
        called = what.called_ae_title if called is None else called
        if calling:
            meta.SourceApplicationEntityTitle = calling
        if called:
            meta.ReceivingApplicationEntityTitle = called
        file = BytesIO()
        write_file_meta_info(file, meta)
        return bytes(128) + b"DICM" + file.getvalue()

    def test_as_pydicom(self) -> None:
        """The File Meta is, octet by octet, what pydicom writes for the same values."""
        for uid in ("1.2.3", "1.2.34", "1", "2.25." + "9" * 59, "1.2." + "3" * 59):
            for sop_class_uid in (CT, "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3.4"):
                what = instance(uid, sop_class_uid)
                self.assertEqual(part10_header(what), self.oracle(what))

    def test_ae_titles(self) -> None:
        """AE titles of odd and even length, with spaces within or none at all, are as pydicom writes them."""
        for title in ("A", "AB", "SIXTEEN LETTERS!", "FIFTEEN LETTERS", "A B", "~!#$%&'()*+,-./", ""):
            for calling, called in ((title, "ANY-SCP"), ("PEER", title), (title, title)):
                what = instance(calling=calling, called=called)
                self.assertEqual(part10_header(what), self.oracle(what))

    def test_foreign_characters(self) -> None:
        """What an AE title may not contain is replaced: File Meta has no character set, nor two titles."""
        for title, written in (
            ("TÊTE", "T?TE"),
            ("漢字", "??"),
            ("A\0B", "A?B"),
            ("A\n\x1b[31mB", "A??[31mB"),
            ("A\x7fB", "A?B"),
            ("A\\B", "A?B"),
            ("\x80\xff", "??"),
        ):
            what = instance(calling=title, called=title)
            self.assertEqual(part10_header(what), self.oracle(what, written, written))

    def test_pydicom_reads(self) -> None:
        """pydicom reads the file: its values are the instance's."""
        path = self.mktemp()
        data = b"\x08\0\x18\0UI\x06\0" + b"1.2.3\0" + b"\x10\0\x10\0PN\x04\0A^B "
        with open(path, "wb") as file:
            file.write(part10_header(instance()) + data)
        read = pydicom.dcmread(path)
        self.assertEqual(read.SOPInstanceUID, "1.2.3")
        self.assertEqual(read.PatientName, "A^B")
        meta = read.file_meta
        self.assertEqual(meta.MediaStorageSOPClassUID, CT)
        self.assertEqual(meta.MediaStorageSOPInstanceUID, "1.2.3")
        self.assertEqual(meta.TransferSyntaxUID, EXPLICIT_VR_LE)
        self.assertEqual(meta.ImplementationClassUID, IMPLEMENTATION_CLASS_UID)
        self.assertEqual(meta.SourceApplicationEntityTitle, "PEER")
        self.assertEqual(meta.ReceivingApplicationEntityTitle, "ANY-SCP")
        self.assertEqual(meta.FileMetaInformationGroupLength, len(part10_header(instance())) - 144)


class NameTests(SynchronousTestCase):
    """Files are named as pynetdicom names them."""

    def test_prefix(self) -> None:
        """The prefix tells the modality; of a class without one it is UN."""
        for sop_class_uid, name in (
            (CT, "CT.1.2.3"),
            ("1.2.840.10008.5.1.4.1.1.4", "MR.1.2.3"),
            ("1.2.840.10008.5.1.4.1.1.2.1", "CTE.1.2.3"),
            ("1.2.840.10008.5.1.4.1.1.88.11", "UN.1.2.3"),
            ("1.2.3.4", "UN.1.2.3"),
        ):
            self.assertEqual(default_name(instance(sop_class_uid=sop_class_uid)), name)

    def test_one_component(self) -> None:
        """Whatever a UID holds, the name is one component: what is no digit or dot becomes a _."""
        for uid, name in (
            ("../../x", "CT..._..__"),
            ("/etc/passwd", "CT.___________"),
            ("1.2\0.3", "CT.1.2_.3"),
            ("1.2\n", "CT.1.2_"),
            ("\u0661.\u0662", "CT._._"),
        ):
            self.assertEqual(default_name(instance(uid)), name)


class PartFileTests(FileStorageCase):
    """Under a final name there is never anything but a whole instance."""

    def test_hidden(self) -> None:
        """Until it is complete, a file is hidden beside its target; then it is gone."""
        writer = self.open()
        self.assertEqual(self.files(), [])
        writer.writeSequence([b"data"])
        (part,) = self.files()
        self.assertRegex(part, re.escape(f".CT.1.2.3.{os.getpid()}-") + r"\d+\.part$")
        self.assertEqual(self.contents(part), part10_header(instance()) + b"data")
        self.successResultOf(writer.commit())
        self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_renamed_last(self) -> None:
        """The file is complete and closed when it gets its name."""
        self.stores([b"data"])
        self.assertEqual(self.disk.calls, list(CALLS))

    def test_nothing_touched_before(self) -> None:
        """A writer that is given nothing touches nothing."""
        self.successResultOf(self.open().abort())
        self.assertEqual(self.disk.calls, [])

    def test_quick_disk_needs_no_thread(self) -> None:
        """As long as the disk is quick, nothing is left to the pool."""
        self.stores([b"x" * 1000] * 100)
        self.assertFalse(self.pool.jobs)

    def test_stale_part_file(self) -> None:
        """What a dead process has left is neither used nor touched."""
        for serial in (1, 2):
            with open(self.path(f".CT.1.2.3.{os.getpid()}-{serial}.part"), "wb") as file:
                file.write(b"stale")
        self.stores([b"data"])
        self.assertEqual(self.data_set(), b"data")
        for serial in (1, 2):
            self.assertEqual(self.contents(f".CT.1.2.3.{os.getpid()}-{serial}.part"), b"stale")

    def test_symlink_in_place_of_the_part_file(self) -> None:
        """A symbolic link that somebody has put where the part file would be is not followed."""
        for target in ("elsewhere", "missing"):
            os.symlink(self.path(target), self.path(f".CT.1.2.3.{os.getpid()}-{1 + len(self.files())}.part"))
        with open(self.path("elsewhere"), "wb") as file:
            file.write(b"precious")
        self.stores([b"data"])
        self.assertEqual(self.data_set(), b"data")
        self.assertEqual(self.contents("elsewhere"), b"precious")
        self.assertFalse(os.path.exists(self.path("missing")))

    def test_symlink_in_place_of_the_file(self) -> None:
        """A symbolic link under the final name is replaced, and not followed."""
        with open(self.path("elsewhere"), "wb") as file:
            file.write(b"precious")
        os.symlink("elsewhere", self.path())
        self.stores([b"data"])
        self.assertFalse(os.path.islink(self.path()))
        self.assertEqual(self.contents("elsewhere"), b"precious")
        self.assertTrue(self.recorder.of(InstanceKept)[0].replaced)

    def test_umask(self) -> None:
        """The mode of a file is what the umask leaves of rw-rw-rw-."""
        for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0, 0o666), (0o002, 0o664)):
            before = os.umask(mask)
            try:
                self.stores()
            finally:
                os.umask(before)
            self.assertEqual(os.stat(self.path()).st_mode & 0o7777, mode)

    def test_not_inherited(self) -> None:
        """A process that is started meanwhile does not inherit the descriptor."""
        before = descriptors()
        writer = self.open()
        writer.write(b"data")
        ((descriptor, _),) = descriptors() - before
        self.assertFalse(os.get_inheritable(int(descriptor)))
        self.successResultOf(writer.abort())

    def test_own_names(self) -> None:
        """Names may be one's own."""
        storage = self.make_storage(name=lambda what: f"{what.sop_instance_uid}.dcm")
        writer = self.open(storage=storage)
        writer.write(b"data")
        self.successResultOf(writer.commit())
        self.assertEqual(self.files(), ["1.2.3.dcm"])

    def test_two_storages(self) -> None:
        """Two storages may share a directory, though they count for themselves."""
        writers = [self.open(storage=storage) for storage in (self.make_storage(), self.make_storage())]
        for number, writer in enumerate(writers):
            writer.writeSequence([b"%d" % number] * 3)
        self.assertEqual(len(self.files()), 2)
        for writer in writers:
            self.successResultOf(writer.commit())
        self.assertEqual(self.data_set(), b"111")
        self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_events(self) -> None:
        """That an instance is kept is told: under which name, and whether in place of another."""
        self.stores()
        self.stores()
        first, second = self.recorder.of(InstanceKept)
        self.assertEqual((first.instance, first.name, first.replaced), (instance(), "CT.1.2.3", False))
        self.assertTrue(second.replaced)
        self.assertEqual(len(self.recorder.events), 2)


class VectorTests(FileStorageCase):
    """All octets are written, however few a writev takes."""

    def test_short_writes(self) -> None:
        """A writev may take as little as it likes, at any length."""
        pieces = [b"0123456789", b"", memoryview(b"abcdefg"), b"x" * 50, b"", b"\0"]
        whole = b"".join(pieces)
        header = len(part10_header(instance()))
        for longest in range(1, header + len(whole) + 2):
            self.disk.longest = longest
            self.stores(pieces)
            self.assertEqual(self.data_set(), whole)

    def test_nothing_taken(self) -> None:
        """A writev that takes nothing is tried again."""
        taken = [0, 5, 0, 7]
        self.patch(
            self.disk,
            "writev",
            lambda descriptor, buffers: os.write(
                descriptor, b"".join(buffers)[: taken.pop() if taken else None]
            ),
        )
        self.stores([b"0123456789"])
        self.assertEqual(self.data_set(), b"0123456789")

    def test_many_buffers(self) -> None:
        """No writev is given more buffers than the system takes."""
        for number in (BUFFERS - 1, BUFFERS, BUFFERS + 1, 2 * BUFFERS + 3, 5000):
            self.disk.buffers.clear()
            pieces = [b"%d," % piece for piece in range(number)]
            self.stores(pieces)
            self.assertEqual(self.data_set(), b"".join(pieces))
            self.assertEqual(sum(self.disk.buffers), number + 1)
            self.assertLessEqual(max(self.disk.buffers), BUFFERS)

    def test_empty_buffers(self) -> None:
        """Buffers without octets are no reason to wait."""
        self.stores([b""] * 3)
        self.assertEqual(self.data_set(), b"")

    def test_empty_data_set(self) -> None:
        """An instance without a data set is its File Meta."""
        self.stores([])
        self.assertEqual(self.contents(), part10_header(instance()))


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
            for call in CALLS:
                for code in ERRORS:
                    self.stores()
                    self.storage.slow = slow
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
                    self.storage.slow = False

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
        self.storage.slow = True
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
                self.disk.errors[call] = ValueError("embedded null byte")
                if slow:
                    self.disk.stalls()
                writer = self.open()
                self.storage.slow = slow
                if slow or call != "open":
                    writer.write(b"data")
                committing = writer.commit()
                self.pool.run()
                self.failureResultOf(committing, ValueError)
                self.disk.recovers()
                self.storage.slow = False
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
        writer = self.busy()
        self.disk.recovers()
        writer.writeSequence([b"waiting "])
        self.pool.run(1)
        self.assertFalse(self.pool.jobs)
        writer.writeSequence([b"inline"])
        self.assertFalse(self.pool.jobs)
        self.successResultOf(writer.commit())
        self.assertEqual(self.data_set(), b"inline threaded waiting inline")

    def test_other_writers(self) -> None:
        """The disk is as slow for others; but who still has a thread writing waits for it."""
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
            self.storage.slow = False
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
            self.storage.slow = False
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
