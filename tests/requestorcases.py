"""What tests of a requestor have in common: a network in memory, and an acceptor on it."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.pdu import Abort
from dicomnode.requestor import ServiceUser, associate
from dicomnode.testing import CalledPeer, Network, Reactor, Recorder
from tests import files
from tests.cases import (
    CONTEXTS,
    CT_IMAGE_STORAGE,
    IMPLICIT_VR_LE,
    TIMEOUTS,
    QuickPool,
)

#: A SOP Class for retrieval.
GET = "1.2.840.10008.5.1.4.1.2.2.3"

NAMES = {
    "sop_class_uid": CT_IMAGE_STORAGE,
    "sop_instance_uid": "1.2.3",
    "transfer_syntax_uid": IMPLICIT_VR_LE,
}


class Producer(files.Producer):
    """A body that produces when it is told."""

    length: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.done: Deferred[None] = Deferred()
        self.consumer: Any = None

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self.consumer = consumer
        return self.done


class RequestorCase(SynchronousTestCase):
    """Tests of a requestor; at the end, no timer is left."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.reactor.pool = QuickPool()
        self.seen = Recorder()
        self.called: list[CalledPeer] = []
        self.networks: list[Network] = []
        self.addCleanup(self.assertNothingLeft)

    def requests(
        self, peer: CalledPeer | None = None, **how: Any
    ) -> tuple[CalledPeer, Deferred[ServiceUser]]:
        """Request an association of a peer that does as it is told."""
        peer = peer or CalledPeer()
        self.called.append(peer)
        options = {"contexts": CONTEXTS, "timeouts": TIMEOUTS, "observe": self.seen} | how
        associating = associate(self.reactor, peer, **options)
        peer.exchange()
        return peer, associating

    def associates(
        self, peer: CalledPeer | None = None, answer: dict[str, Any] | None = None, **how: Any
    ) -> tuple[CalledPeer, ServiceUser]:
        """Return a peer that does as it is told, with an association."""
        peer, associating = self.requests(peer, **how)
        peer.accepts(**answer or {})
        return peer, self.successResultOf(associating)

    def joins(self, acceptor: Factory, **how: Any) -> tuple[Network, ServiceUser]:
        """Return an association with one of our own acceptors."""
        network = Network(self.reactor, acceptor, **{k: how.pop(k) for k in ("size", "capacity") if k in how})
        self.networks.append(network)
        options = {"contexts": CONTEXTS, "timeouts": TIMEOUTS, "observe": self.seen} | how
        associating = associate(self.reactor, network, **options)
        network.exchange()
        return network, self.successResultOf(associating)

    def assertNothingLeft(self) -> None:
        for peer in self.called:
            peer.transport.lose()
        for network in self.networks:
            network.lose()
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.active()], [])

    def turns(self, peer: CalledPeer, turns: int = 20) -> None:
        """Let so many turns of the reactor pass, in each of which a peer reads what it was sent."""
        for _ in range(turns):
            self.reactor.advance(0)
            peer.exchange()

    def assertAborts(self, peer: CalledPeer) -> None:
        """Assert that the last that a peer was sent is an A-ABORT."""
        self.assertEqual(peer.transport.taken()[-10:], Abort().encode())
