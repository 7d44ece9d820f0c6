"""A storage of one's own: instances go to an object store, in parts, while they arrive.

``python object_storage.py`` runs it on port 11112. Its :class:`Bucket` is in memory, and stands for
the client of a real store with multi-part uploads: calls that give Deferreds.
"""

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import react
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    IInstanceWriter,
    Instance,
    IStorage,
    OperationFailed,
    Status,
    Storage,
    Verification,
)
from dicomnode.part10 import part10_header

PART = 5 << 20  #: octets of a part: what the usual stores ask for at least
MOST = 2  #: parts that wait; with more of them the peer waits, too


class Bucket:
    """An object store."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def upload(self, key: str) -> "Upload":
        return Upload(self, key)


class Upload:
    """An object on its way: parts, and then one of complete and forget."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket = bucket
        self.key = key
        self.parts: list[bytes] = []

    def put(self, part: bytes) -> Deferred[None]:
        self.parts.append(part)
        return succeed(None)

    def complete(self) -> Deferred[None]:
        self.bucket.objects[self.key] = b"".join(self.parts)
        return succeed(None)

    def forget(self) -> Deferred[None]:
        return succeed(None)


@implementer(IStorage)
class ObjectStorage:
    """Keeps each instance as one object that is a DICOM file."""

    def __init__(self, bucket: Bucket, part: int = PART) -> None:
        self._bucket = bucket
        self._part = part

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        upload = self._bucket.upload(f"{instance.sop_instance_uid}.dcm")
        return succeed(ObjectWriter(upload, part10_header(instance), self._part))


@implementer(IInstanceWriter)
class ObjectWriter:
    """Writes one instance: collects a part, puts it, and lets the peer wait when the store is behind."""

    def __init__(self, upload: Upload, header: bytes, part: int) -> None:
        self._upload = upload
        self._size = part
        self._part = bytearray(header)
        self._putting: Deferred[None] = succeed(None)  # the parts, one after the other
        self._waiting = 0
        self._paused = False
        self._producer: IPushProducer | None = None

    # The data set arrives; its producer is the operation.

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        for fragment in data:
            self._part += fragment
        if len(self._part) >= self._size:
            self._put()

    # Exactly one of these two is called, once.

    def commit(self) -> Deferred[None]:
        """Success is answered when this fires: so it fires when the object is there."""
        self._put()
        self._putting.addCallback(lambda _: self._upload.complete()).addErrback(self._not_kept)
        return self._putting

    def abort(self) -> Deferred[None]:
        """The peer has gone, or its data set was found wanting."""
        return self._putting.addBoth(lambda _: self._upload.forget())

    # Within

    def _put(self) -> None:
        part, self._part = bytes(self._part), bytearray()
        self._waiting += 1
        self._putting.addCallback(lambda _: self._upload.put(part))
        self._putting.addCallbacks(self._has_put, self._failed)
        self._balance()

    def _has_put(self, _: None) -> None:
        self._waiting -= 1
        self._balance()

    def _balance(self) -> None:
        behind = self._waiting > MOST
        if self._producer is not None and behind is not self._paused:
            self._paused = behind
            if behind:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def _failed(self, failure: Failure) -> Failure:
        if self._producer is not None:
            self._producer.stopProducing()  # what still comes is dropped
        return failure

    def _not_kept(self, failure: Failure) -> Deferred[None]:
        why = f"the object store failed: {failure.getErrorMessage()}"
        refused = Failure(OperationFailed(Status.OUT_OF_RESOURCES, why))
        return self._upload.forget().addCallback(lambda _: refused)


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    acceptor = Acceptor(reactor, [Verification(), Storage(ObjectStorage(Bucket()))])
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
