"""One association, from the transport connection to its end, without I/O.

It drives the machine of PS3.8 9.2, reads PDUs, and reassembles DIMSE messages (PS3.7 6.3, PS3.8
Annex E): their command sets whole, their data sets not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from dicomnode.core import codec
from dicomnode.core.command import Command
from dicomnode.core.machine import ACTIONS, ARTIM_STATES, STEPS, TRANSITIONS, Effect, Event, Role, State
from dicomnode.core.negotiation import PresentationContext, agreed
from dicomnode.core.pdu import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    DATA_HEADER_SIZE,
    HEADER_SIZE,
    INVALID_PDU_PARAMETER_VALUE,
    P_DATA_TF,
    PDUS,
    PDV_HEADER_SIZE,
    RELEASE_RP,
    RELEASE_RQ,
    SERVICE_PROVIDER,
    SERVICE_USER,
    UNEXPECTED_PDU,
    UNEXPECTED_PDU_PARAMETER,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)
from dicomnode.core.stream import DataSetFragments as DataSetFragments
from dicomnode.core.stream import PDUBody, PDUHeader, PDUReader, PDVFragment
from dicomnode.errors import InvalidCommand, InvalidPDU, LocalProtocolError

# To look up a member of an enumeration takes longer than what is done with it.
_IDLE, _ASSOCIATED, _AWAITING_CLOSE = State.STA1, State.STA6, State.STA13

_EVENT_OF = {
    ASSOCIATE_RQ: Event.ASSOCIATE_RQ,
    ASSOCIATE_AC: Event.ASSOCIATE_AC,
    ASSOCIATE_RJ: Event.ASSOCIATE_RJ,
    P_DATA_TF: Event.P_DATA_TF,
    RELEASE_RQ: Event.RELEASE_RQ,
    RELEASE_RP: Event.RELEASE_RP,
    ABORT: Event.ABORT,
}

#: The actions that have these effects: ``effect & Effect.INDICATE`` costs what the whole of a step does.
_INDICATING = frozenset(action for action, (effect, _) in ACTIONS.items() if effect & Effect.INDICATE)
_ABORTING = frozenset(action for action, (effect, _) in ACTIONS.items() if effect & Effect.ABORT)
_P_ABORTING = frozenset(action for action, (effect, _) in ACTIONS.items() if effect & Effect.P_ABORT)

#: The PDUs that are indicated whole, and when.
_WELCOME = frozenset(
    (pdu_type, state)
    for (event, state), action in TRANSITIONS.items()
    for pdu_type in PDUS
    if _EVENT_OF[pdu_type] is event and action in _INDICATING
)

#: PDVs, and headers of PDUs, that indicate nothing: so many are looked at before that is said.
_SILENT = 64

#: What we send in one P-DATA-TF, in octets, when the peer sets no limit, or one that is higher: there is
#: nothing to be gained by more, and as much may be held until it is known whether it is the last.
_UNLIMITED = 1 << 18


@dataclass(frozen=True, slots=True)
class AssociateRequested:
    """A-ASSOCIATE indication: the peer asks for an association. Answer with accept or reject."""

    request: AssociateRQ


@dataclass(frozen=True, slots=True)
class AssociateRefused:
    """The service provider has refused the peer's request itself: there is nothing to answer.

    It does so for the one thing that PS3.8 9.3.4 lets it judge: a protocol version without bit 0.
    """

    request: AssociateRQ
    rejection: AssociateRJ


@dataclass(frozen=True, slots=True)
class AssociateConfirmed:
    """A-ASSOCIATE confirmation: the peer has answered."""

    answer: AssociateAC | AssociateRJ


@dataclass(slots=True)  # not frozen, as its fragments are not: see dicomnode.core.stream
class MessageReceived:
    """A command set is complete. If a data set follows, its fragments are the next indications."""

    context: PresentationContext
    command: Command
    has_data_set: bool


@dataclass(frozen=True, slots=True)
class MessageContinued:
    """So many PDVs have come that end nothing: nothing to act on, but what they cost is to be shared out."""

    pdvs: int


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """A-RELEASE indication: the peer has no more to ask. Answer with respond_release."""


@dataclass(frozen=True, slots=True)
class ReleaseConfirmed:
    """A-RELEASE confirmation: the association has ended in good order."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A-ABORT or A-P-ABORT indication: the association has ended (PS3.8 7.3, 7.4).

    It is indicated, too, when the transport connection is given up before there was one (AA-1).
    """

    source: int  #: 0 the peer's service user, 2 a service provider
    reason: int  #: significant when the source is the provider
    by_peer: bool  #: an A-ABORT was received; otherwise we sent one, or the transport went away
    why: str = ""  #: in words, when it was us who found fault


Indication: TypeAlias = (
    AssociateRequested
    | AssociateRefused
    | AssociateConfirmed
    | MessageReceived
    | MessageContinued
    | DataSetFragments
    | ReleaseRequested
    | ReleaseConfirmed
    | Aborted
)


class Association:
    """One association, driven by three: the local user's primitives, received octets, ARTIM.

    A primitive that the state forbids raises :class:`LocalProtocolError`. A PDU that it forbids
    does not: it ends in an A-ABORT to send and an :class:`Aborted` to be indicated.

    :param role: whether we ask for the association or are asked.
    :param max_length: the maximum length that we announce and hold the peer to, in octets; 0 is no limit.
    :param trace: is called with (state, event, action, next state) at each step of the machine.
    """

    def __init__(
        self,
        role: Role,
        *,
        max_length: int = 16382,
        trace: Callable[[State, Event, str, State], None] | None = None,
    ) -> None:
        self.role = role
        self.state = State.STA1
        self.max_length = max_length
        #: the presentation contexts agreed upon, by id
        self.contexts: dict[int, PresentationContext] = {}
        self.trace = trace
        self._steps = STEPS[role]
        self._reader = PDUReader(max_length)
        self._to_send: list[bytes] = []
        self._request: AssociateRQ | None = None
        self._fragment_limit = 0  # octets of a PDV's fragment that the peer accepts
        # The message being received: what has come of its command set, and on which context;
        # then the context on which its data set is to follow.
        self._command_set: bytearray | None = None
        self._command_set_context = 0
        self._data_set_context: int | None = None

    # What the shell compares with the world

    @property
    def artim_running(self) -> bool:
        """Is ARTIM to run? It does in Sta2 and Sta13."""
        return self.state in ARTIM_STATES

    @property
    def in_message(self) -> bool:
        """Has a message begun whose end has not come?"""
        return self._command_set is not None or self._data_set_context is not None

    @property
    def in_pdu(self) -> bool:
        """Has a PDU begun whose end has not come?"""
        return self._reader.in_pdu

    @property
    def begun(self) -> bool:
        """Has a message, or a PDU, begun whose end has not come?"""
        in_message = self._command_set is not None or self._data_set_context is not None
        return in_message or self._reader.in_pdu

    @property
    def fragment_limit(self) -> int:
        """The octets of a fragment that the peer accepts in one PDV, once there is an association."""
        return self._fragment_limit

    @property
    def waits_to_send(self) -> bool:
        """Is there anything that the transport is to write?"""
        return bool(self._to_send)

    def data_to_send(self) -> list[bytes]:
        """Return, and forget, what the transport is to write."""
        data, self._to_send = self._to_send, []
        return data

    # The transport

    def transport_opened(self) -> None:
        """The transport connection is there: indicated to an acceptor, confirmed to a requestor."""
        if self.role is Role.ACCEPTOR:
            self._step(Event.TRANSPORT_INDICATION)
        else:
            self._step(Event.TRANSPORT_OPENED)
            assert self._request is not None  # Sta4 is entered by request() alone
            self._to_send.append(self._request.encode())

    def transport_closed(self) -> Iterator[Indication]:
        """The transport connection is gone. Yields :class:`Aborted` if an association went with it."""
        if self.state is not _IDLE and self._step(Event.TRANSPORT_CLOSED) in _P_ABORTING:
            yield Aborted(SERVICE_PROVIDER, 0, by_peer=False, why="the transport connection was closed")

    def artim_expired(self) -> None:
        """ARTIM has expired: the transport connection is to be closed (AA-2)."""
        self._step(Event.ARTIM_EXPIRED)

    def receive(self, data: bytes | memoryview) -> Iterator[Indication]:
        """Yield what ``data`` indicates, each thing before the next octet is looked at.

        So accepting, aborting or releasing in answer to one governs how the next is read.
        """
        silent = 0
        for item in self._reader.feed(data):
            if self.state is _IDLE:
                return  # the connection is to be closed: what is behind has no one to go to
            indication: Indication | None
            if isinstance(item, DataSetFragments):
                if item.is_last:
                    self._data_set_context = None
                indication = item if item.data or item.is_last else MessageContinued(item.pdvs)
            elif isinstance(item, PDVFragment):
                indication = self._pdv_fragment(item)
            elif isinstance(item, PDUHeader):
                indication = self._pdu_header(item)
            elif isinstance(item, PDUBody):
                indication = self._pdu_body(item.pdu_type, item.data)
            else:
                indication = self._refuse(Event.INVALID_PDU, item.reason, str(item))
            if indication is not None:
                yield indication
            else:
                silent += 1
                if silent % _SILENT == 0:
                    yield MessageContinued(_SILENT)

    def receive_message(
        self, data: bytes
    ) -> tuple[MessageReceived, DataSetFragments | None, memoryview] | None:
        """Return the message with which ``data`` begins, and what there is of its data set; and the rest.

        That is what :meth:`receive` would have yielded, for a fraction of what that costs. Where it is
        anything but a message as messages come, None is returned, and nothing has been received.
        """
        if self.state is not _ASSOCIATED or not data or data[0] != P_DATA_TF:
            return None
        view = memoryview(data)
        context_id, behind = self._reader.find_command_set(view)
        context = self.contexts.get(context_id)
        if context is None or self._command_set is not None or behind - DATA_HEADER_SIZE > codec.LIMIT:
            return None
        try:
            command, has_data_set = codec.decode(view[DATA_HEADER_SIZE:behind])
        except InvalidCommand:
            return None
        fragments = None
        if has_data_set:
            self._data_set_context = self._reader.data_set_context = context.id
            taken = self._reader.take_data_set(view, behind)
            assert taken is not None
            behind, fragments = taken
            if fragments.is_last:
                self._data_set_context = None
        return MessageReceived(context, command, has_data_set), fragments, view[behind:]

    def receive_fragments(self, data: bytes) -> tuple[DataSetFragments, memoryview] | None:
        """Return what ``data`` holds of the data set that is awaited, and the rest; None: as above."""
        view = memoryview(data)
        taken = self._reader.take_data_set(view)
        if taken is None:
            return None
        behind, fragments = taken
        if fragments.is_last:
            self._data_set_context = None
        return fragments, view[behind:]

    def receive_pdu(self, data: bytes) -> tuple[Indication | None, memoryview] | None:
        """Return what the PDU with which ``data`` begins indicates, and the rest; None: as above.

        It is no P-DATA-TF, and what the state says of it is to indicate it.
        """
        view = memoryview(data)
        pdu_type, behind = self._reader.find_pdu(view)
        if (pdu_type, self.state) not in _WELCOME:
            return None
        return self._pdu_body(pdu_type, view[HEADER_SIZE:behind]), view[behind:]

    def _pdu_header(self, header: PDUHeader) -> Indication | None:
        """Judge a PDU by its type and the state, before its length is waited for."""
        event = _EVENT_OF[header.pdu_type]
        if TRANSITIONS[event, self.state] not in _INDICATING:
            name = event.name.replace("_", "-")
            return self._refuse(event, UNEXPECTED_PDU, f"{name} received in {self.state.name.title()}")
        if event is Event.P_DATA_TF:
            self._step(event)
        return None

    def _pdu_body(self, pdu_type: int, data: memoryview) -> Indication | None:
        try:
            pdu = PDUS[pdu_type].decode(data)
        except InvalidPDU as error:
            return self._refuse(Event.INVALID_PDU, error.reason, str(error))
        # The local user may have acted since the header was judged, but no primitive makes a PDU that
        # was welcome unwelcome: the table has it so.
        self._step(_EVENT_OF[pdu_type])
        if isinstance(pdu, AssociateRQ):
            self._request = pdu
            if pdu.protocol_version & 1:
                return AssociateRequested(pdu)
            # The other branch of AE-6: the same PDU, and the same final state, as Evt8's.
            self.reject(1, 2, 2)
            return AssociateRefused(pdu, AssociateRJ(1, 2, 2))
        if isinstance(pdu, AssociateAC):
            assert self._request is not None  # Sta5 is entered by request() alone
            self._agree(self._request, pdu, pdu.user_information.max_length)
            return AssociateConfirmed(pdu)
        if isinstance(pdu, AssociateRJ):
            return AssociateConfirmed(pdu)
        if isinstance(pdu, ReleaseRQ):
            return ReleaseRequested()
        if isinstance(pdu, ReleaseRP):
            return ReleaseConfirmed()
        return Aborted(pdu.source, pdu.reason, by_peer=True)

    def _pdv_fragment(self, fragment: PDVFragment) -> Indication | None:
        context = self.contexts.get(fragment.context_id)
        ends = fragment.is_last and fragment.ends_pdv
        if context is None:
            why = f"presentation context {fragment.context_id} was not accepted"
            return self._refuse(Event.INVALID_PDU, INVALID_PDU_PARAMETER_VALUE, why)
        if fragment.is_command:
            return self._command_fragment(context, fragment.data, ends)
        if self._data_set_context != context.id:
            why = "a data set fragment that no command set announced"
            return self._refuse(Event.INVALID_PDU, UNEXPECTED_PDU_PARAMETER, why)
        if ends:
            self._data_set_context = self._reader.data_set_context = None
        if ends or fragment.data:
            return DataSetFragments([fragment.data] if fragment.data else [], ends)
        return None

    def _command_fragment(
        self, context: PresentationContext, data: memoryview, ends: bool
    ) -> Indication | None:
        command_set = self._command_set
        if self._data_set_context is not None or (
            command_set is not None and self._command_set_context != context.id
        ):
            # A message's fragments come one after the other, on its own context (PS3.8 E.1).
            why = "a command set fragment inside another message"
            return self._refuse(Event.INVALID_PDU, UNEXPECTED_PDU_PARAMETER, why)
        if len(data) + len(command_set or b"") > codec.LIMIT:
            why = "a command set is longer than 64 KiB"
            return self._refuse(Event.INVALID_PDU, INVALID_PDU_PARAMETER_VALUE, why)
        if ends:
            self._command_set = None
            return self._command_set_complete(context, command_set + data if command_set else data)
        if command_set is None:
            self._command_set = bytearray(data)
            self._command_set_context = context.id
        else:
            command_set += data
        return None

    def _command_set_complete(
        self, context: PresentationContext, octets: memoryview | bytearray
    ) -> Indication | None:
        try:
            command, has_data_set = codec.decode(octets)
        except InvalidCommand as error:
            return self._refuse(Event.INVALID_PDU, INVALID_PDU_PARAMETER_VALUE, str(error))
        if has_data_set:
            self._data_set_context = self._reader.data_set_context = context.id
        return MessageReceived(context, command, has_data_set)

    def _refuse(self, event: Event, reason: int, why: str) -> Indication | None:
        """Play an event by which they broke the protocol."""
        before = self.state
        action = self._step(event, reason)
        if action in _P_ABORTING:
            return Aborted(SERVICE_PROVIDER, reason, by_peer=False, why=why)
        if action in _ABORTING and before is not _AWAITING_CLOSE:
            return Aborted(SERVICE_USER, 0, by_peer=False, why=why)
        return None

    # The local user

    def request(self, request: AssociateRQ) -> None:
        """A-ASSOCIATE request: open the transport connection, then tell :meth:`transport_opened`."""
        self._step(Event.ASSOCIATE_REQUEST)
        self._request = request

    def accept(self, answer: AssociateAC) -> None:
        """A-ASSOCIATE response: accepted."""
        octets = answer.encode()
        self._step(Event.ASSOCIATE_ACCEPT)
        assert self._request is not None  # Sta3 is entered with a request
        self._agree(self._request, answer, self._request.user_information.max_length)
        self._to_send.append(octets)

    def reject(self, result: int, source: int, reason: int) -> None:
        """A-ASSOCIATE response: rejected, with the codes of PS3.8 Table 9-21."""
        octets = AssociateRJ(result, source, reason).encode()
        self._step(Event.ASSOCIATE_REJECT)
        self._to_send.append(octets)

    def send_command(self, context_id: int, command: Command, has_data_set: bool = False) -> None:
        """P-DATA request: a command set, whole."""
        self._send(context_id, True, codec.encode(command, has_data_set), last=True)

    def send_data_set(self, context_id: int, fragment: bytes | memoryview, last: bool) -> None:
        """P-DATA request: a part of a data set. It is cut to the maximum that the peer accepts."""
        self._send(context_id, False, fragment, last)

    def request_release(self) -> None:
        """A-RELEASE request."""
        self._step(Event.RELEASE_REQUEST)
        self._to_send.append(ReleaseRQ().encode())

    def respond_release(self) -> None:
        """A-RELEASE response."""
        self._step(Event.RELEASE_RESPONSE)
        self._to_send.append(ReleaseRP().encode())

    def abort(self) -> None:
        """A-ABORT request."""
        self._step(Event.ABORT_REQUEST)

    # What they have in common

    def _agree(self, request: AssociateRQ, accept: AssociateAC, max_length: int | None) -> None:
        self.contexts = agreed(request, accept)
        self._request = None  # it may be long
        # The maximum length counts the PDV's header (PS3.8 D.1). One too small for any fragment is
        # overstepped by an octet, for else nothing could be answered. Fragments are even, as the values
        # of a data set are: some receivers insist on it.
        limit = min(max_length or _UNLIMITED, _UNLIMITED) - PDV_HEADER_SIZE
        self._fragment_limit = max(limit & ~1, 1)

    def _send(self, context_id: int, is_command: bool, data: bytes | memoryview, last: bool) -> None:
        if self.state is not _ASSOCIATED or self.trace is not None:
            self._step(Event.P_DATA_REQUEST)  # else DT-1, which leads nowhere
        limit = self._fragment_limit
        if len(data) <= limit:
            self._to_send.append(p_data_tf(context_id, is_command, last, data))
            return
        for start in range(0, len(data), limit):
            ends = last and start + limit >= len(data)
            self._to_send.append(p_data_tf(context_id, is_command, ends, data[start : start + limit]))

    def _step(self, event: Event, reason: int = 0) -> str:
        """Have an event happen, and return the action."""
        before = self.state
        try:
            action, _, following = self._steps[event, before]
        except KeyError:
            raise LocalProtocolError(f"{event.name} in {before.name.title()}") from None
        self.state = following
        if self.trace is not None:
            self.trace(before, event, action, following)
        # Of P-DATA-TF in Sta6 (DT-2) nobody needs to know, but who traces.
        self._reader.plain = following is _ASSOCIATED and self.trace is None
        if action in _ABORTING:
            abort = Abort() if action == "AA-1" else Abort(SERVICE_PROVIDER, reason)
            self._to_send.append(abort.encode())
        if following is _AWAITING_CLOSE:
            self._reader.skip()
            self._command_set = None
            self._data_set_context = self._reader.data_set_context = None
        return action
