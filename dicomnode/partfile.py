"""A file on its way to its name: hidden until it is complete.

It is written as ``.NAME.PID-SERIAL.part`` at the root of the storage, and renamed when it is complete:
under a final name there is never anything but a whole instance. While it is written it is locked
(flock), so that what a dead process has left can be told from what a living one is writing.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, count, takewhile

from dicomnode.core.command import Status
from dicomnode.errors import OperationFailed
from dicomnode.values import quick

#: Buffers of one writev: half of the usual IOV_MAX.
BUFFERS = 512

#: Stands before the number of what is kept beside another: no UID has it, nor has what is left of any
#: value in a name (:func:`dicomnode.layout.safe`). By a dot, what is beside 1.2.3 would have the name of
#: the instance 1.2.3.1.
BESIDE = "~"

_PART = re.compile(r"\..+\.[0-9]+-[0-9]+\.part")

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLLOW = os.access in os.supports_follow_symlinks

#: What ``os.link`` fails with where there are no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class OnDuplicate(enum.Enum):
    """What becomes of an instance whose name is taken."""

    REPLACE = "replace"  #: it takes the other's place, in one step
    KEEP = "keep"  #: it is dropped, and answered with Success
    REFUSE = "refuse"  #: it is dropped, and answered with 0x0111
    RENAME = "rename"  #: it is kept beside the other, as ``NAME~1``


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a complete file."""

    name: str  #: relative to the root of the storage
    replaced: bool = False  #: it took another's place
    dropped: bool = False  #: another has the name, and keeps it


_kept = quick(Kept)


class PartFile:
    """A file on its way to its name. What it does blocks; one thread at a time uses it.

    :param root: the directory of the storage.
    :param label: for a person who looks at the directory while the file is being written.
    :param header: the first octets of the file.
    :param reserve: octets of free space below which nothing is begun.
    """

    _serials = count(1)

    def __init__(
        self,
        root: str,
        label: str,
        header: bytes,
        *,
        reserve: int = 0,
        on_duplicate: OnDuplicate = OnDuplicate.REPLACE,
    ) -> None:
        #: the name that it is to have, relative to the root; it is known when the data set is
        self.name = label
        #: the directories by whose names the file is found, down from the root, once it is kept
        self.directories: list[str] = [root]
        #: those of them that this has made
        self.made: list[str] = []
        self._root = root
        self._label = label
        self._header = header
        self._reserve = reserve
        self._on_duplicate = on_duplicate
        self._part = ""
        self._descriptor = -1

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Append ``buffers``, all of them."""
        if self._descriptor < 0:
            self._open()
            buffers = [self._header, *buffers]
        self._write(buffers)

    def sync(self) -> None:
        """Bring what was written to stable storage."""
        if self._descriptor < 0:
            self.write(())
        os.fsync(self._descriptor)

    def keep(self) -> Kept:
        """Give the file its name.

        :raises OperationFailed: when the name is taken, and that is to be refused.
        """
        if self._descriptor < 0:
            self.write(())
        # To close is the last that can report an error of writing. What is locked stays so until the
        # file has its name: closing another descriptor of it reports as much, and leaves the lock.
        os.close(os.dup(self._descriptor))
        return self._settle()

    def _settle(self) -> Kept:
        """Give the file its name, where all of it is written, and nothing had to be reported of that."""
        if "/" in self.name:
            below = accumulate(self.name.split("/")[:-1], os.path.join, initial=self._root)
            self.directories = list(below)
        final = f"{self._root}/{self.name}"
        try:
            kept = self._give_name(final)
        except FileNotFoundError:  # mostly they are there
            self._make()
            kept = self._give_name(final)
        if self._descriptor >= 0 or self._part:
            self.discard()  # the descriptor; and the part file, if another keeps the name
        if kept.dropped and self._on_duplicate is OnDuplicate.REFUSE:
            raise OperationFailed(Status.DUPLICATE_SOP_INSTANCE, "the instance is there already")
        return kept

    def keep_whole(self, buffers: Sequence[bytes | memoryview]) -> Kept:
        """Write all of it and give it its name, at one stretch: as :meth:`write` and :meth:`keep` do.

        It is not locked, for it is a part file for some microseconds. If someone takes it for what a dead
        process has left, and removes it, it is written once more.
        """
        buffers = [self._header, *buffers]
        try:
            self._open(locked=False)
            self._write(buffers)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            return self._settle()
        except FileNotFoundError:
            self.discard()
            self._open()
            self._write(buffers)
            return self.keep()

    def _give_name(self, final: str) -> Kept:
        if self._on_duplicate is OnDuplicate.REPLACE:
            existed = _exists(final)
            os.replace(self._part, final)
            self._part = ""
            return _kept(self.name, existed)
        if self._link(final):
            return Kept(self.name)
        if self._on_duplicate is OnDuplicate.RENAME:
            number = next(number for number in count(1) if self._link(f"{final}{BESIDE}{number}"))
            return Kept(f"{self.name}{BESIDE}{number}")
        if not os.path.isfile(final):
            raise FileExistsError(errno.EEXIST, "what has the name of the instance is no file")
        return Kept(self.name, dropped=True)

    def discard(self) -> None:
        """Leave nothing behind. Does its best: there is no one to whom a failure would matter."""
        descriptor, self._descriptor = self._descriptor, -1
        part, self._part = self._part, ""
        if descriptor >= 0:
            try:  # noqa: SIM105  # suppress() costs as much as the system call
                os.close(descriptor)
            except OSError:
                pass
        if part:
            with suppress(OSError):
                os.unlink(part)

    def _open(self, *, locked: bool = True) -> None:
        if self._reserve:
            space = os.statvfs(self._root)
            if space.f_bavail * space.f_frsize < self._reserve:
                raise OSError(errno.ENOSPC, "free space is below the reserve")
        while self._descriptor < 0:
            part = f"{self._root}/.{self._label}.{os.getpid()}-{next(self._serials)}.part"
            try:
                descriptor = os.open(part, _NEW, 0o666)
            except FileExistsError:
                continue  # left by a dead process, or another machine's
            self._part, self._descriptor = part, descriptor  # from here on, discard knows of it
            if locked and (_lock(descriptor) is False or not os.fstat(descriptor).st_nlink):
                self._part, self._descriptor = "", -1
                os.close(descriptor)  # someone who removes parts was between the open and the lock

    def _write(self, buffers: Sequence[bytes | memoryview]) -> None:
        if len(buffers) > BUFFERS:
            for start in range(0, len(buffers), BUFFERS):
                self._write(buffers[start : start + BUFFERS])
            return
        left = sum(map(len, buffers))
        while True:
            written = os.writev(self._descriptor, buffers)
            left -= written
            if not left:
                return
            buffers = _behind(buffers, written)

    def _make(self) -> None:
        """Make the directories that the name leads through."""
        missing = list(takewhile(lambda path: not os.path.isdir(path), reversed(self.directories[1:])))
        for path in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(path)
                self.made.append(path)

    def _link(self, final: str) -> bool:
        """Give the file a name that nothing has. Return False where something has it."""
        try:
            os.link(self._part, final, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without hard links this is the best there is: no other process should write there.
            if os.path.lexists(final):
                return False
            os.rename(self._part, final)
        else:
            with suppress(OSError):  # the file is kept; what is left goes with the next start
                os.unlink(self._part)
        self._part = ""
        return True


def remove_dead_parts(root: str) -> Iterator[str]:
    """Remove what dead processes have left of unfinished files, and yield the names.

    What a living process, here or on another machine that shares the lock, is writing stays.
    """
    with os.scandir(root) as entries:
        parts = [entry.name for entry in entries if _PART.fullmatch(entry.name)]
    for name in parts:
        path = os.path.join(root, name)
        with suppress(OSError):
            # To write: else NFS gives no lock.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _lock(descriptor):
                    os.unlink(path)
                    yield name
            finally:
                os.close(descriptor)


def _exists(path: str) -> bool:
    """Is there anything of that name? Mostly not, and ``os.path.lexists`` costs an exception then."""
    return os.access(path, os.F_OK, follow_symlinks=False) if _NO_FOLLOW else os.path.lexists(path)


def _lock(descriptor: int) -> bool | None:
    """Lock a file. Return False if someone else has, None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _behind(buffers: Sequence[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """Return what is left of ``buffers`` behind the octets that a short write took."""
    first = 0
    while written >= len(buffers[first]):
        written -= len(buffers[first])
        first += 1
    return [memoryview(buffers[first])[written:], *buffers[first + 1 :]]
