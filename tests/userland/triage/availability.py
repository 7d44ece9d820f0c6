"""Availability: others say by Instance Availability Notification (PS3.4 Annex R) what they have."""

from __future__ import annotations

from io import BytesIO

from pydicom import Dataset
from pydicom.filereader import read_dataset
from zope.interface import implementer

from dicomnode import IOperation, IService, OperationFailed, Status
from dicomnode.core.command import NCreateRQ
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE

INSTANCE_AVAILABILITY = "1.2.840.10008.5.1.4.33"


@implementer(IService)
class Availability:
    """Remembers what is available where."""

    contexts = {INSTANCE_AVAILABILITY: [EXPLICIT_VR_LE, IMPLICIT_VR_LE]}

    def __init__(self) -> None:
        self.known: dict[str, Dataset] = {}

    async def perform(self, operation: IOperation) -> int:
        request = operation.request
        if not isinstance(request, NCreateRQ):
            raise OperationFailed(Status.UNRECOGNIZED_OPERATION)
        octets = await operation.read_data_set(1 << 20)
        implicit = operation.context.transfer_syntax == IMPLICIT_VR_LE
        said = read_dataset(BytesIO(octets), is_implicit_VR=implicit, is_little_endian=True)
        if "StudyInstanceUID" not in said:
            raise OperationFailed(Status.MISSING_ATTRIBUTE, "no Study Instance UID")
        self.known[said.StudyInstanceUID] = said
        return Status.SUCCESS
