"""A service for another SOP Class: Modality Performed Procedure Step (PS3.4 F.7), as SCP.

A modality creates a step with N-CREATE when it begins, and sets it with N-SET until it is completed
or discontinued. ``python mpps_service.py`` runs it on port 11112.
"""

from io import BytesIO

from pydicom import Dataset
from pydicom.filereader import read_dataset
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from zope.interface import implementer

from dicomnode import Acceptor, IOperation, IService, OperationFailed, Status, Verification
from dicomnode.core.command import NCreateRQ, NSetRQ
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE

MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"


@implementer(IService)
class PerformedProcedureSteps:
    """Keeps the steps in memory, by SOP Instance UID."""

    contexts = {MODALITY_PERFORMED_PROCEDURE_STEP: (EXPLICIT_VR_LE, IMPLICIT_VR_LE)}
    #: octets of the longest data set that is read: it is read whole
    LIMIT = 1 << 20

    def __init__(self) -> None:
        self.steps: dict[str, Dataset] = {}

    async def perform(self, operation: IOperation) -> int:
        match operation.request:
            case NCreateRQ(affected_sop_instance_uid=uid) if uid:
                step = await self._data_set(operation)
                if uid in self.steps:
                    raise OperationFailed(Status.DUPLICATE_SOP_INSTANCE)
                self.steps[uid] = step
            case NSetRQ(requested_sop_instance_uid=uid):
                changes = await self._data_set(operation)
                if uid not in self.steps:
                    raise OperationFailed(Status.NO_SUCH_SOP_INSTANCE)
                if self.steps[uid].PerformedProcedureStepStatus != "IN PROGRESS":
                    raise OperationFailed(Status.PROCESSING_FAILURE, "the step may no longer be updated")
                self.steps[uid].update(changes)
            case _:
                raise OperationFailed(Status.UNRECOGNIZED_OPERATION)
        return Status.SUCCESS

    async def _data_set(self, operation: IOperation) -> Dataset:
        octets = await operation.read_data_set(self.LIMIT)
        implicit = operation.context.transfer_syntax == IMPLICIT_VR_LE
        return read_dataset(BytesIO(octets), is_implicit_VR=implicit, is_little_endian=True)


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    acceptor = Acceptor(reactor, [Verification(), PerformedProcedureSteps()])
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
