"""Tests for :mod:`dicomnode.tap`."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from twisted.application.service import IService
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.threadpool import ThreadPool

from dicomnode import assembly
from dicomnode.commits import Sync
from dicomnode.tap import CannotStart, makeService
from dicomnode.testing import Peer
from tests.servicecases import data_set
from tests.tapcases import TWISTD, TapCase, Unwilling
from tests.test_options import DEFAULTS


class ServiceTests(TapCase):
    """The service listens where it is told, and keeps what arrives."""

    def test_service(self) -> None:
        """It is a service, which listens when it is started, and stops."""
        service = makeService(self.options())
        self.assertTrue(IService.providedBy(service))
        self.assertEqual(self.reactor.tcpServers, [])
        service.privilegedStartService()
        service.startService()
        self.assertEqual([server[0] for server in self.reactor.tcpServers], [11112])
        self.associate().echoes()
        self.stop(service)

    def test_plain_mapping(self) -> None:
        """Any mapping with the keys of the options will do, and all have a default."""
        options = {**DEFAULTS, "ports": ["tcp:104"], "output-directory": self.directory, "sync": "none"}
        service = makeService(options)
        service.startService()
        self.addCleanup(self.stop, service)
        peer = self.associate()
        peer.stores("1.2.3", data_set())
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(os.listdir(self.directory), ["CT.1.2.3"])

    def test_every_option_is_read(self) -> None:
        """No option is parsed and then ignored."""
        read = set()

        class Watched(dict[str, Any]):
            parent = TWISTD

            def __getitem__(self, key: str) -> Any:
                read.add(key)
                return super().__getitem__(key)

        makeService(Watched({**DEFAULTS, "output-directory": self.directory, "require-called-aet": True}))
        # The addresses are in the ports by now.
        self.assertEqual(set(DEFAULTS) - read, {"bind-address"})

    def test_backlog(self) -> None:
        """Many may connect at a time, unless an endpoint says how many."""
        self.start("-p", "tcp:104:backlog=7", "-p", "tcp6:2761", "-p", "tcp:2762:")
        self.assertEqual(
            [(port, backlog) for port, _, backlog, _ in self.reactor.tcpServers],
            [(11112, 1024), (104, 7), (2761, 1024), (2762, 50)],
        )

    def test_ports(self) -> None:
        """Each port is listened on, at the address given for it, and every kind of endpoint is one."""
        path = self.mktemp()
        self.start("-p", "104", "-p", "tcp6:2761", "-p", f"unix:{path}", "-ba", "127.0.0.1")
        servers = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(servers, [(11112, "127.0.0.1"), (104, "127.0.0.1"), (2761, "::")])
        self.assertEqual([server[0] for server in self.reactor.unixServers], [path])
        factories = [server[1] for server in (*self.reactor.tcpServers, *self.reactor.unixServers)]
        self.assertEqual(len(set(factories)), 1)


class CannotStartTests(TapCase):
    """What is wrong at start is one line, and exit code 1."""

    def test_directory_is_a_file(self) -> None:
        """The output directory is a file."""
        with open(self.directory, "w"):
            pass
        line = f"output directory {self.directory!r} is not a directory"
        self.assert_cannot_start(line, lambda: makeService(self.options()))

    def test_parent_is_a_file(self) -> None:
        """The output directory cannot be made below a file."""
        with open(self.directory, "w"):
            pass
        self.directory = os.path.join(self.directory, "below")
        line = f"output directory {self.directory!r}: Not a directory"
        self.assert_cannot_start(line, lambda: makeService(self.options()))

    def test_directory_cannot_be_made(self) -> None:
        """The output directory cannot be made."""

        def makedirs(path: str, exist_ok: bool) -> None:
            raise PermissionError(13, "Permission denied", path)

        self.patch(os, "makedirs", makedirs)
        line = f"output directory {self.directory!r}: Permission denied"
        self.assert_cannot_start(line, lambda: makeService(self.options()))

    def test_directory_cannot_be_written(self) -> None:
        """The output directory is there, and no file can be made in it."""

        def temporary(dir: str) -> None:
            raise OSError(30, "Read-only file system", dir)

        self.patch(tempfile, "TemporaryFile", temporary)
        line = f"output directory {self.directory!r}: Read-only file system"
        self.assert_cannot_start(line, lambda: makeService(self.options()))

    def test_one_line(self) -> None:
        """However the name of the directory is broken, it is one line."""
        self.directory = "/proc/no\nsuch"
        self.assertRaises(CannotStart, makeService, self.options())
        self.assertEqual(self.stderr.getvalue().count("\n"), 1)

    def store(self, peer: Peer) -> int:
        """Return the status of a C-STORE."""
        peer.stores("1.2.3", data_set())
        status: int = peer.response.status
        return status

    def tree(self) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(parent, name), self.directory)
            for parent, _, names in os.walk(self.directory)
            for name in names
        )

    def test_layout(self) -> None:
        """Files go where the layout says; what the data set says is known though it is not checked."""
        study = b"\x20\0\x0d\0UI\x06\0" + b"1.2.4\0"
        for number, options in enumerate(([], ["--no-check"])):
            self.install(MemoryReactorClock())
            self.start("--layout", f"{number}/{{study}}/{{calling}}/{{prefix}}.{{instance}}.dcm", *options)
            peer = self.associate()
            peer.stores("1.2.3", data_set() + study)
            self.assertEqual(peer.response.status, 0)
        self.assertEqual(self.tree(), ["0/1.2.4/PEER/CT.1.2.3.dcm", "1/1.2.4/PEER/CT.1.2.3.dcm"])

    def test_layout_of_garbage(self) -> None:
        """What an unchecked data set does not say is a _, and it is stored all the same."""
        self.start("--no-check", "--layout", "{study}/{patient}/{instance}")
        peer = self.associate()
        peer.stores("1.2.3", b"garbage")
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(self.tree(), ["_/_/1.2.3"])

    def test_on_duplicate(self) -> None:
        """An instance whose name is taken has the fate that was chosen."""
        for choice, status, name in (
            ("replace", 0, "CT.1.2.3"),
            ("keep", 0, "CT.1.2.3"),
            ("refuse", 0x0111, "CT.1.2.3"),
            ("rename", 0, "CT.1.2.3~1"),
        ):
            self.directory = self.mktemp()
            self.install(MemoryReactorClock())
            self.start("--on-duplicate", choice)
            peer = self.associate()
            self.assertEqual([self.store(peer), self.store(peer)], [0, status])
            self.assertEqual(self.tree()[-1], name)

    def test_reserve(self) -> None:
        """Nothing is stored when less is free than is to stay so."""
        for reserve, status in (("0", 0), ("1k", 0), ("900000T", 0xA700)):
            self.install(MemoryReactorClock())
            self.start("--reserve", reserve)
            peer = self.associate()
            self.assertEqual(self.store(peer), status)
        self.assertEqual(peer.response.error_comment, "free space is below the reserve")

    def test_dead_parts(self) -> None:
        """What a dead process has left of a file goes at start, and that is told."""
        os.makedirs(self.directory)
        name = os.path.join(self.directory, ".CT.1.2.3.1-1.part")
        with open(name, "w"):
            pass
        self.start("-v")
        self.assertEqual(self.tree(), [])
        line = "W: Removed what a dead process has left of a file: .CT.1.2.3.1-1.part"
        self.assertIn(line, self.stderr.getvalue().splitlines())

    def test_directory_cannot_be_read(self) -> None:
        """An output directory that can be written and not read says why."""

        def scandir(path: str) -> Any:
            raise PermissionError(13, "Permission denied", path)

        self.patch(os, "scandir", scandir)
        line = f"output directory {os.path.abspath(self.directory)!r}: Permission denied"
        self.assert_cannot_start(line, lambda: makeService(self.options()))

    def test_sync(self) -> None:
        """How much waits for the disk is what was chosen."""
        file_storage, made = assembly.FileStorage, []

        def make(*arguments: Any, **keywords: Any) -> Any:
            made.append(keywords["sync"])
            return file_storage(*arguments, **keywords)

        self.patch(assembly, "FileStorage", make)
        for choice in ("full", "file", "none"):
            makeService(self.options("--sync", choice))
        self.assertEqual(made, [Sync.FULL, Sync.FILE, Sync.NONE])

    def test_bad_policy(self) -> None:
        """A policy file that cannot be used says why."""
        line = f"policy file '{os.path.abspath('no/such')}': No such file or directory"
        self.assert_cannot_start(line, lambda: makeService(self.options("--policy", "no/such")))

    def test_in_a_daemon(self) -> None:
        """Where there is no stderr, Twisted's log is told; and whoever looks at the error always."""
        for null in (False, True):
            self.patch(assembly, "_is_null", lambda descriptor, null=null: null)
            self.logged.clear()
            error = CannotStart("it is\nso")
            self.assertEqual(str(error), "it is so")
            told = [event["why"] for event in self.logged if "why" in event]
            self.assertEqual(told, ["it is so"] if null else [])

    def test_null(self) -> None:
        """What is written to the null device is nobody's to read, nor to what is not open."""
        with open(os.devnull, "w") as null, open(self.mktemp(), "w") as file:
            self.assertTrue(assembly._is_null(null.fileno()))
            self.assertFalse(assembly._is_null(file.fileno()))
        self.assertTrue(assembly._is_null(1 << 20))

    def test_bad_endpoint(self) -> None:
        """An endpoint that cannot be made says why."""
        options = {**DEFAULTS, "output-directory": self.directory, "ports": ["tcp:11112", "tcp:x"]}
        error = self.assertRaises(CannotStart, makeService, options)
        self.assertEqual(error.code, 1)
        self.assertRegex(self.stderr.getvalue(), r"^dicomnode: error: argument PORT: tcp:x: [^\n]+\n$")

    def test_no_endpoint(self) -> None:
        """What an endpoint makes of its description is said in its own words, where these say something."""
        for port, why in (
            ("systemd:domain=INET:index=7", "no such socket is inherited: see LISTEN_FDS, [^\n]+"),
            ("tcp:11112:bogus=1", "got an unexpected keyword argument 'bogus'"),
        ):
            self.stderr.truncate(self.stderr.seek(0))
            options = {**DEFAULTS, "output-directory": self.directory, "ports": [port]}
            self.assertRaises(CannotStart, makeService, options)
            line = rf"^dicomnode: error: argument PORT: {port}: [^\n]*{why}\n$"
            self.assertRegex(self.stderr.getvalue(), line)

    def test_missing_certificate(self) -> None:
        """So does one whose files are not there."""
        options = {**DEFAULTS, "output-directory": self.directory, "ports": ["ssl:2762:privateKey=/no/such"]}
        self.assertRaises(CannotStart, makeService, options)
        self.assertRegex(self.stderr.getvalue(), r"^dicomnode: error: argument PORT: ssl:2762[^\n]+\n$")

    def test_cannot_listen(self) -> None:
        """A port that cannot be listened on says which, and why."""
        for error, arguments, line in (
            (
                CannotListenError("", 11112, OSError(98, "Address already in use")),
                (),
                "cannot listen on any:11112: Address already in use",
            ),
            (
                CannotListenError("192.0.2.9", 104, OSError(99, "Cannot assign requested address")),
                (),
                "cannot listen on 192.0.2.9:104: Cannot assign requested address",
            ),
            (
                CannotListenError(None, "/run/dicom.sock", OSError(13, "Permission denied")),
                (),
                "cannot listen on /run/dicom.sock: Permission denied",
            ),
            (
                CannotListenError(None, "/run/dicom.sock", "Cannot acquire lock"),
                (),
                "cannot listen on /run/dicom.sock: Cannot acquire lock",
            ),
            (OSError(24, "Too many open files"), (), "cannot listen: Too many open files"),
            (OSError(2, "No such file", "/run/x/sock"), (), "cannot listen on /run/x/sock: No such file"),
            (
                OSError(2, "No such file", "4711", None, "/run/x/sock.lock"),
                (),
                "cannot listen on /run/x/sock: No such file",
            ),
            (OSError("no idea"), (), "cannot listen: no idea"),
        ):
            self.stderr.seek(0)
            self.stderr.truncate()
            self.install(Unwilling(error))
            service = makeService(self.options(*arguments))
            self.assert_cannot_start(line, service.privilegedStartService)
            self.stderr.seek(0)
            self.stderr.truncate()
            self.assert_cannot_start(line, service.startService)
            self.assertFalse(service.running)

    def test_no_thread_is_left(self) -> None:
        """Where it cannot start, no thread was started."""
        started: list[ThreadPool] = []
        self.patch(ThreadPool, "start", started.append)
        self.install(Unwilling(CannotListenError("", 11112, OSError(98, "in use"))))
        self.assertRaises(CannotStart, makeService(self.options()).startService)
        self.assertEqual(started, [])
