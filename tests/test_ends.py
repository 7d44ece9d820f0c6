"""Tests of how an association ends: by release, by abort, by bugs."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from dicomnode import events
from dicomnode.core.association import MessageReceived, ReleaseConfirmed, ReleaseRequested
from dicomnode.core.machine import State
from dicomnode.core.pdu import (
    Abort,
    ReleaseRP,
    ReleaseRQ,
)
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    LocalProtocolError,
)
from dicomnode.interfaces import IOperation
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer
from tests.cases import (
    CT,
    ECHO,
    REQUEST,
    Policy,
    Service,
    ShellTestCase,
    Waiting,
    begun,
    data,
    echo_rq,
    message,
    store_rq,
)


class ReleaseTests(ShellTestCase):
    """Both ends may release."""

    def test_with_work_outstanding(self) -> None:
        """A-RELEASE-RP follows the last response (AR-7)."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(1), b"data"))
        peer.releases()
        self.assertState(peer, State.STA8)
        self.assertEqual(peer.transport.written, [])
        service.turns[0].callback(0)
        self.assertEqual(len(peer.transport.written), 1)
        peer.exchange()
        received, confirmed = peer.indications[-2:]
        self.assertIsInstance(received, MessageReceived)
        self.assertIsInstance(confirmed, ReleaseConfirmed)

    def test_inside_a_data_set(self) -> None:
        """A release in the middle of a data set is answered: the rest of that can no longer come."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(begun(CT, store_rq(1)))
        peer.releases()
        self.assertIsInstance(peer.indications[-1], ReleaseConfirmed)
        self.assertState(peer, State.STA13)
        (ended,) = self.seen.of(events.OperationEnded)
        self.assertIsNone(ended.response)

    def test_with_more_work_outstanding(self) -> None:
        """A-RELEASE-RP waits for all responses."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(1), b"data") + message(CT, store_rq(2, "1.2.4"), b"data"))
        peer.releases()
        self.assertState(peer, State.STA8)
        service.turns[0].callback(0)
        peer.exchange()
        self.assertState(peer, State.STA8)
        service.turns[1].callback(0)
        peer.exchange()
        self.assertResponses(peer, 0, 0)
        self.assertState(peer, State.STA13)

    def test_by_us(self) -> None:
        """The Deferred of a release fires when the peer has answered; then we close."""
        peer = self.associates()
        released = peer.association.release()
        peer.exchange()
        self.assertIn(ReleaseRequested(), peer.indications)
        self.assertNoResult(released)
        peer.answers_release()
        self.assertIsNone(self.successResultOf(released))
        self.assertClosing(peer)
        peer.transport.lose()
        self.assertEqual(self.last(events.AssociationEnded).how, "released")

    def test_twice(self) -> None:
        """Who has asked for release cannot ask again."""
        association = self.associates().association
        released = association.release()
        self.failureResultOf(association.release(), LocalProtocolError)
        association.abort()
        self.failureResultOf(released, AssociationAborted)

    def test_when_ended(self) -> None:
        """A service can wait for the end of the association on which it performs."""
        peer = self.associates()
        ended = peer.association.when_ended()
        peer.releases()
        self.successResultOf(ended)
        peer = self.associates()
        ended = peer.association.when_ended()
        peer.aborts()
        self.failureResultOf(ended, AssociationAborted)
        peer = self.connects()
        ended = peer.association.when_ended()
        peer.transport.lose()
        self.failureResultOf(ended, AssociationLost)

    def test_peer_aborts(self) -> None:
        """A release that the peer answers with A-ABORT fails so."""
        peer = self.associates()
        released = peer.association.release()
        peer.sends(Abort(2, 3).encode())
        error = self.failureResultOf(released, AssociationAborted).value
        self.assertEqual((error.source, error.reason), (2, 3))

    def test_peer_leaves(self) -> None:
        """A release whose connection goes away fails so; its Deferred fires once."""
        peer = self.associates()
        released = peer.association.release()
        peer.transport.lose()
        self.failureResultOf(released, AssociationLost, AssociationAborted)

    def test_operation_behind_our_release(self) -> None:
        """A request that crosses our A-RELEASE-RQ is performed, but cannot be answered."""
        peer = self.associates()
        released = peer.association.release()
        peer.transport.deliver(message(ECHO, echo_rq()))
        self.assertIsNone(self.last(events.OperationEnded).response)
        peer.exchange()
        peer.answers_release()
        self.successResultOf(released)

    def test_collision(self) -> None:
        """Where two releases cross, an acceptor answers once it is answered."""
        peer = self.associates()
        released = peer.association.release()
        peer.transport.deliver(ReleaseRQ().encode())
        self.assertState(peer, State.STA10)
        peer.transport.deliver(ReleaseRP().encode())
        self.successResultOf(released)
        self.assertEqual(peer.transport.taken(), ReleaseRQ().encode() + ReleaseRP().encode())
        self.assertState(peer, State.STA13)

    def test_collision_with_work_outstanding(self) -> None:
        """Where two releases cross, what is being performed does not hold them up: it has no answer."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        peer.association.release()
        peer.transport.deliver(ReleaseRQ().encode() + ReleaseRP().encode())
        self.assertState(peer, State.STA13)
        service.turns[0].callback(0)
        self.assertIsNone(self.last(events.OperationEnded).response)


class EndTests(ShellTestCase):
    """However an association ends, what was performed on it is cancelled, once."""

    def ends(self) -> dict[str, Any]:
        """Return the ways in which an association may end."""
        return {
            "A-ABORT": lambda peer: peer.sends(Abort().encode()),
            "connection lost": lambda peer: peer.transport.lose(),
            "local abort": lambda peer: peer.association.abort(),
            "broken protocol": lambda peer: peer.sends(b"\xff" * 6),
            "drain": lambda peer: peer.association.stop(),
        }

    def stages(self) -> dict[str, Any]:
        """Return the stages of a C-STORE in which it may end, and how its writer must have."""
        return {
            "command set": (begun(CT, store_rq()), "abort"),
            "data set": (begun(CT, store_rq()) + data(CT, b"da", last=False), "abort"),
            "inside a fragment": (begun(CT, store_rq()) + data(CT, b"data")[:-2], "abort"),
            "complete": (message(CT, store_rq(), b"data"), "commit"),
        }

    def test_at_every_stage(self) -> None:
        """The writer is told to abort if it was not told to commit, and never both."""
        for way, end in self.ends().items():
            for stage, (octets, ended) in self.stages().items():
                with self.subTest(way=way, stage=stage):
                    if stage == "inside a fragment" and way in ("A-ABORT", "broken protocol"):
                        continue  # those octets would be the fragment's
                    peer = self.associates()
                    peer.transport.deliver(octets)
                    end(peer)
                    self.assertEqual(self.storage.writers[-1].ended, ended)
                    peer.transport.lose()

    def test_while_paused(self) -> None:
        """So it is while the writer is behind."""
        for way in ("connection lost", "local abort", "drain"):
            peer = self.associates()
            peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"da", last=False))
            self.storage.writers[-1].producer.pauseProducing()
            self.ends()[way](peer)
            self.assertEqual(self.storage.writers[-1].ended, "abort")
            self.assertIsNone(self.last(events.OperationEnded).response)

    def test_while_opening(self) -> None:
        """A writer that comes when nobody waits for it any more is aborted."""
        for way in ("connection lost", "local abort", "drain"):
            self.storage.stalls()
            peer = self.associates()
            peer.transport.deliver(message(CT, store_rq(), b"data"))
            self.ends()[way](peer)
            self.storage.recovers()
            self.assertEqual([writer.ended for writer in self.storage.writers], ["abort"])
            self.storage.writers.clear()

    def test_while_committing(self) -> None:
        """A commit that has begun goes on: the instance may exist though it was never answered."""
        for end in self.ends().values():
            peer = self.associates()
            peer.transport.deliver(begun(CT, store_rq()))
            self.storage.stalls()
            peer.transport.deliver(data(CT, b"data"))
            end(peer)
            self.assertEqual(self.storage.instances, {})
            self.storage.recovers()
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], b"data")
            peer.transport.lose()

    def test_observed_once(self) -> None:
        """The end of an operation is observed once, and so is the association's."""
        for end in self.ends().values():
            self.seen.events.clear()
            peer = self.associates()
            peer.transport.deliver(begun(CT, store_rq()))
            end(peer)
            peer.transport.lose()
            self.assertEqual(len(self.seen.of(events.OperationEnded)), 1)
            self.assertEqual(len(self.seen.of(events.AssociationEnded)), 1)
            self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_drain(self) -> None:
        """When we stop, an idle peer is told so at once; one that is served is answered first."""
        service = Waiting()
        self.accepts(service)
        idle, busy = self.associates(), self.associates()
        busy.sends(message(CT, store_rq(), b"data"))
        idle.association.drain()
        busy.association.drain()
        self.assertAborted(idle)
        self.assertEstablished(busy)
        service.turns[0].callback(0)
        self.assertAborted(busy)
        self.assertEqual(busy.response.status, 0)

    def test_abort_again(self) -> None:
        """To abort what has ended does nothing."""
        peer = self.associates()
        peer.association.abort()
        peer.association.abort()
        peer.transport.lose()
        peer.association.abort()
        self.assertEqual(len(self.seen.of(events.AbortSent)), 1)

    def test_abort_by_the_service(self) -> None:
        """A service may abort the association on which it performs: it is cancelled itself."""
        outcomes: list[str] = []

        async def perform(operation: IOperation) -> int:
            operation.association.abort()
            try:
                await operation.read_data_set(100)
            finally:
                outcomes.append("ended")
            return 0

        self.accepts(Service(perform))
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertAborted(peer)
        self.assertEqual(outcomes, ["ended"])
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_abort_by_a_service_that_waits(self) -> None:
        """A service that aborts, then waits for something else, is cancelled there."""
        cancelled: list[object] = []

        def perform(operation: IOperation) -> Deferred[int]:
            operation.association.abort()
            return Deferred(cancelled.append)

        self.accepts(Service(perform))
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertEqual(len(cancelled), 1)

    def test_abort_by_the_writer(self) -> None:
        """A connection that goes away while a writer is writing takes nothing else along."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()))
        writer = self.storage.writers[0]
        writer.writeSequence = lambda fragments: peer.transport.lose()  # type: ignore[method-assign]
        peer.transport.deliver(data(CT, b"data"))
        self.assertEqual(writer.ended, "abort")
        self.assertEqual(self.seen.of(events.Unexpected), [])


class BugTests(ShellTestCase):
    """A bug is reported once, and ends no association but its own."""

    def observing(self, kind: type, *others: type) -> None:
        """Let the observer fail upon events of some kinds."""

        def observe(event: events.Event) -> None:
            self.seen(event)
            if isinstance(event, (kind, *others)):
                raise ZeroDivisionError(type(event).__name__)

        self.accepts(Verification(), Storage(self.storage, check=False), observe=observe, trace=True)

    def assertReported(self) -> None:
        """Assert that the observer's failure was logged, once."""
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def session(self) -> Peer:
        """Return a peer that has done all that a peer can."""
        peer = self.connects()
        octets = message(ECHO, echo_rq()) + message(CT, store_rq(), b"data")
        peer.transport.deliver(REQUEST.encode() + octets + ReleaseRQ().encode())
        return peer

    def test_observer(self) -> None:
        """An observer that fails ends the association on which it does, in good order."""
        for kind in (
            events.AssociationRequested,
            events.AssociationAccepted,
            events.OperationStarted,
            events.OperationEnded,
        ):
            with self.subTest(kind=kind.__name__):
                self.seen.events.clear()
                self.observing(kind)
                other = self.connects()
                peer = self.session()
                self.assertState(peer, State.STA13)
                self.assertReported()
                peer.transport.lose()
                self.assertState(other, State.STA2)
                other.transport.lose()
                self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_observer_that_always_fails(self) -> None:
        """An observer that fails upon everything is reported once, and all is cleaned up."""
        self.observing(object)
        peer = self.associates()
        peer.transport.lose()
        self.assertReported()
        self.assertEqual(self.acceptor.associations, set())

    def test_observer_of_the_end(self) -> None:
        """An observer that fails when everything is over leaves nothing behind."""
        self.observing(events.AssociationEnded, events.OperationEnded)
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"da", last=False))
        peer.transport.lose()
        self.assertReported()
        self.assertEqual(self.storage.writers[0].ended, "abort")

    def test_observer_of_a_pause(self) -> None:
        """An observer that fails upon a pause fails nobody who pauses."""
        self.observing(events.Paused, events.Resumed)
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        producer = self.storage.writers[0].producer
        producer.pauseProducing()
        producer.resumeProducing()
        self.assertReported()
        peer.sends(data(CT, b"data"))
        self.assertAborted(peer)

    def test_observer_before_an_association(self) -> None:
        """An observer that fails before there is an association has its connection closed."""
        self.observing(events.Transition)
        peer = self.connects()
        self.assertClosing(peer)
        self.assertReported()

    def test_services(self) -> None:
        """A bug in finding a service aborts the association, and is reported."""

        class Broken(dict[str, Any]):
            def __contains__(self, key: object) -> bool:
                raise ZeroDivisionError

        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        service.contexts = Broken()
        peer.sends(message(CT, store_rq(), b"data") + message(ECHO, echo_rq()))
        self.assertAborted(peer)
        self.assertEqual(self.last(events.Unexpected).doing, "reading")
        self.assertEqual(len(self.seen.of(events.Unexpected)), 1)

    def test_answering(self) -> None:
        """A bug in answering an operation is reported once, and the operation answered no more."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        peer.association._core.send_command = lambda *args: 1 // 0  # type: ignore[method-assign]
        service.turns[0].callback(0)
        self.assertEqual(len(self.seen.of(events.Unexpected)), 1)
        self.assertEqual(peer.transport.written, [])

    def test_canceller(self) -> None:
        """A Deferred that cannot even be cancelled does not keep an association from its end."""

        def refuse(deferred: Deferred[Any]) -> None:
            raise ZeroDivisionError

        self.accepts(Service(lambda operation: Deferred(refuse)))
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        peer.transport.lose()
        self.assertEqual(self.last(events.Unexpected).doing, "cancelling an operation")

    def test_policy_that_cannot_be_cancelled(self) -> None:
        """Nor does that of a policy; it is a bug all the same."""

        def refuse(deferred: Deferred[Any]) -> None:
            raise ZeroDivisionError

        self.accepts(Verification(), policy=Policy(Deferred(refuse)))
        peer = self.associates()
        peer.transport.lose()
        self.assertEqual(self.last(events.Unexpected).doing, "considering an A-ASSOCIATE-RQ")

    def test_answer_that_cannot_be_encoded(self) -> None:
        """A bug in answering an A-ASSOCIATE-RQ aborts: the peer is not left waiting."""
        self.accepts(Service(lambda operation: Deferred()))
        self.acceptor._information = None  # type: ignore[assignment]
        peer = self.associates()
        self.assertAborted(peer)
        self.assertEqual(self.last(events.Unexpected).doing, "answering an A-ASSOCIATE-RQ")
