"""Tests of :mod:`dicomnode.operation`: from a request to its response."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.command import CStoreRSP, Status
from dicomnode.errors import (
    AssociationLost,
    AssociationReleased,
    AssociationTimedOut,
    ContextNotAccepted,
    OperationFailed,
)
from dicomnode.fragments import MANY, SMALL
from dicomnode.interfaces import IOperation
from dicomnode.operation import Operation
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    Service,
    ShellTestCase,
    Waiting,
    begun,
    data,
    find_rq,
    message,
    store_rq,
)
from tests.operationcases import Consumer, OperationTestCase, Writer, read, store


class DeliveryTests(OperationTestCase):
    """The data set is handed on as it arrives."""

    def deliver(self, consumer: IConsumer) -> tuple[Operation, Deferred[None]]:
        operation = self.operation()
        return operation, operation.deliver_data_set(consumer)

    def test_interfaces(self) -> None:
        """An operation is what its interface says, and a producer."""
        verifyObject(IOperation, self.operation())
        verifyObject(IPushProducer, self.operation())

    def test_consumer(self) -> None:
        """Any consumer can take a data set: a fragment at a time, as octets of its own."""
        consumer = Consumer()
        operation, delivered = self.deliver(consumer)
        self.assertIs(consumer.producer, operation)
        self.receive(operation, b"da", b"ta", last=False)
        self.assertNoResult(delivered)
        self.receive(operation, b" set", b"")
        self.successResultOf(delivered)
        self.assertEqual(consumer.data, [b"da", b"ta", b" set", b""])
        self.assertTrue(all(type(fragment) is bytes for fragment in consumer.data))
        self.assertIsNone(consumer.producer)

    def test_writer(self) -> None:
        """An instance writer takes the fragments of one read together."""
        writer = Writer()
        operation, delivered = self.deliver(writer)
        self.receive(operation, b"da", b"ta", last=False)
        self.receive(operation, b" set")
        self.successResultOf(delivered)
        self.assertEqual(writer.data, [b"data", b" set"])

    def test_octets(self) -> None:
        """The octets of a data set are counted, those too that are dropped."""
        operation, _ = self.deliver(Consumer())
        self.receive(operation, b"data", last=False)
        operation.stopProducing()
        self.receive(operation, b"data")
        self.assertEqual(operation.octets, 8)

    def test_nothing_to_deliver(self) -> None:
        """Without a data set there is nothing to wait for, and no one to register with."""
        consumer = Consumer()
        operation = self.operation(has_data_set=False)
        self.successResultOf(operation.deliver_data_set(consumer))
        self.assertIsNone(consumer.producer)

    def test_twice(self) -> None:
        """A data set is delivered once."""
        operation, _ = self.deliver(Consumer())
        self.assertRaises(RuntimeError, operation.deliver_data_set, Consumer())

    def test_awaits_consumer(self) -> None:
        """Until there is a consumer, reading is held; then it goes on."""
        operation = self.operation()
        self.assertTrue(operation.awaits_consumer)
        operation.deliver_data_set(Consumer())
        self.assertFalse(operation.awaits_consumer)
        self.assertEqual(self.performer.asked, ["read on"])

    def test_pause(self) -> None:
        """A consumer that is behind pauses the association."""
        operation, _ = self.deliver(Consumer())
        operation.pauseProducing()
        operation.resumeProducing()
        self.assertEqual(self.performer.asked, ["read on", "pause", "resume"])

    def test_pause_behind_the_end(self) -> None:
        """A consumer that is behind when the data set is complete pauses nobody."""
        operation, _ = self.deliver(Consumer())
        self.receive(operation, b"data")
        self.performer.asked.clear()
        operation.pauseProducing()
        self.assertEqual(self.performer.asked, [])

    def test_pause_of_what_is_dropped(self) -> None:
        """A consumer that wants no more cannot pause what it does not get."""
        operation, _ = self.deliver(Consumer())
        operation.stopProducing()
        self.performer.asked.clear()
        operation.pauseProducing()
        self.assertNotIn("pause", self.performer.asked)

    def test_stop(self) -> None:
        """A consumer that stops gets nothing more; the delivery ends with the data set."""
        consumer = Consumer()
        operation, delivered = self.deliver(consumer)
        self.receive(operation, b"da", last=False)
        operation.stopProducing()
        self.receive(operation, b"ta", last=False)
        self.assertNoResult(delivered)
        self.receive(operation, b"set")
        self.successResultOf(delivered)
        self.assertEqual(consumer.data, [b"da"])

    def test_write_fails(self) -> None:
        """What a consumer raises is what the delivery fails with, at once and once."""
        for consumer in (Writer("writeSequence"), Failing()):
            operation, delivered = self.deliver(consumer)
            self.receive(operation, b"da", b"ta", last=False)
            self.failureResultOf(delivered, ZeroDivisionError)
            self.assertIsNone(consumer.producer)
            self.receive(operation, b"set")
            self.assertEqual(consumer.data, [])

    def test_last_write_fails(self) -> None:
        """So it is when the last of the data set fails."""
        operation, delivered = self.deliver(Writer("writeSequence"))
        self.receive(operation, b"data")
        self.failureResultOf(delivered, ZeroDivisionError)

    def test_cancelled(self) -> None:
        """A service may give up a delivery: what still comes is dropped."""
        consumer = Consumer()
        operation, delivered = self.deliver(consumer)
        delivered.cancel()
        self.failureResultOf(delivered, CancelledError)
        self.assertIsNone(consumer.producer)
        self.receive(operation, b"data")
        self.assertEqual(consumer.data, [])

    def test_too_late(self) -> None:
        """When the association has ended, there is nothing to deliver any more."""
        for has_data_set in (True, False):
            operation = self.operation(has_data_set=has_data_set)
            operation.association_ended()
            self.failureResultOf(operation.deliver_data_set(Consumer()), CancelledError)

    def test_too_late_for_an_answer(self) -> None:
        """A service that has returned gets nothing: what it asks for then fails, and is not half there."""
        operation = self.performed(lambda operation: succeed(0))
        self.receive(operation, b"da", last=False)
        self.failureResultOf(operation.read_data_set(100), CancelledError)
        self.receive(operation, b"ta")
        self.assertAnswered(0)

    def test_small_fragments(self) -> None:
        """Many small fragments are handed on as one, since each costs more than its octets."""
        for number, octets, handed_on in (
            (MANY + 1, 1, 1),
            (MANY, 1, MANY),
            (MANY + 1, SMALL, MANY + 1),
        ):
            writer = Writer()
            operation, delivered = self.deliver(writer)
            self.receive(operation, *[bytes(octets)] * number, last=False)
            self.assertEqual((writer.fragments, writer.data), ([handed_on], [bytes(number * octets)]))
            self.receive(operation, b"")
            self.successResultOf(delivered)

    def test_unregister_fails(self) -> None:
        """A consumer that fails to be unregistered has its data set all the same; the bug is reported."""
        operation, delivered = self.deliver(Writer("unregisterProducer"))
        self.receive(operation, b"data")
        self.successResultOf(delivered)
        self.assertBug(ZeroDivisionError, "ending a delivery")


class Failing(Consumer):
    def write(self, data: bytes) -> None:
        raise ZeroDivisionError


class WholeTests(OperationTestCase):
    """A small data set may be read whole."""

    def test_whole(self) -> None:
        """It is what arrived, in whatever fragments."""
        operation = self.operation()
        reading = operation.read_data_set(8)
        self.receive(operation, b"da", b"ta", last=False)
        self.receive(operation, b" set")
        self.assertEqual(self.successResultOf(reading), b"data set")

    def test_limit(self) -> None:
        """One that is longer than the limit fails at once, and is answered with 0xA700."""
        operation = self.performed(read(7))
        self.receive(operation, b"data", b" set", last=False)
        self.assertAnswered()
        self.receive(operation, b"!")
        self.assertAnswered(0xA700)
        self.assertEqual(self.performer.answers[0].error_comment, "the data set is longer than is read")

    def test_none(self) -> None:
        """Where there is no data set, it is empty."""
        self.assertEqual(self.successResultOf(self.operation(has_data_set=False).read_data_set(0)), b"")


class AnswerTests(OperationTestCase):
    """What the service does becomes a status."""

    def test_status(self) -> None:
        """What it returns is the status; the response names what the request named."""
        operation = self.performed(lambda operation: succeed(0x0107), has_data_set=False)
        expected = CStoreRSP(
            affected_sop_class_uid=CT_IMAGE_STORAGE,
            affected_sop_instance_uid="1.2.3",
            message_id_being_responded_to=7,
            status=0x0107,
        )
        self.assertEqual(self.performer.answers, [expected])
        self.assertFalse(operation.arriving)

    def test_before_the_data_set(self) -> None:
        """The response follows the whole request, though the service has returned before."""
        operation = self.performed(lambda operation: succeed(0))
        self.receive(operation, b"da", last=False)
        self.assertAnswered()
        self.assertTrue(operation.arriving)
        self.receive(operation, b"ta")
        self.assertAnswered(0)

    def test_failures(self) -> None:
        """What it fails with has its status, and a comment where there is one."""
        for error, status, comment in (
            (OperationFailed(0xC210, "no"), 0xC210, "no"),
            (OperationFailed(0x0122), 0x0122, None),
            (OSError(28, "No space left on device"), 0xA700, "No space left on device"),
            (OSError("odd"), 0xA700, "the storage failed"),
            (OperationFailed(0xA700, "x" * 100), 0xA700, "x" * 64),
            (AssociationLost("gone"), 0xA700, "gone"),
            (AssociationReleased("by the other end"), 0xA700, "by the other end"),
            (AssociationTimedOut("ACSE", 30), 0xA700, "ACSE timeout: the other end was silent for 30 s"),
            (ContextNotAccepted("1.2"), 0xA700, "no context was accepted for 1.2 in any syntax"),
        ):
            self.performer.answers.clear()
            self.performed(lambda operation, error=error: fail(error), has_data_set=False)
            self.assertAnswered(status)
            self.assertEqual(self.performer.answers[0].error_comment, comment)
        self.assertEqual(self.performer.bugs, [])

    def test_bug(self) -> None:
        """Anything else is a bug: answered with 0x0110, and reported."""
        self.performed(lambda operation: 1 // 0, has_data_set=False)
        self.assertAnswered(0x0110)
        self.assertBug(ZeroDivisionError, "performing a CStoreRQ")

    def test_no_status(self) -> None:
        """A service that returns anything but a status has a bug, and its peer an answer."""
        for nonsense in (None, "0000", -1, 0x10000, True):
            self.performer.answers.clear()
            self.performer.bugs.clear()
            self.performed(lambda operation, nonsense=nonsense: succeed(nonsense), has_data_set=False)
            self.assertAnswered(0x0110)
            self.assertBug(TypeError, "performing a CStoreRQ")

    def test_refused(self) -> None:
        """An operation may be refused without anyone performing it."""
        operation = self.operation()
        operation.refuse(0x0210, "the Message ID is in use")
        self.assertAnswered()
        self.receive(operation, b"data")
        self.assertAnswered(0x0210)

    def test_cancelled(self) -> None:
        """C-CANCEL-RQ cancels the service; 0xFE00 says so."""
        service = Waiting()
        operation = self.operation(find_rq(), has_data_set=False)
        operation.perform(service)
        operation.cancel()
        self.assertEqual(service.cancelled, 1)
        self.assertAnswered(0xFE00)

    def test_cancelled_by_itself(self) -> None:
        """A service that cancels what it waits for was not cancelled by the peer: that is a bug."""
        self.performed(lambda operation: fail(CancelledError()), has_data_set=False)
        self.assertAnswered(0x0110)
        self.assertBug(CancelledError, "performing a CStoreRQ")

    def test_cancelled_too_late(self) -> None:
        """What is answered cannot be cancelled, nor can what is refused."""
        operation = self.performed(lambda operation: succeed(0), has_data_set=False)
        operation.cancel()
        refused = self.operation(has_data_set=False)
        refused.refuse(0x0211, "")
        refused.cancel()
        self.assertAnswered(0, 0x0211)

    def test_answer_fails(self) -> None:
        """A bug in answering is reported, and answered no more."""
        self.performer.answer = lambda operation, response: 1 // 0  # type: ignore[assignment,method-assign]
        self.performed(lambda operation: succeed(0), has_data_set=False)
        self.assertEqual(
            [doing for _, doing in self.performer.bugs], ["performing a CStoreRQ", "answering an operation"]
        )

    def test_every_stage(self) -> None:
        """Wherever a writer breaks there is one answer and one report, and either commit or abort."""
        for stage, status, ended in (
            ("registerProducer", 0x0110, ["abort"]),
            ("writeSequence", 0x0110, ["abort"]),
            ("commit", 0x0110, ["commit"]),
            ("unregisterProducer", 0x0000, ["commit"]),
        ):
            self.setUp()
            writer = Writer(stage)
            operation = self.performed(store(writer))
            self.receive(operation, b"da", last=False)
            self.receive(operation, b"ta")
            self.assertAnswered(status)
            self.assertEqual(writer.ended, ended)
            self.assertEqual(len(self.performer.bugs), 1)


class AssociationEndedTests(OperationTestCase):
    """When the association has ended, no one is answered, and the service is told."""

    def test_cancelled(self) -> None:
        """A service that waits for the data set is cancelled there, and cleans up."""
        writer = Writer()
        operation = self.performed(store(writer))
        self.receive(operation, b"da", last=False)
        operation.association_ended()
        self.assertEqual(writer.ended, ["abort"])
        self.assertIsNone(writer.producer)
        self.assertAnswered()
        self.assertEqual(self.performer.bugs, [])

    def test_clean_up_fails(self) -> None:
        """A bug in cleaning up is reported."""
        operation = self.performed(store(Writer("abort")))
        operation.association_ended()
        self.assertBug(ZeroDivisionError, "performing a CStoreRQ")

    def test_unregister_fails(self) -> None:
        """A writer that fails to be unregistered is aborted all the same."""
        writer = Writer("unregisterProducer")
        operation = self.performed(store(writer))
        operation.association_ended()
        self.assertEqual(writer.ended, ["abort"])
        self.assertBug(ZeroDivisionError, "ending a delivery")

    def test_answer_comes_too_late(self) -> None:
        """A service that does not let itself be cancelled has no one to answer."""
        turn: Deferred[int] = Deferred(lambda _: turn.callback(0))
        operation = self.performed(lambda operation: turn)
        operation.association_ended()
        self.assertAnswered()

    def test_by_the_service(self) -> None:
        """A service that ends the association itself is cancelled in what it waits for then."""
        service = Waiting()
        operation = self.performed(lambda operation: (operation.association_ended(), service.turn())[1])
        self.assertEqual(service.cancelled, 1)
        self.assertFalse(operation.awaits_consumer)
        self.assertAnswered()

    def test_canceller_fails(self) -> None:
        """A service whose Deferred cannot be cancelled has a bug, which stops nobody."""
        operation = self.performed(lambda operation: Deferred(lambda _: 1 // 0))
        operation.association_ended()
        self.assertBug(ZeroDivisionError, "cancelling an operation")

    def test_refused(self) -> None:
        """What was refused, and whose data set still arrives, has no one to be told so."""
        operation = self.operation()
        operation.refuse(0x0210, "")
        operation.association_ended()
        self.assertAnswered()

    def test_producer_after_the_end(self) -> None:
        """What a consumer says later comes to nothing."""
        operation = self.performed(store(Writer()))
        operation.association_ended()
        self.performer.asked.clear()
        operation.pauseProducing()
        self.assertNotIn("pause", self.performer.asked)


class AssociatedTests(ShellTestCase):
    """The same with an association around it."""

    def test_plain_consumer(self) -> None:
        """A service may send a data set to any consumer, and pause the peer by it."""
        consumer = Consumer()

        async def perform(operation: IOperation) -> int:
            await operation.deliver_data_set(consumer)
            return Status.SUCCESS

        self.accepts(Service(perform))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False))
        consumer.producer.pauseProducing()
        self.assertReading(peer, False)
        consumer.producer.resumeProducing()
        peer.sends(data(CT, b"ta"))
        self.assertResponses(peer, 0)
        self.assertEqual(consumer.data, [b"da", b"ta"])

    def test_returns_early(self) -> None:
        """A service that has returned is answered for behind the last fragment; the peer goes on."""
        self.accepts(Service(lambda operation: succeed(0)))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False))
        self.assertResponses(peer)
        peer.sends(data(CT, b"ta") + message(CT, store_rq(), b"data"))
        self.assertResponses(peer, 0, 0)

    def test_fails_at_every_stage(self) -> None:
        """Whatever a service fails with, and whenever, the peer is answered once and may go on."""
        stages = (begun(CT, store_rq()), data(CT, b"da", last=False), data(CT, b"ta"))
        for error, status in (
            (OperationFailed(0xC210), 0xC210),
            (OSError(28, "full"), 0xA700),
            (ZeroDivisionError(), 0x0110),
        ):
            for stage in range(1, len(stages) + 1):
                service = Turning()
                self.accepts(service)
                peer = self.associates()
                peer.sends(b"".join(stages[:stage]))
                service.turn.errback(error)
                peer.sends(b"".join(stages[stage:]))
                self.assertResponses(peer, status)
                self.assertEstablished(peer)

    def test_bug_is_observed(self) -> None:
        """A bug in a service is observed once; the association goes on."""
        self.accepts(Service(lambda operation: 1 // 0))  # type: ignore[arg-type,return-value]
        peer = self.associates()
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertResponses(peer, 0x0110)
        self.assertEqual(len(self.seen.of(events.Unexpected)), 1)
        self.assertEstablished(peer)

    def test_disk_full(self) -> None:
        """A commit that fails is answered with 0xA700."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        self.storage.error = OSError(28, "No space left on device")
        peer.sends(data(CT, b"data"))
        self.assertResponses(peer, 0xA700)

    def test_read_limit(self) -> None:
        """A data set beyond the limit is dropped as it comes: nothing of it is kept."""
        self.accepts(Service(read(100)))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, bytes(1000), last=False) * 10 + data(CT, b""))
        self.assertResponses(peer, 0xA700)


class Turning(Service):
    """Takes the data set, and fails when it is told to, whatever has arrived by then."""

    def __init__(self) -> None:
        super().__init__(self._begin)
        self.turn: Deferred[int] = Deferred()

    def _begin(self, operation: IOperation) -> Deferred[int]:
        operation.deliver_data_set(Consumer())
        return self.turn
