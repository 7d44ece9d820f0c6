"""The Verification and Storage service classes, as SCP (PS3.4 Annexes A and B)."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode import uids
from dicomnode.considering import Consider, Considering
from dicomnode.core.command import CEchoRQ, CStoreRQ, Status
from dicomnode.core.dataset import Walk
from dicomnode.core.items import CommonExtendedNegotiation
from dicomnode.errors import OperationFailed
from dicomnode.interfaces import (
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IImmediateStorage,
    IInstanceWriter,
    Instance,
    IOperation,
    IService,
    IStorage,
)
from dicomnode.operation import Operation
from dicomnode.reception import Receiver, Reception
from dicomnode.waiting import deferred_of, kept_on, settled, shielded
from dicomnode.walking import PassingWalking, Stretch, ThreadedWalking, Threads, Walking

_UID = uids.WELL_FORMED


@implementer(IService)
class Verification:
    """The Verification service class (PS3.4 Annex A)."""

    def __init__(self, transfer_syntaxes: Sequence[str] = tuple(uids.TRANSFER_SYNTAXES)) -> None:
        self.contexts = {uids.VERIFICATION: tuple(transfer_syntaxes)}

    def perform(self, operation: IOperation) -> int:
        if isinstance(operation.request, CEchoRQ):
            return Status.SUCCESS
        raise OperationFailed(Status.UNRECOGNIZED_OPERATION)


class _WithUnknown(Mapping[str, Sequence[str]]):
    """The contexts of a Storage that takes SOP Classes it does not know, too.

    Such are private ones, and those below the root of the standard's own Storage SOP Classes: what
    else the standard registers is not for storing.
    """

    _STANDARD = "1.2.840.10008."
    _STORAGE = "1.2.840.10008.5.1.4.1.1."
    #: What is below that root all the same: query and retrieval of protocol approvals and inventories.
    _NOT_STORAGE = frozenset(
        "1.2.840.10008.5.1.4.1.1." + number
        for number in ("200.4", "200.5", "200.6", "201.1.1", "201.2", "201.3", "201.4", "201.5", "201.6")
    )

    def __init__(self, known: Mapping[str, Sequence[str]], transfer_syntaxes: Sequence[str]) -> None:
        self._known = known
        self._transfer_syntaxes = transfer_syntaxes

    def __getitem__(self, abstract_syntax: str) -> Sequence[str]:
        known = self._known.get(abstract_syntax)
        if known is not None:
            return known
        if abstract_syntax.startswith(self._STANDARD) and not abstract_syntax.startswith(self._STORAGE):
            raise KeyError(abstract_syntax)
        if abstract_syntax in self._NOT_STORAGE:
            raise KeyError(abstract_syntax)
        return self._transfer_syntaxes

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


@dataclass(frozen=True, slots=True)
class StorageSupport:
    """What a Storage SCP does with the instances that it is given (PS3.4 B.3.1.2).

    By default: it keeps all of them, octet for octet.
    """

    level: int = 2  #: 0 local, 1 base, 2 full (PS3.4 B.4.1.1)
    digital_signatures: int = 3  #: 0 unspecified; 1 not preserved, 2 replaced, 3 preserved (PS3.4 B.4.1.4)
    coerces: bool = False  #: may attributes be coerced?

    def encode(self) -> bytes:
        """Return the service-class-application-information that says so (PS3.4 Table B.3-2)."""
        return bytes((self.level, 0, self.digital_signatures, 0, self.coerces, 0))


@implementer(IExtendedNegotiation, ICommonExtendedNegotiation)
class Storage(Receiver):
    """The Storage service class (PS3.4 Annex B): gives what arrives to a storage.

    :param storage: where instances are kept.
    :param transfer_syntaxes: those that are accepted, preferred first.
    :param sop_classes: those that are accepted.
    :param accept_unknown: accept SOP Classes, too, that are private or newer than this program. Without it
        such are accepted where the peer says that they are specialized from one that is; or, where all that
        are known are accepted, that they are of the Storage Service Class (PS3.4 B.4.1.2).
    :param support: what the storage does with instances, for peers that ask; None: they are told nothing.
    :param check: refuse a data set that is not whole, or not the instance that its command names.
    :param walk: walk data sets though they are not checked: the storage wants to know what they say.
    :param consider: is asked, once the header of a data set has been walked, whether to keep the instance.
    :param max_instance_size: refuse instances whose data set has more octets; 0 is no limit.
    :param threads: where deflated data sets are inflated, to be walked; without them, where they pass.
    :raises TypeError: when the storage is none.
    """

    def __init__(
        self,
        storage: IStorage,
        *,
        transfer_syntaxes: Sequence[str] = tuple(uids.TRANSFER_SYNTAXES),
        sop_classes: Sequence[str] = tuple(uids.STORAGE_SOP_CLASSES),
        accept_unknown: bool = False,
        support: StorageSupport | None = StorageSupport(),
        check: bool = True,
        walk: bool = True,
        consider: Consider | None = None,
        max_instance_size: int = 0,
        threads: Threads | None = None,
    ) -> None:
        if isinstance(storage, type) or not callable(getattr(storage, "open", None)):
            raise TypeError(f"{storage!r} is no storage")
        self._storage = storage
        self._threads = threads
        self._max_instance_size = max_instance_size
        self._check = check
        self._consider = consider
        self._walk = walk or check or consider is not None
        # Who considers an instance may take his time.
        immediate = consider is None and IImmediateStorage.providedBy(storage)
        self._immediate = cast(IImmediateStorage, storage) if immediate else None
        self._support = None if isinstance(storage, Discard) else support
        self._transfer_syntaxes = syntaxes = tuple(transfer_syntaxes)
        self._takes_all = not uids.STORAGE_SOP_CLASSES.keys() - set(sop_classes)
        self._known = known = dict.fromkeys(sop_classes, syntaxes)
        self.contexts: Mapping[str, Sequence[str]] = known
        if accept_unknown:
            self.contexts = _WithUnknown(known, syntaxes)

    def application_information(self, sop_class_uid: str, proposed: bytes) -> bytes | None:
        """Say what becomes of instances, whatever the peer says of itself (PS3.4 B.3.1.2)."""
        return None if self._support is None else self._support.encode()

    def transfer_syntaxes_for(self, proposed: CommonExtendedNegotiation) -> Sequence[str] | None:
        """Take what is specialized from what we take; if that is all, what is for storing (PS3.4 B.4.1.2)."""
        if proposed.sop_class_uid in uids.STORAGE_SOP_CLASSES:
            return None  # it is known, and left out on purpose
        of_storage = proposed.service_class_uid == uids.STORAGE_SERVICE_CLASS
        related = any(general in self._known for general in proposed.related_general_sop_class_uids)
        return self._transfer_syntaxes if related or (of_storage and self._takes_all) else None

    async def perform(self, operation: IOperation) -> int:
        instance = self._instance(operation)
        return await self._receive(operation, instance, deferred_of(self._storage.open, instance))

    def _begin(self, operation: Operation) -> int | Reception | Awaitable[int]:
        perform = self.perform
        if getattr(perform, "__func__", None) is not Storage.perform:  # someone performs them otherwise
            return perform(operation)
        instance = self._instance(operation)
        data_set = operation.whole
        at_once = data_set is not None and self._immediate is not None and self._immediate.immediate
        if at_once and not (instance.walk is not None and instance.walk.deflated):
            if self._keep(operation, instance, cast("list[memoryview]", data_set)):
                return Status.SUCCESS
            instance = self._instance(operation)  # with a walk that has not begun
        opening = deferred_of(self._storage.open, instance)
        if settled(opening):
            return self._reception(operation, instance, cast(IInstanceWriter, opening.result))
        return self._receive(operation, instance, opening)

    def _instance(self, operation: IOperation) -> Instance:
        self._judge(operation)
        return Instance.of(operation, Walk(operation.context.transfer_syntax) if self._walk else None)

    async def _receive(
        self, operation: IOperation, instance: Instance, opening: Deferred[IInstanceWriter]
    ) -> int:
        writer = cast(IInstanceWriter, opening.result) if settled(opening) else await _not_lost(opening)
        reception = self._reception(operation, instance, writer)
        try:
            await operation.deliver_data_set(reception.consumer)
            finished = reception.finish()
            return finished if isinstance(finished, int) else await finished
        except Exception:  # CancelledError is one, too
            return cast(int, await reception.fail(Failure()))  # type: ignore[no-untyped-call]

    def _reception(self, operation: IOperation, instance: Instance, writer: IInstanceWriter) -> Reception:
        """Return what takes the data set of an instance to its writer."""
        walk = instance.walk
        if self._max_instance_size:
            writer = _Bounded(writer, self._max_instance_size)
        if self._consider is not None:
            writer = Considering(writer, instance, self._consider)
        walking = None if walk is None else self._walking(writer, walk, operation.association.clock)
        compare = None
        if walk is not None:
            compare = partial(self._compare, walk, operation) if self._check else walk.end
        # What is still being considered need not be kept on.
        return Reception(writer, walking, compare, _as_it_is if self._consider else kept_on)

    def _keep(self, operation: IOperation, instance: Instance, data_set: Sequence[memoryview]) -> bool:
        """Keep an instance that has come as a whole: what is wrong with it is found before it is begun.

        Return False where that would take too long for one turn: it is not kept then.
        """
        if self._max_instance_size and sum(map(len, data_set)) > self._max_instance_size:
            raise _too_long(self._max_instance_size)
        if instance.walk is not None:
            if instance.walk.feed_sequence(data_set, Stretch(operation.association.clock)):
                return False
            if self._check:
                self._compare(instance.walk, operation)
        assert self._immediate is not None
        self._immediate.keep(instance, data_set)
        return True

    def _compare(self, walk: Walk, operation: IOperation) -> None:
        """Refuse a data set that is not whole, or another instance's than its command says."""
        walk.end()
        if not walk.whole:
            raise OperationFailed(Status.CANNOT_UNDERSTAND, walk.fault or "")
        request = cast(CStoreRQ, operation.request)
        if (
            walk.sop_instance_uid != request.affected_sop_instance_uid
            or walk.sop_class_uid != request.affected_sop_class_uid
        ):
            raise _another(walk, request)

    def _walking(self, writer: IInstanceWriter, walk: Walk, clock: IReactorTime) -> Walking:
        if walk.deflated and self._threads is not None:
            return ThreadedWalking(writer, walk, self._threads)
        return PassingWalking(writer, walk, clock)

    def _judge(self, operation: IOperation) -> None:
        """Refuse what can be seen, from its command, not to be an instance."""
        request = operation.request
        if not isinstance(request, CStoreRQ):
            raise OperationFailed(Status.UNRECOGNIZED_OPERATION)
        sop_class_uid = request.affected_sop_class_uid
        if sop_class_uid not in self._known and not _UID.fullmatch(sop_class_uid):
            raise OperationFailed(Status.NO_SUCH_SOP_CLASS, "Affected SOP Class UID is not a UID")
        if sop_class_uid != operation.context.abstract_syntax:
            why = "SOP Class is not the presentation context's"
            raise OperationFailed(Status.SOP_CLASS_NOT_SUPPORTED, why)
        if not _UID.fullmatch(request.affected_sop_instance_uid):
            if not request.affected_sop_instance_uid:
                raise OperationFailed(Status.INVALID_ATTRIBUTE_VALUE, "Affected SOP Instance UID is absent")
            why = "Affected SOP Instance UID is not a UID"
            raise OperationFailed(Status.INVALID_OBJECT_INSTANCE, why)
        if not operation.has_data_set:
            raise OperationFailed(Status.CANNOT_UNDERSTAND, "no data set")


@implementer(IInstanceWriter)
class _Bounded:
    """Gives a writer no more octets than an instance may have."""

    def __init__(self, writer: IInstanceWriter, limit: int) -> None:
        self._writer = writer
        self._limit = self._left = limit
        self.registerProducer = writer.registerProducer
        self.unregisterProducer = writer.unregisterProducer
        self.commit = writer.commit
        self.abort = writer.abort

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self._left -= sum(map(len, data))
        if self._left < 0:
            raise _too_long(self._limit)
        self._writer.writeSequence(data)


def _too_long(limit: int) -> OperationFailed:
    return OperationFailed(Status.OUT_OF_RESOURCES, f"the instance has more than {limit} octets")


def _as_it_is(committing: Deferred[int | None]) -> Deferred[int | None]:
    return committing


def _not_lost(opening: Deferred[IInstanceWriter]) -> Deferred[IInstanceWriter]:
    """Return a Deferred that may be cancelled: a writer that comes thereafter is aborted, not forgotten."""
    return shielded(
        opening, lambda result: None if isinstance(result, Failure) else deferred_of(result.abort)
    )


def _another(walk: Walk, request: CStoreRQ) -> OperationFailed:
    """Say what is wrong with a data set that is not of the instance which its command names."""
    name, said, found = "SOP Class", request.affected_sop_class_uid, walk.sop_class_uid
    if found == said:
        name, said, found = "SOP Instance", request.affected_sop_instance_uid, walk.sop_instance_uid
    if not found:
        return OperationFailed(Status.CANNOT_UNDERSTAND, f"the data set has no {name} UID")
    # What is no UID may be anything, and is not repeated.
    another = f"{name} {found}, not {said}"
    why = another if _UID.fullmatch(found) else f"{name} UID of the data set is not a UID"
    return OperationFailed(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, why)


@implementer(IStorage)
class Discard:
    """Keeps nothing, and says that it did."""

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return succeed(_Discarding())


@implementer(IInstanceWriter)
class _Discarding:
    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """It is never behind."""

    def unregisterProducer(self) -> None:
        """It is never behind."""

    def write(self, data: bytes) -> None:
        """Drop it."""

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        """Drop it."""

    def commit(self) -> Deferred[None]:
        return succeed(None)

    def abort(self) -> Deferred[None]:
        return succeed(None)
