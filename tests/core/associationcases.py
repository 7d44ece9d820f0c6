"""What the tests of associations without I/O share: two ends, back to back, and what is sent to them."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.association import (
    Aborted,
    AssociateRequested,
    Association,
    DataSetFragments,
    Indication,
    MessageContinued,
    MessageReceived,
    ReleaseRequested,
)
from dicomnode.core.codec import encode
from dicomnode.core.command import CEchoRQ, CEchoRSP, Command, CStoreRQ, CStoreRSP
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import ARTIM_STATES, Event, Role, State
from dicomnode.core.negotiation import answer
from dicomnode.core.pdu import (
    HEADER,
    PDV_HEADER,
    Abort,
    AssociateRJ,
    AssociateRQ,
    ProposedContext,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)

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
