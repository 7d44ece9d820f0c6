"""Tests of :mod:`dicomnode.acceptor`: who may associate, on what, and how it all stops."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from dicomnode import events
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import State
from dicomnode.core.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, ProposedContext, ReleaseRQ
from dicomnode.errors import AssociationRejected
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.limits import Limits
from dicomnode.protocol import AssociationProtocol
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer
from dicomnode.uids import VERIFICATION
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    IMPLICIT_VR_LE,
    Service,
    ShellTestCase,
    Waiting,
    begun,
    data,
    echo_rq,
    message,
    store_rq,
)

REQUEST = AssociateRQ("ANY-SCP", "PEER", (ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,)),))


class Policy:
    """A policy that says what it was told to, and remembers whom it was asked about."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.asked: list[AssociateRQ] = []

    def consider(self, request: AssociateRQ, peer: object) -> Any:
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


class PolicyTests(ShellTestCase):
    """A policy says who may associate."""

    def considers(self, policy: Any) -> Peer:
        """Return a peer whose request this policy considers."""
        self.accepts(Verification(), policy=policy)
        return self.associates()

    def assertRejected(self, peer: Peer, result: int, source: int, reason: int) -> None:
        self.assertAnswered(peer, AssociateRJ(result, source, reason))
        self.assertState(peer, State.STA13)
        self.assertEqual(self.last(events.AssociationRejected).rejection, AssociateRJ(result, source, reason))

    def test_accept(self) -> None:
        """Who is not refused is accepted, and its request and the answer observed."""
        peer = self.considers(Policy())
        self.assertEstablished(peer)
        accepted = self.last(events.AssociationAccepted)
        self.assertIs(accepted.request, self.last(events.AssociationRequested).request)
        self.assertEqual(peer.indications, [AssociateConfirmed(accepted.answer)])

    def test_reject(self) -> None:
        """A refusal has the policy's codes, and its words are for the operator."""
        peer = self.considers(Policy(AssociationRejected(2, 3, 2, "come back later")))
        self.assertRejected(peer, 2, 3, 2)
        self.assertEqual(self.last(events.AssociationRejected).why, "come back later")
        peer.transport.lose()
        self.assertEqual(self.last(events.AssociationEnded).how, "rejected")

    def test_later(self) -> None:
        """A policy may take its time, to accept or to refuse."""
        answer: Deferred[None] = Deferred()
        peer = self.considers(Policy(answer))
        self.assertState(peer, State.STA3)
        answer.callback(None)
        peer.exchange()
        self.assertEstablished(peer)
        answer = Deferred()
        peer = self.considers(Policy(answer))
        answer.errback(AssociationRejected(1, 1, 3))
        peer.exchange()
        self.assertRejected(peer, 1, 1, 3)

    def test_never(self) -> None:
        """A policy that never answers is given up, and its peer told."""
        cancelled: list[object] = []
        peer = self.considers(Policy(Deferred(cancelled.append)))
        self.assertPatient()
        self.assertEqual(cancelled, [])
        self.passes(1)
        self.assertAborted(peer)
        self.assertEqual(len(cancelled), 1)

    def test_impatient_peer(self) -> None:
        """What a peer sends while it is considered is out of place."""
        answer: Deferred[None] = Deferred()
        peer = self.considers(Policy(answer))
        peer.sends(message(ECHO, echo_rq()))
        self.assertAborted(peer, 2, 2)

    def test_bug(self) -> None:
        """A bug in a policy refuses, transiently; it is reported once."""
        for answer in (ZeroDivisionError(), fail(ZeroDivisionError())):
            self.seen.events.clear()
            self.assertRejected(self.considers(Policy(answer)), 2, 1, 1)
            self.assertEqual(self.last(events.Unexpected).doing, "considering an A-ASSOCIATE-RQ")
            self.assertEqual(len(self.seen.of(events.Unexpected)), 1)

    def test_cancels_itself(self) -> None:
        """A policy that cancels what it waits for has a bug; its peer is not left waiting."""
        answer: Deferred[None] = Deferred()
        peer = self.considers(Policy(answer))
        answer.cancel()
        peer.exchange()
        self.assertRejected(peer, 2, 1, 1)

    def test_impossible_codes(self) -> None:
        """Codes that do not fit into the PDU are a bug; the peer is not left waiting."""
        peer = self.considers(Policy(AssociationRejected(1, 1, 256)))
        self.assertAborted(peer)
        self.assertEqual(self.last(events.Unexpected).doing, "answering an A-ASSOCIATE-RQ")
        self.passes(10)
        self.assertTrue(peer.transport.aborted)

    def test_peer_leaves(self) -> None:
        """When the peer leaves, the policy is cancelled, and that is nobody's fault."""
        for leave in (Peer.aborts, lambda peer: peer.transport.lose()):
            cancelled: list[object] = []
            peer = self.considers(Policy(Deferred(cancelled.append)))
            leave(peer)
            self.assertEqual(len(cancelled), 1)
            self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_stubborn(self) -> None:
        """A policy that answers when it is cancelled answers no one."""
        for outcome in (None, AssociationRejected(1, 1, 1)):
            answer: Deferred[None] = Deferred(
                lambda deferred, outcome=outcome: (
                    deferred.errback(outcome) if outcome else deferred.callback(None)
                )
            )
            peer = self.considers(Policy(answer))
            peer.aborts()
            self.assertEqual(peer.transport.written, [])
            self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_much_too_late(self) -> None:
        """A policy that answers when the peer has long gone gives its slot to no one."""
        later: Deferred[None] = Deferred()
        answer: Deferred[None] = Deferred(lambda deferred: deferred.callback(None))
        answer.addCallback(lambda _: later)
        self.accepts(Verification(), policy=Policy(answer), limits=Limits(associations=1))
        self.associates().transport.lose()
        later.callback(None)
        self.assertEstablished(self.associates())
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_bug_when_cancelled(self) -> None:
        """A policy that fails otherwise when it is cancelled has a bug."""
        answer: Deferred[None] = Deferred(lambda deferred: deferred.errback(ZeroDivisionError()))
        self.considers(Policy(answer)).aborts()
        self.assertEqual(len(self.seen.of(events.Unexpected)), 1)

    def test_any(self) -> None:
        """Without a policy, everyone is accepted."""
        self.accepts(Verification())
        self.assertEstablished(self.associates(called="WHOEVER"))

    def test_application_context(self) -> None:
        """Another Application Context Name than DICOM's is refused with 1, 1, 2; no policy is asked."""
        policy = Policy()
        self.accepts(Verification(), policy=policy)
        peer = self.connects()
        peer.transport.deliver(replace(REQUEST, application_context="1.2.3").encode())
        self.assertEqual(peer.transport.taken(), AssociateRJ(1, 1, 2).encode())
        self.assertEqual(policy.asked, [])

    def test_protocol_version(self) -> None:
        """Another protocol version is refused with 1, 2, 2; no policy is asked."""
        policy = Policy()
        self.accepts(Verification(), policy=policy)
        peer = self.connects()
        peer.transport.deliver(replace(REQUEST, protocol_version=2).encode())
        self.assertEqual(peer.transport.taken(), AssociateRJ(1, 2, 2).encode())
        self.assertEqual(policy.asked, [])
        self.assertEqual(self.last(events.AssociationRejected).why, "the protocol version is not 1")
        self.assertEqual(peer.association.calling_ae_title, "PEER")


class ContextTests(ShellTestCase):
    """What is agreed upon follows from the services."""

    def answer(self, peer: Peer) -> AssociateAC:
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC)
        return confirmed.answer

    def test_order(self) -> None:
        """Contexts are answered one by one, in the order in which they were proposed."""
        answer = self.answer(self.associates())
        self.assertEqual(
            [(context.id, context.result) for context in answer.contexts], [(1, 0), (3, 0), (5, 3)]
        )

    def test_several_services(self) -> None:
        """Each service performs what is asked on its own contexts."""
        one, other = Service(lambda _: succeed(1), VERIFICATION), Service(lambda _: succeed(2))
        self.accepts(one, other)
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data") + message(ECHO, echo_rq()))
        self.assertResponses(peer, 2, 1)

    def test_two_services_for_one(self) -> None:
        """Where two services serve an abstract syntax, the first does."""
        one, other = Service(lambda _: succeed(1)), Service(lambda _: succeed(2))
        self.accepts(one, other)
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertResponses(peer, 1)

    def test_no_service_any_more(self) -> None:
        """What nobody serves any more is answered with 0x0211."""
        service = Service(lambda _: succeed(0))
        self.accepts(service)
        peer = self.associates()
        service.contexts = {}
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertResponses(peer, 0x0211)

    def test_no_services(self) -> None:
        """An acceptor without services accepts associations on which nothing can be asked."""
        self.accepts()
        answer = self.answer(self.associates())
        self.assertEqual([context.result for context in answer.contexts], [3, 3, 3])

    def test_user_information(self) -> None:
        """We say who we are, and how long a P-DATA-TF we accept."""
        self.accepts(Verification(), max_length=4096)
        self.assertEqual(
            self.answer(self.associates()).user_information,
            UserInformation(
                max_length=4096,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            ),
        )

    def test_held_to_the_maximum(self) -> None:
        """A peer is held to the maximum length that we announce; 0 is no limit."""
        for max_length, length, state in ((100, 200, State.STA13), (0, 200_000, State.STA6)):
            self.accepts(Storage(self.storage, check=False), max_length=max_length)
            peer = self.associates()
            peer.transport.deliver(data(CT, bytes(length))[:6])
            self.assertState(peer, state)

    def test_numbers(self) -> None:
        """Associations are numbered from 1."""
        self.assertEqual([self.connects().association.number for _ in range(3)], [1, 2, 3])

    def test_factory(self) -> None:
        """An association knows its factory, as Twisted's protocols do."""
        self.assertIs(self.connects().association.factory, self.acceptor)


class DrainTests(ShellTestCase):
    """An acceptor stops in good order."""

    def waiting(self) -> tuple[Peer, Waiting]:
        """Return a peer, and the service that performs its C-STORE when it is told."""
        service = Waiting()
        self.accepts(Verification(), service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        return peer, service

    def assertDropped(self, peer: Peer) -> None:
        """Assert that a peer which does not close is dropped before long."""
        self.passes(1)
        self.assertTrue(peer.transport.aborted)

    def test_no_one(self) -> None:
        """Where there is no one, draining is done at once; and it may be asked for again."""
        self.successResultOf(self.acceptor.drain(30))
        self.successResultOf(self.acceptor.drain(30))

    def test_no_one_more(self) -> None:
        """No one is accepted any more."""
        self.acceptor.drain(30)
        self.assertIsNone(self.acceptor.buildProtocol(None))

    def test_idle(self) -> None:
        """An idle peer is aborted at once; draining ends with its connection."""
        peer = self.associates()
        drained = self.acceptor.drain(30)
        self.assertAborted(peer)
        self.assertEqual(self.last(events.AbortSent).why, "the service stops")
        self.assertNoResult(drained)
        peer.transport.lose()
        self.successResultOf(drained)

    def test_in_flight(self) -> None:
        """What is being performed is answered; then the peer is aborted."""
        peer, service = self.waiting()
        drained = self.acceptor.drain(30)
        self.passes(29)
        service.turns[0].callback(0)
        peer.exchange()
        self.assertEqual(peer.response.status, 0)
        self.assertAborted(peer)
        peer.transport.lose()
        self.successResultOf(drained)

    def test_on_its_way(self) -> None:
        """A data set that is arriving may arrive."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False))
        self.acceptor.drain(30)
        peer.sends(data(CT, b"ta"))
        self.assertEqual(peer.response.status, 0)
        self.assertAborted(peer)

    def test_released_meanwhile(self) -> None:
        """Who releases while its last operation is performed is released."""
        peer, service = self.waiting()
        peer.releases()
        self.acceptor.drain(30)
        service.turns[0].callback(0)
        self.assertEqual(self.seen.of(events.AbortSent), [])
        self.assertState(peer, State.STA13)

    def test_grace(self) -> None:
        """What is unanswered when the grace has passed is aborted, too."""
        peer, service = self.waiting()
        self.acceptor.drain(30)
        self.passes(30)
        self.assertEqual(service.cancelled, 1)
        self.assertAborted(peer)
        self.assertDropped(peer)

    def test_no_grace(self) -> None:
        """Without grace, everyone is aborted at once."""
        peer, _ = self.waiting()
        self.acceptor.drain(0)
        self.passes(0)
        self.assertAborted(peer)

    def test_lingering_peer(self) -> None:
        """A peer that does not close is dropped before long."""
        peer = self.associates()
        self.acceptor.drain(30)
        self.assertDropped(peer)

    def test_before_an_association(self) -> None:
        """A connection that is no association yet is closed, without a word."""
        peer = self.connects()
        self.acceptor.drain(30)
        self.assertClosing(peer)
        self.assertEqual(peer.transport.taken(), b"")
        self.assertDropped(peer)
        self.assertEqual(self.seen.of(events.TimedOut), [])

    def test_considering(self) -> None:
        """Who is still being considered is aborted."""
        self.accepts(Verification(), policy=Policy(Deferred()))
        peer = self.associates()
        self.acceptor.drain(30)
        self.assertAborted(peer)
        self.assertDropped(peer)

    def test_aborted_before(self) -> None:
        """A peer that was aborted before, and has not closed, is given no longer than the others."""
        peer = self.associates()
        peer.association.abort()
        self.acceptor.drain(30)
        self.assertDropped(peer)

    def test_closing_before(self) -> None:
        """Nor is a connection that is being closed."""
        peer = self.associates()
        peer.aborts()
        self.acceptor.drain(30)
        self.assertDropped(peer)

    def test_releasing(self) -> None:
        """A release that we asked for ends in the abort of a peer that does not answer."""
        peer = self.associates()
        released = peer.association.release()
        self.acceptor.drain(30)
        self.assertAborted(peer)
        self.failureResultOf(released)

    def test_half_a_command(self) -> None:
        """A message that is no operation yet is none."""
        peer = self.associates()
        peer.sends(message(ECHO, echo_rq())[:-1])
        self.acceptor.drain(30)
        self.assertState(peer, State.STA13)

    def test_again(self) -> None:
        """Draining again, with less patience, ends with the same last connection."""
        peer, _ = self.waiting()
        first = self.acceptor.drain(30)
        second = self.acceptor.drain(1)
        self.passes(1)
        self.assertAborted(peer)
        peer.transport.lose()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.acceptor.drain(30))

    def test_cancelled(self) -> None:
        """Who no longer waits for the end of draining disturbs no other who does."""
        peer = self.associates()
        first, second = self.acceptor.drain(30), self.acceptor.drain(30)
        first.addErrback(lambda failure: None)
        first.cancel()
        self.assertNoResult(second)
        peer.transport.lose()
        self.successResultOf(second)

    def test_everyone(self) -> None:
        """Draining ends with the last of many connections."""
        peers = [self.associates() for _ in range(10)] + [self.connects() for _ in range(10)]
        drained = self.acceptor.drain(30)
        for peer in peers:
            self.assertNoResult(drained)
            peer.transport.lose()
        self.successResultOf(drained)


class MemoryTests(ShellTestCase):
    """What came and went is forgotten."""

    def test_nothing_is_kept(self) -> None:
        """After 1,000 associations, ended in every way, nothing is left of them."""
        ends = (
            lambda peer: peer.releases() if peer.association.contexts else None,
            lambda peer: peer.sends(Abort().encode()),
            lambda peer: peer.association.abort(),
            lambda peer: peer.sends(ReleaseRQ().encode()),
            lambda peer: peer.sends(b"garbage"),
            lambda peer: peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False)),
            lambda peer: peer.association.stop(),
            lambda peer: None,
        )
        self.accepts(Verification(), Storage(self.storage, check=False), observe=lambda event: None)
        gone: list[weakref.ref[AssociationProtocol]] = []
        for number in range(1000):
            peer = Peer(self.acceptor)
            gone.append(weakref.ref(peer.association))
            if number % 3:
                peer.associates({VERIFICATION: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]})
            if number % 3 == 2:
                peer.stores(f"1.2.{number}", b"data", CT_IMAGE_STORAGE)
            ends[number % len(ends)](peer)
            peer.transport.lose()
        del peer
        self.storage.writers.clear()
        self.storage.instances.clear()
        self.assertEqual(self.acceptor.associations, set())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        gc.collect()
        self.assertEqual([reference() for reference in gone if reference() is not None], [])
