"""Tests of who may send."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import (
    Acceptor,
    AssociationRejected,
    ContextNotAccepted,
    IAssociationPolicy,
    Storage,
    Verification,
    associate,
)
from dicomnode.contracts import PolicyContract
from dicomnode.core.pdu import AssociateRQ
from dicomnode.testing import MemoryStorage, Network, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, VERIFICATION
from triage.senders import Senders
from triage.tests.samples import CT


class SenderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: dict[str, Deferred[Collection[str]]] = {}
        self.reactor = Reactor()
        services = [Verification(), Storage(MemoryStorage())]
        policy = Senders(lambda title: self.asked.setdefault(title, Deferred()))
        self.network = Network(self.reactor, Acceptor(self.reactor, services, policy=policy))

    def test_known(self) -> None:
        """Whom the directory knows may associate, once it has said so, and for what it has said."""
        contexts = {VERIFICATION: [EXPLICIT_VR_LE], CT: [EXPLICIT_VR_LE]}
        associating = associate(self.reactor, self.network, calling_ae_title="CT1", contexts=contexts)
        self.network.exchange()
        self.assertNoResult(associating)
        self.asked["CT1"].callback([CT])
        self.network.exchange()
        association = self.successResultOf(associating)
        accepted = [context.abstract_syntax for context in association.contexts.values()]
        self.assertEqual(accepted, [CT])
        self.failureResultOf(association.echo(), ContextNotAccepted)

    def test_unknown(self) -> None:
        """The others are refused, with the standard's codes."""
        associating = associate(self.reactor, self.network, calling_ae_title="CT2")
        self.network.exchange()
        self.asked["CT2"].callback([])
        self.network.exchange()
        refused = self.failureResultOf(associating, AssociationRejected).value
        self.assertEqual((refused.result, refused.source, refused.reason), (1, 1, 3))


class SenderContractTests(PolicyContract, SynchronousTestCase):
    """What every policy promises."""

    def make_policy(self) -> IAssociationPolicy:
        return Senders(lambda title: succeed([VERIFICATION] if title == "CT1" else []))

    def accepted(self) -> list[AssociateRQ]:
        return [self.request("CT1")]

    def refused(self) -> list[AssociateRQ]:
        return [self.request("CT2"), self.request("")]
