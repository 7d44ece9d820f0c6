"""Tests of :mod:`dicomnode.protocol`: one association on one transport, mostly an acceptor's."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer_only
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.association import Association, ReleaseConfirmed
from dicomnode.core.command import (
    CCancelRQ,
    CEchoRSP,
    UnrecognizedRQ,
    UnrecognizedRSP,
)
from dicomnode.core.machine import Role, State
from dicomnode.core.pdu import (
    ASSOCIATE_AC,
    Abort,
    AssociateRJ,
    ReleaseRP,
    ReleaseRQ,
)
from dicomnode.errors import (
    AssociationAborted,
    AssociationRejected,
    AssociationTimedOut,
)
from dicomnode.interfaces import IAssociation
from dicomnode.protocol import AssociationProtocol
from dicomnode.services import Verification
from dicomnode.testing import Transport
from dicomnode.uids import VERIFICATION
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    FIND,
    QUERY,
    REQUEST,
    TIMEOUTS,
    Policy,
    Service,
    ShellTestCase,
    Waiting,
    begun,
    data,
    echo_rq,
    find_rq,
    message,
    store_rq,
)
from tests.test_wire import Descriptor


class PumpTests(ShellTestCase):
    """What the core has to send leaves at once, together."""

    def test_interface(self) -> None:
        """The protocol is what services and policies know as an association."""
        association = self.associates(calling="MODALITY", called="ARCHIVE").association
        verifyObject(IAssociation, association)
        titles = (association.calling_ae_title, association.called_ae_title)
        self.assertEqual(titles, ("MODALITY", "ARCHIVE"))
        self.assertEqual([*association.contexts], [ECHO, CT])
        self.assertIs(association.role, Role.ACCEPTOR)

    def test_no_delay(self) -> None:
        """A small response does not wait for the acknowledgement of another."""
        self.assertTrue(self.connects().transport.no_delay)

    def test_not_tcp(self) -> None:
        """A transport that is not TCP, as a UNIX socket, has nothing of the kind."""

        @implementer_only(ITransport, IPushProducer, IConsumer)
        class Other(Transport):
            pass

        protocol = self.acceptor.buildProtocol(None)
        transport = Other(protocol)
        transport.connect()
        self.assertFalse(transport.no_delay)
        transport.lose()

    def test_one_write_for_a_response(self) -> None:
        """A response is one write."""
        peer = self.associates()
        peer.transport.deliver(message(ECHO, echo_rq()))
        self.assertEqual(len(peer.transport.written), 1)
        peer.exchange()
        self.assertResponses(peer, 0x0000)

    def test_one_write_for_a_read(self) -> None:
        """What one read leads to is one write."""
        peer = self.connects()
        echoes = b"".join(message(ECHO, echo_rq(number)) for number in range(10))
        peer.transport.deliver(REQUEST.encode() + echoes + ReleaseRQ().encode())
        (written,) = peer.transport.written
        self.assertEqual(written[-10:], ReleaseRP().encode())
        self.assertState(peer, State.STA13)

    def taken_up(self, *came: bytes) -> Descriptor:
        """Return a connection that is being taken up when ``came`` has come."""
        protocol = self.acceptor.buildProtocol(None)
        assert protocol is not None

        class Arrived(Descriptor):
            def doRead(self) -> None:
                for octets in came:
                    protocol.dataReceived(octets)

        arrived = Arrived()
        arrived.protocol = protocol
        protocol.makeConnection(arrived)
        self.addCleanup(protocol.connectionLost)
        return arrived

    def test_request_that_has_come(self) -> None:
        """A request that comes while the connection is taken up is answered at once."""
        (sent,) = self.taken_up(REQUEST.encode()).sent
        self.assertEqual(sent[0], ASSOCIATE_AC)

    def test_end_that_has_come(self) -> None:
        """So is an A-ABORT, behind whatever: the connection is closed, and not for longer than ARTIM."""
        echo = message(ECHO, echo_rq())
        for before in ((), (REQUEST.encode(),), (REQUEST.encode() + echo,), (REQUEST.encode(), echo)):
            for came in ((*before, Abort().encode()), (b"".join(before) + Abort().encode(),)):
                arrived = self.taken_up(*came)
                self.assertTrue(arrived.disconnecting)
                self.assertFalse(arrived.aborted)
                self.passes(TIMEOUTS.acse)
                self.assertTrue(arrived.aborted)

    def test_nothing_has_come(self) -> None:
        """Who says nothing while the connection is taken up is waited for, by ARTIM."""
        silent = self.taken_up()
        self.assertFalse(silent.disconnecting)
        self.passes(TIMEOUTS.acse)
        self.assertTrue(silent.disconnecting)

    def test_handed_over(self) -> None:
        """A transport that reads for another is not read: what that has read goes first."""
        protocol = self.acceptor.buildProtocol(None)
        assert protocol is not None
        descriptor = Descriptor()
        descriptor.protocol = Protocol()
        protocol.makeConnection(descriptor)
        self.assertEqual(descriptor.reads, 0)
        protocol.connectionLost()

    def test_nothing_to_write(self) -> None:
        """Nothing is written where there is nothing to say."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()))
        self.assertEqual(peer.transport.written, [])

    def test_session(self) -> None:
        """However octets arrive, echo, store and release are answered."""
        for size in (1, 2, 3, 7, 100, None):
            peer = self.associates(size)
            peer.echoes()
            peer.stores("1.2.3", bytes(range(256)), CT_IMAGE_STORAGE)
            self.assertResponses(peer, 0x0000, 0x0000)
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], bytes(range(256)))
            peer.releases()
            self.assertEqual(peer.indications, [ReleaseConfirmed()])
            peer.transport.lose()
            self.assertEqual(self.last(events.AssociationEnded).how, "released")

    def test_abort_received(self) -> None:
        """Upon A-ABORT, we close."""
        peer = self.associates()
        peer.aborts()
        self.assertClosing(peer)
        self.assertEqual(self.last(events.AbortReceived).abort, Abort())
        peer.transport.lose()
        self.assertEqual(self.last(events.AssociationEnded).how, "aborted")

    def test_abort_before_an_association(self) -> None:
        """Upon A-ABORT before anything else, we close, and there was no association."""
        peer = self.connects()
        peer.sends(Abort().encode())
        self.assertClosing(peer)
        peer.transport.lose()
        self.assertEqual(self.last(events.AssociationEnded).how, "never")

    def test_protocol_version(self) -> None:
        """A request that the provider refuses itself is observed like any other."""
        peer = self.connects()
        peer.transport.deliver(replace(REQUEST, protocol_version=2).encode())
        self.assertEqual(peer.transport.taken(), AssociateRJ(1, 2, 2).encode())
        self.assertEqual(self.last(events.AssociationRequested).association.calling_ae_title, "PEER")
        self.assertEqual(self.last(events.AssociationRejected).why, "the protocol version is not 1")

    def test_garbage(self) -> None:
        """Who does not speak DICOM is told so, then dropped."""
        peer = self.connects()
        peer.transport.deliver(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(peer.transport.taken(), Abort().encode())
        self.assertEqual(self.last(events.AbortSent).abort, Abort())
        self.assertState(peer, State.STA13)

    def test_answer_that_comes_too_late(self) -> None:
        """Who has left is neither accepted nor refused."""
        for outcome in (None, AssociationRejected(1, 1, 1)):
            answer: Deferred[None] = Deferred(
                lambda deferred, outcome=outcome: (
                    deferred.errback(outcome) if outcome else deferred.callback(None)
                )
            )
            self.accepts(Verification(), policy=Policy(answer))
            peer = self.associates()
            peer.aborts()
            self.assertEqual(peer.transport.written, [])
            self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_what_comes_behind_the_end(self) -> None:
        """What arrives behind the end of an association is read, and dropped."""
        peer = self.associates()
        peer.sends(Abort().encode() + message(ECHO, echo_rq()) * 3)
        peer.association.dataReceived(message(ECHO, echo_rq()))
        self.assertEqual(peer.transport.written, [])
        self.assertEqual(self.seen.of(events.OperationStarted), [])

    def test_trace(self) -> None:
        """Each step of the machine is observed, when that is asked for."""
        self.accepts(Verification(), trace=True)
        peer = self.associates()
        peer.aborts()
        self.assertEqual(
            [step.action for step in self.seen.of(events.Transition)], ["AE-5", "AE-6", "AE-7", "AA-3"]
        )

    def test_lost(self) -> None:
        """An association whose connection goes away is lost."""
        peer = self.associates()
        self.reactor.advance(5)
        peer.transport.lose()
        ended = self.last(events.AssociationEnded)
        self.assertEqual((ended.how, ended.seconds), ("lost", 5.0))


class RequestorTests(ShellTestCase):
    """The same protocol at the other end."""

    def setUp(self) -> None:
        super().setUp()
        core = Association(Role.REQUESTOR)
        self.performing = Waiting(VERIFICATION)
        self.lost: list[AssociationProtocol] = []
        self.requestor = AssociationProtocol(
            core,
            clock=self.reactor,
            service_for=lambda abstract_syntax: self.performing,
            request=REQUEST,
            closed=self.lost.append,
            timeouts=TIMEOUTS,
            observe=self.seen,
        )
        self.transport = Transport(self.requestor)
        self.transport.connect()
        self.far = self.connects().association
        self.addCleanup(self.transport.lose)

    def exchange(self) -> None:
        """Let both protocols read what the other has written."""
        far = self.peers[0].transport
        while any((self.transport.written, far.written)):
            far.deliver(self.transport.taken())
            self.transport.deliver(far.taken())

    def test_no_answer(self) -> None:
        """An A-ASSOCIATE-RQ that is not answered is given up after the ACSE timeout."""
        self.transport.taken()
        self.reactor.advance(10)
        self.assertTimedOut("ACSE", 10.0)
        self.assertEqual(self.transport.taken(), Abort().encode())
        self.failureResultOf(self.requestor.established, AssociationTimedOut)

    def test_handshake(self) -> None:
        """A transport that cannot write yet, for it has to read first, is read from; and not for ever."""
        producer = self.transport.producer
        assert producer is not None
        producer.pauseProducing()
        self.assertFalse(self.transport.paused)
        self.reactor.advance(9)
        producer.resumeProducing()
        self.exchange()
        self.assertIs(self.requestor._core.state, State.STA6)
        producer.pauseProducing()
        self.assertTrue(self.transport.paused)
        producer.resumeProducing()

    def test_handshake_that_never_ends(self) -> None:
        """A transport that never comes to write is given up after the ACSE timeout."""
        producer = self.transport.producer
        assert producer is not None
        producer.pauseProducing()
        self.reactor.advance(10)
        self.assertTimedOut("ACSE", 10.0)
        self.failureResultOf(self.requestor.established, AssociationTimedOut)

    def test_release(self) -> None:
        """A requestor's release is answered by an acceptor."""
        self.exchange()
        released = self.requestor.release()
        self.exchange()
        self.successResultOf(released)
        self.assertTrue(self.transport.disconnecting)

    def test_collision(self) -> None:
        """Two protocols whose releases cross both end in good order."""
        self.exchange()
        releases = [self.requestor.release(), self.far.release()]
        self.exchange()
        for released in releases:
            self.successResultOf(released)
        self.assertTrue(self.transport.disconnecting)

    def test_collision_with_work_outstanding(self) -> None:
        """A requestor that is performing an operation answers a release that crosses its own."""
        self.exchange()
        self.transport.deliver(message(ECHO, echo_rq()))
        releases = [self.requestor.release(), self.far.release()]
        self.exchange()
        for released in releases:
            self.successResultOf(released)
        self.performing.turns[0].callback(0)

    def test_collision_without_an_answer(self) -> None:
        """A requestor waits no longer than the ACSE timeout for the end of a collision."""
        self.exchange()
        released = self.requestor.release()
        self.transport.deliver(ReleaseRQ().encode())
        self.reactor.advance(10)
        self.failureResultOf(released, AssociationAborted)
        self.assertTimedOut("ACSE", 10.0)


class MessageTests(ShellTestCase):
    """What is asked, and what is answered without anyone performing it."""

    def test_duplicate_message_id(self) -> None:
        """A Message ID that is in use is answered with 0x0210, behind the data set."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(1), b"data") + begun(CT, store_rq(1)))
        self.assertResponses(peer)
        peer.sends(data(CT, b"data"))
        self.assertResponses(peer, 0x0210)
        service.turns[0].callback(0)
        peer.exchange()
        self.assertResponses(peer, 0x0000)

    def test_message_id_again(self) -> None:
        """A Message ID that was answered may be used again."""
        peer = self.associates()
        peer.sends(message(ECHO, echo_rq(1)) * 3)
        self.assertResponses(peer, 0, 0, 0)

    def test_unknown_command(self) -> None:
        """A command that PS3.7 does not know is answered in kind with 0x0211; the association goes on."""
        peer = self.associates()
        for data_set in (None, b"", b"data"):
            peer.sends(message(ECHO, UnrecognizedRQ(command_field=0x0444, message_id=7), data_set))
            self.assertEqual(
                peer.response,
                UnrecognizedRSP(command_field=0x8444, message_id_being_responded_to=7, status=0x0211),
            )
        self.assertEstablished(peer)

    def test_command_on_another_context(self) -> None:
        """A command that its context's service does not know is answered with 0x0211."""
        peer = self.associates()
        peer.sends(message(CT, echo_rq()) + message(ECHO, store_rq(), b"data"))
        self.assertResponses(peer, 0x0211, 0x0211)
        self.assertEstablished(peer)

    def test_unserved(self) -> None:
        """A context that nobody serves any more is answered with 0x0211."""
        service = Service(lambda operation: Deferred())
        self.accepts(service)
        peer = self.associates()
        service.contexts = {}
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertResponses(peer, 0x0211)

    def test_cancel(self) -> None:
        """C-CANCEL-RQ ends a C-FIND with 0xFE00."""
        service = Waiting(FIND)
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(QUERY, find_rq(5), b"identifier"))
        peer.sends(message(QUERY, CCancelRQ(message_id_being_responded_to=4)))
        self.assertEqual(service.cancelled, 0)
        peer.sends(message(QUERY, CCancelRQ(message_id_being_responded_to=5)))
        self.assertEqual(service.cancelled, 1)
        self.assertResponses(peer, 0xFE00)

    def test_cancel_of_what_cannot_be(self) -> None:
        """C-CANCEL-RQ is nothing to a C-STORE, nor to what was answered; its data set is dropped."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(5), b"data"))
        peer.sends(message(CT, CCancelRQ(message_id_being_responded_to=5), b"which it must not have"))
        service.turns[0].callback(0)
        peer.sends(message(CT, CCancelRQ(message_id_being_responded_to=5)))
        self.assertResponses(peer, 0x0000)
        self.assertEqual(service.cancelled, 0)

    def test_unexpected_response(self) -> None:
        """A response to what nobody asked ends the association."""
        peer = self.associates()
        peer.sends(message(ECHO, CEchoRSP(message_id_being_responded_to=1, status=0)))
        self.assertAborted(peer)
        self.assertEqual(self.last(events.AbortSent).why, "a CEchoRSP that answers nothing")

    def test_events(self) -> None:
        """An operation is observed when it begins and when it is answered."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        started = self.last(events.OperationStarted)
        self.reactor.advance(3)
        peer.sends(data(CT, b"data"))
        ended = self.last(events.OperationEnded)
        self.assertIs(ended.operation, started.operation)
        self.assertEqual((ended.response, ended.octets, ended.seconds), (peer.response, 4, 3.0))
