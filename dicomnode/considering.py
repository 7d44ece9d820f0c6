"""A veto before the pixels: whoever is asked sees what the header says of an instance, and may refuse it.

It is asked once, as soon as the walk has come past the values that it keeps (``Walk.header_passed``), or
at the data set's end. What has come by then of the header has gone to the writer; nothing goes there while
the decision is out, and the peer is paused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode.interfaces import IInstanceWriter, Instance
from dicomnode.waiting import deferred_of, kept_on
from dicomnode.walking import Between

#: Is given an instance whose header has been walked. It returns, or fires, to have it kept; it raises
#: OperationFailed, or fails with it, to have it refused with a status.
Consider: TypeAlias = Callable[[Instance], Any]


@implementer(IInstanceWriter)
class Considering(Between):
    """Gives a writer the pixels of what is not refused.

    It stands behind the walk, which has seen whatever comes here.

    :param instance: which is walked.
    """

    def __init__(self, writer: IInstanceWriter, instance: Instance, consider: Consider) -> None:
        super().__init__(writer)
        assert instance.walk is not None
        self._walk = instance.walk
        self._instance = instance
        self._consider = consider
        self._asked: Deferred[Any] | None = None
        self._held: list[bytes | memoryview] = []
        self._accepted = False
        self._refusal: Failure | None = None
        self._decided: Deferred[None] | None = None

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        if self._asked is None and self._walk.header_passed:
            self._ask()
        if self._asked is None or self._accepted:
            self._writer.writeSequence(data)
        elif self._refusal is None:
            self._held += data

    def commit(self) -> Deferred[int | None]:
        return Deferred.fromCoroutine(self._commit())

    def abort(self) -> Awaitable[None]:
        self._cancel()
        return self._writer.abort()

    async def _commit(self) -> int | None:
        if self._asked is None:
            self._ask()
        if not self._accepted and self._refusal is None:
            self._decided = Deferred(lambda _: self._cancel())
            await self._decided
        if self._refusal is not None:
            await kept_on(deferred_of(self._writer.abort))
            self._refusal.raiseException()
        return await kept_on(deferred_of(self._writer.commit))

    def _ask(self) -> None:
        self._asked = maybeDeferred(self._consider, self._instance)
        self._asked.addCallbacks(self._accept, self._refuse)
        if not self._accepted and self._refusal is None:
            self._pause(self)

    def _cancel(self) -> None:
        """Nobody waits for the decision any more."""
        if self._asked is not None:
            self._asked.cancel()

    def _accept(self, _: object) -> None:
        held, self._held = self._held, []
        try:
            if held:
                self._writer.writeSequence(held)
        except Exception:
            self._refuse(Failure())  # type: ignore[no-untyped-call]
            return
        self._accepted = True
        self._resume(self)
        self._settle()

    def _refuse(self, failure: Failure) -> None:
        self._refusal = failure
        self._held = []
        self.stopProducing()
        self._settle()

    def _settle(self) -> None:
        decided, self._decided = self._decided, None
        if decided is not None:
            decided.callback(None)
