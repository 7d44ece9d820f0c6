"""Tests of all of it together."""

from __future__ import annotations

from twisted.internet.defer import succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Status, associate, plan
from dicomnode.testing import MemoryStorage, Network, Reactor
from triage.senders import Senders
from triage.service import acceptor, node
from triage.tests.samples import CT, image


class ServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        self.reactor, self.storage = Reactor(), MemoryStorage()
        senders = Senders(lambda title: succeed([CT] if title == "CT1" else []))
        self.acceptor = acceptor(self.reactor, self.storage, senders, self.lines.append)
        self.network = Network(self.reactor, self.acceptor)

    def test_a_day(self) -> None:
        """The diary has what was kept, who has been there, and who was refused."""
        scan = image("1.2.3")
        associating = associate(
            self.reactor,
            self.network,
            calling_ae_title="CT1",
            called_ae_title="TRIAGE",
            contexts=plan([scan]),
        )
        self.network.exchange()
        association = self.successResultOf(associating)
        storing = association.store(scan)
        releasing = association.release()
        self.network.exchange()
        self.assertEqual(self.successResultOf(storing).status, Status.SUCCESS)
        self.successResultOf(releasing)
        self.successResultOf(association.when_ended())

        refused = associate(self.reactor, self.network, calling_ae_title="CT2", called_ae_title="TRIAGE")
        self.network.exchange()
        self.failureResultOf(refused)
        kept, over, no = self.lines
        self.assertTrue(kept.startswith("kept 1.2.3, "))
        self.assertEqual(over, "CT1 released after 1 instances")
        self.assertEqual(no, "refused: CT2 is in no directory")

    def test_listens_and_stops(self) -> None:
        """The node listens when it starts, and its port is closed when it has stopped."""
        reactor = MemoryReactorClock()
        service = node(TCP4ServerEndpoint(reactor, 11112), self.acceptor)
        service.startService()
        self.assertEqual(reactor.tcpServers[0][0], 11112)
        self.successResultOf(service.stopService())
