"""Tests of :mod:`dicomnode.limits`: how many may associate, and how many may only connect."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred

from dicomnode import events
from dicomnode.core.machine import State
from dicomnode.core.pdu import AssociateRJ
from dicomnode.errors import AssociationRejected
from dicomnode.limits import Limits, Slots
from dicomnode.services import Verification
from dicomnode.testing import Peer
from tests.cases import ShellTestCase

LOCAL_LIMIT_EXCEEDED = AssociateRJ(2, 3, 2)


class LimitsCase(ShellTestCase):
    """An acceptor with limits."""

    def limits(self, **limits: int) -> None:
        self.accepts(Verification(), limits=Limits(**{"associations": 0, "half_open": 0, **limits}))

    def comes(self, calling: str = "PEER", where: Any = "192.0.2.1") -> Peer:
        """Return a peer that has asked for an association from an address."""
        peer = self.connects()
        address = IPv4Address("TCP", where, 50000) if isinstance(where, str) else where
        self.patch(peer.transport, "getPeer", lambda: address)
        peer.associates(calling=calling)
        return peer

    def assertExceeded(self, peer: Peer, why: str) -> None:
        self.assertAnswered(peer, LOCAL_LIMIT_EXCEEDED)
        self.assertState(peer, State.STA13)
        self.assertEqual(self.last(events.AssociationRejected).why, why)


class SlotTests(LimitsCase):
    """An association takes a slot when it is accepted, and frees it when its connection is gone."""

    def test_defaults(self) -> None:
        """By default there are 500, of anyone, and 1,000 connections without an association."""
        self.assertEqual(Limits(), Limits(500, 0, 0, 1000))

    def test_in_all(self) -> None:
        """Beyond the limit, associations are refused with 2, 3, 2; who holds most of them is named."""
        self.limits(associations=3)
        for where in ("192.0.2.1", "192.0.2.2", "192.0.2.2"):
            self.assertEstablished(self.comes("CT1", where))
        why = "all 3 associations are in use, most of them by CT1 at 192.0.2.2 (2)"
        self.assertExceeded(self.comes("MR1", "192.0.2.3"), why)

    def test_freed(self) -> None:
        """Only the end of the transport connection frees a slot: not release, nor an abort of either end."""
        self.limits(associations=1)
        for end in (Peer.releases, Peer.aborts, lambda peer: peer.association.abort(), lambda peer: None):
            peer = self.comes()
            self.assertEstablished(peer)
            end(peer)
            self.assertAnswered(self.comes(), LOCAL_LIMIT_EXCEEDED)
            peer.transport.lose()
            peer = self.comes()
            self.assertEstablished(peer)
            peer.transport.lose()

    def test_refused_take_none(self) -> None:
        """Who is refused takes no slot, and frees none."""
        self.limits(associations=1)
        first = self.comes()
        for _ in range(5):
            refused = self.comes()
            self.assertAnswered(refused, LOCAL_LIMIT_EXCEEDED)
            refused.transport.lose()
        self.assertEstablished(first)
        first.transport.lose()
        self.assertEstablished(self.comes())

    def test_per_host(self) -> None:
        """One address has so many; the title that has most of them is named."""
        self.limits(per_host=2)
        for calling in ("CT1", "CT2"):
            self.assertEstablished(self.comes(calling))
        why = "all 2 associations of 192.0.2.1 are in use, most of them by CT1 at 192.0.2.1 (1)"
        self.assertExceeded(self.comes("CT3"), why)
        mapped = IPv6Address("TCP", "::ffff:192.0.2.1", 50000)
        self.assertAnswered(self.comes("CT3", mapped), LOCAL_LIMIT_EXCEEDED)
        self.assertEstablished(self.comes("CT3", "192.0.2.2"))
        self.peers[0].transport.lose()
        self.assertEstablished(self.comes("CT3"))
        self.assertAnswered(self.comes("CT3"), LOCAL_LIMIT_EXCEEDED)

    def test_unix(self) -> None:
        """Who is at a UNIX socket has no address, and no limit by address; by the others it has."""
        self.limits(per_host=1, associations=2)
        for _ in range(2):
            self.assertEstablished(self.comes("WS1", UNIXAddress(None)))
        why = "all 2 associations are in use, most of them by WS1 at UNIX sockets (2)"
        self.assertExceeded(self.comes(), why)

    def test_per_ae_title(self) -> None:
        """One calling AE title has so many; the address that has most of them is named."""
        self.limits(per_ae_title=2)
        for where in ("192.0.2.1", "192.0.2.2"):
            self.assertEstablished(self.comes("CT1", where))
        why = "all 2 associations of CT1 are in use, most of them by CT1 at 192.0.2.1 (1)"
        self.assertExceeded(self.comes("CT1", "192.0.2.3"), why)
        self.assertEstablished(self.comes("MR1", "192.0.2.3"))

    def test_blank_title(self) -> None:
        """Those without a title count as one that has none."""
        self.limits(per_ae_title=1)
        self.assertEstablished(self.comes(""))
        why = "all 1 associations of no title are in use, most of them by no title at 192.0.2.1 (1)"
        self.assertExceeded(self.comes("", "192.0.2.2"), why)

    def test_no_limit(self) -> None:
        """0 is no limit."""
        self.limits()
        for _ in range(20):
            self.assertEstablished(self.comes())

    def test_policy_first(self) -> None:
        """Who may not associate at all is told that, though there is no slot either."""

        class Policy:
            def consider(self, request: object, peer: object) -> None:
                raise AssociationRejected(1, 1, 3)

        self.accepts(Verification(), policy=Policy(), limits=Limits(associations=1))
        for _ in range(3):
            self.assertAnswered(self.comes(), AssociateRJ(1, 1, 3))

    def test_taken_at_once(self) -> None:
        """A slot is taken when the policy has decided: no two who were considered together get one."""
        answers: list[Deferred[None]] = []

        class Policy:
            def consider(self, request: object, peer: object) -> Deferred[None]:
                answers.append(Deferred())
                return answers[-1]

        self.accepts(Verification(), policy=Policy(), limits=Limits(associations=1))
        first, second = self.comes(), self.comes()
        for answer, peer in zip(answers, (first, second), strict=True):
            answer.callback(None)
            peer.exchange()
        self.assertEstablished(first)
        self.assertAnswered(second, LOCAL_LIMIT_EXCEEDED)

    def test_nothing_is_kept(self) -> None:
        """Of those who have gone, nothing is kept; and to free what holds no slot does nothing."""
        slots = Slots()
        self.limits()
        association = self.comes().association
        slots.take(association, association.peer)
        self.assertEqual(len(slots), 1)
        for _ in range(2):
            slots.free(association)
            self.assertEqual(len(slots), 0)
            self.assertEqual((dict(slots._hosts), dict(slots._ae_titles)), ({}, {}))


class HalfOpenTests(LimitsCase):
    """Connections without an association have a limit of their own, beyond which the oldest goes."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.reactor.advance, 0)  # in which what is dropped is gone

    def dropped(self) -> list[bool]:
        return [peer.transport.aborted for peer in self.peers]

    def test_oldest(self) -> None:
        """The oldest is dropped, and takes no slot from anyone."""
        self.limits(half_open=3, associations=1)
        for _ in range(5):
            self.connects()
        self.assertEqual(self.dropped(), [True, True, False, False, False])
        self.assertEstablished(self.comes())

    def test_associations_do_not_count(self) -> None:
        """Who is associated is no more half-open, and never dropped for those who are."""
        self.limits(half_open=2)
        peers = [self.comes() for _ in range(5)]
        for _ in range(3):
            self.connects()
        self.assertEqual(self.dropped(), [False] * 5 + [True, False, False])
        for peer in peers:
            self.assertEstablished(peer)

    def test_refused_count(self) -> None:
        """Who was refused, and does not close, is without an association, too."""
        self.limits(half_open=2, associations=1)
        self.comes()
        for _ in range(3):
            self.assertAnswered(self.comes(), LOCAL_LIMIT_EXCEEDED)
        self.assertEqual(self.dropped(), [False, True, False, False])

    def test_gone(self) -> None:
        """Who has gone does not count."""
        self.limits(half_open=2)
        for _ in range(5):
            self.connects().transport.lose()
        self.connects()
        self.connects()
        self.assertEqual(self.dropped(), [False] * 7)

    def test_told(self) -> None:
        """That there are too many is told with who has most of them; again only after there were few."""
        self.limits(half_open=4)
        for _ in range(10):
            self.connects()
        self.assertEqual(self.seen.of(events.TooManyHalfOpen), [events.TooManyHalfOpen(4, "192.0.2.1", 4)])
        for peer in self.peers:
            peer.transport.lose()
        for _ in range(5):
            self.connects()
        self.assertEqual(len(self.seen.of(events.TooManyHalfOpen)), 2)

    def test_never_connected(self) -> None:
        """What was built, and has never got a transport, holds no one up."""
        self.limits(half_open=1)
        for _ in range(3):
            self.acceptor.buildProtocol(None)
        self.assertEqual(self.last(events.TooManyHalfOpen), events.TooManyHalfOpen(1, "nowhere", 0))
        self.acceptor.associations.clear()  # nobody will say that they are gone

    def test_observer_fails(self) -> None:
        """An observer that fails keeps no one from connecting."""

        def observe(event: events.Event) -> None:
            raise ZeroDivisionError

        self.accepts(Verification(), limits=Limits(half_open=1), observe=observe)
        for _ in range(2):
            self.connects()
        self.assertEqual(self.dropped(), [True, False])
        for peer in self.peers:
            peer.transport.lose()
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
