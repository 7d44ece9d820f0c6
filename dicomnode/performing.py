"""What the other end invokes: the operations of one association, until each of them is answered.

The counterpart of :class:`~dicomnode.invocation.Invocations`. What becomes of one operation is its own matter
(:mod:`dicomnode.operation`); here is which there are, and which of them takes the data set that arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dicomnode import events
from dicomnode.core.association import Association, DataSetFragments, MessageReceived
from dicomnode.core.command import CFindRQ, CGetRQ, CMoveRQ, CStoreRQ, Request, Response, Status
from dicomnode.core.machine import ANSWERING_STATES
from dicomnode.gate import Gate
from dicomnode.interfaces import IAssociation, IService
from dicomnode.operation import Operation
from dicomnode.timers import Silence
from dicomnode.values import quick
from dicomnode.wire import Wire

#: Operations of one association at a time: one being performed, one on its way in. No asynchronous
#: operations window is negotiated, so a requestor should not even send the second.
OPERATIONS = 2

#: The same where a window without limit was negotiated: what comes beyond them waits unread, as it does
#: everywhere, and what is performed here stays bounded.
UNLIMITED = 64

_operation_ended = quick(events.OperationEnded)


class Host(Protocol):
    """What operations need of their association."""

    wanted: frozenset[type[events.Event]]  #: of what it wants to be told

    def tell(self, event: events.Event) -> None: ...

    def unexpected(self, failure: Failure, doing: str) -> None: ...

    def read_on(self) -> None: ...

    def respond(self, context_id: int, response: Response) -> None:
        """Send a response."""

    def operations_went_on(self) -> None:
        """One is answered, or cannot be any more."""


class Operations:
    """What is performed on one association.

    :param service_for: the service that performs the operations of an abstract syntax.
    """

    _gate: Gate  # there are these two from when there is a transport
    _wire: Wire

    def __init__(
        self,
        association: IAssociation,
        host: Host,
        core: Association,
        clock: IReactorTime,
        silence: Silence,
        service_for: Callable[[str], IService | None],
    ) -> None:
        self.arriving: Operation | None = None  #: whose data set is arriving
        self.window = OPERATIONS  #: how many may be unanswered at a time
        self.unanswered: dict[Operation, float] = {}  #: to when they began
        self._association = association
        self._host = host
        self._core = core
        self._clock = clock
        self._silence = silence
        self._service_for = service_for

    def opened(self, gate: Gate, wire: Wire) -> None:
        """There is a transport connection."""
        self._gate = gate
        self._wire = wire

    def negotiated(self, window: int) -> None:
        """So many may be unanswered; 0 is no limit (PS3.7 D.3.3.3)."""
        # Two at least, as an acceptor: what is pipelined waits here, or there.
        self.window = max(OPERATIONS, window or UNLIMITED)

    @property
    def take_turns(self) -> bool:
        """Is what has come of a data set still being worked off, in turns of the reactor?"""
        return any(operation.takes_turns for operation in self.unanswered)

    def store_the_instance_of(self, request: Request) -> bool:
        """Is the instance of this request being stored, at the request of another?"""
        return isinstance(request, CStoreRQ) and any(
            isinstance(other, CStoreRQ)
            and other.affected_sop_instance_uid == request.affected_sop_instance_uid
            and other.message_id != request.message_id  # else it is to be refused
            for other in (operation.request for operation in self.unanswered)
        )

    def begin(self, request: Request, message: MessageReceived, whole: DataSetFragments | None) -> None:
        """Have a request performed.

        :param whole: its data set, where all of it has come.
        """
        data_set = None if whole is None else whole.data
        operation = Operation(
            self._association, self, message.context, request, message.has_data_set, data_set
        )
        others = self.unanswered
        in_use = too_many = False
        if others:
            in_use = any(other.request.message_id == request.message_id for other in others)
            too_many = len(others) >= self.window
        others[operation] = self._clock.seconds()
        if operation.arriving:
            self.arriving = operation
        else:
            self._silence.came_on()
            if whole is not None:
                self._wire.arriving(operation.octets, more=False)
        if events.OperationStarted in self._host.wanted:
            self._host.tell(events.OperationStarted(self._association, operation))
        service = self._service_for(message.context.abstract_syntax)
        if in_use:
            operation.refuse(Status.DUPLICATE_INVOCATION, "the Message ID is in use")
        elif too_many:
            operation.refuse(Status.RESOURCE_LIMITATION, "more operations than were negotiated")
        elif service is None:
            operation.refuse(Status.UNRECOGNIZED_OPERATION, "")
        else:
            operation.perform(service)

    def receive(self, fragments: DataSetFragments) -> bool:
        """Take fragments of the data set that is arriving. Return whether one is."""
        operation = self.arriving
        if operation is None:
            return False
        if fragments.is_last:
            self._silence.came_on()
            self.arriving = None
        operation.receive(fragments.data, fragments.is_last)
        self._wire.arriving(operation.octets, more=not fragments.is_last)
        return True

    def cancel(self, message_id: int) -> None:
        """Cancel the operation with this Message ID, if it may be."""
        for operation in list(self.unanswered):
            request = operation.request
            if request.message_id == message_id and isinstance(request, CFindRQ | CGetRQ | CMoveRQ):
                operation.cancel()

    def abandon_arriving(self) -> None:
        """A request whose data set has not come whole will never be: Sta8 lets no more of it come."""
        operation, self.arriving = self.arriving, None
        if operation is not None:
            self._end(operation, self.unanswered.pop(operation))

    def over(self) -> None:
        """The association has ended: nothing can be answered any more."""
        self.arriving = None
        operations, self.unanswered = self.unanswered, {}
        for operation, began in operations.items():
            self._end(operation, began)

    def _end(self, operation: Operation, began: float) -> None:
        """An operation ends without an answer."""
        operation.association_ended()
        self._ended(operation, began, None)

    def _ended(self, operation: Operation, began: float, response: Response | None) -> None:
        seconds = self._clock.seconds() - began
        self._host.tell(_operation_ended(self._association, operation, response, operation.octets, seconds))

    # Performer: for each of them

    def pause(self, reason: object) -> None:
        self._gate.close(reason)

    def resume(self, reason: object) -> None:
        self._gate.open(reason)

    def read_on(self) -> None:
        self._host.read_on()

    def unexpected(self, failure: Failure, doing: str) -> None:
        self._host.unexpected(failure, doing)

    def answer(self, operation: Operation, response: Response) -> None:
        """Send the response of an operation, unless we have asked for release ourselves."""
        began = self.unanswered.pop(operation, None)
        if began is None:
            return
        sent = self._core.state in ANSWERING_STATES
        if sent:
            self._host.respond(operation.context.id, response)
        if events.OperationEnded in self._host.wanted:
            self._ended(operation, began, response if sent else None)
        self._host.operations_went_on()
