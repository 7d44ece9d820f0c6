"""Tests of :mod:`dicomnode.protocol`: one association on one transport, mostly an acceptor's."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from zope.interface import implementer, implementer_only
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.association import Association, MessageReceived, ReleaseConfirmed, ReleaseRequested
from dicomnode.core.command import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CStoreRSP,
    UnrecognizedRQ,
    UnrecognizedRSP,
    respond,
)
from dicomnode.core.machine import Role, State
from dicomnode.core.pdu import (
    HEADER,
    P_DATA_TF,
    PDV_HEADER,
    Abort,
    AssociateRJ,
    AssociateRQ,
    ProposedContext,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    AssociationTimedOut,
    LocalProtocolError,
)
from dicomnode.intake import MESSAGE_WORK, TURN
from dicomnode.interfaces import IAssociation, IOperation
from dicomnode.protocol import AssociationProtocol
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer, Transport
from dicomnode.timers import Timeouts
from dicomnode.uids import VERIFICATION
from dicomnode.wire import LEAST_READ
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    FIND,
    IMPLICIT_VR_LE,
    QUERY,
    TIMEOUTS,
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

REQUEST = AssociateRQ("ANY-SCP", "PEER", (ProposedContext(ECHO, VERIFICATION, (IMPLICIT_VR_LE,)),))


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


class ARTIMTests(ShellTestCase):
    """ARTIM runs in Sta2 and Sta13, and until what we close is closed."""

    def test_silent_connection(self) -> None:
        """Who connects and says nothing is dropped, without a word."""
        peer = self.connects()
        self.passes(9.9)
        self.assertFalse(peer.transport.disconnecting)
        self.passes(0.1)
        self.assertClosing(peer)
        self.assertTimedOut("ACSE", 10.0)
        self.assertEqual(peer.transport.taken(), b"")

    def test_slow_request(self) -> None:
        """ARTIM runs from the connection to the whole A-ASSOCIATE-RQ: octets do not restart it."""
        peer = self.connects()
        for octet in REQUEST.encode()[:10]:
            peer.transport.deliver(bytes([octet]))
            self.reactor.advance(1)
        self.assertClosing(peer)

    def test_request(self) -> None:
        """A whole A-ASSOCIATE-RQ stops ARTIM, however long it is considered."""
        self.accepts(Verification(), policy=Policy(Deferred()))
        peer = self.connects()
        peer.sends(REQUEST.encode())
        self.assertPatient()
        self.assertState(peer, State.STA3)

    def test_lingering_peer(self) -> None:
        """A peer that was sent an A-ABORT and does not close is dropped, read or unread."""
        peer = self.associates()
        peer.association.abort()
        self.passes(9.9)
        self.assertFalse(peer.transport.disconnecting)
        self.passes(0.1)
        self.assertTrue(peer.transport.aborted)
        self.assertEqual(self.seen.of(events.TimedOut), [])

    def test_not_restarted_in_sta13(self) -> None:
        """In Sta13, nothing that the peer sends prolongs its stay."""
        peer = self.associates()
        peer.association.abort()
        for _ in range(10):
            peer.transport.deliver(REQUEST.encode())
            self.reactor.advance(1)
        self.assertTrue(peer.transport.aborted)

    def test_restarted_by_sta13(self) -> None:
        """ARTIM starts anew when an A-ABORT answers the first PDU."""
        peer = self.connects()
        self.reactor.advance(9)
        peer.transport.deliver(ReleaseRQ().encode())
        self.reactor.advance(9)
        self.assertFalse(peer.transport.disconnecting)
        self.reactor.advance(1)
        self.assertTrue(peer.transport.aborted)

    def test_rejected(self) -> None:
        """A peer that was refused and does not close is dropped."""
        self.accepts(Verification(), policy=Policy(fail(ValueError("a bug"))))
        peer = self.associates()
        self.passes(10)
        self.assertTrue(peer.transport.aborted)

    def test_released(self) -> None:
        """A peer that released and does not close is dropped."""
        peer = self.associates()
        peer.releases()
        self.passes(10)
        self.assertTrue(peer.transport.aborted)

    def test_close_that_never_ends(self) -> None:
        """A connection that we close and the peer holds open, by not reading, is aborted in the end."""
        peer = self.associates()
        peer.aborts()
        self.passes(9.9)
        self.assertFalse(peer.transport.aborted)
        self.passes(0.1)
        self.assertTrue(peer.transport.aborted)
        self.assertEqual(self.seen.of(events.TimedOut), [])

    def test_silent_connection_that_stays(self) -> None:
        """So is one that was closed for its silence."""
        peer = self.connects()
        self.passes(10)
        self.assertFalse(peer.transport.aborted)
        self.passes(10)
        self.assertTrue(peer.transport.aborted)
        self.assertEqual(len(self.seen.of(events.TimedOut)), 1)

    def test_for_ever(self) -> None:
        """0 is for ever."""
        self.accepts(Verification(), timeouts=Timeouts(0.0, 0.0, 0.0))
        peer = self.connects()
        self.assertPatient()
        peer.sends(ReleaseRQ().encode())
        self.assertPatient()
        self.assertFalse(peer.transport.disconnecting)

    def test_abort_before_an_association(self) -> None:
        """The local user may end what has not yet become an association: it is closed, in silence."""
        peer = self.connects()
        peer.association.abort()
        self.assertClosing(peer)
        self.assertEqual(peer.transport.taken(), b"")
        self.passes(10)
        self.assertTrue(peer.transport.aborted)
        self.assertEqual(self.seen.of(events.TimedOut), [])


class SilenceTests(ShellTestCase):
    """How long a peer may be silent depends on what is waited for."""

    def waiting(self) -> tuple[Peer, Waiting]:
        """Return a peer, and the service that performs its C-STOREs and C-FINDs when it is told."""
        service = Waiting(CT_IMAGE_STORAGE, FIND)
        self.accepts(Verification(), service)
        return self.associates(), service

    def assertExpires(self, peer: Peer, what: str, seconds: float) -> None:
        """Assert that a peer is aborted after so much silence, and not before."""
        self.passes(seconds - 0.1)
        self.assertEqual(self.seen.of(events.TimedOut), [])
        self.passes(0.1)
        self.assertTimedOut(what, seconds)
        self.assertAborted(peer)
        self.assertEqual(self.last(events.AbortSent).why, f"{what} timeout")

    def test_idle(self) -> None:
        """An association on which nothing goes on ends after the network timeout."""
        self.assertExpires(self.associates(), "network", 40)

    def test_each_read_counts(self) -> None:
        """Silence is counted from the last read."""
        peer = self.associates()
        self.passes(39)
        peer.echoes()
        self.assertExpires(peer, "network", 40)

    def test_in_a_data_set(self) -> None:
        """Between two reads of a message, the DIMSE timeout counts."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, b"data", last=False))
        self.assertExpires(peer, "DIMSE", 20)

    def test_in_a_command_set(self) -> None:
        """A message begins with the first fragment of its command set."""
        peer = self.associates()
        peer.sends(message(ECHO, echo_rq())[:-2])
        self.assertExpires(peer, "DIMSE", 20)

    def test_in_a_pdu(self) -> None:
        """Inside a PDU that has not become a message, the network timeout counts."""
        peer = self.associates()
        peer.sends(message(ECHO, echo_rq())[:8])
        self.assertExpires(peer, "network", 40)

    def test_performing(self) -> None:
        """While an operation is performed, the peer waits for us."""
        peer, service = self.waiting()
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertPatient()
        service.turns[0].callback(0)
        self.assertExpires(peer, "network", 40)

    def test_stuck(self) -> None:
        """A service that never answers is cancelled, and holds the association no longer."""
        peer, service = self.waiting()
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertExpires(peer, "performing", 600)
        self.assertEqual(service.cancelled, 1)

    def test_stuck_disk(self) -> None:
        """Nor does a storage that never has a writer, or takes nothing more."""
        for stuck in ("opening", "writing"):
            self.seen.events.clear()
            peer = self.associates()
            if stuck == "opening":
                self.storage.stalls()
            peer.sends(begun(CT, store_rq()) + data(CT, b"data", last=False))
            if stuck == "writing":
                self.storage.writers[-1].producer.pauseProducing()
            self.assertExpires(peer, "performing", 600)
            self.storage.recovers()

    def test_performing_and_in_a_pdu(self) -> None:
        """While an operation is performed, a PDU that the peer has begun is to go on."""
        peer, _ = self.waiting()
        peer.sends(message(QUERY, find_rq(), b"") + HEADER.pack(4, 100))
        self.assertExpires(peer, "network", 40)

    def test_performing_and_in_a_message(self) -> None:
        """While an operation is performed, a message that the peer has begun is to go on."""
        peer, _ = self.waiting()
        peer.sends(message(QUERY, find_rq(), b"") + begun(QUERY, find_rq(2)))
        self.assertExpires(peer, "DIMSE", 20)

    def test_paused(self) -> None:
        """A slow disk is not the peer's fault."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, b"data", last=False))
        self.storage.writers[0].producer.pauseProducing()
        self.assertPatient()

    def test_resumed(self) -> None:
        """Once the disk has caught up, silence is counted again, though nothing was read."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()) + data(CT, b"data", last=False))
        producer = self.storage.writers[0].producer
        producer.pauseProducing()
        self.passes(100)
        producer.resumeProducing()
        self.assertExpires(peer, "DIMSE", 20)

    def test_opening(self) -> None:
        """While nobody is ready to take the data set, the peer waits for us."""
        self.storage.stalls()
        self.associates().sends(begun(CT, store_rq()) + data(CT, b"data", last=False))
        self.assertPatient()

    def test_peer_that_does_not_read(self) -> None:
        """Who does not read our answers is not waited for longer than for who says nothing."""
        peer = self.associates()
        peer.transport.producer.pauseProducing()
        self.assertExpires(peer, "network", 40)
        self.passes(10)
        self.assertTrue(peer.transport.aborted)

    def test_peer_that_reads_again(self) -> None:
        """Who reads our answers again has all its time."""
        peer = self.associates()
        peer.transport.producer.pauseProducing()
        self.passes(39)
        peer.transport.producer.resumeProducing()
        self.assertExpires(peer, "network", 40)

    def test_dimse_for_ever(self) -> None:
        """Without a DIMSE timeout, the network timeout counts inside a message."""
        self.accepts(Storage(self.storage), timeouts=Timeouts(dimse=0.0, network=40.0))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        self.assertExpires(peer, "network", 40)

    def test_dimse_longer_than_network(self) -> None:
        """Of the DIMSE and the network timeout, the shorter counts inside a message."""
        self.accepts(Storage(self.storage), timeouts=Timeouts(dimse=60.0, network=40.0))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        self.assertExpires(peer, "network", 40)

    def test_network_for_ever(self) -> None:
        """Without a network timeout, an association may idle for ever, but not inside a message."""
        self.accepts(Storage(self.storage), timeouts=Timeouts(dimse=20.0, network=0.0))
        peer = self.associates()
        self.assertPatient()
        peer.sends(begun(CT, store_rq()))
        self.assertExpires(peer, "DIMSE", 20)

    def test_all_for_ever(self) -> None:
        """0 is for ever, inside a message too."""
        self.accepts(Storage(self.storage), timeouts=Timeouts(0.0, 0.0, 0.0))
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        self.assertPatient()
        peer.sends(HEADER.pack(4, 100))
        self.assertPatient()

    def test_release(self) -> None:
        """Who does not answer our A-RELEASE-RQ is aborted after the ACSE timeout."""
        peer = self.associates()
        released = peer.association.release()
        self.assertExpires(peer, "ACSE", 10)
        self.failureResultOf(released, AssociationAborted)

    def test_release_awaits_us(self) -> None:
        """While an A-RELEASE-RQ waits for our response, the peer does, too."""
        peer, service = self.waiting()
        peer.sends(message(CT, store_rq(), b"data"))
        peer.releases()
        self.assertPatient()
        service.turns[0].callback(0)

    def test_dropped(self) -> None:
        """A connection without an association can be dropped, also one that was never made."""
        protocol = self.acceptor.buildProtocol(None)
        protocol.drop()
        peer = self.connects()
        peer.association.drop()
        self.assertTrue(peer.transport.aborted)
        self.acceptor.associations.discard(protocol)

    def test_nothing_after_the_end(self) -> None:
        """When the connection is gone, no one is silent any more."""
        peer = self.associates()
        peer.transport.lose()
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ProgressTests(ShellTestCase):
    """Who has begun something must come on with it: an octet now and then is silence."""

    def dribbles(self, peer: Peer, octets: bytes, every: float = 1.0, size: int = 1) -> float:
        """Let octets arrive bit by bit, as long as the peer is not aborted; return how long that was."""
        began = self.reactor.seconds()
        for start in range(0, len(octets), size):
            if self.seen.of(events.TimedOut):
                break
            peer.transport.deliver(octets[start : start + size])
            self.reactor.advance(every)
        return self.reactor.seconds() - began

    def assertGivenUp(self, what: str, seconds: float, octets: int) -> None:
        self.assertTimedOut(what, seconds)
        why = f"{what} timeout: only {octets} octets in {seconds:g} s"
        self.assertEqual(self.last(events.AbortSent).why, why)

    def test_in_a_data_set(self) -> None:
        """An octet a second, of a data set, ends with the DIMSE timeout, as if none had come."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, bytes(10000))[:100])
        self.assertEqual(self.dribbles(peer, bytes(5000)), 20)
        self.assertGivenUp("DIMSE", 20, 20)
        self.assertAborted(peer)

    def test_in_a_pdu(self) -> None:
        """So it does, with the network timeout, inside a PDU that is no message yet."""
        peer = self.associates()
        self.assertEqual(self.dribbles(peer, data(CT, bytes(1000))[:11], every=10), 40)
        self.assertGivenUp("network", 40, 3)

    def test_in_a_command_set(self) -> None:
        """A command set is to come whole in time."""
        peer = self.associates()
        self.assertEqual(self.dribbles(peer, message(ECHO, echo_rq())), 12 + 20)
        self.assertGivenUp("DIMSE", 20, 19)

    def test_fragments(self) -> None:
        """The end of a PDU is none of a message: fragments of an octet each do not bring it on."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()))
        self.dribbles(peer, data(CT, b"x", last=False) * 1000, size=13)
        self.assertGivenUp("DIMSE", 20, 20 * 13)

    def test_empty_fragments(self) -> None:
        """Nor do fragments that hold nothing, of a command set."""
        peer = self.associates()
        self.assertEqual(self.dribbles(peer, p_data_tf(ECHO, True, False, b"") * 1000), 11 + 20)
        self.assertGivenUp("DIMSE", 20, 19)

    def test_empty_pdu(self) -> None:
        """A PDU that holds nothing is no way to go on for ever: it is not allowed."""
        peer = self.associates()
        peer.sends(HEADER.pack(4, 0))
        self.assertState(peer, State.STA13)

    def test_slow_line(self) -> None:
        """Who comes on is waited for as long as it takes: 10 KB/s, and much less than that."""
        for size, every in ((1000, 0.1), (64, 1), (1024, 19)):
            peer = self.associates()
            peer.transport.deliver(begun(CT, store_rq()))
            octets = data(CT, bytes(16_000), last=False) * 2 + data(CT, bytes(16_000))
            self.dribbles(peer, octets, every, size)
            self.assertEqual(self.seen.of(events.TimedOut), [])
            peer.exchange()
            self.assertResponses(peer, 0x0000)
            peer.transport.lose()

    def test_small_messages(self) -> None:
        """A message that ends is progress, however small it is."""
        peer = self.associates()
        for _ in range(20):
            self.passes(19)
            peer.echoes()
            peer.stores("1.2.3", b"", CT_IMAGE_STORAGE)
        self.assertEqual(self.seen.of(events.TimedOut), [])

    def test_small_messages_in_parts(self) -> None:
        """So it is when each read brings the end of one and the beginning of the next."""
        peer = self.associates()
        octets = message(ECHO, echo_rq())
        peer.transport.deliver(octets[:30])
        for _ in range(20):
            self.reactor.advance(19)
            peer.transport.deliver(octets[30:] + octets[:30])
        self.assertEqual(self.seen.of(events.TimedOut), [])
        self.reactor.advance(20)
        self.assertTimedOut("DIMSE", 20)

    def test_begun_late(self) -> None:
        """Who has been idle, and begins, has all its time."""
        peer = self.associates()
        self.passes(39)
        peer.transport.deliver(message(ECHO, echo_rq())[:8])
        self.passes(39)
        self.assertEqual(self.seen.of(events.TimedOut), [])
        self.passes(1)
        self.assertTimedOut("network", 40)

    def test_silent(self) -> None:
        """Who has sent nothing at all since then was silent, and that is what is said."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"data", last=False))
        self.passes(20)
        self.assertEqual(self.last(events.AbortSent).why, "DIMSE timeout")

    def test_one_timer(self) -> None:
        """There is one timer, whatever arrives."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()))
        for _ in range(1000):
            peer.transport.deliver(data(CT, b"x", last=False))
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)


class GateTests(ShellTestCase):
    """Whoever is behind pauses the transport."""

    def begin(self, peer: Peer) -> Any:
        """Begin a C-STORE; return what its writer can pause."""
        peer.sends(begun(CT, store_rq()) + data(CT, b"da", last=False))
        return self.storage.writers[-1].producer

    def test_writer_behind(self) -> None:
        """A writer that is behind stops the reading, until it has caught up."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        self.assertReading(peer, False)
        peer.sends(data(CT, b"ta"))
        self.assertResponses(peer)
        producer.resumeProducing()
        peer.exchange()
        self.assertResponses(peer, 0x0000)
        self.assertEqual(self.storage.instances["1.2.3"][1], b"data")

    def test_nobody_takes_it(self) -> None:
        """Until someone takes the data set, nothing more is read than what came with its request."""
        for came in (b"", data(CT, b"da", last=False)):
            service = Waiting()
            service._perform = lambda operation, service=service: service.turn()  # type: ignore[misc]
            self.accepts(service)
            peer = self.associates()
            peer.sends(begun(CT, store_rq()) + came)
            self.assertReading(peer, False)
            self.assertEqual(len(self.seen.of(events.Paused)), 1)
            self.seen.events.clear()

    def test_delivers_when_resumed(self) -> None:
        """What a transport delivers while the consumer is given what came before comes behind that."""

        class OneByOne(Transport):
            def resumeProducing(self) -> None:
                self.paused = False
                if self._arriving:
                    self.protocol.dataReceived(self._arriving.popleft())

        @implementer(IConsumer)
        class Restless:
            def __init__(self) -> None:
                self.data = b""

            def registerProducer(self, producer: Any, streaming: bool) -> None:
                self.producer = producer

            def unregisterProducer(self) -> None:
                pass

            def write(self, octets: bytes) -> None:
                self.data += octets
                self.producer.pauseProducing()
                self.producer.resumeProducing()

        turn: Deferred[None] = Deferred()
        consumer = Restless()

        async def perform(operation: IOperation) -> int:
            await turn
            await operation.deliver_data_set(consumer)
            return 0

        self.accepts(Service(perform))
        peer = self.associates()
        transport = peer.transport
        transport.__class__ = OneByOne
        peer.association.dataReceived(begun(CT, store_rq()) + data(CT, b"11", False) + data(CT, b"22", False))
        for fragments in ((b"33", b"44"), (b"55",)):
            transport._arriving.append(b"".join(data(CT, fragment, False) for fragment in fragments))
        transport._arriving.append(data(CT, b"66"))
        turn.callback(None)
        while transport._arriving:
            transport.resumeProducing()
        peer.exchange()
        self.assertEqual(consumer.data, b"112233445566")
        self.assertResponses(peer, 0x0000)

    def test_pauses_are_observed(self) -> None:
        """Each pause is observed once, and each end of one, however often a writer says so."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        producer.pauseProducing()
        producer.resumeProducing()
        producer.resumeProducing()
        self.assertEqual(len(self.seen.of(events.Paused)), 1)
        self.assertEqual(len(self.seen.of(events.Resumed)), 1)
        peer.sends(data(CT, b"ta"))
        self.assertEqual(len(self.seen.of(events.Paused)), 1)

    def test_what_arrives_after_the_pause(self) -> None:
        """A paused writer takes the rest of the read, and what a transport delivers all the same."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.association.dataReceived(data(CT, b"ta"))
        self.assertEqual(self.storage.instances["1.2.3"][1], b"data")

    def test_end_of_the_data_set(self) -> None:
        """When the data set is complete, its writer holds up nothing more."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.association.dataReceived(data(CT, b"ta"))
        self.assertReading(peer)

    def test_opening(self) -> None:
        """Until there is a writer nothing is read, and nothing lost."""
        for size in (1, 10, None):
            self.storage.stalls()
            peer = self.associates(size)
            peer.stores("1.2.3", b"data set", CT_IMAGE_STORAGE)
            peer.echoes()
            self.assertReading(peer, False)
            self.storage.recovers()
            peer.exchange()
            self.assertReading(peer)
            self.assertResponses(peer, 0x0000, 0x0000)
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], b"data set")

    def test_opening_fails(self) -> None:
        """Where no writer can be had, the data set is dropped, the request answered, and reading goes on."""
        for size in (1, 10, None):
            self.storage.stalls()
            peer = self.associates(size)
            peer.stores("1.2.3", b"data set", CT_IMAGE_STORAGE)
            peer.echoes()
            self.storage.error = OSError(28, "No space left on device")
            self.storage.recovers()
            self.storage.error = None
            peer.exchange()
            self.assertResponses(peer, 0xA700, 0x0000)

    def test_two_at_a_time(self) -> None:
        """Two operations at a time; the third waits, and what is behind it waits in the transport."""
        service = Waiting()
        self.accepts(Verification(), service)
        peer = self.associates(10)
        peer.sends(b"".join(message(CT, store_rq(number), b"data") for number in range(1, 5)))
        self.assertEqual(len(service.operations), 2)
        self.assertReading(peer, False)
        service.turns[1].callback(0)
        self.assertEqual(len(service.operations), 3)
        self.assertReading(peer, False)
        service.turns[0].callback(0)
        self.assertEqual(len(service.operations), 4)
        self.assertReading(peer)
        service.turns[2].callback(0)
        service.turns[3].callback(0)
        peer.exchange()
        self.assertResponses(peer, 0, 0, 0, 0)

    def test_nothing_but_requests_waits(self) -> None:
        """With as many operations as there may be, an A-ABORT is heard."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(message(CT, store_rq(1), b"data") + message(CT, store_rq(2), b"data"))
        self.assertReading(peer)
        peer.aborts()
        self.assertEqual(self.last(events.AbortReceived).association, peer.association)
        self.assertEqual(service.cancelled, 2)

    def test_responses_behind_requests(self) -> None:
        """Where a service invokes on its own association, requests that pile up do not bury the responses."""

        async def echo_back(operation: IOperation) -> int:
            await operation.read_data_set(100)
            response = await operation.association.invoke(echo_rq(9), context=ECHO)
            return response.status

        self.accepts(Verification(), Service(echo_back))
        peer = self.associates()
        peer.sends(b"".join(message(CT, store_rq(number), b"data") for number in (1, 2, 3)))
        self.assertReading(peer)
        (refused,) = peer.responses
        self.assertEqual((refused.message_id_being_responded_to, refused.status), (3, 0x0213))
        for _ in range(2):  # one after the other: no window was negotiated
            asked = [item.command for item in peer.indications if isinstance(item, MessageReceived)]
            (request,) = (command for command in asked if isinstance(command, CEchoRQ))
            peer.indications.clear()
            peer.sends(message(ECHO, respond(request, 0)))
            peer.exchange()
        asked = [item.command for item in peer.indications if isinstance(item, MessageReceived)]
        self.assertEqual([command.status for command in asked if isinstance(command, CStoreRSP)], [0])

    def test_waiting_when_it_ends(self) -> None:
        """A request that waits when its association ends is performed by nobody."""
        service = Waiting()
        self.accepts(service)
        peer = self.associates()
        peer.sends(b"".join(message(CT, store_rq(number), b"data") for number in (1, 2, 3)))
        peer.association.abort()
        self.assertEqual(len(service.operations), 2)

    def test_peer_that_does_not_read(self) -> None:
        """Who does not read our answers is not read from."""
        peer = self.associates()
        backlog = peer.transport.producer
        verifyObject(IPushProducer, backlog)
        backlog.pauseProducing()
        self.assertReading(peer, False)
        backlog.resumeProducing()
        self.assertReading(peer)
        backlog.stopProducing()
        self.assertReading(peer)

    def test_several_reasons(self) -> None:
        """Reading goes on when no reason to pause is left."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        peer.transport.producer.pauseProducing()
        producer.resumeProducing()
        self.assertReading(peer, False)
        peer.transport.producer.resumeProducing()
        self.assertReading(peer)

    def test_committing(self) -> None:
        """While a commit takes its time we read on: A-ABORT is heard."""
        peer = self.associates()
        producer = self.begin(peer)
        producer.pauseProducing()
        self.storage.stalls()
        peer.association.dataReceived(data(CT, b"ta"))
        self.assertReading(peer)
        peer.aborts()
        self.assertIsNone(self.last(events.OperationEnded).response)
        self.assertClosing(peer)
        self.storage.recovers()
        self.assertEqual(self.storage.instances["1.2.3"][1], b"data")

    def test_echo_while_committing(self) -> None:
        """What was asked later may be answered sooner."""
        peer = self.associates()
        self.begin(peer)
        self.storage.stalls()
        peer.sends(data(CT, b"ta") + message(ECHO, echo_rq(2)))
        self.assertEqual([type(response) for response in peer.responses], [CEchoRSP])
        self.storage.recovers()

    def test_paused_when_it_ends(self) -> None:
        """An abort ends every pause: what still comes is read, for the peer's close."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.association.abort()
        self.assertReading(peer)
        self.assertAborted(peer)

    def test_closing_the_transport_while_paused(self) -> None:
        """A connection that goes away while it is paused leaves nothing behind."""
        peer = self.associates()
        self.begin(peer).pauseProducing()
        peer.transport.lose()
        self.assertEqual(self.storage.writers[0].ended, "abort")


class TurnTests(ShellTestCase):
    """What one peer sends is done a piece at a time: others have their turn in between."""

    def test_read(self) -> None:
        """How long a read keeps the others waiting is learned, for the next to be as long as is good."""

        async def takes_long(operation: IOperation) -> int:
            self.reactor.rightNow += 3.0  # a Clock that advances would call what is due
            return 0

        self.accepts(Service(takes_long))
        peer = self.associates()
        took: list[tuple[int, float]] = []
        self.patch(peer.association._wire, "took", lambda *read: took.append(read))
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertEqual(took, [], "nothing could be shorter")
        around = len(message(CT, store_rq(), b""))
        peer.transport.deliver(message(CT, store_rq(), bytes(LEAST_READ - around)))
        self.assertEqual(took, [(LEAST_READ, 3.0)], "as much as is read at least: it may be more again")

    def test_empty_fragments(self) -> None:
        """PDVs that bring nothing count as those that bring an octet: of a command set, and of a data set."""
        for control, beginning in ((1, b""), (0, begun(CT, store_rq()) + data(CT, b"x", last=False))):
            peer = self.associates()
            peer.sends(beginning)
            nothing = PDV_HEADER.pack(2, CT, control)
            for together in (1, 100):
                many = HEADER.pack(P_DATA_TF, together * len(nothing)) + together * nothing
                peer.transport.deliver(many * (5 * TURN // together))
                turns = 1
                while peer.transport.paused:
                    self.take_turn(peer)
                    turns += 1
                self.assertIn(turns, (5, 6))

    def arrived(self, peer: Peer) -> int:
        """Return how many octets of its data set the operation that is arriving has had."""
        (operation,) = peer.association._operations.unanswered
        return operation.octets

    def take_turn(self, peer: Peer) -> None:
        """Take one turn: a Clock that advances would take all, for what is called later is due as well."""
        (turn,) = (call for call in self.reactor.calls if call.func == peer.association._intake._take_turn)
        take = turn.func
        turn.cancel()
        take()

    def test_fragments(self) -> None:
        """A turn takes so many fragments, and the next follows when others have had theirs."""
        peer = self.associates()
        fragments = b"".join(data(CT, b"x", last=False) for _ in range(3 * TURN))
        peer.transport.deliver(begun(CT, store_rq()) + fragments)
        took = []
        while peer.transport.paused:
            took.append(self.arrived(peer))
            self.take_turn(peer)
        self.assertEqual(len(took), 3)
        self.assertEqual([octets <= TURN * turns for turns, octets in enumerate(took, 1)], [True] * 3)
        self.assertEqual(self.arrived(peer), 3 * TURN)
        peer.transport.deliver(data(CT, b"x"))
        peer.exchange()
        self.assertResponses(peer, 0x0000)

    def test_large_fragments(self) -> None:
        """Fragments of the usual size are no work: a read of them is taken whole."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()))
        peer.transport.deliver(b"".join(data(CT, bytes(16376), last=False) for _ in range(64)))
        self.assertFalse(peer.transport.paused)
        peer.transport.deliver(data(CT, b""))

    def test_messages(self) -> None:
        """A turn takes so many messages, each answered in the turn that took it."""
        peer = self.associates()
        messages = 3 * TURN // MESSAGE_WORK
        peer.transport.deliver(b"".join(message(ECHO, echo_rq(number)) for number in range(messages)))
        turns = 0
        while peer.transport.paused:
            turns += 1
            self.assertEqual(len(peer.transport.written), turns)
            self.take_turn(peer)
        self.assertEqual((turns, len(self.seen.of(events.OperationEnded))), (3, messages))

    def test_reads(self) -> None:
        """How much is read at a time follows from how much of a data set has come, and whether more is to."""
        peer = self.associates()
        seen: list[tuple[int, bool]] = []

        def arriving(octets: int, *, more: bool) -> None:
            seen.append((octets, more))

        self.patch(peer.association._wire, "arriving", arriving)
        peer.transport.deliver(begun(CT, store_rq()))
        self.assertEqual(seen, [])
        for number in range(1, 4):
            peer.transport.deliver(data(CT, bytes(16000), last=False))
            self.assertEqual(seen[-1], (number * 16000, True))
        peer.transport.deliver(data(CT, b""))
        self.assertEqual(seen[-1], (48000, False))
        peer.transport.deliver(message(CT, store_rq(), bytes(100)))
        self.assertEqual(seen[-1], (100, False))

    def test_nobody_is_told(self) -> None:
        """Nobody is behind: nobody is told that reading was paused, nor is the peer silent."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"x", last=False) * 2 * TURN)
        self.assertTrue(peer.transport.paused)
        self.reactor.advance(0)
        self.assertEqual(self.seen.of(events.Paused), [])
        peer.transport.deliver(data(CT, b""))

    def test_behind(self) -> None:
        """Who is paused for a reason when the turn comes stays paused."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"x", last=False) * 2 * TURN)
        peer.association._gate.close(self)
        self.reactor.advance(0)
        self.assertTrue(peer.transport.paused)
        peer.association._gate.open(self)
        self.assertFalse(peer.transport.paused)
        peer.transport.deliver(data(CT, b""))

    def test_resumed_between_turns(self) -> None:
        """A reason that goes before the turn comes does not let more be read."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"x", last=False) * 2 * TURN)
        peer.association._gate.close(self)
        peer.association._gate.open(self)
        self.assertTrue(peer.transport.paused)
        self.reactor.advance(0)
        self.assertFalse(peer.transport.paused)
        peer.transport.deliver(data(CT, b""))

    def test_lost_between_turns(self) -> None:
        """A peer that goes between two turns has no more of them."""
        peer = self.associates()
        peer.transport.deliver(begun(CT, store_rq()) + data(CT, b"x", last=False) * 2 * TURN)
        peer.transport.lose()
        self.assertEqual(self.reactor.getDelayedCalls(), [])


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
        peer.sends(message(CT, store_rq(1), b"data") + message(CT, store_rq(2), b"data"))
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


class Policy:
    """A policy that says what it was told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def consider(self, request: AssociateRQ, peer: object) -> Any:
        return self.answer


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
