"""Fragments of a data set, and what they keep in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomnode.fragments import MANY, OVERHEAD, SMALL, SPARSE, compact, cost
from dicomnode.interfaces import IInstanceWriter, IOperation
from dicomnode.testing import MemoryStorage, MemoryWriter
from tests.cases import CT, Service, ShellTestCase, begun, data, store_rq


class CompactTests(SynchronousTestCase):
    """What is handed on in place of fragments."""

    def compacted(self, read: bytes, *sizes: int) -> list[memoryview]:
        fragments = []
        position = 0
        for size in sizes:
            fragments.append(memoryview(read)[position : position + size])
            position += size
        compacted = compact(fragments, position)
        self.assertEqual(b"".join(compacted), read[:position])
        if len(compacted) == len(fragments) > 1:
            self.assertIs(compacted, fragments)
        return compacted

    def test_small(self) -> None:
        """Many small fragments are one, since each costs more than its octets."""
        for number, octets, handed_on in ((MANY + 1, 1, 1), (MANY, 1, MANY), (MANY + 1, SMALL, MANY + 1)):
            read = bytes(range(256)) * (number * octets // 256 + 1)
            read = read[: number * octets]
            self.assertEqual(len(self.compacted(read, *[octets] * number)), handed_on)

    def test_sparse(self) -> None:
        """Of few octets of a long read nothing but themselves is kept."""
        read = bytes(range(256)) * 64
        few = len(read) // SPARSE
        for sizes, kept in (
            ((1,), 1),
            ((few - 2, 1), few - 1),
            ((few - 1, 1), len(read)),
            ((few,), len(read)),
        ):
            compacted = self.compacted(read, *sizes)
            self.assertEqual({len(cast(Any, fragment.obj)) for fragment in compacted}, {kept})

    def test_cost(self) -> None:
        """Each fragment costs something, an empty one, too."""
        self.assertEqual(cost([b"", memoryview(b"12345")]), 5 + 2 * OVERHEAD)


@implementer(IInstanceWriter)
class Keeping(MemoryWriter):
    """Keeps what it is given as it is, as one that waits for a disk does."""

    def __init__(self) -> None:
        super().__init__(MemoryStorage(), cast(Any, None))
        self.kept: list[list[bytes | memoryview]] = []

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self.kept.append(list(data))


class KeptTests(ShellTestCase):
    """What a writer that is slow keeps of the reads that came for it."""

    def test_one_octet_among_headers(self) -> None:
        """Of PDVs of one octet among empty ones it keeps these octets, whenever they are read."""
        writer = Keeping()
        ready: Deferred[None] = Deferred()

        async def keep(operation: IOperation) -> int:
            await ready
            await operation.deliver_data_set(writer)
            return 0

        self.accepts(Service(keep))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        read = data(CT, b"x", last=False) + data(CT, b"", last=False) * 100
        # Some transports deliver what they have though they are paused: TLS does.
        for _ in range(3):
            peer.association.dataReceived(read)
        ready.callback(None)
        peer.sends(read)
        self.assertEqual([b"".join(fragments) for fragments in writer.kept], [b"x"] * 4)
        for fragments in writer.kept:
            self.assertEqual([len(cast(Any, fragment).obj) for fragment in fragments], [1])
        peer.sends(data(CT, b"y"))
        self.assertEqual(peer.response.status, 0)
