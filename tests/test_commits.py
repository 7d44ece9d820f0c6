"""Tests for :mod:`dicomnode.commits`."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred

from dicomnode import commits
from dicomnode.acceptor import Acceptor
from dicomnode.commits import Sync
from dicomnode.errors import OperationFailed
from dicomnode.events import InstanceKept, InstanceNotKept
from dicomnode.filestore import FileStorage
from dicomnode.layout import Layout
from dicomnode.partfile import OnDuplicate
from dicomnode.services import Storage
from dicomnode.testing import Peer
from tests.files import CT, EXPLICIT_VR_LE, FileStorageCase, instance

#: The calls whose order matters.
STEPS = ("fsync", "mkdir", "replace", "answer")


class CommitCase(FileStorageCase):
    """Tests of storages that wait for the disk."""

    def commits(
        self, storage: FileStorage, uid: str = "1.2.3", data: bytes = b"data", calling: str = "PEER"
    ) -> Deferred[None]:
        writer = self.open(instance(uid, calling=calling), storage)
        writer.write(data)
        committing: Deferred[None] = writer.commit()
        return committing

    def steps(self) -> list[str]:
        """Return, and forget, what was done in which order; names are short."""
        found = []
        for call, *names in self.disk.traced:
            if call in STEPS:
                name = names[-1] if names else ""
                name = "part" if name.endswith(".part") else "root" if name == "temp" else name
                found.append(f"{call} {name}".strip())
        self.disk.traced.clear()
        return found


class OrderTests(CommitCase):
    """Whoever is told of Success is told last."""

    def order(self, sync: Sync, layout: str) -> list[str]:
        """Store two instances by a peer, and return the steps that each took."""
        storage = self.make_storage(sync, name=Layout(layout))
        peer = Peer(Acceptor(self.reactor, [Storage(storage, check=False, walk=False)]))
        peer.associates({CT: [EXPLICIT_VR_LE]})
        write, disk = peer.transport.write, self.disk

        def answer(data: bytes) -> None:
            disk.traced.append(("answer",))
            write(data)

        self.patch(peer.transport, "write", answer)
        steps = []
        for uid in ("1.2.3", "1.2.4"):
            peer.stores(uid, b"data")
            self.pool.run()
            peer.exchange()
            self.assertEqual(peer.response.status, 0)
            steps += self.steps()
        return steps

    def test_full(self) -> None:
        """The file is synced, then named, then its directory is synced, then the peer is answered."""
        self.assertEqual(
            self.order(Sync.FULL, "{instance}"),
            [
                "fsync part",
                "replace 1.2.3",
                "fsync root",
                "answer",
                "fsync part",
                "replace 1.2.4",
                "fsync root",
                "answer",
            ],
        )

    def test_full_below(self) -> None:
        """Each directory that is made is synced, with that above it; those once in a storage's life."""
        self.assertEqual(
            self.order(Sync.FULL, "{calling}/{called}/{instance}"),
            [
                "fsync part",
                "mkdir PEER",
                "mkdir ANY-SCP",
                "replace 1.2.3",
                "fsync ANY-SCP",
                "fsync PEER",
                "fsync root",
                "answer",
                "fsync part",
                "replace 1.2.4",
                "fsync ANY-SCP",
                "answer",
            ],
        )

    def test_file(self) -> None:
        """The file is synced before it is named; directories are not."""
        self.assertEqual(
            self.order(Sync.FILE, "{calling}/{instance}"),
            [
                "fsync part",
                "mkdir PEER",
                "replace 1.2.3",
                "answer",
                "fsync part",
                "replace 1.2.4",
                "answer",
            ],
        )

    def test_none(self) -> None:
        """Nothing is synced."""
        self.assertEqual(
            self.order(Sync.NONE, "{calling}/{instance}"),
            [
                "mkdir PEER",
                "replace 1.2.3",
                "answer",
                "replace 1.2.4",
                "answer",
            ],
        )

    def test_directories_of_others(self) -> None:
        """A directory that was there before is synced, with all above: who made it may have died."""
        self.order(Sync.NONE, "{calling}/{called}/{instance}")
        storage = self.make_storage(Sync.FULL, name=Layout("{calling}/{called}/{instance}"))
        committing = [self.commits(storage)]
        self.pool.run()
        self.assertEqual(
            self.steps(), ["fsync part", "replace 1.2.3", "fsync ANY-SCP", "fsync PEER", "fsync root"]
        )
        committing.append(self.commits(storage))
        self.pool.run()
        self.assertEqual(self.steps(), ["fsync part", "replace 1.2.3", "fsync ANY-SCP"])
        for each in committing:
            self.successResultOf(each)

    def test_directories_of_the_living(self) -> None:
        """A directory that another process has made, and not yet synced the name of, is synced with that."""
        storages = [self.make_storage(Sync.FULL, name=Layout("{calling}/{called}/{instance}")) for _ in "AB"]
        self.commits(storages[1], "1.2.0", calling="OTHER")
        self.pool.run()
        name = os.replace

        def other_answers(*names: str) -> None:
            """A has just named its file: before it syncs any directory, B stores beside that."""
            name(*names)
            self.patch(self.disk, "replace", name)
            self.commits(storages[1], "1.2.4")
            self.steps()
            self.pool.run()
            self.assertEqual(self.steps(), ["fsync part", "fsync ANY-SCP", "fsync PEER", "fsync root"])

        self.patch(self.disk, "replace", other_answers)
        committing = self.commits(storages[0])
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.steps(), ["fsync ANY-SCP", "fsync PEER", "fsync root"])

    def test_made_anew(self) -> None:
        """A directory that has gone, and was made anew by somebody, is not the one that was synced."""
        storage = self.make_storage(Sync.FULL, name=Layout("{calling}/{instance}"))
        self.commits(storage)
        self.pool.run()
        os.rename(self.path("PEER"), self.path("elsewhere"))
        os.mkdir(self.path("PEER"))
        self.steps()
        for expected in (["fsync PEER", "fsync root"], ["fsync PEER"]):
            self.commits(storage)
            self.pool.run()
            self.assertEqual(self.steps(), ["fsync part", "replace 1.2.3", *expected])

    def test_inode_used_again(self) -> None:
        """Nor is one that the storage itself has made anew, though nothing tells it from that."""
        self.patch(commits, "_which", lambda path, descriptor: (path, 0, 0, b""))
        storage = self.make_storage(Sync.FULL, name=Layout("{calling}/{instance}"))
        for _ in range(2):
            self.commits(storage)
            self.pool.run()
            self.assertEqual(self.steps()[-2:], ["fsync PEER", "fsync root"])
            shutil.rmtree(self.path("PEER"))

    def test_generations(self) -> None:
        """Two directories are told apart by the generation of their inode, where the file system has that."""
        found = set()
        for _ in range(2):
            os.mkdir(self.path("PEER"))
            descriptor = os.open(self.path("PEER"), os.O_RDONLY)
            self.patch(os, "fstat", lambda descriptor: SimpleNamespace(st_dev=0, st_ino=0))
            try:
                found.add(which := commits._which("PEER", descriptor))
            finally:
                os.close(descriptor)
            os.rmdir(self.path("PEER"))
        self.assertEqual(len(found), 2 if which[-1] else 1)

    def test_steady(self) -> None:
        """Where directories are known, an instance costs one look at its own."""
        for layout, look in (("{instance}", []), ("{calling}/{called}/{instance}", ["fstat"])):
            storage = self.make_storage(Sync.FULL, name=Layout(layout))
            for uid in ("1.2.3", "1.2.4"):
                self.disk.calls.clear()
                self.commits(storage, uid)
                self.pool.run()
            file = ["open", "flock", "fstat", "writev", "fsync", "dup", "close", "replace", "close"]
            self.assertEqual(self.disk.calls, [*file, "open", "fsync", *look, "close"])

    def test_forgotten(self) -> None:
        """When too many directories are remembered they are forgotten, and synced again."""
        self.patch(commits, "REMEMBERED", 0)
        storage = self.make_storage(Sync.FULL, name=Layout("{calling}/{instance}"))
        self.commits(storage)
        self.pool.run()
        self.steps()
        self.commits(storage)
        self.pool.run()
        self.assertEqual(self.steps(), ["fsync part", "replace 1.2.3", "fsync PEER", "fsync root"])

    def test_empty(self) -> None:
        """An instance without octets is as durable as any."""
        committing = self.open(storage=self.make_storage(Sync.FULL)).commit()
        self.pool.run()
        self.successResultOf(committing)
        self.assertEqual(self.data_set(), b"")


class GroupTests(CommitCase):
    """What completes while a sync runs shares the next one."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = self.make_storage(Sync.FULL)

    def group(self, *calling: str, storage: FileStorage | None = None) -> list[Deferred[None]]:
        """Begin commits of 1.2.1, 1.2.2 ... that share a sync, behind one of 1.2.0."""
        storage = storage or self.storage
        first = self.commits(storage, "1.2.0", calling=calling[0])
        group = [
            self.commits(storage, f"1.2.{number}", calling=title) for number, title in enumerate(calling, 1)
        ]
        self.assertEqual(len(self.pool.jobs), 1)
        self.pool.run(1)
        self.successResultOf(first)
        self.assertEqual(len(self.pool.jobs), 1)
        self.disk.traced.clear()
        for each in group:
            self.assertNoResult(each)
        return group

    def test_shared(self) -> None:
        """All files are synced, all are named, and then their directory is synced once."""
        group = self.group("A", "A", "A")
        self.pool.run()
        for each in group:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(
            self.steps(),
            ["fsync part"] * 3 + [f"replace CT.1.2.{number}" for number in (1, 2, 3)] + ["fsync root"],
        )

    def test_one_at_a_time(self) -> None:
        """However many commits there are, one thread syncs."""
        for number in range(50):
            self.commits(self.storage, f"1.2.{number}")
            self.assertEqual(len(self.pool.jobs), 1)
        self.pool.run(2)
        self.assertEqual(len(self.pool.jobs), 0)
        self.assertEqual(len(self.files()), 50)

    def test_own_errors(self) -> None:
        """An error of one file is that file's: the others of the group are kept."""
        for call, file in (("fsync", ".CT.1.2.2."), ("replace", "CT.1.2.2")):
            group = self.group("A", "A", "A")
            self.disk.breaks(call, errno.EIO, file)
            self.pool.run()
            self.disk.recovers()
            self.assertEqual(self.failureResultOf(group.pop(1), OSError).value.errno, errno.EIO)
            for each in group:
                self.successResultOf(each)
            self.assertEqual(self.files(), ["CT.1.2.0", "CT.1.2.1", "CT.1.2.3"])

    def test_bugs(self) -> None:
        """What nobody foresaw in one file is that file's, too."""
        for call, file in (("fsync", ".CT.1.2.2."), ("replace", "CT.1.2.2")):
            group = self.group("A", "A", "A")
            self.disk.errors[call], self.disk.only = ValueError(), file
            self.pool.run()
            self.disk.recovers()
            self.failureResultOf(group.pop(1), ValueError)
            for each in group:
                self.successResultOf(each)
            self.assertEqual(self.files(), ["CT.1.2.0", "CT.1.2.1", "CT.1.2.3"])

    def test_thread_fails(self) -> None:
        """When all fails, all are told; and the next group is synced."""

        def fail(*_: Any) -> Any:
            raise MemoryError

        keep_all = commits.keep_all
        self.patch(commits, "keep_all", fail)
        failing = [self.commits(self.storage, f"1.2.{number}") for number in (5, 6, 7)]
        self.pool.run()
        for each in failing:
            self.failureResultOf(each, MemoryError)
        self.patch(commits, "keep_all", keep_all)
        kept = self.commits(self.storage, "1.2.8")
        self.pool.run()
        self.successResultOf(kept)
        self.assertEqual(self.files(), ["CT.1.2.8"])

    def test_directory_fails(self) -> None:
        """Whose directory cannot be synced is not answered with Success, though it is there."""
        for call in ("open", "fsync", "close"):
            storage = self.make_storage(Sync.FULL, name=Layout("{calling}/{instance}"))
            group = self.group("A", "BROKEN", "C", "BROKEN", storage=storage)
            self.disk.breaks(call, errno.EIO, "BROKEN")
            self.pool.run()
            self.disk.recovers()
            for each, title in zip(group, ("A", "BROKEN", "C", "BROKEN"), strict=True):
                if title == "BROKEN":
                    self.assertEqual(self.failureResultOf(each, OSError).value.errno, errno.EIO)
                else:
                    self.successResultOf(each)
            expected = ["A/1.2.0", "A/1.2.1", "BROKEN/1.2.2", "BROKEN/1.2.4", "C/1.2.3"]
            self.assertEqual(self.tree(), expected)
            again = self.commits(storage, "1.2.2", calling="BROKEN")
            self.pool.run()
            self.successResultOf(again)

    def test_directory_above_fails(self) -> None:
        """A directory whose own name cannot be synced fails all below it, until it can be."""
        storage = self.make_storage(Sync.FULL, name=Layout("{calling}/{instance}"))
        group = self.group("A", "B", "B", storage=storage)
        self.disk.breaks("fsync", errno.EIO, "temp")
        self.pool.run()
        self.disk.recovers()
        for each in group:
            self.failureResultOf(each, OSError)
        self.steps()
        again = self.commits(storage, "1.2.2", calling="B")
        self.pool.run()
        self.successResultOf(again)
        self.assertEqual(self.steps(), ["fsync part", "replace 1.2.2", "fsync B", "fsync root"])

    def test_two_of_one_name(self) -> None:
        """Of two writers of one name, the second is in the next group, and wins, whole."""
        self.commits(self.storage, "1.2.0")
        one = self.commits(self.storage, data=b"one" * 100)
        other = self.commits(self.storage, data=b"other")
        self.pool.run()
        self.successResultOf(one)
        self.assertEqual(self.data_set(), b"one" * 100)
        self.assertNoResult(other)
        self.reactor.advance(0)
        self.pool.run()
        self.successResultOf(other)
        self.assertEqual(self.data_set(), b"other")
        self.assertEqual(
            [(event.replaced, event.dropped) for event in self.recorder.of(InstanceKept)][1:],
            [(False, False), (True, False)],
        )

    def test_two_of_one_name_refused(self) -> None:
        """Where the first keeps the name, the second is dropped, or refused."""
        for on_duplicate in (OnDuplicate.KEEP, OnDuplicate.REFUSE):
            storage = self.make_storage(Sync.FULL, on_duplicate=on_duplicate)
            uid = f"1.2.{len(on_duplicate.value)}"
            self.commits(storage, f"{uid}.0")
            one, other = self.commits(storage, uid, b"one"), self.commits(storage, uid, b"other")
            self.pool.run()
            self.successResultOf(one)
            self.reactor.advance(0)
            self.pool.run()
            if on_duplicate is OnDuplicate.REFUSE:
                self.assertEqual(self.failureResultOf(other, OperationFailed).value.status, 0x0111)
            else:
                self.successResultOf(other)
            self.assertEqual(self.data_set(f"CT.{uid}", instance(uid)), b"one")
        self.assertEqual(self.recorder.of(InstanceNotKept), [])

    def test_cancelled(self) -> None:
        """Who is no longer waited for is kept all the same, and the others are told."""
        group = self.group("A", "A")
        group[0].cancel()
        self.failureResultOf(group[0])
        self.pool.run()
        self.successResultOf(group[1])
        self.assertEqual(self.files(), ["CT.1.2.0", "CT.1.2.1", "CT.1.2.2"])
