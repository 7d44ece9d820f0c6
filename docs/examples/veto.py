"""A veto: whose pixels are let in, decided by what the header of each instance says.

``python veto.py`` runs it on port 11112, and keeps files in the current directory.
"""

from collections.abc import Set

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater, react

from dicomnode import Acceptor, FileStorage, Instance, OperationFailed, Status, Storage, Verification


class Enrolled:
    """Lets in the CT and MR images of patients who are enrolled in a trial.

    :param patients: their Patient IDs.
    """

    def __init__(self, reactor, patients: Set[str]) -> None:
        self._reactor = reactor
        self._patients = patients

    async def __call__(self, instance: Instance) -> None:
        walk = instance.walk
        if walk.modality not in ("CT", "MR"):
            raise OperationFailed(Status.NOT_AUTHORIZED, "neither CT nor MR")
        if not await self.is_enrolled(walk.patient_id or ""):
            raise OperationFailed(Status.NOT_AUTHORIZED, "the patient is not enrolled")

    def is_enrolled(self, patient: str) -> Deferred[bool]:
        """Ask a registry, which takes a while: the peer waits meanwhile."""
        return deferLater(self._reactor, 0.1, lambda: patient in self._patients)


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    files = FileStorage(".", reactor=reactor)
    storage = Storage(files, consider=Enrolled(reactor, {"TRIAL-001", "TRIAL-002"}))
    acceptor = Acceptor(reactor, [Verification(), storage])
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
