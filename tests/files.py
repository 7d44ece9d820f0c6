"""What the tests of the storage on files share: a directory, and a disk that is slow or breaks."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from dicomnode import commits, partfile
from dicomnode.commits import Sync
from dicomnode.filestore import QUICK_JOBS, SLOW, FileStorage
from dicomnode.interfaces import IAssociation, Instance
from dicomnode.part10 import part10_header
from dicomnode.partfile import PartFile
from dicomnode.testing import Pool, Reactor, Recorder

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"

#: What a file system refuses with.
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS)
#: The system calls that a disk counts, and can be told to refuse.
CALLS = frozenset(
    call
    for calls in (
        "open flock fstat statvfs writev fsync dup close",
        "link unlink mkdir replace rename scandir",
    )
    for call in calls.split()
)


def instance(
    uid: str = "1.2.3",
    sop_class_uid: str = CT,
    calling: str = "PEER",
    called: str = "ANY-SCP",
    walk: Any = None,
) -> Instance:
    return Instance(
        sop_class_uid, uid, EXPLICIT_VR_LE, calling, called, cast(IAssociation, None), cast(Any, walk)
    )


def descriptors() -> set[tuple[str, str]]:
    """Return the open files of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # that of listdir itself
            continue
    return found


class Disk:
    """The modules os and fcntl, for a disk that is slow or breaks. What is not said here is as ever."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.errors: dict[str, BaseException] = {}  #: what each call raises
        self.once = False  #: does only the next such call raise?
        self.only = ""  #: what is in the name of the file, if only calls on some raise
        self.seconds = 0.0  #: how long a writev takes
        self.longest: int | None = None  #: the most that a writev takes
        self.space: int | None = None  #: what the file system has left
        self.calls: list[str] = []
        self.traced: list[tuple[str, ...]] = []  #: what was done, with the names of files but for directories
        self.buffers: list[int] = []  #: of each writev
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            return getattr(fcntl if hasattr(fcntl, name) else os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self.call(name, *arguments, **keywords)

        return call

    def call(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        paths = [argument for argument in arguments if isinstance(argument, str)]
        numbers = [argument for argument in arguments[:1] if isinstance(argument, int)]
        names = [os.path.basename(path) for path in paths] or [self._names.get(n, "") for n in numbers]
        if name == "close":
            os.close(*arguments)  # it is gone, whatever close reports
        self.calls.append(name)
        self.traced.append((name, *names))
        if name in self.errors and self.only in names[-1]:
            raise self.errors.pop(name) if self.once else self.errors[name]
        if name == "close":
            return None
        try:
            result = getattr(fcntl if name == "flock" else os, name)(*arguments, **keywords)
        except OSError:
            self.traced.pop()  # it has done nothing
            raise
        if name in ("open", "dup"):
            self._names[result] = names[0]
        return result

    def writev(self, descriptor: int, buffers: Sequence[bytes]) -> int:
        self.calls.append("writev")
        self.traced.append(("writev", self._names.get(descriptor, "")))
        if "writev" in self.errors:
            raise self.errors["writev"]
        self._reactor.advance(self.seconds)
        self.buffers.append(len(buffers))
        if self.longest is None and self.space is None:
            return os.writev(descriptor, buffers)
        data = b"".join(buffers)[: self.longest]
        if self.space is not None:
            if data and not self.space:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.space]
            self.space -= len(data)
        return os.write(descriptor, data)

    def breaks(self, call: str, code: int, only: str = "") -> None:
        self.errors[call] = OSError(code, os.strerror(code), "/srv/secret/path")
        self.only = only

    def stalls(self) -> None:
        self.seconds = 2 * SLOW

    def recovers(self) -> None:
        self.errors.clear()
        self.only, self.once = "", False
        self.seconds = 0.0
        self.space = self.longest = None


class Producer:
    """A push producer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class DirectoryCase(SynchronousTestCase):
    """Tests in an empty directory, on a disk that can break; at the end no descriptor is left open."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.reactor = Reactor()
        self.pool = Pool()
        self.disk = Disk(self.reactor)
        self.patch(partfile, "os", self.disk)
        self.patch(partfile, "fcntl", self.disk)
        self.patch(commits, "os", self.disk)
        self.patch(PartFile, "_serials", count(1))
        before = descriptors()
        self.addCleanup(lambda: self.assertEqual(descriptors() - before, set()))

    def path(self, name: str = "CT.1.2.3") -> str:
        return os.path.join(self.directory, name)

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def tree(self) -> list[str]:
        """Return the files in the directory and in those below, relative to it."""
        return sorted(
            os.path.relpath(os.path.join(parent, name), self.directory)
            for parent, _, names in os.walk(self.directory)
            for name in names
        )

    def contents(self, name: str = "CT.1.2.3") -> bytes:
        with open(self.path(name), "rb") as file:
            return file.read()

    def puts(self, name: str, contents: bytes = b"precious") -> None:
        with open(self.path(name), "wb") as file:
            file.write(contents)


class FileStorageCase(DirectoryCase):
    """Tests that store into a directory; unless told otherwise, no one waits for stable storage."""

    def setUp(self) -> None:
        super().setUp()
        self.recorder = Recorder()
        self.storage = self.make_storage()

    def make_storage(self, sync: Sync = Sync.NONE, **arguments: Any) -> FileStorage:
        return FileStorage(
            self.directory,
            reactor=self.reactor,
            pool=cast(Any, self.pool),
            sync=sync,
            observe=self.recorder,
            **arguments,
        )

    def open(self, what: Instance | None = None, storage: FileStorage | None = None) -> Any:
        return self.successResultOf((storage or self.storage).open(what or instance()))

    def data_set(self, name: str = "CT.1.2.3", of: Instance | None = None) -> bytes:
        """Return the data set of a file, once its header is what it should be."""
        header = part10_header(of or instance())
        contents = self.contents(name)
        self.assertEqual(contents[: len(header)], header)
        return contents[len(header) :]

    def stores(
        self,
        data: Iterable[bytes] = (b"good",),
        what: Instance | None = None,
        storage: FileStorage | None = None,
    ) -> None:
        """Store the instance in one go."""
        writer = self.open(what, storage)
        writer.writeSequence(list(data))
        committing = writer.commit()
        self.pool.run()
        self.assertIsNone(self.successResultOf(committing))

    def slow(self, slow: bool = True) -> None:
        """Let the storage have found the disk slow, or quick for long enough."""
        for _ in range(1 if slow else QUICK_JOBS):
            self.storage.took(2 * SLOW if slow else 0)

    def busy(self) -> Any:
        """Return a writer for which a thread is writing: ``self.pool.run(1)`` lets that be done."""
        self.disk.stalls()
        writer = self.open()
        writer.writeSequence([b"inline "])
        writer.writeSequence([b"threaded "])
        self.assertEqual(len(self.pool.jobs), 1)
        return writer
