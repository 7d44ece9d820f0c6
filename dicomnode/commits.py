"""Makes complete files durable, many with one sync (group commit).

What ``fsync`` costs is one commit of the journal and one flush of the disk's cache, almost however much
it has to write. So one thread syncs at a time, and what was completed meanwhile shares the next sync.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from dicomnode.partfile import Kept, PartFile

#: So many directories are known to be synced; then all are forgotten, which costs one more sync of each.
REMEMBERED = 10_000

#: The disk of a sync that takes longer has stalled, in seconds.
STALLED = 0.5


class IStorageReactor(IReactorFromThreads, IReactorTime):
    """What a storage on files needs of a reactor: every one of Twisted's has it."""


class Sync(enum.Enum):
    """What is on stable storage when Success is answered."""

    FULL = "full"  #: the file and its name: the instance survives a power cut
    FILE = "file"  #: the file: after a power cut it may be without its name
    NONE = "none"  #: nothing for certain: the instance survives the end of the process, and no more


class GroupCommit:
    """Syncs files and gives them their names, in a thread.

    :param full: sync the names, too.
    """

    def __init__(self, reactor: IStorageReactor, pool: ThreadPool, *, full: bool) -> None:
        self._reactor = reactor
        self._pool = pool
        self._synced: set[str] | None = set() if full else None
        self._waiting: list[tuple[PartFile, Deferred[Kept]]] = []
        self._running = False
        self._began = 0.0

    @property
    def stalled(self) -> bool:
        """Has a sync been running for long? Then what else is asked of the disk may take as long."""
        return self._running and self._reactor.seconds() - self._began > STALLED

    def keep(self, file: PartFile) -> Deferred[Kept]:
        """Fires when the file is durable under its name. Fails with what any step of it failed with."""
        kept: Deferred[Kept] = Deferred()
        self._waiting.append((file, kept))
        self._next()
        return kept

    def _next(self) -> None:
        if self._running or not self._waiting:
            return
        self._running = True
        self._began = self._reactor.seconds()
        group, self._waiting = self._waiting, []
        files = [file for file, _ in group]
        syncing = deferToThreadPool(self._reactor, self._pool, keep_all, files, self._synced)
        syncing.addBoth(self._done, [kept for _, kept in group])

    def _done(self, results: list[Kept | Failure] | Failure, group: Sequence[Deferred[Kept]]) -> None:
        self._running = False
        self._next()
        for index, kept in enumerate(group):
            result = results if isinstance(results, Failure) else results[index]
            kept.callback(result)  # a Failure makes it fail


def keep_all(files: Sequence[PartFile], synced: set[str] | None) -> list[Kept | Failure]:
    """Sync files, give them their names, and sync these. Return for each what became of it, or why not.

    :param synced: the directories whose names, as far as files are found by them, are on stable storage;
        None: names are not synced.

    The order is what a power cut at any moment asks for: a name never leads to less than the whole
    file, and nobody is told of a name that could be lost.
    """
    results: list[Kept | Failure | None] = [None] * len(files)
    for index, file in enumerate(files):
        try:
            file.sync()
        except Exception:
            results[index] = Failure()  # type: ignore[no-untyped-call]
    for index, file in enumerate(files):
        if results[index] is None:
            try:
                results[index] = file.keep()
            except Exception:
                results[index] = Failure()  # type: ignore[no-untyped-call]
    if synced is not None:
        failed = _sync_directories(files, synced)
        for index, file in enumerate(files):
            for directory in (*file.changed, *file.above):
                if directory in failed and isinstance(results[index], Kept):
                    results[index] = failed[directory]
    return [result for result in results if result is not None]


def _sync_directories(files: Sequence[PartFile], synced: set[str]) -> dict[str, Failure]:
    """Sync the directories that have changed, and those above of which it is not known that they were.

    Whoever made these, perhaps a process that died before it could sync them: the files depend on them.
    """
    if len(synced) > REMEMBERED:
        synced.clear()
    changed = dict.fromkeys(directory for file in files for directory in file.changed)
    above = dict.fromkeys(directory for file in files for directory in file.above)
    failed: dict[str, Failure] = {}
    for directory in {**changed, **above}:
        if directory in changed or directory not in synced:
            try:
                sync_directory(directory)
            except OSError:
                failed[directory] = Failure()  # type: ignore[no-untyped-call]
    synced.update(above)
    synced.difference_update(failed)
    return failed


def sync_directory(directory: str) -> None:
    """Bring the names in a directory to stable storage."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
