"""What dicomnode lets others implement can be, with complete types: mypy is the other half of this test."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IConsumer, IProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyObject

from dicomnode import (
    Acceptor,
    FileStorage,
    IAssociation,
    IAssociationPolicy,
    ICertificatePolicy,
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IImmediateStorage,
    IInstanceWriter,
    Instance,
    IOperation,
    IRoleSelection,
    IService,
    IStorage,
    IUser,
    Node,
    Pipe,
    Status,
    Storage,
    Verification,
    events,
    interfaces,
)
from dicomnode.core.codec import encode
from dicomnode.core.command import CEchoRQ, CStoreRQ, Request, Response
from dicomnode.core.items import CommonExtendedNegotiation
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import AssociateRQ
from dicomnode.hooks import InstanceReceived
from dicomnode.interfaces import Body, Decision, IReadable, IShareable, OnResponse, Progress
from dicomnode.testing import MemoryStorage, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, VERIFICATION

if TYPE_CHECKING:
    from twisted.internet.ssl import Certificate


@implementer(IAssociation)
class FakeAssociation:
    """An association that somebody else's test stands in for."""

    number = 1
    role = Role.ACCEPTOR
    calling_ae_title = "CT1"
    called_ae_title = "TRIAGE"

    def __init__(self) -> None:
        self.clock = Clock()
        self.peer: IAddress = IPv4Address("TCP", "192.0.2.1", 104)
        self.contexts: Mapping[int, PresentationContext] = {}

    def release(self) -> Deferred[None]:
        return succeed(None)

    def abort(self) -> None:
        """It is over."""

    def when_ended(self) -> Deferred[None]:
        return Deferred()

    def invoke(
        self,
        request: Request,
        data_set: bytes | Body | None = None,
        *,
        context: PresentationContext | int | str | None = None,
        on_response: OnResponse | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Response]:
        return Deferred()


@implementer(IOperation)
class FakeOperation:
    """An operation without a data set."""

    has_data_set = False

    def __init__(self) -> None:
        self.association: IAssociation = FakeAssociation()
        self.context = PresentationContext(1, VERIFICATION, EXPLICIT_VR_LE)
        self.request: Request = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=1)

    def deliver_data_set(self, consumer: IConsumer) -> Deferred[None]:
        return succeed(None)

    def read_data_set(self, limit: int) -> Deferred[bytes]:
        return succeed(b"")


@implementer(IInstanceWriter)
class Counting:
    """A writer round another one."""

    def __init__(self, writer: IInstanceWriter) -> None:
        self.octets = 0
        self._writer = writer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._writer.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._writer.unregisterProducer()

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self.octets += sum(map(len, data))
        self._writer.writeSequence(data)

    async def commit(self) -> int | None:
        return await self._writer.commit()

    async def abort(self) -> None:
        await self._writer.abort()


@implementer(IStorage)
class Counted:
    """A storage round another one."""

    def __init__(self, storage: IStorage) -> None:
        self.writers: list[Counting] = []
        self._storage = storage

    async def open(self, instance: Instance) -> IInstanceWriter:
        self.writers.append(Counting(await self._storage.open(instance)))
        return self.writers[-1]


@implementer(IImmediateStorage)
class Quick(Counted):
    """One that keeps what is small at once."""

    immediate = True

    def __init__(self, storage: IStorage) -> None:
        super().__init__(storage)
        self.kept: dict[str, bytes] = {}

    def keep(self, instance: Instance, data_set: Sequence[bytes | memoryview]) -> None:
        self.kept[instance.sop_instance_uid] = b"".join(data_set)


@implementer(IService)
class Echo:
    """A service that answers at once."""

    def __init__(self) -> None:
        self.contexts: Mapping[str, Sequence[str]] = {VERIFICATION: [EXPLICIT_VR_LE]}

    def perform(self, operation: IOperation) -> int:
        return Status.SUCCESS


@implementer(IRoleSelection, IExtendedNegotiation, ICommonExtendedNegotiation)
class Talkative:
    """A service that has something to say of roles, of its SOP Class, and of those that nobody knows."""

    def __init__(self) -> None:
        self.contexts: Mapping[str, Sequence[str]] = {}
        self.contexts_as_scu: Mapping[str, Sequence[str]] = {VERIFICATION: [EXPLICIT_VR_LE]}

    def application_information(self, sop_class_uid: str, proposed: bytes) -> bytes | None:
        return None

    def transfer_syntaxes_for(self, proposed: CommonExtendedNegotiation) -> Sequence[str] | None:
        return None

    async def perform(self, operation: IOperation) -> int:
        return Status.UNRECOGNIZED_OPERATION


@implementer(IAssociationPolicy)
class Anyone:
    """A policy that decides at once."""

    def consider(self, request: AssociateRQ, peer: IAddress) -> None:
        """Accept."""


@implementer(ICertificatePolicy)
class Certified:
    """A policy that looks at certificates, and decides later."""

    def consider(
        self, request: AssociateRQ, peer: IAddress, certificate: Certificate | None = None
    ) -> Decision:
        return succeed(None)


@implementer(IUser)
class Somebody:
    name = "alice"


@implementer(IReadable)
class Keys:
    path = "keys.pem"

    def read(self) -> None:
        """Read them."""


@implementer(IShareable)
class SharedKeys(Keys):
    def __init__(self) -> None:
        self.contents: Mapping[str, bytes] = {}

    def use(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents


class OurAcceptor(Acceptor):
    def drain(self, grace: float) -> Deferred[None]:
        return super().drain(grace)


class OurNode(Node):
    def stopService(self) -> Deferred[None]:
        return super().stopService()


class OurStorage(Storage):
    async def perform(self, operation: IOperation) -> int:
        return await super().perform(operation)


class OurFiles(FileStorage):
    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return super().open(instance)


def pdu(control: int, fragment: bytes) -> bytes:
    """Return a P-DATA-TF on the first context (PS3.8 9.3.5)."""
    return struct.pack(">BxIIBB", 4, len(fragment) + 6, len(fragment) + 2, 1, control) + fragment


class OurPipe(Pipe):
    def commit(self) -> Deferred[int | None]:
        return super().commit()


class OurMemory(MemoryStorage):
    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return super().open(instance)


class Observer:
    """An observer that says what it wants to be told."""

    octets = 0

    def wants(self, kind: type[Any]) -> bool:
        return kind is events.OperationEnded

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.OperationEnded):
            self.octets += event.octets


async def hook(received: InstanceReceived) -> None:
    """Take no notice."""


def errback(failure: Failure) -> None:
    """Take no notice."""


class ImplementingTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """Each interface is implemented here, and as it wants to be."""
        reactor = Reactor()
        values = (
            FakeAssociation(),
            FakeOperation(),
            Counting(Pipe()),
            Counted(MemoryStorage()),
            Quick(MemoryStorage()),
            Echo(),
            Talkative(),
            Anyone(),
            Certified(),
            Somebody(),
            Keys(),
            SharedKeys(),
        )
        known = {value for value in vars(interfaces).values() if isinstance(value, InterfaceClass)}
        ours = {one for one in known if one.__module__ == interfaces.__name__}
        self.assertEqual({one for one in ours if not any(one.providedBy(value) for value in values)}, set())
        for value in values:
            for one in ours:
                if one.providedBy(value):
                    verifyObject(one, value)
        for made in (OurFiles(".", reactor=reactor), OurMemory()):
            verifyObject(IStorage, made)

    def test_they_work(self) -> None:
        """What is made of them is a node."""
        storage, observer = Counted(OurMemory()), Observer()
        acceptor = OurAcceptor(Reactor(), [Echo(), OurStorage(storage, check=False)], observe=observer)
        OurNode([], acceptor).startService()
        peer = Peer(acceptor)
        peer.associates({"1.2.840.10008.5.1.4.1.1.2": [EXPLICIT_VR_LE], VERIFICATION: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", b"data")
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual((storage.writers[0].octets, observer.octets), (4, 4))
        peer.echoes()
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertIsInstance(Verification().perform(FakeOperation()), int)

    def test_immediate(self) -> None:
        """What comes whole is kept at once where the storage can; what does not is opened."""
        storage = Quick(OurMemory())
        ct = "1.2.840.10008.5.1.4.1.1.2"
        for uid, size in (("1.2.3", None), ("1.2.4", 100)):
            peer = Peer(Acceptor(Reactor(), [Storage(storage, check=False)]), size)
            peer.associates({ct: [EXPLICIT_VR_LE]})
            request = CStoreRQ(message_id=7, affected_sop_class_uid=ct, affected_sop_instance_uid=uid)
            peer.sends(pdu(3, encode(request, has_data_set=True)) + pdu(2, b"data" * 100))
            self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(storage.kept, {"1.2.3": b"data" * 100})
        self.assertEqual([writer.octets for writer in storage.writers], [400])
