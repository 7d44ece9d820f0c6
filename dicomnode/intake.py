"""What arrives on an association: it is read as far as there is someone to take it, and in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dicomnode.core.association import (
    Association,
    DataSetFragments,
    Indication,
    MessageContinued,
    MessageReceived,
)
from dicomnode.core.command import Request
from dicomnode.gate import Gate
from dicomnode.performing import Operations
from dicomnode.timers import Silence
from dicomnode.wire import LEAST_READ, LONG, Wire

#: What one association does before it is another's turn: the work of so many fragments of a data set,
#: a message counting as ``MESSAGE_WORK`` of them; or what takes ``LONG``, whoever sends what.
TURN = 512
MESSAGE_WORK = 32


class Host(Protocol):
    """What the intake needs of its association."""

    observer_failed: bool  #: then the association is to be aborted

    def pump(self) -> None: ...

    def message_received(self, message: MessageReceived) -> None:
        """Take a message that is no request."""

    def fragments_received(self, fragments: DataSetFragments) -> None:
        """Take fragments of a data set that is no request's."""

    def indicated(self, indication: Indication) -> None:
        """Take what is no message."""

    def reading_failed(self) -> None:
        """Abort the association, for the exception that is being handled."""

    def awaits_response(self) -> bool:
        """Is a response awaited?"""


class Intake:
    """Reads what the transport brings: requests are for the operations, all else is for the host."""

    def __init__(
        self,
        host: Host,
        core: Association,
        operations: Operations,
        gate: Gate,
        wire: Wire,
        silence: Silence,
        clock: IReactorTime,
    ) -> None:
        self.reading = False  #: then what is there to be sent is sent at the end of it
        self._host = host
        self._core = core
        self._operations = operations
        self._gate = gate
        self._wire = wire
        self._silence = silence
        self._clock = clock
        self._ahead: Indication | None = None  # the next, where that has been looked at
        self._at_rest = True  # has all that came been read, as far as it goes?
        self._next_turn: IDelayedCall | None = None
        self._unread: deque[bytes | memoryview] = deque()
        self._indications: Iterator[Indication] = iter(())

    def receive(self, data: bytes) -> None:
        """Take what the transport has brought."""
        size = len(data)
        began = self._clock.seconds() if size >= LEAST_READ else 0.0
        self._silence.octets += size
        if self._at_rest:
            self._read_at_once(data)
        else:
            self._unread.append(data)
            self.read_on()
        if size >= LEAST_READ:  # as much is read whatever it takes; whether it may be more shows then
            seconds = self._clock.seconds() - began
            done = self._next_turn is None and (seconds <= LONG or not self._operations.take_turns)
            self._wire.took(size, seconds, done=done)

    def read_on(self, work: int = 0) -> None:
        """Read what has arrived, as far as there is someone to take it.

        :param work: what was done already of the work of a turn.
        """
        if self.reading:
            return
        if self._next_turn is None:
            self.reading = True
            try:
                self._read(work)
            except Exception:
                self._host.reading_failed()
            finally:
                self.reading = False
        self._host.pump()

    def over(self) -> None:
        """The association has ended. What still comes is read, for the peer's close."""
        self._ahead = None
        self._operations.over()
        self._gate.open(self)

    def lost(self) -> None:
        """The transport connection is gone: nothing is read any more."""
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._unread.clear()
        self._indications, self._ahead = iter(()), None

    def _read_at_once(self, data: bytes) -> None:
        """Read what came while all before it was read: mostly a message, or more of a data set.

        These are taken as a whole, for a fraction of what it costs to have them indicated one by one.
        Anything else, and what is behind them, is read as what waits is.
        """
        self._at_rest = False
        self.reading = True
        rest: bytes | memoryview = data
        work = 0
        more_to_come = False
        arriving = self._operations.arriving
        try:
            if arriving is None:
                message = self._core.receive_message(data)
                if message is not None:
                    received, fragments, rest = message
                    work = self._take_message(received, fragments)
                elif (pdu := self._core.receive_pdu(data)) is not None:
                    indication, rest = pdu
                    work = MESSAGE_WORK
                    if indication is not None:
                        self._host.indicated(indication)
            elif not arriving.awaits_consumer:
                taken = self._core.receive_fragments(data)
                if taken is not None:
                    fragments, rest = taken
                    work = fragments.pdvs
                    if fragments.is_last:
                        self._take_fragments(fragments)
                    else:
                        more_to_come = True
                        arriving.pass_on(fragments.data)
                        self._wire.arriving(arriving.octets, more=True)
        except Exception:
            self._host.reading_failed()
        finally:
            self.reading = False
        if rest:
            self._unread.appendleft(rest)
        if more_to_come and not (self._unread or self._core.waits_to_send or self._host.observer_failed):
            self._at_rest = True
            self._silence.went_on()
            return
        arriving = self._operations.arriving
        waits = arriving is not None and arriving.awaits_consumer
        if not work or waits or self._unread or self._ahead is not None:
            self.read_on(work)
            return
        self._at_rest = True
        self._host.pump()

    def _take_message(self, message: MessageReceived, fragments: DataSetFragments | None) -> int:
        """Take a message, with what has come of its data set. Return its work; 0: it is yet to be done."""
        command = message.command
        if not isinstance(command, Request) or self._is_surplus(command):
            self._indications = iter((message,) if fragments is None else (message, fragments))
            return 0
        if fragments is None or fragments.is_last:
            self._operations.begin(command, message, fragments)
            return MESSAGE_WORK + (0 if fragments is None else fragments.pdvs)
        self._operations.begin(command, message, None)
        operation = self._operations.arriving  # None: the association is over
        if operation is not None and fragments.data:
            if operation.awaits_consumer:
                self._ahead = fragments
            else:
                self._take_fragments(fragments)
                operation.flush()
        return MESSAGE_WORK + fragments.pdvs

    def _take_fragments(self, fragments: DataSetFragments) -> None:
        if not self._operations.receive(fragments):
            self._host.fragments_received(fragments)

    def _read(self, work: int) -> None:
        self._at_rest = False
        operations = self._operations
        end = self._clock.seconds() + LONG
        while True:
            if work >= TURN or (work and self._clock.seconds() > end):
                self._gate.hold()
                self._next_turn = self._clock.callLater(0, self._take_turn)
                break
            arriving = operations.arriving
            if arriving is not None and arriving.awaits_consumer:
                # What is read already waits as it is; what is not waits in the peer.
                self._gate.close(self)
                break
            indication = self._ahead or next(self._indications, None)
            if indication is None:
                if arriving is not None:
                    arriving.flush()  # while all that comes meanwhile waits
                if self._unread:
                    self._indications = self._core.receive(self._unread.popleft())
                    continue
                self._gate.open(self)
                if self._unread:  # resuming has brought more
                    continue
                self._at_rest = True
                break
            self._ahead = None
            if isinstance(indication, DataSetFragments):
                work += indication.pdvs
                self._take_fragments(indication)
            elif isinstance(indication, MessageReceived):
                work += MESSAGE_WORK
                command = indication.command
                if not isinstance(command, Request):
                    self._host.message_received(indication)
                    continue
                self._ahead = indication if self._is_surplus(command) else None
                if self._ahead is not None:
                    self._gate.close(self)
                    break
                whole = self._whole() if indication.has_data_set else None
                if whole is not None:
                    work += whole.pdvs
                operations.begin(command, indication, whole)
            elif isinstance(indication, MessageContinued):
                work += indication.pdvs
            else:
                work += MESSAGE_WORK
                self._host.indicated(indication)
        if operations.arriving is not None:
            operations.arriving.flush()

    def _take_turn(self) -> None:
        self._next_turn = None
        self.read_on()
        if self._next_turn is None:
            self._gate.release()

    def _is_surplus(self, request: Request) -> bool:
        """Is a request to wait until one before it is answered?

        Where there are as many as there may be; while one takes turns, for no more of it comes, but another
        would take as many; and while the same instance is being stored, for the last that is sent is to be
        what is kept. Not where we await a response, which may be behind it: what is too much is refused
        instead, and the same instance is stored beside the other.
        """
        operations = self._operations
        unanswered = operations.unanswered
        if not unanswered:
            return False
        if (
            len(unanswered) < operations.window
            and not operations.take_turns
            and not operations.store_the_instance_of(request)
        ):
            return False
        return not self._host.awaits_response()

    def _whole(self) -> DataSetFragments | None:
        """Return a request's data set, if that has been read already, to its end.

        Of small instances it has: there is nothing to wait for in between, then, and less to do.
        """
        following = next(self._indications, None)
        if isinstance(following, DataSetFragments) and following.is_last:
            return following
        self._ahead = following
        return None
