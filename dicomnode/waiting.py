"""Waiting for what goes on by itself: by someone who may give up, or by any number."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dicomnode.errors import OperationFailed

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _DeferredOf(Protocol):
    def __call__(
        self, call: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]: ...


#: Twisted's own, typed for what our interfaces return: a Deferred, or a coroutine.
deferred_of: _DeferredOf = maybeDeferred  # type: ignore[assignment]


def settled(deferred: Deferred[Any]) -> bool:
    """Has it fired already, and well? Then there is nothing to await, which costs 10 us even so."""
    return deferred.called and not deferred.paused and not isinstance(deferred.result, Failure)


def shielded(going: Deferred[_T], late: Callable[[_T | Failure], object]) -> Deferred[_T]:
    """Return a Deferred that may be cancelled, without ``going`` being so.

    :param late: takes what it comes to when nobody waits any more; a failure that it returns is logged.
    """
    waiting: Deferred[_T] = Deferred()

    def pass_on(result: _T | Failure) -> object:
        if waiting.called:
            return late(result)
        waiting.callback(result)
        return None

    going.addBoth(pass_on)
    return waiting


def kept_on(going: Deferred[_T]) -> Deferred[_T]:
    """Return a Deferred that may be cancelled, though what a writer has begun goes on.

    How that fails interests nobody then, unless it is a bug: that is logged.
    """
    return shielded(going, _bug)


def _bug(result: object) -> Failure | None:
    bug = isinstance(result, Failure) and not result.check(OperationFailed, OSError)  # type: ignore[no-untyped-call]
    return result if bug else None  # type: ignore[return-value]


def begun(coroutine: Coroutine[Any, Any, _T]) -> _T | Deferred[_T]:
    """Run a coroutine as far as it goes: one that has nothing to wait for costs no Deferred."""
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as ended:
        return cast(_T, ended.value)
    return Deferred.fromCoroutine(_go_on(coroutine, awaited, context))


async def _go_on(coroutine: Coroutine[Any, Any, _T], awaited: Any, context: Context) -> _T:
    while True:
        try:
            result = await awaited
        except GeneratorExit:  # nobody refers to what is awaited: it will never come
            context.run(coroutine.close)
            raise
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, result)
        try:
            awaited = context.run(step)
        except StopIteration as ended:
            return cast(_T, ended.value)


class InTurn:
    """Does what concerns the same one after the other, and each once it is known what became of the last.

    Its length is how much is to be done. What has had to wait is done in a turn of the reactor of its own.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._jobs = 0
        self._waiting: dict[str, deque[tuple[Callable[[], Deferred[Any]], Deferred[Any]]]] = {}

    def __len__(self) -> int:
        return self._jobs

    def run(self, what: str, job: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """Do a job that concerns ``what``; fire with what it comes to, before the next is begun.

        Who gives up waiting is told so; the job is done all the same.
        """
        done: Deferred[_T] = Deferred()
        waiting = self._waiting.setdefault(what, deque())
        waiting.append((job, done))
        self._jobs += 1
        if len(waiting) == 1:
            self._begin(what)
        return done

    def _begin(self, what: str) -> None:
        job, done = self._waiting[what][0]
        job().addBoth(self._done, what, done)

    def _done(self, result: Any, what: str, done: Deferred[Any]) -> None:
        done.callback(result)  # a Failure makes it fail
        waiting = self._waiting[what]
        waiting.popleft()
        self._jobs -= 1
        if waiting:
            self._clock.callLater(0, self._begin, what)
        else:
            del self._waiting[what]


class Once:
    """What happens once: any number may wait for it, before and after."""

    error: Exception | None = None  #: how, where it was not well
    has_happened = False

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """Fires when it happens. Cancelling it is nobody else's business."""
        if self.has_happened:
            return succeed(None) if self.error is None else fail(self.error)
        self._waiting.append(Deferred(self._waiting.remove))
        return self._waiting[-1]

    def happens(self, error: Exception | None = None) -> None:
        """Let it happen, well or by an error; unless it has."""
        if self.has_happened:
            return
        self.has_happened = True
        self.error = error
        while self._waiting:  # what one does may cancel another
            waiting = self._waiting.pop(0)
            if error is None:
                waiting.callback(None)
            else:
                waiting.errback(error)
