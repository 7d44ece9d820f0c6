"""What we invoke: from the request that is sent to the last response to it (PS3.7 7.5, 9.3, 10.3).

The counterpart of :mod:`dicomnode.operation`. It stands between an association and whoever uses the
other end's services; which end asked for the association makes no difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dicomnode import events
from dicomnode.core.association import Association
from dicomnode.core.codec import encode
from dicomnode.core.command import (
    RESPONSE,
    CCancelRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    Command,
    Request,
    Response,
    Status,
    is_warning,
)
from dicomnode.core.machine import ANSWERING_STATES, State
from dicomnode.core.negotiation import PresentationContext
from dicomnode.errors import AssociationReleased, LocalProtocolError
from dicomnode.gate import Gate
from dicomnode.interfaces import IAssociation, OnResponse, Progress
from dicomnode.message import Message, Prepare
from dicomnode.sending import Sending

#: The longest data set of a response that is read, in octets: responses bring identifiers and lists of
#: attributes, and they are kept whole.
RESPONSE_LIMIT = 1 << 24

#: How many may be unanswered where there is no limit: so many Message IDs there are (PS3.7 E.1), but for 0.
UNLIMITED = 0xFFFF

#: Statuses of a response after which more come, and the requests that have such: Pending (PS3.4 Annex C).
PENDING = frozenset({Status.PENDING, Status.PENDING + 1})
_MAY_BE_PENDING = (CFindRQ, CGetRQ, CMoveRQ)


class Invocation:
    """An operation that is invoked, or waits for its turn to be.

    :param prepare: is called when its turn has come, and returns what is to be sent.
    """

    context: PresentationContext  # there are these two from when its turn has come
    request: Request

    def __init__(
        self,
        association: IAssociation,
        prepare: Prepare,
        on_response: OnResponse | None,
        progress: Progress | None,
        abandon: Callable[[Invocation], None],
    ) -> None:
        self.association = association
        self.prepare = prepare
        self.octets = 0  #: of the data set, that were sent
        self.octets_total: int | None = None  #: of the data set, where that is known beforehand
        self.has_data_set = False
        self.began = 0.0
        self.requested = False  #: is its command set sent?
        self.asked_for: frozenset[object] = frozenset()  #: what was being performed when it was asked for
        self.response: Deferred[Response] = Deferred(lambda _: abandon(self))
        self._on_response = on_response
        self._progress = progress

    def answer(self, response: Response, data_set: bytes) -> bool:
        """Take a response. Return whether it is the last."""
        if self._on_response is not None and not self.response.called:
            try:
                self._on_response(response, data_set)
            except Exception:
                self.fail(Failure())  # type: ignore[no-untyped-call]
        return response.status not in PENDING or not isinstance(self.request, _MAY_BE_PENDING)

    def sent(self, octets: int) -> None:
        """So much more of the data set is sent."""
        self.octets += octets
        if self._progress is not None:
            self._progress(self.octets, self.octets_total)

    def fail(self, reason: Failure | Exception) -> None:
        """There will be no response, or nobody to take it."""
        if not self.response.called:
            self.response.errback(reason)


class Host(Protocol):
    """What invocations need of their association."""

    def tell(self, event: events.Event) -> None: ...

    def unexpected(self, failure: Failure, doing: str) -> None: ...

    def pump(self) -> None:
        """Send what there is to be sent."""

    def give_up(self, why: str) -> None:
        """Abort the association."""

    def being_performed(self) -> frozenset[object]:
        """Return what the other end has invoked, and we have not answered."""

    def invocations_went_on(self) -> None:
        """One has ended, or its data set is out."""


class Invocations:
    """What is invoked on one association: one on its way out at a time, so many unanswered.

    :param window: how many may be unanswered at a time; 0 is no limit (PS3.7 D.3.3.3).
    """

    def __init__(
        self,
        association: IAssociation,
        host: Host,
        core: Association,
        gate: Gate,
        clock: IReactorTime,
        window: int = 1,
    ) -> None:
        self.window = window
        self._association = association
        self._host = host
        self._core = core
        self._gate = gate
        self._clock = clock
        self._waiting: deque[Invocation] = deque()
        self._preparing: Invocation | None = None  # whose turn it is
        self._unanswered: dict[int, Invocation] = {}  # by Message ID
        self._sending: Sending | None = None
        self._sending_for: Invocation | None = None
        self._behind: list[tuple[int, Command]] = []  # what is to be sent behind the data set
        self._early: tuple[Response, bytes] | None = None  # that all is well, before the data set is out
        #: of requests and responses, each of which starts anew the time for the next response
        self.progress = 0
        #: how many requests, and fragments of data sets, have been sent
        self.sent = 0
        self._message_id = 0
        self._going_on = False
        self._ended: Exception | None = None
        # The response whose data set is arriving
        self._response: Response | None = None
        self._data_set: list[bytes] = []
        self._left = 0

    @property
    def sending(self) -> bool:
        """Is a data set on its way out, or looked for? Then it is for us to go on."""
        return self._sending is not None or self._preparing is not None

    @property
    def awaiting(self) -> bool:
        """Is a response awaited?"""
        return bool(self._unanswered)

    @property
    def awaits_response(self) -> bool:
        """Is a response what comes next? Not before a data set is out; nor to a C-GET: its instances do."""
        return (
            self.awaiting
            and not self.sending
            and not any(isinstance(invocation.request, CGetRQ) for invocation in self._unanswered.values())
        )

    def asked_for(self, operation: object) -> bool:
        """Is a response awaited before what has been invoked since this is performed: for it, maybe?"""
        return not self.sending and any(
            operation in invocation.asked_for for invocation in (*self._unanswered.values(), *self._waiting)
        )

    @property
    def busy(self) -> bool:
        """Is there anything that has not come to its end?"""
        return bool(self._waiting or self._unanswered or self.sending)

    def invoke(
        self,
        prepare: Prepare,
        on_response: OnResponse | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Response]:
        """Invoke an operation when its turn comes. The Deferred fires with the last response."""
        if self._ended is not None:
            return fail(self._ended)
        invocation = Invocation(self._association, prepare, on_response, progress, self._abandon)
        invocation.asked_for = self._host.being_performed()
        self._waiting.append(invocation)
        self._go_on()
        return invocation.response

    def send(self, context_id: int, command: Command) -> None:
        """Send a command set without a data set: behind the data set that is being sent."""
        if self._sending is not None:
            self._behind.append((context_id, command))
        else:
            self._core.send_command(context_id, command)

    def _go_on(self) -> None:
        """Begin what may begin. Beginning may end it, and lead to more: that is seen to here, too."""
        if not self._going_on:
            self._going_on = True
            try:
                while self._waiting and not self.sending and self._may_begin:
                    self._prepare(self._waiting.popleft())
            finally:
                self._going_on = False
            self._host.invocations_went_on()

    @property
    def _may_begin(self) -> bool:
        return len(self._unanswered) < (self.window or UNLIMITED)

    def _prepare(self, invocation: Invocation) -> None:
        try:
            message = invocation.prepare(self._clock) if self._core.state is State.STA6 else None
        except Exception:
            invocation.fail(Failure())  # type: ignore[no-untyped-call]
            return
        if isinstance(message, Deferred):
            self._preparing = invocation
            of = (invocation,)
            message.addCallbacks(self._prepared, self._not_prepared, callbackArgs=of, errbackArgs=of)
        else:
            self._begin(message, invocation)

    def _prepared(self, message: Message, invocation: Invocation) -> None:
        if self._preparing is invocation:
            self._preparing = None
            self._begin(message, invocation)
            self._go_on()
        else:  # nobody waits for it any more
            message.let_go()

    def _not_prepared(self, failure: Failure, invocation: Invocation) -> None:
        if self._preparing is invocation:
            self._preparing = None
            invocation.fail(failure)
            self._go_on()

    def _begin(self, message: Message | None, invocation: Invocation) -> None:
        try:
            if message is None or self._core.state is not State.STA6:
                raise LocalProtocolError("there is no association, or not any more")
            request = replace(message.request, message_id=self._next_message_id())
            encode(request)  # what cannot be encoded is not begun
        except Exception:
            invocation.fail(Failure())  # type: ignore[no-untyped-call]
            if message is not None:
                message.let_go()
            return
        invocation.context, invocation.request = message.context, request
        invocation.began = self._clock.seconds()
        self._unanswered[request.message_id] = invocation
        if message.body is None:
            self._requested(invocation)
            return
        invocation.has_data_set = True
        total = message.body.length
        invocation.octets_total = total if isinstance(total, int) else None
        self._sending_for = invocation
        self._sending = Sending(
            self._core.fragment_limit,
            clock=self._clock,
            begin=lambda: self._requested(invocation),
            send=self._send,
            done=self._sent,
        )
        sending = self._sending
        self._gate.sends(sending)
        if self._sending is sending:
            sending.start(message.body)
        else:  # whoever was told that the gate is open has taken it back, or ended the association
            message.let_go()

    def _requested(self, invocation: Invocation) -> None:
        """Send the command set."""
        self._core.send_command(invocation.context.id, invocation.request, invocation.has_data_set)
        invocation.requested = True
        self.progress += 1
        self.sent += 1
        self._host.tell(events.InvocationStarted(self._association, invocation))

    def _next_message_id(self) -> int:
        while True:  # one is free, or it could not begin
            self._message_id = self._message_id % UNLIMITED + 1
            if self._message_id not in self._unanswered:
                return self._message_id

    # The data set of a request

    def _send(self, data: bytes | memoryview, last: bool) -> None:
        invocation = self._sending_for
        assert invocation is not None  # who is sent
        self._core.send_data_set(invocation.context.id, data, last)
        self.sent += 1
        try:
            invocation.sent(len(data))
        except Exception:
            self._host.unexpected(Failure(), "observing progress")  # type: ignore[no-untyped-call]
        self._host.pump()

    def _sent(self, failure: Failure | None) -> None:
        """The data set is sent; or its producer failed."""
        invocation, self._sending_for = self._sending_for, None
        self._sending = None
        self._gate.sends(None)
        assert invocation is not None
        if failure is not None:
            invocation.fail(failure)
            if invocation.requested:
                # What was begun cannot be completed, and nothing may be sent but the rest of it.
                self._host.give_up("the data set to be sent came to no end")
                return
            del self._unanswered[invocation.request.message_id]
        self.progress += 1
        self._send_behind()
        early, self._early = self._early, None
        if early is not None:
            self._answered(invocation, *early)
        self._go_on()

    def _send_behind(self) -> None:
        behind, self._behind = self._behind, []
        for context_id, command in behind if self._core.state in ANSWERING_STATES else ():
            self._core.send_command(context_id, command)

    def _take_back(self) -> None:
        """Send nothing of what has yet to begin: its body to produce, or its peer to read what is before."""
        invocation = self._sending_for
        assert invocation is not None  # which has yet to begin
        self._stop_sending()
        del self._unanswered[invocation.request.message_id]
        self._send_behind()

    def _stop_sending(self) -> None:
        sending, self._sending, self._sending_for = self._sending, None, None
        if sending is not None:
            self._gate.sends(None)
            try:
                sending.stop()
            except Exception:
                self._host.unexpected(Failure(), "stopping a producer")  # type: ignore[no-untyped-call]

    # Responses

    def responded(self, response: Response, has_data_set: bool) -> bool:
        """Take a response. Return whether it answers anything."""
        invocation = self._unanswered.get(response.message_id_being_responded_to)
        if (
            invocation is None
            or not invocation.requested
            or response.command_field != invocation.request.command_field | RESPONSE
            or (self._early is not None and invocation is self._sending_for)
        ):
            return False
        self._response, self._data_set, self._left = response, [], RESPONSE_LIMIT
        if not has_data_set:
            self._response_complete()
        return True

    def fragments(self, fragments: Sequence[memoryview], is_last: bool) -> None:
        """Take fragments of the data set of a response."""
        if self._response is None:
            return  # the data set of a message that has none
        self._left -= sum(map(len, fragments))
        if self._left < 0:
            self._host.give_up("the data set of a response is longer than is read")
            return
        self._data_set.append(b"".join(fragments))
        if is_last:
            self._response_complete()

    def _response_complete(self) -> None:
        response, self._response = self._response, None
        data_set, self._data_set = b"".join(self._data_set), []
        assert response is not None  # whose data set is complete
        self.progress += 1
        invocation = self._unanswered[response.message_id_being_responded_to]
        if invocation is self._sending_for and (
            response.status == Status.SUCCESS or is_warning(response.status)
        ):
            # What has not come whole cannot be done. It holds once the data set is out, if that goes well.
            self._early = response, data_set
        else:
            self._answered(invocation, response, data_set)

    def _answered(self, invocation: Invocation, response: Response, data_set: bytes) -> None:
        last = invocation.answer(response, data_set)
        # Whoever was given it may have ended the association.
        if last and self._unanswered.get(invocation.request.message_id) is invocation:
            self._end(invocation, response)
            if not invocation.response.called:
                invocation.response.callback(response)
            self._go_on()

    def _end(self, invocation: Invocation, response: Response | None) -> None:
        self._unanswered.pop(invocation.request.message_id, None)
        if invocation.requested:
            seconds = self._clock.seconds() - invocation.began
            self._host.tell(
                events.InvocationEnded(self._association, invocation, response, invocation.octets, seconds)
            )

    # Ends

    def _abandon(self, invocation: Invocation) -> None:
        """Nobody waits for a response any more: not to begin is possible, and C-CANCEL-RQ for some."""
        invocation.response.errback(CancelledError())
        if invocation in self._waiting:
            self._waiting.remove(invocation)
            self._host.invocations_went_on()
        elif invocation is self._preparing:
            self._preparing = None
            self._go_on()
        elif invocation is self._sending_for and not invocation.requested:
            self._take_back()
            self._go_on()
        elif self._early is not None and invocation is self._sending_for:
            pass  # it is answered
        elif invocation.requested and isinstance(invocation.request, _MAY_BE_PENDING):
            if self._core.state is State.STA6:
                cancel = CCancelRQ(message_id_being_responded_to=invocation.request.message_id)
                self.send(invocation.context.id, cancel)
            self._host.pump()

    def released(self) -> None:
        """The other end has no more to say; a data set that is on its way out is sent to its end."""
        error = AssociationReleased("released by the other end")
        invocation = self._sending_for
        if invocation is not None and not invocation.requested:
            self._take_back()
            invocation.fail(error)
        self._fail_all(error)

    def over(self, error: Exception) -> None:
        """Nothing can be sent, and nothing will come any more."""
        self._ended = error
        self._response = None
        self._stop_sending()
        self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        self._early = None
        waiting, self._waiting = self._waiting, deque()
        if self._preparing is not None:
            waiting.appendleft(self._preparing)
            self._preparing = None
        unanswered, self._unanswered = self._unanswered, {}
        for invocation in unanswered.values():
            self._end(invocation, None)
        for invocation in (*unanswered.values(), *waiting):
            invocation.fail(error)
