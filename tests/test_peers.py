"""Tests of :mod:`dicomnode.peers`: the other end in memory does what a real one does."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode.testing import CalledPeer, Network, Reactor, Transport
from tests.files import Producer


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
