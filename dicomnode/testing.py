"""Doubles for tests that open no socket, start no thread and wait for nothing: ours, and other people's.

An association in memory, whole::

    reactor = Reactor()
    acceptor = Acceptor(reactor, [Verification(), Storage(MemoryStorage())])
    peer = Peer(acceptor)
    peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
    peer.stores("1.2.3", data_set)
    peer.response.status    # 0x0000
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IConsumer,
    IProducer,
    IPushProducer,
    IReactorFromThreads,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.core import association as core
from dicomnode.core.command import CEchoRQ, Command, CStoreRQ, Response
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import AssociateRQ, ProposedContext
from dicomnode.interfaces import IInstanceWriter, Instance, IStorage
from dicomnode.uids import VERIFICATION

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


@implementer(IReactorFromThreads)
class Reactor(Clock):
    """A clock that stands still until it is told; and a reactor, as far as threads report to it."""

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


@implementer(ITCPTransport, IConsumer, IPushProducer)
class Transport:
    """A transport connection in memory that honours pausing, in both directions.

    :param protocol: the end under test; :meth:`deliver` is what the other end sends to it.
    """

    disconnecting = False

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.no_delay = False
        self.paused = False
        self.aborted = False
        self.connected = True
        self.producer: IPushProducer | None = None
        #: what was written and not yet taken, one for each write
        self.written: list[bytes] = []
        self._arriving: deque[bytes] = deque()
        self._delivering = False

    def connect(self) -> None:
        """Tell the protocol that the connection is made."""
        self.protocol.makeConnection(self)  # type: ignore[no-untyped-call]

    # The other end

    def deliver(self, data: bytes, size: int | None = None) -> None:
        """Let ``data`` arrive, in reads of ``size`` octets; while reading is paused it waits."""
        if size is None:
            self._arriving.append(data)
        else:
            self._arriving.extend(data[start : start + size] for start in range(0, len(data), size))
        self._deliver()

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._arriving and self.connected and not self.paused and not self.disconnecting:
                self.protocol.dataReceived(self._arriving.popleft())
        finally:
            self._delivering = False

    def taken(self) -> bytes:
        """Return, and forget, what was written."""
        written, self.written = self.written, []
        return b"".join(written)

    def lose(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(reason)

    # ITransport and ITCPTransport

    def write(self, data: bytes) -> None:
        if self.connected and not self.disconnecting:
            self.written.append(bytes(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        raise NotImplementedError("an association does not half-close")

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 50000)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.2", 11112)

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """There is nothing to keep alive."""

    # IPushProducer: what arrives

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self._deliver()

    def stopProducing(self) -> None:
        self.loseConnection()

    # IConsumer: what is written

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert streaming
        assert self.producer is None
        self.producer = producer  # type: ignore[assignment]

    def unregisterProducer(self) -> None:
        self.producer = None


class Peer:
    """A requestor at the other end of an acceptor's association, in memory.

    It speaks the protocol as it should, except in what :meth:`sends` is given.
    """

    def __init__(self, acceptor: Acceptor, size: int | None = None) -> None:
        protocol = acceptor.buildProtocol(None)
        assert protocol is not None
        #: the end under test
        self.association = protocol
        self.transport = Transport(protocol)
        #: what this end was indicated
        self.indications: list[core.Indication] = []
        self._core = core.Association(Role.REQUESTOR)
        self._size = size
        self._message_id = 0
        self.transport.connect()

    @property
    def response(self) -> Response:
        """The last response that arrived."""
        return [*self.responses][-1]

    @property
    def responses(self) -> list[Response]:
        messages = [item for item in self.indications if isinstance(item, core.MessageReceived)]
        return [message.command for message in messages if isinstance(message.command, Response)]

    def associates(
        self,
        contexts: Mapping[str, Sequence[str]] | None = None,
        *,
        calling: str = "PEER",
        called: str = "ANY-SCP",
        user_information: UserInformation | None = None,
    ) -> None:
        """Request an association with these presentation contexts; their ids are 1, 3, 5 ..."""
        contexts = {VERIFICATION: ["1.2.840.10008.1.2"]} if contexts is None else contexts
        proposed = (
            ProposedContext(2 * index + 1, abstract, tuple(syntaxes))
            for index, (abstract, syntaxes) in enumerate(contexts.items())
        )
        information = UserInformation(max_length=16382) if user_information is None else user_information
        self._core.request(AssociateRQ(called, calling, tuple(proposed), information))
        self._core.transport_opened()
        self.exchange()

    def context(self, abstract_syntax: str) -> PresentationContext:
        """Return the context that was accepted for an abstract syntax."""
        contexts = self._core.contexts.values()
        return next(context for context in contexts if context.abstract_syntax == abstract_syntax)

    def echoes(self) -> None:
        """Invoke a C-ECHO."""
        self._message_id += 1
        request = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=self._message_id)
        self.invokes(VERIFICATION, request)

    def stores(
        self, sop_instance_uid: str, data_set: bytes, sop_class_uid: str | None = None, **elements: Any
    ) -> None:
        """Invoke a C-STORE, of the first context's SOP Class unless another is named."""
        self._message_id += 1
        if sop_class_uid is None:
            sop_class_uid = next(iter(self._core.contexts.values())).abstract_syntax
        request = CStoreRQ(
            affected_sop_class_uid=sop_class_uid,
            message_id=self._message_id,
            affected_sop_instance_uid=sop_instance_uid,
            **elements,
        )
        self.invokes(sop_class_uid, request, data_set)

    def invokes(self, abstract_syntax: str, request: Command, data_set: bytes | None = None) -> None:
        """Send a command set on the context of an abstract syntax, and a data set where there is one."""
        context = self.context(abstract_syntax)
        self._core.send_command(context.id, request, data_set is not None)
        if data_set is not None:
            self._core.send_data_set(context.id, data_set, last=True)
        self.exchange()

    def releases(self) -> None:
        """Send an A-RELEASE-RQ."""
        self._core.request_release()
        self.exchange()

    def answers_release(self) -> None:
        """Answer an A-RELEASE-RQ."""
        self._core.respond_release()
        self.exchange()

    def aborts(self) -> None:
        """Send an A-ABORT."""
        self._core.abort()
        self.exchange()

    def sends(self, data: bytes) -> None:
        """Send any octets at all."""
        self.transport.deliver(data, self._size)
        self.exchange()

    def exchange(self) -> None:
        """Let both ends read what the other has written."""
        for data in self._core.data_to_send():
            self.transport.deliver(data, self._size)
        self.indications += self._core.receive(self.transport.taken())


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
        # Who waits may be cancelled; the keeping goes on behind.
        kept: Deferred[None] = Deferred()
        self._storage.turn().addCallback(self._keep).chainDeferred(kept)
        return kept

    def abort(self) -> Deferred[None]:
        self._end("abort")
        return succeed(None)

    def _keep(self, _: None) -> None:
        self._storage.instances[self.instance.sop_instance_uid] = (self.instance, b"".join(self.data))

    def _end(self, how: str) -> None:
        assert not self.ended, f"{how} after {self.ended}"
        self.ended = how
