"""A data set on its way out: cut to what the peer accepts, and paused where it does not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode.errors import InvalidFile
from dicomnode.interfaces import Body

#: What is read of a file at a time, in octets, and how often before it is another's turn: little enough for
#: a disk to have at hand, and for the reactor not to be kept from its other work.
READ = 1 << 16
READS = 4

#: What is written at a time, in octets: what the transport is given between two chances to pause us.
WRITE = 1 << 18


@implementer(IConsumer, IPushProducer)
class Sending:
    """Takes a data set from its body, and sends it.

    What the body has given is sent as far as it fills fragments; the rest waits until it is known whether
    it is the last of the data set. So no fragment is shorter than it could be, and none is empty.

    :param limit: the octets of a fragment that the peer accepts.
    :param begin: sends the command set; is called before the first fragment is sent.
    :param send: sends octets, and says whether they are the last.
    :param done: is called once, with the failure of the body if it failed.
    """

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
        self._write = max(WRITE // limit, 1) * limit
        self._clock = clock
        self._begin: Callable[[], None] | None = begin
        self._send = send
        self._done = done
        self._held = bytearray()
        self._producer: IPushProducer | None = None
        self._paused = False
        self._told = False  # is the producer told that it is paused?
        self._writing = False
        self._over = False

    def start(self, body: Body) -> None:
        """Let ``body`` produce."""
        producing: Deferred[None] = maybeDeferred(body.startProducing, self)
        producing.addCallbacks(self._produced, self._failed).addErrback(self._failed)
        if not self._over and self._producer is None:
            self._produces(cast(IPushProducer, body))

    def stop(self) -> None:
        """Nothing can be sent any more."""
        self._over = True
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    # IConsumer: for the body

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause this, and not the body. One that is not streaming is asked for more, again and again."""
        if streaming:
            self._produces(cast(IPushProducer, producer))
        else:
            self._produces(_Pulled(producer, self._clock, self._failed))

    def unregisterProducer(self) -> None:
        """It has given what it had: that the data set is complete, the body's Deferred says."""
        if isinstance(self._producer, _Pulled):
            self._producer.pauseProducing()
        self._producer = None

    def write(self, data: bytes) -> None:
        if not self._over:
            self._writing = True
            try:
                self._cut(memoryview(data))
            finally:
                self._writing = False
            self._tell()

    def _cut(self, view: memoryview) -> None:
        """Send what fills fragments, and hold the rest."""
        held = self._held
        if held:
            missing = self._limit - len(held)
            held += view[:missing]
            view = view[missing:]
            if not view:
                return
            self._sends(bytes(held), False)
            held.clear()
        whole = (len(view) - 1) // self._limit * self._limit if view else 0
        for start in range(0, whole, self._write):
            self._sends(view[start : min(start + self._write, whole)], False)
        held += view[whole:]

    def _sends(self, data: bytes | memoryview, last: bool) -> None:
        if not self._over:
            begin, self._begin = self._begin, None
            if begin is not None:
                begin()
            self._send(data, last)

    # IPushProducer: for the transport

    def pauseProducing(self) -> None:
        self._paused = True
        self._tell()

    def resumeProducing(self) -> None:
        self._paused = False
        if not self._writing:  # else what it writes next would come before what it is writing
            self._tell()

    def stopProducing(self) -> None:
        """The transport is gone: the association ends by it, and tells us to stop."""

    # Within

    def _produces(self, producer: IPushProducer) -> None:
        self._producer = producer
        self._told = False
        self._tell()

    def _tell(self) -> None:
        """Tell the producer whether it is paused, if it does not know."""
        if self._producer is not None and self._told is not self._paused:
            self._told = self._paused
            if self._paused:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def _produced(self, _: object) -> None:
        if not self._over:
            self._sends(bytes(self._held), True)
            self._ends(None)

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            self._ends(failure)

    def _ends(self, failure: Failure | None) -> None:
        self._over = True
        self.unregisterProducer()
        self._done(failure)


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


@implementer(IPushProducer)
class FileBody:
    """Produces what there is of a file from where it stands, in small pieces, and closes it.

    It is read on the reactor's thread, 64 KiB at a time and 256 KiB in each of its turns: what is kept in
    memory does not depend on the file. What is added to it meanwhile is not read; if it ends before its
    length, that is a failure, so that what is left of it is not taken for all of it.

    :param file: open, and at the first octet that is to be produced.
    :param length: how many octets there are; None: as many as there are when it is read.
    """

    def __init__(self, file: BinaryIO, clock: IReactorTime, length: int | None = None) -> None:
        self.length = length
        self._read = 0
        self._file = file
        self._clock = clock
        self._consumer: IConsumer
        self._produced: Deferred[None] = Deferred()
        self._turn: IDelayedCall | None = None
        self._paused = False
        self._over = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        consumer.registerProducer(self, True)
        self._produce()
        return self._produced

    def pauseProducing(self) -> None:
        self._paused = True
        self._wait()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._turn is None and not self._over:
            self._turn = self._clock.callLater(0, self._produce)

    def stopProducing(self) -> None:
        if not self._over:
            self._over = True
            self._wait()
            self._file.close()

    def _wait(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()

    def _produce(self) -> None:
        self._turn = None
        try:
            for _ in range(READS):
                if self._paused or self._over:
                    return
                data = self._file.read(READ if self.length is None else min(READ, self.length - self._read))
                if not data:
                    if self.length is not None and self._read < self.length:
                        raise InvalidFile(f"it ended after {self._read} of {self.length} octets")
                    self.stopProducing()
                    self._produced.callback(None)
                    return
                self._read += len(data)
                self._consumer.write(data)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            if not self._over:
                self.stopProducing()
                self._produced.errback(failure)
        else:
            if not (self._paused or self._over):
                self._turn = self._clock.callLater(0, self._produce)
