"""Tells any callable what has arrived: an instance, a study, an association.

A hook is a callable that takes one of the values below. It may return a Deferred, or be a coroutine
function. Hooks stand round a storage (:class:`Hooked`), behind it in time: whatever a hook does, the
instance is kept already, and stays. What a hook fails with is logged, and that is all, but for one thing:
``OperationFailed`` from a hook on an instance is what the peer is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dicomnode import events
from dicomnode.core.command import CStoreRQ, Status, is_warning
from dicomnode.errors import OperationFailed
from dicomnode.interfaces import IAssociation, IInstanceWriter, Instance, IStorage
from dicomnode.waiting import deferred_of

_log = Logger()
_FAILED = "A hook failed upon {value}: {hook}"

_T = TypeVar("_T")

#: Takes a value, and may return a Deferred or any other awaitable.
Hook: TypeAlias = Callable[[_T], object]


@dataclass(frozen=True, slots=True)
class InstanceReceived:
    """An instance has arrived, and is kept."""

    #: its walk, if there is one, has come to its end
    instance: Instance
    #: of the data set
    octets: int
    #: when it was kept, in seconds, by the reactor's clock
    time: float
    #: of its file; None where the storage keeps none, or does not say
    path: str | None = None
    #: it has taken the place of a file that was there
    replaced: bool = False
    #: another file has its name and stays; this one was dropped
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class AssociationOver:
    """An association that had been established is over."""

    association: IAssociation
    #: ``"released"``, ``"aborted"`` or ``"lost"``
    how: str
    #: since its transport connection was made
    seconds: float
    #: how many instances were stored on it: those that were answered with Success, or a warning
    instances: int
    #: of their data sets
    octets: int


class Arrivals(Protocol):
    """Is told by :class:`Hooked` what arrives of studies."""

    def begun(self, instance: Instance) -> None:
        """An instance begins to arrive, and its walk knows of which study."""

    def given_up(self, instance: Instance) -> None:
        """An instance is not kept; it may not have been told to have begun."""

    def received(self, received: InstanceReceived) -> None:
        """An instance is kept; it may not have been told to have begun."""


async def tell(hooks: Sequence[Hook[_T]], value: _T) -> None:
    """Call hooks, one after the other, and wait for each. What one fails with is logged."""
    for hook in hooks:
        try:
            await maybeDeferred(hook, value)
        except CancelledError:
            _log.error("A hook was cancelled upon {value}: {hook}", value=type(value).__name__, hook=hook)
        except Exception:
            _log.failure(_FAILED, value=type(value).__name__, hook=hook)


@implementer(IStorage)
class Hooked:
    """A storage round another one, that calls hooks once an instance is kept.

    The response waits for the hooks, which are called one after the other. When one fails with
    OperationFailed, the others are called all the same, and the first such status is the response's:
    the instance is kept nonetheless. If the association ends before, the hooks go on.

    It goes right round the storage: only then does it know the path of a file.

    :param clock: by which things are said to happen.
    :param hooks: are called for each instance.
    :param studies: are told what arrives, before the hooks are called.
    """

    def __init__(
        self,
        storage: IStorage,
        clock: IReactorTime,
        *hooks: Hook[InstanceReceived],
        studies: Arrivals | None = None,
    ) -> None:
        self.clock = clock
        self.hooks = hooks
        self.studies = studies
        self._storage = storage

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return deferred_of(self._storage.open, instance).addCallback(self._opened, instance)

    def _opened(self, writer: IInstanceWriter, instance: Instance) -> IInstanceWriter:
        return _HookedWriter(writer, instance, self)


@implementer(IInstanceWriter)
class _HookedWriter:
    """A writer round another one."""

    def __init__(self, writer: IInstanceWriter, instance: Instance, hooked: Hooked) -> None:
        self._writer = writer
        self._instance = instance
        self._hooked = hooked
        self._octets = 0
        # To whom it is yet to be said that this is arriving; that is when the walk knows of which study.
        self._unaware = hooked.studies if instance.walk is not None else None
        # The inner writer talks to the producer itself: it knows when it is behind.
        self.registerProducer = writer.registerProducer
        self.unregisterProducer = writer.unregisterProducer

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self._octets += sum(map(len, data))
        if self._unaware is not None:
            self._begin(self._unaware)
        self._writer.writeSequence(data)

    def abort(self) -> Awaitable[None]:
        if self._hooked.studies is not None:
            self._hooked.studies.given_up(self._instance)
        return self._writer.abort()

    def _begin(self, studies: Arrivals) -> None:
        walk = self._instance.walk
        if walk is not None and walk.study_instance_uid:
            self._unaware = None
            studies.begun(self._instance)

    async def commit(self) -> int | None:
        studies = self._hooked.studies
        if self._unaware is not None:  # what was walked in a thread, it was not while it was written
            self._begin(self._unaware)
        try:
            status = await self._writer.commit()
        except Exception:
            if studies is not None:
                studies.given_up(self._instance)
            raise
        kept: Any = getattr(self._writer, "kept", None)
        received = InstanceReceived(
            instance=self._instance,
            octets=self._octets,
            time=self._hooked.clock.seconds(),
            path=getattr(self._writer, "path", None),
            replaced=getattr(kept, "replaced", False),
            dropped=getattr(kept, "dropped", False),
        )
        if studies is not None:
            studies.received(received)
        failure: OperationFailed | None = None
        for hook in self._hooked.hooks:
            try:
                await maybeDeferred(hook, received)
            except OperationFailed as failed:
                failure = failure or failed
            except Exception:
                _log.failure(_FAILED, value="InstanceReceived", hook=hook)
        if failure is not None:
            raise failure
        return status


class AssociationHooks:
    """An observer that calls hooks when an association that was established is over.

    Nothing waits for them. What is counted is what was answered with Success, or a warning.
    """

    def __init__(self, *hooks: Hook[AssociationOver]) -> None:
        self._hooks = hooks
        self._stored: dict[IAssociation, tuple[int, int]] = {}

    def wants(self, kind: type[Any]) -> bool:
        """Is this what is counted, or what ends it?"""
        return kind in (events.AssociationAccepted, events.OperationEnded, events.AssociationEnded)

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.AssociationAccepted):
            self._stored[event.association] = (0, 0)
        elif isinstance(event, events.OperationEnded):
            response, association = event.response, event.association
            stored = response is not None and (
                response.status == Status.SUCCESS or is_warning(response.status)
            )
            if stored and isinstance(event.operation.request, CStoreRQ) and association in self._stored:
                instances, octets = self._stored[association]
                self._stored[association] = (instances + 1, octets + event.octets)
        elif isinstance(event, events.AssociationEnded) and event.association in self._stored:
            stored_on_it = self._stored.pop(event.association)
            over = AssociationOver(event.association, event.how, event.seconds, *stored_on_it)
            Deferred.fromCoroutine(tell(self._hooks, over))
