"""Keeps instances as DICOM files (PS3.10), in constant memory.

The data set is written as it comes to a hidden part file, which gets its name when it is complete.

Where the octets are written: into the page cache, by the reactor thread, one ``writev`` a read. That
costs less than a hop to a thread and back, as long as the file system only has to remember them. Once
a write has taken long, or while a sync does, or when the disk has not been heard of for a while, writes
go to a thread of the pool until they are quick again; then what piles up pauses the peer. Bringing them
to stable storage is always a thread's (``commits.py``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IProducer, IPushProducer, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dicomnode import events
from dicomnode.backlog import Backlog, Total
from dicomnode.commits import GroupCommit, IStorageReactor, Sync
from dicomnode.interfaces import IImmediateStorage, IInstanceWriter, Instance
from dicomnode.layout import FLAT, Layout, flat
from dicomnode.part10 import part10_header
from dicomnode.partfile import Kept, OnDuplicate, PartFile
from dicomnode.waiting import InTurn

#: Octets that may wait for a slow disk, for each writer: the peer is paused above the one, and goes
#: on below the other. Four batches; a batch is what a read of 1 MiB brings.
HIGH_WATER = 4 << 20
LOW_WATER = 1 << 20
#: The same for all writers of a storage.
TOTAL_WATER = 32 << 20
#: And above this no instance is begun. What has come whole waits though its sender has gone: who gives up and
#: comes again, while the disk stands still, would leave that behind each time; and ``INSTANCE`` besides its
#: octets, for the writer, the operation and the association.
FLOOD = 128 << 20
INSTANCE = 16 << 10

#: A write by the reactor thread that takes longer makes the next ones go to a thread, in seconds.
SLOW = 0.05
#: So many jobs in a row must have been quick before the reactor thread writes again.
QUICK_JOBS = 16
#: For so long what the disk has done says what it will do, in seconds: a thread touches it first when it
#: has not been heard of for longer. File systems stand still, and those of servers that are gone.
TRUST = 1.0

_T = TypeVar("_T")


#: Names an instance as pynetdicom's storescp does: ``CT.1.2.3``. Part files are called after it, too.
default_name = Layout(FLAT)


@implementer(IImmediateStorage)
class FileStorage:
    """Keeps each instance as a DICOM file in a directory.

    :param directory: must exist.
    :param reactor: to which the threads of the pool report; and its clock.
    :param pool: where disks are waited for; it is started and stopped by its owner. Without one, they are
        waited for in the threads of the reactor, which has ten for everything.
    :param name: gives an instance its name, a path relative to the directory, once its data set has
        been seen. A :class:`Layout` does; whatever does must give nothing unsafe.
    :param sync: what is on stable storage when an instance is committed.
    :param on_duplicate: what becomes of an instance whose name is taken.
    :param reserve: octets of free space below which no instance is begun.
    """

    def __init__(
        self,
        directory: str,
        *,
        reactor: IStorageReactor,
        pool: ThreadPool | None = None,
        name: Callable[[Instance], str] = default_name,
        sync: Sync = Sync.FULL,
        on_duplicate: OnDuplicate = OnDuplicate.REPLACE,
        reserve: int = 0,
        observe: events.Observer = events.ignore,
    ) -> None:
        if pool is None:
            pool = cast(IReactorThreads, reactor).getThreadPool()
        self.directory = directory
        self.reactor = reactor
        self.pool = pool
        self.name = name
        self.by_default = isinstance(name, Layout) and name.template == default_name.template
        self.observe = events.guarded(observe)
        self.tells_of_kept = events.wants(observe, events.InstanceKept)
        self.backlog = Total(TOTAL_WATER)  #: what waits for the disk
        #: what is being kept, by its name: of two, that of which all came last is the last that gets it
        self.keeping = InTurn(reactor)
        self._slow = 0  # how many jobs have yet to be quick
        self._done = reactor.seconds()  # when the last job was
        #: what makes files durable, where something is to
        self.commits = None if sync is Sync.NONE else GroupCommit(reactor, pool, full=sync is Sync.FULL)
        self._on_duplicate = on_duplicate
        self._reserve = reserve
        # Who overrides how one is opened means every instance.
        self._keeps = self.commits is None and type(self).open is FileStorage.open

    @property
    def slow(self) -> bool:
        """Has the disk been slow of late, or may it be now? Then nothing but threads should wait for it."""
        return self.slow_at(self.reactor.seconds())

    def slow_at(self, now: float) -> bool:
        """Is it :attr:`slow`, at a time that is known already?"""
        return (
            self._slow > 0 or now - self._done > TRUST or (self.commits is not None and self.commits.stalled)
        )

    def took(self, seconds: float, now: float | None = None) -> None:
        """Learn how long the disk has taken; and when it had done, if that is known already."""
        if seconds > SLOW:
            self._slow = QUICK_JOBS
        elif self._slow:
            self._slow -= 1
        self._done = self.reactor.seconds() if now is None else now

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        """Nothing touches the disk before the first fragment does.

        Fails with an OSError, which is answered with 0xA700, while too much waits for the disk.
        """
        file = self._file(instance)
        if self.backlog.octets + INSTANCE * len(self.keeping) > FLOOD:
            error = OSError(errno.ENOBUFS, "too much waits for the disk")
            self.tell_of_failure(instance, file, error)
            return fail(error)
        return succeed(FileWriter(self, instance, file))

    @property
    def immediate(self) -> bool:
        """Is nothing synced, and the disk quick?"""
        return self._keeps and not self.keeping and not self.slow_at(self.reactor.seconds())

    def keep(self, instance: Instance, data_set: Sequence[bytes | memoryview]) -> None:
        file = self._file(instance)
        began = self.reactor.seconds()
        try:
            if not self.by_default:
                file.name = self.name(instance)
            kept = file.keep_whole(data_set)
        except Exception as error:
            file.discard()
            if isinstance(error, OSError):
                self.tell_of_failure(instance, file, error)
            raise
        finally:
            now = self.reactor.seconds()
            self.took(now - began, now)
        self.tell_of_kept(instance, kept)

    def tell_of_kept(self, instance: Instance, kept: Kept) -> None:
        if self.tells_of_kept:
            self.observe(
                events.InstanceKept(instance.association, instance, kept.name, kept.replaced, kept.dropped)
            )

    def tell_of_failure(self, instance: Instance, file: PartFile, error: OSError) -> None:
        self.observe(events.InstanceNotKept(instance.association, instance, file.name, self.directory, error))

    def _file(self, instance: Instance) -> PartFile:
        return PartFile(
            self.directory,
            flat(instance),
            part10_header(instance),
            reserve=self._reserve,
            on_duplicate=self._on_duplicate,
        )


@implementer(IInstanceWriter)
class FileWriter:
    """Writes one instance."""

    kept: Kept | None = None  #: what became of the file, once it is complete

    _producer: IPushProducer | None = None
    _backlog: Backlog | None = None  # there is one once something has had to wait
    _paused = False
    _in_thread = False
    _error: BaseException | None = None
    _finish: Callable[[], None] | None = None  # once nothing waits

    def __init__(self, storage: FileStorage, instance: Instance, file: PartFile) -> None:
        self._storage = storage
        self._instance = instance
        self._file = file

    @property
    def path(self) -> str | None:
        """Where the file is, once it is complete."""
        if self.kept is None:
            return None
        return os.path.abspath(os.path.join(self._storage.directory, self.kept.name))

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
        began = storage.reactor.seconds()
        if self._in_thread or self._backlog or storage.slow_at(began):
            self._wait(data)
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._failed(error)
        now = storage.reactor.seconds()
        storage.took(now - began, now)

    def commit(self) -> Deferred[None]:
        storage = self._storage
        waits = storage.slow or storage.keeping or self._in_thread or self._backlog or self._error
        if storage.commits is None and not waits:
            return maybeDeferred(self._keep_at_once)
        nameless: Failure | None = None
        try:
            self._name()
        except Exception:
            nameless = Failure()  # type: ignore[no-untyped-call]
        # Who waits may be cancelled; the keeping goes on behind.
        return storage.keeping.run(self._file.name, partial(self._keep_when_written, nameless))

    def abort(self) -> Deferred[None]:
        gone: Deferred[None] = Deferred()

        def discard() -> None:
            self._run(self._file.discard).chainDeferred(gone)

        if self._backlog is not None:
            self._backlog.forget()
        self._finish = discard
        self._next()
        return gone

    # Within

    def _wait(self, data: Sequence[bytes | memoryview]) -> None:
        """Have these written once what is before them is, and by a thread while the disk is slow."""
        if self._backlog is None:
            self._backlog = Backlog(HIGH_WATER, LOW_WATER, self._storage.backlog)
        self._backlog.add(data)
        self._balance(self._backlog)
        self._next()

    def _keep_at_once(self) -> None:
        """Keep it with nobody to wait for, as most are where nothing is synced."""
        storage = self._storage
        try:
            self._name()
            kept, seconds = _timed(storage.reactor.seconds, self._file.keep)
        except Exception as error:
            self._failed(error)
            raise
        storage.took(seconds)
        self._kept(kept)

    def _name(self) -> None:
        if not self._storage.by_default:  # else the file has had that name from the beginning
            self._file.name = self._storage.name(self._instance)

    def _keep_when_written(self, nameless: Failure | None) -> Deferred[None]:
        kept: Deferred[None] = Deferred()

        def keep() -> None:
            if self._error is not None:
                kept.errback(self._error)
            else:
                keeping = self._keep() if nameless is None else fail(nameless)
                keeping.addCallbacks(self._kept, self._not_kept).chainDeferred(kept)

        self._finish = keep
        self._next()
        return kept

    def _keep(self) -> Deferred[Kept]:
        if self._storage.commits is None:
            return self._run(self._file.keep)
        self._in_thread = True
        return self._storage.commits.keep(self._file).addBoth(self._out_of_thread)

    def _next(self) -> None:
        """Do what is to be done next, unless a thread is still doing what is before it."""
        if self._in_thread:
            return
        backlog = self._backlog
        if backlog:
            writing = self._run(partial(self._file.write, backlog.take()))
            writing.addCallbacks(self._written, self._not_written, callbackArgs=(backlog,))
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
        self._storage.took(seconds)
        return result

    def _written(self, _: None, backlog: Backlog) -> None:
        backlog.done()
        self._balance(backlog)
        self._next()

    def _not_written(self, failure: Failure) -> None:
        self._failed(failure.value)

    def _kept(self, kept: Kept) -> None:
        self.kept = kept
        self._storage.tell_of_kept(self._instance, kept)

    def _not_kept(self, failure: Failure) -> Deferred[None]:
        return self._failed(failure.value).addCallback(lambda _: failure)

    def _failed(self, error: BaseException | None) -> Deferred[None]:
        """Write no more, and leave nothing behind; then comes what waits for the end."""
        self._error = error
        if self._backlog is not None:
            self._backlog.clear()
        if isinstance(error, OSError):  # else it is a bug: commit fails with it, and that is told
            self._storage.tell_of_failure(self._instance, self._file, error)
        discarded = self._run(self._file.discard).addCallback(lambda _: self._next())
        if self._producer is not None:
            self._producer.stopProducing()
        return discarded

    def _balance(self, backlog: Backlog) -> None:
        """Pause the producer when too much waits, and let it go on when little does."""
        if self._producer is None:
            return
        if not self._paused and backlog.too_much:
            self._paused = True
            self._producer.pauseProducing()
        elif self._paused and backlog.little:
            self._paused = False
            self._producer.resumeProducing()


def _timed(seconds: Callable[[], float], job: Callable[[], _T]) -> tuple[_T, float]:
    began = seconds()
    return job(), seconds() - began
