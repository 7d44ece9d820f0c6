"""Keeps instances as DICOM files (PS3.10), in constant memory.

The data set is written as it comes to a hidden part file beside its target, which is renamed when
it is complete: under a final name there is never anything but a whole instance.

Where the octets are written: into the page cache, by the reactor thread, one ``writev`` a read. That
costs less than a hop to a thread and back, as long as the file system only has to remember them. Once
a write has taken long, writes go to a thread of the pool until they are quick again; then what
piles up pauses the peer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from struct import Struct
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IProducer, IPushProducer, IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dicomnode import events
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import IInstanceWriter, Instance, IStorage
from dicomnode.uids import file_name_prefix

#: Octets that may wait for a slow disk, for each writer: the peer is paused above the one, and goes
#: on below the other. Four batches; a batch is what a read of 1 MiB brings.
HIGH_WATER = 4 << 20
LOW_WATER = 1 << 20

#: What a fragment costs besides its octets: else a peer that sends PDVs of one octet would cost 200
#: times what is counted.
OVERHEAD = 256

#: Buffers of one writev: half of the usual IOV_MAX.
BUFFERS = 512

#: A write by the reactor thread that takes longer makes the next ones go to a thread, in seconds.
SLOW = 0.05

_T = TypeVar("_T")

_NOT_OF_A_UID = re.compile(r"[^0-9.]")

#: What may stand in File Meta, as it is; anything else as a question mark. So does a backslash, which
#: would make two values of one.
_DEFAULT_REPERTOIRE = bytes(octet if 0x20 <= octet < 0x7F and octet != 0x5C else 0x3F for octet in range(256))

_UL = Struct("<I")
#: Tag, VR, and a length of two octets (PS3.5 7.1.2); or, for OB, of four after two reserved ones.
_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2sxxI")


class IStorageReactor(IReactorFromThreads, IReactorTime):
    """What the storage needs of a reactor."""


def default_name(instance: Instance) -> str:
    """Return the file name that pynetdicom's storescp gives: ``CT.1.2.3``.

    It is one component of a path, whatever the UID is.
    """
    return f"{file_name_prefix(instance.sop_class_uid)}.{_NOT_OF_A_UID.sub('_', instance.sop_instance_uid)}"


def part10_header(instance: Instance) -> bytes:
    """Return what precedes the data set in a DICOM file: preamble, prefix, File Meta (PS3.10 7.1)."""
    elements = [_LONG.pack(0x0002, 0x0001, b"OB", 2), b"\0\1"]
    for number, vr, value in (
        (0x0002, b"UI", instance.sop_class_uid),
        (0x0003, b"UI", instance.sop_instance_uid),
        (0x0010, b"UI", instance.transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        (0x0016, b"AE", instance.calling_ae_title),
        (0x0018, b"AE", instance.called_ae_title),
    ):
        if value:
            octets = _default_repertoire(value)
            if len(octets) & 1:
                octets += b"\0" if vr == b"UI" else b" "
            elements.append(_SHORT.pack(0x0002, number, vr, len(octets)))
            elements.append(octets)
    body = b"".join(elements)
    return b"".join((bytes(128), b"DICM", _SHORT.pack(0x0002, 0x0000, b"UL", 4), _UL.pack(len(body)), body))


def _default_repertoire(value: str) -> bytes:
    """File Meta knows but the default character repertoire, without control characters (PS3.5 6.1.3)."""
    return value.encode("latin-1", "replace").translate(_DEFAULT_REPERTOIRE)


@implementer(IStorage)
class FileStorage:
    """Keeps each instance as a DICOM file in one directory.

    :param directory: must exist.
    :param reactor: to which the threads of the pool report; and its clock.
    :param pool: where slow disks are waited for; it is started and stopped by its owner.
    :param name: gives an instance its file name: one component, safe in a directory.
    """

    def __init__(
        self,
        directory: str,
        *,
        reactor: IStorageReactor,
        pool: ThreadPool,
        name: Callable[[Instance], str] = default_name,
        observe: events.Observer = events.ignore,
    ) -> None:
        self.directory = directory
        self.reactor = reactor
        self.pool = pool
        self.observe = events.guarded(observe)
        self.slow = False  #: has the last write taken long?
        self._name = name
        self._serials = count(1)

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        """Nothing touches the disk before the first fragment does."""
        return succeed(FileWriter(self, instance, self._name(instance)))

    def part_name(self, name: str) -> str:
        """Return a name, beside that of a file, for what is not yet complete: none is given twice."""
        return f".{name}.{os.getpid()}-{next(self._serials)}.part"


class PartFile:
    """A file on its way to its name. What it does blocks; one thread at a time uses it."""

    def __init__(self, directory: str, name: str, header: bytes, part_name: Callable[[str], str]) -> None:
        self._final = os.path.join(directory, name)
        self._directory = directory
        self._name = name
        self._part_name = part_name
        self._header = header
        self._part = ""
        self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            part = os.path.join(self._directory, self._part_name(self._name))
            try:
                self._descriptor = os.open(part, flags, 0o666)
            except FileExistsError:
                continue  # left by a dead process, or another machine's
            self._part = part
            return

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Append ``buffers``, all of them."""
        if self._descriptor < 0:
            self._open()
            buffers = [self._header, *buffers]
        for start in range(0, len(buffers), BUFFERS):
            self._write(buffers[start : start + BUFFERS])

    def _write(self, buffers: Sequence[bytes | memoryview]) -> None:
        left = sum(map(len, buffers))
        while True:
            written = os.writev(self._descriptor, buffers)
            left -= written
            if not left:
                return
            buffers = _behind(buffers, written)

    def keep(self) -> bool:
        """Give the file its name. Return whether it replaced another."""
        if self._descriptor < 0:
            self.write(())
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        replaces = os.path.lexists(self._final)
        os.replace(self._part, self._final)
        self._part = ""
        return replaces

    def discard(self) -> None:
        """Leave nothing behind. Does its best: there is no one to whom a failure would matter."""
        descriptor, self._descriptor = self._descriptor, -1
        part, self._part = self._part, ""
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
        if part:
            with suppress(OSError):
                os.unlink(part)


def _behind(buffers: Sequence[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """Return what is left of ``buffers`` behind the octets that a short write took."""
    first = 0
    while written >= len(buffers[first]):
        written -= len(buffers[first])
        first += 1
    return [memoryview(buffers[first])[written:], *buffers[first + 1 :]]


@implementer(IInstanceWriter)
class FileWriter:
    """Writes one instance."""

    def __init__(self, storage: FileStorage, instance: Instance, name: str) -> None:
        self._storage = storage
        self._instance = instance
        self._name = name
        self._file = PartFile(storage.directory, name, part10_header(instance), storage.part_name)
        self._producer: IPushProducer | None = None
        self._waiting: list[bytes | memoryview] = []
        self._waiting_octets = 0
        self._paused = False
        self._in_thread = False
        self._error: BaseException | None = None
        self._finish: Callable[[], None] | None = None  # once nothing waits

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = cast(IPushProducer, producer)

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    # IInstanceWriter

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        if self._error is not None:
            return
        storage = self._storage
        if storage.slow or self._in_thread or self._waiting:
            self._waiting += data
            self._waiting_octets += _cost(data)
            self._balance()
            self._next()
            return
        began = storage.reactor.seconds()
        try:
            self._file.write(data)
        except OSError as error:
            self._failed(error)
        storage.slow = storage.reactor.seconds() - began > SLOW

    def commit(self) -> Deferred[None]:
        # Who waits may be cancelled; the keeping goes on behind.
        kept: Deferred[None] = Deferred()

        def keep() -> None:
            if self._error is not None:
                kept.errback(self._error)
            else:
                self._run(self._file.keep).addCallbacks(self._kept, self._not_kept).chainDeferred(kept)

        self._finish = keep
        self._next()
        return kept

    def abort(self) -> Deferred[None]:
        gone: Deferred[None] = Deferred()

        def discard() -> None:
            self._run(self._file.discard).chainDeferred(gone)

        self._waiting = []
        self._finish = discard
        self._next()
        return gone

    # Within

    def _next(self) -> None:
        """Do what is to be done next, unless a thread is still doing what is before it."""
        if self._in_thread:
            return
        if self._waiting:
            batch, self._waiting = self._waiting, []
            writing = self._run(partial(self._file.write, batch))
            writing.addCallbacks(self._written, self._not_written, callbackArgs=(_cost(batch),))
        elif self._finish is not None:
            finish, self._finish = self._finish, None
            finish()

    def _run(self, job: Callable[[], _T]) -> Deferred[_T]:
        """Run a job on the file: here, while the disk is quick; else in a thread."""
        timed = partial(_timed, self._storage.reactor.seconds, job)
        if not self._storage.slow:
            return maybeDeferred(timed).addCallback(self._took)
        self._in_thread = True
        running: Deferred[Any] = deferToThreadPool(self._storage.reactor, self._storage.pool, timed)
        return running.addBoth(self._out_of_thread).addCallback(self._took)

    def _out_of_thread(self, result: Any) -> Any:
        self._in_thread = False
        return result

    def _took(self, timed: tuple[_T, float]) -> _T:
        result, seconds = timed
        self._storage.slow = seconds > SLOW
        return result

    def _written(self, _: None, octets: int) -> None:
        self._waiting_octets -= octets
        self._balance()
        self._next()

    def _not_written(self, failure: Failure) -> None:
        self._failed(failure.value)

    def _kept(self, replaced: bool) -> None:
        instance = self._instance
        self._storage.observe(events.InstanceKept(instance.association, instance, self._name, replaced))

    def _not_kept(self, failure: Failure) -> Deferred[None]:
        return self._failed(failure.value).addCallback(lambda _: failure)

    def _failed(self, error: BaseException | None) -> Deferred[None]:
        """Write no more, and leave nothing behind; then comes what waits for the end."""
        self._error = error
        self._waiting = []
        instance = self._instance
        if isinstance(error, OSError):  # else it is a bug: commit fails with it, and that is told
            directory = self._storage.directory
            self._storage.observe(
                events.InstanceNotKept(instance.association, instance, self._name, directory, error)
            )
        discarded = self._run(self._file.discard).addCallback(lambda _: self._next())
        if self._producer is not None:
            self._producer.stopProducing()
        return discarded

    def _balance(self) -> None:
        """Pause the producer when too much waits, and let it go on when little does."""
        if self._producer is None:
            return
        if not self._paused and self._waiting_octets > HIGH_WATER:
            self._paused = True
            self._producer.pauseProducing()
        elif self._paused and self._waiting_octets < LOW_WATER:
            self._paused = False
            self._producer.resumeProducing()


def _timed(seconds: Callable[[], float], job: Callable[[], _T]) -> tuple[_T, float]:
    began = seconds()
    return job(), seconds() - began


def _cost(data: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, data)) + OVERHEAD * len(data)
