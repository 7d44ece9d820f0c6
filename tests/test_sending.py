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

from dicomnode.errors import InvalidFile
from dicomnode.sending import READ, READS, FileBody, Sending

DATA = bytes(range(256)) * 2000  # more than is read in a turn


class SendingCase(SynchronousTestCase):
    """A data set is sent to a list."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[bytes, bool]] = []
        self.outcome: list[Failure | None] = []
        self.begun = 0
        self.sending = Sending(
            1000,
            clock=self.clock,
            begin=self.begin,
            send=lambda data, last: self.sent.append((bytes(data), last)),
            done=self.outcome.append,
        )

    def begin(self) -> None:
        self.begun += 1

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

    def test_file(self) -> None:
        """A file is sent in turns, some of it in each."""
        file = BytesIO(DATA)
        self.sending.start(FileBody(file, self.clock))
        self.assertLessEqual(sum(len(octets) for octets, _ in self.sent), READ * READS)
        self.assertEqual(self.turns(), 1)
        self.assertSent(DATA)
        self.assertTrue(file.closed)

    def test_empty(self) -> None:
        """A data set of no octets is one empty, last fragment."""
        self.sending.start(FileBody(BytesIO(), self.clock))
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
        self.sending.start(FileBody(BytesIO(b"data"), self.clock))
        assert self.outcome[0] is not None
        self.outcome[0].trap(ZeroDivisionError)


class _Eager:
    """Writes as soon as it is resumed, ten times."""

    length = None

    def __init__(self, sending: Sending) -> None:
        self.sending = sending
        self.done: Deferred[None] = Deferred()
        self.written = 0

    def startProducing(self, consumer: Any) -> Deferred[None]:
        return self.done

    def pauseProducing(self) -> None:
        """It writes nothing until it is resumed."""

    def resumeProducing(self) -> None:
        if self.written < 10:
            self.written += 1
            self.sending.write(bytes([self.written - 1]) * 2500)

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


class FileBodyTests(SendingCase):
    """A file as a body."""

    def test_paused(self) -> None:
        """While it is paused, it reads nothing; and it goes on where it was."""
        body = FileBody(BytesIO(DATA), self.clock, len(DATA))
        self.assertEqual(body.length, len(DATA))
        self.sending.pauseProducing()
        self.sending.start(body)
        self.assertEqual((self.sent, self.turns()), ([], 0))
        self.sending.resumeProducing()
        self.sending.resumeProducing()
        self.sending.pauseProducing()
        self.assertEqual(self.turns(), 0)
        self.sending.resumeProducing()
        self.turns()
        self.assertSent(DATA)
        body.resumeProducing()
        self.assertEqual(self.turns(), 0)

    def test_shrinks(self) -> None:
        """A file that ends before its length has failed, and its data set has no end."""
        for size in (0, 900, len(DATA) - 1):
            self.setUp()
            file = BytesIO(DATA[:size])
            self.sending.start(FileBody(file, self.clock, len(DATA)))
            self.turns()
            (failure,) = self.outcome
            assert failure is not None
            error = failure.trap(InvalidFile) and failure.value
            self.assertEqual(str(error), f"it ended after {size} of {len(DATA)} octets")
            self.assertNotIn(True, [last for _, last in self.sent])
            self.assertEqual((file.closed, self.clock.getDelayedCalls()), (True, []))

    def test_grows(self) -> None:
        """What is added to a file while it is sent is not sent."""
        file = BytesIO(DATA)
        self.sending.start(FileBody(file, self.clock, len(DATA) - 7))
        self.turns()
        self.assertSent(DATA[:-7])
        self.assertTrue(file.closed)

    def test_stopped(self) -> None:
        """It closes its file when nobody wants the rest; once."""
        file = BytesIO(DATA)
        body = FileBody(file, self.clock)
        self.sending.start(body)
        self.sending.stop()
        body.stopProducing()
        self.assertTrue(file.closed)
        self.assertEqual((self.turns(), self.outcome), (0, []))

    def test_stopped_by_writing(self) -> None:
        """It may be stopped by what its writing leads to."""
        file = BytesIO(DATA)

        def send(data: bytes | memoryview, last: bool) -> None:
            self.sending.stop()
            raise ZeroDivisionError

        self.sending._send = send
        self.sending.start(FileBody(file, self.clock))
        self.assertTrue(file.closed)
        self.assertEqual((self.turns(), self.outcome), (0, []))

    def test_paused_at_the_end_of_a_turn(self) -> None:
        """Paused by the last that it may produce in a turn, it takes no other."""
        body = FileBody(BytesIO(DATA), self.clock)

        class Consumer:
            written = 0

            def registerProducer(self, producer: object, streaming: bool) -> None:
                """It is known."""

            def write(self, data: bytes) -> None:
                self.written += 1
                if self.written == READS:
                    body.pauseProducing()

        body.startProducing(Consumer())  # type: ignore[arg-type]
        self.assertEqual(self.clock.getDelayedCalls(), [])
        body.stopProducing()

    def test_unreadable(self) -> None:
        """A file that cannot be read is a failure."""

        class Broken(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError("I/O error")

        file = Broken()
        self.sending.start(FileBody(file, self.clock))
        assert self.outcome[0] is not None
        self.outcome[0].trap(OSError)
        self.assertTrue(file.closed)
