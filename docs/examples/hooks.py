"""Hooks: an index of what has arrived, and a line for each study and each association.

``python hooks.py`` runs it on port 11112, and keeps files and their index in the current directory.
"""

import sqlite3
from contextlib import closing

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.internet.threads import deferToThreadPool

from dicomnode import Acceptor, FileStorage, Node, OperationFailed, Storage, Verification
from dicomnode.hooks import AssociationHooks, AssociationOver, Hooked, InstanceReceived
from dicomnode.studies import Studies, StudyEnded

TABLE = "CREATE TABLE IF NOT EXISTS instances (uid TEXT PRIMARY KEY, study TEXT, patient TEXT, path TEXT)"


class Index:
    """Knows where instances are. It learns that in a thread; Success is answered once it knows."""

    def __init__(self, path: str, reactor) -> None:
        self._path = path
        self._reactor = reactor
        self._execute(TABLE)

    async def __call__(self, received: InstanceReceived) -> None:
        uid, walk = received.instance.sop_instance_uid, received.instance.walk
        row = (uid, walk.study_instance_uid, walk.patient_id, received.path)
        try:
            await deferToThreadPool(
                self._reactor,
                self._reactor.getThreadPool(),
                self._execute,
                "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?)",
                row,
            )
        except sqlite3.Error:
            # The file stays; the peer is told to send it again.
            raise OperationFailed(0xA700, "the index is out of order") from None

    def _execute(self, statement: str, values: tuple[str | None, ...] = ()) -> None:
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute(statement, values)


def study_ended(ended: StudyEnded) -> None:
    senders = " and ".join(ended.calling_ae_titles)
    print(f"study {ended.study_instance_uid}: {ended.instances} instances from {senders}")


def association_over(over: AssociationOver) -> None:
    print(f"{over.association.calling_ae_title}: {over.instances} stored, {over.how}")


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    files = FileStorage(".", reactor=reactor)
    studies = Studies(reactor, study_ended, quiet=30.0)
    storage = Storage(Hooked(files, reactor, Index("index.db", reactor), studies=studies))
    acceptor = Acceptor(reactor, [Verification(), storage], observe=AssociationHooks(association_over))
    node = Node([serverFromString(reactor, description)], acceptor, behind=studies)
    node.startService()
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    return Deferred()  # for ever


if __name__ == "__main__":
    react(main)
