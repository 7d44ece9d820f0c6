"""Tests of :mod:`dicomnode.sending`: bodies, and what becomes of what they produce."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.task import Clock, Cooperator
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import FileBodyProducer
from zope.interface.verify import verifyObject

from dicomnode.sending import FRAGMENTS, WRITE, Octets, Sending
from tests import files

DATA = bytes(range(256)) * 2000  # more than is read in a turn


class SendingCase(SynchronousTestCase):
    """A data set is sent to a list."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[bytes, bool]] = []
        self.outcome: list[Failure | None] = []
        self.taken: list[bytes] = []
        self.begun = 0
        self.sending = self.make(1000)

    def make(self, limit: int) -> Sending:
        return Sending(
            limit,
            clock=self.clock,
            begin=self.begin,
            send=lambda data, last: self.sent.append((bytes(data), last)),
            done=self.outcome.append,
        )

    def begin(self) -> None:
        self.begun += 1

    def turn(self) -> None:
        """Let the turn be taken that is due, and none that follows from it."""
        (call,) = self.clock.getDelayedCalls()
        self.clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)

    def turns(self) -> int:
        """Let all turns be taken that follow from each other."""
        count = 0
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            count += 1
        return count

    def assertSent(self, data: bytes) -> None:
        self.assertEqual(b"".join(octets for octets, _ in self.sent), data)
        self.assertEqual([last for _, last in self.sent], [False] * (len(self.sent) - 1) + [True])
        self.assertEqual((self.begun, self.outcome), (1, [None]))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SendingTests(SendingCase):
    """What is produced is cut, and its end is marked."""

    def test_interfaces(self) -> None:
        """It is what producers and transports know."""
        verifyObject(IConsumer, self.sending)
        verifyObject(IPushProducer, self.sending)
        self.sending.stopProducing()

    def test_octets(self) -> None:
        """Octets that are there are sent in turns, some of them in each."""
        self.sending.start(Octets(DATA))
        self.assertEqual(len(self.sent), 1)
        self.assertLessEqual(len(self.sent[0][0]), WRITE)
        self.assertEqual(self.turns(), 1)
        self.assertSent(DATA)

    def test_small_fragments(self) -> None:
        """Where the peer accepts but one octet in each, so many fragments are sent in a turn."""
        self.sending = self.make(1)
        self.sending.start(Octets(DATA[: 3 * FRAGMENTS + 1]))
        for turn in (1, 2, 3):
            self.assertEqual([len(octets) for octets, _ in self.sent], [FRAGMENTS] * turn)
            self.turn()
        self.assertSent(DATA[: 3 * FRAGMENTS + 1])

    def test_many_writes(self) -> None:
        """What is written bit by bit counts as what is written at once; its producer is paused."""
        body = _Eager(self.sending, size=1, pieces=10_000)
        self.sending = body.sending = self.make(1)
        self.sending.start(body)
        body.resumeProducing()
        while body.written < 10_000:
            self.assertLessEqual(sum(len(octets) for octets, _ in self.sent), FRAGMENTS)
            self.assertLessEqual(len(self.sending._waiting), 1)
            self.taken += [octets for octets, _ in self.sent]
            self.sent.clear()
            self.turn()
        self.turns()
        body.done.callback(None)
        self.assertEqual(self.sent[-1][1], True)
        taken = b"".join((*self.taken, *(octets for octets, _ in self.sent)))
        self.assertEqual(taken, bytes(number % 256 for number in range(10_000)))

    def test_paused_with_some_left(self) -> None:
        """While it is paused, nothing is sent of what waits, in whatever turn; nor is the end."""
        self.sending.start(Octets(DATA))
        self.sending.pauseProducing()
        self.assertEqual(self.turns(), 1)
        self.assertEqual((len(self.sent), self.outcome), (1, []))
        self.sending.resumeProducing()
        self.assertSent(DATA)

    def test_stopped_with_some_left(self) -> None:
        """What waits when nothing can be sent any more is dropped, and no turn is taken for it."""
        self.sending.start(Octets(DATA))
        self.sending.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((len(self.sent), self.outcome), (1, []))

    def test_fails_with_some_left(self) -> None:
        """A body that fails has failed, whatever of it waits."""
        body = _Eager(self.sending)
        self.sending.start(body)
        self.sending.write(DATA)
        body.done.errback(ZeroDivisionError())
        assert self.outcome[0] is not None
        self.outcome[0].trap(ZeroDivisionError)
        self.assertEqual((self.turns(), len(self.sent)), (0, 1))

    def test_bad_turn(self) -> None:
        """What cannot be sent in a turn is how it ends, too."""

        def send(data: bytes | memoryview, last: bool) -> None:
            raise ZeroDivisionError

        self.sending.start(Octets(DATA))
        self.sending._send = send
        self.turns()
        assert self.outcome[0] is not None
        self.outcome[0].trap(ZeroDivisionError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_empty(self) -> None:
        """A data set of no octets is one empty, last fragment."""
        self.sending.start(Octets(b""))
        self.assertEqual(self.sent, [(b"", True)])
        self.assertSent(b"")

    def test_nothing_written(self) -> None:
        """To write nothing sends nothing."""
        self.sending.write(b"")
        self.assertEqual(self.sent, [])

    def test_twisted_body(self) -> None:
        """What Twisted's HTTP client sends may be sent here, too."""
        cooperator = Cooperator(scheduler=lambda call: self.clock.callLater(0, call))
        self.sending.start(FileBodyProducer(BytesIO(DATA), cooperator))
        self.turns()
        self.sending.pauseProducing()
        self.sending.resumeProducing()
        self.turns()
        self.assertSent(DATA)

    def test_pulled(self) -> None:
        """A producer that is to be asked is asked, once in a turn, unless it is paused."""
        sender = FileSender()
        self.sending.start(_Sends(sender, DATA))
        self.assertEqual(self.sent, [])
        turns = 0

        def send(data: bytes | memoryview, last: bool) -> None:
            self.sent.append((bytes(data), last))
            self.sending.pauseProducing()

        self.sending._send = send
        while not self.outcome:
            turns += 1
            self.turns()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.sending.resumeProducing()
            self.sending.resumeProducing()
        self.assertGreater(turns, 2)
        self.assertSent(DATA)

    def test_pulled_too_early(self) -> None:
        """One that begins while we are paused waits."""
        self.sending.pauseProducing()
        self.sending.start(_Sends(FileSender(), DATA))
        self.assertEqual(self.turns(), 0)
        self.sending.resumeProducing()
        self.turns()
        self.assertSent(DATA)

    def test_pulled_fails(self) -> None:
        """One that cannot be asked has failed."""
        sender = FileSender()
        self.sending.start(_Sends(sender, DATA))
        sender.file.close()
        self.turns()
        (failure,) = self.outcome
        assert failure is not None
        failure.trap(ValueError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pulled_stops(self) -> None:
        """It is told when nothing can be sent any more."""
        sender = FileSender()
        body = _Sends(sender, DATA)
        self.sending.start(body)
        self.sending.stop()
        self.assertEqual(self.turns(), 0)
        self.assertEqual((self.sent, self.outcome), ([], []))

    def test_too_late(self) -> None:
        """A producer that comes when nothing can be sent any more is told so, streaming or not."""
        for streaming in (True, False):
            producer = files.Producer()
            sending = self.make(1000)
            sending.stop()
            sending.registerProducer(producer, streaming)
            self.assertEqual(producer.told, ["stop"])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_once(self) -> None:
        """A body that registers itself when it is too late already is told so once."""

        class Body(files.Producer):
            length = None

            def startProducing(self, consumer: Any) -> Deferred[None]:
                sending.stop()
                consumer.registerProducer(self, True)
                return Deferred()

        sending, body = self.make(1000), Body()
        sending.start(body)
        self.assertEqual(body.told, ["stop"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_over_when_it_begins(self) -> None:
        """Who is told that it begins may end it: then nothing is sent."""
        for data in (DATA, b""):
            sending = Sending(
                1000,
                clock=self.clock,
                begin=lambda: sending.stop(),  # noqa: B023
                send=lambda data, last: self.sent.append((bytes(data), last)),
                done=self.outcome.append,
            )
            sending.start(Octets(data))
            self.assertEqual((self.sent, self.outcome), ([], []))

    def test_resumed_in_the_midst_of_a_write(self) -> None:
        """A producer that is resumed by its own writing goes on behind that, and not within."""
        body = _Eager(self.sending)

        def send(data: bytes | memoryview, last: bool) -> None:
            self.sent.append((bytes(data), last))
            self.sending.pauseProducing()
            self.sending.resumeProducing()

        self.sending._send = send
        self.sending.start(body)
        body.resumeProducing()
        body.done.callback(None)
        self.assertSent(b"".join(bytes([number]) * 2500 for number in range(10)))

    def test_stopped(self) -> None:
        """What is stopped before it begins, or in the midst of a write, sends no more."""

        def send(data: bytes | memoryview, last: bool) -> None:
            self.sent.append((bytes(data), last))
            self.sending.stop()

        self.sending._send = send
        self.sending.write(DATA)
        self.sending.write(DATA)
        self.assertEqual((len(self.sent), self.outcome), (1, []))

    def test_bad_begin(self) -> None:
        """When the last fragment cannot be sent, that is how it ends."""
        self.sending._begin = lambda: 1 // 0  # type: ignore[assignment, return-value]
        self.sending.start(Octets(b"data"))
        assert self.outcome[0] is not None
        self.outcome[0].trap(ZeroDivisionError)


class _Eager:
    """Writes as soon as it is resumed, ten times, or as often as it is not paused."""

    length = None

    def __init__(self, sending: Sending, size: int = 2500, pieces: int = 10) -> None:
        self.sending = sending
        self.size = size
        self.pieces = pieces
        self.paused = False
        self.done: Deferred[None] = Deferred()
        self.written = 0

    def startProducing(self, consumer: Any) -> Deferred[None]:
        return self.done

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        while self.written < self.pieces and not self.paused:
            self.written += 1
            self.sending.write(bytes([(self.written - 1) % 256]) * self.size)

    stopProducing = pauseProducing


class _Sends:
    """Makes a body of a FileSender."""

    length = None

    def __init__(self, sender: FileSender, data: bytes) -> None:
        self.sender = sender
        self.data = data

    def startProducing(self, consumer: Any) -> Deferred[None]:
        sent: Deferred[None] = self.sender.beginFileTransfer(BytesIO(self.data), consumer)
        sent.addErrback(lambda failure: failure if self.sender.file is not None else None)
        return sent

    def pauseProducing(self) -> None:
        raise AssertionError("the sender is paused, not this")

    resumeProducing = stopProducing = pauseProducing
