"""Peers that break the rules, by accident or not: the standard's answer, and no harm to anyone else.

All of them meet one process. After each it is asked whether it is well: its next association is served at
once, its memory is what it was, its directory holds no file, its log no traceback.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import ExitStack

from tests.interop import wire
from tests.interop.hostilecases import (
    AT_ONCE,
    ENORMOUS,
    INVALID_PARAMETER,
    UNEXPECTED_PARAMETER,
    UNEXPECTED_PDU,
    UNRECOGNIZED_PDU,
    Unharmed,
    a_reject,
)
from tests.interop.support import Storescp, eventually, kept_running
from tests.interop.wire import (
    ABORTED,
    CT,
    CT_IMAGE_STORAGE,
    DATA,
    EXPLICIT_LE,
    IMPLICIT_LE,
    LAST_COMMAND,
    LAST_DATA,
    VERIFICATION,
    Peer,
    data_set,
    p_data,
    pdu,
    pdv,
    store_rq,
)


class RequestTests(Unharmed):
    """Before there is an association."""

    start = kept_running(Storescp)

    def test_unknown_pdu(self) -> None:
        """A PDU of an unknown type is aborted."""
        self.assertAnswered(pdu(0x99, b"whatever"), ABORTED)

    def test_not_dicom(self) -> None:
        """Who speaks another protocol is aborted."""
        self.assertAnswered(b"GET / HTTP/1.1\r\nHost: example.invalid\r\n\r\n", ABORTED)
        self.assertAnswered(bytes.fromhex("16030100c8010000c40303") + bytes(200), ABORTED)

    def test_data_before(self) -> None:
        """P-DATA-TF without an association is aborted."""
        self.assertAnswered(p_data(pdv(1, LAST_COMMAND, wire.echo_rq())), ABORTED)

    def test_release_before(self) -> None:
        """A-RELEASE-RQ without an association is aborted."""
        self.assertAnswered(wire.release_rq(), ABORTED)

    def test_abort_before(self) -> None:
        """A-ABORT without an association closes the connection."""
        with self.peer() as peer:
            peer.send(wire.abort())
            self.assertIsNone(peer.read())

    def test_huge_request(self) -> None:
        """An A-ASSOCIATE-RQ of 10 MB is aborted; so is one that claims 4 GiB. Neither is kept."""
        self.assertAnswered(pdu(wire.ASSOCIATE_RQ, bytes(10 << 20)), ABORTED)
        self.assertAnswered(pdu(wire.ASSOCIATE_RQ, bytes(1 << 20), ENORMOUS), ABORTED)

    def test_many_contexts(self) -> None:
        """The longest request that makes sense is answered: 128 contexts of 40 transfer syntaxes."""
        syntaxes = [EXPLICIT_LE, *(f"1.2.840.10008.1.2.4.{number}" for number in range(200, 239))]
        contexts = [(number, CT_IMAGE_STORAGE, syntaxes) for number in range(1, 256, 2)]
        with self.peer() as peer:
            answer = peer.associate(contexts)
            self.assertEqual(list(answer.contexts), list(range(1, 256, 2)))
            peer.release()

    def test_context_ids(self) -> None:
        """An even, or a repeated, presentation context id is aborted."""
        for ids in ((2,), (0,), (1, 2), (1, 1), (1, 3, 1)):
            contexts = [(number, CT_IMAGE_STORAGE, (EXPLICIT_LE,)) for number in ids]
            self.assertAnswered(wire.associate_rq(contexts), ABORTED)

    def test_empty(self) -> None:
        """A PDU without its mandatory fields is aborted, whatever its type."""
        for kind in (*range(1, 5), 5, 6, 0):
            self.assertAnswered(pdu(kind, b""), ABORTED)

    def test_truncated_items(self) -> None:
        """An A-ASSOCIATE-RQ whose items reach past its end is aborted."""
        whole = wire.associate_rq()
        for end in (6 + 67, 6 + 70, 100, 120, len(whole) - 1):
            self.assertAnswered(pdu(wire.ASSOCIATE_RQ, whole[6:end]), ABORTED)

    def test_garbage(self) -> None:
        """An A-ASSOCIATE-RQ of garbage is answered, and no harm is done."""
        for octet in (0x00, 0x10, 0x20, 0x50, 0xFF):
            body = wire.associate_rq()[6:74] + bytes((octet,)) * 2000
            with self.peer() as peer:
                peer.send(pdu(wire.ASSOCIATE_RQ, body))
                answer = peer.read()
                assert answer is not None
                self.assertIn(answer.kind, (wire.ABORT, wire.ASSOCIATE_RJ, wire.ASSOCIATE_AC))

    def test_unknown_items(self) -> None:
        """Items that are not known are ignored (PS3.8 9.3.1)."""
        with self.peer() as peer:
            peer.associate(more=wire.item(0x5F, b"what is this"))
            self.assertStatus(peer.store("1.2.3.4"), 0)
            peer.release()
        (self.node.directory / "CT.1.2.3.4").unlink()

    def test_protocol_version(self) -> None:
        """Of the protocol version, bit 0 alone is judged (PS3.8 9.3.4)."""
        self.assertAnswered(wire.associate_rq(version=2), a_reject(1, 2, 2))
        with self.peer() as peer:
            peer.associate(version=3)
            peer.release()

    def test_application_context(self) -> None:
        """Another application context than DICOM's is refused."""
        self.assertAnswered(wire.associate_rq(application_context="1.2.3"), a_reject(1, 1, 2))

    def test_nothing_accepted(self) -> None:
        """An association of which no context is accepted is accepted all the same."""
        with self.peer() as peer:
            answer = peer.associate(
                [(1, "1.2.3.4", (EXPLICIT_LE,)), (3, CT_IMAGE_STORAGE, ("1.2.3", "1.2.4"))]
            )
            self.assertEqual(
                {number: result for number, (result, _) in answer.contexts.items()}, {1: 3, 3: 4}
            )
            peer.release()

    def test_titles(self) -> None:
        """Titles that are none, control characters among them, do no harm, and fake no line of the log."""
        for called, calling in (
            ("A\nI: Faked line", "\x1b[31mX\r\n"),
            ("\0" * 16, "\0" * 16),
            (" ", "A\\B"),
        ):
            with self.peer() as peer:
                peer.associate(called=called, calling=calling)
                self.assertStatus(peer.store("1.2.3.4"), 0)
                peer.send(pdu(0x99, b""))
                self.assertEqual(peer.read(), UNRECOGNIZED_PDU)
            (self.node.directory / "CT.1.2.3.4").unlink()
        self.assertNotIn("\nI: Faked", self.node.stderr)
        self.assertNotIn("\x1b", self.node.stderr)

    def test_in_one_write(self) -> None:
        """A whole association may be sent before the first answer is read."""
        with self.peer() as peer:
            peer.send(
                wire.associate_rq(((1, VERIFICATION, (IMPLICIT_LE,)),)),
                p_data(pdv(1, LAST_COMMAND, wire.echo_rq())),
                wire.release_rq(),
            )
            self.assertEqual(_kinds(peer, 3), [wire.ASSOCIATE_AC, wire.P_DATA_TF, wire.RELEASE_RP])

    def test_octet_by_octet(self) -> None:
        """A whole association may arrive octet by octet."""
        instance = "1.2.3.5"
        stream = b"".join(
            (
                wire.associate_rq(),
                p_data(pdv(1, LAST_COMMAND, store_rq(instance))),
                p_data(pdv(1, LAST_DATA, data_set(instance))),
                wire.release_rq(),
            )
        )
        with self.peer() as peer:
            for octet in stream:
                peer.send(bytes((octet,)))
            self.assertEqual(_kinds(peer, 3), [wire.ASSOCIATE_AC, wire.P_DATA_TF, wire.RELEASE_RP])
        path = self.node.directory / f"CT.{instance}"
        self.assertTrue(path.read_bytes().endswith(data_set(instance)))
        path.unlink()

    def test_connect_and_drop(self) -> None:
        """Those who connect and go leave nothing behind."""
        before = self.node.descriptors()
        for number in range(200):
            with self.peer() as peer:
                if number % 2:
                    # As a port scanner goes: with a reset.
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if number % 3:
                    peer.send(wire.associate_rq()[: number % 200])
        eventually("they are closed", lambda: self.node.descriptors() <= before + 1, 5)

    def test_stalled(self) -> None:
        """Fifty peers stalled inside a PDU keep no one else waiting."""
        with ExitStack() as stalled:
            for number in range(50):
                peer = stalled.enter_context(self.peer())
                if number % 2:
                    peer.send(wire.associate_rq()[:-1])
                else:
                    peer.associate()
                    peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")))[:-1])
            began = time.monotonic()
            with self.peer() as peer:
                peer.associate()
                self.assertStatus(peer.store("1.2.3.4"), 0)
                peer.release()
            self.assertLess(time.monotonic() - began, AT_ONCE)
            (self.node.directory / "CT.1.2.3.4").unlink()


def _kinds(peer: Peer, count: int) -> list[int | None]:
    return [answer and answer.kind for answer in (peer.read() for _ in range(count))]


class AssociationTests(Unharmed):
    """On an association."""

    start = RequestTests.start

    def test_unknown_pdu(self) -> None:
        """A PDU of an unknown type is aborted: unrecognized PDU."""
        peer = self.associated()
        peer.send(pdu(0x99, b"whatever"))
        self.assertEnds(peer, UNRECOGNIZED_PDU)

    def test_second_request(self) -> None:
        """A second A-ASSOCIATE-RQ is aborted: unexpected PDU."""
        peer = self.associated()
        peer.send(wire.associate_rq())
        self.assertEnds(peer, UNEXPECTED_PDU)

    def test_answers_that_nothing_asked_for(self) -> None:
        """A-ASSOCIATE-AC, A-ASSOCIATE-RJ and A-RELEASE-RP are aborted: unexpected PDU."""
        for sent in (pdu(2, wire.associate_rq()[6:]), pdu(3, bytes(4)), pdu(6, bytes(4))):
            peer = self.associated()
            peer.send(sent)
            self.assertEnds(peer, UNEXPECTED_PDU)

    def test_enormous(self) -> None:
        """A P-DATA-TF that claims 4 GiB is aborted at its header, and what follows is dropped."""
        peer = self.associated()
        peer.send(pdu(wire.P_DATA_TF, b"", ENORMOUS))
        self.assertEqual(peer.read(), INVALID_PARAMETER)
        peer.send_anyway(bytes(64 << 20))
        self.assertEnds(peer)

    def test_enormous_pdv(self) -> None:
        """A PDV that claims more than its PDU is aborted."""
        for length in (ENORMOUS, 100, 1, 0):
            peer = self.associated()
            peer.send(p_data(struct.pack(">IBB", length, 1, LAST_COMMAND) + bytes(20)))
            self.assertEnds(peer, INVALID_PARAMETER)

    def test_longer_than_agreed(self) -> None:
        """A P-DATA-TF longer than the maximum length is aborted; one of just that length is not."""
        peer = self.associated(wire.ECHO)
        filler = pdv(1, wire.COMMAND, bytes(16382 - 6))
        peer.send(p_data(filler[:4] + filler[4:]), wire.abort())
        self.assertIsNone(peer.read())
        peer = self.associated(wire.ECHO)
        peer.send(p_data(pdv(1, wire.COMMAND, bytes(16383 - 6))))
        self.assertEnds(peer, INVALID_PARAMETER)

    def test_empty(self) -> None:
        """PDUs without their mandatory fields are aborted."""
        for kind in (wire.P_DATA_TF, wire.RELEASE_RQ, wire.ABORT):
            peer = self.associated()
            peer.send(pdu(kind, b""))
            self.assertEnds(peer, INVALID_PARAMETER)

    def test_empty_fragments(self) -> None:
        """Fragments without an octet are harmless."""
        peer = self.associated()
        command, instance = store_rq("1.2.3.4"), data_set("1.2.3.4")
        peer.send(
            p_data(pdv(1, wire.COMMAND, b""), pdv(1, wire.COMMAND, command), pdv(1, LAST_COMMAND, b"")),
            *[p_data(pdv(1, DATA, b""))] * 100,
            p_data(pdv(1, DATA, instance)),
            p_data(pdv(1, LAST_DATA, b"")),
        )
        self.assertStatus(peer.response(), 0)
        path = self.node.directory / "CT.1.2.3.4"
        self.assertTrue(path.read_bytes().endswith(instance))
        path.unlink()
        peer.release()

    def test_everything_in_one_pdu(self) -> None:
        """A command set and several PDVs of its data set may come in one P-DATA-TF."""
        peer = self.associated()
        instance = data_set("1.2.3.4")
        peer.send(
            p_data(
                pdv(1, LAST_COMMAND, store_rq("1.2.3.4")),
                pdv(1, DATA, instance[:10]),
                pdv(1, DATA, instance[10:50]),
                pdv(1, LAST_DATA, instance[50:]),
            )
        )
        self.assertStatus(peer.response(), 0)
        path = self.node.directory / "CT.1.2.3.4"
        self.assertTrue(path.read_bytes().endswith(instance))
        path.unlink()
        peer.release()

    def test_refused_context(self) -> None:
        """A message on a context that was refused, or not proposed, is aborted."""
        for context in (3, 5, 2, 0, 255):
            peer = self.associated((*CT, (3, "1.2.3.4", (EXPLICIT_LE,))))
            peer.send(p_data(pdv(context, LAST_COMMAND, store_rq("1.2.3"))))
            peer.send_anyway(p_data(pdv(context, LAST_DATA, data_set("1.2.3"))))
            self.assertEnds(peer, INVALID_PARAMETER)

    def test_data_set_on_another_context(self) -> None:
        """A data set on another context than its command is aborted."""
        peer = self.associated((*CT, (3, CT_IMAGE_STORAGE, (IMPLICIT_LE,))))
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")), pdv(3, LAST_DATA, data_set("1.2.3"))))
        self.assertEnds(peer, UNEXPECTED_PARAMETER)

    def test_data_set_without_command(self) -> None:
        """A data set that no command announced is aborted."""
        peer = self.associated()
        peer.send(p_data(pdv(1, LAST_DATA, data_set("1.2.3"))))
        self.assertEnds(peer, UNEXPECTED_PARAMETER)

    def test_command_inside_data_set(self) -> None:
        """A command set in the middle of a data set is aborted, and the file is gone."""
        peer = self.associated()
        peer.send(
            p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")), pdv(1, DATA, data_set("1.2.3"))),
            p_data(pdv(1, LAST_COMMAND, store_rq("1.2.4"))),
        )
        self.assertEnds(peer, UNEXPECTED_PARAMETER)

    def test_long_command_set(self) -> None:
        """A command set that does not end is aborted."""
        peer = self.associated()
        peer.send_anyway(p_data(pdv(1, wire.COMMAND, bytes(16000))) * 100)
        self.assertEnds(peer, INVALID_PARAMETER)

    def test_garbage_command_sets(self) -> None:
        """A command set that cannot be read is aborted."""
        for octets in (b"", b"garbage", bytes(100), b"\xff" * 100, store_rq("1.2.3")[:40]):
            peer = self.associated()
            peer.send(p_data(pdv(1, LAST_COMMAND, octets)))
            self.assertEnds(peer, INVALID_PARAMETER)

    def test_response_to_nothing(self) -> None:
        """A response that answers nothing is aborted."""
        peer = self.associated(wire.ECHO)
        command = {wire.FIELD: 0x8030, wire.RESPONDED_TO: 1, wire.DATA_SET_TYPE: 0x0101, wire.STATUS: 0}
        peer.send(p_data(pdv(1, LAST_COMMAND, wire.command(command))))
        answer = peer.read()
        assert answer is not None
        self.assertEqual(answer.kind, wire.ABORT)
        self.assertEnds(peer)

    def test_cut_off(self) -> None:
        """Who goes away inside a data set leaves nothing behind, and an older copy as it was."""
        peer = self.associated()
        self.assertStatus(peer.store("1.2.3.9"), 0)
        path = self.node.directory / "CT.1.2.3.9"
        kept = path.read_bytes()
        again = data_set("1.2.3.9", pixels=b"new!" * 10000)
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3.9")), pdv(1, DATA, again[:5000])))
        eventually("it is being written", lambda: len(self.node.files()) == 2, 5)
        peer.socket.close()
        eventually("nothing else is left", lambda: self.node.files() == ["CT.1.2.3.9"], 5)
        self.assertEqual(path.read_bytes(), kept)
        path.unlink()

    def test_never_reads(self) -> None:
        """Who never reads its responses is read no further: they do not pile up."""
        peer = self.peer()
        self.addCleanup(peer.socket.close)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate(wire.ECHO)
        echoes = p_data(pdv(1, LAST_COMMAND, wire.echo_rq())) * 1000
        peer.socket.settimeout(0.5)
        sent = 0
        with self.assertRaises(TimeoutError):
            while sent < 64 << 20:
                peer.socket.sendall(echoes)
                sent += len(echoes)
        self.assertLess(sent, 32 << 20)

    def test_octets_of_one(self) -> None:
        """A data set in PDVs of one octet costs no more memory than another."""
        peer = self.associated()
        instance = data_set("1.2.3.4", pixels=bytes(20000))
        fragments = [pdv(1, DATA, instance[place : place + 1]) for place in range(len(instance) - 1)]
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3.4"))))
        for start in range(0, len(fragments), 2000):
            peer.send(p_data(*fragments[start : start + 2000]))
        peer.send(p_data(pdv(1, LAST_DATA, instance[-1:])))
        self.assertStatus(peer.response(), 0)
        path = self.node.directory / "CT.1.2.3.4"
        self.assertTrue(path.read_bytes().endswith(instance))
        path.unlink()
        peer.release()
