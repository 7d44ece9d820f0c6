"""Tests for :mod:`dicomnode.partfile`."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

from dicomnode.core.command import Status
from dicomnode.errors import OperationFailed
from dicomnode.events import InstanceKept
from dicomnode.layout import Layout, safe
from dicomnode.part10 import part10_header
from dicomnode.partfile import BESIDE, BUFFERS, Kept, OnDuplicate, PartFile, remove_dead_parts
from tests.files import DirectoryCase, FileStorageCase, Producer, descriptors, instance


class PartFileTests(FileStorageCase):
    """Under a final name there is never anything but a whole instance."""

    def test_hidden(self) -> None:
        """Until it is complete, a file is hidden beside its target; then it is gone."""
        writer = self.open()
        self.assertEqual(self.files(), [])
        writer.writeSequence([b"data"])
        (part,) = self.files()
        self.assertRegex(part, re.escape(f".CT.1.2.3.{os.getpid()}-") + r"\d+\.part$")
        self.assertEqual(self.contents(part), part10_header(instance()) + b"data")
        self.successResultOf(writer.commit())
        self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_renamed_last(self) -> None:
        """The file is complete, and closing it gave no error, when it gets its name; its lock goes last."""
        self.stores([b"data"])
        calls = ["open", "flock", "fstat", "writev", "dup", "close", "replace", "close"]
        self.assertEqual(self.disk.calls, calls)

    def test_nothing_touched_before(self) -> None:
        """A writer that is given nothing touches nothing."""
        self.successResultOf(self.open().abort())
        self.assertEqual(self.disk.calls, [])

    def test_quick_disk_needs_no_thread(self) -> None:
        """As long as the disk is quick, nothing is left to the pool."""
        self.stores([b"x" * 1000] * 100)
        self.assertFalse(self.pool.jobs)

    def test_stale_part_file(self) -> None:
        """What a dead process has left is neither used nor touched."""
        for serial in (1, 2):
            with open(self.path(f".CT.1.2.3.{os.getpid()}-{serial}.part"), "wb") as file:
                file.write(b"stale")
        self.stores([b"data"])
        self.assertEqual(self.data_set(), b"data")
        for serial in (1, 2):
            self.assertEqual(self.contents(f".CT.1.2.3.{os.getpid()}-{serial}.part"), b"stale")

    def test_symlink_in_place_of_the_part_file(self) -> None:
        """A symbolic link that somebody has put where the part file would be is not followed."""
        for target in ("elsewhere", "missing"):
            os.symlink(self.path(target), self.path(f".CT.1.2.3.{os.getpid()}-{1 + len(self.files())}.part"))
        with open(self.path("elsewhere"), "wb") as file:
            file.write(b"precious")
        self.stores([b"data"])
        self.assertEqual(self.data_set(), b"data")
        self.assertEqual(self.contents("elsewhere"), b"precious")
        self.assertFalse(os.path.exists(self.path("missing")))

    def test_symlink_in_place_of_the_file(self) -> None:
        """A symbolic link under the final name is replaced, and not followed."""
        with open(self.path("elsewhere"), "wb") as file:
            file.write(b"precious")
        os.symlink("elsewhere", self.path())
        self.stores([b"data"])
        self.assertFalse(os.path.islink(self.path()))
        self.assertEqual(self.contents("elsewhere"), b"precious")
        self.assertTrue(self.recorder.of(InstanceKept)[0].replaced)

    def test_umask(self) -> None:
        """The mode of a file is what the umask leaves of rw-rw-rw-."""
        for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0, 0o666), (0o002, 0o664)):
            before = os.umask(mask)
            try:
                self.stores()
            finally:
                os.umask(before)
            self.assertEqual(os.stat(self.path()).st_mode & 0o7777, mode)

    def test_not_inherited(self) -> None:
        """A process that is started meanwhile does not inherit the descriptor."""
        before = descriptors()
        writer = self.open()
        writer.write(b"data")
        ((descriptor, _),) = descriptors() - before
        self.assertFalse(os.get_inheritable(int(descriptor)))
        self.successResultOf(writer.abort())

    def test_own_names(self) -> None:
        """Names may be one's own."""
        storage = self.make_storage(name=lambda what: f"{what.sop_instance_uid}.dcm")
        writer = self.open(storage=storage)
        writer.write(b"data")
        self.successResultOf(writer.commit())
        self.assertEqual(self.files(), ["1.2.3.dcm"])

    def test_two_storages(self) -> None:
        """Two storages may share a directory, though they count for themselves."""
        writers = [self.open(storage=storage) for storage in (self.make_storage(), self.make_storage())]
        for number, writer in enumerate(writers):
            writer.writeSequence([b"%d" % number] * 3)
        self.assertEqual(len(self.files()), 2)
        for writer in writers:
            self.successResultOf(writer.commit())
        self.assertEqual(self.data_set(), b"111")
        self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_events(self) -> None:
        """That an instance is kept is told: under which name, and whether in place of another."""
        self.stores()
        self.stores()
        first, second = self.recorder.of(InstanceKept)
        self.assertEqual((first.instance, first.name, first.replaced), (instance(), "CT.1.2.3", False))
        self.assertTrue(second.replaced)
        self.assertEqual(len(self.recorder.events), 2)


class VectorTests(FileStorageCase):
    """All octets are written, however few a writev takes."""

    def test_short_writes(self) -> None:
        """A writev may take as little as it likes, at any length."""
        pieces = [b"0123456789", b"", memoryview(b"abcdefg"), b"x" * 50, b"", b"\0"]
        whole = b"".join(pieces)
        header = len(part10_header(instance()))
        for longest in range(1, header + len(whole) + 2):
            self.disk.longest = longest
            self.stores(pieces)
            self.assertEqual(self.data_set(), whole)

    def test_nothing_taken(self) -> None:
        """A writev that takes nothing is tried again."""
        taken = [0, 5, 0, 7]
        self.patch(
            self.disk,
            "writev",
            lambda descriptor, buffers: os.write(
                descriptor, b"".join(buffers)[: taken.pop() if taken else None]
            ),
        )
        self.stores([b"0123456789"])
        self.assertEqual(self.data_set(), b"0123456789")

    def test_many_buffers(self) -> None:
        """No writev is given more buffers than the system takes."""
        for number in (BUFFERS - 1, BUFFERS, BUFFERS + 1, 2 * BUFFERS + 3, 5000):
            self.disk.buffers.clear()
            pieces = [b"%d," % piece for piece in range(number)]
            self.stores(pieces)
            self.assertEqual(self.data_set(), b"".join(pieces))
            self.assertEqual(sum(self.disk.buffers), number + 1)
            self.assertLessEqual(max(self.disk.buffers), BUFFERS)

    def test_empty_buffers(self) -> None:
        """Buffers without octets are no reason to wait."""
        self.stores([b""] * 3)
        self.assertEqual(self.data_set(), b"")

    def test_empty_data_set(self) -> None:
        """An instance without a data set is its File Meta."""
        self.stores([])
        self.assertEqual(self.contents(), part10_header(instance()))


class SyncTests(DirectoryCase):
    """A part file by itself, without a storage."""

    def test_sync(self) -> None:
        """To sync a file that nothing was written to begins it, and its header is there."""
        for written in ((), (b"data",)):
            file = PartFile(self.directory, "label", b"header ")
            for piece in written:
                file.write([piece[:2]])
                file.write([piece[2:]])
            file.sync()
            self.assertEqual(self.disk.calls[-1], "fsync")
            file.name = "name"
            self.assertEqual(file.keep(), Kept("name", replaced=bool(written)))
            self.assertEqual(self.contents("name"), b"header " + b"".join(written))

    def test_discard(self) -> None:
        """What is discarded is gone, though closing it fails; a second time there is nothing to do."""
        file = PartFile(self.directory, "label", b"header")
        file.write(())
        self.disk.breaks("close", errno.EIO)
        file.discard()
        self.assertEqual(self.files(), [])
        calls = len(self.disk.calls)
        file.discard()
        self.assertEqual(len(self.disk.calls), calls)

    def test_close_fails_behind_the_name(self) -> None:
        """When the file has its name, no error of closing it again is of any use."""
        file = PartFile(self.directory, "label", b"header")
        file.write(())
        replace = self.disk.replace

        def late(*names: str) -> None:
            replace(*names)
            self.disk.breaks("close", errno.EIO)

        self.patch(self.disk, "replace", late)
        self.assertEqual(file.keep(), Kept("label"))
        self.assertEqual(self.files(), ["label"])


class DirectoryTests(FileStorageCase):
    """Names may lead through directories, which are made when they are needed."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = self.make_storage(name=Layout("{calling}/{called}/{instance}"))

    def test_made(self) -> None:
        """Part files stay at the root; the directories appear with the first whole file."""
        writer = self.open()
        writer.write(b"data")
        (part,) = self.files()
        self.assertTrue(part.endswith(".part"))
        self.successResultOf(writer.commit())
        self.assertEqual(self.tree(), ["PEER/ANY-SCP/1.2.3"])
        self.stores(what=instance("1.2.4"))
        self.stores(what=instance("1.2.4", called="OTHER"))
        self.assertEqual(self.tree(), ["PEER/ANY-SCP/1.2.3", "PEER/ANY-SCP/1.2.4", "PEER/OTHER/1.2.4"])

    def test_made_by_another(self) -> None:
        """That another process makes a directory at the same moment is no error."""
        mkdir = self.disk.mkdir

        def twice(path: str) -> None:
            os.mkdir(path)
            mkdir(path)

        self.patch(self.disk, "mkdir", twice)
        self.stores()
        self.assertEqual(self.tree(), ["PEER/ANY-SCP/1.2.3"])

    def test_file_in_the_way(self) -> None:
        """A file where a directory should be is an error of the storage, and stays."""
        self.puts("PEER")
        committing = self.open().commit()
        self.failureResultOf(committing, OSError)
        self.assertEqual(self.tree(), ["PEER"])


class DuplicateTests(FileStorageCase):
    """What becomes of an instance whose name is taken is the user's choice."""

    def kept(self) -> list[tuple[str, bool, bool]]:
        return [(event.name, event.replaced, event.dropped) for event in self.recorder.of(InstanceKept)]

    def duplicates(self, on_duplicate: OnDuplicate) -> None:
        """Store three versions of an instance; those that are refused are to be."""
        self.storage = self.make_storage(on_duplicate=on_duplicate)
        self.stores([b"first"])
        for data in (b"second", b"third"):
            writer = self.open()
            writer.write(data)
            committing = writer.commit()
            if on_duplicate is OnDuplicate.REFUSE:
                error = self.failureResultOf(committing, OperationFailed).value
                self.assertEqual(
                    (error.status, error.comment),
                    (Status.DUPLICATE_SOP_INSTANCE, "the instance is there already"),
                )
            else:
                self.assertIsNone(self.successResultOf(committing))

    def assert_duplicates(self, on_duplicate: OnDuplicate) -> None:
        self.duplicates(on_duplicate)
        first, again = ("CT.1.2.3", False, False), ("CT.1.2.3", False, True)
        if on_duplicate is OnDuplicate.REPLACE:
            self.assertEqual(self.data_set(), b"third")
            self.assertEqual(self.kept(), [first, *[("CT.1.2.3", True, False)] * 2])
        else:
            self.assertEqual(self.data_set(), b"first")
        if on_duplicate is OnDuplicate.RENAME:
            self.assertEqual(self.files(), ["CT.1.2.3", "CT.1.2.3~1", "CT.1.2.3~2"])
            self.assertEqual(self.data_set("CT.1.2.3~1"), b"second")
            self.assertEqual(self.data_set("CT.1.2.3~2"), b"third")
            self.assertEqual(self.kept(), [first, ("CT.1.2.3~1", False, False), ("CT.1.2.3~2", False, False)])
        else:
            self.assertEqual(self.files(), ["CT.1.2.3"])
        if on_duplicate is OnDuplicate.KEEP:
            self.assertEqual(self.kept(), [first, again, again])
        if on_duplicate is OnDuplicate.REFUSE:
            self.assertEqual(self.kept(), [first])

    def test_each(self) -> None:
        """It replaces the other, is dropped with Success, refused with 0x0111, or kept beside it."""
        for on_duplicate in OnDuplicate:
            self.assert_duplicates(on_duplicate)
            self.forget()

    def test_beside(self) -> None:
        """What is kept beside another has no name that any other instance could have."""
        self.storage = self.make_storage(on_duplicate=OnDuplicate.RENAME)
        for data in (b"one", b"two"):
            self.stores([data])
        self.stores([b"another"], instance("1.2.3.1"))
        self.assertEqual(self.files(), ["CT.1.2.3", "CT.1.2.3.1", "CT.1.2.3~1"])
        self.assertNotIn(BESIDE, safe(f"1.2.3{BESIDE}1"))

    def test_no_hard_links(self) -> None:
        """So it does where there are no hard links."""
        for on_duplicate in OnDuplicate:
            for code in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                self.disk.breaks("link", code)
                self.assert_duplicates(on_duplicate)
                self.forget()

    def forget(self) -> None:
        for name in self.files():
            os.unlink(self.path(name))
        self.recorder.events.clear()

    def test_link_fails(self) -> None:
        """Any other error of linking is the store's."""
        for on_duplicate in (OnDuplicate.KEEP, OnDuplicate.REFUSE, OnDuplicate.RENAME):
            self.storage = self.make_storage(on_duplicate=on_duplicate)
            for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS):
                self.disk.breaks("link", code)
                self.assertEqual(self.failureResultOf(self.open().commit(), OSError).value.errno, code)
                self.assertEqual(self.files(), [])

    def test_no_file(self) -> None:
        """What is no file is no instance that could be kept instead: the store fails, whoever is to win."""
        for on_duplicate in (OnDuplicate.KEEP, OnDuplicate.REFUSE):
            self.storage = self.make_storage(on_duplicate=on_duplicate)
            for make in (os.mkdir, os.mkfifo, partial(os.symlink, "nowhere")):
                make(self.path())
                error = self.failureResultOf(self.open().commit(), OSError).value
                self.assertEqual(error.strerror, "what has the name of the instance is no file")
                self.assertEqual(self.files(), ["CT.1.2.3"])
                os.rename(self.path(), self.mktemp())
            os.symlink(__file__, self.path())
            committing = self.open().commit()
            if on_duplicate is OnDuplicate.KEEP:
                self.successResultOf(committing)
            else:
                self.failureResultOf(committing, OperationFailed)
            os.unlink(self.path())
        self.assertEqual(self.kept(), [("CT.1.2.3", False, True)])

    def test_symlink(self) -> None:
        """A name that a symbolic link has is taken, wherever it leads."""
        os.symlink("nowhere", self.path())
        self.storage = self.make_storage(on_duplicate=OnDuplicate.RENAME)
        self.stores()
        self.assertEqual(self.files(), ["CT.1.2.3", "CT.1.2.3~1"])
        self.assertTrue(os.path.islink(self.path()))

    def test_part_stays(self) -> None:
        """An instance that has its name is kept, though its part file cannot be removed."""
        self.storage = self.make_storage(on_duplicate=OnDuplicate.KEEP)
        self.disk.breaks("unlink", errno.EIO)
        self.stores()
        self.assertEqual(len(self.files()), 2)
        self.disk.recovers()
        self.assertEqual(len(list(remove_dead_parts(self.directory))), 1)
        self.assertEqual(self.data_set(), b"good")


class ReserveTests(FileStorageCase):
    """So much of the disk stays free."""

    def test_reserve(self) -> None:
        """Nothing is begun when less is free than what is reserved; it is again when it is."""
        space = os.statvfs(self.directory)
        self.storage = self.make_storage(reserve=space.f_bavail * space.f_frsize * 2)
        writer = self.open()
        producer = Producer()
        writer.registerProducer(producer, True)
        writer.write(b"data")
        self.assertEqual(producer.told, ["stop"])
        error = self.failureResultOf(writer.commit(), OSError).value
        self.assertEqual((error.errno, error.strerror), (errno.ENOSPC, "free space is below the reserve"))
        self.assertEqual(self.disk.calls, ["statvfs"])
        self.storage = self.make_storage(reserve=1)
        self.stores()

    def test_exactly(self) -> None:
        """What is reserved may be what is free; and 0 is not asked for."""
        space = SimpleNamespace(f_bavail=10, f_frsize=512)
        self.patch(self.disk, "statvfs", lambda path: space)
        for reserve, kept in ((5119, True), (5120, True), (5121, False)):
            self.storage = self.make_storage(reserve=reserve)
            committing = self.open().commit()
            if kept:
                self.successResultOf(committing)
            else:
                self.failureResultOf(committing, OSError)


class LockTests(FileStorageCase):
    """What a dead process has left goes; what a living one writes stays."""

    def removed(self) -> list[str]:
        return sorted(remove_dead_parts(self.directory))

    def test_dead(self) -> None:
        """Part files that nobody writes are removed, and their names told."""
        parts = [".CT.1.2.3.99-1.part", ".UN._.99999-12.part", ".x.1-2.part"]
        others = [".hidden", ".part", ".x.part", "..1-1.part.bak", "CT.1.2.3", "CT.1.2.3.1-1.part"]
        others += [".x.1-.part", ".x.1-1.part\n"]
        for name in (*parts, *others):
            self.puts(name)
        self.assertEqual(self.removed(), sorted(parts))
        self.assertEqual(self.files(), sorted(others))
        self.assertEqual(self.removed(), [])

    def test_living(self) -> None:
        """What is being written stays, and can be kept."""
        writer = self.open()
        writer.write(b"data")
        self.assertEqual(self.removed(), [])
        self.successResultOf(writer.commit())
        self.assertEqual(self.data_set(), b"data")

    def test_living_until_named(self) -> None:
        """A file is locked until it has its name: no one takes it for dead in between."""
        for on_duplicate, call in ((OnDuplicate.REPLACE, "replace"), (OnDuplicate.KEEP, "link")):
            self.storage = self.make_storage(on_duplicate=on_duplicate)
            real = getattr(os, call)
            removed: list[str] = []

            def late(*names: str, removed: list[str] = removed, real: Any = real, **how: Any) -> None:
                removed += self.removed()
                real(*names, **how)

            self.patch(self.disk, call, late)
            self.stores()
            self.assertEqual(removed, [])

    def test_no_locks(self) -> None:
        """Where there are no locks, files are written all the same, and nothing is taken for dead."""
        self.disk.breaks("flock", errno.ENOLCK)
        self.puts(".CT.1.2.3.99-1.part")
        self.stores()
        self.assertEqual(self.removed(), [])
        self.assertEqual(self.files(), [".CT.1.2.3.99-1.part", "CT.1.2.3"])

    def test_not_files(self) -> None:
        """Neither links nor directories are touched, nor what links lead to."""
        self.puts("precious")
        os.symlink("precious", self.path(".CT.1.99-1.part"))
        os.symlink("nowhere", self.path(".CT.1.99-2.part"))
        os.mkdir(self.path(".CT.1.99-3.part"))
        before = self.files()
        self.assertEqual(self.removed(), [])
        self.assertEqual(self.files(), before)
        self.assertEqual(self.contents("precious"), b"precious")

    def test_cannot_be_removed(self) -> None:
        """What cannot be removed stays, and is no error."""
        for call in ("open", "unlink", "close"):
            self.puts(".CT.1.99-1.part")
            self.disk.breaks(call, errno.EACCES)
            self.removed()
            self.disk.recovers()
        self.assertEqual(self.files(), [])

    def test_gone_meanwhile(self) -> None:
        """A part file that is kept between the open and the lock is not removed."""
        writer = self.open()
        writer.write(b"data")
        flock = fcntl.flock

        def late(descriptor: int, how: int) -> None:
            self.successResultOf(writer.commit())
            flock(descriptor, how)

        self.patch(self.disk, "flock", late)
        self.assertEqual(self.removed(), [])
        self.assertEqual(self.files(), ["CT.1.2.3"])

    def test_directory_cannot_be_read(self) -> None:
        """That the directory cannot be read is told."""
        os.rmdir(self.directory)
        self.assertRaises(FileNotFoundError, self.removed)
        os.mkdir(self.directory)

    def test_removed_before_the_lock(self) -> None:
        """A part file that was taken for dead before it was locked is begun again, under another name."""
        for lock_first in (False, True):
            found: list[str] = []

            def late(
                descriptor: int, how: int, found: list[str] = found, lock_first: bool = lock_first
            ) -> None:
                if not found:
                    found += [name for name in self.files() if name.endswith(".part")]
                    if lock_first:  # the other has locked it, and will remove it
                        raise BlockingIOError(errno.EAGAIN, "")
                    os.unlink(self.path(found[0]))
                fcntl.flock(descriptor, how)

            self.patch(self.disk, "flock", late)
            self.stores([b"data"])
            self.assertEqual(self.data_set(), b"data")
            self.assertEqual(len(found), 1)
            self.assertEqual(self.files(), [*found, "CT.1.2.3"] if lock_first else ["CT.1.2.3"])
