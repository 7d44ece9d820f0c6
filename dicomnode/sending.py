"""A data set on its way out: cut to what the peer accepts, and paused where it does not read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode.interfaces import Body
from dicomnode.reading import FileBody as FileBody

#: What is sent before it is another's turn: so many octets, and so many fragments, for a fragment costs as
#: much as a kilobyte, and a peer may accept but one octet in each.
WRITE = 1 << 18
FRAGMENTS = 256


@implementer(IConsumer, IPushProducer)
class Sending:
    """Takes a data set from its body, and sends it, some of it in each turn of the reactor.

    What the body has given is sent as far as it fills fragments; the rest waits until it is known whether
    it is the last of the data set. So no fragment is shorter than it could be, and none is empty. What a body
    gives beyond what a turn sends waits, and the body is paused.

    :param limit: the octets of a fragment that the peer accepts.
    :param begin: sends the command set; is called before the first fragment is sent.
    :param send: sends octets, and says whether they are the last.
    :param done: is called once, with the failure of the body if it failed.
    """

    _body: Body | None = None

    def __init__(
        self,
        limit: int,
        *,
        clock: IReactorTime,
        begin: Callable[[], None],
        send: Callable[[bytes | memoryview, bool], None],
        done: Callable[[Failure | None], None],
    ) -> None:
        self._limit = limit
        self._write = min(max(WRITE // limit, 1), FRAGMENTS) * limit
        self._clock = clock
        self._begin: Callable[[], None] | None = begin
        self._send = send
        self._done = done
        self._held = bytearray()  # no more than a fragment
        self._waiting: deque[memoryview] = deque()  # for their turn
        self._left = self._write  # of this turn
        self._turn: IDelayedCall | None = None
        self._producer: IPushProducer | None = None
        self._paused = False
        self._told = False  # is the producer told that it is paused?
        self._writing = False
        self._complete = False  # has the body given all?
        self._over = False
        self._starting = False
        self._untold = False  # is the body, which is starting, yet to be told that nothing is wanted?

    def start(self, body: Body) -> None:
        """Let ``body`` produce."""
        self._body = body
        self._starting = True
        producing: Deferred[None] = maybeDeferred(body.startProducing, self)
        self._starting = False
        if self._untold:
            body.stopProducing()
        producing.addCallbacks(self._produced, self._failed).addErrback(self._failed)
        if not (self._over or self._complete) and self._producer is None:
            self._produces(cast(IPushProducer, body))

    def stop(self) -> None:
        """Nothing can be sent any more."""
        producer = self._producer
        self._close()
        if producer is not None:
            producer.stopProducing()
        else:
            self._untold = self._starting

    # IConsumer: for the body

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause this, and not the body. One that is not streaming is asked for more, again and again."""
        if self._over:
            self._untold = self._untold and cast(object, producer) is not self._body
            producer.stopProducing()
        elif streaming:
            self._produces(cast(IPushProducer, producer))
        else:
            self._produces(_Pulled(producer, self._clock, self._failed))

    def unregisterProducer(self) -> None:
        """It has given what it had: that the data set is complete, the body's Deferred says."""
        if isinstance(self._producer, _Pulled):
            self._producer.pauseProducing()
        self._producer = None

    def write(self, data: bytes) -> None:
        if data and not self._over:
            self._waiting.append(memoryview(data))
            if not self._paused and self._turn is None:
                self._send_on()
            self._tell()

    # IPushProducer: for the transport

    def pauseProducing(self) -> None:
        self._paused = True
        self._tell()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._turn is None:
            self._take_turn()

    def stopProducing(self) -> None:
        """The transport is gone: the association ends by it, and tells us to stop."""

    # Within

    def _take_turn(self) -> None:
        self._turn = None
        self._left = self._write
        if not self._paused:
            try:
                self._send_on()
            except Exception:
                self._failed(Failure())  # type: ignore[no-untyped-call]
        if not self._writing:  # else what it writes next would come before what it is writing
            self._tell()

    def _send_on(self) -> None:
        """Send what waits, as far as this turn goes."""
        if self._writing:
            return
        self._writing = True
        try:
            while self._waiting and self._left and not self._paused and not self._over:
                self._cut(self._waiting.popleft())
        finally:
            self._writing = False
        if self._over or self._paused:
            return
        if self._waiting or not self._left:
            self._turn = self._clock.callLater(0, self._take_turn)
        elif self._complete:
            self._end()

    def _cut(self, view: memoryview) -> None:
        """Send of it what fills fragments; what is behind them waits, or is held."""
        held = self._held
        missing = self._limit - len(held) if held else (len(view) - 1) // self._limit * self._limit
        if held and len(view) > missing:
            self._waiting.appendleft(view[missing:])
            whole = bytes(held + view[:missing])
            held.clear()
            self._sends(whole, False)
        elif not held and missing:
            whole_octets = min(missing, self._left)
            self._waiting.appendleft(view[whole_octets:])
            self._sends(view[:whole_octets], False)
        else:
            held += view

    def _sends(self, data: bytes | memoryview, last: bool) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()
            if self._over:  # whoever was told has ended it
                return
        self._left -= len(data)
        self._send(data, last)

    def _produces(self, producer: IPushProducer) -> None:
        self._producer = producer
        self._told = False
        self._tell()

    def _tell(self) -> None:
        """Tell the producer whether it is paused, if it does not know."""
        paused = self._paused or self._turn is not None
        if self._producer is not None and self._told is not paused:
            self._told = paused
            if paused:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def _produced(self, _: object) -> None:
        self.unregisterProducer()
        self._complete = True
        if not self._over and not self._waiting and not self._writing:
            self._end()

    def _end(self) -> None:
        self._writing = True  # the last
        self._sends(bytes(self._held), True)
        if not self._over:
            self._ends(None)

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            self._ends(failure)

    def _ends(self, failure: Failure | None) -> None:
        self._close()
        self._done(failure)

    def _close(self) -> None:
        self._over = True
        self._waiting.clear()
        self.unregisterProducer()
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()


@implementer(IPushProducer)
class _Pulled:
    """Asks a producer that is not streaming for more, once in each turn of the reactor."""

    def __init__(self, producer: IProducer, clock: IReactorTime, failed: Callable[[Failure], None]) -> None:
        self._puller = producer
        self._clock = clock
        self._failed = failed
        self._turn: IDelayedCall | None = clock.callLater(0, self._pull)

    def _pull(self) -> None:
        self._turn = self._clock.callLater(0, self._pull)
        try:
            self._puller.resumeProducing()  # type: ignore[attr-defined]
        except Exception:
            self.pauseProducing()
            self._failed(Failure())  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()

    def resumeProducing(self) -> None:
        self._turn = self._clock.callLater(0, self._pull)

    def stopProducing(self) -> None:
        self.pauseProducing()
        self._puller.stopProducing()


class Octets:
    """Produces octets that are there, all of them."""

    def __init__(self, octets: bytes) -> None:
        self.length = len(octets)
        self._octets = octets

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It has produced all."""

    resumeProducing = stopProducing = pauseProducing
