"""Tests of :mod:`dicomnode.core.association`: messages, as they are received and sent, and their limits."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from dicomnode.core.association import (
    Aborted,
    AssociateConfirmed,
    DataSetFragments,
    MessageReceived,
    ReleaseRequested,
)
from dicomnode.core.codec import LIMIT, encode
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import Event, Role, State
from dicomnode.core.pdu import (
    HEADER,
    INVALID_PDU_PARAMETER_VALUE,
    PDV_HEADER,
    UNEXPECTED_PDU,
    UNEXPECTED_PDU_PARAMETER,
    UNRECOGNIZED_PDU,
    Abort,
    AssociateAC,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)
from tests.core.associationcases import (
    ANSWER,
    CT,
    ECHO,
    ECHO_RQ,
    ECHO_RSP,
    NEVER_PROPOSED,
    REFUSED,
    REQUEST,
    STORE_RQ,
    AssociationTestCase,
    End,
    Joined,
    established,
    join,
    message,
    obliging,
    opened,
    pdu,
    pdv,
    reach,
)
from tests.core.helpers import arrivals, cut_at, octet_by_octet, stable


class LimitTests(AssociationTestCase):
    """A peer cannot make us keep what we did not ask for."""

    def held(self, end: End) -> int:
        """Return how many octets of what arrived are kept."""
        values = [*vars(end.core).values(), *vars(end.core._reader).values()]
        return sum(len(value) for value in values if isinstance(value, bytes | bytearray | memoryview))

    def test_huge_request(self) -> None:
        """An A-ASSOCIATE-RQ of 10 MB is refused at its header, and passes unkept."""
        end = opened(Role.ACCEPTOR)
        end.receives(HEADER.pack(1, 10_000_000))
        self.assertIndicated(end, Aborted(0, 0, by_peer=False))
        self.assertSent(end, Abort())
        for _ in range(10):
            end.receives(bytes(1_000_000))
            self.assertEqual(self.held(end), 0)
        self.assertFalse(end.core.in_pdu)

    def test_second_request(self) -> None:
        """A second A-ASSOCIATE-RQ is refused at its header."""
        end = established(Role.ACCEPTOR)
        end.receives(HEADER.pack(1, 1000) + bytes(500))
        self.assertBroken(end, UNEXPECTED_PDU)
        self.assertEqual(self.held(end), 0)

    def test_unknown_type_of_any_length(self) -> None:
        """A PDU of unknown type is answered at once, though it claims 4 GiB, and passes unkept."""
        end = established(Role.ACCEPTOR)
        end.receives(HEADER.pack(0x42, 0xFFFFFFFF))
        self.assertBroken(end, UNRECOGNIZED_PDU)
        end.receives(bytes(1_000_000))
        self.assertEqual(self.held(end), 0)
        self.assertIndicated(end)

    def test_longer_than_the_maximum(self) -> None:
        """A P-DATA-TF longer than we announced is refused at its header."""
        end = established(Role.ACCEPTOR, max_length=100)
        end.receives(HEADER.pack(4, 101))
        self.assertBroken(end, INVALID_PDU_PARAMETER_VALUE)

    def test_no_maximum(self) -> None:
        """Where we announced no limit, a P-DATA-TF may have any length, and costs nothing."""
        end = established(Role.ACCEPTOR, max_length=0)
        end.receives(message(CT, STORE_RQ, b"")[: -HEADER.size - PDV_HEADER.size])
        end.receives(HEADER.pack(4, 0xFFFFFFFF) + PDV_HEADER.pack(0xFFFFFFFB, CT, 2) + bytes(100))
        self.assertEqual(sum(len(part) for item in end.indicated[1:] for part in item.data), 100)
        self.assertEqual(self.held(end), 0)

    def test_longest_command_set(self) -> None:
        """A command set of 64 KiB is read."""
        end = established(Role.ACCEPTOR)
        command = encode(ECHO_RQ)
        filler = b"\0\0\xff\xff" + (LIMIT - len(command) - 8).to_bytes(4, "little")
        octets = command + filler + bytes(LIMIT - len(command) - 8)
        end.receives(*(p_data_tf(ECHO, True, False, octets[i : i + 4096]) for i in range(0, LIMIT, 4096)))
        end.receives(p_data_tf(ECHO, True, True, b""))
        self.assertIndicated(end, MessageReceived(end.core.contexts[ECHO], ECHO_RQ, False))

    def test_oversized_command_set(self) -> None:
        """A command set that grows beyond 64 KiB is refused, and what came of it let go."""
        end = established(Role.ACCEPTOR)
        fragment = p_data_tf(ECHO, True, False, bytes(4096))
        end.receives(*(fragment for _ in range(LIMIT // 4096)))
        self.assertIndicated(end)
        end.receives(p_data_tf(ECHO, True, False, b"\0"))
        self.assertBroken(end, INVALID_PDU_PARAMETER_VALUE)
        self.assertEqual(self.held(end), 0)

    def test_oversized_command_set_in_one_read(self) -> None:
        """A command set that comes whole is refused, too, when it has more than 64 KiB."""
        end = established(Role.ACCEPTOR, max_length=0)
        command = encode(ECHO_RQ)
        filler = b"\0\0\xff\xff" + (LIMIT - len(command) - 7).to_bytes(4, "little")
        end.receives(p_data_tf(ECHO, True, True, command + filler + bytes(LIMIT - len(command) - 7)))
        self.assertBroken(end, INVALID_PDU_PARAMETER_VALUE)

    def test_request_is_let_go(self) -> None:
        """Once answered, a request - it may be of 1 MiB - is not kept."""
        for end in (established(Role.ACCEPTOR), established(Role.REQUESTOR)):
            self.assertNotIn(REQUEST, vars(end.core).values())

    def test_flood_behind_an_abort(self) -> None:
        """In Sta13, an A-ASSOCIATE-RQ is answered (AA-7), and whatever else comes is not."""
        end = reach(Role.ACCEPTOR, State.STA13)
        end.receives((message(CT, STORE_RQ, b"data") + ReleaseRQ().encode()) * 100 + REQUEST.encode())
        self.assertSent(end, Abort(2, UNEXPECTED_PDU))
        self.assertIndicated(end)
        self.assertState(end, State.STA13)


class MessageTests(AssociationTestCase):
    """How messages are put together of PDVs (PS3.8 Annex E)."""

    def setUp(self) -> None:
        self.end = established(Role.ACCEPTOR)
        self.echo = MessageReceived(self.end.core.contexts[ECHO], ECHO_RQ, False)
        self.store = MessageReceived(self.end.core.contexts[CT], STORE_RQ, True)
        self.store_set = encode(STORE_RQ, True)

    def test_many_pdvs_in_one_pdu(self) -> None:
        """A P-DATA-TF may hold a command set and several fragments of its data set, and more."""
        fragments = pdv(CT, 0, b"da") + pdv(CT, 0, b"") + pdv(CT, 0, b"ta") + pdv(CT, 2, b" set")
        octets = pdu(4, pdv(CT, 3, self.store_set) + fragments + pdv(ECHO, 3, encode(ECHO_RQ)))
        for reads in arrivals(octets):
            self.end.receives(*reads)
            self.assertIndicated(self.end, self.store, (b"data set", True), self.echo)

    def test_fragments_cut_anywhere(self) -> None:
        """A command set and a data set may be cut into PDVs anywhere."""
        for cut in range(len(self.store_set) + 1):
            self.end.receives(
                p_data_tf(CT, True, False, self.store_set[:cut]),
                p_data_tf(CT, True, True, self.store_set[cut:]),
                p_data_tf(CT, False, False, self.store_set[:cut]),
                p_data_tf(CT, False, True, self.store_set[cut:]),
            )
            self.assertIndicated(self.end, self.store, (self.store_set, True))

    def test_empty_data_set(self) -> None:
        """A data set of no octets has an end all the same."""
        self.end.receives(message(CT, STORE_RQ, b""))
        self.assertIndicated(self.end, self.store, (b"", True))
        self.assertFalse(self.end.core.in_message)

    def test_empty_last_fragment(self) -> None:
        """The last fragment of a data set may be empty."""
        self.end.receives(p_data_tf(CT, True, True, self.store_set), p_data_tf(CT, False, False, b"data"))
        self.end.receives(p_data_tf(CT, False, True, b""))
        self.assertIndicated(self.end, self.store, (b"data", True))

    def test_empty_fragments_are_not_indicated(self) -> None:
        """A fragment of no octets, unless it is the last, tells the user nothing."""
        self.end.receives(p_data_tf(CT, True, True, self.store_set), p_data_tf(CT, False, False, b""))
        self.assertIndicated(self.end, self.store)
        self.assertTrue(self.end.core.in_message)
        traced = established(Role.ACCEPTOR, trace=lambda *step: None)
        traced.receives(p_data_tf(CT, True, True, self.store_set), p_data_tf(CT, False, False, b""))
        self.assertIndicated(traced, self.store)

    def test_in_message(self) -> None:
        """A message lasts from the first fragment of its command set to the last of its data set."""
        octets = message(CT, STORE_RQ, b"data")
        began = HEADER.size + PDV_HEADER.size
        for position, octet in enumerate(octet_by_octet(octets), start=1):
            self.end.receives(octet)
            self.assertEqual(self.end.core.in_message, began < position < len(octets), position)

    def test_fragments_are_slices(self) -> None:
        """A fragment is what the transport delivered, not a copy of it."""
        octets = message(CT, STORE_RQ, b"data set")
        self.end.receives(octets)
        fragments = self.end.indicated[-1]
        assert isinstance(fragments, DataSetFragments)
        self.assertEqual([fragment.obj is octets for fragment in fragments.data], [True])

    def test_context_refused(self) -> None:
        """A PDV on a context that was refused, or never proposed, breaks the protocol."""
        for context_id, control in product((REFUSED, NEVER_PROPOSED, 0, 2), (0, 1, 2, 3)):
            end = established(Role.ACCEPTOR)
            end.receives(pdu(4, pdv(context_id, control, b"data")))
            self.assertBroken(end, INVALID_PDU_PARAMETER_VALUE)

    def test_data_set_without_command(self) -> None:
        """A data set that no command set announced breaks the protocol."""
        for before in (b"", message(ECHO, ECHO_RQ), message(CT, STORE_RQ, b"data")):
            end = established(Role.ACCEPTOR)
            end.receives(before)
            end.indicated.clear()
            end.receives(p_data_tf(CT, False, True, b"data"))
            self.assertBroken(end, UNEXPECTED_PDU_PARAMETER)

    def test_data_set_inside_a_command(self) -> None:
        """A data set may not begin before its command set is complete."""
        self.end.receives(p_data_tf(CT, True, False, self.store_set), p_data_tf(CT, False, True, b"data"))
        self.assertBroken(self.end, UNEXPECTED_PDU_PARAMETER)

    def test_command_inside_a_data_set(self) -> None:
        """A command set may not begin before the data set in hand has ended, on whichever context."""
        for context_id in (ECHO, CT):
            for reads in arrivals(p_data_tf(context_id, True, True, encode(ECHO_RQ))):
                end = established(Role.ACCEPTOR)
                end.receives(message(CT, STORE_RQ, b"")[:-12], p_data_tf(CT, False, False, b"data"))
                end.indicated.clear()
                end.receives(*reads)
                self.assertBroken(end, UNEXPECTED_PDU_PARAMETER)

    def test_interleaved_commands(self) -> None:
        """The fragments of a command set stay on one context."""
        self.end.receives(p_data_tf(CT, True, False, self.store_set[:20]))
        self.end.receives(p_data_tf(ECHO, True, True, self.store_set[20:]))
        self.assertBroken(self.end, UNEXPECTED_PDU_PARAMETER)

    def test_interleaved_data_sets(self) -> None:
        """The data set of a message stays on the message's context."""
        for reads in arrivals(p_data_tf(ECHO, False, True, b"data")):
            end = established(Role.ACCEPTOR)
            end.receives(p_data_tf(CT, True, True, self.store_set))
            end.indicated.clear()
            end.receives(*reads)
            self.assertBroken(end, UNEXPECTED_PDU_PARAMETER)

    def test_undecodable_command_set(self) -> None:
        """A command set that cannot be read breaks the protocol."""
        for octets in (b"", bytes(20), self.store_set[:-1]):
            end = established(Role.ACCEPTOR)
            end.receives(p_data_tf(CT, True, True, octets))
            self.assertBroken(end, INVALID_PDU_PARAMETER_VALUE)

    def test_invalid_pdus(self) -> None:
        """A PDU that does not hold together breaks the protocol, and what follows it is not read."""
        for octets in (
            pdu(4, b""),
            pdu(4, pdv(CT, 3, self.store_set)[:-1]),
            pdu(5, b"too long"),
            pdu(7, b""),
        ):
            end = established(Role.ACCEPTOR)
            end.receives(octets + message(ECHO, ECHO_RQ))
            self.assertBroken(end, INVALID_PDU_PARAMETER_VALUE)

    def test_invalid_request(self) -> None:
        """An A-ASSOCIATE-RQ that cannot be read is answered by the A-ABORT of AA-1."""
        end = opened(Role.ACCEPTOR)
        end.receives(pdu(1, b"garbage"))
        self.assertIndicated(end, Aborted(0, 0, by_peer=False))
        self.assertSent(end, Abort(0, 0))

    def test_words(self) -> None:
        """An operator is told, in words, what the peer did wrong."""
        self.end.receives(AssociateAC("", "", ANSWER.contexts).encode())
        (aborted,) = self.end.indicated
        assert isinstance(aborted, Aborted)
        self.assertEqual(aborted.why, "ASSOCIATE-AC received in Sta6")


class SendingTests(AssociationTestCase):
    """What we send is no longer than the peer accepts."""

    def sent(self, max_length: int | None, data: bytes) -> list[bytes]:
        """Return the PDUs in which ``data`` goes to a peer that announced this maximum length."""
        request = replace(REQUEST, user_information=UserInformation(max_length=max_length))
        end = established(Role.ACCEPTOR, request)
        end.core.send_data_set(CT, data, last=True)
        return end.core.data_to_send()

    def test_cut(self) -> None:
        """A data set is cut to the peer's maximum, PDV header included (PS3.8 D.1)."""
        pdus = self.sent(10, b"0123456789")
        self.assertEqual([len(octets) - HEADER.size for octets in pdus], [10, 10, 8])
        self.assertEqual(
            pdus,
            [
                p_data_tf(CT, False, False, b"0123"),
                p_data_tf(CT, False, False, b"4567"),
                p_data_tf(CT, False, True, b"89"),
            ],
        )

    def test_exact(self) -> None:
        """A fragment of just the peer's maximum is sent whole, and is the last."""
        self.assertEqual(self.sent(10, b"0123"), [p_data_tf(CT, False, True, b"0123")])

    def test_no_maximum(self) -> None:
        """A peer that announces 0, or nothing, is sent no more than 256 KiB at a time."""
        for max_length in (0, None):
            pdus = self.sent(max_length, bytes(600_000))
            self.assertEqual([len(octets) - HEADER.size for octets in pdus[:2]], [1 << 18, 1 << 18])

    def test_high_maximum(self) -> None:
        """Nor is one that announces more than that."""
        pdus = self.sent(1 << 31, bytes(600_000))
        self.assertEqual([len(octets) - HEADER.size for octets in pdus[:2]], [1 << 18, 1 << 18])

    def test_odd_maximum(self) -> None:
        """A fragment that is not the last is even, for there are receivers that refuse an odd one."""
        pdus = self.sent(11, b"0123456789")
        self.assertEqual([len(octets) - HEADER.size for octets in pdus], [10, 10, 8])

    def test_tiny_maximum(self) -> None:
        """A maximum too small for any fragment is overstepped by one octet: else nothing could be said."""
        for max_length in (1, 6, 7):
            pdus = self.sent(max_length, b"012")
            self.assertEqual([len(octets) - HEADER.size for octets in pdus], [7, 7, 7])

    def test_nothing(self) -> None:
        """A data set of no octets is one empty, last fragment."""
        self.assertEqual(self.sent(16382, b""), [p_data_tf(CT, False, True, b"")])

    def test_not_last(self) -> None:
        """Only the end of the data set is marked as last."""
        end = established(Role.ACCEPTOR)
        end.core.send_data_set(CT, b"da", last=False)
        end.core.send_data_set(CT, b"ta", last=True)
        self.assertSent(end, p_data_tf(CT, False, False, b"da"), p_data_tf(CT, False, True, b"ta"))

    def test_responses_are_cut(self) -> None:
        """Command sets are cut, too, and put together at the other end."""
        request = replace(REQUEST, user_information=UserInformation(max_length=16))
        end = established(Role.ACCEPTOR, request)
        end.core.send_command(ECHO, ECHO_RSP)
        other = established(Role.REQUESTOR)
        other.receives(*end.core.data_to_send())
        self.assertIndicated(other, MessageReceived(other.core.contexts[ECHO], ECHO_RSP, False))

    def test_requestor_is_held_to_the_answer(self) -> None:
        """A requestor keeps to the maximum that the A-ASSOCIATE-AC announces."""
        end = opened(Role.REQUESTOR)
        end.receives(replace(ANSWER, user_information=UserInformation(max_length=8)).encode())
        end.core.send_data_set(CT, b"data", last=True)
        self.assertSent(end, p_data_tf(CT, False, False, b"da"), p_data_tf(CT, False, True, b"ta"))


class TraceTests(AssociationTestCase):
    """Each step of the machine can be watched."""

    def test_trace(self) -> None:
        """The trace is told of state, event, action and next state, at each step."""
        steps: list[tuple[State, Event, str, State]] = []
        end = opened(Role.ACCEPTOR, trace=lambda *step: steps.append(step))
        end.user = obliging(end)
        end.receives(REQUEST.encode() + message(ECHO, ECHO_RQ) + ReleaseRQ().encode())
        self.assertEqual(
            [(before.value, event.value, action, after.value) for before, event, action, after in steps],
            [
                (1, 5, "AE-5", 2),
                (2, 6, "AE-6", 3),
                (3, 7, "AE-7", 6),
                (6, 10, "DT-2", 6),
                (6, 9, "DT-1", 6),
                (6, 12, "AR-2", 8),
                (8, 14, "AR-4", 13),
            ],
        )

    def test_trace_of_the_other_branch(self) -> None:
        """AE-6's other branch is seen as Evt6, then Evt8: the PDU and the final state are the same."""
        steps: list[str] = []
        end = opened(Role.ACCEPTOR, trace=lambda before, event, action, after: steps.append(action))
        end.receives(replace(REQUEST, protocol_version=0).encode())
        self.assertEqual(steps, ["AE-5", "AE-6", "AE-8"])


class ArrivalTests(AssociationTestCase):
    """The result does not depend on how the octets arrive."""

    #: What a requestor sends in the course of an association.
    SESSION = (
        REQUEST.encode()
        + message(ECHO, ECHO_RQ)
        + pdu(4, pdv(CT, 1, encode(STORE_RQ, True)[:30]) + pdv(CT, 3, encode(STORE_RQ, True)[30:]))
        + pdu(4, pdv(CT, 0, b"0123456789") + pdv(CT, 0, b"") + pdv(CT, 0, b"abc"))
        + pdu(4, pdv(CT, 2, b"xyz") + pdv(CT, 3, encode(STORE_RQ, True)) + pdv(CT, 2, b""))
        + ReleaseRQ().encode()
    )

    def acceptor(self, reads: Iterable[bytes]) -> tuple[Joined, bytes, State]:
        end = opened(Role.ACCEPTOR)
        end.user = obliging(end)
        end.receives(*reads)
        end.collects()
        return join(end.indicated), end.sent, end.state

    def requestor(self, reads: Iterable[bytes]) -> tuple[Joined, bytes, State]:
        end = opened(Role.REQUESTOR)
        end.user = lambda indication: (
            end.core.request_release() if isinstance(indication, AssociateConfirmed) else None
        )
        end.receives(*reads)
        end.collects()
        return join(end.indicated), end.sent, end.state

    def test_the_session(self) -> None:
        """The session that is cut below is what it is meant to be."""
        indicated, sent, state = self.acceptor([self.SESSION])
        kinds = [type(item).__name__ if isinstance(item, ReleaseRequested) else item for item in indicated]
        self.assertEqual(kinds[3], (b"0123456789abcxyz", True))
        self.assertEqual(kinds[5:], [(b"", True), "ReleaseRequested"])
        self.assertEqual(sent[-10:], ReleaseRP().encode())
        self.assertIs(state, State.STA13)

    def test_acceptor(self) -> None:
        """An acceptor does the same at every split of a session, and octet by octet."""
        whole = self.acceptor([self.SESSION])
        for reads in arrivals(self.SESSION):
            self.assertEqual(self.acceptor(reads), whole)

    def test_requestor(self) -> None:
        """A requestor does the same at every split of a session, and octet by octet."""
        _, session, _ = self.acceptor([self.SESSION])
        whole = self.requestor([session])
        self.assertEqual(whole[2], State.STA1)
        for reads in arrivals(session):
            self.assertEqual(self.requestor(reads), whole)

    def test_broken_session(self) -> None:
        """A breach of the protocol is found in the same place at every split."""
        broken = self.SESSION[:-10] + pdu(9, b"unknown") + self.SESSION
        whole = self.acceptor([broken])
        for reads in arrivals(broken):
            self.assertEqual(self.acceptor(reads), whole)

    @stable
    @given(st.lists(st.integers(1, len(SESSION)), max_size=60))
    def test_any_cuts(self, cuts: list[int]) -> None:
        """An acceptor does the same however a session is cut."""
        self.assertEqual(self.acceptor(cut_at(self.SESSION, cuts)), self.acceptor([self.SESSION]))

    @stable
    @given(st.integers(0, len(SESSION) - 1), st.binary(min_size=1, max_size=8), st.booleans())
    def test_any_damage(self, position: int, damage: bytes, slowly: bool) -> None:
        """Whatever a peer sends, nothing escapes but indications, and how it arrives does not matter."""
        octets = self.SESSION[:position] + damage + self.SESSION[position + len(damage) :]
        reads = octet_by_octet(octets) if slowly else cut_at(octets, [position])
        self.assertEqual(self.acceptor(reads), self.acceptor([octets]))
