"""Lets a walk see what a writer is given: the check in passing.

A walk over a data set as it is costs microseconds, and is done where the data set passes. One that
has to be inflated first can be made to cost a thousand times what was received, and is done in a
thread, with the peer paused while that is behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProducer, IPushProducer, IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dicomnode.core.dataset import Walk
from dicomnode.interfaces import IInstanceWriter

#: Octets, still deflated, that may wait to be walked: the peer is paused above the one, and goes on
#: below the other.
HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18


@dataclass(frozen=True, slots=True)
class Threads:
    """Where work is done that the reactor's thread should not wait for."""

    reactor: IReactorFromThreads
    pool: ThreadPool


@implementer(IPushProducer)
class Between:
    """Stands between a producer and a writer, to which it is the producer: either may be paused for both.

    :param writer: to which the data set goes.
    """

    def __init__(self, writer: IInstanceWriter) -> None:
        self.stopped = False  #: has the writer said that it can take no more?
        self._writer = writer
        self._producer: IPushProducer | None = None
        self._pauses: set[object] = set()

    # IConsumer, but for what is done with the data

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = cast(IPushProducer, producer)
        self._writer.registerProducer(self, streaming)

    def unregisterProducer(self) -> None:
        self._producer = None
        self._writer.unregisterProducer()

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self._writer.writeSequence(data)

    # IPushProducer: for the writer

    def pauseProducing(self) -> None:
        self._pause(self._writer)

    def resumeProducing(self) -> None:
        self._resume(self._writer)

    def stopProducing(self) -> None:
        self.stopped = True
        if self._producer is not None:
            self._producer.stopProducing()

    def _pause(self, reason: object) -> None:
        if not self._pauses and self._producer is not None:
            self._producer.pauseProducing()
        self._pauses.add(reason)

    def _resume(self, reason: object) -> None:
        self._pauses.discard(reason)
        if not self._pauses and self._producer is not None:
            self._producer.resumeProducing()


@implementer(IInstanceWriter)
class Walking(Between):
    """Walks a data set on its way to a writer."""

    def __init__(self, writer: IInstanceWriter, walk: Walk) -> None:
        super().__init__(writer)
        self.walk = walk
        self.commit = writer.commit
        self.abort = writer.abort

    def finished(self) -> Deferred[None] | None:
        """Fires when the walk has seen what was written; None if it has."""
        return None

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self._see(data)
        self._writer.writeSequence(data)

    def _see(self, data: Sequence[bytes | memoryview]) -> None:
        self.walk.feed_sequence(data)


class ThreadedWalking(Walking):
    """Walks a data set in a thread, a batch at a time."""

    def __init__(self, writer: IInstanceWriter, walk: Walk, threads: Threads) -> None:
        super().__init__(writer, walk)
        self._threads = threads
        self._waiting: list[bytes | memoryview] = []
        self._waiting_octets = 0
        self._running = False
        self._failure: Failure | None = None
        self._finished: Deferred[None] | None = None

    def finished(self) -> Deferred[None]:
        self._finished = Deferred()
        self._next()
        return self._finished

    def _see(self, data: Sequence[bytes | memoryview]) -> None:
        self._waiting += data
        self._waiting_octets += sum(map(len, data))
        if self._waiting_octets > HIGH_WATER:
            self._pause(self)
        self._next()

    def _next(self) -> None:
        if self._running:
            return
        if self._waiting and self._failure is None:
            self._running = True
            batch, self._waiting = self._waiting, []
            walked = deferToThreadPool(self._threads.reactor, self._threads.pool, super()._see, batch)
            walked.addErrback(self._failed).addCallback(self._walked, sum(map(len, batch)))
        elif self._finished is not None:
            finished, self._finished = self._finished, None
            finished.callback(None if self._failure is None else self._failure)

    def _failed(self, failure: Failure) -> None:
        self._failure = failure  # a bug: finished says so

    def _walked(self, _: None, octets: int) -> None:
        self._running = False
        self._waiting_octets -= octets
        if self._waiting_octets < LOW_WATER and self in self._pauses:
            self._resume(self)
        self._next()
