"""Scouts: small instances are posted to a reading service, and nothing else is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProducer
from zope.interface import implementer

from dicomnode import IInstanceWriter, Instance, IStorage, OperationFailed, Status
from dicomnode.part10 import part10_header

#: Posts a DICOM file under a name; fires when it is there.
Post = Callable[[str, bytes], Deferred[None]]


@implementer(IStorage)
class Scouts:
    """Keeps what has at most so many octets.

    :param post: where it is kept.
    :param most: octets of a data set.
    """

    def __init__(self, post: Post, most: int) -> None:
        self.post = post
        self.most = most

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return succeed(ScoutWriter(self, instance))


@implementer(IInstanceWriter)
class ScoutWriter:
    """Collects an instance, as long as it is small."""

    def __init__(self, scouts: Scouts, instance: Instance) -> None:
        self._scouts = scouts
        self._instance = instance
        self._fragments: list[bytes | memoryview] = []
        self._octets = 0
        self._producer: IProducer | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.writeSequence([data])

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self._octets += sum(map(len, data))
        if self._octets <= self._scouts.most:
            self._fragments += data
        elif self._producer is not None:
            self._fragments.clear()
            self._producer.stopProducing()

    async def commit(self) -> None:
        if self._octets > self._scouts.most:
            raise OperationFailed(Status.OUT_OF_RESOURCES, "too large for a scout")
        file = part10_header(self._instance) + b"".join(self._fragments)
        await self._scouts.post(f"{self._instance.sop_instance_uid}.dcm", file)

    async def abort(self) -> None:
        self._fragments.clear()
