"""A file that is sent: opened and read in threads, and a piece ahead of what is sent.

File systems stand still: a read of one whose server is gone comes to no end. And what has the path of a file
may be something else: to open a FIFO waits for whoever writes to it. The reactor's thread waits for neither.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BytesIO, FileIO
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dicomnode.errors import InvalidFile
from dicomnode.part10 import FileMeta, read_file_meta

#: What is read at a time, in octets; there are two such pieces at most, one that is sent and one that is read
#: ahead. A file that is no longer is read when it is opened: to go to a thread and back costs more than that.
READ = 1 << 18

_T = TypeVar("_T")


class Run(Protocol):
    """Has a job done that may wait for a disk."""

    def __call__(self, job: Callable[[], _T], /) -> Deferred[_T]: ...


def threads(clock: IReactorTime, pool: ThreadPool | None = None) -> Run:
    """Return what has jobs done in a pool, or in the reactor's own; where there is none, at once."""
    if pool is None:
        own: Callable[[], ThreadPool] | None = getattr(clock, "getThreadPool", None)
        if own is None:
            return maybeDeferred
        pool = own()
    return cast(Run, partial(deferToThreadPool, cast(Any, clock), pool))


def open_regular(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a file to read it; return the descriptor, and how many octets there are.

    :raises InvalidFile: when it is none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidFile("it is not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


@dataclass(frozen=True, slots=True)
class Opened:
    """A DICOM file, and what it says of itself."""

    meta: FileMeta
    data_set: bytes | FileIO  #: all of it; or the file, where it begins
    length: int  #: of the data set

    def close(self) -> None:
        if isinstance(self.data_set, FileIO):
            self.data_set.close()


def open_file(path: str | os.PathLike[str]) -> Opened:
    """Open a DICOM file, or read it, if it is small. This is to be done in a thread.

    :raises InvalidFile: when it is none.
    :raises OSError: when it cannot be read.
    """
    descriptor, size = open_regular(path)
    file = FileIO(descriptor)
    try:
        if size > READ:
            buffered = BufferedReader(file)
            meta = read_file_meta(buffered)
            buffered.detach()
            file.seek(meta.data_set)
            if size < meta.data_set:
                raise InvalidFile("it ends inside its File Meta Information")
            return Opened(meta, file, size - meta.data_set)
        octets = file.read(size)
        meta = read_file_meta(BytesIO(octets))
        data_set, length = octets[meta.data_set :], size - meta.data_set
        if length < 0:
            raise InvalidFile("it ends inside its File Meta Information")
        if len(data_set) < length:
            raise _ended(len(data_set), length)
    except BaseException:
        file.close()
        raise
    file.close()
    return Opened(meta, data_set, length)


@implementer(IPushProducer)
class FileBody:
    """Produces what there is of a file from where it stands, in pieces, and closes it.

    While a piece is sent the next is read, and no more: what is kept in memory does not depend on the file.
    What is added to it meanwhile is not read; if it ends before its length, that is a failure, so that what
    is left of it is not taken for all of it.

    :param file: open, and at the first octet that is to be produced.
    :param length: how many octets there are; None: as many as there are when it is read.
    :param run: reads it, in a thread; by default it is read where it is.
    """

    def __init__(
        self, file: BinaryIO, clock: IReactorTime, length: int | None = None, run: Run = maybeDeferred
    ) -> None:
        self.length = length
        self._file = file
        self._clock = clock
        self._run = run
        self._consumer: IConsumer
        self._produced: Deferred[None] = Deferred()
        self._octets = 0  # that were read
        self._piece: bytes | None = None  # that was read, and not yet produced
        self._reading = False
        self._at_end = False
        self._turn: IDelayedCall | None = None
        self._producing = False
        self._paused = False
        self._over = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        consumer.registerProducer(self, True)
        self._read_on()
        return self._produced

    def pauseProducing(self) -> None:
        self._paused = True
        self._wait()

    def resumeProducing(self) -> None:
        self._paused = False
        self._produce()

    def stopProducing(self) -> None:
        if not self._over:
            self._over = True
            self._piece = None
            self._wait()
            if not self._reading:  # else it is closed when that is done: the thread has it
                self._file.close()

    def _wait(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()

    # Reading

    def _read_on(self) -> None:
        if not (self._reading or self._at_end or self._over):
            self._reading = True
            self._run(self._read).addCallbacks(self._has_read, self._not_read)

    def _read(self) -> bytes:
        return self._file.read(READ if self.length is None else min(READ, self.length - self._octets))

    def _has_read(self, data: bytes) -> None:
        self._reading = False
        if self._over:
            self._file.close()
            return
        if not data and self.length is not None and self._octets < self.length:
            self._fail(Failure(_ended(self._octets, self.length)))  # type: ignore[no-untyped-call]
            return
        self._octets += len(data)
        self._piece = data or None
        if not data or self._octets == self.length:
            self._at_end = True
            self._file.close()
        self._produce()

    def _not_read(self, failure: Failure) -> None:
        self._reading = False
        if self._over:
            self._file.close()
        else:
            self._fail(failure)

    # Producing

    def _produce(self) -> None:
        """Produce what was read; then, in another turn, what will be by then."""
        if self._producing or self._paused or self._over:
            return
        self._wait()
        piece, self._piece = self._piece, None
        if piece is not None:
            self._producing = True
            try:
                self._read_on()
                self._consumer.write(piece)
            except Exception:
                self._fail(Failure())  # type: ignore[no-untyped-call]
                return
            finally:
                self._producing = False
        if self._piece is not None:
            if not (self._paused or self._over):
                self._turn = self._clock.callLater(0, self._take_turn)
        elif self._at_end and not self._over:
            self._over = True
            self._produced.callback(None)

    def _take_turn(self) -> None:
        self._turn = None
        self._produce()

    def _fail(self, failure: Failure) -> None:
        over = self._over
        self.stopProducing()
        if not over:
            self._produced.errback(failure)


def _ended(octets: int, length: int) -> InvalidFile:
    return InvalidFile(f"it ended after {octets} of {length} octets")
