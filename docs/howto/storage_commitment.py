"""A service for another SOP Class: Storage Commitment Push Model (PS3.4 Annex J), as SCP.

A modality asks with N-ACTION whether instances are kept for good, and is told by N-EVENT-REPORT, on the same
association. ``python storage_commitment.py`` runs it on port 11112, with a storage, in the current directory.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.filereader import read_dataset
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.logger import Logger
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    DicomNodeError,
    FileStorage,
    IOperation,
    IService,
    OperationFailed,
    Status,
    Storage,
    Verification,
)
from dicomnode.core.command import NActionRQ, NEventReportRQ
from dicomnode.hooks import Hooked, InstanceReceived
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST, COMPLETE, WITH_FAILURES = 1, 1, 2  #: Action Type ID, Event Type IDs

log = Logger()


@implementer(IService)
class StorageCommitment:
    """Commits to what it has been told is kept: :meth:`kept` is a hook."""

    contexts = {STORAGE_COMMITMENT: (EXPLICIT_VR_LE, IMPLICIT_VR_LE)}
    #: octets of the longest list of instances that is read: it is read whole
    LIMIT = 1 << 24

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._kept: dict[str, str] = {}  # SOP Class UIDs, by SOP Instance UID

    def kept(self, received: InstanceReceived) -> None:
        self._kept[received.instance.sop_instance_uid] = received.instance.sop_class_uid

    async def perform(self, operation: IOperation) -> int:
        request = operation.request
        if not isinstance(request, NActionRQ):
            raise OperationFailed(Status.UNRECOGNIZED_OPERATION)
        if request.requested_sop_instance_uid != WELL_KNOWN_INSTANCE:
            raise OperationFailed(Status.NO_SUCH_SOP_INSTANCE)
        if request.action_type_id != REQUEST:
            raise OperationFailed(Status.NO_SUCH_ACTION)
        implicit = operation.context.transfer_syntax == IMPLICIT_VR_LE
        octets = await operation.read_data_set(self.LIMIT)
        asked = read_dataset(BytesIO(octets), is_implicit_VR=implicit, is_little_endian=True)
        if "TransactionUID" not in asked or "ReferencedSOPSequence" not in asked:
            raise OperationFailed(Status.MISSING_ATTRIBUTE)
        # The response is sent first: the report is of what was asked, and that is answered by then.
        self._reactor.callLater(0, lambda: Deferred.fromCoroutine(self._report(operation, asked)))
        return Status.SUCCESS

    async def _report(self, operation: IOperation, asked: Dataset) -> None:
        """Invoke an N-EVENT-REPORT on whoever has asked."""
        result = self._result(asked)
        event = NEventReportRQ(
            affected_sop_class_uid=STORAGE_COMMITMENT,
            message_id=0,  # it is given its own
            affected_sop_instance_uid=WELL_KNOWN_INSTANCE,
            event_type_id=WITH_FAILURES if "FailedSOPSequence" in result else COMPLETE,
        )
        buffer = BytesIO()
        implicit = operation.context.transfer_syntax == IMPLICIT_VR_LE
        result.save_as(buffer, implicit_vr=implicit, little_endian=True)
        try:
            await operation.association.invoke(event, buffer.getvalue(), context=operation.context)
        except DicomNodeError as error:  # it has not waited
            uid, title = asked.TransactionUID, operation.association.calling_ae_title
            log.warn("{title} was not told of {uid}: {error}", title=title, uid=uid, error=error)

    def _result(self, asked: Dataset) -> Dataset:
        committed, failed = [], []
        for item in asked.ReferencedSOPSequence:
            sop_class = self._kept.get(item.ReferencedSOPInstanceUID)
            if sop_class == item.ReferencedSOPClassUID:
                committed.append(item)
            else:
                conflict = (
                    Status.NO_SUCH_SOP_INSTANCE if sop_class is None else Status.CLASS_INSTANCE_CONFLICT
                )
                item.FailureReason = int(conflict)  # PS3.3 C.14.1.1: the values are those of a status
                failed.append(item)
        result = Dataset()
        result.TransactionUID = asked.TransactionUID
        if committed:
            result.ReferencedSOPSequence = committed
        if failed:
            result.FailedSOPSequence = failed
        return result


async def main(reactor: Any) -> None:
    commitment = StorageCommitment(reactor)
    files = FileStorage(".", reactor=reactor)
    storage = Storage(Hooked(files, reactor, commitment.kept))
    acceptor = Acceptor(reactor, [Verification(), storage, commitment])
    await serverFromString(reactor, "tcp:11112").listen(acceptor)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main)
