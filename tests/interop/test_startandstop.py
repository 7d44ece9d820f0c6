"""The start of the command, and its end."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from signal import SIGINT, SIGTERM

from tests.interop import wire
from tests.interop.support import (
    LOOPBACK,
    MODULE,
    SCRIPT,
    TWIST,
    TWISTD,
    InteropTestCase,
    Storescp,
    eventually,
    run,
)
from tests.interop.wire import (
    ABORTED,
    DATA,
    LAST_COMMAND,
    LAST_DATA,
    Peer,
    data_set,
    p_data,
    pdv,
    store_rq,
)


class StartTests(InteropTestCase):
    """What keeps it from starting: one line, no traceback, an exit code."""

    def refused(self, *arguments: str, how: Sequence[str] = MODULE) -> tuple[int, str]:
        """Return exit code and last line."""
        ended = run(*how, *arguments, patience=15)
        output = ended.stdout + ended.stderr
        self.assertNotIn("Traceback", output)
        self.assertNotIn("Unhandled", output)
        if how is MODULE or how is SCRIPT:
            self.assertEqual(ended.stdout, "")
            self.assertEqual(len(ended.lines), 1, output)
        elif ended.code == 1 and ended.stderr:
            self.assertEqual(len([line for line in ended.lines if "error" in line]), 1, output)
        return ended.code, (ended.stderr or ended.stdout).splitlines()[-1]

    def test_usage(self) -> None:
        """Wrong arguments: exit code 2, and the argument is named."""
        for arguments, named in (
            ((), "PORT"),
            (("abc",), "'abc'"),
            (("70000",), "'70000'"),
            (("-1",), "'-1'"),
            (("foo:1",), "'foo'"),
            (("tcp:70000",), "'70000'"),
            (("0", "-aet", "SEVENTEEN_LETTERS"), "'SEVENTEEN_LETTERS'"),
            (("0", "-aet", " "), "-aet"),
            (("0", "-pdu", "127"), "'127'"),
            (("0", "-tn", "-1"), "'-1'"),
            (("0", "-ta", "nan"), "'nan'"),
            (("0", "-ll", "loud"), "'loud'"),
            (("0", "-q", "-v"), "-q"),
            (("0", "-xe", "-xb"), "-xe"),
            (("0", "--nonsense"), "--nonsense"),
        ):
            code, line = self.refused(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertIn(named, line)

    def test_usage_elsewhere(self) -> None:
        """Wrong arguments: the script says the same, and ``twistd`` and ``twist`` as they always do."""
        for how, expected in ((SCRIPT, 2), (TWISTD, 1), (TWIST, 64)):
            for arguments in (("abc",), ("70000",), ("0", "-aet", "SEVENTEEN_LETTERS")):
                code, line = self.refused(*arguments, how=how)
                self.assertEqual(code, expected, how)
                if how is not TWIST:  # which says it first, and then the usage
                    self.assertIn(arguments[-1], line)

    def assertCannotStart(self, why: str, *arguments: str) -> None:
        for how in (MODULE, SCRIPT, TWISTD, TWIST):
            code, line = self.refused(*arguments, how=how)
            self.assertEqual(code, 1, how)
            self.assertIn(why, line)

    def test_port_in_use(self) -> None:
        """A port in use: exit code 1."""
        with socket.create_server((LOOPBACK, 0)) as taken:
            port = taken.getsockname()[1]
            self.assertCannotStart(f"{port}: Address already in use", str(port))

    def test_second_port_in_use(self) -> None:
        """One of several ports in use: exit code 1."""
        with socket.create_server((LOOPBACK, 0)) as taken:
            port = taken.getsockname()[1]
            self.assertCannotStart("Address already in use", "0", str(port))

    def test_no_interface(self) -> None:
        """An interface that this machine does not have, or that is none: exit code 1."""
        for address in ("192.0.2.1", "no.such.host.invalid"):
            code, line = self.refused("0", "-ba", address)
            self.assertEqual(code, 1)
            self.assertIn(address, line)

    def test_directory_is_a_file(self) -> None:
        """A directory that is a file, or below one: exit code 1."""
        path = self.directory() / "file"
        path.touch()
        self.assertCannotStart(str(path), "0", "-od", str(path))
        code, line = self.refused("0", "-od", str(path / "below"))
        self.assertEqual(code, 1)
        self.assertIn("below", line)

    def test_directory_not_writable(self) -> None:
        """A directory in which no file can be made, not even by root: exit code 1."""
        code, line = self.refused("0", "-od", "/proc")
        self.assertEqual(code, 1)
        self.assertIn("/proc", line)

    def test_unix_socket(self) -> None:
        """A UNIX socket in a directory that is not there: exit code 1."""
        code, _ = self.refused(f"unix:{self.directory()}/not/there")
        self.assertEqual(code, 1)

    def test_version_and_help(self) -> None:
        """--version and --help need no port: exit code 0."""
        for how in (MODULE, SCRIPT, TWISTD):
            for option in ("--version", "--help"):
                ended = run(*how, option)
                self.assertEqual((ended.code, ended.stderr), (0, ""), (how, option))
        self.assertIn("--require-called-aet", run(*MODULE, "--help").stdout)

    def test_commands(self) -> None:
        """The program without its command says what there is."""
        for arguments, code in ((("--help",), 0), (("--version",), 0), ((), 2), (("nonsense",), 2)):
            ended = run(sys.executable, "-m", "dicomnode", *arguments)
            self.assertEqual(ended.code, code)
            self.assertNotIn("Traceback", ended.stderr)


class StopTests(InteropTestCase):
    """SIGINT and SIGTERM."""

    def begun(self, node: Storescp, instance: str = "1.2.3") -> Peer:
        """Begin a store, and do not end it."""
        peer = Peer(node.address)
        self.addCleanup(peer.socket.close)
        peer.associate()
        before = len(node.files())
        peer.send(
            p_data(pdv(1, LAST_COMMAND, store_rq(instance))),
            p_data(pdv(1, DATA, data_set(instance)[:50])),
        )
        eventually("it is being written", lambda: len(node.files()) > before, 5)
        return peer

    def end(self, peer: Peer, instance: str = "1.2.3") -> None:
        peer.send(p_data(pdv(1, LAST_DATA, data_set(instance)[50:])))

    def test_in_flight(self) -> None:
        """A store in flight is finished and answered; then the peer is told, and the exit code is 0."""
        for number in (SIGINT, SIGTERM):
            node = self.storescp()
            peers = [self.begun(node, instance) for instance in ("1.2.3", "1.2.4")]
            with Peer(node.address) as idle:
                idle.associate()
                node.send_signal(number)
                # Whoever has nothing in flight is told at once.
                self.assertEqual(idle.read(), ABORTED)
                with self.assertRaises(ConnectionRefusedError):
                    Peer(node.address)
            for peer, instance in zip(peers, ("1.2.3", "1.2.4"), strict=True):
                self.end(peer, instance)
                self.assertEqual(peer.response()[wire.STATUS], 0)
                self.assertEqual(peer.read(), ABORTED)
                peer.socket.close()
            began = time.monotonic()
            ended = node.ended()
            self.assertLess(time.monotonic() - began, 3)
            self.assertEqual(ended.code, 0)
            self.assertCalm(ended.stderr)
            self.assertEqual(node.files(), ["CT.1.2.3", "CT.1.2.4"])

    def assertEnds(self, node: Storescp, least: float, most: float) -> None:
        began = time.monotonic()
        peer = self.begun(node)
        node.send_signal(SIGTERM)
        self.assertEqual(peer.read(), ABORTED)
        taken = time.monotonic() - began
        peer.socket.close()
        ended = node.ended()
        self.assertEqual(ended.code, 0)
        self.assertGreater(taken, least)
        self.assertLess(taken, most)
        self.assertCalm(ended.stderr)
        self.assertEqual(node.files(), [])

    def test_grace(self) -> None:
        """After --grace, what is still in flight is aborted, and nothing of it stays."""
        self.assertEnds(self.storescp("--grace", "1"), 0.7, 4)

    def test_no_grace(self) -> None:
        """With --grace 0, what is in flight is aborted at once."""
        self.assertEnds(self.storescp("--grace", "0"), 0, 1)

    def test_peer_does_not_close(self) -> None:
        """Who is told, and does not close, keeps nothing up."""
        node = self.storescp()
        with Peer(node.address) as peer:
            peer.associate()
            began = time.monotonic()
            self.assertEqual(node.stop(SIGTERM).code, 0)
            self.assertLess(time.monotonic() - began, 4)
            self.assertEqual(peer.rest(), [ABORTED])

    def test_nothing_in_flight(self) -> None:
        """Without anyone to wait for, it ends at once."""
        for number in (SIGINT, SIGTERM):
            node = self.storescp()
            began = time.monotonic()
            ended = node.stop(number)
            self.assertLess(time.monotonic() - began, 2)
            self.assertEqual(ended.code, 0)
            self.assertEqual(ended.stdout, "")
            self.assertCalm(ended.stderr)

    def test_under_twistd(self) -> None:
        """Under ``twistd`` and ``twist``, too, a store in flight is finished and answered."""
        for how in (TWISTD, TWIST):
            node = self.storescp(how=how)
            peer = self.begun(node)
            node.send_signal(SIGTERM)
            time.sleep(0.2)
            self.end(peer)
            self.assertEqual(peer.response()[wire.STATUS], 0)
            self.assertEqual(peer.read(), ABORTED)
            peer.socket.close()
            ended = node.ended()
            # Twisted's programs then end by the signal, so that whoever waits for them can see it.
            self.assertIn(ended.code, (0, -SIGTERM))
            self.assertCalm(ended.stdout + ended.stderr)
            self.assertEqual([name for name in node.files() if name.startswith("CT")], ["CT.1.2.3"])
