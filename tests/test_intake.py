"""Tests of :mod:`dicomnode.intake`: what one association does before it is another's turn."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from dicomnode import events
from dicomnode.core.pdu import (
    HEADER,
    P_DATA_TF,
    PDV_HEADER,
)
from dicomnode.intake import MESSAGE_WORK, TURN
from dicomnode.interfaces import IOperation
from dicomnode.testing import Peer
from dicomnode.wire import LEAST_READ, LONG
from tests.cases import (
    CT,
    ECHO,
    Service,
    ShellTestCase,
    begun,
    data,
    echo_rq,
    message,
    store_rq,
)


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
        self.patch(peer.association._wire, "took", lambda *read, done: took.append(read))
        peer.sends(message(CT, store_rq(), b"data"))
        self.assertEqual(took, [], "nothing could be shorter")
        around = len(message(CT, store_rq(), b""))
        peer.transport.deliver(message(CT, store_rq(), bytes(LEAST_READ - around)))
        self.assertEqual(took, [(LEAST_READ, 3.0)], "as much as is read at least: it may be more again")

    def test_long_messages(self) -> None:
        """What has taken long is a turn, however few messages it was."""
        begun_at: list[float] = []

        async def takes_long(operation: IOperation) -> int:
            begun_at.append(self.reactor.rightNow)
            self.reactor.rightNow += 0.6 * LONG
            return 0

        self.accepts(Service(takes_long))
        peer = self.associates()
        turns = []
        self.patch(self.reactor, "callLater", lambda seconds, call, *args: turns.append((seconds, call)))
        peer.transport.deliver(message(CT, store_rq(), b"data") * 5)
        self.assertEqual(len(begun_at), 3, "the first of a read is not waited for")
        self.assertTrue(peer.transport.paused)
        (taken,) = [call for seconds, call in turns if not seconds]
        taken()
        peer.exchange()
        self.assertEqual((len(begun_at), len(peer.responses)), (5, 5))
        self.assertFalse(peer.transport.paused)

    def test_read_of_turns(self) -> None:
        """Of a read that takes several turns it is said that more is to be done."""
        peer = self.associates()
        peer.sends(begun(CT, store_rq()))
        for size, several in ((TURN // 2, False), (2 * TURN, True)):
            took: list[bool] = []
            self.patch(peer.association._wire, "took", lambda *_, done, took=took: took.append(done))
            octets = data(CT, bytes(LEAST_READ), last=False) + data(CT, b"", last=False) * size
            peer.transport.deliver(octets)
            self.assertEqual(took, [not several])
            self.reactor.advance(0)
        peer.transport.deliver(data(CT, b""))

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
