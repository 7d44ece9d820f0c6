"""Tests of :mod:`dicomnode.invocation`: what becomes of what nobody waits for, and of what is not sent."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from dicomnode import events
from dicomnode.core.association import ReleaseConfirmed
from dicomnode.core.command import CCancelRQ, CEchoRQ, CFindRQ, CStoreRQ, respond
from dicomnode.errors import AssociationAborted, AssociationLost, AssociationReleased, AssociationTimedOut
from dicomnode.message import Message
from dicomnode.requestor import ServiceUser
from dicomnode.services import Verification
from dicomnode.testing import CalledPeer
from dicomnode.timers import MIN_PROGRESS
from tests.cases import ECHO, QUERY, TIMEOUTS, begun, data, echo_rq, find_rq, message, store_rq
from tests.requestorcases import NAMES, Producer, RequestorCase

SIZE = 600_000


class CancelTests(RequestorCase):
    """Nobody waits for the response any more."""

    def test_waiting(self) -> None:
        """What has not begun is not sent."""
        peer, association = self.associates()
        first, second = association.echo(), association.echo()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        peer.responds(0)
        self.successResultOf(first)
        self.assertEqual(len(peer.messages), 1)

    def test_unanswered(self) -> None:
        """The response to what has begun is awaited, and dropped."""
        peer, association = self.associates()
        first, second = association.store(b"data", **NAMES), association.echo()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        peer.responds(0)
        peer.responds(0)
        self.successResultOf(second)

    def test_sending(self) -> None:
        """A data set that is being sent is sent to its end."""
        peer, association = self.associates()
        body = Producer()
        stored = association.store(body, **NAMES)
        body.consumer.write(bytes(SIZE))
        stored.cancel()
        self.failureResultOf(stored, CancelledError)
        body.done.callback(None)
        self.turns(peer)
        peer.responds(0)
        self.assertEqual(len(peer.data_set), SIZE)

    def test_not_yet_sending(self) -> None:
        """What has not begun, for its producer has yet to produce anything, is taken back."""
        peer, association = self.associates()
        for request in (find_rq(), store_rq()):
            body = Producer()
            invoked, echoed = association.invoke(request, body), association.echo()
            invoked.cancel()
            self.failureResultOf(invoked, CancelledError)
            self.assertEqual(body.told[-1], "stop")
            body.consumer.write(b"too late")
            body.done.callback(None)
            peer.responds(0)
            self.successResultOf(echoed)
        self.assertEqual([type(item) for item in peer.messages], [CEchoRQ, CEchoRQ])

    def test_behind_what_is_not_read(self) -> None:
        """So is what waits for the other end to read what is before it."""
        peer, association = self.associates(
            CalledPeer(capacity=1000),
            answer={"asynchronous_operations_window": (2, 1)},
            asynchronous_operations=(2, 1),
        )
        stored = association.store(bytes(4000), **NAMES)
        found = association.invoke(find_rq(), b"identifier")
        self.assertTrue(peer.transport.full)
        found.cancel()
        self.failureResultOf(found, CancelledError)
        self.turns(peer)
        peer.responds(0)
        self.successResultOf(stored)
        self.assertEqual([type(item) for item in peer.messages], [CStoreRQ])

    def test_find(self) -> None:
        """A C-FIND is cancelled by C-CANCEL-RQ; what still comes is dropped."""
        peer, association = self.associates()
        found = association.invoke(find_rq(), b"identifier")
        peer.responds(0xFF00, b"match")
        found.cancel()
        self.failureResultOf(found, CancelledError)
        peer.responds(0xFF00, b"match", to=0)
        peer.responds(0xFE00, to=0)
        self.assertEqual(peer.messages[1:], [CCancelRQ(message_id_being_responded_to=1)])
        echoed = association.echo()
        peer.responds(0)
        self.successResultOf(echoed)

    def test_find_while_sending(self) -> None:
        """C-CANCEL-RQ does not come between the fragments of its own data set."""
        peer, association = self.associates()
        body = Producer()
        found = association.invoke(find_rq(), body)
        body.consumer.write(bytes(SIZE))
        found.cancel()
        self.failureResultOf(found, CancelledError)
        peer.exchange()
        self.assertEqual(len(peer.messages), 1)
        body.done.callback(None)
        self.turns(peer)
        self.assertEqual(len(peer.data_set), SIZE)
        self.assertEqual(peer.messages[1:], [CCancelRQ(message_id_being_responded_to=1)])

    def test_find_when_released(self) -> None:
        """There is nothing to cancel once the other end has asked for release."""
        peer, association = self.associates()
        body = Producer()
        found = association.invoke(find_rq(), body)
        body.consumer.write(bytes(SIZE))
        peer._core.request_release()
        outcome: list[Any] = []
        found.addBoth(outcome.append)
        peer.exchange()
        outcome[0].trap(AssociationReleased)
        body.done.callback(None)
        self.turns(peer)
        self.assertEqual(len(peer.data_set), SIZE)
        peer.transport.lose()
        self.assertEqual(self.seen.of(events.AssociationEnded)[0].how, "released")

    def test_find_when_aborted(self) -> None:
        """Nor once the association is over: what one failure leads to, the others may find."""
        _, association = self.associates(
            answer={"asynchronous_operations_window": (2, 1)}, asynchronous_operations=(2, 1)
        )
        first, second = (association.invoke(find_rq(), b"identifier") for _ in range(2))
        first.addErrback(lambda failure: second.cancel())
        association.abort()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_starting(self) -> None:
        """A body by whose start it is cancelled is told to stop, too, though it has yet to produce."""

        class Cancelling(Producer):
            def startProducing(self, consumer: Any) -> Deferred[None]:
                waiting[0].cancel()
                return super().startProducing(consumer)

        peer, association = self.associates()
        first, body = association.echo(), Cancelling()
        waiting = [association.store(body, **NAMES)]
        peer.responds(0)
        self.successResultOf(first)
        self.failureResultOf(waiting[0], CancelledError)
        self.assertEqual(body.told, ["stop"])

    def resumed(self, end: Callable[[ServiceUser, Deferred[Any]], object]) -> None:
        def observe(event: events.Event) -> None:
            resumed.append(isinstance(event, events.Resumed))
            if resumed[-1]:
                end(association, stored)

        resumed: list[bool] = []
        _, association = self.associates(CalledPeer(capacity=100), observe=observe)
        body, prepared = Producer(), Deferred[Any]()
        stored = association._association.invokes(lambda clock: prepared)
        association._association._gate.pauseProducing()
        context = next(iter(association.contexts.values()))
        prepared.callback(Message(context, store_rq(), body))
        self.assertTrue(any(resumed))
        self.failureResultOf(stored)
        self.assertIsNone(body.consumer)

    def test_resumed(self) -> None:
        """Who is told that it goes on may cancel what is just to begin, or end the association."""
        self.resumed(lambda association, stored: stored.cancel())
        self.resumed(lambda association, stored: association.abort())

    def test_by_the_start(self) -> None:
        """Who is told of the start may abort: the body may write on, and is not heard."""

        def observe(event: events.Event) -> None:
            if isinstance(event, events.InvocationStarted):
                association.abort()

        _, association = self.associates(observe=observe)
        body = Producer()
        stored = association.store(body, **NAMES)
        body.consumer.write(bytes(SIZE))
        self.failureResultOf(stored, AssociationAborted)

    def test_by_an_abort(self) -> None:
        """Who is told of an A-ABORT may cancel what has not begun: what is behind it is not sent any more."""

        def observe(event: events.Event) -> None:
            if isinstance(event, events.AbortReceived):
                stored.cancel()

        peer, association = self.associates(observe=observe, services=[Verification()])
        stored = association.store(Producer(), **NAMES)
        peer.sends(message(ECHO, echo_rq()))  # whose response is behind the data set
        peer.aborts()
        self.failureResultOf(stored, CancelledError)
        self.assertEqual(peer.messages, [])

    def test_by_an_end(self) -> None:
        """Who is told of the end of one may abort: the others end, too, and each is told of once."""

        def observe(event: events.Event) -> None:
            self.seen(event)
            if isinstance(event, events.InvocationEnded):
                association.abort()

        peer, association = self.associates(
            observe=observe,
            answer={"asynchronous_operations_window": (2, 1)},
            asynchronous_operations=(2, 1),
        )
        echoed = [association.echo() for _ in range(3)]
        peer.releases()
        for one in echoed:
            self.failureResultOf(one)
        self.assertEqual(len(self.seen.of(events.InvocationEnded)), 2)
        self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_by_a_response(self) -> None:
        """Who is given a response may end the association."""
        peer, association = self.associates()
        echoed = association.invoke(echo_rq(), on_response=lambda *_: association.abort())
        peer.responds(0)
        self.failureResultOf(echoed, AssociationAborted)
        self.assertEqual(self.seen.of(events.Unexpected), [])


class ReleasedTests(RequestorCase):
    """The other end asks for release while the body of what is to be sent has produced nothing."""

    def test_stopped(self) -> None:
        """It is stopped, whatever becomes of it, nothing of it is sent, and the release is answered."""
        for ends in (lambda body: body.done.callback(None), lambda body: body.done.errback(OSError()), None):
            peer, association = self.associates()
            body = Producer()
            stored, ended = association.store(body, **NAMES), association.when_ended()
            peer.releases()
            self.failureResultOf(stored, AssociationReleased)
            self.assertEqual(body.told[-1], "stop")
            if ends is not None:
                ends(body)
            self.successResultOf(ended)
            self.assertEqual(peer.messages, [])
            self.assertEqual(self.seen.of(events.InvocationStarted), [])
            self.assertEqual(peer.indications[-1], ReleaseConfirmed())


class EarlyTests(RequestorCase):
    """The other end answers that all is well before it has all."""

    def begins(self) -> tuple[CalledPeer, Producer, Any]:
        peer, association = self.associates()
        body = Producer()
        stored = association.store(body, **NAMES)
        body.consumer.write(bytes(SIZE))
        self.turns(peer)
        return peer, body, stored

    def test_sent_to_its_end(self) -> None:
        """It holds once all is sent."""
        for status in (0x0000, 0xB000):
            peer, body, stored = self.begins()
            peer.responds(status)
            self.assertNoResult(stored)
            body.done.callback(None)
            self.assertEqual(self.successResultOf(stored).status, status)
            self.turns(peer)
            self.assertEqual(len(peer.data_set), SIZE)

    def test_not_sent_to_its_end(self) -> None:
        """It does not, where the rest cannot be sent: what has not come whole has not arrived."""
        peer, body, stored = self.begins()
        peer.responds(0)
        peer.transport.lose()
        self.failureResultOf(stored, AssociationLost)
        peer, body, stored = self.begins()
        peer.responds(0)
        body.done.errback(OSError("gone"))
        self.failureResultOf(stored, OSError)
        self.assertIsNone(self.seen.of(events.InvocationEnded)[-1].response)

    def test_released(self) -> None:
        """The other end asks for release, too: that is answered when what is on its way is out."""
        peer, body, stored = self.begins()
        peer.responds(0)
        peer.releases()
        self.failureResultOf(stored, AssociationReleased)
        body.done.callback(None)
        self.turns(peer)
        self.assertEqual(len(peer.data_set), SIZE)
        self.assertEqual(peer.indications[-1], ReleaseConfirmed())

    def test_cancelled(self) -> None:
        """Who does not wait any longer cancels nothing: it is answered."""
        peer, association = self.associates()
        body = Producer()
        found = association.invoke(find_rq(), body)
        body.consumer.write(bytes(SIZE))
        self.turns(peer)
        peer.responds(0)
        found.cancel()
        self.failureResultOf(found, CancelledError)
        body.done.callback(None)
        self.turns(peer)
        self.assertEqual([type(item) for item in peer.messages], [CFindRQ])

    def test_answered_twice(self) -> None:
        """A second answer is one to nothing."""
        peer, _, stored = self.begins()
        peer.responds(0)
        peer.responds(0, to=0)
        self.failureResultOf(stored, AssociationAborted)


class DIMSETimeoutTests(RequestorCase):
    """The DIMSE timeout is for a response: nothing else stands for one."""

    def test_something_else(self) -> None:
        """Who goes on asking, and does not answer, has no longer than who is silent."""
        for size in (None, 7):
            peer, association = self.associates(CalledPeer(size))
            echoed = association.echo()
            for _ in range(int(TIMEOUTS.dimse) - 1):
                self.reactor.advance(1)
                peer.sends(message(ECHO, echo_rq()))
            self.assertNoResult(echoed)
            self.reactor.advance(1)
            self.reactor.advance(0)
            error = self.failureResultOf(echoed, AssociationTimedOut).value
            self.assertEqual((error.what, error.seconds), ("DIMSE", TIMEOUTS.dimse))

    def test_interrupted(self) -> None:
        """While a message comes, none can come that answers: that time is not counted."""
        peer, association = self.associates()
        echoed = association.echo()
        octets = message(ECHO, echo_rq())
        self.reactor.advance(TIMEOUTS.dimse - 1)
        peer.sends(octets[:20])
        self.reactor.advance(2)
        peer.sends(octets[20:])
        self.reactor.pump([0.9, 0])
        self.assertNoResult(echoed)
        self.reactor.pump([0.1, 0])
        self.failureResultOf(echoed, AssociationTimedOut)

    def test_slow_response(self) -> None:
        """What a response takes to come is not the next one's time."""
        peer, association = self.associates()
        found = association.invoke(find_rq(), b"identifier")
        pending = begun(QUERY, respond(find_rq(), 0xFF00))
        octets = pending + data(QUERY, bytes(10_000), last=False) * 3 + data(QUERY, bytes(10_000))
        for start in range(0, len(octets), 2000):
            self.reactor.advance(1.5)
            peer.sends(octets[start : start + 2000])
        self.reactor.advance(19)
        peer.responds(0)
        self.successResultOf(found)

    def test_slow_reader(self) -> None:
        """Nor is what it takes to read what is to be answered, of which the system has some."""
        peer, association = self.associates()
        left = count(100 * MIN_PROGRESS, -MIN_PROGRESS)
        self.patch(association._association._wire, "outstanding", left.__next__)
        stored = association.store(b"data", **NAMES)
        for _ in range(20):
            self.reactor.advance(TIMEOUTS.dimse / 2)
            self.reactor.advance(0)
        self.assertNoResult(stored)
        peer.responds(0)
        self.successResultOf(stored)

    def test_pending(self) -> None:
        """Pending is no status of a C-STORE, of which more would come."""
        peer, association = self.associates()
        stored = association.store(b"data", **NAMES)
        peer.responds(0xFF00)
        self.assertEqual(self.successResultOf(stored).status, 0xFF00)
