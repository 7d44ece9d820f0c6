"""Disks that are full, read-only, gone or stalled: real ones, below the real command.

The small disks are tmpfs, each in a mount namespace of the process that stores on it: they go when it ends.
The stalls are strace's, which holds the process in a system call for as long as it is told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from select import select

from dicomnode.commits import STALLED
from tests.interop import wire
from tests.interop.support import MODULE, InteropTestCase, Storescp, eventually
from tests.interop.test_durability import cannot_trace
from tests.interop.wire import (
    CT_IMAGE_STORAGE,
    DATA,
    EXPLICIT_LE,
    IMPLICIT_LE,
    LAST_COMMAND,
    LAST_DATA,
    VERIFICATION,
    Peer,
    data_set,
    p_data,
    pdv,
    store_rq,
)

OUT_OF_RESOURCES = 0xA700

#: How long a system call is held, in seconds, and how soon others are served meanwhile.
STALL = 1.2
AT_ONCE = 0.8

#: C-STORE on the first, C-ECHO on the second.
CONTEXTS: Sequence[wire.Proposal] = (
    (1, CT_IMAGE_STORAGE, (EXPLICIT_LE,)),
    (3, VERIFICATION, (IMPLICIT_LE,)),
)

KIB = 1 << 10

#: Mounts a disk with the options and at the place that come first, and then runs what follows.
_MOUNT = 'mount -t tmpfs -o "$0" disk "$1" && shift && exec "$@"'


@cache
def mounting() -> Sequence[str] | None:
    """Return a command under which another may mount: as root, or as one who is root in a namespace."""
    for namespace in (("unshare", "-m"), ("unshare", "-U", "-r", "-m")):
        try:
            tried = subprocess.run([*namespace, "mount", "-t", "tmpfs", "disk", "/mnt"], capture_output=True)
        except OSError:
            return None
        if not tried.returncode:
            return namespace
    return None


class StoringTestCase(InteropTestCase):
    """Tests that store on one association, and look at what is on the disk."""

    #: where the disk is seen
    disk: Path

    def associated(self, server: Storescp) -> Peer:
        peer = Peer(server.address)
        self.addCleanup(peer.socket.close)
        peer.associate(CONTEXTS)
        return peer

    def tree(self) -> list[str]:
        """The names of all files on the disk, hidden ones included."""
        return sorted(
            os.path.relpath(os.path.join(directory, name), self.disk)
            for directory, _, names in os.walk(self.disk)
            for name in names
        )

    def assertStored(self, peer: Peer, uid: str, pixels: bytes = bytes(64), name: str = "CT.{}") -> None:
        """An instance is taken, and is on the disk as it was sent."""
        response = peer.store(uid, data_set(uid, pixels=pixels))
        self.assertEqual(f"{response[wire.STATUS]:04X}", "0000", response)
        self.assertKept(uid, pixels, name)

    def assertKept(self, uid: str, pixels: bytes = bytes(64), name: str = "CT.{}") -> None:
        contents = (self.disk / name.format(uid)).read_bytes()
        self.assertEqual(contents[128:132], b"DICM")
        data = contents[144 + int.from_bytes(contents[140:144], "little") :]
        self.assertTrue(data == data_set(uid, pixels=pixels), f"{uid} is not what was sent")

    def assertRefused(self, peer: Peer, uid: str, why: str, pixels: bytes = bytes(64)) -> None:
        """An instance is refused, nothing on the disk has changed, and the association lives."""
        before = {name: (self.disk / name).read_bytes() for name in self.tree()}
        self.assertRefusal(peer.store(uid, data_set(uid, pixels=pixels)), why)
        self.assertEqual(self.tree(), list(before))
        for name, contents in before.items():
            self.assertTrue((self.disk / name).read_bytes() == contents, f"{name} has changed")
        self.assertEqual(peer.echo(3)[wire.STATUS], 0)

    def assertRefusal(self, response: dict[int, int | str], why: str) -> None:
        self.assertEqual((response[wire.STATUS], response[wire.COMMENT]), (OUT_OF_RESOURCES, why))


class SmallDiskTests(StoringTestCase):
    """A disk of a megabyte or less."""

    skip = None if mounting() else "no disk can be mounted"

    def storing(self, how: str, *options: str) -> Storescp:
        """Start the command on a disk that is mounted with these options."""
        namespace = mounting()
        assert namespace is not None
        place = self.directory()
        mount = (*namespace, "sh", "-c", _MOUNT, how, str(place))
        self.server = self.storescp("-od", str(place), *options, how=(*mount, *MODULE))
        self.disk = Path(f"/proc/{self.server.process.pid}/root{place}")
        self._place = place
        return self.server

    def remount(self, how: str) -> None:
        """Mount the disk in another way."""
        namespace = mounting()
        assert namespace is not None
        inside = ["nsenter", "-t", str(self.server.process.pid), "-m"]
        if "-U" in namespace:
            inside += ["-U", "--preserve-credentials"]
        subprocess.run([*inside, "mount", "-o", f"remount,{how}", str(self._place)], check=True)

    def test_fills_up(self) -> None:
        """What does not fit is refused and leaves nothing; what fits is kept, and so is it, given room."""
        older, newer, large = (bytes((octet,)) * (300 * KIB) for octet in b"onl")
        server = self.storing("size=1m", "--reserve", "0")
        peer = self.associated(server)
        for uid in ("1.2.3", "1.2.4", "1.2.5"):
            self.assertStored(peer, uid, older)
        self.assertRefused(peer, "1.2.6", "No space left on device", large)
        self.assertRefused(peer, "1.2.3", "No space left on device", newer)
        self.assertKept("1.2.3", older)
        self.assertStored(peer, "1.2.7")
        (self.disk / "CT.1.2.4").unlink()
        self.assertStored(peer, "1.2.6", large)
        self.assertRefused(peer, "1.2.3", "No space left on device", newer)
        (self.disk / "CT.1.2.5").unlink()
        self.assertStored(peer, "1.2.3", newer)
        self.assertEqual(self.tree(), ["CT.1.2.3", "CT.1.2.6", "CT.1.2.7"])
        peer.release()
        self.assertCalm(server.stop().stderr)

    def test_fills_up_under_many(self) -> None:
        """Of several that fill it up at a time, each is told the truth about its own."""
        server = self.storing("size=1m", "--reserve", "0")
        peers = [self.associated(server) for _ in range(8)]
        pixels = bytes(240 * KIB)
        for number, peer in enumerate(peers):
            peer.send(p_data(pdv(1, LAST_COMMAND, store_rq(f"1.2.{number}"))))
        sets = [data_set(f"1.2.{number}", pixels=pixels) for number in range(8)]
        for start in range(0, len(sets[0]), 16000):
            for peer, data in zip(peers, sets, strict=True):
                control = DATA if start + 16000 < len(data) else LAST_DATA
                peer.send(p_data(pdv(1, control, data[start : start + 16000])))
        statuses = [peer.response()[wire.STATUS] for peer in peers]
        self.assertEqual({*statuses} - {0, OUT_OF_RESOURCES}, set())
        self.assertIn(OUT_OF_RESOURCES, statuses)
        kept = [f"1.2.{number}" for number, status in enumerate(statuses) if not status]
        self.assertEqual(self.tree(), [f"CT.{uid}" for uid in kept])
        for uid in kept:
            self.assertKept(uid, pixels)
            (self.disk / f"CT.{uid}").unlink()
        for number, peer in enumerate(peers[:4]):
            self.assertStored(peer, f"1.2.{number}", pixels)

    def test_reserve(self) -> None:
        """What would begin below the reserve is refused by its first fragment; what has begun goes on."""
        server = self.storing("size=1m", "--reserve", "512k")
        peer, other = self.associated(server), self.associated(server)
        self.assertStored(peer, "1.2.3", bytes(300 * KIB))
        self._begin(other, "1.2.4", bytes(300 * KIB))
        eventually("it is written", lambda: len(self.tree()) > 1)
        self.assertStored(peer, "1.2.5", bytes(300 * KIB))
        self._begin(peer, "1.2.6")
        eventually("it is refused", lambda: "below the reserve" in server.stderr)
        self._end(peer, "1.2.6")
        self.assertRefusal(peer.response(), "free space is below the reserve")
        self._end(other, "1.2.4", bytes(300 * KIB))
        self.assertEqual(other.response()[wire.STATUS], 0)
        self.assertKept("1.2.4", bytes(300 * KIB))
        self.assertRefused(peer, "1.2.3", "free space is below the reserve")
        (self.disk / "CT.1.2.4").unlink()
        (self.disk / "CT.1.2.5").unlink()
        self.assertStored(peer, "1.2.6")

    def _begin(self, peer: Peer, uid: str, pixels: bytes = bytes(64)) -> None:
        """Send a request, and the first octets of its data set."""
        first = data_set(uid, pixels=pixels)[:100]
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq(uid))), p_data(pdv(1, DATA, first)))

    def _end(self, peer: Peer, uid: str, pixels: bytes = bytes(64)) -> None:
        peer.send_data_set(data_set(uid, pixels=pixels)[100:])

    def test_no_inodes(self) -> None:
        """Without a free inode an instance is refused; with one, it is kept."""
        why = "No space left on device"
        # The root has one; so has, on a tmpfs, each of the two names that a file has for a moment.
        server = self.storing("size=1m,nr_inodes=3", "--reserve", "0", "--on-duplicate", "keep")
        peer = self.associated(server)
        self.assertStored(peer, "1.2.3")
        self.assertRefused(peer, "1.2.4", why)
        (self.disk / "another").touch()
        self.assertRefused(peer, "1.2.4", why)
        (self.disk / "another").unlink()
        (self.disk / "CT.1.2.3").unlink()
        self.assertStored(peer, "1.2.4")
        self.assertCalm(server.stderr)

    def test_no_inode_for_a_directory(self) -> None:
        """Where a directory cannot be made an instance is refused; where it can, it is kept."""
        server = self.storing("size=1m,nr_inodes=4", "--reserve", "0", "--layout", "{instance}/CT")
        peer = self.associated(server)
        self.assertStored(peer, "1.2.3", name="{}/CT")
        self.assertRefused(peer, "1.2.4", "No space left on device")
        shutil.rmtree(self.disk / "1.2.3")
        self.assertStored(peer, "1.2.4", name="{}/CT")
        self.assertCalm(server.stderr)

    def test_read_only(self) -> None:
        """A disk that has become read-only refuses; one that is writable again does not."""
        server = self.storing("size=1m", "--reserve", "0")
        peer = self.associated(server)
        self.assertStored(peer, "1.2.3", b"older!")
        self.remount("ro")
        for uid in ("1.2.3", "1.2.4"):
            self.assertRefused(peer, uid, "Read-only file system")
        self.assertKept("1.2.3", b"older!")
        self.remount("rw")
        self.assertStored(peer, "1.2.4")
        self.assertCalm(server.stderr)


class DirectoryTests(StoringTestCase):
    """A directory that is removed while it is stored into."""

    def storing(self, *options: str) -> Storescp:
        self.disk = self.directory() / "files"
        return self.storescp("-od", str(self.disk), *options)

    def test_removed(self) -> None:
        """Without its directory it refuses, and makes none: a disk may belong there; with it, it stores."""
        for options in ((), ("--sync", "none", "--on-duplicate", "keep", "--layout", "a/CT.{instance}")):
            server = self.storing(*options)
            name = "a/CT.{}" if "--layout" in options else "CT.{}"
            peer = self.associated(server)
            self.assertStored(peer, "1.2.3", name=name)
            shutil.rmtree(self.disk)
            self.assertRefused(peer, "1.2.3", "No such file or directory")
            self.assertFalse(self.disk.exists())
            self.disk.mkdir()
            self.assertStored(peer, "1.2.3", name=name)
            self.assertStored(self.associated(server), "1.2.4", name=name)
            self.assertCalm(server.stderr)

    def test_removed_within(self) -> None:
        """An instance whose directory is removed while it arrives is refused, be there another or not."""
        data = data_set("1.2.3", pixels=bytes(100_000))
        server = self.storing()
        peer = self.associated(server)
        for again in (False, True):
            peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3"))), p_data(pdv(1, DATA, data[:9000])))
            eventually("it is written", self.tree)
            shutil.rmtree(self.disk)
            if again:
                self.disk.mkdir()
            peer.send_data_set(data[9000:])
            self.assertRefusal(peer.response(), "No such file or directory")
            self.assertEqual(self.tree(), [])
            self.assertEqual(peer.echo(3)[wire.STATUS], 0)
            self.disk.mkdir(exist_ok=True)
        self.assertStored(peer, "1.2.3", bytes(100_000))
        self.assertCalm(server.stderr)

    def test_part_of_it_removed(self) -> None:
        """The directories below it are made again when they are needed again."""
        server = self.storing("--layout", "a/b/CT.{instance}")
        peer = self.associated(server)
        self.assertStored(peer, "1.2.3", name="a/b/CT.{}")
        shutil.rmtree(self.disk / "a")
        self.assertStored(peer, "1.2.3", name="a/b/CT.{}")

    def test_a_file_in_its_place(self) -> None:
        """A file where a directory should be is an error like others, and stays."""
        server = self.storing()
        peer = self.associated(server)
        self.disk.rmdir()
        self.disk.write_bytes(b"precious")
        self.assertRefusal(peer.store("1.2.3"), "Not a directory")
        self.assertEqual(self.disk.read_bytes(), b"precious")
        self.disk.unlink()
        self.disk.mkdir()
        self.assertStored(peer, "1.2.3")


class StalledDiskTests(StoringTestCase):
    """A disk that lets system calls wait."""

    skip = cannot_trace()

    def storing(self, *calls: str, options: Sequence[str] = ()) -> Storescp:
        """Start the command where each of these calls takes :data:`STALL` seconds.

        :param calls: as strace names them; which of a thread's, where not all, may follow behind a colon.
        """
        self.disk = self.directory()
        names = [call.partition(":")[0] for call in calls]
        delay = f":delay_enter={int(STALL * 1e6)}"
        slow = [f"--inject={name}{delay}{call[len(name) :]}" for name, call in zip(names, calls, strict=True)]
        tracer = ("strace", "-D", "-f", "-o", os.devnull, "-e", f"trace={','.join(names)}", *slow)
        return self.storescp("-od", str(self.disk), *options, how=(*tracer, *MODULE))

    def begin(self, peer: Peer, uid: str, data: bytes) -> None:
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq(uid))), p_data(pdv(1, DATA, data)))

    def assertServed(self, server: Storescp) -> None:
        """Who comes now is served at once."""
        began = time.monotonic()
        with Peer(server.address) as peer:
            peer.associate(CONTEXTS)
            self.assertEqual(peer.echo(3)[wire.STATUS], 0)
            peer.release()
        self.assertLess(time.monotonic() - began, AT_ONCE)

    def assertServedWhile(self, storing: Peer, server: Storescp) -> float:
        """Until an instance is answered, others are served at once; return how long that took."""
        began = time.monotonic()
        while not select([storing.socket], [], [], 0.05)[0]:
            self.assertServed(server)
        return time.monotonic() - began

    def test_syncing(self) -> None:
        """While an instance is synced and named, nobody else waits, and what others send is written."""
        server = self.storing("fsync", "?rename", "?renameat", "?renameat2")
        peer, other = self.associated(server), self.associated(server)
        data = data_set("1.2.3")
        self.begin(peer, "1.2.3", data[:-2])
        eventually("it is written", self.tree)
        peer.send_data_set(data[-2:])
        self.begin(other, "1.2.4", data_set("1.2.4")[:-2])
        eventually("so is the other", lambda: len(self.tree()) > 1, AT_ONCE)
        # The file is synced, the name given, the directory synced.
        self.assertGreater(self.assertServedWhile(peer, server), 2 * STALL)
        self.assertEqual(peer.response()[wire.STATUS], 0)
        self.assertKept("1.2.3")
        other.send(wire.abort())
        eventually("the other is gone", lambda: self.tree() == ["CT.1.2.3"])
        self.assertCalm(server.stderr)

    def test_writing(self) -> None:
        """No more than the first slow write is waited for by all; what follows, and new files, by none."""
        server = self.storing("writev")
        peer, other, third = (self.associated(server) for _ in range(3))
        data = data_set("1.2.3", pixels=bytes(100_000))
        self.begin(peer, "1.2.3", data[:1000])
        eventually("it is begun", self.tree)
        began = time.monotonic()
        self.assertEqual(other.echo(3)[wire.STATUS], 0)
        self.assertLess(time.monotonic() - began, STALL + AT_ONCE)
        peer.send_data_set(data[1000:])
        third.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.4"))))
        third.send_data_set(data_set("1.2.4"))
        self.assertGreater(self.assertServedWhile(peer, server), STALL / 2)
        for storing in (peer, third):
            self.assertEqual(storing.response()[wire.STATUS], 0)
        self.assertKept("1.2.3", bytes(100_000))
        self.assertKept("1.2.4")
        self.assertCalm(server.stderr)

    def test_writing_beside_a_stalled_sync(self) -> None:
        """While a sync takes long, others' instances are begun and written where nobody waits for that."""
        server = self.storing("fsync", "writev:when=2+")
        peer, other = self.associated(server), self.associated(server)
        data = data_set("1.2.3")
        peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3")), pdv(1, LAST_DATA, data)))
        began = time.monotonic()
        while time.monotonic() < began + STALLED + 0.2:
            self.assertServed(server)
        other.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.4")), pdv(1, LAST_DATA, data_set("1.2.4"))))
        self.assertServedWhile(peer, server)
        self.assertEqual(peer.response()[wire.STATUS], 0)
        self.assertServedWhile(other, server)
        self.assertEqual(other.response()[wire.STATUS], 0)
        self.assertKept("1.2.3")
        self.assertKept("1.2.4")
        self.assertCalm(server.stderr)

    def test_longer_than_the_timeouts(self) -> None:
        """Who spoke while all had to wait for the disk was not silent."""
        server = self.storing("writev", options=("-tn", "1", "-td", "1"))
        peer, other = self.associated(server), self.associated(server)
        data = data_set("1.2.3")
        self.begin(peer, "1.2.3", data[:-2])
        eventually("it is begun", self.tree)
        self.assertEqual(other.echo(3)[wire.STATUS], 0)
        peer.send_data_set(data[-2:])
        self.assertEqual(peer.response()[wire.STATUS], 0)
        self.assertKept("1.2.3")

    def test_many(self) -> None:
        """What waits for a slow disk is bounded, however many wait for it, and whatever each has sent."""
        server = self.storing("writev", options=("--max-associations", "0"))
        peers = [self.associated(server) for _ in range(80)]
        before = server.peak_memory()
        for number, peer in enumerate(peers):
            # Pixels of 1 GiB, of which these are the first octets.
            self.begin(
                peer, f"1.2.3.{number}", data_set("1.2.3", pixels=b"")[:-4] + (1 << 30).to_bytes(4, "little")
            )
            peer.socket.setblocking(False)
        fragments = p_data(pdv(1, DATA, bytes(16000))) * 64
        sent = {peer.socket: 0 for peer in peers}
        end = time.monotonic() + 5 * STALL
        while (writable := select([], sent, [], 2 * STALL)[1]) and time.monotonic() < end:
            for sock in writable:
                sent[sock] += sock.send(fragments[sent[sock] % len(fragments) :])
        self.assertGreater(min(sent.values()), 1 << 20)
        self.assertLess(server.peak_memory() - before, 80 << 20)
        self.assertServed(server)
