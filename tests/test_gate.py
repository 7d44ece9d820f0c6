"""Tests of :mod:`dicomnode.gate`: what stops an association from reading, and lets it go on."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.association import MessageReceived
from dicomnode.core.command import (
    CEchoRQ,
    CEchoRSP,
    CStoreRSP,
    respond,
)
from dicomnode.interfaces import IOperation
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer, Transport
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    Service,
    ShellTestCase,
    Waiting,
    begun,
    data,
    echo_rq,
    message,
    store_rq,
)


class GateTests(ShellTestCase):
    """Whoever is behind pauses the transport."""

    def begin(self, peer: Peer) -> Any:
        """Begin a C-STORE; return what its writer can pause."""
        peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False))
        return self.storage.writers[-1].producer

    def test_writer_behind(self) -> None:
        """A writer that is behind stops the reading, until it has caught up."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        self.assertReading(peer, False)
        peer.sends(data(CT, b"ta"))
        self.assertResponses(peer)
        producer.resumeProducing()
        peer.exchange()
        self.assertResponses(peer, 0x0000)
        self.assertEqual(self.storage.instances["1.2.3"][1], b"data")

    def test_nobody_takes_it(self) -> None:
        """Until someone takes the data set, nothing more is read than what came with its request."""
        for came in (b"", data(CT, b"da", last=False)):
            service = Waiting()
            service._perform = lambda operation, service=service: service.turn()  # type: ignore[misc]
            self.accepts(service)
            peer = self.associates()
            peer.sends(begun(CT, store_rq()) + came)
            self.assertReading(peer, False)
            self.assertEqual(len(self.seen.of(events.Paused)), 1)
            self.seen.events.clear()

    def test_delivers_when_resumed(self) -> None:
        """What a transport delivers while the consumer is given what came before comes behind that."""

        class OneByOne(Transport):
            def resumeProducing(self) -> None:
                self.paused = False
                if self._arriving:
                    self.protocol.dataReceived(self._arriving.popleft())

        @implementer(IConsumer)
        class Restless:
            def __init__(self) -> None:
                self.data = b""

            def registerProducer(self, producer: Any, streaming: bool) -> None:
                self.producer = producer

            def unregisterProducer(self) -> None:
                pass

            def write(self, octets: bytes) -> None:
                self.data += octets
                self.producer.pauseProducing()
                self.producer.resumeProducing()

        turn: Deferred[None] = Deferred()
        consumer = Restless()

        async def perform(operation: IOperation) -> int:
            await turn
            await operation.deliver_data_set(consumer)
            return 0

        self.accepts(Service(perform))
        peer = self.associates()
        transport = peer.transport
        transport.__class__ = OneByOne
        peer.association.dataReceived(begun(CT, store_rq()) + data(CT, b"11", False) + data(CT, b"22", False))
        for fragments in ((b"33", b"44"), (b"55",)):
            transport._arriving.append(b"".join(data(CT, fragment, False) for fragment in fragments))
        transport._arriving.append(data(CT, b"66"))
        turn.callback(None)
        while transport._arriving:
            transport.resumeProducing()
        peer.exchange()
        self.assertEqual(consumer.data, b"112233445566")
        self.assertResponses(peer, 0x0000)

    def test_closed_when_released(self) -> None:
        """What is delivered the moment that it reads on may be a reason not to."""

        class Eager(Transport):
            def resumeProducing(self) -> None:
                super().resumeProducing()
                gate.close("reason")

        peer = self.associates()
        gate = peer.association._gate
        peer.transport.__class__ = Eager
        gate.hold()
        gate.release()
        self.assertReading(peer, False)
        peer.transport.__class__ = Transport
        gate.open("reason")
        self.assertReading(peer)

    def test_pauses_are_observed(self) -> None:
        """Each pause is observed once, and each end of one, however often a writer says so."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        producer.pauseProducing()
        producer.resumeProducing()
        producer.resumeProducing()
        self.assertEqual(len(self.seen.of(events.Paused)), 1)
        self.assertEqual(len(self.seen.of(events.Resumed)), 1)
        peer.sends(data(CT, b"ta"))
        self.assertEqual(len(self.seen.of(events.Paused)), 1)

    def test_abort_upon_a_pause(self) -> None:
        """Who is told of a pause may abort: nothing keeps the peer's close from being heard then."""

        def observe(event: events.Event) -> None:
            self.seen(event)
            if isinstance(event, events.Paused):
                self.peer.association.abort()

        self.accepts(Storage(self.storage, check=False), observe=observe)
        self.peer = self.associates()
        self.storage.stalls()
        self.peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False))
        self.assertFalse(self.peer.transport.paused)
        self.assertFalse(self.peer.association._gate.closed)
        self.assertEqual(len(self.seen.of(events.Resumed)), 1)
        self.storage.recovers()

    def test_paused_and_resumed_upon_a_resumption(self) -> None:
        """Who is told that it goes on may pause and resume: how many are paused is still known."""

        def observe(event: events.Event) -> None:
            if isinstance(event, events.Resumed) and not again:
                again.append(event)
                self.storage.writers[-1].producer.pauseProducing()
                self.storage.writers[-1].producer.resumeProducing()

        again: list[events.Resumed] = []
        self.accepts(Storage(self.storage, check=False), observe=observe)
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        producer.resumeProducing()
        self.assertEqual(len(again), 1)
        self.assertReading(peer)
        self.assertEqual(peer.association._reads._paused, 0)

    def test_what_arrives_after_the_pause(self) -> None:
        """A paused writer takes the rest of the read, and what a transport delivers all the same."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.association.dataReceived(data(CT, b"ta"))
        self.assertEqual(self.storage.instances["1.2.3"][1], b"data")

    def test_end_of_the_data_set(self) -> None:
        """When the data set is complete, its writer holds up nothing more."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.association.dataReceived(data(CT, b"ta"))
        self.assertReading(peer)

    def test_opening(self) -> None:
        """Until there is a writer nothing is read, and nothing lost."""
        for size in (1, 10, None):
            self.storage.stalls()
            peer = self.associates(size)
            peer.stores("1.2.3", b"data set", CT_IMAGE_STORAGE)
            peer.echoes()
            self.assertReading(peer, False)
            self.storage.recovers()
            peer.exchange()
            self.assertReading(peer)
            self.assertResponses(peer, 0x0000, 0x0000)
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], b"data set")

    def test_opening_fails(self) -> None:
        """Where no writer can be had, the data set is dropped, the request answered, and reading goes on."""
        for size in (1, 10, None):
            self.storage.stalls()
            peer = self.associates(size)
            peer.stores("1.2.3", b"data set", CT_IMAGE_STORAGE)
            peer.echoes()
            self.storage.error = OSError(28, "No space left on device")
            self.storage.recovers()
            self.storage.error = None
            peer.exchange()
            self.assertResponses(peer, 0xA700, 0x0000)

    def test_two_at_a_time(self) -> None:
        """Two operations at a time; the third waits, and what is behind it waits in the transport."""
        service = Waiting()
        self.accepts(Verification(), service)
        peer = self.associates(10)
        peer.sends(
            b"".join(message(CT, store_rq(number, f"1.2.{number}"), b"data") for number in range(1, 5))
        )
        self.assertEqual(len(service.operations), 2)
        self.assertReading(peer, False)
        service.turns[1].callback(0)
        self.assertEqual(len(service.operations), 3)
        self.assertReading(peer, False)
        service.turns[0].callback(0)
        self.assertEqual(len(service.operations), 4)
        self.assertReading(peer)
        service.turns[2].callback(0)
        service.turns[3].callback(0)
        peer.exchange()
        self.assertResponses(peer, 0, 0, 0, 0)

    def test_nothing_but_requests_waits(self) -> None:
        """With as many operations as there may be, an A-ABORT is heard."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(1), b"data") + message(CT, store_rq(2, "1.2.4"), b"data"))
        self.assertReading(peer)
        peer.aborts()
        self.assertEqual(self.last(events.AbortReceived).association, peer.association)
        self.assertEqual(service.cancelled, 2)

    def test_responses_behind_requests(self) -> None:
        """Where a service invokes on its own association, requests that pile up do not bury the responses."""

        async def echo_back(operation: IOperation) -> int:
            await operation.read_data_set(100)
            response = await operation.association.invoke(echo_rq(9), context=ECHO)
            return response.status

        self.accepts(Verification(), Service(echo_back))
        peer = self.associates()
        peer.sends(b"".join(message(CT, store_rq(number, f"1.2.{number}"), b"data") for number in (1, 2, 3)))
        self.assertReading(peer)
        (refused,) = peer.responses
        self.assertEqual((refused.message_id_being_responded_to, refused.status), (3, 0x0213))
        for _ in range(2):  # one after the other: no window was negotiated
            asked = [item.command for item in peer.indications if isinstance(item, MessageReceived)]
            (request,) = (command for command in asked if isinstance(command, CEchoRQ))
            peer.indications.clear()
            peer.sends(message(ECHO, respond(request, 0)))
            peer.exchange()
        asked = [item.command for item in peer.indications if isinstance(item, MessageReceived)]
        self.assertEqual([command.status for command in asked if isinstance(command, CStoreRSP)], [0])

    def test_response_behind_waiting_request(self) -> None:
        """A request that waits does so no longer once a response is awaited, which may be behind it."""
        turn: Deferred[None] = Deferred()

        async def echo_back(operation: IOperation) -> int:
            await operation.read_data_set(100)
            await turn
            response = await operation.association.invoke(echo_rq(9), context=ECHO)
            return response.status

        self.accepts(Verification(), Service(echo_back))
        peer = self.associates()
        peer.sends(b"".join(message(CT, store_rq(number, f"1.2.{number}"), b"data") for number in (1, 2, 3)))
        self.assertReading(peer, False)
        self.reactor.callLater(1, turn.callback, None)
        self.reactor.advance(1)
        self.assertReading(peer)
        peer.exchange()
        (refused,) = peer.responses
        self.assertEqual((refused.message_id_being_responded_to, refused.status), (3, 0x0213))
        peer.sends(message(ECHO, respond(echo_rq(1), 0)))
        peer.exchange()
        self.assertEqual([response.message_id_being_responded_to for response in peer.responses], [3, 1])

    def test_waiting_when_it_ends(self) -> None:
        """A request that waits when its association ends is performed by nobody."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(b"".join(message(CT, store_rq(number, f"1.2.{number}"), b"data") for number in (1, 2, 3)))
        peer.association.abort()
        self.assertEqual(len(service.operations), 2)

    def test_peer_that_does_not_read(self) -> None:
        """Who does not read our answers is not read from."""
        peer = self.associates()
        backlog = peer.transport.producer
        verifyObject(IPushProducer, backlog)
        backlog.pauseProducing()
        self.assertReading(peer, False)
        backlog.resumeProducing()
        self.assertReading(peer)
        backlog.stopProducing()
        self.assertReading(peer)

    def test_several_reasons(self) -> None:
        """Reading goes on when no reason to pause is left."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        peer.transport.producer.pauseProducing()
        producer.resumeProducing()
        self.assertReading(peer, False)
        peer.transport.producer.resumeProducing()
        self.assertReading(peer)

    def test_committing(self) -> None:
        """While a commit takes its time we read on: A-ABORT is heard."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        self.storage.stalls()
        peer.association.dataReceived(data(CT, b"ta"))
        self.assertReading(peer)
        peer.aborts()
        self.assertIsNone(self.last(events.OperationEnded).response)
        self.assertClosing(peer)
        self.storage.recovers()
        self.assertEqual(self.storage.instances["1.2.3"][1], b"data")

    def test_echo_while_committing(self) -> None:
        """What was asked later may be answered sooner."""
        peer = self.associates()
        self.begin(peer)
        self.storage.stalls()
        peer.sends(data(CT, b"ta") + message(ECHO, echo_rq(2)))
        self.assertEqual([type(response) for response in peer.responses], [CEchoRSP])
        self.storage.recovers()

    def test_paused_when_it_ends(self) -> None:
        """An abort ends every pause: what still comes is read, for the peer's close."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.association.abort()
        self.assertReading(peer)
        self.assertAborted(peer)

    def test_closing_the_transport_while_paused(self) -> None:
        """A connection that goes away while it is paused leaves nothing behind."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.transport.lose()
        self.assertEqual(self.storage.writers[0].ended, "abort")
