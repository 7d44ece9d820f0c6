"""Tests of how long an association waits: ARTIM, and the silence of its peer."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from dicomnode import events
from dicomnode.core.machine import State
from dicomnode.core.pdu import (
    HEADER,
    ReleaseRQ,
    p_data_tf,
)
from dicomnode.errors import (
    AssociationAborted,
)
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer, Transport
from dicomnode.timers import LINGER, Timeouts
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    FIND,
    QUERY,
    TIMEOUTS,
    Policy,
    ShellTestCase,
    Waiting,
    begun,
    data,
    echo_rq,
    find_rq,
    message,
    store_rq,
)
from tests.test_protocol import REQUEST


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

    def test_one_timer(self) -> None:
        """Where ARTIM does not run, the timer is that of silence: there is never a second one."""
        peer = self.connects()
        before = self.reactor.getDelayedCalls()
        for sent, seconds in (
            (REQUEST.encode(), TIMEOUTS.network),
            (message(ECHO, echo_rq()), TIMEOUTS.network),
            (ReleaseRQ().encode(), TIMEOUTS.acse),
        ):
            self.reactor.advance(1)
            peer.transport.deliver(sent)
            (after,) = self.reactor.getDelayedCalls()
            self.assertEqual([after], before)
            self.assertEqual(after.getTime() - self.reactor.seconds(), seconds)
        peer.transport.lose()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_request_behind_the_close(self) -> None:
        """What comes behind our close, as TLS lets it, neither begins an association nor puts ARTIM off."""
        for close, seconds in ((lambda peer: self.acceptor.drain(30), LINGER), (self.abort, TIMEOUTS.acse)):
            peer = self.connects()
            close(peer)
            self.assertClosing(peer)
            peer.association.dataReceived(REQUEST.encode())
            self.passes(seconds)
            self.assertTrue(peer.transport.aborted)
            self.assertEqual(self.seen.of(events.AssociationRequested), [])
            peer.transport.lose()
            self.accepts(Verification())

    @staticmethod
    def abort(peer: Peer) -> None:
        peer.association.abort()

    def test_unread(self) -> None:
        """Who does not read is not said to have sent too little, though he is in the middle of a message."""
        peer = self.associates()
        for octets in (
            begun(CT, store_rq()),
            data(CT, bytes(300), last=False),
            data(CT, bytes(300), last=False),
        ):
            peer.transport.deliver(octets)
        peer.association._gate.pauseProducing()
        self.passes(TIMEOUTS.network)
        self.assertEqual(self.last(events.AbortSent).why, "network timeout")

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
        self.reactor.advance(0)
        self.assertFalse(peer.transport.connected)
        self.acceptor.associations.discard(protocol)

    def test_transport_that_cannot_be_aborted(self) -> None:
        """One of Twisted's, that of standard input and output, can only be closed."""
        peer = self.connects()

        class Standard(Transport):
            def __getattribute__(self, name: str) -> Any:
                if name == "abortConnection":
                    raise AttributeError(name)
                return super().__getattribute__(name)

        peer.transport.__class__ = Standard
        peer.association.drop()
        self.assertTrue(peer.transport.disconnecting)

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
