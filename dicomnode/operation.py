"""One operation that the other end invoked: from its request to its response.

It stands between the association, which gives it the fragments of the data set as they come, and
the service that performs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode.core.command import Request, Response, Status, respond
from dicomnode.core.negotiation import PresentationContext
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    AssociationReleased,
    ContextNotAccepted,
    OperationFailed,
)
from dicomnode.fragments import compact
from dicomnode.interfaces import IAssociation, IInstanceWriter, IOperation, IService
from dicomnode.reception import Receiver, Reception
from dicomnode.waiting import begun
from dicomnode.walking import Walking

#: How an association ends, or comes to none, or has no room for an instance: for who sends instances on
#: behalf of another, that is no bug.
_ENDS = (AssociationAborted, AssociationLost, AssociationRejected, AssociationReleased, ContextNotAccepted)


class Performer(Protocol):
    """What an operation needs of the association that received it."""

    def pause(self, reason: object) -> None: ...

    def resume(self, reason: object) -> None: ...

    def read_on(self) -> None:
        """Go on reading: what it was held for has come about."""

    def answer(self, operation: Operation, response: Response) -> None: ...

    def unexpected(self, failure: Failure, doing: str) -> None: ...


@implementer(IOperation, IPushProducer)
class Operation:
    """An operation being performed.

    The response follows the whole request: when the service has done before the data set has
    arrived, the rest of that is received and dropped, and then the response is sent.

    :param performer: the association's other half: what it does for its operations.
    """

    octets = 0  #: of the data set, so far

    _dropping = False
    _consumer: IConsumer | None = None
    _write_sequence: Callable[[Sequence[memoryview]], None] | None = None  # the consumer's, if it has one
    # One of these two, at most, is there to be told that all of the data set has been delivered.
    _delivered: Deferred[None] | None = None
    _reception: Reception | None = None
    _context: Context  # of who is told: in a copy of it, for it may be the one that we are in
    _performing: Deferred[int] | None = None  # what is awaited for the status: not of a reception's data set
    _answer: Response | None = None  # awaiting the end of the request
    _cancelled = False
    _association_ended = False

    def __init__(
        self,
        association: IAssociation,
        performer: Performer,
        context: PresentationContext,
        request: Request,
        has_data_set: bool,
        whole: list[memoryview] | None = None,
    ) -> None:
        self.association = association
        self.context = context
        self.request = request
        self.has_data_set = has_data_set
        self.arriving = has_data_set and whole is None  #: is its data set still arriving?
        self._performer = performer
        self._fragments = whole or []  # of this read
        #: the data set, where all of it has come with the request: whoever takes this need not have it
        #: delivered. None once it is.
        self.whole = whole
        if whole:
            self.octets = sum(map(len, whole))

    # For the service

    def deliver_data_set(self, consumer: IConsumer) -> Deferred[None]:
        if self._consumer is not None:
            raise RuntimeError("the data set is being delivered already")
        self._consumer = consumer
        if IInstanceWriter.providedBy(consumer):
            self._write_sequence = consumer.writeSequence
        if self._dropping:
            return fail(CancelledError())  # too late: the association has ended, or it is answered
        if not self.arriving and not self._fragments:
            return succeed(None)
        delivered: Deferred[None] = Deferred(self._delivery_cancelled)
        self._delivered = delivered
        self._context = copy_context()
        try:
            consumer.registerProducer(self, True)
        except Exception:
            self._delivered = None
            delivered.addErrback(lambda _: None)  # where the association has ended by it, too
            raise
        if self.arriving:
            self._performer.read_on()  # may bring the end of it
        else:
            self.flush()
            self._end_delivery(None)
        return delivered

    def read_data_set(self, limit: int) -> Deferred[bytes]:
        whole = _Whole(limit)
        return self.deliver_data_set(whole).addCallback(lambda _: b"".join(whole.data))

    # For the consumer: IPushProducer

    def pauseProducing(self) -> None:
        if self.arriving and not self._dropping:
            self._performer.pause(self)

    def resumeProducing(self) -> None:
        self._performer.resume(self)

    def stopProducing(self) -> None:
        self._drop()

    # For the association

    @property
    def awaits_consumer(self) -> bool:
        """Is there, as yet, no one to take the data set?"""
        return self.arriving and self._consumer is None and not self._dropping

    @property
    def takes_turns(self) -> bool:
        """Is what has come of the data set still being worked off, in turns of the reactor?"""
        return isinstance(self._consumer, Walking) and self._consumer.takes_turns

    def perform(self, service: IService) -> None:
        """Let ``service`` perform it."""
        if isinstance(service, Receiver):
            # What it sets of the context is set for this operation alone, as it is of a coroutine's.
            self._context = copy_context()
            self._context.run(self._perform, service._begin)
        else:
            self._perform(service.perform)

    def refuse(self, status: int, comment: str) -> None:
        """Answer it without anyone performing it."""
        self._respond(status, comment)

    def receive(self, fragments: Sequence[memoryview], is_last: bool) -> None:
        """Take fragments of the data set."""
        self.octets += sum(map(len, fragments))
        if not self._dropping:
            self._fragments += fragments
        if is_last:
            self.flush()
            self.arriving = False
            self._performer.resume(self)
            self._end_delivery(None)
            if self._answer is not None:
                self._performer.answer(self, self._answer)

    def flush(self) -> None:
        """Hand on the fragments of the read that has ended."""
        fragments, self._fragments = self._fragments, []
        if fragments:
            self._hand_on(fragments, sum(map(len, fragments)))

    def pass_on(self, fragments: list[memoryview]) -> None:
        """Hand on the fragments of a read that has brought nothing else, and not the last."""
        if fragments:
            octets = sum(map(len, fragments))
            self.octets += octets
            self._hand_on(fragments, octets)

    def _hand_on(self, fragments: list[memoryview], octets: int) -> None:
        consumer = self._consumer
        if self._dropping or consumer is None:
            return
        try:
            fragments = compact(fragments, octets)
            if self._write_sequence is not None:
                self._write_sequence(fragments)
            else:
                for fragment in fragments:
                    consumer.write(bytes(fragment))
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            self._drop()
            self._end_delivery(failure)

    def cancel(self) -> None:
        """C-CANCEL-RQ (PS3.7 9.3.2.3): perform no more of it, and answer so."""
        self._cancelled = True
        self._cancel_performing()

    def association_ended(self) -> None:
        """There is no one left to answer."""
        self._association_ended = True
        self._drop()
        self._cancel_performing()
        if self._delivered is not None:  # to whoever caused that, and could not be cancelled
            self._end_delivery(Failure(CancelledError()))  # type: ignore[no-untyped-call]

    # Within

    def _perform(self, perform: Callable[[Operation], Any]) -> None:
        try:
            performing = perform(self)
            if not self.arriving and type(performing) is CoroutineType:
                performing = begun(performing)
        except Exception:
            self._ended(Failure())  # type: ignore[no-untyped-call]
            return
        if isinstance(performing, int):
            self._ended(performing)
        elif type(performing) is Reception:
            self._take_in(performing)
        else:
            self._wait_for(maybeDeferred(lambda: performing))

    def _wait_for(self, performing: Deferred[int]) -> None:
        self._performing = performing
        performing.addBoth(self._ended)
        if self._association_ended:  # by the service itself
            self._cancel_performing()

    def _take_in(self, reception: Reception) -> None:
        """Deliver the data set, and have done with it, without anyone waiting for the one or the other."""
        if self._association_ended:  # by what the service has done
            self._not_taken_in(reception, Failure(CancelledError()))  # type: ignore[no-untyped-call]
            return
        self._consumer = consumer = reception.consumer
        self._write_sequence = consumer.writeSequence
        self._reception = reception
        try:
            consumer.registerProducer(self, True)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            if self._reception is not None:  # else that has ended the association, too
                self._reception = None
                self._drop()
                self._not_taken_in(reception, failure)
            return
        if not self.arriving:
            self.flush()
            self._end_delivery(None)

    def _taken_in(self, reception: Reception) -> None:
        """All of the data set has been delivered."""
        try:
            finished = reception.finish()
        except Exception:
            self._not_taken_in(reception, Failure())  # type: ignore[no-untyped-call]
            return
        if isinstance(finished, int):
            self._ended(finished)
        else:
            self._wait_for(finished.addErrback(reception.fail))

    def _not_taken_in(self, reception: Reception, failure: Failure) -> None:
        # Nobody cancels that: how it ends is told, though there be no one left to answer.
        self._performing = reception.fail(failure)
        self._performing.addBoth(self._ended)

    def _cancel_performing(self) -> None:
        if self._reception is not None:
            self._end_delivery(Failure(CancelledError()))  # type: ignore[no-untyped-call]
        elif self._performing is not None:
            try:
                self._performing.cancel()
            except Exception:
                self._performer.unexpected(Failure(), "cancelling an operation")  # type: ignore[no-untyped-call]

    def _drop(self) -> None:
        """Receive the rest of the data set, and drop it."""
        self._dropping = True
        self._fragments = []
        self._performer.resume(self)
        self._performer.read_on()

    def _delivery_cancelled(self, _: Deferred[None]) -> None:
        self._delivered = None
        self._unregister()
        self._drop()

    def _end_delivery(self, result: Failure | None) -> None:
        self.whole = None  # a commit may take long, and this is all of a read
        reception, self._reception = self._reception, None
        if reception is not None:
            self._context.copy().run(self._end_reception, reception, result)
            return
        delivered, self._delivered = self._delivered, None
        if delivered is not None:
            self._context.copy().run(self._unregister)
            if delivered.called:
                pass  # that has ended the association
            elif result is None:
                delivered.callback(None)
            else:
                delivered.errback(result)

    def _end_reception(self, reception: Reception, result: Failure | None) -> None:
        self._unregister()
        if result is None:
            self._taken_in(reception)
        else:
            self._not_taken_in(reception, result)

    def _unregister(self) -> None:
        assert self._consumer is not None
        try:
            self._consumer.unregisterProducer()
        except Exception:
            self._performer.unexpected(Failure(), "ending a delivery")  # type: ignore[no-untyped-call]

    def _ended(self, result: int | Failure) -> None:
        try:
            if not isinstance(result, Failure):
                try:
                    if not isinstance(result, int) or isinstance(result, bool) or not 0 <= result <= 0xFFFF:
                        raise TypeError(f"{result!r} is not a status")
                    self._respond(result, "")
                except Exception:
                    result = Failure()  # type: ignore[no-untyped-call]
            if isinstance(result, Failure):
                self._failed(result)
        except Exception:
            self._performer.unexpected(Failure(), "answering an operation")  # type: ignore[no-untyped-call]

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, OperationFailed):
            self._respond(error.status, error.comment)
        elif isinstance(error, OSError):
            self._respond(Status.OUT_OF_RESOURCES, error.strerror or "the storage failed")
        elif isinstance(error, _ENDS):
            self._respond(Status.OUT_OF_RESOURCES, str(error))
        elif isinstance(error, CancelledError) and (self._cancelled or self._association_ended):
            self._respond(Status.CANCEL, "")
        else:
            self._performer.unexpected(failure, f"performing a {type(self.request).__name__}")
            self._respond(Status.PROCESSING_FAILURE, "")

    def _respond(self, status: int, comment: str) -> None:
        if self._association_ended:
            return
        request = self.request
        response = respond(request, status, error_comment=comment) if comment else respond(request, status)
        if self.arriving:
            self._answer = response
            self._drop()
        else:
            self._performer.answer(self, response)


@implementer(IConsumer)
class _Whole:
    """Keeps a data set whole, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.data: list[bytes] = []
        self._left = limit

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.data = []
            raise OperationFailed(Status.OUT_OF_RESOURCES, "the data set is longer than is read")
        self.data.append(data)
