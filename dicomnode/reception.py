"""An instance on its way to a writer: what is done from when that is open to when the instance is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dicomnode.core.command import Status, is_warning
from dicomnode.interfaces import IInstanceWriter
from dicomnode.waiting import deferred_of, kept_on, settled
from dicomnode.walking import Walking


class Reception:
    """Has an instance written, and kept.

    Whoever brings the data set gives it to :attr:`consumer`, and then calls :meth:`finish`. Where there is
    no more of it, or that fails, :meth:`fail` is called.

    :param writer: for this instance.
    :param walking: stands before the writer, where the data set is walked.
    :param compare: raises what is wrong with the data set, once it has been walked.
    :param shield: of who waits for the writer's commit: what is begun to be kept is kept.
    """

    def __init__(
        self,
        writer: IInstanceWriter,
        walking: Walking | None,
        compare: Callable[[], None] | None,
        shield: Callable[[Deferred[int | None]], Deferred[int | None]] = kept_on,
    ) -> None:
        self.consumer: IInstanceWriter = walking or writer
        self._writer = writer
        self._walking = walking
        self._compare = compare
        self._shield = shield
        self._committing = False

    def finish(self) -> int | Deferred[int]:
        """All of it has come: have it kept. Return the status, at once or later."""
        walked = self._walking.finished() if self._walking else None
        if walked is not None:
            return walked.addCallback(lambda _: self._commit())
        return self._commit()

    def fail(self, failure: Failure) -> Deferred[Any]:
        """See to it that nothing of it is left, and then fail as ``failure`` does."""
        if self._walking is not None:
            self._walking.abandon()
        # A writer that could not keep it has seen to that itself.
        gone = succeed(None) if self._committing else kept_on(deferred_of(self._writer.abort))
        return gone.addCallback(lambda _: failure)

    def _commit(self) -> int | Deferred[int]:
        if self._compare is not None and not cast(Walking, self._walking).stopped:
            self._compare()  # else it has not seen all, and commit says why
        self._committing = True
        committing = deferred_of(self._writer.commit)
        if settled(committing):
            return _stored(cast("int | None", committing.result))
        return self._shield(committing).addCallback(_stored)


class Receiver:
    """A service that can do without a coroutine where there is nothing to wait for before a data set comes.

    Each step of one costs some microseconds, and a Deferred as much.
    """

    #: Perform an operation, as ``perform`` does; or return who is to be given its data set.
    _begin: Callable[[Any], int | Reception | Awaitable[int]]


def _stored(status: int | None) -> int:
    """Return a status with which an instance is stored; any other is a bug of the writer."""
    if status is None:
        return Status.SUCCESS
    if not isinstance(status, int) or (status != Status.SUCCESS and not is_warning(status)):
        raise ValueError(f"an instance is not stored with status {status!r}: raise OperationFailed")
    return status
