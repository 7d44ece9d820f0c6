"""Messages that are no messages, or too much of one; and peers that fall silent."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack

from tests.interop import wire
from tests.interop.hostilecases import AT_ONCE, UNRECOGNIZED_PDU, Unharmed
from tests.interop.support import Storescp, eventually, kept_running
from tests.interop.wire import (
    CT,
    CT_IMAGE_STORAGE,
    DATA,
    DEFLATED_LE,
    IMPLICIT_LE,
    LAST_COMMAND,
    LAST_DATA,
    PDU,
    VERIFICATION,
    Peer,
    a_abort,
    data_set,
    p_data,
    pdu,
    pdv,
    store_rq,
)


class OperationTests(Unharmed):
    """Operations that fail, each of which leaves its association as it was."""

    start = kept_running(Storescp)

    def assertRefused(
        self,
        status: int,
        command: bytes,
        data: bytes | None = None,
        contexts: Sequence[wire.Proposal] = CT,
    ) -> None:
        """An operation is answered with a status, and another one is performed after it."""
        peer = self.associated((*contexts, (9, VERIFICATION, (IMPLICIT_LE,))))
        peer.send(p_data(pdv(1, LAST_COMMAND, command)))
        if data is not None:
            peer.send_data_set(data)
        response = peer.response()
        self.assertStatus(response, status)
        self.assertEqual(response[wire.RESPONDED_TO], 1)
        self.assertStatus(peer.echo(context=9), 0)
        peer.release()
        self.assertEqual(self.node.files(), [])

    def test_no_instance_uid(self) -> None:
        """A C-STORE without, or with an empty, SOP Instance UID is answered at once."""
        for instance in (None, ""):
            self.assertRefused(0x0106, store_rq(instance), data_set("1.2.3"))

    def test_not_a_uid(self) -> None:
        """A SOP Instance UID that is none never becomes a file name."""
        for instance in (
            "../../x",
            "/tmp/x",
            "..",
            ".",
            "1.2.3/../../x",
            "1.2\n3",
            "a" * 64,
            "1" * 65,
            "1.2\0x",
        ):
            self.assertRefused(0x0117, store_rq(instance), data_set(instance))

    def test_another_class(self) -> None:
        """A SOP Class that is not the presentation context's is refused."""
        mr = "1.2.840.10008.5.1.4.1.1.4"
        self.assertRefused(0x0122, store_rq("1.2.3", sop_class=mr), data_set("1.2.3", sop_class=mr))

    def test_no_data_set(self) -> None:
        """A C-STORE without a data set is refused."""
        self.assertRefused(0xC210, store_rq("1.2.3", data_set=False))

    def test_truncated(self) -> None:
        """A data set that is not whole is refused."""
        whole = data_set("1.2.3", pixels=bytes(40000))
        for end in (7, 20, 100, 30000, len(whole) - 1):
            self.assertRefused(0xC210, store_rq("1.2.3"), whole[:end])

    def test_garbage(self) -> None:
        """A data set of garbage is refused."""
        for octets in (b"", bytes(1000), b"\xff" * 1000, bytes(range(256)) * 100, b"DICM" * 100):
            self.assertRefused(0xC210, store_rq("1.2.3"), octets)

    def test_another_instance(self) -> None:
        """A data set that is another instance's is refused."""
        self.assertRefused(0xA900, store_rq("1.2.3"), data_set("1.2.4"))
        self.assertRefused(
            0xA900, store_rq("1.2.3"), data_set("1.2.3", sop_class="1.2.840.10008.5.1.4.1.1.4")
        )

    def test_corrupt_deflate(self) -> None:
        """A deflated data set that is not one is refused."""
        contexts = ((1, CT_IMAGE_STORAGE, (DEFLATED_LE,)),)
        deflated = _deflated(data_set("1.2.3"))
        for octets in (b"\xff" * 100, deflated[:-10], data_set("1.2.3")):
            self.assertRefused(0xC210, store_rq("1.2.3"), octets, contexts)

    def test_find_on_storage(self) -> None:
        """A C-FIND on a storage context is not recognized; its identifier is passed over."""
        command = {
            wire.SOP_CLASS: CT_IMAGE_STORAGE,
            wire.FIELD: wire.C_FIND_RQ,
            wire.MESSAGE_ID: 1,
            wire.PRIORITY: 0,
            wire.DATA_SET_TYPE: 1,
        }
        self.assertRefused(0x0211, wire.command(command), b"\x08\0\x52\0\x06\0\0\0STUDY ")

    def test_unknown_operation(self) -> None:
        """An operation that DICOM does not have is not recognized."""
        for field in (0x0077, 0x7FFF):
            command = {wire.FIELD: field, wire.MESSAGE_ID: 1, wire.DATA_SET_TYPE: 0x0101}
            self.assertRefused(0x0211, wire.command(command))

    def test_cancel_of_nothing(self) -> None:
        """A C-CANCEL of an operation that is not being performed is passed over (PS3.7 9.3.2.3)."""
        peer = self.associated(wire.ECHO)
        cancel = {wire.FIELD: 0x0FFF, wire.RESPONDED_TO: 7, wire.DATA_SET_TYPE: 0x0101}
        peer.send(p_data(pdv(1, LAST_COMMAND, wire.command(cancel))))
        self.assertStatus(peer.echo(), 0)
        peer.release()

    def test_operations_of_others(self) -> None:
        """C-STORE on the Verification context, and C-ECHO on a storage context, are not recognized."""
        self.assertRefused(0x0211, wire.echo_rq())
        self.assertRefused(0x0211, store_rq("1.2.3"), data_set("1.2.3"), wire.ECHO)

    def test_bomb(self) -> None:
        """What inflates a thousandfold costs no memory, and keeps no one waiting."""
        bomb = _deflated(data_set("1.2.3.4", pixels=bytes(256 << 20)))
        self.assertLess(len(bomb), 1 << 20)
        storing = self.associated(((1, CT_IMAGE_STORAGE, (DEFLATED_LE,)),))
        other = self.associated(wire.ECHO)
        storing.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3.4"))))
        slowest = 0.0
        for start in range(0, len(bomb), 16000):
            control = DATA if start + 16000 < len(bomb) else LAST_DATA
            storing.send(p_data(pdv(1, control, bomb[start : start + 16000])))
            began = time.monotonic()
            self.assertStatus(other.echo(), 0)
            slowest = max(slowest, time.monotonic() - began)
        self.assertLess(slowest, AT_ONCE)
        self.assertStatus(storing.response(), 0)
        storing.release()
        path = self.node.directory / "CT.1.2.3.4"
        self.assertTrue(path.read_bytes().endswith(bomb))
        path.unlink()

    def test_bombs(self) -> None:
        """Ten peers with such do not have all the threads: an instance beside them is kept at once."""
        bomb = _deflated(data_set("1.2.3.4", pixels=bytes(256 << 20)))
        bombers = []
        for number in range(10):
            bomber = self.associated(((1, CT_IMAGE_STORAGE, (DEFLATED_LE,)),))
            bomber.send(p_data(pdv(1, LAST_COMMAND, store_rq(f"1.2.3.4.{number}"))))
            for start in range(0, len(bomb), 16000):
                control = DATA if start + 16000 < len(bomb) else LAST_DATA
                bomber.send(p_data(pdv(1, control, bomb[start : start + 16000])))
            bombers.append(bomber)
        other = self.associated()
        began = time.monotonic()
        self.assertStatus(other.store("1.2.3"), 0)
        self.assertLess(time.monotonic() - began, AT_ONCE)
        for bomber in bombers:
            self.assertStatus(bomber.response(), 0xA900)  # each is another instance
            bomber.release()
        other.release()
        (self.node.directory / "CT.1.2.3").unlink()


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


class SilenceTests(Unharmed):
    """Peers that say nothing, before a process that waits for a second."""

    start = kept_running(lambda: Storescp("-ta", "1", "-td", "1", "-tn", "1"))

    def assertEndedWithin(self, peer: Peer, *answers: PDU) -> None:
        """After a second, and soon after it, these PDUs come and the connection is closed."""
        began = time.monotonic()
        self.assertEqual(peer.rest(), list(answers))
        taken = time.monotonic() - began
        self.assertGreater(taken, 0.8)
        self.assertLess(taken, 4)

    def test_connected(self) -> None:
        """A connection on which nothing comes is closed (ARTIM)."""
        with self.peer() as peer:
            self.assertEndedWithin(peer)

    def test_half_a_request(self) -> None:
        """Half an A-ASSOCIATE-RQ keeps a connection no longer, nor does one that comes drop by drop."""
        with self.peer() as peer, self.peer() as dripping:
            request = wire.associate_rq()
            peer.send(request[:-1])
            began = time.monotonic()
            with self.assertRaises(OSError):
                for octet in request * 10:
                    dripping.send(bytes((octet,)))
                    time.sleep(0.02)
                    self.assertLess(time.monotonic() - began, 4)
            self.assertEqual(peer.rest(), [])

    def test_half_a_pdu(self) -> None:
        """Half a P-DATA-TF ends in an A-ABORT."""
        for sent in (
            p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")))[:5],
            p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")))[:-1],
        ):
            peer = self.associated()
            peer.send(sent)
            self.assertEndedWithin(peer, a_abort(0, 0))

    def test_half_a_data_set(self) -> None:
        """Half a data set ends in an A-ABORT, and its file is gone."""
        peer = self.associated()
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")), pdv(1, DATA, data_set("1.2.3"))))
        eventually("it is being written", self.node.files, 1)
        self.assertEndedWithin(peer, a_abort(0, 0))

    def test_idle(self) -> None:
        """An association on which nothing happens ends in an A-ABORT."""
        peer = self.associated()
        self.assertEndedWithin(peer, a_abort(0, 0))

    def test_does_not_close(self) -> None:
        """Who does not close after an A-ABORT or an A-RELEASE-RP is closed (ARTIM)."""
        peer = self.associated()
        peer.send(pdu(0x99, b""))
        self.assertEndedWithin(peer, UNRECOGNIZED_PDU)
        peer = self.associated()
        peer.release()
        self.assertEndedWithin(peer)

    def test_many(self) -> None:
        """Fifty silent peers, associated or not, are all gone after a second."""
        with ExitStack() as silent:
            peers = [silent.enter_context(self.peer()) for _ in range(50)]
            for peer in peers[::2]:
                peer.send(wire.associate_rq()[:100])
            for peer in peers:
                self.assertEqual(peer.rest(), [])
