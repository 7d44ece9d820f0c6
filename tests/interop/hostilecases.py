"""What tests against hostile peers have in common: a server that is not harmed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from tests.interop import wire
from tests.interop.support import InteropTestCase, Storescp, eventually
from tests.interop.wire import (
    CT,
    CT_IMAGE_STORAGE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    PDU,
    VERIFICATION,
    Peer,
    a_abort,
)

#: By how much its memory may have grown in all, in octets: no PDU or data set of these tests fits in.
GROWTH = 24 << 20

#: How soon a peer is served that has nothing to do with the others, in seconds.
AT_ONCE = 1.0


def a_reject(result: int, source: int, reason: int) -> PDU:
    """Make the A-ASSOCIATE-RJ that is expected (PS3.8 Table 9-21)."""
    return PDU(wire.ASSOCIATE_RJ, bytes((0, result, source, reason)))


UNRECOGNIZED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_PARAMETER = (
    a_abort(2, reason) for reason in (1, 2, 5, 6)
)

#: A PDU header that claims 4 GiB.
ENORMOUS = 0xFFFFFFFF


class Unharmed(InteropTestCase):
    """A test after which the process must be as well as before."""

    start: Callable[[], Storescp]

    def setUp(self) -> None:
        self.node = type(self).start()
        self.memory_at_start = _memory.setdefault(self.node.process.pid, self.node.memory())

    def tearDown(self) -> None:
        began = time.monotonic()
        with self.peer() as peer:
            peer.associate(((1, VERIFICATION, (IMPLICIT_LE,)), (3, CT_IMAGE_STORAGE, (EXPLICIT_LE,))))
            self.assertEqual(peer.echo()[wire.STATUS], 0)
            self.assertEqual(peer.store("1.2.3.4", context=3)[wire.STATUS], 0)
            peer.release()
        self.assertLess(time.monotonic() - began, AT_ONCE)
        (self.node.directory / "CT.1.2.3.4").unlink()
        eventually("nothing is left", lambda: not self.node.files(), 2)
        self.assertLess(self.node.memory() - self.memory_at_start, GROWTH)
        self.assertCalm(self.node.stderr + self.node.stdout)

    def peer(self) -> Peer:
        return Peer(self.node.address)

    def associated(self, contexts: Sequence[wire.Proposal] = CT) -> Peer:
        peer = self.peer()
        self.addCleanup(peer.socket.close)
        peer.associate(contexts)
        return peer

    def assertAnswered(self, sent: bytes, answer: PDU) -> None:
        """What is sent on a fresh connection is answered by ``answer`` alone, and then by the close."""
        with self.peer() as peer:
            peer.send_anyway(sent)
            self.assertEqual(peer.read(), answer)
            peer.socket.shutdown(socket.SHUT_WR)
            self.assertIsNone(peer.read())

    def assertEnds(self, peer: Peer, *answers: PDU) -> None:
        """These PDUs come, and when we close, so does the other end."""
        for answer in answers:
            self.assertEqual(peer.read(), answer)
        peer.socket.shutdown(socket.SHUT_WR)
        self.assertIsNone(peer.read())

    def assertStatus(self, response: dict[int, int | str], status: int) -> None:
        self.assertEqual(f"{response[wire.STATUS]:04X}", f"{status:04X}", response)


_memory: dict[int, int] = {}
