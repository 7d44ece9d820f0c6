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
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, succeed
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
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.core import association as core
from dicomnode.core.command import CEchoRQ, Command, CStoreRQ, Response
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import AssociateRQ, ProposedContext
from dicomnode.interfaces import IAssociation, IInstanceWriter, Instance, IStorage
from dicomnode.uids import VERIFICATION

if TYPE_CHECKING:
    from twisted.trial.unittest import SynchronousTestCase as _Case
else:
    _Case = object

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


class InstanceWriterContract(_Case):
    """What every instance writer promises: mix it into a SynchronousTestCase.

    Say what the storage is and what it has kept by :meth:`open_storage` and :meth:`kept`; the
    others where it matters.
    """

    #: Does the storage keep anything at all?
    keeps = True

    def open_storage(self) -> IStorage:
        """Return the storage under test: always the same one."""
        raise NotImplementedError

    def kept(self, what: Instance) -> bytes | None:
        """Return the data set that the storage has kept of an instance, if it has."""
        raise NotImplementedError

    def leftovers(self) -> Sequence[object]:
        """Return what there is besides the instances that are kept."""
        return ()

    def settle(self) -> None:
        """Let what the storage has begun come to its end."""

    def instance(self, sop_instance_uid: str = "1.2.3") -> Instance:
        """Return an instance that may be stored."""
        association = cast(IAssociation, None)
        sop_class_uid, transfer_syntax_uid = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
        return Instance(sop_class_uid, sop_instance_uid, transfer_syntax_uid, "PEER", "ANY-SCP", association)

    def writer(self, sop_instance_uid: str = "1.2.3") -> IInstanceWriter:
        """Begin to keep an instance."""
        opening = self.open_storage().open(self.instance(sop_instance_uid))
        self.settle()
        return self.successResultOf(opening)

    def commits(self, writer: IInstanceWriter) -> None:
        committing = writer.commit()
        self.settle()
        self.assertIsNone(self.successResultOf(committing))

    def aborts(self, writer: IInstanceWriter) -> None:
        aborting = writer.abort()
        self.settle()
        self.assertIsNone(self.successResultOf(aborting))

    def cancels(self, deferred: Deferred[None]) -> None:
        def cancelled(failure: Failure) -> None:
            failure.trap(CancelledError)  # type: ignore[no-untyped-call]

        deferred.addErrback(cancelled)
        deferred.cancel()

    def assert_kept(self, data: bytes | None, sop_instance_uid: str = "1.2.3") -> None:
        """Assert what is kept of an instance, and that nothing else is left."""
        self.assertEqual(self.kept(self.instance(sop_instance_uid)), data if self.keeps else None)  # type: ignore[no-untyped-call]
        self.assertEqual(list(self.leftovers()), [])  # type: ignore[no-untyped-call]

    def test_interfaces(self) -> None:
        """The storage and its writers provide what their interfaces ask for."""
        verifyObject(IStorage, self.open_storage())
        writer = self.writer()
        verifyObject(IInstanceWriter, writer)
        self.aborts(writer)

    def test_keeps_what_was_written(self) -> None:
        """What is kept is what was written, in order, by whichever method and in whatever pieces."""
        pieces: list[bytes] = [bytes([number]) * (number * 37 % 300) for number in range(200)]
        writer = self.writer()
        for start in range(0, len(pieces), 8):
            writer.writeSequence([pieces[start], memoryview(pieces[start + 1])])
            writer.writeSequence(pieces[start + 2 : start + 7])
            writer.write(pieces[start + 7])
        self.commits(writer)
        self.assert_kept(b"".join(pieces))

    def test_keeps_an_empty_data_set(self) -> None:
        """An instance of which nothing was written is kept, and empty."""
        self.commits(self.writer())
        self.assert_kept(b"")

    def test_keeps_nothing_before_commit(self) -> None:
        """What is not committed is not there."""
        writer = self.writer()
        writer.write(b"begun")
        self.settle()
        self.assertIsNone(self.kept(self.instance()))
        self.aborts(writer)

    def test_aborts(self) -> None:
        """Nothing is left of what was aborted, whether or not something was written."""
        self.aborts(self.writer())
        writer = self.writer()
        writer.writeSequence([b"begun", b"and", b"forgotten"])
        self.aborts(writer)
        self.assert_kept(None)

    def test_aborts_beside_what_is_kept(self) -> None:
        """What was kept before, and by others, is as it was when a writer is aborted."""
        for uid in ("1.2.3", "1.2.4"):
            first = self.writer(uid)
            first.write(b"the first")
            self.commits(first)
        second = self.writer()
        second.write(b"the second, which is longer")
        self.aborts(second)
        self.assert_kept(b"the first")
        self.assert_kept(b"the first", "1.2.4")

    def test_replaces(self) -> None:
        """An instance that is kept again is the later one, whole."""
        for data in (b"the first, which is longer", b"the second"):
            writer = self.writer()
            writer.write(data)
            self.commits(writer)
            self.assert_kept(data)

    def test_two_at_a_time(self) -> None:
        """Two writers of one instance do not mix: who commits last wins."""
        one, other = self.writer(), self.writer()
        for _ in range(5):
            one.write(b"one ")
            other.writeSequence([b"other "])
        self.commits(other)
        self.assertEqual(self.kept(self.instance()), b"other " * 5 if self.keeps else None)  # type: ignore[no-untyped-call]
        self.commits(one)
        self.assert_kept(b"one " * 5)

    def test_memoryviews(self) -> None:
        """The views may be kept, and hold what is in them when nobody else does."""
        writer = self.writer()
        for number in range(20):
            read = bytes([number]) * 1000
            writer.writeSequence([memoryview(read)[start : start + 100] for start in range(0, 1000, 100)])
            del read
        self.commits(writer)
        self.assert_kept(b"".join(bytes([number]) * 1000 for number in range(20)))

    def test_producer(self) -> None:
        """A producer is not bothered by a writer that is not behind; it is unregistered before the end."""
        transport = Transport(Protocol())
        writer = self.writer()
        writer.registerProducer(transport, True)
        writer.write(b"data")
        writer.unregisterProducer()
        self.commits(writer)
        self.assert_kept(b"data")
        writer = self.writer()
        writer.registerProducer(transport, True)
        writer.write(b"other")
        writer.unregisterProducer()
        self.aborts(writer)
        self.assert_kept(b"data")
        self.assertFalse(transport.disconnecting)  # type: ignore[no-untyped-call]

    def test_commit_is_cancelled(self) -> None:
        """Who cancels the Deferred of commit stops nobody from keeping the instance."""
        writer = self.writer()
        writer.write(b"data")
        committing = writer.commit()
        self.cancels(committing)
        self.settle()
        self.assert_kept(b"data")

    def test_abort_is_cancelled(self) -> None:
        """Who cancels the Deferred of abort stops nobody from forgetting the instance."""
        writer = self.writer()
        writer.write(b"data")
        aborting = writer.abort()
        self.cancels(aborting)
        self.settle()
        self.assert_kept(None)
