"""Tests of :mod:`dicomnode.core.association`: one association without I/O, mostly two back to back."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from struct import error as StructError
from typing import Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.association import (
    Aborted,
    AssociateConfirmed,
    AssociateRefused,
    AssociateRequested,
    Association,
    DataSetFragments,
    Indication,
    MessageContinued,
    MessageReceived,
    ReleaseConfirmed,
    ReleaseRequested,
)
from dicomnode.core.codec import LIMIT, encode
from dicomnode.core.command import CEchoRQ, CEchoRSP, Command, CStoreRQ, CStoreRSP
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import ACTIONS, ARTIM_STATES, TRANSITIONS, Effect, Event, Role, State
from dicomnode.core.negotiation import answer
from dicomnode.core.pdu import (
    HEADER,
    INVALID_PDU_PARAMETER_VALUE,
    PDV_HEADER,
    UNEXPECTED_PDU,
    UNEXPECTED_PDU_PARAMETER,
    UNRECOGNIZED_PDU,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ProposedContext,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)
from dicomnode.errors import LocalProtocolError
from tests.core.helpers import arrivals, cut_at, octet_by_octet, stable

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT_VR_LE = "1.2.840.10008.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"

REQUEST = AssociateRQ(
    "CALLED",
    "CALLING",
    (
        ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,)),
        ProposedContext(3, CT_IMAGE_STORAGE, (IMPLICIT_VR_LE, EXPLICIT_VR_LE)),
        ProposedContext(5, MR_IMAGE_STORAGE, (IMPLICIT_VR_LE,)),
    ),
    UserInformation(max_length=16382),
)
OFFERED = {VERIFICATION: (IMPLICIT_VR_LE,), CT_IMAGE_STORAGE: (EXPLICIT_VR_LE,)}
ANSWER = answer(REQUEST, OFFERED, UserInformation(max_length=16382))
ECHO, CT, REFUSED, NEVER_PROPOSED = 1, 3, 5, 7

ECHO_RQ = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=1)
ECHO_RSP = CEchoRSP(message_id_being_responded_to=1, status=0)
STORE_RQ = CStoreRQ(affected_sop_class_uid=CT_IMAGE_STORAGE, message_id=2, affected_sop_instance_uid="1.2.3")
STORE_RSP = CStoreRSP(message_id_being_responded_to=2, status=0)

#: What was indicated, in a form that does not tell how it arrived.
Joined: TypeAlias = list[Indication | tuple[bytes, bool]]


def join(indications: Iterable[Indication]) -> Joined:
    """Join the fragments of each data set."""
    joined: Joined = []
    parts: list[memoryview] = []
    for indication in indications:
        if isinstance(indication, DataSetFragments):
            parts += indication.data
            if indication.is_last:
                joined.append((b"".join(parts), True))
                parts = []
        elif not isinstance(indication, MessageContinued):
            joined.append(indication)
    return [*joined, (b"".join(parts), False)] if any(parts) else joined


def said(indication: Indication) -> Indication:
    """Return an indication without the words meant for an operator."""
    return replace(indication, why="") if isinstance(indication, Aborted) else indication


def pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    """Return a PDV; bit 0 of ``control`` says command set, bit 1 last."""
    return PDV_HEADER.pack(len(fragment) + 2, context_id, control) + fragment


def pdu(pdu_type: int, body: bytes) -> bytes:
    return HEADER.pack(pdu_type, len(body)) + body


def message(context_id: int, command: Command, data_set: bytes | None = None) -> bytes:
    """Return a message, each half of it one PDU."""
    octets = p_data_tf(context_id, True, True, encode(command, data_set is not None))
    return octets if data_set is None else octets + p_data_tf(context_id, False, True, data_set)


class End:
    """One end of an association, and what happened at it."""

    #: is what comes taken at once, where it can be, and only the rest read thing by thing?
    at_once = False

    def __init__(self, role: Role, **options: Any) -> None:
        self.core = Association(role, **options)
        self.indicated: list[Indication] = []
        self.sent = b""
        #: what this end's user does when it is indicated something
        self.user: Callable[[Indication], None] = lambda indication: None

    @property
    def state(self) -> State:
        return self.core.state

    def receives(self, *reads: bytes) -> None:
        for data in reads:
            rest = self._taken(data) if self.at_once else data
            if not rest and data:
                continue  # as whoever takes it at once does
            for indication in self.core.receive(rest):
                self._happens(indication)

    def _taken(self, data: bytes) -> bytes | memoryview:
        message = self.core.receive_message(data)
        if message is not None:
            received, fragments, rest = message
            self._happens(received)
            if fragments is not None and (fragments.data or fragments.is_last):
                self._happens(fragments)
            return rest
        more = self.core.receive_fragments(data)
        if more is None:
            pdu = self.core.receive_pdu(data)
            if pdu is None:
                return data
            if pdu[0] is not None:
                self._happens(pdu[0])
            return pdu[1]
        if more[0].data or more[0].is_last:
            self._happens(more[0])
        return more[1]

    def _happens(self, indication: Indication) -> None:
        self.indicated.append(indication)
        self.user(indication)

    def collects(self) -> bytes:
        """Return what is to be sent now; ``sent`` remembers it."""
        data = b"".join(self.core.data_to_send())
        self.sent += data
        return data

    def forgets(self) -> End:
        """Forget what has happened so far."""
        self.collects()
        self.indicated, self.sent = [], b""
        return self


def obliging(end: End) -> Callable[[Indication], None]:
    """Return a user who accepts, answers and releases as soon as asked to."""

    def oblige(indication: Indication) -> None:
        core = end.core
        if isinstance(indication, AssociateRequested):
            core.accept(answer(indication.request, OFFERED, UserInformation(max_length=64)))
        elif isinstance(indication, MessageReceived) and indication.command == ECHO_RQ:
            core.send_command(indication.context.id, ECHO_RSP)
        elif isinstance(indication, DataSetFragments) and indication.is_last:
            core.send_command(CT, STORE_RSP)
        elif isinstance(indication, ReleaseRequested):
            core.respond_release()

    return oblige


def opened(role: Role, **options: Any) -> End:
    """Return an end whose transport connection is there: in Sta2 or Sta5."""
    end = End(role, **options)
    if role is Role.REQUESTOR:
        end.core.request(REQUEST)
    end.core.transport_opened()
    return end.forgets()


def established(role: Role, request: AssociateRQ = REQUEST, **options: Any) -> End:
    """Return an end of an established association: in Sta6."""
    end = opened(role, **options)
    if role is Role.REQUESTOR:
        end.receives(ANSWER.encode())
    else:
        end.receives(request.encode())
        end.core.accept(ANSWER)
    return end.forgets()


def reach(role: Role, state: State) -> End:
    """Return an end in a state, by the events that lead there."""
    if state is State.STA1:
        return End(role)
    if state is State.STA4:
        end = End(role)
        end.core.request(REQUEST)
        return end
    if state in (State.STA2, State.STA5):
        return opened(role)
    if state is State.STA3:
        end = opened(role)
        end.receives(REQUEST.encode())
        return end.forgets()
    end = established(role)
    if state in (State.STA7, State.STA9, State.STA10, State.STA11, State.STA12):
        end.core.request_release()
    if state in (State.STA8, State.STA9, State.STA10, State.STA11, State.STA12):
        end.receives(ReleaseRQ().encode())
    if state is State.STA11:
        end.core.respond_release()
    if state is State.STA12:
        end.receives(ReleaseRP().encode())
    if state is State.STA13:
        end.core.abort()
    assert end.state is state, f"{end.state.name}, not {state.name}"
    return end.forgets()


#: Every state that an end can be in.
REACHABLE = {
    Role.REQUESTOR: [State(number) for number in (1, 4, 5, 6, 7, 8, 9, 11, 13)],
    Role.ACCEPTOR: [State(number) for number in (1, 2, 3, 6, 7, 8, 10, 12, 13)],
}
PLACES = [(role, state) for role in Role for state in REACHABLE[role]]
#: Those in which octets can arrive.
CONNECTED = [place for place in PLACES if place[1] not in (State.STA1, State.STA4)]

#: A PDU for each event by which the peer drives the machine.
PDUS = {
    Event.ASSOCIATE_AC: ANSWER.encode(),
    Event.ASSOCIATE_RJ: AssociateRJ(1, 1, 7).encode(),
    Event.ASSOCIATE_RQ: REQUEST.encode(),
    Event.P_DATA_TF: message(ECHO, ECHO_RQ),
    Event.RELEASE_RQ: ReleaseRQ().encode(),
    Event.RELEASE_RP: ReleaseRP().encode(),
    Event.ABORT: Abort(2, 4).encode(),
    Event.INVALID_PDU: pdu(9, b"unknown"),
}

#: What each primitive of the local user does to the machine.
PRIMITIVES: dict[Event, Callable[[Association], object]] = {
    Event.ASSOCIATE_REQUEST: lambda core: core.request(REQUEST),
    Event.TRANSPORT_OPENED: lambda core: core.transport_opened(),
    Event.ASSOCIATE_ACCEPT: lambda core: core.accept(ANSWER),
    Event.ASSOCIATE_REJECT: lambda core: core.reject(1, 1, 1),
    Event.P_DATA_REQUEST: lambda core: core.send_command(ECHO, ECHO_RSP),
    Event.RELEASE_REQUEST: lambda core: core.request_release(),
    Event.RELEASE_RESPONSE: lambda core: core.respond_release(),
    Event.ABORT_REQUEST: lambda core: core.abort(),
    Event.ARTIM_EXPIRED: lambda core: core.artim_expired(),
}


def primitives(role: Role) -> Iterable[tuple[Event, Callable[[Association], object]]]:
    """Yield each event of the local side with what plays it: the transport opens for each role as its own."""
    for event, primitive in PRIMITIVES.items():
        if event is Event.TRANSPORT_OPENED and role is Role.ACCEPTOR:
            event = Event.TRANSPORT_INDICATION
        yield event, primitive


class AssociationTestCase(SynchronousTestCase):
    """Says what an association did."""

    def assertSent(self, end: End, *pdus: Any) -> None:
        """Assert that these PDUs, values or octets, are to be sent, and forget them."""
        octets = [item if isinstance(item, bytes) else item.encode() for item in pdus]
        self.assertEqual(b"".join(end.core.data_to_send()), b"".join(octets))

    def assertIndicated(self, end: End, *indications: Indication | tuple[bytes, bool]) -> None:
        """Assert that this was indicated, data sets joined, and forget it."""
        indicated, end.indicated = end.indicated, []
        self.assertEqual(join(map(said, indicated)), list(indications))

    def assertState(self, end: End, state: State) -> None:
        self.assertIs(end.state, state)
        self.assertEqual(end.core.artim_running, state in ARTIM_STATES)

    def assertBroken(self, end: End, reason: int) -> None:
        """Assert that the peer was found at fault: it is told, and so is the local user."""
        self.assertIndicated(end, Aborted(2, reason, by_peer=False))
        self.assertSent(end, Abort(2, reason))
        self.assertState(end, State.STA13)


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
