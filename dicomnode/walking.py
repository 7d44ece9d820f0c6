"""Lets a walk see what a writer is given: the check in passing.

A walk over a data set as it is costs microseconds, and is done where the data set passes. What takes longer,
as nothing but empty items does, is shared out in turns of the reactor, with the peer paused meanwhile. A data
set that has to be inflated first can be made to cost a thousand times what was received, and is walked in a
thread, with the peer paused while that is behind.

Bombs take no one else's time but that of other deflated data sets, and of that only their turn: few threads
walk, and each job ends after some milliseconds, to be continued behind those of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from functools import partial
from itertools import accumulate, chain
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProducer, IPushProducer, IReactorFromThreads, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dicomnode.backlog import Backlog, Total
from dicomnode.core.dataset import Walk
from dicomnode.interfaces import IInstanceWriter

#: Octets, still deflated, that may wait to be walked: the peer is paused above the one, and goes on
#: below the other.
HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18
#: The same for all of them.
TOTAL_WATER = 1 << 24

#: For how long a walk may go on in a turn of the reactor, in seconds, since that was asked first. So what a
#: read brings takes longer than it should (``wire.LONG``), and less is read the next time.
STRETCH = 0.002

#: What a job inflates at most, in octets, before it is another's turn: some thirty milliseconds.
JOB = 1 << 24

#: How many threads of a pool walk at a time. The others are for those who wait for a disk.
WALKERS = 2

#: The reason of a writer to pause: itself need not be hashable.
_WRITER = "the writer"

_T = TypeVar("_T")


class Threads:
    """Some threads of a pool: where work is done that the reactor's thread should not wait for.

    Who gives more to do than these can waits for his own, and whoever else uses the pool does not wait.

    :param pool: it is started and stopped by its owner.
    :param most: of its threads that are used at a time.
    """

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool, most: int = WALKERS) -> None:
        self.backlog = Total(TOTAL_WATER)  #: what waits to be walked in them
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
        self._pause(_WRITER)

    def resumeProducing(self) -> None:
        self._resume(_WRITER)

    def stopProducing(self) -> None:
        self.stopped = True
        if self._producer is not None:
            self._producer.stopProducing()

    def _pause(self, reason: object) -> None:
        if not self._pauses and self._producer is not None:
            self._producer.pauseProducing()
        self._pauses.add(reason)

    def _resume(self, reason: object) -> None:
        if reason in self._pauses:
            self._pauses.remove(reason)
            if not self._pauses and self._producer is not None:
                self._producer.resumeProducing()


class Stretch:
    """What a walk takes of a turn of the reactor: called, it says whether that is enough.

    It begins when that is asked first: mostly it is not.
    """

    end = 0.0  #: by the clock; 0: it has not begun

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def __call__(self) -> bool:
        now = self._clock.seconds()
        if not self.end:
            self.end = now + STRETCH
        return now > self.end


@implementer(IInstanceWriter)
class Walking(Between):
    """Has a walk see a data set on its way to a writer, sooner or later."""

    _failure: Failure | None = None
    _unregistered = False  # has the producer gone, while the writer still has this one?
    _finished: Deferred[None] | None = None
    _context: Context  # of who waits for that: what is behind it is done by whoever does the last of the walk

    def __init__(self, writer: IInstanceWriter, walk: Walk) -> None:
        super().__init__(writer)
        self.walk = walk
        self.commit = writer.commit
        self.abort = writer.abort

    @property
    def behind(self) -> bool:
        """Has the walk yet to see some of what was written?"""
        raise NotImplementedError

    @property
    def takes_turns(self) -> bool:
        """Is it :attr:`behind`, and takes turns of the reactor?"""
        return False

    def _forget(self) -> None:
        """See no more than what is being walked now."""
        raise NotImplementedError

    def finished(self) -> Deferred[None] | None:
        """Fires when the walk has seen what was written; None if it has."""
        if not self.behind and self._failure is None:
            return None
        finished: Deferred[None] = Deferred(lambda _: self.abandon())
        self._finished = finished
        self._context = copy_context()
        self._settle()
        return finished

    def abandon(self) -> None:
        """Nobody wants to know any more: the walk goes no further."""
        self._finished = None
        self._forget()
        self._let_go()

    def stopProducing(self) -> None:
        """The writer can take no more: no more is walked for it, either."""
        self._forget()
        super().stopProducing()
        self._settle()

    def _let_go(self) -> None:
        """The writer is given no more."""
        if self._unregistered:
            self._unregistered = False
            try:
                self._writer.unregisterProducer()
            except Exception:
                self._failure = self._failure or Failure()  # type: ignore[no-untyped-call]

    def _failed(self, failure: Failure) -> None:
        """The writer can take no more, or there is a bug in the walk: finished says so."""
        self._failure = failure
        self.stopProducing()

    def _settle(self) -> None:
        """Say that the walk has seen all, if it has, to whoever waits for that."""
        if self._finished is not None and not self.behind:
            finished, self._finished = self._finished, None
            self._context.copy().run(self._let_go)
            self._context.copy().run(finished.callback, self._failure)


class PassingWalking(Walking):
    """Walks a data set where it passes; in several turns of the reactor, where that takes long.

    The writer is given what the walk has seen; the producer is paused while there is more.

    :param clock: by which there are turns.
    """

    _writing = False

    def __init__(self, writer: IInstanceWriter, walk: Walk, clock: IReactorTime) -> None:
        super().__init__(writer, walk)
        self._clock = clock
        self._stretch = Stretch(clock)
        self._waiting: list[bytes | memoryview] = []

    @property
    def behind(self) -> bool:
        return bool(self._waiting)

    @property
    def takes_turns(self) -> bool:
        return self.behind

    def _forget(self) -> None:
        self._waiting = []

    def unregisterProducer(self) -> None:
        if self._waiting:
            self._producer = None
            self._unregistered = True
        else:
            super().unregisterProducer()

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        if self._waiting:
            self._waiting += data
            return
        self._stretch.end = 0.0
        rest = self.walk.feed_sequence(data, self._stretch)
        if rest:
            self._waiting += rest
            self._pause(self)
            deferLater(self._clock, 0, self._take_turn).addErrback(self._failed)
            data = _before(rest, data)
        self._writing = True
        try:
            self._writer.writeSequence(data)
        finally:
            self._writing = False
        if self.stopped:
            super().stopProducing()

    def stopProducing(self) -> None:
        # The producer may go on to the end at once, and the writer has yet to return.
        self.stopped = True
        if not self._writing:
            super().stopProducing()

    def _take_turn(self) -> None:
        if not self._waiting:
            return  # it has failed, or has been abandoned
        waiting, self._waiting = self._waiting, []
        self.writeSequence(waiting)
        if not self._waiting:
            self._resume(self)
            self._settle()


class ThreadedWalking(Walking):
    """Walks a deflated data set in a thread, a batch at a time. The writer does not wait for it."""

    _running = False  # is a batch being walked?
    _abandoned = False

    def __init__(self, writer: IInstanceWriter, walk: Walk, threads: Threads) -> None:
        super().__init__(writer, walk)
        self._threads = threads
        self._backlog = Backlog(HIGH_WATER, LOW_WATER, threads.backlog)

    @property
    def behind(self) -> bool:
        return self._running or bool(self._backlog)

    def _forget(self) -> None:
        self._backlog.forget()

    def abandon(self) -> None:
        super().abandon()
        self._abandoned = True
        self._backlog.clear()

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        if self._failure is None:
            self._backlog.add(data)
            if self._backlog.too_much:
                self._pause(self)
            self._next()
        self._writer.writeSequence(data)

    def _next(self) -> None:
        if self._backlog and not self._running:
            self._running = True
            self._walk_on(chain.from_iterable(map(self.walk.inflate, self._backlog.take())))

    def _walk_on(self, steps: Iterator[int]) -> None:
        """Have some steps of the walk taken, behind the jobs that wait already."""
        walking = self._threads.run(partial(_some, steps))
        walking.addCallback(self._walked, steps).addErrback(self._failed)

    def _walked(self, all_of_it: bool, steps: Iterator[int]) -> None:
        if self._abandoned:
            return
        if not all_of_it:
            self._walk_on(steps)
            return
        self._running = False
        self._backlog.done()
        self._next()  # before the producer goes on: that may bring the end
        if self._backlog.little:
            self._resume(self)
        self._settle()

    def _failed(self, failure: Failure) -> None:
        self._running = False
        self._backlog.clear()
        super()._failed(failure)


def _before(
    rest: Sequence[bytes | memoryview], data: Sequence[bytes | memoryview]
) -> Sequence[bytes | memoryview]:
    """Return what is before the rest of ``data``, which may begin within a fragment."""
    whole = len(data) - len(rest)
    cut = data[whole]
    taken = memoryview(cut)[: len(cut) - len(rest[0])]
    return (*data[:whole], taken) if taken else data[:whole]


def _some(steps: Iterator[int]) -> bool:
    """Take steps for one job. Return whether these were all."""
    return not any(octets > JOB for octets in accumulate(steps))
