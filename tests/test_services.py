"""Tests for :mod:`dicomnode.services`."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, cast
from unittest import mock

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProducer
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import services, uids
from dicomnode.acceptor import Acceptor
from dicomnode.commits import Sync
from dicomnode.contracts import ServiceContract
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.codec import encode
from dicomnode.core.command import CEchoRQ, CFindRQ, CStoreRQ, NActionRQ, Status
from dicomnode.core.items import CommonExtendedNegotiation, ExtendedNegotiation, UserInformation
from dicomnode.core.pdu import AssociateAC, p_data_tf
from dicomnode.errors import OperationFailed
from dicomnode.events import Doubted, InstanceKept, InstanceNotKept, Unexpected
from dicomnode.filestore import SLOW, FileStorage
from dicomnode.interfaces import (
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IInstanceWriter,
    Instance,
    IOperation,
    IService,
    IStorage,
)
from dicomnode.services import Discard, Storage, StorageSupport, Verification
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Pool, Reactor, Recorder

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT_VR_LE = "1.2.840.10008.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"

SQ_UNDEFINED = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff"


def data_set(
    uid: str | None = "1.2.3",
    sop_class_uid: str | None = CT,
    transfer_syntax: str = EXPLICIT_VR_LE,
    size: int = 0,
) -> bytes:
    """Return a data set as pydicom writes it: with these UIDs, if any, and so many octets of pixels."""
    values = Dataset()
    if sop_class_uid is not None:
        values.SOPClassUID = sop_class_uid
    if uid is not None:
        values.SOPInstanceUID = uid
    values.PatientName = "A^B"
    if size:
        values.add_new("PixelData", "OW", bytes(size))
    output = DicomBytesIO()
    output.is_little_endian, output.is_implicit_VR = True, transfer_syntax == IMPLICIT_VR_LE
    write_dataset(output, values)
    return output.getvalue()


def whole(uid: str, octets: bytes) -> bytes:
    """Return a C-STORE of a CT on the first context, for one read to bring."""
    request = CStoreRQ(message_id=99, affected_sop_class_uid=CT, affected_sop_instance_uid=uid)
    return p_data_tf(1, True, True, encode(request, True)) + p_data_tf(1, False, True, octets)


def ui(number: int, value: bytes) -> bytes:
    """Return an element of group 0008 that is a UID, whatever is in it."""
    return b"\x08\0" + bytes([number, 0]) + b"UI" + len(value).to_bytes(2, "little") + value


@implementer(IStorage)
class Stubborn(MemoryStorage):
    """A storage that fails as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.opening: Exception | Deferred[IInstanceWriter] | None = None
        self.writing: Exception | None = None
        self.committing: Exception | Deferred[Any] | None = None
        self.aborting: Deferred[None] | None = None
        self.registering: Exception | None = None
        self.stops = False  #: says at the first octets that it wants no more
        self.stops_at_once = False  #: says so before there are any

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        if isinstance(self.opening, Deferred):
            return self.opening
        if self.opening is not None:
            return fail(self.opening)
        self.writers.append(StubbornWriter(self, instance))
        return succeed(cast(IInstanceWriter, self.writers[-1]))


class StubbornWriter(MemoryWriter):
    _storage: Stubborn

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self._storage.registering is not None:
            raise self._storage.registering
        super().registerProducer(producer, streaming)
        if self._storage.stops_at_once:
            cast(Any, producer).stopProducing()

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        if self._storage.writing is not None:
            raise self._storage.writing
        super().writeSequence(data)
        if self._storage.stops and self.producer is not None:
            self.producer.stopProducing()

    def commit(self) -> Deferred[None]:
        how = self._storage.committing
        if how is None:
            return super().commit()
        self._end("commit")
        return how if isinstance(how, Deferred) else fail(how)

    def abort(self) -> Deferred[None]:
        return super().abort() if self._storage.aborting is None else self._storage.aborting


class CoroutineWriter(MemoryWriter):
    """A writer whose methods are coroutines."""

    async def commit(self) -> None:  # type: ignore[override]
        await super().commit()

    async def abort(self) -> None:  # type: ignore[override]
        await super().abort()


class CoroutineStorage(MemoryStorage):
    """A storage whose method is a coroutine."""

    async def open(self, instance: Instance) -> IInstanceWriter:  # type: ignore[override]
        self.writers.append(CoroutineWriter(self, instance))
        return self.writers[-1]


class ServiceCase(SynchronousTestCase):
    """Tests of services at the other end of an association in memory."""

    service: type[Storage] = Storage

    def setUp(self) -> None:
        self.recorder = Recorder()
        self.storage = Stubborn()
        self.peer = self.associate()

    def associate(self, storage: Any = None, size: int | None = None, **arguments: Any) -> Peer:
        """Return a peer that may store CT and MR, and echo."""
        reactor = Reactor()
        service = self.service(storage or self.storage, observe=self.recorder, **arguments)
        acceptor = Acceptor(reactor, [service, Verification()], observe=self.recorder)
        peer = Peer(acceptor, size)
        contexts = dict.fromkeys((CT, MR), (EXPLICIT_VR_LE,))
        peer.associates({**contexts, uids.VERIFICATION: [IMPLICIT_VR_LE]})
        return peer

    def assert_answered(self, status: int, comment: str | None = None, peer: Peer | None = None) -> None:
        """Assert what the last operation was answered, and that the association goes on."""
        peer = peer or self.peer
        response = peer.response
        self.assertEqual(hex(response.status), hex(status))
        said = getattr(response, "error_comment", None)
        self.assertEqual(said, comment)
        if said is not None:
            self.assertLessEqual(len(said), 64)
            self.assertTrue(said.isascii() and said.isprintable() and "/srv" not in said and "\\" not in said)
        answered = len(peer.responses)
        peer.echoes()
        self.assertEqual(len(peer.responses), answered + 1)
        self.assertEqual(peer.response.status, 0)

    def assert_nothing_kept(self) -> None:
        self.assertEqual(self.storage.instances, {})
        self.assertEqual([writer.ended for writer in self.storage.writers if writer.ended != "abort"], [])


class VerificationTests(ServiceCase):
    """The Verification service class answers that we are here."""

    def test_service(self) -> None:
        """It is a service, which accepts every transfer syntax unless it is told others."""
        service = Verification()
        verifyObject(IService, service)
        self.assertEqual(service.contexts, {uids.VERIFICATION: tuple(uids.TRANSFER_SYNTAXES)})
        self.assertEqual(Verification([IMPLICIT_VR_LE]).contexts, {uids.VERIFICATION: (IMPLICIT_VR_LE,)})

    def test_echo(self) -> None:
        """C-ECHO succeeds."""
        self.peer.echoes()
        self.assert_answered(0x0000)

    def test_other_operations(self) -> None:
        """It knows no other operation, with a data set or without."""
        request = CStoreRQ(
            affected_sop_class_uid=uids.VERIFICATION, message_id=7, affected_sop_instance_uid="1.2.3"
        )
        self.peer.invokes(uids.VERIFICATION, request, data_set())
        self.assert_answered(0x0211)
        self.peer.invokes(uids.VERIFICATION, request)
        self.assert_answered(0x0211)


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


class StorageTests(ServiceCase):
    """The Storage service class gives to a storage what is an instance, and says what is not."""

    def test_service(self) -> None:
        """It is a service for the Storage SOP Classes, unless it is told others."""
        service = Storage(self.storage)
        verifyObject(IService, service)
        self.assertEqual(set(service.contexts), set(uids.STORAGE_SOP_CLASSES))
        self.assertEqual(service.contexts[CT], tuple(uids.TRANSFER_SYNTAXES))
        service = Storage(self.storage, sop_classes=[MR], transfer_syntaxes=[IMPLICIT_VR_LE])
        self.assertEqual(service.contexts, {MR: (IMPLICIT_VR_LE,)})

    def test_coroutines(self) -> None:
        """A storage may be written in coroutines."""
        storage = CoroutineStorage()
        peer = self.associate(storage)
        peer.stores("1.2.3", data_set())
        self.assert_answered(0x0000, peer=peer)
        self.assertEqual(storage.instances["1.2.3"][1], data_set())
        peer.stores("1.2.4", data_set()[:-3])
        self.assertEqual(peer.response.status, 0xC210)
        self.assertEqual([writer.ended for writer in storage.writers], ["commit", "abort"])

    def test_stores(self) -> None:
        """What arrives is given to the storage, and answered when that has kept it."""
        data = data_set(size=100_000)
        self.peer.stores("1.2.3", data)
        self.assert_answered(0x0000)
        instance, kept = self.storage.instances["1.2.3"]
        self.assertEqual(kept, data)
        self.assertEqual(instance, Instance(CT, "1.2.3", EXPLICIT_VR_LE, "PEER", "ANY-SCP", cast(Any, None)))
        self.assertIs(instance.association, self.peer.association)
        self.assertEqual(self.storage.writers[0].ended, "commit")

    def test_however_it_arrives(self) -> None:
        """The same is kept when it arrives octet by octet, and at other sizes of read."""
        data = data_set(size=2000)
        for size in (1, 2, 7, 100, 1500):
            peer = self.associate(size=size)
            peer.stores("1.2.3", data)
            self.assertEqual(peer.response.status, 0)
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], data)

    def test_trailing_nul(self) -> None:
        """A UID may be padded, in the command as in the data set."""
        data = ui(0x16, CT.encode() + b"\0") + ui(0x18, b"1.2.3\0\0\0")
        self.peer.stores("1.2.3\0", data)
        self.assert_answered(0x0000)
        self.assertEqual(self.storage.instances["1.2.3"][0].sop_instance_uid, "1.2.3")

    def test_unusual_uids(self) -> None:
        """UIDs of 64 characters, and those with leading zeros, are stored."""
        for uid in ("1" * 64, "1.02.3"):
            self.peer.stores(uid, b"".join((ui(0x16, CT.encode()), ui(0x18, uid.encode()))))
            self.assert_answered(0x0000)

    def test_not_a_uid(self) -> None:
        """What is no UID names no instance: it becomes no file name."""
        for uid in (
            "../../x",
            "1" * 65,
            "1.2/3",
            "..",
            ".",
            "1..2",
            "1.2.",
            "1.2.x",
            "1.2 3",
            "1.2\n",
            "\xb2.1",
            "1\\2",
            "-1",
        ):
            self.peer.stores(uid, data_set())
            self.assert_answered(0x0117, "Affected SOP Instance UID is not a UID")
        self.assertEqual(self.storage.writers, [])

    def test_no_uid(self) -> None:
        """An instance without a name is refused, whether the name is empty or absent."""
        for uid in ("", " \0", None):
            self.peer.stores(cast(Any, uid), data_set())
            self.assert_answered(0x0106, "Affected SOP Instance UID is absent")
        self.assertEqual(self.storage.writers, [])

    def test_other_sop_class(self) -> None:
        """The SOP Class of the command is that of the presentation context."""
        for sop_class_uid, status, comment in (
            (MR, 0x0122, "SOP Class is not the presentation context's"),
            ("1.2.3.4", 0x0122, "SOP Class is not the presentation context's"),
            ("", 0x0118, "Affected SOP Class UID is not a UID"),
            (None, 0x0118, "Affected SOP Class UID is not a UID"),
            ("../CT", 0x0118, "Affected SOP Class UID is not a UID"),
        ):
            request = CStoreRQ(
                affected_sop_class_uid=cast(Any, sop_class_uid),
                message_id=7,
                affected_sop_instance_uid="1.2.3",
            )
            self.peer.invokes(CT, request, data_set())
            self.assert_answered(status, comment)
        self.assertEqual(self.storage.writers, [])

    def test_other_operations(self) -> None:
        """It knows no other operation, with a data set or without."""
        for request, data in (
            (CEchoRQ(affected_sop_class_uid=CT, message_id=7), None),
            (CFindRQ(affected_sop_class_uid=CT, message_id=7), data_set()),
            (
                NActionRQ(
                    requested_sop_class_uid=CT,
                    message_id=7,
                    requested_sop_instance_uid="1.2.3",
                    action_type_id=1,
                ),
                data_set(),
            ),
        ):
            self.peer.invokes(CT, request, data)
            self.assert_answered(0x0211)
        self.assertEqual(self.storage.writers, [])

    def test_no_data_set(self) -> None:
        """A C-STORE without a data set brings nothing."""
        request = CStoreRQ(affected_sop_class_uid=CT, message_id=7, affected_sop_instance_uid="1.2.3")
        self.peer.invokes(CT, request)
        self.assert_answered(0xC210, "no data set")
        self.assertEqual(self.storage.writers, [])

    def test_not_whole(self) -> None:
        """A data set that is empty, garbage or cut short is not stored; where it ends is said."""
        whole = data_set(size=2000)
        for data, comment in (
            (b"", "data set is empty"),
            (b"\xff" * 100, "the data set has no SOP Class UID"),
            (b"\x08\0" * 50, "data set ends inside (0008,0008) at octet 100"),
            (whole[:-1], f"data set ends inside (7FE0,0010) at octet {len(whole) - 1}"),
            (whole[:1000], "data set ends inside (7FE0,0010) at octet 1000"),
            (whole + b"\x01", f"data set ends inside an element header at octet {len(whole) + 1}"),
        ):
            self.peer.stores("1.2.3", data)
            self.assert_answered(0xC210, comment)
        self.assert_nothing_kept()
        self.assertEqual(len(self.storage.writers), 6)

    def test_no_uids_in_the_data_set(self) -> None:
        """A data set that does not say what it is is not stored."""
        for data, comment in (
            (data_set(uid=None), "the data set has no SOP Instance UID"),
            (data_set(sop_class_uid=None), "the data set has no SOP Class UID"),
            (ui(0x16, CT.encode()) + ui(0x18, b""), "the data set has no SOP Instance UID"),
            (ui(0x16, b"\0\0") + ui(0x18, b"1.2.3"), "the data set has no SOP Class UID"),
        ):
            self.peer.stores("1.2.3", data)
            self.assert_answered(0xC210, comment)
        self.assert_nothing_kept()

    def test_another_instance(self) -> None:
        """A data set that is another instance than the command says is not stored; both UIDs are said."""
        for data, comment in (
            (data_set(uid="1.2.4"), "SOP Instance 1.2.4, not 1.2.3"),
            (data_set(sop_class_uid=MR), f"SOP Class {MR}, not {CT}"[:64]),
            (data_set(uid="1." + "2" * 62), f"SOP Instance 1.{'2' * 62}"[:64]),
        ):
            self.peer.stores("1.2.3", data)
            self.assert_answered(0xA900, comment)
        self.assert_nothing_kept()

    def test_not_a_uid_in_the_data_set(self) -> None:
        """What the data set has in place of a UID is not repeated to anyone."""
        for value in (b"../../x\0", b"1\n2\x1b[", b"\xe6\xbc\xa2\xe5\xad\x97", b"1.2.3\\1.2.4\0", b"x" * 200):
            self.peer.stores("1.2.3", ui(0x16, CT.encode()) + ui(0x18, value))
            self.assert_answered(0xA900, "SOP Instance UID of the data set is not a UID")
        self.assert_nothing_kept()

    def test_doubt(self) -> None:
        """A data set that cannot be judged is stored all the same, and that is told."""
        data = ui(0x16, CT.encode() + b"\0") + ui(0x18, b"1.2.3\0") + SQ_UNDEFINED + b"no item" * 4
        self.peer.stores("1.2.3", data)
        self.assert_answered(0x0000)
        self.assertEqual(self.storage.instances["1.2.3"][1], data)
        (event,) = self.recorder.of(Doubted)
        self.assertIs(event.association, self.peer.association)
        self.assertIn("no item where one is due", event.doubt)

    def test_doubt_is_no_excuse(self) -> None:
        """What was seen to be another instance, or none, before doubt arose is not stored."""
        for named, status, comment in (
            (ui(0x16, CT.encode()) + ui(0x18, b"1.2.4\0"), 0xA900, "SOP Instance 1.2.4, not 1.2.3"),
            (b"", 0xC210, "the data set has no SOP Class UID"),
        ):
            self.peer.stores("1.2.3", named + SQ_UNDEFINED + b"no item" * 4)
            self.assert_answered(status, comment)
        self.assert_nothing_kept()
        self.assertEqual(self.recorder.of(Doubted), [])

    def test_unchecked(self) -> None:
        """Where nothing is checked, anything is stored under the name that the command gives it."""
        peer = self.associate(check=False)
        for data in (b"", b"garbage", data_set(uid="1.2.4"), data_set(sop_class_uid=MR), data_set()[:-3]):
            peer.stores("1.2.3", data)
            self.assert_answered(0x0000, peer=peer)
            self.assertEqual(self.storage.instances["1.2.3"][1], data)
        peer.stores("../x", data_set())
        self.assert_answered(0x0117, "Affected SOP Instance UID is not a UID", peer)


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
        for odd in (0.0, "0", b"", ()):
            self.storage.committing = succeed(odd)
            self.peer.stores("1.2.3", data_set())
            self.assert_answered(0x0110)
        self.assertEqual(len(self.recorder.of(Unexpected)), 4)

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

    def test_context(self) -> None:
        """What a storage sets of the context is set for that instance alone, from beginning to end."""
        variable = ContextVar("variable", default="outside")
        seen: list[tuple[str, str]] = []
        storage = self.storage

        class Writer(StubbornWriter):
            def commit(self) -> Deferred[None]:
                seen.append((self.instance.sop_instance_uid, variable.get()))
                return super().commit()

        def opens(instance: Instance) -> Deferred[IInstanceWriter]:
            variable.set(instance.sop_instance_uid)
            storage.writers.append(Writer(storage, instance))
            return succeed(cast(IInstanceWriter, storage.writers[-1]))

        self.patch(storage, "open", opens)
        peers = {uid: self.associate() for uid in ("1.2.3", "1.2.4")}
        for uid, peer in peers.items():
            peer.begins(uid, data_set(uid)[:10])
        for uid, peer in peers.items():
            peer.goes_on(data_set(uid)[10:], last=True)
        self.assertEqual(seen, [("1.2.3", "1.2.3"), ("1.2.4", "1.2.4")])
        self.assertEqual(variable.get(), "outside")

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


class UnknownTests(SynchronousTestCase):
    """SOP Classes that this program does not know may be accepted."""

    def setUp(self) -> None:
        self.contexts = Storage(
            MemoryStorage(), accept_unknown=True, transfer_syntaxes=[EXPLICIT_VR_LE]
        ).contexts

    def test_not_by_default(self) -> None:
        """They are refused unless it is asked for."""
        self.assertNotIn("1.2.3.4", Storage(MemoryStorage()).contexts)

    def test_private(self) -> None:
        """Private ones are accepted, and those that the standard may add to its Storage SOP Classes."""
        for uid in ("1.2.3.4", "2.25.1", "1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.9999"):
            self.assertIn(uid, self.contexts)
            self.assertEqual(self.contexts[uid], (EXPLICIT_VR_LE,))
            self.assertNotIn(uid, uids.STORAGE_SOP_CLASSES)

    def test_known(self) -> None:
        """What is known is as ever; and what there is to iterate over is that."""
        self.assertEqual(self.contexts[CT], (EXPLICIT_VR_LE,))
        self.assertEqual(list(self.contexts), list(uids.STORAGE_SOP_CLASSES))
        self.assertEqual(len(self.contexts), len(uids.STORAGE_SOP_CLASSES))

    def test_not_for_storing(self) -> None:
        """What the standard registers for other purposes is not accepted: pydicom knows their names."""
        for uid, (name, kind, *_) in UID_dictionary.items():
            if name and uid not in uids.STORAGE_SOP_CLASSES:
                self.assertNotIn(uid, self.contexts, f"{name} ({kind})")

    def test_negotiated(self) -> None:
        """A private class is negotiated and stored; the verification class is still the other service's."""
        storage = MemoryStorage()
        service = Storage(storage, accept_unknown=True)
        peer = Peer(Acceptor(Reactor(), [service, Verification()]))
        contexts = dict.fromkeys(("1.2.3.4", STORAGE_COMMITMENT, uids.VERIFICATION), (EXPLICIT_VR_LE,))
        peer.associates(contexts)
        self.assertRaises(StopIteration, peer.context, STORAGE_COMMITMENT)
        peer.stores("1.2.3", data_set(sop_class_uid="1.2.3.4"), "1.2.3.4")
        self.assertEqual(peer.response.status, 0)
        self.assertIn("1.2.3", storage.instances)
        peer.echoes()
        self.assertEqual(peer.response.status, 0)


class SupportTests(SynchronousTestCase):
    """What a Storage says of itself to peers that ask (PS3.4 B.3.1)."""

    def answers(self, service: Storage, proposed: bytes = b"\3\0\0\0\2\0") -> list[bytes]:
        """Return what a peer that says of itself that it is SCU only is answered."""
        peer = Peer(Acceptor(Reactor(), [service]))
        information = UserInformation(16382, extended=(ExtendedNegotiation(CT, proposed),))
        peer.associates({CT: (EXPLICIT_VR_LE,)}, user_information=information)
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC)
        return [item.application_information for item in confirmed.answer.user_information.extended]

    def test_interfaces(self) -> None:
        """It is a service that takes part in both kinds of extended negotiation."""
        service = Storage(MemoryStorage())
        verifyObject(IExtendedNegotiation, service)
        verifyObject(ICommonExtendedNegotiation, service)

    def test_default(self) -> None:
        """It is of level 2, preserves digital signatures, and coerces nothing (PS3.4 Table B.3-2)."""
        self.assertEqual(self.answers(Storage(MemoryStorage())), [b"\2\0\3\0\0\0"])

    def test_another(self) -> None:
        """Whose storage does otherwise says so."""
        support = StorageSupport(level=1, digital_signatures=0, coerces=True)
        self.assertEqual(self.answers(Storage(MemoryStorage(), support=support)), [b"\1\0\0\0\1\0"])

    def test_nothing_to_say(self) -> None:
        """Who would rather not say, and who keeps nothing, does not answer."""
        self.assertEqual(self.answers(Storage(MemoryStorage(), support=None)), [])
        self.assertEqual(self.answers(Storage(Discard())), [])

    def test_whatever_it_is_told(self) -> None:
        """What the peer says of itself changes nothing, and may be no such information at all."""
        for proposed in (b"", b"\0", b"\2\0\1\0\0\0", b"\xff" * 7, bytes(1000)):
            self.assertEqual(self.answers(Storage(MemoryStorage()), proposed), [b"\2\0\3\0\0\0"])


class GeneralTests(SynchronousTestCase):
    """SOP Classes that a Storage takes for what is said of them (PS3.4 B.4.1.2)."""

    PRIVATE = "1.2.840.99999.1"

    def takes(self, service: Storage, service_class: str, *related: str, uid: str = PRIVATE) -> bool:
        """Does it take a SOP Class of a Service Class, with these related general SOP Classes?"""
        syntaxes = service.transfer_syntaxes_for(CommonExtendedNegotiation(uid, service_class, related))
        if syntaxes is not None:
            self.assertEqual(syntaxes, service.contexts[MR])
        return syntaxes is not None

    def test_storage(self) -> None:
        """What is said to be for storing is taken by whoever takes all that is known to be."""
        service = Storage(MemoryStorage())
        self.assertTrue(self.takes(service, uids.STORAGE_SERVICE_CLASS))
        self.assertTrue(self.takes(service, uids.STORAGE_SERVICE_CLASS, "1.2.3"))
        self.assertFalse(self.takes(service, "1.2.840.10008.4.99"))
        self.assertFalse(self.takes(service, ""))

    def test_related(self) -> None:
        """What is specialized from what is taken is, too, whatever its Service Class is called."""
        for service in (Storage(MemoryStorage()), Storage(MemoryStorage(), sop_classes=[MR])):
            self.assertTrue(self.takes(service, uids.STORAGE_SERVICE_CLASS, "1.2.3", MR))
            self.assertTrue(self.takes(service, "", MR))
            self.assertFalse(self.takes(service, "", "1.2.3"))

    def test_some(self) -> None:
        """Who takes some classes alone takes no other for its Service Class, and no known one at all."""
        service = Storage(MemoryStorage(), sop_classes=[MR])
        self.assertFalse(self.takes(service, uids.STORAGE_SERVICE_CLASS))
        self.assertFalse(self.takes(service, uids.STORAGE_SERVICE_CLASS, CT))
        self.assertFalse(self.takes(service, uids.STORAGE_SERVICE_CLASS, MR, uid=CT))

    def test_stored(self) -> None:
        """An instance of such a class is stored, and is one of its own class."""
        storage = MemoryStorage()
        peer = Peer(Acceptor(Reactor(), [Storage(storage), Verification()]))
        item = CommonExtendedNegotiation(self.PRIVATE, uids.STORAGE_SERVICE_CLASS, (MR,))
        information = UserInformation(16382, common_extended=(item,))
        contexts = dict.fromkeys((self.PRIVATE, STORAGE_COMMITMENT, MR), (EXPLICIT_VR_LE,))
        peer.associates(contexts, user_information=information)
        self.assertRaises(StopIteration, peer.context, STORAGE_COMMITMENT)
        peer.stores("1.2.3", data_set(sop_class_uid=self.PRIVATE), self.PRIVATE)
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(storage.instances["1.2.3"][0].sop_class_uid, self.PRIVATE)
        peer.stores("1.2.3", data_set(sop_class_uid=MR), self.PRIVATE)
        self.assertEqual(peer.response.status, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)


class DiscardTests(ServiceCase):
    """What is to be ignored is answered with Success, and is nowhere."""

    def test_ignores(self) -> None:
        """Whatever comes is received and forgotten."""
        peer = self.associate(Discard(), check=False)
        for data in (b"", b"garbage", data_set(size=100_000)):
            peer.stores("1.2.3", data)
            self.assert_answered(0x0000, peer=peer)

    def test_checks(self) -> None:
        """It may be checked all the same."""
        peer = self.associate(Discard())
        peer.stores("1.2.3", data_set())
        self.assert_answered(0x0000, peer=peer)
        peer.stores("1.2.3", b"")
        self.assert_answered(0xC210, "data set is empty", peer)


class CheckingTests(SynchronousTestCase):
    """What checks a data set is a writer round another."""

    def test_another_operation(self) -> None:
        """An operation that knows no more than IConsumer is served as well."""
        storage = MemoryStorage()
        data = data_set()

        class Plain:
            association = cast(Any, None)
            context = type("Context", (), {"transfer_syntax": EXPLICIT_VR_LE, "abstract_syntax": CT})
            request = CStoreRQ(affected_sop_class_uid=CT, message_id=1, affected_sop_instance_uid="1.2.3")
            has_data_set = True

            def deliver_data_set(plain, consumer: Any) -> Deferred[None]:
                verifyObject(IInstanceWriter, consumer)
                transport = StringTransport()
                consumer.registerProducer(transport, True)
                writer = storage.writers[0]
                writer.producer.pauseProducing()
                self.assertEqual(transport.producerState, "paused")
                writer.producer.resumeProducing()
                self.assertEqual(transport.producerState, "producing")
                for octet in data:
                    consumer.write(bytes([octet]))
                consumer.unregisterProducer()
                self.assertIsNone(writer.producer)
                return succeed(None)

        plain = Plain()
        plain.association = type("Association", (), {"calling_ae_title": "A", "called_ae_title": "B"})
        performing = Deferred.fromCoroutine(Storage(storage).perform(cast(Any, plain)))
        self.assertEqual(self.successResultOf(performing), Status.SUCCESS)
        self.assertEqual(storage.instances["1.2.3"][1], data)


class VerificationContractTests(ServiceContract, SynchronousTestCase):
    """Verification keeps the contract of services."""

    def make_service(self) -> IService:
        return Verification()

    def requests(self) -> Any:
        return [(uids.VERIFICATION, CEchoRQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1), None)]


class StorageContractTests(ServiceContract, SynchronousTestCase):
    """Storage keeps the contract of services."""

    def make_service(self) -> IService:
        return Storage(MemoryStorage())

    def requests(self) -> Any:
        return [
            (
                sop_class,
                CStoreRQ(affected_sop_class_uid=sop_class, message_id=7, affected_sop_instance_uid="1.2.3"),
                data_set(sop_class_uid=sop_class),
            )
            for sop_class in (CT, MR)
        ]


@implementer(IService)
class Careless:
    """A service that says Success to everything, or fails by a bug."""

    contexts = {uids.VERIFICATION: (IMPLICIT_VR_LE,)}

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def perform(self, operation: Any) -> int:
        if self._fails:
            raise KeyError("a bug")
        return Status.SUCCESS


class ServiceContractTests(SynchronousTestCase):
    """The contract can be broken."""

    def test_broken(self) -> None:
        """A service that does not look at what is asked, or fails by a bug, does not keep it."""
        for fails in (False, True):
            contract = VerificationContractTests()
            contract.make_service = lambda fails=fails: Careless(fails)  # type: ignore[misc]
            self.assertRaises(self.failureException, contract.test_other_operation)
        self.assertRaises(self.failureException, contract.test_answers)
        self.assertRaises(self.failureException, contract.test_goes_away)

    def test_who_it_is_about(self) -> None:
        """It asks for a service, and for what that may be asked."""
        contract = ServiceContract()
        self.assertRaises(NotImplementedError, contract.make_service)
        self.assertRaises(NotImplementedError, contract.requests)
