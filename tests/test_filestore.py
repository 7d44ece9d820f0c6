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
from zope.interface.verify import verifyObject

from dicomnode import filestore
from dicomnode.events import InstanceKept, InstanceNotKept
from dicomnode.filestore import BUFFERS, HIGH_WATER, LOW_WATER, OVERHEAD, SLOW, FileStorage
from dicomnode.filestore import default_name, part10_header
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import IAssociation, IInstanceWriter, Instance, IStorage
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
        """AE titles of odd and even length, with spaces within, and absent ones are as pydicom writes them."""
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
            ("/etc/passwd", "CT.____________"[:3] + "_" * 11),
            ("1.2\0.3", "CT.1.2_.3"),
            ("1.2\n", "CT.1.2_"),
            ("١.٢", "CT._._"),
        ):
            self.assertEqual(default_name(instance(uid)), name)
