"""Lets a walk see what a writer is given: the check in passing.

A walk over a data set as it is costs microseconds, and is done where the data set passes. One that
has to be inflated first can be made to cost a thousand times what was received, and is done in a
thread, with the peer paused while that is behind.

Bombs take no one else's time but that of other deflated data sets, and of that only their turn: few threads
walk, and each job ends after some milliseconds, to be continued behind those of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, TypeVar, cast

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

#: What a job inflates at most, in octets, before it is another's turn: some thirty milliseconds.
JOB = 1 << 24

#: How many threads of a pool walk at a time. The others are for those who wait for a disk.
WALKERS = 2

_T = TypeVar("_T")


class Threads:
    """Some threads of a pool: where work is done that the reactor's thread should not wait for.

    Who gives more to do than these can waits for his own, and whoever else uses the pool does not wait.

    :param pool: it is started and stopped by its owner.
    :param most: of its threads that are used at a time.
    """

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool, most: int = WALKERS) -> None:
        self._reactor = reactor
        self._pool = pool
        self._free = most
        self._waiting: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()

    def run(self, job: Callable[[], _T]) -> Deferred[_T]:
        """Do a job behind those that wait already; fire with what it returns."""
        done: Deferred[_T] = Deferred()
        self._waiting.append((job, done))
        self._next()
        return done

    def _next(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            job, done = self._waiting.popleft()
            deferToThreadPool(self._reactor, self._pool, job).addBoth(self._done, done)

    def _done(self, result: Any, done: Deferred[Any]) -> None:
        self._free += 1
        self._next()
        done.callback(result)  # a Failure makes it fail


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

    writeSequence: Callable[[Sequence[bytes | memoryview]], None]

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

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
        self.walk.feed_sequence(data)
        self._writer.writeSequence(data)


class ThreadedWalking(Walking):
    """Walks a data set in a thread, a batch at a time."""

    def __init__(self, writer: IInstanceWriter, walk: Walk, threads: Threads) -> None:
        super().__init__(writer, walk)
        self._threads = threads
        self._waiting: list[bytes | memoryview] = []
        self._waiting_octets = 0
        self._running = False
        self._failure: Failure | None = None
        self._abandoned = False
        self._finished: Deferred[None] | None = None

    def finished(self) -> Deferred[None]:
        finished: Deferred[None] = Deferred(self._abandon)
        self._finished = finished
        self._next()
        return finished

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self._waiting += data
        self._waiting_octets += sum(map(len, data))
        if self._waiting_octets > HIGH_WATER:
            self._pause(self)
        self._next()
        self._writer.writeSequence(data)

    def _next(self) -> None:
        if self._running:
            return
        if self._waiting and self._failure is None:
            self._running = True
            batch, self._waiting = self._waiting, []
            self._walk_on(chain.from_iterable(map(self.walk.inflate, batch)), sum(map(len, batch)))
        elif self._finished is not None:
            finished, self._finished = self._finished, None
            finished.callback(None if self._failure is None else self._failure)

    def _walk_on(self, steps: Iterator[int], octets: int) -> None:
        """Have some steps of the walk taken, behind the jobs that wait already."""
        walking = self._threads.run(partial(_some, steps))
        walking.addErrback(self._failed).addCallback(self._walked, steps, octets)

    def _abandon(self, _: Deferred[None]) -> None:
        """Nobody wants to know any more: the walk goes no further than the job that is being done."""
        self._finished = None
        self._abandoned = True

    def _failed(self, failure: Failure) -> bool:
        self._failure = failure  # a bug: finished says so
        return True

    def _walked(self, all_of_it: bool, steps: Iterator[int], octets: int) -> None:
        if self._abandoned:
            return
        if not all_of_it:
            self._walk_on(steps, octets)
            return
        self._running = False
        self._waiting_octets -= octets
        if self._waiting_octets < LOW_WATER and self in self._pauses:
            self._resume(self)
        self._next()


def _some(steps: Iterator[int]) -> bool:
    """Take steps for one job. Return whether these were all."""
    return not any(octets > JOB for octets in accumulate(steps))
