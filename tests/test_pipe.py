"""Tests for :mod:`dicomnode.pipe`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import Acceptor, IInstanceWriter, Instance, IStorage, OperationFailed, Status, Storage
from dicomnode.contracts import InstanceWriterContract
from dicomnode.core.command import CStoreRSP
from dicomnode.errors import AssociationAborted, ContextNotAccepted, DicomNodeError
from dicomnode.pipe import Pipe
from dicomnode.requestor import associate
from dicomnode.testing import CalledPeer, MemoryStorage, Network, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE
from tests.servicecases import data_set

CT = "1.2.840.10008.5.1.4.1.1.2"


class Producer:
    """Says what it was told last."""

    told = ""

    def pauseProducing(self) -> None:
        self.told = "pause"

    def resumeProducing(self) -> None:
        self.told = "resume"

    def stopProducing(self) -> None:
        self.told = "stop"


class PipeTests(SynchronousTestCase):
    """Its two ends, by hand."""

    def setUp(self) -> None:
        self.pipe = Pipe(b"head ")
        self.cancelled: list[Any] = []
        self.sending: Deferred[Any] = Deferred(self.cancelled.append)
        self.opening = self.pipe.into(self.sending)
        self.producer = Producer()
        self.body = StringTransport()
        self.produced: list[Any] = []

    def asks(self) -> None:
        """Ask for the octets, and register who writes."""
        self.pipe.startProducing(self.body).addBoth(self.produced.append)
        self.assertIs(self.successResultOf(self.opening), self.pipe)
        self.pipe.registerProducer(self.producer, True)  # type: ignore[arg-type]

    def test_interfaces(self) -> None:
        """It is what it says at both ends."""
        verifyObject(IInstanceWriter, self.pipe)
        verifyObject(IBodyProducer, self.pipe)

    def test_passes(self) -> None:
        """What is written comes out, at once and behind the prefix; and commit is its end."""
        self.assertNoResult(self.opening)
        self.asks()
        self.pipe.write(b"one ")
        self.assertEqual(self.body.value(), b"head one ")
        self.pipe.writeSequence([b"two ", memoryview(b"three")])
        self.assertEqual(self.body.value(), b"head one two three")
        self.pipe.unregisterProducer()
        self.assertEqual(self.produced, [])
        committing = self.pipe.commit()
        self.assertEqual(self.produced, [None])
        self.assertNoResult(committing)
        self.sending.callback(None)
        self.assertIsNone(self.successResultOf(committing))

    def test_answers(self) -> None:
        """Commit ends as the sending does: with a status, or the response of a C-STORE."""

        def stored(status: int, comment: str | None = None) -> CStoreRSP:
            return CStoreRSP(message_id_being_responded_to=1, status=status, error_comment=comment)

        for answer, status in (
            (None, None),
            (0, 0),
            (0xB000, 0xB000),
            (stored(0), 0),
            (stored(0xB006), 0xB006),
        ):
            self.setUp()
            self.asks()
            committing = self.pipe.commit()
            self.sending.callback(answer)
            self.assertEqual(self.successResultOf(committing), status)
        self.setUp()
        self.asks()
        committing = self.pipe.commit()
        self.sending.callback(stored(0xA700, "full"))
        error = self.failureResultOf(committing, OperationFailed).value
        self.assertEqual((error.status, error.comment), (0xA700, "full"))

    def test_fails(self) -> None:
        """What the sending fails with, commit does; the rest of the instance is dropped."""
        self.asks()
        self.sending.errback(OSError("no route"))
        self.assertEqual(self.producer.told, "stop")
        self.pipe.write(b"more")
        self.assertEqual(self.body.value(), b"head ")
        self.failureResultOf(self.pipe.commit(), OSError)
        self.assertEqual(self.produced, [])

    def test_fails_before(self) -> None:
        """What fails before it asks for the octets gives no writer."""
        self.sending.errback(OSError("no route"))
        self.failureResultOf(self.opening, OSError)
        pipe = Pipe()
        self.failureResultOf(pipe.into(fail(OSError("no route"))), OSError)
        refused = self.failureResultOf(Pipe().into(fail(ContextNotAccepted(CT))), OperationFailed).value
        self.assertEqual((refused.status, refused.comment), (0xA700, str(ContextNotAccepted(CT))))

    def test_answered_too_soon(self) -> None:
        """What is answered before it was sent whole is not kept, whatever the answer says."""
        self.failureResultOf(Pipe().into(succeed(None)), OperationFailed)
        for stops in (False, True):
            self.setUp()
            self.asks()
            if stops:
                self.pipe.stopProducing()
            else:
                self.sending.callback(0)
            self.assertEqual(self.producer.told, "stop")
            committing = self.pipe.commit()
            if stops:
                self.sending.callback(0)
            self.assertEqual(self.failureResultOf(committing, OperationFailed).value.status, 0xA700)

    def test_aborts(self) -> None:
        """An instance that is aborted ends its body by a failure; abort ends when the sending does."""
        self.asks()
        aborting = self.pipe.abort()
        (failure,) = self.produced
        self.assertIsInstance(failure.value, DicomNodeError)
        self.assertNoResult(aborting)
        self.sending.errback(failure)
        self.assertIsNone(self.successResultOf(aborting))

    def test_aborts_before(self) -> None:
        """One that nobody has asked for yet is not asked for any more."""
        aborting = self.pipe.abort()
        self.assertEqual(self.cancelled, [self.sending])
        self.failureResultOf(self.opening, CancelledError)
        self.failureResultOf(self.pipe.startProducing(self.body), DicomNodeError)
        self.assertEqual(self.body.value(), b"")
        self.assertNoResult(aborting)

    def test_cancelled(self) -> None:
        """Who waits for the writer no longer cancels the sending."""
        self.opening.cancel()
        self.assertEqual(self.cancelled, [self.sending])
        self.failureResultOf(self.opening, CancelledError)

    def test_pauses(self) -> None:
        """What pauses one end pauses the other, and so it resumes."""
        self.asks()
        self.assertEqual(self.producer.told, "")
        for told in ("pause", "resume"):
            getattr(self.pipe, f"{told}Producing")()
            self.assertEqual(self.producer.told, told)

    def test_paused_before(self) -> None:
        """Who begins to write while nobody takes it is paused until somebody does."""
        self.pipe.registerProducer(self.producer, True)  # type: ignore[arg-type]
        self.assertEqual(self.producer.told, "pause")
        self.pipe.write(b"one ")
        self.pipe.startProducing(self.body)
        self.assertEqual((self.producer.told, self.body.value()), ("resume", b"head one "))

    def test_stopped_before(self) -> None:
        """Who begins to write what nobody wants any more is stopped."""
        self.pipe.startProducing(self.body)
        self.pipe.stopProducing()
        self.pipe.registerProducer(self.producer, True)  # type: ignore[arg-type]
        self.assertEqual(self.producer.told, "stop")
        self.pipe.abort()


@implementer(IStorage)
class Onward:
    """Sends what it is given to another node, on one association."""

    def __init__(self, association: Any) -> None:
        self.association = association
        self.pipes: list[Pipe] = []

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        self.pipes.append(Pipe())
        return self.pipes[-1].into(
            self.association.store(
                self.pipes[-1],
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
            )
        )


class ForwardTests(SynchronousTestCase):
    """An instance passes from one association to another."""

    def setUp(self) -> None:
        self.reactor = Reactor()

    def forwards(self, endpoint: Any, accept: Any) -> Peer:
        """Return who sends."""
        associating = associate(self.reactor, endpoint, contexts={CT: [EXPLICIT_VR_LE]})
        accept()
        self.onward = Onward(self.successResultOf(associating))
        sender = Peer(Acceptor(self.reactor, [Storage(self.onward)]), size=10_000)
        sender.associates({CT: [EXPLICIT_VR_LE]})
        return sender

    def test_arrives(self) -> None:
        """It arrives octet for octet; Success is answered when that is."""
        storage = MemoryStorage()
        network = Network(self.reactor, Acceptor(self.reactor, [Storage(storage)]))
        sender = self.forwards(network, network.exchange)
        for uid in ("1.2.3", "1.2.4"):
            sender.stores(uid, data_set(uid, size=100_000))
            self.assertNotIn(uid, storage.instances)
            network.exchange()
            sender.exchange()
            self.assertEqual(storage.instances[uid][1], data_set(uid, size=100_000))
            self.assertEqual(sender.response.status, Status.SUCCESS)

    def test_status(self) -> None:
        """The answer is the other node's, with its comment."""
        far = CalledPeer()
        sender = self.forwards(far, far.accepts)
        for status, comment in ((0xB000, None), (0xA700, "full")):
            sender.stores("1.2.3", data_set())
            far.responds(status, error_comment=comment)
            sender.exchange()
            self.assertEqual((sender.response.status, sender.response.error_comment), (status, comment))

    def test_backpressure(self) -> None:
        """While the other node does not read, nothing is read from the sender."""
        far = CalledPeer(capacity=20_000)
        sender = self.forwards(far, far.accepts)
        sender.stores("1.2.3", data_set(size=1_000_000))
        self.assertTrue(sender.transport.paused)
        while not sender.transport.arrived:
            far.exchange()
        sender.exchange()
        far.responds(0)
        sender.exchange()
        self.assertEqual(far.data_set, data_set(size=1_000_000))
        self.assertEqual(sender.response.status, Status.SUCCESS)

    def test_sender_goes_away(self) -> None:
        """What has no end at this side has none at the other: the association there is aborted."""
        far = CalledPeer()
        sender = self.forwards(far, far.accepts)
        sender.stores("1.2.3", data_set(size=100_000)[:-1])
        self.assertEqual(sender.response.status, Status.CANNOT_UNDERSTAND)
        self.failureResultOf(self.onward.association.when_ended(), AssociationAborted)

    def test_other_node_goes_away(self) -> None:
        """What the other node has not answered is a failure here; the rest of it is dropped."""
        far = CalledPeer(capacity=20_000)
        sender = self.forwards(far, far.accepts)
        sender.stores("1.2.3", data_set(size=1_000_000))
        far.transport.lose()
        sender.exchange()
        self.assertEqual(sender.response.status, Status.OUT_OF_RESOURCES)
        self.assertIn("connection", sender.response.error_comment or "")
        self.assertFalse(sender.transport.paused)


@implementer(IStorage)
class Collecting:
    """Keeps what comes out of pipes, once it is whole."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        pipe, body = Pipe(), StringTransport()
        sending: Deferred[None] = Deferred()

        def produced(result: Any) -> None:
            if isinstance(result, Failure):
                sending.errback(result)
            else:
                self.kept[instance.sop_instance_uid] = body.value()
                sending.callback(None)

        opening = pipe.into(sending)
        pipe.startProducing(body).addBoth(produced)
        return opening


class ContractTests(InstanceWriterContract, SynchronousTestCase):
    """It keeps the promises of a writer, if what it sends to does."""

    def setUp(self) -> None:
        self.storage = Collecting()

    def open_storage(self) -> IStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        return self.storage.kept.get(what.sop_instance_uid)
