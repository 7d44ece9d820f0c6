"""Tests of :mod:`dicomnode.invocation`: what is invoked, in turn, and what becomes of the responses."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from dicomnode import events, invocation, performing
from dicomnode.core.command import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CFindRQ,
    CStoreRSP,
    NGetRQ,
    Response,
    UnrecognizedRQ,
)
from dicomnode.errors import AssociationAborted, AssociationTimedOut, ContextNotAccepted
from dicomnode.requestor import ServiceUser
from dicomnode.testing import CalledPeer
from dicomnode.uids import VERIFICATION
from tests.cases import CT, ECHO, FIND, QUERY, data, find_rq, message
from tests.requestorcases import NAMES, Producer, RequestorCase

SIZE = 600_000


class WindowTests(RequestorCase):
    """So many operations are unanswered at a time."""

    def sent(self, peer: CalledPeer) -> int:
        peer.exchange()
        return len(peer.messages)

    def test_without(self) -> None:
        """Without a window each operation waits for the response to the one before."""
        peer, association = self.associates()
        echoes = [association.echo() for _ in range(3)]
        for number in range(3):
            self.assertEqual(self.sent(peer), number + 1)
            peer.responds(0)
            self.successResultOf(echoes[number])
        self.assertEqual([request.message_id for request in peer.messages], [1, 2, 3])  # type: ignore[attr-defined]

    def test_windows(self) -> None:
        """As many are sent as was agreed upon: the less of what either end says, where 0 is no limit."""
        for proposed, accepted, unanswered in (
            ((3, 1), (3, 1), 3),
            ((3, 1), (2, 1), 2),
            ((3, 1), (9, 1), 3),
            ((0, 1), (4, 1), 4),
            ((3, 1), (0, 1), 3),
            ((0, 0), (0, 0), 5),
            ((3, 1), None, 1),
            ((1, 1), (3, 3), 1),
        ):
            peer, association = self.associates(
                answer={"asynchronous_operations_window": accepted}, asynchronous_operations=proposed
            )
            echoes = [association.echo() for _ in range(5)]
            self.assertEqual(self.sent(peer), unanswered, (proposed, accepted))
            association.abort()
            for echoed in echoes:
                self.failureResultOf(echoed, AssociationAborted)

    def test_out_of_order(self) -> None:
        """Responses are told apart by the Message ID, in whatever order they come."""
        peer, association = self.associates(
            answer={"asynchronous_operations_window": (2, 1)}, asynchronous_operations=(2, 1)
        )
        first, second, third = (association.store(b"data", **NAMES) for _ in range(3))
        peer.responds(0xB000, to=1)
        self.assertEqual(self.successResultOf(second).status, 0xB000)
        peer.responds(0, to=0)
        self.assertEqual(self.successResultOf(first).status, 0)
        peer.responds(0xA700, to=2, error_comment="full")
        self.assertEqual(self.successResultOf(third).error_comment, "full")
        self.assertEqual(peer.data_set, b"data" * 3)

    def test_performed(self) -> None:
        """What the other end may invoke at a time is performed at a time."""
        from tests.cases import Waiting, store_rq

        service = Waiting()
        peer, _ = self.associates(
            answer={"asynchronous_operations_window": (1, 4)},
            asynchronous_operations=(1, 4),
            services=[service],
        )
        for number in range(4):
            peer.invokes(CT, store_rq(number + 1, f"1.2.{number}"), b"data")
        self.assertEqual(len(service.turns), 4)
        for turn in service.turns:
            turn.callback(0)
        peer.exchange()
        self.assertEqual(len(peer.messages), 4)

    def test_performed_without_limit(self) -> None:
        """Where there is no limit, so many are performed at a time; the others are not read meanwhile."""
        from tests.cases import Waiting, store_rq

        service = Waiting()
        peer, _ = self.associates(
            answer={"asynchronous_operations_window": (1, 0)},
            asynchronous_operations=(1, 0),
            services=[service],
        )
        for number in range(performing.UNLIMITED + 3):
            peer.invokes(CT, store_rq(number + 1, f"1.2.{number}"), b"data")
        self.assertEqual(len(service.turns), performing.UNLIMITED)
        self.assertTrue(peer.transport.paused)
        for turn in service.turns:
            turn.callback(0)
        peer.exchange()
        self.assertEqual(len(peer.messages), performing.UNLIMITED + 3)

    def test_unlimited(self) -> None:
        """Without a limit there are as many as have Message IDs, and the next waits for one."""
        peer, association = self.associates(
            answer={"asynchronous_operations_window": (0, 0)}, asynchronous_operations=(0, 0)
        )
        invocations = association._association.invocations
        assert invocations is not None
        first, last = association.echo(), association.echo()
        invocations._unanswered |= dict.fromkeys(range(3, 0x10000), invocations._unanswered[2])
        waiting = association.echo()
        self.assertEqual(self.sent(peer), 2)
        peer.responds(0, to=0)
        self.successResultOf(first)
        self.assertEqual(self.sent(peer), 3)
        self.assertEqual(peer.messages[-1].message_id, 1)  # type: ignore[attr-defined]
        for number in range(3, 0x10000):
            del invocations._unanswered[number]
        association.abort()
        for echoed in (last, waiting):
            self.failureResultOf(echoed, AssociationAborted)

    def test_message_ids(self) -> None:
        """Message IDs begin anew after 65535, and pass over those that are in use."""
        peer, association = self.associates(
            answer={"asynchronous_operations_window": (0, 1)}, asynchronous_operations=(0, 1)
        )
        first = association.echo()
        association._association.invocations._message_id = 65534  # type: ignore[union-attr]
        others = [association.echo(), association.echo()]
        peer.exchange()
        self.assertEqual([request.message_id for request in peer.messages], [1, 65535, 2])  # type: ignore[attr-defined]
        association.abort()
        for echoed in (first, *others):
            self.failureResultOf(echoed, AssociationAborted)


class InvokeTests(RequestorCase):
    """Any operation may be invoked."""

    def invokes(
        self, association: ServiceUser, request: Any, *arguments: Any, **how: Any
    ) -> tuple[Deferred[Response], list[tuple[int, bytes]]]:
        responses: list[tuple[int, bytes]] = []
        how.setdefault("on_response", lambda response, data: responses.append((response.status, data)))
        return association.invoke(request, *arguments, **how), responses

    def test_contexts(self) -> None:
        """It goes by the context that is named, or that of the SOP Class in the request."""
        peer, association = self.associates()
        get = NGetRQ(requested_sop_class_uid=FIND, message_id=0, requested_sop_instance_uid="1.2")
        echo = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=0)
        for request, context, expected in (
            (get, None, QUERY),
            (echo, None, ECHO),
            (echo, CT, CT),
            (echo, FIND, QUERY),
            (echo, association.contexts[CT], CT),
            (UnrecognizedRQ(command_field=0x0444, message_id=0), VERIFICATION, ECHO),
        ):
            invoked = association.invoke(request, context=context)  # type: ignore[arg-type]
            peer.responds(0)
            self.successResultOf(invoked)
            arrived = [item for item in peer.indications if hasattr(item, "context")][-1]
            self.assertEqual(arrived.context.id, expected)  # type: ignore[union-attr]
        for context in (99, "1.2.3", None):
            request = UnrecognizedRQ(command_field=0x0444, message_id=0)
            self.failureResultOf(association.invoke(request, context=context), ContextNotAccepted)

    def test_pending(self) -> None:
        """Pending responses and their data sets are given away as they come; the last ends it."""
        for size in (1, None):
            peer, association = self.associates(CalledPeer(size))
            found, responses = self.invokes(association, find_rq(), b"identifier")
            peer.exchange()
            self.assertEqual(peer.data_set, b"identifier")
            for status in (0xFF00, 0xFF01):
                peer.responds(status, b"match" * 5000)
            self.assertNoResult(found)
            peer.responds(0)
            self.assertEqual(self.successResultOf(found).status, 0)
            self.assertEqual(responses, [(0xFF00, b"match" * 5000), (0xFF01, b"match" * 5000), (0, b"")])

    def test_slow_but_alive(self) -> None:
        """Each response gives the other end the DIMSE timeout for the next."""
        peer, association = self.associates()
        found, _ = self.invokes(association, find_rq(), b"identifier")
        for _ in range(5):
            self.reactor.advance(15)
            peer.responds(0xFF00, b"match")
            self.reactor.advance(15)
            peer.responds(0xFF00)
        self.reactor.advance(20)
        self.assertEqual(self.failureResultOf(found, AssociationTimedOut).value.what, "DIMSE")

    def test_answers_nothing(self) -> None:
        """A response to nothing ends the association: of another Message ID, or of another kind."""
        for response in (
            CEchoRSP(message_id_being_responded_to=2, status=0),
            CStoreRSP(message_id_being_responded_to=1, status=0),
        ):
            peer, association = self.associates()
            echoed = association.echo()
            peer.sends(message(ECHO, response))
            self.failureResultOf(echoed, AssociationAborted)
            why = self.seen.of(events.AbortSent)[-1].why
            self.assertEqual(why, f"a {type(response).__name__} that answers nothing")

    def test_too_early(self) -> None:
        """A response to what has not even begun to be sent is one to nothing."""
        peer, association = self.associates()
        stored = association.store(Producer(), **NAMES)
        peer.sends(message(CT, CStoreRSP(message_id_being_responded_to=1, status=0)))
        self.failureResultOf(stored, AssociationAborted)

    def test_response_before_the_end(self) -> None:
        """A response that comes before the data set is sent counts; the rest of that is sent first."""
        peer, association = self.associates()
        body = Producer()
        stored, echoed = association.store(body, **NAMES), association.echo()
        body.consumer.write(bytes(SIZE))
        self.turns(peer)
        peer.responds(0xA700)
        self.assertEqual(self.successResultOf(stored).status, 0xA700)
        self.assertEqual(len(peer.messages), 1)
        body.done.callback(None)
        peer.responds(0)
        self.assertEqual(len(peer.data_set), SIZE)
        self.successResultOf(echoed)

    def test_stray_data_set(self) -> None:
        """The data set of what has none is dropped."""
        peer, association = self.associates()
        peer.sends(message(CT, CCancelRQ(message_id_being_responded_to=5), b"which it must not have"))
        echoed = association.echo()
        peer.responds(0)
        self.successResultOf(echoed)

    def test_long_response(self) -> None:
        """A data set of a response that is too long to be kept ends the association."""
        self.patch(invocation, "RESPONSE_LIMIT", 10)
        peer, association = self.associates()
        found, responses = self.invokes(association, find_rq(), b"identifier")
        peer.responds(0xFF00, b"0123456789")
        peer.responds(0xFF00, b"0123456789A")
        self.failureResultOf(found, AssociationAborted)
        self.assertEqual(responses, [(0xFF00, b"0123456789")])

    def test_on_response_fails(self) -> None:
        """When what takes the responses fails, so does the operation; the association goes on."""

        def take(response: Response, data: bytes) -> None:
            taken.append(data)
            raise ZeroDivisionError

        taken: list[bytes] = []
        peer, association = self.associates()
        found, _ = self.invokes(association, find_rq(), b"identifier", on_response=take)
        peer.responds(0xFF00, b"match")
        self.failureResultOf(found, ZeroDivisionError)
        peer.responds(0xFF00, b"another")
        peer.responds(0)
        self.assertEqual(taken, [b"match"])
        echoed = association.echo()
        peer.responds(0)
        self.successResultOf(echoed)

    def test_cannot_be_encoded(self) -> None:
        """What cannot be sent fails, and nothing else does."""
        peer, association = self.associates()
        wrong = CFindRQ(affected_sop_class_uid=FIND, message_id=0, priority=1 << 16)
        for data_set in (b"identifier", Producer()):
            self.assertTrue(self.failureResultOf(association.invoke(wrong, data_set)))
        echoed = association.echo()
        peer.responds(0)
        self.successResultOf(echoed)


class BodyTests(RequestorCase):
    """A data set comes from its producer, and goes out as far as it is read."""

    def test_producer(self) -> None:
        """The transport pauses the producer, and not the reading."""
        peer, association = self.associates(CalledPeer(capacity=1000))
        body = Producer()
        body.length = SIZE
        progress: list[tuple[int, int | None]] = []
        stored = association.store(body, progress=lambda *how: progress.append(how), **NAMES)
        body.consumer.write(bytes(SIZE // 3))
        self.assertEqual(body.told, ["pause"])
        self.assertFalse(peer.transport.paused)
        peer.exchange()
        self.assertEqual(body.told, ["pause", "resume"])
        body.consumer.write(bytes(SIZE - SIZE // 3))
        body.done.callback(None)
        self.turns(peer)
        peer.responds(0)
        self.successResultOf(stored)
        self.assertEqual(len(peer.data_set), SIZE)
        self.assertEqual(progress[-1], (SIZE, SIZE))
        self.assertEqual(self.seen.of(events.Paused), [])
        self.assertEqual(self.seen.of(events.InvocationEnded)[0].octets, SIZE)

    def test_paused_from_the_outset(self) -> None:
        """A producer that begins while the peer does not read is paused at once, and reading goes on."""
        peer, association = self.associates(CalledPeer(capacity=100))
        peer.transport.capacity = 10
        first, body = association.echo(), Producer()
        self.assertTrue(peer.transport.full)
        self.assertTrue(peer.transport.paused)
        peer.transport.capacity = None
        association._association.invocations.window = 2  # type: ignore[union-attr]
        stored = association.store(body, **NAMES)
        self.assertEqual(body.told, ["pause"])
        self.assertFalse(peer.transport.paused)
        peer.exchange()
        self.assertEqual(body.told, ["pause", "resume"])
        association.abort()
        self.assertEqual(body.told[-1], "stop")
        for invoked in (first, stored):
            self.failureResultOf(invoked, AssociationAborted)

    def test_slow_producer(self) -> None:
        """A producer may take its time: the other end is not to blame."""
        peer, association = self.associates()
        body = Producer()
        stored = association.store(body, **NAMES)
        body.consumer.write(bytes(SIZE))
        peer.exchange()
        self.reactor.advance(10_000)
        body.done.callback(None)
        self.reactor.advance(19)
        peer.responds(0)
        self.successResultOf(stored)

    def test_fails_midway(self) -> None:
        """A data set that cannot be completed takes the association with it, by an A-ABORT."""
        peer, association = self.associates()
        body = Producer()
        stored, echoed = association.store(body, **NAMES), association.echo()
        body.consumer.write(bytes(SIZE))
        body.done.errback(ZeroDivisionError())
        self.failureResultOf(stored, ZeroDivisionError)
        self.failureResultOf(echoed, AssociationAborted)
        self.assertAborts(peer)
        self.assertEqual(self.seen.of(events.AbortSent)[0].why, "the data set to be sent came to no end")

    def test_fails_before(self) -> None:
        """A producer that fails before anything is sent costs nobody the association."""

        class Broken(Producer):
            def startProducing(self, consumer: Any) -> Deferred[None]:
                raise ZeroDivisionError

        peer, association = self.associates()
        body = Producer()
        stored = [association.store(what, **NAMES) for what in (body, Broken())]
        body.consumer.write(b"too little for a fragment")
        body.done.errback(ZeroDivisionError())
        for failed in stored:
            self.failureResultOf(failed, ZeroDivisionError)
        echoed = association.echo()
        peer.responds(0)
        self.successResultOf(echoed)
        self.assertEqual(len(peer.messages), 1)

    def test_bad_progress(self) -> None:
        """An observer of progress that fails is a bug, and stops nothing."""
        peer, association = self.associates()
        stored = association.store(b"data", progress=lambda *how: 1 // 0, **NAMES)  # type: ignore[arg-type, return-value]
        peer.responds(0)
        self.successResultOf(stored)
        self.assertEqual(self.seen.of(events.Unexpected)[0].doing, "observing progress")

    def test_cannot_be_stopped(self) -> None:
        """A producer that cannot even be stopped keeps no association from its end."""

        class Broken(Producer):
            def stopProducing(self) -> None:
                raise ZeroDivisionError

        _peer, association = self.associates()
        stored = association.store(Broken(), **NAMES)
        association.abort()
        self.failureResultOf(stored, AssociationAborted)
        self.assertEqual(self.seen.of(events.Unexpected)[0].doing, "stopping a producer")

    def test_late_producer(self) -> None:
        """What a producer does after the end is nobody's business."""
        for end in (lambda body: body.done.callback(None), lambda body: body.done.errback(OSError())):
            _, association = self.associates()
            body = Producer()
            stored = association.store(body, **NAMES)
            association.abort()
            self.failureResultOf(stored, AssociationAborted)
            body.consumer.write(bytes(SIZE))
            end(body)

    def test_maximum_lengths(self) -> None:
        """The data set is cut to the peer's maximum, and no fragment is shorter than it could be."""
        octets = bytes(range(256)) * 8
        for max_length, lengths in (
            (0, {2048}),
            (None, {2048}),
            (1 << 31, {2048}),
            (7, {1}),
            (9, {2}),
            (1000, {994, 60}),
            (1030, {1024}),
        ):
            peer, association = self.associates(CalledPeer(max_length=max_length))
            body = Producer()
            stored = association.store(body, **NAMES)
            for start in range(0, 2048, 3):
                body.consumer.write(octets[start : start + 3])
            body.done.callback(None)
            self.reactor.advance(0)
            sent = peer.transport.written
            if max_length not in (7, 9):
                self.assertTrue(b"".join(sent).endswith(data(CT, octets[-max(sorted(lengths)[0], 1) :])))
            peer.exchange()
            fragments = [item.data for item in peer.indications if hasattr(item, "is_last")]
            self.assertEqual({len(one) for many in fragments for one in many}, lengths)
            self.assertEqual(peer.data_set, octets)
            peer.responds(0)
            self.successResultOf(stored)

    def test_write_sizes(self) -> None:
        """However much a producer writes, the transport is given 256 KiB at a time."""
        peer, association = self.associates()
        body = Producer()
        stored = association.store(body, **NAMES)
        body.consumer.write(bytes(1 << 20))
        self.assertEqual(len(peer.transport.written), 1)  # the command set, and so much
        self.reactor.advance(0)
        self.assertGreater(sum(map(len, peer.transport.written)), (1 << 20) - (1 << 14))
        self.assertLess(max(map(len, peer.transport.written)), (1 << 18) + 1000)
        body.done.callback(None)
        peer.responds(0)
        self.successResultOf(stored)
