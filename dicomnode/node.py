"""A service that listens for associations, and stops in good order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import Protocol, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorFromThreads,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.timers import LINGER
from dicomnode.waiting import Once
from dicomnode.workers import Workers

_log = Logger()


class Behind(Protocol):
    """What goes on behind a storage, and has its share of the grace: studies, say."""

    def start(self) -> None:
        """The service starts, or does so again."""

    def stop_within(self, seconds: float) -> None:
        """The service stops, and whatever comes now may take so long.

        It is called again, with 0 to be quicker, or behind :meth:`finished` with what is left.
        """

    def finished(self) -> Deferred[None]:
        """Nothing more arrives on associations: fire when all is done.

        It is called again when threads that were left with something to keep have ended.
        """


class Node(Service):
    """Listens on endpoints. When it stops: first the ports, then what is in flight, then the threads.

    Once it has stopped, it may be started again.

    :param endpoints: where to listen.
    :param acceptor: what to do with who comes; workers, where those are other processes. Several nodes may
        share one, if none of them has a pool, or anything behind: the last that stops ends what is in flight,
        the others close their ports.
    :param pool: threads of the acceptor's storage that are started and stopped with this service, or those
        workers. Without one there is nothing to start: a FileStorage uses the threads of the reactor then.
    :param grace: how long what is in flight may take when the service stops, in seconds. A thread of the pool
        that still waits for a disk then is left behind: it may wait for ever, and all else in the process
        would wait for it, as it does for the threads of the reactor.
    :param behind: is to be finished, too, before the threads are stopped.
    :raises TypeError: when that is not what it should be.
    """

    def __init__(
        self,
        endpoints: Sequence[IStreamServerEndpoint],
        acceptor: Acceptor | Workers,
        pool: ThreadPool | Workers | None = None,
        *,
        grace: float = 30.0,
        observe: events.Observer = events.ignore,
        behind: Behind | None = None,
    ) -> None:
        for method in ("start", "stop_within", "finished") if behind is not None else ():
            if not callable(getattr(behind, method, None)):
                raise TypeError(f"what is behind has no method {method}: {behind!r}")
        self._behind = behind
        self.shares = pool is None and behind is None  #: may another node have the same acceptor?
        self._endpoints = endpoints
        self._acceptor = acceptor
        self._pool = pool
        self._grace = grace
        self._observe = events.guarded(observe)
        self._ports: list[Deferred[IListeningPort | None]] = []
        self._is_starting = False
        self._closing: Deferred[None] = succeed(None)
        self._ending: Once | None = None  # from when it begins to stop
        self._until = 0.0  # when the grace is over
        self._joining: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        """Listen, while there is the privilege to: DICOM's own port is 104.

        :raises CannotListenError: when a port cannot be listened on.
        :raises RuntimeError: when the service is stopping, or shares its acceptor where it cannot.
        """
        if self._ending is not None and not self._ending.has_happened:
            raise RuntimeError("the service is stopping: wait until it has stopped")
        nodes = self._acceptor.nodes
        if len(nodes | {self}) > 1 and not all(node.shares for node in nodes | {self}):
            raise RuntimeError("nodes share an acceptor only if none has a pool, or anything behind it")
        self._ending = None
        self._acceptor.accept()
        nodes.add(self)
        self._is_starting = True
        try:
            for endpoint in self._endpoints:
                self._listen(endpoint)
        except BaseException:
            nodes.discard(self)
            self._closing = Deferred.fromCoroutine(self._stop_listening())
            raise
        finally:
            self._is_starting = False

    def _listen(self, endpoint: IStreamServerEndpoint) -> None:
        failures: list[Failure] = []
        listening = endpoint.listen(self._acceptor).addCallback(self._listening)
        listening.addErrback(self._not_listening, failures)
        if failures:
            failures[0].raiseException()
        self._ports.append(cast("Deferred[IListeningPort | None]", listening))

    def startService(self) -> None:
        if not self._ports:
            self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]
        if self._behind is not None:
            self._behind.start()
        pool = self._pool
        if isinstance(pool, ThreadPool) and pool.joined:
            # One that was stopped cannot be started again; but who was given it has no other.
            ThreadPool.__init__(pool, pool.min, pool.max, pool.name)
        if pool is not None:
            pool.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._ending is None:
            self._ending = ending = Once()
            stopping = Deferred.fromCoroutine(self._stop())
            stopping.addCallbacks(lambda _: ending.happens(), lambda failure: ending.happens(failure.value))
        return self._ending.wait()

    def hasten(self) -> None:
        """Wait for nothing that is in flight, where the service stops: abort it."""
        self._drain(0)
        if self._behind is not None:
            self._behind.stop_within(0)
        self._until = 0.0
        if self._joining is not None:
            self._joining.cancel()

    def _drain(self, grace: float) -> Deferred[None]:
        """Drain the acceptor, unless another node listens for it."""
        self._acceptor.nodes.discard(self)
        return succeed(None) if self._acceptor.nodes else self._acceptor.drain(grace)

    async def _stop(self) -> None:
        clock = None if isinstance(self._acceptor, Workers) else self._acceptor.reactor
        self._until = clock.seconds() + self._grace if clock is not None else 0.0
        closing = Deferred.fromCoroutine(self._stop_listening())
        try:
            if self._behind is not None:
                self._behind.stop_within(self._grace)
            await self._closing  # of a start that has failed
            await closing
        finally:
            await self._drain(self._grace)
            if self._behind is not None:
                await self._behind.finished()
            if clock is not None and isinstance(self._pool, ThreadPool) and self._pool.threads:
                left = self._until - clock.seconds()
                if self._behind is not None:
                    self._behind.stop_within(left)  # what a thread keeps yet is told, too
                await self._join(self._pool, clock, max(LINGER, left))
                if self._behind is not None:
                    await self._behind.finished()
            elif self._pool is not None:
                self._pool.stop()

    async def _join(self, pool: ThreadPool, clock: IReactorTime, seconds: float) -> None:
        """Stop threads; in a thread, for that is to wait until the last of them has done its work."""
        self._joining = Deferred()
        done = partial(cast(IReactorFromThreads, clock).callFromThread, self._joining.callback, None)
        Thread(target=_each, args=(pool.stop, done), daemon=True, name="dicomnode-stop").start()
        try:
            await self._joining.addTimeout(seconds, clock)
        except (CancelledError, DeferredTimeoutError):
            if not pool.working:  # who says not to wait may be quicker than who sees that there is no need
                return
            _log.error("Threads wait for a disk that does not answer: they are left behind")

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self._observe(events.Listening(port.getHost()))
        return port

    def _not_listening(self, failure: Failure, failures: list[Failure]) -> None:
        failures.append(failure)
        if self._ports and not self._is_starting:  # by an endpoint that takes its time: too late to raise
            _log.failure("cannot listen", failure)

    async def _stop_listening(self) -> None:
        listenings, self._ports = self._ports, []
        for listening in listenings:
            listening.cancel()  # where it has not come to listen
        ports = [await listening for listening in listenings]
        closing = [maybeDeferred(port.stopListening) for port in ports if port is not None]
        await gatherResults(closing, consumeErrors=True)


def _each(*calls: Callable[[], object]) -> None:
    for call in calls:
        call()
