"""The other end of an association, in memory: a part of :mod:`dicomnode.testing`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionRefusedError
from twisted.internet.interfaces import (
    IConsumer,
    IProducer,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomnode.acceptor import Acceptor
from dicomnode.core import association as core
from dicomnode.core.command import CEchoRQ, Command, CStoreRQ, Request, Response, respond
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import AnsweredContext, AssociateAC, AssociateRQ, ProposedContext
from dicomnode.uids import VERIFICATION

_ADDRESS = IPv4Address("TCP", "192.0.2.1", 50000)


@implementer(ITCPTransport, IConsumer, IPushProducer)
class Transport:
    """A transport connection in memory that honours pausing, in both directions.

    :param protocol: the end under test; :meth:`deliver` is what the other end sends to it.
    :param capacity: octets that may be written and not yet taken before who writes is paused; None: any.
    :param clock: by which a connection that is aborted is lost, in the next turn, as a reactor's is. Without
        one it is not before :meth:`lose` is called. One that is closed is not either: it may take its time.
    """

    disconnecting = False

    def __init__(
        self, protocol: Protocol, capacity: int | None = None, *, clock: IReactorTime | None = None
    ) -> None:
        self.protocol = protocol
        self.capacity = capacity
        self._clock = clock
        self.full = False
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
        if self.full:
            self.full = False
            if self.producer is not None:
                self.producer.resumeProducing()
        return b"".join(written)

    @property
    def arrived(self) -> bool:
        """Has all that was delivered been read?"""
        return not self._arriving

    def lose(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(reason)

    # ITransport and ITCPTransport

    def write(self, data: bytes) -> None:
        if self.connected and not self.disconnecting:
            self.written.append(bytes(data))
            if self.capacity is not None and not self.full and sum(map(len, self.written)) > self.capacity:
                self.full = True
                if self.producer is not None:
                    self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        if not self.aborted and self._clock is not None:
            self._clock.callLater(0, self.lose, Failure(ConnectionAborted()))  # type: ignore[no-untyped-call]
        self.aborted = True
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        raise NotImplementedError("an association does not half-close")

    def getPeer(self) -> IPv4Address:
        return _ADDRESS

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


class _End:
    """The other end of an association in memory: its core, and a transport to the end under test."""

    transport: Transport

    def __init__(self, role: Role, size: int | None) -> None:
        #: what this end was indicated
        self.indications: list[core.Indication] = []
        self._core = core.Association(role)
        self._size = size

    def releases(self) -> None:
        """Send an A-RELEASE-RQ."""
        self._core.request_release()
        self.exchange()

    def answers_release(self) -> None:
        """Answer an A-RELEASE-RQ."""
        self.exchange()
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


class Peer(_End):
    """A requestor at the other end of an acceptor's association, in memory.

    It speaks the protocol as it should, except in what :meth:`sends` is given.
    """

    def __init__(self, acceptor: Acceptor, size: int | None = None) -> None:
        super().__init__(Role.REQUESTOR, size)
        protocol = acceptor.buildProtocol(None)
        assert protocol is not None
        #: the end under test
        self.association = protocol
        self.transport = Transport(protocol, clock=acceptor.reactor)
        self._message_id = 0
        self._begun = 0  # the id of the context on which a data set was begun
        self.transport.connect()

    @property
    def response(self) -> Response:
        """The last response that arrived.

        :raises AssertionError: when none has.
        """
        responses = self.responses
        assert responses, f"nothing has been answered: {self._state()}"
        return responses[-1]

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
        """Return the context that was accepted for an abstract syntax.

        :raises AssertionError: when none was.
        """
        contexts = self._core.contexts.values()
        accepted = [context for context in contexts if context.abstract_syntax == abstract_syntax]
        assert accepted, f"no context was accepted for {abstract_syntax}: {self._state()}"
        return accepted[0]

    def _state(self) -> str:
        """Return what the association is, and what was indicated last, for who expects something else."""
        state = f"the association is in {self._core.state.name.capitalize()}"
        if not self.indications:
            return state
        last = self.indications[-1]
        return f"{state}, upon {type(getattr(last, 'answer', last)).__name__}"

    def echoes(self) -> None:
        """Invoke a C-ECHO."""
        self._message_id += 1
        request = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=self._message_id)
        self.invokes(VERIFICATION, request)

    def stores(
        self, sop_instance_uid: str, data_set: bytes, sop_class_uid: str | None = None, **elements: Any
    ) -> None:
        """Invoke a C-STORE: of the first SOP Class that was accepted to be stored, unless another is named.

        :raises AssertionError: when none was accepted.
        """
        self._begin(sop_instance_uid, sop_class_uid, elements)
        self.goes_on(data_set, last=True)

    def begins(
        self, sop_instance_uid: str, data: bytes, sop_class_uid: str | None = None, **elements: Any
    ) -> None:
        """Invoke a C-STORE, and send no more than the first octets of its data set; it may go on."""
        self._begin(sop_instance_uid, sop_class_uid, elements)
        if data:
            self._core.send_data_set(self._begun, data, last=False)
        self.exchange()

    def _begin(self, sop_instance_uid: str, sop_class_uid: str | None, elements: Mapping[str, Any]) -> None:
        self._message_id += 1
        if sop_class_uid is None:
            accepted = [context.abstract_syntax for context in self._core.contexts.values()]
            classes = [abstract_syntax for abstract_syntax in accepted if abstract_syntax != VERIFICATION]
            assert classes, f"no context was accepted for any SOP Class to store: {self._state()}"
            sop_class_uid = classes[0]
        request = CStoreRQ(
            affected_sop_class_uid=sop_class_uid,
            message_id=self._message_id,
            affected_sop_instance_uid=sop_instance_uid,
            **elements,
        )
        self._begun = self.context(sop_class_uid).id
        self._core.send_command(self._begun, request, True)

    def goes_on(self, data: bytes, *, last: bool = False) -> None:
        """Send more of the data set that was begun."""
        self._core.send_data_set(self._begun, data, last)
        self.exchange()

    def invokes(
        self, abstract_syntax: str, request: Command, data_set: bytes | None = None, *, last: bool = True
    ) -> None:
        """Send a command set on the context of an abstract syntax, and a data set where there is one.

        :param last: the data set is whole; else it may go on by :meth:`goes_on`.
        """
        self._begun = self.context(abstract_syntax).id
        self._core.send_command(self._begun, request, data_set is not None)
        if data_set is not None:
            self._core.send_data_set(self._begun, data_set, last)
        self.exchange()


@implementer(IStreamClientEndpoint)
class CalledPeer(_End):
    """An acceptor at the other end of an association that ``associate`` requests, in memory.

    It is the endpoint that ``associate`` is given, and waits to be told what to do: :meth:`accepts`,
    :meth:`rejects`, :meth:`responds`. It can say wrong things by :meth:`sends`.

    :param size: how many octets of what it sends arrive at a time.
    :param capacity: of its transport: how much may be sent to it that it has not read.
    :param max_length: that it announces, in octets.
    """

    def __init__(
        self, size: int | None = None, *, capacity: int | None = None, max_length: int | None = 16382
    ) -> None:
        super().__init__(Role.ACCEPTOR, size)
        self._capacity = capacity
        self._max_length = max_length

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        protocol = protocolFactory.buildProtocol(_ADDRESS)
        self.transport = Transport(cast(Protocol, protocol), self._capacity)
        self._core.transport_opened()
        self.transport.connect()
        return succeed(protocol)

    @property
    def request(self) -> AssociateRQ:
        """The A-ASSOCIATE-RQ that arrived.

        :raises AssertionError: when none has.
        """
        requested = [item for item in self.indications if isinstance(item, core.AssociateRequested)]
        assert requested, "no A-ASSOCIATE-RQ has arrived"
        return requested[0].request

    @property
    def messages(self) -> list[Command]:
        """The command sets that arrived."""
        return [item.command for item in self.indications if isinstance(item, core.MessageReceived)]

    @property
    def data_set(self) -> bytes:
        """The data sets that arrived, one behind the other."""
        fragments = [item.data for item in self.indications if isinstance(item, core.DataSetFragments)]
        return b"".join(data for fragment in fragments for data in fragment)

    def accepts(self, *results: int, **information: Any) -> None:
        """Accept the association, and its contexts in their first transfer syntax; or with these results."""
        self.exchange()
        asked = self.request
        contexts = tuple(
            AnsweredContext(context.id, result, context.transfer_syntaxes[0])
            for context, result in zip(asked.contexts, results or [0] * len(asked.contexts), strict=True)
        )
        information = {"max_length": self._max_length} | information
        answer = AssociateAC(
            asked.called_ae_title, asked.calling_ae_title, contexts, UserInformation(**information)
        )
        self._core.accept(answer)
        self.exchange()

    def rejects(self, result: int = 1, source: int = 1, reason: int = 1) -> None:
        """Reject the association: permanently, without a reason, unless others are given (PS3.8 9.3.4)."""
        self.exchange()
        self._core.reject(result, source, reason)
        self.exchange()

    def responds(
        self, status: int = 0, data_set: bytes | None = None, *, to: int = -1, **elements: Any
    ) -> None:
        """Respond to a request that has arrived: to the last, unless its place in ``messages`` is given."""
        self.exchange()
        messages = [item for item in self.indications if isinstance(item, core.MessageReceived)]
        assert messages, "no message has arrived"
        arrived = messages[to]
        assert isinstance(arrived.command, Request), f"a {type(arrived.command).__name__} is no request"
        self.invokes(arrived.context.id, respond(arrived.command, status, **elements), data_set)

    def invokes(self, context_id: int, command: Command, data_set: bytes | None = None) -> None:
        """Send a message of any kind."""
        self._core.send_command(context_id, command, data_set is not None)
        if data_set is not None:
            self._core.send_data_set(context_id, data_set, last=True)
        self.exchange()


@implementer(IStreamClientEndpoint)
class Network:
    """Joins both ends in memory: the endpoint by which ``associate`` reaches an acceptor.

    Nothing moves before :meth:`exchange`.

    :param size: how many octets arrive at a time.
    :param capacity: octets that are on their way in one direction before who writes is paused.
    """

    def __init__(
        self, reactor: Clock, acceptor: Factory, *, size: int | None = None, capacity: int | None = None
    ) -> None:
        self._reactor = reactor
        self._acceptor = acceptor
        self._size = size
        self._capacity = capacity
        #: both ends of each connection, the requestor's first
        self.connections: list[tuple[Transport, Transport]] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        far = self._acceptor.buildProtocol(_ADDRESS)
        if far is None:
            return fail(ConnectionRefusedError())  # type: ignore[no-untyped-call]
        near = protocolFactory.buildProtocol(_ADDRESS)
        ends = (
            Transport(cast(Protocol, near), self._capacity),
            Transport(cast(Protocol, far), self._capacity),
        )
        self.connections.append(ends)
        for end in reversed(ends):
            end.connect()
        return succeed(near)

    def exchange(self) -> None:
        """Let the ends read what the other has written, and take their turns, until nothing moves."""
        while self._move() or self._take_turns():
            pass

    def lose(self) -> None:
        """All connections are gone."""
        for ends in self.connections:
            for end in ends:
                end.lose()

    def _move(self) -> bool:
        moved = False
        for ends in self.connections:
            for writer, reader in (ends, ends[::-1]):
                # Where it is not read, it is not on its way any more, and fills the writer's buffer.
                if writer.written and reader.arrived:
                    moved = True
                    reader.deliver(writer.taken(), self._size)
            if any(end.connected and end.disconnecting and not end.written for end in ends):
                moved = True
                for end in ends:
                    end.lose()
        return moved

    def _take_turns(self) -> bool:
        now = self._reactor.seconds()
        due = any(call.getTime() <= now for call in self._reactor.getDelayedCalls())
        self._reactor.advance(0)
        return due
