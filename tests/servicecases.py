"""What tests of services have in common: instances, storages that fail as they are told, and a peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomnode import uids
from dicomnode.acceptor import Acceptor
from dicomnode.core.codec import encode
from dicomnode.core.command import CStoreRQ
from dicomnode.core.pdu import p_data_tf
from dicomnode.interfaces import (
    IInstanceWriter,
    Instance,
    IStorage,
)
from dicomnode.services import Storage, Verification
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Reactor, Recorder

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT_VR_LE = "1.2.840.10008.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"


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
        service = self.service(storage or self.storage, **arguments)
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
