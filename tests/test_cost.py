"""What is done for an instance, a PDU, an association: counted, for a clock would tell of the machine's mood.

The bounds are what was counted when they were written and a sixth more, for other versions of Python and
Twisted count a little differently. Who makes something cheaper lowers its bound; who has to raise one
says in the commit what it buys.
"""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, cast

from twisted.logger import Logger

from dicomnode.commits import Sync
from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import AssociateRQ, ProposedContext, ReleaseRP, ReleaseRQ
from dicomnode.filestore import FileStorage
from dicomnode.intake import TURN
from dicomnode.observers import LogObserver
from dicomnode.services import Storage, Verification
from dicomnode.testing import Pool, Transport
from dicomnode.uids import VERIFICATION
from tests.cases import CT, CT_IMAGE_STORAGE, ECHO, ShellTestCase, begun, data, echo_rq, message, store_rq

#: Octets of a data set in a P-DATA-TF, and of a read: those that are usual.
FRAGMENT = 16376
READ = 1 << 18

#: What a peer may well propose for each context.
SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50")


def calls(job: Callable[[], object]) -> int:
    """Return how many functions of Python a job calls; to resume a generator is a call, too."""
    counted = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        job()
    finally:
        sys.setprofile(before)
    return counted


def element(group: int, number: int, value: bytes) -> bytes:
    """Encode an element in Implicit VR Little Endian (PS3.5 7.1.3)."""
    return struct.pack("<HHI", group, number, len(value)) + value


def instance(uid: str, pixels: int) -> bytes:
    """Return a C-STORE of an instance with so many octets of pixel data, in PDUs of the usual size."""
    data_set = b"".join(
        (
            element(0x0008, 0x0016, CT_IMAGE_STORAGE.encode() + b"\0" * (len(CT_IMAGE_STORAGE) % 2)),
            element(0x0008, 0x0018, uid.encode() + b"\0" * (len(uid) % 2)),
            element(0x7FE0, 0x0010, bytes(pixels)),
        )
    )
    pdus = [begun(CT, store_rq(sop_instance_uid=uid))]
    for start in range(0, len(data_set), FRAGMENT):
        fragment = data_set[start : start + FRAGMENT]
        pdus.append(data(CT, fragment, last=start + FRAGMENT >= len(data_set)))
    return b"".join(pdus)


class CostCase(ShellTestCase):
    """An acceptor as the command makes it, but for its reactor and transport."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        log = LogObserver("error", log=Logger("test", observer=lambda event: None))  # type: ignore[arg-type]
        storage = FileStorage(
            self.directory,
            reactor=self.reactor,
            pool=cast(Any, Pool()),
            sync=Sync.NONE,
            reserve=1,
            observe=log,
        )
        self.accepts(Verification(), Storage(storage), observe=log)
        self.peer = self.associates()
        self.store("1.2.1", 100)  # what is done once has been done
        self.peer.transport.deliver(message(ECHO, echo_rq()))

    def store(self, uid: str, pixels: int) -> None:
        self.peer.transport.deliver(instance(uid, pixels), READ)
        self.assertIn(f"CT.{uid}", os.listdir(self.directory))
        self.peer.transport.taken()


class CallTests(CostCase):
    """How many functions are called."""

    def assertCalls(self, bound: int, job: Callable[[], object]) -> None:
        self.assertLessEqual(calls(job), bound)

    def test_echo(self) -> None:
        """A C-ECHO."""
        octets = message(ECHO, echo_rq())
        self.assertCalls(60, lambda: self.peer.transport.deliver(octets))

    def test_small_instance(self) -> None:
        """A C-STORE of an instance that one read brings, from the read to the file's name."""
        octets = instance("1.2.4", 4000)
        self.assertCalls(112, lambda: self.peer.transport.deliver(octets))

    def test_large_instance(self) -> None:
        """A PDU of a large instance: there are sixteen in a read."""
        few, many = instance("1.2.5", 160 * FRAGMENT), instance("1.2.6", 320 * FRAGMENT)
        beginning = calls(lambda: self.peer.transport.deliver(few, READ))
        self.assertCalls(beginning + 335, lambda: self.peer.transport.deliver(many, READ))

    def test_small_fragments(self) -> None:
        """A PDU of two octets."""
        self.peer.transport.deliver(begun(CT, store_rq()))
        fragments = data(CT, b"xx", last=False) * (TURN - 1)
        self.assertCalls(TURN // 10, lambda: self.peer.transport.deliver(fragments))
        self.peer.transport.deliver(data(CT, b""))

    def test_association(self) -> None:
        """An association with ten contexts and a C-ECHO, from the connection to its end."""
        contexts = tuple(
            ProposedContext(
                2 * number + 1, f"{CT_IMAGE_STORAGE}.{number}" if number else VERIFICATION, SYNTAXES
            )
            for number in range(10)
        )
        request = AssociateRQ("ANY-SCP", "PEER", contexts, UserInformation(max_length=16382)).encode()

        def associate() -> None:
            protocol = self.acceptor.buildProtocol(None)
            assert protocol is not None
            transport = Transport(protocol)
            transport.connect()
            for octets in (request, message(1, echo_rq()), ReleaseRQ().encode()):
                transport.deliver(octets)
            self.assertTrue(transport.taken().endswith(ReleaseRP().encode()))
            transport.lose()

        self.assertCalls(540, associate)
        self.assertCalls(302, associate)  # who proposes the same again


class CopyTests(CostCase):
    """How often octets are copied on their way."""

    def test_none(self) -> None:
        """What is written to the file is slices of what the transport delivered."""
        written: list[Any] = []
        writev = os.writev

        def remember(descriptor: int, buffers: Sequence[Any]) -> int:
            written.extend(buffers)
            return writev(descriptor, buffers)

        self.patch(os, "writev", remember)
        octets = instance("1.2.4", 64 * FRAGMENT)
        reads = [octets[start : start + READ] for start in range(0, len(octets), READ)]
        for read in reads:
            self.peer.transport.deliver(read)
        delivered = {id(read) for read in reads}
        slices = [view for view in written if isinstance(view, memoryview) and id(view.obj) in delivered]
        self.assertGreater(sum(map(len, slices)), 64 * FRAGMENT)
        self.assertLess(sum(map(len, written)) - sum(map(len, slices)), 1000)  # the preamble and File Meta


class MemoryTests(CostCase):
    """What an association that is idle keeps."""

    def test_attributes(self) -> None:
        """The attributes of its parts: as long as these are 29 at most, their names are kept once for all."""
        parts, seen = [cast(object, self.peer.association)], set[int]()
        octets = 0
        while parts:
            part = parts.pop()
            attributes = getattr(part, "__dict__", {})
            if id(part) in seen or not type(part).__module__.startswith("dicomnode") or part is self.acceptor:
                continue
            seen.add(id(part))
            self.assertLess(len(attributes), 30, type(part).__name__)
            octets += sys.getsizeof(part) + sys.getsizeof(attributes)
            parts += [part for part in attributes.values() if not isinstance(part, type)]
        self.assertLessEqual(octets, 6600)
