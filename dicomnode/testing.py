"""Doubles for tests that open no socket, start no thread and wait for nothing: ours, and other people's.

An association in memory, whole::

    reactor = Reactor()
    acceptor = Acceptor(reactor, [Verification(), Storage(MemoryStorage())])
    peer = Peer(acceptor)
    peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
    peer.stores("1.2.3", data_set("1.2.3"))
    peer.response.status    # 0x0000

Both ends of ours, joined::

    network = Network(reactor, acceptor)
    associating = associate(reactor, network, contexts=plan(["ct.dcm"]))
    network.exchange()      # and again, whenever something was begun
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProducer, IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode import events
from dicomnode.commits import IStorageReactor
from dicomnode.interfaces import IInstanceWriter, Instance, IStorage
from dicomnode.peers import CalledPeer as CalledPeer
from dicomnode.peers import Network as Network
from dicomnode.peers import Peer as Peer
from dicomnode.peers import Transport as Transport
from dicomnode.samples import data_set as data_set
from dicomnode.samples import dicom_file as dicom_file

_E = TypeVar("_E")


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        self.events.append(event)

    def of(self, kind: type[_E]) -> list[_E]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


@implementer(IStorageReactor)
class Reactor(Clock):
    """A clock that stands still until it is told; and a reactor, as far as storages need one.

    Its own threads are a :class:`Pool`: ``reactor.pool.run()``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    def getThreadPool(self) -> Pool:
        return self.pool

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        callable(*args, **kwargs)


class Pool:
    """A thread pool whose jobs are done when it is told: until then, the disk is slow."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], None]] = deque()
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], None] | None,
        func: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        def job() -> None:
            try:
                succeeded, result = True, func(*args, **kwargs)
            except Exception:
                succeeded, result = False, Failure()  # type: ignore[no-untyped-call]
            if onResult is not None:
                onResult(succeeded, result)

        self.jobs.append(job)

    def run(self, jobs: int | None = None) -> None:
        """Do so many of the jobs that wait; or all, with those that they lead to."""
        while self.jobs and jobs != 0:
            self.jobs.popleft()()
            jobs = None if jobs is None else jobs - 1


@implementer(IStorage)
class MemoryStorage:
    """Keeps instances in a dict, by SOP Instance UID. It may stall, or fail, as disks do."""

    def __init__(self) -> None:
        self.instances: dict[str, tuple[Instance, bytes]] = {}
        #: the writers that it opened
        self.writers: list[MemoryWriter] = []
        #: what open and commit fail with, until it is None again
        self.error: Exception | None = None
        self._stalled: list[Deferred[None]] | None = None

    def stalls(self) -> None:
        """Until it recovers, nothing is opened, and no commit ends."""
        self._stalled = []

    def recovers(self) -> None:
        """Go on with what stalled."""
        stalled, self._stalled = self._stalled or [], None
        for turn in stalled:
            turn.callback(None)

    def turn(self) -> Deferred[None]:
        """Fire when it is ready to open or to commit, or fail with its error."""
        turn: Deferred[None] = Deferred()
        turn.addCallback(self._judge)
        if self._stalled is None:
            turn.callback(None)
        else:
            self._stalled.append(turn)
        return turn

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return self.turn().addCallback(lambda _: self._open(instance))

    def _open(self, instance: Instance) -> IInstanceWriter:
        self.writers.append(MemoryWriter(self, instance))
        return self.writers[-1]

    def _judge(self, _: None) -> None:
        if self.error is not None:
            raise self.error


@implementer(IInstanceWriter)
class MemoryWriter:
    """Keeps one instance in memory."""

    def __init__(self, storage: MemoryStorage, instance: Instance) -> None:
        self.instance = instance
        self.data: list[bytes] = []
        self.producer: IPushProducer | None = None
        self.ended = ""  #: ``"commit"`` or ``"abort"``
        self._storage = storage

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert streaming
        self.producer = producer  # type: ignore[assignment]

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.data.append(data)

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self.data.append(b"".join(data))

    def commit(self) -> Deferred[None]:
        self._end("commit")
        return self._storage.turn().addCallback(self._keep)

    def abort(self) -> Deferred[None]:
        self._end("abort")
        return succeed(None)

    def _keep(self, _: None) -> None:
        self._storage.instances[self.instance.sop_instance_uid] = (self.instance, b"".join(self.data))

    def _end(self, how: str) -> None:
        assert not self.ended, f"{how} after {self.ended}"
        self.ended = how
