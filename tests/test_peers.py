"""Tests of :mod:`dicomnode.peers`: the other end in memory does what a real one does."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode.acceptor import Acceptor
from dicomnode.core.command import Status
from dicomnode.node import Node
from dicomnode.policies import CallingAETitle
from dicomnode.requestor import associate
from dicomnode.services import Storage, Verification
from dicomnode.testing import CalledPeer, MemoryStorage, Network, Peer, Reactor, Transport, data_set
from dicomnode.timers import LINGER
from tests.files import Producer

CT, IMPLICIT_VR_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2"


class Talker(Protocol):
    """Says something of a length when it is connected, and notes what it hears."""

    says = 0

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.producer = Producer()
        self.lost = False

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.producer, True)
        self.transport.write(bytes(self.says))

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(len(data))

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class CapacityTests(SynchronousTestCase):
    """A transport whose other end does not read pauses who writes."""

    def test_capacity(self) -> None:
        """It does so once, and has it go on when what was written is taken."""
        talker = Talker()
        transport = Transport(talker, 10)
        transport.connect()
        transport.write(bytes(10))
        self.assertFalse(transport.full)
        for _ in range(2):
            transport.write(b"1")
            self.assertTrue(transport.full)
            self.assertEqual(talker.producer.told, ["pause"])
        transport.taken()
        self.assertEqual(talker.producer.told, ["pause", "resume"])

    def test_no_producer(self) -> None:
        """Where nobody is to be paused, nobody is."""
        talker = Talker()
        transport = Transport(talker, 10)
        transport.connect()
        transport.unregisterProducer()
        transport.write(bytes(11))
        self.assertTrue(transport.full)
        transport.taken()
        self.assertFalse(transport.full)
        self.assertEqual(talker.producer.told, [])


class NetworkTests(SynchronousTestCase):
    """Two ends in memory."""

    def setUp(self) -> None:
        self.reactor = Reactor()

    def joins(self, size: int | None = None, capacity: int | None = None) -> tuple[Network, Talker, Talker]:
        far, near = Factory.forProtocol(Talker), Factory.forProtocol(Talker)
        network = Network(self.reactor, far, size=size, capacity=capacity)
        verifyObject(IStreamClientEndpoint, network)
        protocol = self.successResultOf(network.connect(near))
        ((ours, theirs),) = network.connections
        self.assertIs(ours.protocol, protocol)
        return network, protocol, theirs.protocol  # type: ignore[return-value]

    def test_exchange(self) -> None:
        """What one writes the other reads, when it is told, in reads of a size."""
        network, near, far = self.joins(size=4)
        near.transport.write(bytes(10))
        far.transport.write(bytes(3))
        self.assertEqual((near.heard, far.heard), ([], []))
        network.exchange()
        self.assertEqual((near.heard, far.heard), ([3], [4, 4, 2]))

    def test_not_read(self) -> None:
        """While one does not read, the other is paused, as soon as there is no room for more."""
        network, near, far = self.joins(capacity=5)
        far.transport.pauseProducing()
        for _ in range(3):
            near.transport.write(bytes(6))
            network.exchange()
        self.assertEqual((near.producer.told, far.heard), (["pause", "resume", "pause"], []))
        far.transport.resumeProducing()
        network.exchange()
        self.assertEqual((near.producer.told[-1], sum(far.heard)), ("resume", 18))

    def test_closed(self) -> None:
        """What was written before a connection is closed arrives; then both have lost it."""
        network, near, far = self.joins()
        near.transport.write(b"last")
        near.transport.loseConnection()
        network.exchange()
        self.assertEqual((far.heard, near.lost, far.lost), ([4], True, True))

    def test_lost(self) -> None:
        """It may go away in the middle."""
        network, near, far = self.joins()
        near.transport.write(b"never read")
        network.lose()
        network.exchange()
        self.assertEqual((far.heard, near.lost, far.lost), ([], True, True))

    def test_turns(self) -> None:
        """What is due now is done; what is due later is not."""
        done: list[str] = []
        network, _, _ = self.joins()
        self.reactor.callLater(0, done.append, "now")
        later = self.reactor.callLater(1, done.append, "later")
        network.exchange()
        self.assertEqual(done, ["now"])
        later.cancel()

    def test_refused(self) -> None:
        """An acceptor that takes nobody refuses the connection."""

        class Refusing(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        connecting = Network(self.reactor, Refusing()).connect(Factory.forProtocol(Talker))
        self.failureResultOf(connecting, ConnectionRefusedError)


class CalledPeerTests(SynchronousTestCase):
    """An acceptor that does as it is told; :mod:`tests.test_requestor` has it do so."""

    def test_interface(self) -> None:
        """It is an endpoint."""
        verifyObject(IStreamClientEndpoint, CalledPeer())


class AbortTests(SynchronousTestCase):
    """A connection that is aborted is lost in the next turn, as a reactor's is."""

    def test_lost(self) -> None:
        """By the clock, once, however often it is aborted."""
        reactor, talker = Reactor(), Talker()
        transport = Transport(talker, clock=reactor)
        transport.connect()
        for _ in range(2):
            transport.abortConnection()
        self.assertFalse(talker.lost)
        self.assertEqual(len(reactor.getDelayedCalls()), 1)
        reactor.advance(0)
        self.assertTrue(talker.lost)
        self.assertFalse(transport.connected)

    def test_stops(self) -> None:
        """A node whose peers do not close their connections has stopped when it has waited for them."""
        reactor = Reactor()
        acceptor = Acceptor(reactor, [Verification()])
        node = Node([], acceptor)
        node.startService()
        peer = Peer(acceptor)
        peer.associates()
        stopping = node.stopService()
        reactor.advance(LINGER / 2)
        self.assertNoResult(stopping)
        reactor.advance(LINGER / 2)
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(reactor.getDelayedCalls(), [])


class MistakeTests(SynchronousTestCase):
    """Who expects what cannot be is told what is the case."""

    def assertTold(self, words: str, expects: Callable[[], object]) -> None:
        error = self.assertRaises(AssertionError, expects)
        self.assertEqual(str(error), words)

    def accepted(self, **parameters: Any) -> Peer:
        self.reactor = Reactor()
        services = [Storage(MemoryStorage()), Verification()]
        return Peer(Acceptor(self.reactor, services, **parameters))

    def test_no_answer(self) -> None:
        """A response that has not come."""
        peer = self.accepted()
        self.assertTold("nothing has been answered: the association is in Sta1", lambda: peer.response)
        peer.associates()
        confirmed = "the association is in Sta6, upon AssociateAC"
        self.assertTold(f"nothing has been answered: {confirmed}", lambda: peer.response)

    def test_rejected(self) -> None:
        """A message on an association that was rejected."""
        peer = self.accepted(policy=CallingAETitle("X"))
        peer.associates()
        rejected = "the association is in Sta1, upon AssociateRJ"
        self.assertTold(f"no context was accepted for 1.2.840.10008.1.1: {rejected}", peer.echoes)

    def test_not_proposed(self) -> None:
        """An instance, where no SOP Class was proposed of which there are any."""
        peer = self.accepted()
        peer.associates()
        self.assertTold(
            "no context was accepted for any SOP Class to store: "
            "the association is in Sta6, upon AssociateAC",
            lambda: peer.stores("1.2.3", data_set("1.2.3")),
        )

    def test_first_to_store(self) -> None:
        """An instance is of the first SOP Class of which there are any."""
        peer = self.accepted()
        peer.associates({"1.2.840.10008.1.1": [IMPLICIT_VR_LE], CT: [IMPLICIT_VR_LE]})
        peer.stores("1.2.3", data_set("1.2.3", transfer_syntax_uid=IMPLICIT_VR_LE))
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_called(self) -> None:
        """Of an acceptor, what has not been asked of it."""
        peer = CalledPeer()
        associating = associate(Reactor(), peer)
        self.assertTold("no A-ASSOCIATE-RQ has arrived", lambda: peer.request)
        peer.accepts()
        association = self.successResultOf(associating)
        self.assertTold("no message has arrived", peer.responds)
        association.abort()

    def test_rejects(self) -> None:
        """An acceptor that rejects does so permanently and for no reason, unless it is told how."""
        peer = CalledPeer()
        associating = associate(Reactor(), peer)
        peer.rejects()
        error = self.failureResultOf(associating).value
        self.assertEqual((error.result, error.source, error.reason), (1, 1, 1))
