"""A service that is SCU, too: Study Root Query/Retrieve - GET (PS3.4 C.4.3), as SCP.

A workstation asks with C-GET for a study, a series or an instance, and is sent it by C-STOREs on the same
association. ``python get_service.py`` runs it on port 11112, with the files of the current directory.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    ContextNotAccepted,
    InvalidFile,
    IOperation,
    IRoleSelection,
    OperationFailed,
    ServiceUser,
    Status,
    Verification,
)
from dicomnode.core.command import CGetRQ, is_warning
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
SOME_FAILED = 0xB000  #: PS3.4 Table C.4-3: sub-operations complete, one or more failures or warnings
ALL_FAILED = 0xA702  #: refused: unable to perform sub-operations
UNIQUE_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@implementer(IRoleSelection)
class Retrieve:
    """Sends files to who asks for them."""

    contexts = {STUDY_ROOT_GET: (EXPLICIT_VR_LE, IMPLICIT_VR_LE)}

    def __init__(self, directory: Path) -> None:
        self._files: list[tuple[Path, Dataset]] = []
        self.contexts_as_scu: dict[str, list[str]] = {}
        for path in sorted(directory.glob("*.dcm")):
            header = dcmread(path, specific_tags=["SOPClassUID", *UNIQUE_KEYS], stop_before_pixels=True)
            self._files.append((path, header))
            syntaxes = self.contexts_as_scu.setdefault(str(header.SOPClassUID), [])
            if header.file_meta.TransferSyntaxUID not in syntaxes:
                syntaxes.append(str(header.file_meta.TransferSyntaxUID))

    async def perform(self, operation: IOperation) -> int:
        if not isinstance(operation.request, CGetRQ):
            raise OperationFailed(Status.UNRECOGNIZED_OPERATION)
        octets = await operation.read_data_set(1 << 16)
        implicit = operation.context.transfer_syntax == IMPLICIT_VR_LE
        identifier = read_dataset(BytesIO(octets), is_implicit_VR=implicit, is_little_endian=True)
        user = ServiceUser(operation.association)
        stored = failed = 0
        for path in self._matching(identifier):
            try:
                response = await user.store(path)
            except (ContextNotAccepted, InvalidFile, OSError):  # not proposed, or not there any more
                failed += 1
            else:
                stored += response.status == Status.SUCCESS or is_warning(response.status)
                failed += response.status != Status.SUCCESS
        if not failed:
            return Status.SUCCESS
        return SOME_FAILED if stored else ALL_FAILED

    def _matching(self, identifier: Dataset) -> Iterator[Path]:
        wanted = {key: identifier[key].value for key in UNIQUE_KEYS if identifier.get(key)}
        for path, header in self._files:
            if wanted and all(header.get(key) in _listed(uids) for key, uids in wanted.items()):
                yield path


def _listed(uids: object) -> list[object]:
    return [uids] if isinstance(uids, str) else list(uids)  # list of UID matching (PS3.4 C.2.2.2.2)


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    acceptor = Acceptor(reactor, [Verification(), Retrieve(Path())])
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
