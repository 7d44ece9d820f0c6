"""Tests of :mod:`dicomnode.core.association`: one association without I/O, mostly two back to back."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from struct import error as StructError
from typing import Any

from dicomnode.core.association import (
    Aborted,
    AssociateConfirmed,
    AssociateRefused,
    AssociateRequested,
    Indication,
    MessageReceived,
    ReleaseConfirmed,
    ReleaseRequested,
)
from dicomnode.core.codec import encode
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import ACTIONS, TRANSITIONS, Effect, Event, Role, State
from dicomnode.core.negotiation import answer
from dicomnode.core.pdu import (
    HEADER,
    UNEXPECTED_PDU,
    UNRECOGNIZED_PDU,
    Abort,
    AssociateRJ,
    AssociateRQ,
    ReleaseRP,
    ReleaseRQ,
)
from dicomnode.errors import LocalProtocolError
from tests.core.associationcases import (
    ANSWER,
    CONNECTED,
    CT,
    ECHO,
    ECHO_RQ,
    ECHO_RSP,
    OFFERED,
    PDUS,
    PLACES,
    PRIMITIVES,
    REQUEST,
    STORE_RQ,
    AssociationTestCase,
    End,
    established,
    message,
    obliging,
    opened,
    pdu,
    pdv,
    primitives,
    reach,
    said,
)
from tests.core.helpers import arrivals, octet_by_octet


class PairTests(AssociationTestCase):
    """A requestor and an acceptor, back to back."""

    def setUp(self) -> None:
        self.requestor = End(Role.REQUESTOR)
        self.acceptor = End(Role.ACCEPTOR)

    def exchange(self) -> None:
        """Carry octets to and fro until both ends are silent."""
        while self.carry(self.requestor, self.acceptor) | self.carry(self.acceptor, self.requestor):
            pass

    def carry(self, source: End, destination: End) -> bool:
        data = source.collects()
        destination.receives(data)
        return bool(data)

    def associate(self, request: AssociateRQ = REQUEST) -> None:
        """Go as far as the acceptor's user being asked."""
        self.acceptor.core.transport_opened()
        self.requestor.core.request(request)
        self.requestor.core.transport_opened()
        self.exchange()

    def establish(self) -> None:
        self.associate()
        self.acceptor.core.accept(ANSWER)
        self.exchange()
        self.requestor.indicated.clear()
        self.acceptor.indicated.clear()

    def assertStates(self, requestor: State, acceptor: State) -> None:
        self.assertState(self.requestor, requestor)
        self.assertState(self.acceptor, acceptor)

    def test_accept(self) -> None:
        """An association that is accepted is established at both ends, with the same contexts."""
        self.associate()
        self.assertIndicated(self.acceptor, AssociateRequested(REQUEST))
        self.acceptor.core.accept(ANSWER)
        self.exchange()
        self.assertIndicated(self.requestor, AssociateConfirmed(ANSWER))
        self.assertStates(State.STA6, State.STA6)
        self.assertEqual(self.requestor.core.contexts, self.acceptor.core.contexts)
        self.assertEqual([*self.acceptor.core.contexts], [ECHO, CT])

    def test_reject(self) -> None:
        """An association that is rejected ends, with its codes; the acceptor awaits the close."""
        self.associate()
        self.acceptor.core.reject(2, 3, 2)
        self.exchange()
        self.assertIndicated(self.requestor, AssociateConfirmed(AssociateRJ(2, 3, 2)))
        self.assertStates(State.STA1, State.STA13)

    def test_protocol_version_without_bit_0(self) -> None:
        """A protocol version without bit 0 is refused by the provider itself (AE-6)."""
        request = replace(REQUEST, protocol_version=2)
        self.associate(request)
        self.assertIndicated(self.acceptor, AssociateRefused(request, AssociateRJ(1, 2, 2)))
        self.assertIndicated(self.requestor, AssociateConfirmed(AssociateRJ(1, 2, 2)))
        self.assertStates(State.STA1, State.STA13)

    def test_protocol_version_with_more_bits(self) -> None:
        """Of a protocol version, bit 0 alone is tested (PS3.8 Table 9-11)."""
        request = replace(REQUEST, protocol_version=3)
        self.associate(request)
        self.assertIndicated(self.acceptor, AssociateRequested(request))
        self.assertStates(State.STA5, State.STA3)

    def test_titles_come_back(self) -> None:
        """An A-ASSOCIATE-AC sends back, unchanged, the 64 octets that Table 9-17 reserves."""
        echo = b" CALLED\0        CALLING         " + bytes(range(32))
        self.associate(replace(REQUEST, echo=echo))
        (requested,) = self.acceptor.indicated
        assert isinstance(requested, AssociateRequested)
        self.acceptor.core.accept(answer(requested.request, OFFERED, UserInformation()))
        self.assertEqual(b"".join(self.acceptor.core.data_to_send())[10:74], echo)

    def test_message(self) -> None:
        """A message without a data set is indicated once, on its context."""
        self.establish()
        self.requestor.core.send_command(ECHO, ECHO_RQ)
        self.exchange()
        context = self.requestor.core.contexts[ECHO]
        self.assertIndicated(self.acceptor, MessageReceived(context, ECHO_RQ, False))

    def test_message_with_data_set(self) -> None:
        """The fragments of a data set follow the command set that announced them."""
        self.establish()
        self.requestor.core.send_command(CT, STORE_RQ, has_data_set=True)
        self.requestor.core.send_data_set(CT, b"data ", last=False)
        self.requestor.core.send_data_set(CT, b"set", last=True)
        self.exchange()
        context = self.requestor.core.contexts[CT]
        self.assertIndicated(self.acceptor, MessageReceived(context, STORE_RQ, True), (b"data set", True))

    def test_messages_of_the_acceptor(self) -> None:
        """The acceptor may invoke as well: who asked for the association does not matter then."""
        self.establish()
        self.acceptor.core.send_command(ECHO, ECHO_RQ)
        self.exchange()
        context = self.requestor.core.contexts[ECHO]
        self.assertIndicated(self.requestor, MessageReceived(context, ECHO_RQ, False))

    def test_release(self) -> None:
        """A release that is answered leaves the requestor idle, the other awaiting the close."""
        self.establish()
        self.requestor.core.request_release()
        self.exchange()
        self.assertIndicated(self.acceptor, ReleaseRequested())
        self.assertStates(State.STA7, State.STA8)
        self.acceptor.core.respond_release()
        self.exchange()
        self.assertIndicated(self.requestor, ReleaseConfirmed())
        self.assertStates(State.STA1, State.STA13)

    def test_release_by_the_acceptor(self) -> None:
        """Either end may ask for the release."""
        self.establish()
        self.acceptor.core.request_release()
        self.exchange()
        self.requestor.core.respond_release()
        self.exchange()
        self.assertIndicated(self.acceptor, ReleaseConfirmed())
        self.assertStates(State.STA13, State.STA1)

    def test_release_awaits_responses(self) -> None:
        """What was asked before A-RELEASE-RQ may be answered behind it (AR-7, AR-6)."""
        self.establish()
        self.requestor.core.send_command(ECHO, ECHO_RQ)
        self.requestor.core.request_release()
        self.exchange()
        self.acceptor.core.send_command(ECHO, ECHO_RSP)
        self.exchange()
        context = self.requestor.core.contexts[ECHO]
        self.assertIndicated(self.requestor, MessageReceived(context, ECHO_RSP, False))
        self.assertStates(State.STA7, State.STA8)

    def collide(self) -> None:
        """Let the two A-RELEASE-RQs cross."""
        self.establish()
        self.requestor.core.request_release()
        self.acceptor.core.request_release()
        to_acceptor, to_requestor = self.requestor.collects(), self.acceptor.collects()
        self.acceptor.receives(to_acceptor)
        self.requestor.receives(to_requestor)

    def test_release_collision(self) -> None:
        """Of two releases that cross, the requestor answers first, then the acceptor (AR-8 to AR-10)."""
        self.collide()
        self.assertIndicated(self.requestor, ReleaseRequested())
        self.assertIndicated(self.acceptor, ReleaseRequested())
        self.assertStates(State.STA9, State.STA10)
        self.requestor.core.respond_release()
        self.exchange()
        self.assertIndicated(self.acceptor, ReleaseConfirmed())
        self.assertStates(State.STA11, State.STA12)
        self.acceptor.core.respond_release()
        self.exchange()
        self.assertIndicated(self.requestor, ReleaseConfirmed())
        self.assertStates(State.STA1, State.STA13)

    def test_release_collision_the_wrong_way(self) -> None:
        """In a collision the acceptor may not answer before the requestor has."""
        self.collide()
        self.assertRaises(LocalProtocolError, self.acceptor.core.respond_release)
        self.assertStates(State.STA9, State.STA10)

    def test_abort(self) -> None:
        """A-ABORT ends the association at both ends at once."""
        self.establish()
        self.requestor.core.abort()
        self.exchange()
        self.assertIndicated(self.acceptor, Aborted(0, 0, by_peer=True))
        self.assertStates(State.STA13, State.STA1)

    def test_aborts_cross(self) -> None:
        """Of two A-ABORTs that cross, each lets the other end close."""
        self.establish()
        self.requestor.core.abort()
        self.acceptor.core.abort()
        to_acceptor = self.requestor.collects()
        self.exchange()
        self.acceptor.receives(to_acceptor)
        self.assertIndicated(self.acceptor)
        self.assertStates(State.STA1, State.STA1)


class PDUEventTests(AssociationTestCase):
    """Table 9-10, driven by PDUs: what is sent, indicated, and which state follows."""

    def outcome(
        self, role: Role, state: State, event: Event
    ) -> tuple[list[Any], list[Indication | tuple[bytes, bool]], State]:
        """Return what the action of a cell sends and indicates, and the next state, in PS3.8's words."""
        reason = UNRECOGNIZED_PDU if event is Event.INVALID_PDU else UNEXPECTED_PDU
        context = established(role).core.contexts[ECHO]
        received = MessageReceived(context, ECHO_RQ, False)
        collision = State.STA9 if role is Role.REQUESTOR else State.STA10
        return {
            "AE-3": ([], [AssociateConfirmed(ANSWER)], State.STA6),
            "AE-4": ([], [AssociateConfirmed(AssociateRJ(1, 1, 7))], State.STA1),
            "AE-6": ([], [AssociateRequested(REQUEST)], State.STA3),
            "DT-2": ([], [received], State.STA6),
            "AR-2": ([], [ReleaseRequested()], State.STA8),
            "AR-3": ([], [ReleaseConfirmed()], State.STA1),
            "AR-6": ([], [received], State.STA7),
            "AR-8": ([], [ReleaseRequested()], collision),
            "AR-10": ([], [ReleaseConfirmed()], State.STA12),
            "AA-1": ([Abort(0, 0)], [Aborted(0, 0, by_peer=False)], State.STA13),
            "AA-2": ([], [], State.STA1),
            "AA-3": ([], [Aborted(2, 4, by_peer=True)], State.STA1),
            "AA-6": ([], [], State.STA13),
            "AA-7": ([Abort(2, reason)], [], State.STA13),
            "AA-8": ([Abort(2, reason)], [Aborted(2, reason, by_peer=False)], State.STA13),
        }[TRANSITIONS[event, state]]

    def drive(self, cut: Callable[[bytes], Iterable[bytes]]) -> None:
        for (role, state), event in product(CONNECTED, PDUS):
            with self.subTest(role=role.name, state=state.name, event=event.name):
                end = reach(role, state)
                end.receives(*cut(PDUS[event]))
                sent, indicated, following = self.outcome(role, state, event)
                self.assertSent(end, *sent)
                self.assertIndicated(end, *indicated)
                self.assertState(end, following)

    def test_whole(self) -> None:
        """Each PDU in each state does what the cell says."""
        self.drive(lambda octets: (octets,))

    def test_octet_by_octet(self) -> None:
        """Each PDU in each state does what the cell says, however slowly it arrives."""
        self.drive(octet_by_octet)

    def test_judged_at_the_header(self) -> None:
        """A PDU that its state forbids is answered before its body comes."""
        for (role, state), event in product(CONNECTED, PDUS):
            if ACTIONS[TRANSITIONS[event, state]][0] & Effect.INDICATE:
                continue
            with self.subTest(role=role.name, state=state.name, event=event.name):
                end = reach(role, state)
                end.receives(PDUS[event][: HEADER.size])
                sent, indicated, following = self.outcome(role, state, event)
                self.assertSent(end, *sent)
                self.assertIndicated(end, *indicated)
                self.assertState(end, following)

    def test_awaited_behind_the_header(self) -> None:
        """A PDU that its state allows is indicated when it is whole, not before."""
        for (role, state), event in product(CONNECTED, PDUS):
            if not ACTIONS[TRANSITIONS[event, state]][0] & Effect.INDICATE:
                continue
            with self.subTest(role=role.name, state=state.name, event=event.name):
                end = reach(role, state)
                end.receives(PDUS[event][:-1])
                self.assertIndicated(end)
                self.assertTrue(end.core.in_pdu)
                self.assertState(end, state)

    def test_what_comes_behind_an_end(self) -> None:
        """Behind what ends the association, nothing in the same read is indicated."""
        for (role, state), event in product(CONNECTED, PDUS):
            *_, following = self.outcome(role, state, event)
            if following not in (State.STA1, State.STA13):
                continue
            with self.subTest(role=role.name, state=state.name, event=event.name):
                end = reach(role, state)
                end.receives(PDUS[event])
                before = len(end.indicated)
                end.receives(PDUS[Event.P_DATA_TF] + PDUS[Event.RELEASE_RQ])
                self.assertEqual(len(end.indicated), before)
                self.assertState(end, following)

    def test_welcome_until_its_end(self) -> None:
        """A PDU that was welcome at its header still is when its body has come, whatever the user did.

        So the body need not be judged again.
        """
        for (event, state), action in TRANSITIONS.items():
            if event not in PDUS or not ACTIONS[action][0] & Effect.INDICATE:
                continue
            for primitive in PRIMITIVES:
                meanwhile = TRANSITIONS.get((primitive, state))
                following = ACTIONS[meanwhile][1] if meanwhile else state
                if following in (State.STA1, State.STA13):
                    continue  # the body is passed over
                with self.subTest(state=state.name, event=event.name, primitive=primitive.name):
                    self.assertTrue(ACTIONS[TRANSITIONS[event, following]][0] & Effect.INDICATE)


class LocalEventTests(AssociationTestCase):
    """Table 9-10, driven by the local user, the transport and ARTIM."""

    def test_forbidden(self) -> None:
        """A primitive that the state forbids is refused, and changes nothing."""
        for role, state in PLACES:
            for event, primitive in primitives(role):
                if (event, state) in TRANSITIONS:
                    continue
                with self.subTest(role=role.name, state=state.name, event=event.name):
                    end = reach(role, state)
                    self.assertRaises(LocalProtocolError, primitive, end.core)
                    self.assertSent(end)
                    self.assertState(end, state)

    def test_allowed(self) -> None:
        """A primitive that the state allows sends its PDU and leads to the cell's state."""
        sends = {
            "AE-2": REQUEST,
            "AE-7": ANSWER,
            "AE-8": AssociateRJ(1, 1, 1),
            "DT-1": message(ECHO, ECHO_RSP),
            "AR-1": ReleaseRQ(),
            "AR-4": ReleaseRP(),
            "AR-7": message(ECHO, ECHO_RSP),
            "AR-9": ReleaseRP(),
            "AA-1": Abort(0, 0),
        }
        for role, state in PLACES:
            for event, primitive in primitives(role):
                action = TRANSITIONS.get((event, state))
                if action is None:
                    continue
                with self.subTest(role=role.name, state=state.name, event=event.name):
                    end = reach(role, state)
                    primitive(end.core)
                    self.assertSent(end, *([sends[action]] if action in sends else []))
                    self.assertState(end, ACTIONS[action][1])

    def test_error_names_state_and_primitive(self) -> None:
        """The error says what was asked for, and in which state."""
        end = opened(Role.ACCEPTOR)
        error = self.assertRaises(LocalProtocolError, end.core.request_release)
        self.assertEqual(str(error), "RELEASE_REQUEST in Sta2")

    def test_a_primitive_that_cannot_be_encoded(self) -> None:
        """An answer that has no encoding is refused before it changes anything."""
        for primitive in (
            lambda core: core.reject(1, 1, 256),
            lambda core: core.accept(replace(ANSWER, application_context="1.2.\N{SNOWMAN}")),
        ):
            end = reach(Role.ACCEPTOR, State.STA3)
            self.assertRaises((StructError, UnicodeEncodeError), primitive, end.core)
            self.assertSent(end)
            self.assertState(end, State.STA3)

    def test_transport_closed(self) -> None:
        """The transport's end is indicated where an association goes with it, and leads to Sta1."""
        for role, state in PLACES:
            with self.subTest(role=role.name, state=state.name):
                end = reach(role, state)
                indicated = [*map(said, end.core.transport_closed())]
                quiet = state in (State.STA1, State.STA2, State.STA13)
                self.assertEqual(indicated, [] if quiet else [Aborted(2, 0, by_peer=False)])
                self.assertSent(end)
                self.assertState(end, State.STA1)

    def test_nothing_is_read_when_idle(self) -> None:
        """In Sta1, what arrives has no one to go to."""
        end = established(Role.ACCEPTOR)
        end.receives(Abort().encode() + message(ECHO, ECHO_RQ))
        end.receives(REQUEST.encode())
        self.assertIndicated(end, Aborted(0, 0, by_peer=True))
        self.assertSent(end)


class LazinessTests(AssociationTestCase):
    """What is done about an indication governs how the next octet is read."""

    def test_all_in_one_read(self) -> None:
        """An association that is accepted as it is indicated goes on within the same read."""
        end = opened(Role.ACCEPTOR)
        end.user = obliging(end)
        end.receives(REQUEST.encode() + message(ECHO, ECHO_RQ) + ReleaseRQ().encode())
        context = end.core.contexts[ECHO]
        self.assertIndicated(
            end, AssociateRequested(REQUEST), MessageReceived(context, ECHO_RQ, False), ReleaseRequested()
        )
        self.assertState(end, State.STA13)

    def test_not_accepted(self) -> None:
        """Without the acceptance, what comes behind an A-ASSOCIATE-RQ is out of place."""
        end = opened(Role.ACCEPTOR)
        end.receives(REQUEST.encode() + message(ECHO, ECHO_RQ))
        self.assertIndicated(end, AssociateRequested(REQUEST), Aborted(2, UNEXPECTED_PDU, by_peer=False))
        self.assertSent(end, Abort(2, UNEXPECTED_PDU))

    def test_abort_between_fragments(self) -> None:
        """An abort in answer to a message lets the rest of the read pass unseen."""
        end = established(Role.ACCEPTOR)
        end.user = lambda indication: end.core.abort()
        end.receives(message(CT, STORE_RQ, b"data set") + message(ECHO, ECHO_RQ))
        self.assertEqual(len(end.indicated), 1)
        self.assertSent(end, Abort())
        self.assertState(end, State.STA13)

    def test_abort_inside_a_pdu(self) -> None:
        """Behind an abort in the middle of a PDU, the peer's A-ABORT is still recognised."""
        octets = pdu(4, pdv(CT, 3, encode(STORE_RQ, True)) + pdv(CT, 0, b"01") + pdv(CT, 2, b"23"))
        for reads in arrivals(octets + Abort().encode()):
            end = established(Role.ACCEPTOR)
            end.user = lambda indication, end=end: end.core.abort()
            end.receives(*reads)
            self.assertEqual(len(end.indicated), 1)
            self.assertState(end, State.STA1)

    def test_release_inside_a_message(self) -> None:
        """A message that was on its way when we asked for release is received whole (AR-6)."""
        octets = message(CT, STORE_RQ, b"data set")
        end = established(Role.REQUESTOR)
        end.receives(octets[:-4])
        end.core.request_release()
        end.receives(octets[-4:])
        context = end.core.contexts[CT]
        self.assertIndicated(end, MessageReceived(context, STORE_RQ, True), (b"data set", True))
