"""The end of an association, as its requestor comes to know of it."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError

from dicomnode import events
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    AssociationReleased,
    AssociationTimedOut,
    LocalProtocolError,
)
from dicomnode.testing import CalledPeer
from dicomnode.timers import MIN_PROGRESS
from tests.requestorcases import NAMES, RequestorCase


class EndTests(RequestorCase):
    """However an association ends, what is unanswered fails accordingly."""

    def test_release(self) -> None:
        """Release waits for what was invoked before, and nothing can be invoked behind it."""
        peer, association = self.associates()
        echoes = [association.echo(), association.echo()]
        released = association.release()
        self.failureResultOf(association.echo(), LocalProtocolError)
        self.failureResultOf(association.release(), LocalProtocolError)
        peer.responds(0)
        peer.responds(0)
        self.assertEqual([self.successResultOf(echoed).status for echoed in echoes], [0, 0])
        self.assertNoResult(released)
        peer.answers_release()
        self.successResultOf(released)
        self.failureResultOf(association.echo(), LocalProtocolError)
        peer.transport.lose()
        self.failureResultOf(association.echo(), LocalProtocolError)

    def test_release_of_nothing(self) -> None:
        """Who waits in a queue may give up, and then the release need not wait for it."""
        peer, association = self.associates()
        first, second = association.echo(), association.echo()
        released = association.release()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        peer.responds(0)
        peer.answers_release()
        self.successResultOf(released)
        self.successResultOf(first)
        self.assertEqual(len(peer.messages), 1)

    def test_release_unanswered(self) -> None:
        """A release that is not answered fails after the ACSE timeout."""
        peer, association = self.associates()
        released = association.release()
        self.reactor.advance(10)
        self.failureResultOf(released, AssociationTimedOut)
        self.assertAborts(peer)

    def test_released_by_the_other_end(self) -> None:
        """A release by the other end is answered, and what is unanswered fails."""
        peer, association = self.associates()
        echoes = [association.echo(), association.echo()]
        peer.releases()
        for echoed in echoes:
            self.failureResultOf(echoed, AssociationReleased)
        peer.transport.lose()
        self.assertEqual(self.seen.of(events.AssociationEnded)[0].how, "released")
        self.failureResultOf(association.echo(), LocalProtocolError)

    def test_both_release(self) -> None:
        """A release that waits is moot when the other end releases: the association has ended as wished."""
        peer, association = self.associates()
        echoed = association.echo()
        released = association.release()
        peer.releases()
        self.failureResultOf(echoed, AssociationReleased)
        self.successResultOf(released)

    def test_releases_cross(self) -> None:
        """Releases that cross end the association in good order."""
        peer, association = self.associates()
        released = association.release()
        peer._core.request_release()
        peer.exchange()
        peer.exchange()
        self.assertNoResult(released)
        peer.answers_release()
        self.successResultOf(released)

    def ends(self) -> dict[str, tuple[Any, type[Exception]]]:
        """Return the ways in which an association may end, and how what is unanswered fails."""
        return {
            "A-ABORT": (lambda peer, _: peer.aborts(), AssociationAborted),
            "lost": (lambda peer, _: peer.transport.lose(), AssociationLost),
            "local abort": (lambda _, association: association.abort(), AssociationAborted),
            "broken protocol": (lambda peer, _: peer.sends(b"\xff" * 6), AssociationAborted),
            "DIMSE": (lambda *_: self.reactor.advance(20), AssociationTimedOut),
        }

    def test_when_ended(self) -> None:
        """Whoever asks is told how it has ended, before and after; one who gives up does so for no other."""
        for name, (end, error) in self.ends().items():
            with self.subTest(name):
                peer, association = self.associates()
                association.echo().addErrback(lambda _: None)  # else there is nothing to time out
                first, second, third = (association.when_ended() for _ in range(3))
                second.cancel()
                self.failureResultOf(second, CancelledError)
                self.assertNoResult(first)
                end(peer, association)
                for ended in (first, third, association.when_ended()):
                    self.failureResultOf(ended, error)
                peer.transport.lose()
                self.failureResultOf(association.when_ended(), error)

    def test_when_released(self) -> None:
        """It has ended well once either end has released it, and not before that is answered."""
        peer, association = self.associates()
        ended = association.when_ended()
        released = association.release()
        self.assertNoResult(ended)
        peer.answers_release()
        self.successResultOf(released)
        self.assertIsNone(self.successResultOf(ended))
        peer.transport.lose()
        self.successResultOf(association.when_ended())
        peer, association = self.associates()
        ended = association.when_ended()
        peer.releases()
        self.successResultOf(ended)

    def test_release_too_late(self) -> None:
        """To release what has ended fails, with how it has ended."""
        for name, (end, error) in self.ends().items():
            with self.subTest(name):
                peer, association = self.associates()
                association.echo().addErrback(lambda _: None)
                end(peer, association)
                self.failureResultOf(association.release(), error)
                peer.transport.lose()
                self.failureResultOf(association.release(), error)
        for how in ("releases", "answers_release"):
            peer, association = self.associates()
            if how == "answers_release":
                association.release()
            getattr(peer, how)()
            self.failureResultOf(association.release(), LocalProtocolError)
            peer.transport.lose()
            self.failureResultOf(association.release(), LocalProtocolError)

    def test_while_waiting(self) -> None:
        """An echo that awaits its response fails, so does what waits behind it, and what comes later."""
        for name, (end, error) in self.ends().items():
            with self.subTest(name):
                peer, association = self.associates()
                invoked = [association.echo(), association.store(b"data", **NAMES)]
                released = association.release()
                end(peer, association)
                for deferred in (*invoked, released):
                    self.failureResultOf(deferred, error)
                self.failureResultOf(association.echo(), error)
                peer.transport.lose()
                ended = self.seen.of(events.InvocationEnded)[-1]
                self.assertIsNone(ended.response)

    def test_while_sending(self) -> None:
        """A data set that is on its way out is stopped."""
        for name, (end, error) in self.ends().items():
            if name == "DIMSE":
                continue
            with self.subTest(name):
                peer, association = self.associates(CalledPeer(capacity=1000))
                stored = association.store(bytes(1 << 20), **NAMES)
                self.reactor.advance(0)
                self.assertTrue(peer.transport.full)
                end(peer, association)
                self.failureResultOf(stored, error)
                peer.transport.lose()
                self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_never_read(self) -> None:
        """A peer that does not read what it is sent is given up after the network timeout."""
        _peer, association = self.associates(CalledPeer(capacity=1000))
        stored = association.store(bytes(1 << 20), **NAMES)
        self.reactor.advance(39)
        self.assertNoResult(stored)
        self.reactor.advance(1)
        error = self.failureResultOf(stored, AssociationTimedOut).value
        self.assertEqual(error.what, "network")

    def test_read_slowly(self) -> None:
        """One that reads a little, again and again, is not; nor is one idle that may be."""
        peer, association = self.associates(CalledPeer(capacity=1000))
        stored = association.store(bytes(1_200_000), **NAMES)
        while len(peer.data_set) < 1_200_000:
            self.reactor.advance(30)
            peer.exchange()
        peer.responds(0)
        self.successResultOf(stored)
        self.reactor.advance(10_000)
        self.assertEqual(self.seen.of(events.TimedOut), [])

    def test_read_slowly_throughout(self) -> None:
        """Nor is one given up that reads steadily, though the transport has not written all by then."""
        for octets, patient in ((MIN_PROGRESS, True), (MIN_PROGRESS - 1, False)):
            _peer, association = self.associates(CalledPeer(capacity=1000))
            protocol = association._association
            stored = association.store(bytes(1 << 20), **NAMES)
            left = count(1 << 20, -octets)  # looked at once in each network timeout
            self.patch(protocol._wire, "outstanding", left.__next__)
            protocol._gate.read_meanwhile()
            for _ in range(10):
                self.reactor.advance(40)
                self.reactor.advance(0)
            self.assertEqual(stored.called, not patient)
            association.abort()
            self.failureResultOf(stored)

    def test_half_a_pdu(self) -> None:
        """One that is idle is not to leave a PDU unfinished."""
        peer, _association = self.associates()
        peer.sends(b"\x04\0")
        self.reactor.advance(40)
        self.assertEqual(self.seen.of(events.TimedOut)[0].what, "network")
