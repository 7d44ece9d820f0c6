"""The Verification and Storage service classes, as SCP (PS3.4 Annexes A and B)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProducer, IPushProducer
from zope.interface import implementer

from dicomnode import events, uids
from dicomnode.core.command import CEchoRQ, CStoreRQ, Status
from dicomnode.core.dataset import Walk
from dicomnode.errors import OperationFailed
from dicomnode.interfaces import IInstanceWriter, Instance, IOperation, IService, IStorage

#: A UID as it may become part of a file name: PS3.5 9.1 without its rule on leading zeros, which
#: devices break and no one is hurt by.
_UID = re.compile(r"[0-9][0-9.]{0,63}")


@implementer(IService)
class Verification:
    """The Verification service class (PS3.4 Annex A)."""

    def __init__(self, transfer_syntaxes: Sequence[str] = tuple(uids.TRANSFER_SYNTAXES)) -> None:
        self.contexts = {uids.VERIFICATION: tuple(transfer_syntaxes)}

    async def perform(self, operation: IOperation) -> int:
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


@implementer(IService)
class Storage:
    """The Storage service class (PS3.4 Annex B): gives what arrives to a storage.

    :param storage: where instances are kept.
    :param transfer_syntaxes: those that are accepted, preferred first.
    :param sop_classes: those that are accepted.
    :param accept_unknown: accept SOP Classes, too, that are private or newer than this program.
    :param check: refuse a data set that is not whole, or not the instance that its command names.
    :param observe: is told of data sets that were stored in doubt.
    """

    def __init__(
        self,
        storage: IStorage,
        *,
        transfer_syntaxes: Sequence[str] = tuple(uids.TRANSFER_SYNTAXES),
        sop_classes: Sequence[str] = tuple(uids.STORAGE_SOP_CLASSES),
        accept_unknown: bool = False,
        check: bool = True,
        observe: events.Observer = events.ignore,
    ) -> None:
        self._storage = storage
        self._observe = events.guarded(observe)
        self._check = check
        syntaxes = tuple(transfer_syntaxes)
        known = dict.fromkeys(sop_classes, syntaxes)
        self.contexts: Mapping[str, Sequence[str]] = known
        if accept_unknown:
            self.contexts = _WithUnknown(known, syntaxes)

    async def perform(self, operation: IOperation) -> int:
        self._judge(operation)
        writer = await self._storage.open(Instance.of(operation))
        try:
            if self._check:
                walk = Walk(operation.context.transfer_syntax)
                checking = _Checking(writer, walk)
                await operation.deliver_data_set(checking)
                if not checking.stopped:  # else it has not seen all, and commit says why
                    checking.judge(operation)
                    if walk.doubt is not None:
                        self._observe(events.Doubted(operation.association, operation, walk.doubt))
            else:
                await operation.deliver_data_set(writer)
        except Exception:  # CancelledError is one, too
            await writer.abort()
            raise
        await writer.commit()
        return Status.SUCCESS

    def _judge(self, operation: IOperation) -> None:
        """Refuse what can be seen, from its command, not to be an instance."""
        request = operation.request
        if not isinstance(request, CStoreRQ):
            raise OperationFailed(Status.UNRECOGNIZED_OPERATION)
        if not _UID.fullmatch(request.affected_sop_class_uid):
            raise OperationFailed(Status.NO_SUCH_SOP_CLASS, "Affected SOP Class UID is not a UID")
        if request.affected_sop_class_uid != operation.context.abstract_syntax:
            why = "SOP Class is not the presentation context's"
            raise OperationFailed(Status.SOP_CLASS_NOT_SUPPORTED, why)
        if not request.affected_sop_instance_uid:
            raise OperationFailed(Status.INVALID_ATTRIBUTE_VALUE, "Affected SOP Instance UID is absent")
        if not _UID.fullmatch(request.affected_sop_instance_uid):
            why = "Affected SOP Instance UID is not a UID"
            raise OperationFailed(Status.INVALID_OBJECT_INSTANCE, why)
        if not operation.has_data_set:
            raise OperationFailed(Status.CANNOT_UNDERSTAND, "no data set")


@implementer(IInstanceWriter, IPushProducer)
class _Checking:
    """Lets a walk see what a writer is given."""

    def __init__(self, writer: IInstanceWriter, walk: Walk) -> None:
        self.stopped = False  #: has the writer said that it can take no more?
        self._writer = writer
        self._walk = walk
        self.unregisterProducer = writer.unregisterProducer
        self.commit = writer.commit
        self.abort = writer.abort

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = cast(IPushProducer, producer)
        self._writer.registerProducer(self, streaming)

    def pauseProducing(self) -> None:
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self.stopped = True
        self._producer.stopProducing()

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        for fragment in data:
            self._walk.feed(fragment)
        self._writer.writeSequence(data)

    def judge(self, operation: IOperation) -> None:
        """Refuse a data set that is not whole, or another instance's than its command says."""
        request = operation.request
        assert isinstance(request, CStoreRQ)
        walk = self._walk
        walk.end()
        if not walk.whole:
            raise OperationFailed(Status.CANNOT_UNDERSTAND, walk.fault or "")
        for name, said, found in (
            ("SOP Class", request.affected_sop_class_uid, walk.sop_class_uid),
            ("SOP Instance", request.affected_sop_instance_uid, walk.sop_instance_uid),
        ):
            if not found:
                raise OperationFailed(Status.CANNOT_UNDERSTAND, f"the data set has no {name} UID")
            if found != said:
                # What is no UID may be anything, and is not repeated.
                another = f"{name} {found}, not {said}"
                why = another if _UID.fullmatch(found) else f"{name} UID of the data set is not a UID"
                raise OperationFailed(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, why)


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
