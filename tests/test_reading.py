"""Tests of :mod:`dicomnode.reading`: files as bodies, read where they are and in threads."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import struct
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.internet.threads import deferToThreadPool

from dicomnode.errors import InvalidFile
from dicomnode.part10 import part10_header
from dicomnode.reading import READ, FileBody, open_file, open_regular, threads
from dicomnode.sending import Sending
from dicomnode.testing import Pool, Reactor
from tests.cases import QuickReactor
from tests.files import descriptors, instance
from tests.test_sending import SendingCase

DATA = bytes(range(256)) * 3000  # three pieces


class FileBodyTests(SendingCase):
    """A file as a body."""

    def body(self, file: Any, length: int | None = None) -> FileBody:
        return FileBody(file, self.clock, length)

    def runs(self) -> None:
        """Let be read, and sent, what can be."""
        self.turns()

    def test_whole(self) -> None:
        """It is sent, and closed."""
        for size in (0, 1, 999, 1000, 1001, READ - 1, READ, READ + 1, len(DATA)):
            for length in (size, None):
                self.setUp()
                file = BytesIO(DATA[:size])
                self.sending.start(self.body(file, length))
                self.runs()
                self.assertSent(DATA[:size])
                self.assertTrue(file.closed)

    def test_paused(self) -> None:
        """While it is paused, it produces nothing; and it goes on where it was."""
        body = self.body(BytesIO(DATA), len(DATA))
        self.assertEqual(body.length, len(DATA))
        self.sending.pauseProducing()
        self.sending.start(body)
        self.runs()
        self.assertEqual(self.sent, [])
        self.sending.resumeProducing()
        self.sending.resumeProducing()
        self.sending.pauseProducing()
        self.runs()
        self.assertLess(len(self.sent), 3)
        self.sending.resumeProducing()
        self.runs()
        self.assertSent(DATA)
        body.resumeProducing()
        self.assertEqual(self.turns(), 0)

    def test_shrinks(self) -> None:
        """A file that ends before its length has failed, and its data set has no end."""
        for size in (0, 900, READ, len(DATA) - 1):
            self.setUp()
            file = BytesIO(DATA[:size])
            self.sending.start(self.body(file, len(DATA)))
            self.runs()
            (failure,) = self.outcome
            assert failure is not None
            failure.trap(InvalidFile)
            self.assertEqual(str(failure.value), f"it ended after {size} of {len(DATA)} octets")
            self.assertNotIn(True, [last for _, last in self.sent])
            self.assertEqual((file.closed, self.clock.getDelayedCalls()), (True, []))

    def test_grows(self) -> None:
        """What is added to a file while it is sent is not sent."""
        file = BytesIO(DATA)
        self.sending.start(self.body(file, len(DATA) - 7))
        self.runs()
        self.assertSent(DATA[:-7])
        self.assertTrue(file.closed)

    def test_stopped(self) -> None:
        """It closes its file when nobody wants the rest; once."""
        file = BytesIO(DATA)
        body = self.body(file)
        self.sending.start(body)
        self.sending.stop()
        body.stopProducing()
        self.runs()
        self.assertTrue(file.closed)
        self.assertEqual((self.turns(), self.outcome), (0, []))

    def test_stopped_by_writing(self) -> None:
        """It may be stopped by what its writing leads to."""
        file = BytesIO(DATA)

        def send(data: bytes | memoryview, last: bool) -> None:
            self.sending.stop()
            raise ZeroDivisionError

        self.sending._send = send
        self.sending.start(self.body(file))
        self.runs()
        self.assertTrue(file.closed)
        self.assertEqual((self.turns(), self.outcome), (0, []))

    def test_bad_consumer(self) -> None:
        """What cannot be written is a failure."""

        class Consumer:
            def registerProducer(self, producer: object, streaming: bool) -> None:
                """It is known."""

            def write(self, data: bytes) -> None:
                raise ZeroDivisionError

        file = BytesIO(DATA)
        produced = self.body(file).startProducing(cast(Any, Consumer()))
        self.runs()
        self.failureResultOf(produced, ZeroDivisionError)
        self.assertTrue(file.closed)

    def test_turns(self) -> None:
        """One that is not paused takes turns by itself, and none once it is."""

        class Consumer:
            written = 0

            def registerProducer(self, producer: object, streaming: bool) -> None:
                """It is known."""

            def write(self, data: bytes) -> None:
                self.written += 1
                if self.written == 2:
                    body.pauseProducing()

        body = self.body(BytesIO(DATA))
        consumer = Consumer()
        produced = body.startProducing(cast(Any, consumer))
        self.runs()
        self.assertEqual(consumer.written, 2)
        body.resumeProducing()
        self.runs()
        self.assertEqual(consumer.written, 3)
        self.successResultOf(produced)

    def test_unreadable(self) -> None:
        """A file that cannot be read is a failure."""

        class Broken(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError("I/O error")

        file = Broken()
        self.sending.start(self.body(file))
        self.runs()
        assert self.outcome[0] is not None
        self.outcome[0].trap(OSError)
        self.assertTrue(file.closed)


class ThreadedFileBodyTests(FileBodyTests):
    """A file that is read in threads."""

    def setUp(self) -> None:
        super().setUp()
        self.pool = Pool()
        self.run_ = partial(deferToThreadPool, cast(Any, Reactor()), cast(Any, self.pool))

    def body(self, file: Any, length: int | None = None) -> FileBody:
        return FileBody(file, self.clock, length, self.run_)

    def runs(self) -> None:
        while self.pool.jobs or self.turns():
            self.pool.run(1)

    def test_ahead(self) -> None:
        """One piece is read ahead while another is sent, or waits to be; and no more, however long."""
        file = BytesIO(DATA)
        self.sending.start(self.body(file, len(DATA)))
        self.assertEqual((self.sent, len(self.pool.jobs)), ([], 1))
        self.pool.run(1)
        self.assertEqual((len(self.sent), len(self.pool.jobs)), (1, 1))
        self.sending.pauseProducing()
        self.pool.run(1)
        self.turns()
        self.assertEqual((len(self.sent), len(self.pool.jobs), file.tell()), (1, 0, 2 * READ))
        self.sending.resumeProducing()
        self.assertEqual(len(self.pool.jobs), 1)
        self.runs()
        self.assertSent(DATA)

    def test_stopped_while_reading(self) -> None:
        """A file that a thread reads is closed when it has; whether that succeeds or not."""

        class Broken(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError("I/O error")

        for file in (BytesIO(DATA), Broken()):
            self.sending = self.make(1000)
            self.sending.start(self.body(file))
            self.sending.stop()
            self.assertFalse(file.closed)
            self.pool.run()
            self.assertTrue(file.closed)
        self.assertEqual((self.sent, self.outcome, self.turns()), ([], [], 0))

    def test_slow(self) -> None:
        """Nothing else waits for a disk."""
        self.sending.start(self.body(BytesIO(DATA)))
        other = Sending(
            1000,
            clock=self.clock,
            begin=lambda: None,
            send=lambda *_: None,
            done=lambda failure: others.append(failure),
        )
        others: list[object] = []
        other.start(FileBody(BytesIO(DATA), self.clock))
        self.turns()
        self.assertEqual(others, [None])
        self.sending.stop()
        self.pool.run()


class OpenTests(SendingCase):
    """A DICOM file is opened."""

    def write(self, data_set: bytes, header: bytes | None = None) -> str:
        path: str = self.mktemp()
        Path(path).write_bytes((part10_header(instance()) if header is None else header) + data_set)
        return path

    def test_small(self) -> None:
        """A small one is read as it is opened, and closed."""
        before = descriptors()
        opened = open_file(self.write(b"data"))
        self.assertEqual((opened.data_set, opened.length), (b"data", 4))
        self.assertEqual(opened.meta.sop_instance_uid, "1.2.3")
        opened.close()
        self.assertEqual(descriptors(), before)

    def test_large(self) -> None:
        """A large one stands where its data set begins."""
        before = descriptors()
        opened = open_file(Path(self.write(DATA)))
        assert not isinstance(opened.data_set, bytes)
        self.assertEqual(opened.data_set.read(), DATA)
        self.assertEqual(opened.length, len(DATA))
        opened.close()
        self.assertEqual(descriptors(), before)

    def test_no_file(self) -> None:
        """What is no file is not waited for, nor is what is none of DICOM left open."""
        before = descriptors()
        fifo = self.mktemp()
        os.mkfifo(fifo)
        cut = part10_header(instance())[:-1]
        for path, said in (
            (fifo, "it is not a regular file"),
            ("/dev/null", "it is not a regular file"),
            (os.curdir, "it is not a regular file"),
            (self.write(b"", b"nothing"), "there is no File Meta Information that gives a SOP Class UID"),
            (self.write(b"", cut), "it ends inside its File Meta Information"),
            (
                self.write(struct.pack("<HH2sxxI", 2, 0x0102, b"OB", 1 << 30) + bytes(READ)),
                "it ends inside its File Meta Information",
            ),
        ):
            self.assertEqual(str(self.assertRaises(InvalidFile, open_file, path)), said)
        self.assertRaises(FileNotFoundError, open_file, "nowhere")
        self.assertEqual(descriptors(), before)

    def test_shrinks(self) -> None:
        """A small one that is shorter than it was a moment ago is not whole."""
        path = self.write(b"0123456789")

        def opens(path: str) -> tuple[int, int]:
            descriptor, size = open_regular(path)
            os.truncate(path, size - 3)
            return descriptor, size

        from dicomnode import reading

        self.patch(reading, "open_regular", opens)
        self.assertEqual(
            str(self.assertRaises(InvalidFile, open_file, path)), "it ended after 7 of 10 octets"
        )

    def test_threads(self) -> None:
        """It is done in the pool that is given, or the reactor's; and where there is none, at once."""
        pool = Pool()
        done = threads(Reactor(), cast(Any, pool))(lambda: 1)
        self.assertNoResult(done)
        pool.run()
        self.assertEqual(self.successResultOf(done), 1)
        self.assertEqual(self.successResultOf(threads(cast(Any, QuickReactor()))(lambda: 2)), 2)
        self.assertEqual(self.successResultOf(threads(Clock())(lambda: 3)), 3)
