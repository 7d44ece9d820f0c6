"""Makes complete files durable, many with one sync (group commit).

What ``fsync`` costs is one commit of the journal and one flush of the disk's cache, almost however much
it has to write. So one thread syncs at a time, and what was completed meanwhile shares the next sync.
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Collection, Sequence
from struct import Struct
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from dicomnode.partfile import Kept, PartFile

#: A directory: its path, and which it is, for another may come to be there: ``st_dev``, ``st_ino`` and,
#: because ext4 gives the inode of one that is gone to the next, that inode's generation.
Directory: TypeAlias = tuple[str, int, int, bytes]

#: Of so many directories it is known that their own names are durable; then all are forgotten, which costs
#: one more sync of the directory above each.
REMEMBERED = 10_000

#: ``FS_IOC_GETVERSION`` of Linux (``linux/fs.h``), as most architectures have it: an ``_IOR('v', 1, long)``.
_LONG = Struct("l")
_GET_GENERATION = 2 << 30 | _LONG.size << 16 | ord("v") << 8 | 1

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
        self._durable: set[Directory] | None = set() if full else None
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
        syncing = deferToThreadPool(self._reactor, self._pool, keep_all, files, self._durable)
        syncing.addBoth(self._done, [kept for _, kept in group])

    def _done(self, results: list[Kept | Failure] | Failure, group: Sequence[Deferred[Kept]]) -> None:
        self._running = False
        self._next()
        for index, kept in enumerate(group):
            result = results if isinstance(results, Failure) else results[index]
            kept.callback(result)  # a Failure makes it fail


def keep_all(files: Sequence[PartFile], durable: set[Directory] | None) -> list[Kept | Failure]:
    """Sync files, give them their names, and sync these. Return for each what became of it, or why not.

    :param durable: the directories whose own names are known to be on stable storage; None: names are
        not synced.

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
    if durable is not None:
        kept = [index for index, result in enumerate(results) if isinstance(result, Kept)]
        made = {directory for index in kept for directory in files[index].made}
        failed = _sync_directories([files[index].directories for index in kept], durable, made)
        for index in kept:
            for directory in files[index].directories:
                results[index] = failed.get(directory, results[index])
    return [result for result in results if result is not None]


def _sync_directories(
    ways: Sequence[Sequence[str]], durable: set[Directory], made: Collection[str]
) -> dict[str, Failure]:
    """Sync the last directory of each way, and above it those that hold a name which may not be durable.

    A directory that is there may have been made a moment ago, by another process that has yet to sync its
    name, or has died before it could: the file depends on that. It is known only of a directory whose
    way was synced here; and of all of that way, for while it is there, none above it has gone.

    :param ways: the directories that lead to each file, down from the root.
    :param made: those among them that were made for these files; what is known is of others before them.
    :return: those that cannot be synced.
    """
    if len(durable) > REMEMBERED:
        durable.clear()
    synced: dict[str, Directory | None] = {}
    failed: dict[str, Failure] = {}
    for way in ways:
        unknown: list[Directory] = []
        for index in reversed(range(len(way))):
            path = way[index]
            if path not in synced and path not in failed:
                try:
                    synced[path] = _sync(path, below_root=index > 0)
                except OSError:
                    failed[path] = Failure()  # type: ignore[no-untyped-call]
            if path in failed:
                break
            directory = synced[path]
            if directory is None or (directory in durable and path not in made):
                durable.update(unknown)
                break
            unknown.append(directory)
    return failed


def _sync(path: str, *, below_root: bool) -> Directory | None:
    """Bring the names in a directory to stable storage. Return which it is, if that is of interest."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        return _which(path, descriptor) if below_root else None
    finally:
        os.close(descriptor)


def _which(path: str, descriptor: int) -> Directory:
    status = os.fstat(descriptor)
    try:
        generation = fcntl.ioctl(descriptor, _GET_GENERATION, bytes(_LONG.size))
    except OSError:  # not every file system has any
        generation = b""
    return path, status.st_dev, status.st_ino, generation


def sync_directory(directory: str) -> None:
    """Bring the names in a directory to stable storage."""
    _sync(directory, below_root=False)
