"""The shell: one association on one transport.

``core.Association`` is the association; :class:`AssociationProtocol` pumps octets between it and
the transport, arms its timers, and gives its messages to services. Both ends use it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode import events
from dicomnode.core import association as core
from dicomnode.core.command import CCancelRQ, Command, Request, Response
from dicomnode.core.machine import RELEASING_STATES, Event, Role, State
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import Abort, AssociateAC, AssociateRQ
from dicomnode.errors import AssociationAborted, AssociationLost, LocalProtocolError
from dicomnode.establishment import Establishment, nobody
from dicomnode.gate import Gate
from dicomnode.intake import Intake
from dicomnode.interfaces import Body, IAssociation, IService, OnResponse, Progress
from dicomnode.invocation import Invocations
from dicomnode.message import Prepare, invoking
from dicomnode.patience import Patience
from dicomnode.performing import Operations
from dicomnode.timers import Timeouts
from dicomnode.waiting import Once
from dicomnode.wire import ITransport, Reads, Wire

# To look up a member of an enumeration takes longer than what is done with it.
_IDLE, _ASSOCIATED = State.STA1, State.STA6

_log = Logger()  # for what an observer cannot be told: its own failure


@implementer(IAssociation)
class AssociationProtocol(Protocol):
    """An association on a transport.

    :param association: the association without I/O.
    :param service_for: the service that performs the operations of an abstract syntax.
    :param consider: of an acceptor: decides on the peer's request; its Deferred fires with the answer, or
        fails with AssociationRejected.
    :param request: of a requestor: what it asks for; :attr:`established` tells of the answer.
    :param closed: is called when the transport connection is gone.
    :param wanted: the kinds of events of which ``observe`` wants to be told, where that is known already.
    :param trace: observe each step of the protocol machine.
    :param reads: how much is read at a time, where there are others; without them, there are none.
    """

    _context: Context  # there are these four from when there is a transport
    _gate: Gate
    _wire: Wire
    _intake: Intake
    _releasing: Deferred[None] | None = None
    _release_due = False  # once what was invoked is answered
    _how = "never"
    _began = 0.0

    def __init__(
        self,
        association: core.Association,
        *,
        clock: IReactorTime,
        service_for: Callable[[str], IService | None],
        consider: Callable[[AssociationProtocol, AssociateRQ], AssociateAC | Deferred[AssociateAC]] = nobody,
        request: AssociateRQ | None = None,
        closed: Callable[[AssociationProtocol], None],
        timeouts: Timeouts = Timeouts(),
        observe: events.Observer = events.ignore,
        wanted: frozenset[type[events.Event]] | None = None,
        trace: bool = False,
        number: int = 0,
        reads: Reads | None = None,
    ) -> None:
        self.number = number
        self.calling_ae_title = ""
        self.called_ae_title = ""
        self._core = association
        # What is looked at behind each message is found on the instance five times as fast.
        self._state: State | None = None  # for which ARTIM was set, once the pump has run
        self.closing = self.closed = self.draining = self.observer_failed = False
        self.invocations: Invocations | None = None  #: it has none that has never invoked anything
        self.clock = clock
        self._on_closed = closed
        self._reads = Reads() if reads is None else reads
        self._observe = observe
        self.wanted = events.wanted(observe) if wanted is None else wanted
        if trace:
            association.trace = self._stepped
        self._establishment = Establishment(self, self, association, partial(consider, self), request)
        self._ended = Once()
        self._patience = Patience(self, self, association, timeouts, clock)
        self._silence = self._patience.silence
        self._operations = Operations(self, self, association, clock, self._silence, service_for)

    @property
    def _transport(self) -> ITransport:
        return cast(ITransport, self.transport)

    # IAssociation

    @property
    def role(self) -> Role:
        return self._core.role

    @property
    def peer(self) -> IAddress:
        return self._transport.getPeer()

    @property
    def established(self) -> Deferred[AssociateAC]:
        """Of a requestor: fires with the answer, or fails with how it came to no association."""
        return self._establishment.established

    @property
    def contexts(self) -> dict[int, PresentationContext]:
        return self._core.contexts

    def release(self) -> Deferred[None]:
        if self._releasing is not None:
            return fail(LocalProtocolError("release was asked for before"))
        if self._ended.error is not None:
            return fail(self._ended.error)
        invocations = self.invocations
        self._release_due = invocations is not None and invocations.busy and self._core.state is State.STA6
        if not self._release_due:
            try:
                self._core.request_release()
            except LocalProtocolError as error:  # there is no association, or it is being released
                return fail(error)
        self._releasing = Deferred()
        self.pump()
        return self._releasing

    def abort(self) -> None:
        self._abort("the local user asked for it")

    def when_ended(self) -> Deferred[None]:
        return self._ended.wait()

    def invoke(
        self,
        request: Request,
        data_set: bytes | Body | None = None,
        *,
        context: PresentationContext | int | str | None = None,
        on_response: OnResponse | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Response]:
        prepare = invoking(self.contexts, request, data_set, context)
        return self.invokes(prepare, on_response, progress)

    def invokes(
        self,
        prepare: Prepare,
        on_response: OnResponse | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Response]:
        """Invoke what ``prepare`` returns when its turn has come: a file is not open before that."""
        if self.invocations is None:
            if self._core.state is not State.STA6:
                return fail(LocalProtocolError("there is no association"))
            self.invocations = Invocations(self, self, self._core, self._gate, self.clock)
        if self._releasing is not None:
            return fail(LocalProtocolError("release was asked for before"))
        return self.invocations.invoke(prepare, on_response, progress)

    # Twisted's Protocol

    def connectionMade(self) -> None:
        self._began = self.clock.seconds()
        self._context = copy_context()
        transport = self._transport
        self._wire = Wire(transport, self._reads)
        self._gate = Gate(transport, self._wire, paused=self._paused, changed=self._patience.set_silence)
        self._operations.opened(self._gate, self._wire)
        self._patience.opened(self._gate, self._operations)
        self._intake = Intake(
            self, self._core, self._operations, self._gate, self._wire, self._silence, self.clock
        )
        self._core.transport_opened()
        self._establishment.opened()
        if self._core.role is Role.ACCEPTOR:
            self._wire.read(self)  # while we were getting ready, its request has most likely come
        if self._state is None:  # it has not
            self.pump()

    def dataReceived(self, data: bytes) -> None:
        self._intake.receive(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        self._gate.lost()
        truncated = self._core.in_pdu
        self._intake.lost()
        for _ in self._core.transport_closed():
            pass  # an A-P-ABORT: what is over says so itself
        self._association_over(
            LocalProtocolError("the association was released")
            if self._how == "released"
            else AssociationLost(f"the transport connection was closed: {reason.getErrorMessage()}")
        )
        self.closing = False
        self._patience.lost()
        if events.AssociationEnded in self.wanted:
            seconds = self.clock.seconds() - self._began
            self.tell(events.AssociationEnded(self, self._how, seconds, truncated))
        self._on_closed(self)

    def _stepped(self, state: State, event: Event, action: str, following: State) -> None:
        self.tell(events.Transition(self, state, event, action, following))

    # What is read

    def read_on(self) -> None:
        """Read what has arrived, as far as there is someone to take it.

        Whoever has it read may be an operation, whose context is nobody else's.
        """
        self._context.copy().run(self._intake.read_on)

    def reading_failed(self) -> None:
        """Abort, for the exception that is being handled."""
        self.unexpected(Failure(), "reading")  # type: ignore[no-untyped-call]
        self._abort("an internal error")

    def indicated(self, indication: core.Indication) -> None:
        """Take what is no message."""
        if isinstance(indication, core.AssociateRequested):
            self._establishment.requested(indication.request)
        elif isinstance(indication, core.AssociateRefused):
            self._establishment.refused(indication.request, indication.rejection)
        elif isinstance(indication, core.ReleaseRequested):
            self._operations.abandon_arriving()
            if self.invocations is not None:
                self.invocations.released()
            self._respond_release()
        elif isinstance(indication, core.ReleaseConfirmed):
            self._release_confirmed()
        elif isinstance(indication, core.Aborted):
            self._aborted(indication)
        elif isinstance(indication, core.AssociateConfirmed):
            self._establishment.confirmed(indication.answer)

    # The association

    def came_about(self, window: tuple[int, int] | None) -> None:
        """There is an association, with this asynchronous operations window; None: none was answered."""
        self._how = "lost"  # until we know better
        self._gate.established()
        if window is not None:
            invoked, performed = window
            self._operations.negotiated(performed)
            self.invocations = Invocations(self, self, self._core, self._gate, self.clock, invoked)

    def was_rejected(self) -> None:
        """There is none."""
        self._how = "rejected"

    def _respond_release(self) -> None:
        """Answer A-RELEASE-RQ, once what was asked for before it is answered (AR-7)."""
        state = self._core.state
        sending = self.invocations is not None and self.invocations.sending
        if state is State.STA8 and (self._operations.unanswered or sending):
            return
        # Where two releases cross, no state lets us answer an operation any more.
        if state in RELEASING_STATES:
            self._core.respond_release()
            self._released()
            if self._release_due:  # and need not be asked for any more
                self._release_due = False
                releasing, self._releasing = self._releasing, None
                assert releasing is not None  # whoever waits for what is due
                releasing.callback(None)

    def _released(self) -> None:
        if self._how != "released":
            self._how = "released"
            if events.AssociationReleased in self.wanted:
                self.tell(events.AssociationReleased(self))
            self._ended.happens()

    def _release_confirmed(self) -> None:
        self._released()
        releasing, self._releasing = self._releasing, None
        assert releasing is not None  # who has not asked for release is not answered
        releasing.callback(None)
        self._respond_release()  # where the two requests had crossed

    def _aborted(self, aborted: core.Aborted) -> None:
        if aborted.by_peer:
            self._how = "aborted"
            self.tell(events.AbortReceived(self, Abort(aborted.source, aborted.reason)))
        else:
            self._how = "aborted"
            abort = Abort(aborted.source, aborted.reason)
            self.tell(events.AbortSent(self, abort, aborted.why, by_user=False))
        self._association_over(AssociationAborted(aborted.source, aborted.reason))

    def _abort(self, why: str, error: AssociationAborted | None = None) -> None:
        """A-ABORT by us, where there is an association; else close the connection."""
        if self._core.state in (State.STA1, State.STA4, State.STA13):
            return
        if self._core.state is State.STA2:
            self._core.artim_expired()  # before its time: to the same end
            self.pump()
            return
        self._core.abort()
        self._how = "aborted"
        self.tell(events.AbortSent(self, Abort(), why))
        self._association_over(error or AssociationAborted(0, 0))
        self.read_on()

    def give_up(self, why: str, error: AssociationAborted | None = None) -> None:
        """Abort, and say why; what is awaited fails with this error."""
        self._abort(why, error)

    def _association_over(self, error: Exception) -> None:
        """Nothing can be asked or answered any more. What still comes is read, for the peer's close."""
        self._intake.over()
        self._release_due = False
        releasing, self._releasing = self._releasing, None
        if self.invocations is not None:
            self.invocations.over(error)
        if releasing is not None:
            releasing.errback(error)
        self._establishment.over(error)
        self._ended.happens(error)

    # Messages

    def message_received(self, message: core.MessageReceived) -> None:
        """Take a message that is no request."""
        command = message.command
        if isinstance(command, CCancelRQ):
            self.tell(events.CancelReceived(self, message.context.id, command))
            self._operations.cancel(command.message_id_being_responded_to)
        else:
            self._responded(command, message.has_data_set)

    def _responded(self, command: Command, has_data_set: bool) -> None:
        if not has_data_set:
            self._silence.came_on()
        known = isinstance(command, Response) and self.invocations is not None
        if not known or not cast(Invocations, self.invocations).responded(
            cast(Response, command), has_data_set
        ):
            self._abort(f"a {type(command).__name__} that answers nothing")

    def fragments_received(self, fragments: core.DataSetFragments) -> None:
        """Take fragments of a response's data set: that of a request has operations to take it."""
        # Or of a message that nobody performs: C-CANCEL-RQ has none.
        if fragments.is_last:
            self._silence.came_on()
        if self.invocations is not None:
            self.invocations.fragments(fragments.data, fragments.is_last)

    def awaits_response(self) -> bool:
        """Is a response awaited?"""
        return self.invocations is not None and self.invocations.awaiting

    def respond(self, context_id: int, response: Response) -> None:
        """Send a response: behind the data set that is being sent, where one is."""
        if self.invocations is None:
            self._core.send_command(context_id, response)
        else:
            self.invocations.send(context_id, response)

    def operations_went_on(self) -> None:
        """One is answered, or cannot be any more: that may be what a release, or our end, waits for."""
        if self._core.state is not _ASSOCIATED:
            self._respond_release()
        if self.draining and not self._operations.unanswered:
            self._abort("the service stops")
        if not self._intake.reading:
            self.read_on()

    def being_performed(self) -> frozenset[object]:
        """Return what the other end has invoked, and we have not answered."""
        return frozenset(self._operations.unanswered)

    def invocations_went_on(self) -> None:
        """What we invoke is answered, or sent: that may be what a release waits for."""
        if self._core.state is State.STA8:
            self._respond_release()
        elif self._release_due and not cast(Invocations, self.invocations).busy:
            self._release_due = False
            self._core.request_release()
        self.read_on()  # a request that has had to wait may be before a response that is awaited now

    def unexpected(self, failure: Failure, doing: str) -> None:
        """Say what nobody foresaw."""
        self.tell(events.Unexpected(self, failure, doing))

    def tell(self, event: events.Event) -> None:
        """Tell the observer. If it fails, this association is aborted, in good order, and no other."""
        try:
            self._observe(event)
        except Exception:
            if not self.observer_failed:
                self.observer_failed = True
                _log.failure("An observer failed upon {event}", event=type(event).__name__)

    def _paused(self, paused: bool) -> None:
        self.tell(events.Paused(self) if paused else events.Resumed(self))

    # Stopping

    def drain(self) -> None:
        """Let the operations in flight be answered, then abort: the peer is told."""
        self.draining = True
        if not self._operations.unanswered:
            self.stop()

    def stop(self) -> None:
        """Abort now, and close soon, whether the peer reads it or not."""
        self.draining = True
        self._abort("the service stops")
        self._patience.set_artim(again=True)  # where it had been aborted before, ARTIM is shortened

    def drop(self) -> None:
        """Close the connection at once, without a word: there is no association on it."""
        if self.transport is not None:
            # Of Twisted's transports, that of ``stdio`` alone has nothing of the kind.
            getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    # The pump

    def pump(self) -> None:
        """Bring the transport and the timers in step with the core."""
        if self._intake.reading or self.closed:
            return
        if self.observer_failed and not self.closing:
            self._abort("an observer failed")
        data = self._core.data_to_send()
        if data:
            self._wire.write(data[0] if len(data) == 1 else b"".join(data))
        state = self._core.state
        if state is not self._state or self.closing:
            self._state = state
            if state is _IDLE or (state is State.STA13 and self._never_was):
                self._close()
            self._patience.set_artim()
        self._patience.set_silence()

    @property
    def _never_was(self) -> bool:
        """Did we ask for an association, and there was none?

        Then we do not wait for the peer to close the connection, as PS3.8 AA-1 would have us: whoever asked
        has nothing by which to see that it is still there.
        """
        # One that has come about has invocations: whoever asked for it is to invoke something.
        return self._core.role is Role.REQUESTOR and self.invocations is None

    def _close(self) -> None:
        self.closing = True
        self._transport.unregisterProducer()
        self._transport.loseConnection()
