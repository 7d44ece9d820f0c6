"""A wrapper writer: whatever keeps the instances, a SHA-256 of each data set is noted as it passes.

``python hashing_writer.py`` runs it on port 11112 and keeps files in the current directory.
"""

import hashlib
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from zope.interface import implementer

from dicomnode import Acceptor, FileStorage, IInstanceWriter, Instance, IStorage, Storage, Verification

Note = Callable[[Instance, str], None]


@implementer(IStorage)
class Hashing:
    """A storage round another one."""

    def __init__(self, storage: IStorage, note: Note) -> None:
        self._storage = storage
        self._note = note

    async def open(self, instance: Instance) -> IInstanceWriter:
        return HashingWriter(await self._storage.open(instance), instance, self._note)


@implementer(IInstanceWriter)
class HashingWriter:
    """A writer round another one: it looks at the octets, and leaves the rest to the other."""

    def __init__(self, writer: IInstanceWriter, instance: Instance, note: Note) -> None:
        self._writer = writer
        self._instance = instance
        self._note = note
        self._hash = hashlib.sha256()
        # The inner writer talks to the producer itself: it knows when it is behind.
        self.registerProducer = writer.registerProducer
        self.unregisterProducer = writer.unregisterProducer
        self.abort = writer.abort

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        for fragment in data:
            self._hash.update(fragment)
        self._writer.writeSequence(data)

    async def commit(self) -> int | None:
        status = await self._writer.commit()  # None, or a warning
        self._note(self._instance, self._hash.hexdigest())
        return status


def say(instance: Instance, digest: str) -> None:
    print(digest, instance.sop_instance_uid)


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    files = FileStorage(".", reactor=reactor)
    acceptor = Acceptor(reactor, [Verification(), Storage(Hashing(files, say))])
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
