"""Tests for :mod:`dicomnode.tap`."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import twisted.internet
from twisted.application.service import IService
from twisted.internet.defer import succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import assembly, filestore, uids
from dicomnode.commits import Sync
from dicomnode.core.association import Aborted, AssociateConfirmed
from dicomnode.core.command import CStoreRQ
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.pdu import AssociateAC, AssociateRJ
from dicomnode.options import Options
from dicomnode.tap import CannotStart, makeService
from dicomnode.testing import Peer
from tests.certificates import Authority
from tests.servicecases import CT, EXPLICIT_VR_LE, IMPLICIT_VR_LE, data_set
from tests.test_options import DEFAULTS

EXPLICIT_VR_BE = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"


class Unwilling(MemoryReactorClock):
    """A reactor on which no port can be listened on."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def listenTCP(self, *_: Any, **__: Any) -> Any:
        raise self.error

    listenUNIX = listenTCP


#: Options of twistd: what is there of them that matters here.
TWISTD = {"nodaemon": True, "logfile": "twistd.log"}


class TapCase(SynchronousTestCase):
    """Tests of the service that options describe, on a reactor in memory."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.patch(filestore, "TRUST", float("inf"))  # no thread can report to a reactor in memory
        self.install(MemoryReactorClock())
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def install(self, reactor: MemoryReactorClock) -> None:
        self.reactor = reactor
        import_module("twisted.internet.reactor")  # else there is nothing to patch
        self.patch(twisted.internet, "reactor", reactor)

    def options(self, *arguments: str) -> Options:
        """Return the options of a command line of twistd, whose log is a file."""
        options = Options()
        options.parent = TWISTD
        options.parseOptions(["--sync", "none", *arguments, "-od", self.directory, "11112"])
        return options

    def start(self, *arguments: str) -> Any:
        """Start the service of a command line, and return it."""
        service = makeService(self.options(*arguments))
        service.startService()
        self.addCleanup(self.stop, service)
        return service

    def stop(self, service: Any) -> None:
        """Stop a service that still runs, and let its peers hang up."""
        stopping = service.stopService() if service.running else succeed(None)
        for association in list(service._acceptor.associations):
            association.transport.lose()
        self.successResultOf(stopping)

    def peer(self) -> Peer:
        """Return a peer of what listens on the first port."""
        return Peer(self.reactor.tcpServers[0][1])

    def associate(self, *syntaxes: str, called: str = "ANY-SCP", sop_class_uid: str = CT) -> Peer:
        """Return a peer that has asked for an association to store and to echo."""
        peer = self.peer()
        contexts = {sop_class_uid: syntaxes or (EXPLICIT_VR_LE,), uids.VERIFICATION: (IMPLICIT_VR_LE,)}
        peer.associates(contexts, called=called)
        return peer

    def answer(self, peer: Peer) -> Any:
        (confirmed,) = [item for item in peer.indications if isinstance(item, AssociateConfirmed)]
        return confirmed.answer

    def results(self, peer: Peer) -> list[int]:
        """Return what became of each presentation context."""
        return [context.result for context in sorted(self.answer(peer).contexts, key=lambda item: item.id)]

    def assert_cannot_start(self, line: str, make: Any) -> None:
        """Assert that it exits with 1 and one line on stderr."""
        error = self.assertRaises(CannotStart, make)
        self.assertIsInstance(error, SystemExit)
        self.assertEqual(error.code, 1)
        self.assertEqual(self.stderr.getvalue(), f"dicomnode: error: {line}\n")


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


class OptionTests(TapCase):
    """Each option does what it says."""

    def test_called_ae_title(self) -> None:
        """The title is only compared when that is asked for."""
        self.start("-aet", "HERE")
        self.assertIsInstance(self.answer(self.associate(called="THERE")), AssociateAC)
        self.install(MemoryReactorClock())
        self.start("-aet", "HERE", "--require-called-aet")
        rejection = self.answer(self.associate(called="THERE"))
        self.assertEqual(rejection, AssociateRJ(1, 1, 7))
        self.assertIsInstance(self.answer(self.associate(called="HERE")), AssociateAC)

    def assert_allowed(self, arguments: tuple[str, ...], calling: str, expected: Any) -> None:
        """Assert how a peer at 192.0.2.1, with this title, is answered: None for accepted."""
        self.install(MemoryReactorClock())
        self.start(*arguments)
        peer = self.peer()
        peer.associates({CT: (EXPLICIT_VR_LE,)}, calling=calling)
        answer = self.answer(peer)
        self.assertEqual(None if isinstance(answer, AssociateAC) else answer, expected, (arguments, calling))

    def test_who_may_send(self) -> None:
        """Who may send is said by title and by address, and each that is given must be satisfied."""
        address, title = AssociateRJ(1, 1, 1), AssociateRJ(1, 1, 3)
        here, elsewhere = ("--allow-from", "192.0.2.0/24"), ("--allow-from", "198.51.100.0/24")
        for arguments, calling, expected in (
            (("--allow-aet", "CT1", "--allow-aet", "MR1"), "MR1", None),
            (("--allow-aet", "CT1"), "MR1", title),
            (here, "MR1", None),
            (elsewhere, "MR1", address),
            ((*elsewhere, *here), "MR1", None),
            ((*elsewhere, "--allow-aet", "CT1"), "MR1", address),
            ((*here, "--allow-aet", "CT1"), "MR1", title),
            ((*here, "--allow-aet", "CT1", "--require-called-aet"), "CT1", AssociateRJ(1, 1, 7)),
        ):
            self.assert_allowed(arguments, calling, expected)

    def test_who_logs_in(self) -> None:
        """Users are let in by one of the methods that are given, wherever the process has gone."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("alice:s3cret\n")
        self.addCleanup(os.chdir, os.getcwd())
        self.start("-d", "--auth", f"file:{path}", "--auth", "memory:bob:t0p")
        os.chdir("/")
        for identity, expected in (
            (UserIdentity(2, b"alice", b"s3cret", True), AssociateAC),
            (UserIdentity(2, b"bob", b"t0p"), AssociateAC),
            (UserIdentity(2, b"bob", b"s3cret"), AssociateRJ),
            (None, AssociateRJ),
        ):
            peer = self.peer()
            peer.associates(user_information=UserInformation(16382, user_identity=identity))
            self.assertIsInstance(self.answer(peer), expected)
        for secret in ("s3cret", "t0p"):
            self.assertNotIn(secret, self.stderr.getvalue())
        self.assertIn("I: User alice has logged in\n", self.stderr.getvalue())

    def test_anonymous(self) -> None:
        """Who offers no user identity is let in where that is said, too."""
        self.start("--auth", "memory:bob:t0p", "--auth", "anonymous")
        self.assertIsInstance(self.answer(self.associate()), AssociateAC)

    def test_no_method(self) -> None:
        """A method that cannot be used is said in a line, where no parser has said so."""
        options = {
            **DEFAULTS,
            "ports": ["tcp:104"],
            "output-directory": self.directory,
            "auth": ["pam:s3cret"],
        }
        self.assert_cannot_start(
            "argument --auth: 'pam' is no method of authentication; --help-auth lists them",
            lambda: makeService(options),
        )

    def test_policy_file(self) -> None:
        """So it is by a file, besides the options."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("[[allow]]\naet = ['CT1', 'MR1']")
        self.assert_allowed(("--policy", path), "CT1", None)
        self.assert_allowed(("--policy", path), "XX", AssociateRJ(1, 1, 3))
        self.assert_allowed(("--policy", path, "--allow-aet", "CT1"), "MR1", AssociateRJ(1, 1, 3))

    def test_policy_file_is_read_again(self) -> None:
        """Upon SIGHUP the file is read again, wherever the process has gone; a bad one changes nothing."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("[[allow]]\naet = 'CT1'")
        service = self.start("-v", "--policy", path)
        reread, path = service._signals.reread, os.path.abspath(path)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir("/")
        for text, calling, line in (
            ("[[allow]]\naet = 'MR1'", "MR1", f"I: Policy file read: {path}"),
            (
                "[[allow]]",
                "MR1",
                f"E: The policy stays as it was: policy file '{path}': [[allow]] number 1: it says none of "
                "aet, from, called, certificate",
            ),
        ):
            with open(path, "w") as file:
                file.write(text)
            reread()
            self.assertEqual(self.stderr.getvalue().splitlines()[-1], line)
            peer = self.peer()
            peer.associates({CT: (EXPLICIT_VR_LE,)}, calling=calling)
            self.assertIsInstance(self.answer(peer), AssociateAC)

    def test_certificates_are_read_again(self) -> None:
        """Upon SIGHUP certificates are read again; those that cannot be used change nothing."""
        directory = Path(self.mktemp())
        directory.mkdir()
        key, certificate = Authority(directory).issue("node")
        port = f"dicom-tls:0:privateKey={key}:certKey={certificate}:clientCertificate=none"
        reread = self.start("-v", "-p", port)._signals.reread
        path = os.path.abspath(certificate)
        reread()
        self.assertEqual(self.stderr.getvalue().splitlines()[-1], f"I: Certificates read: {path}")
        Path(certificate).write_text("nothing")
        reread()
        self.assertEqual(
            self.stderr.getvalue().splitlines()[-1],
            f"E: The certificates stay as they were: certificate '{path}': "
            "there is none that can be read as PEM",
        )

    def test_signals(self) -> None:
        """Signals are handled from when the reactor runs until the service has stopped."""
        service = self.start()
        self.assertIsNone(service._signals.reread)
        ((install, *_),) = self.reactor.whenRunningHooks
        self.assertEqual(install, service._signals._install)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.addCleanup(lambda: [signal.signal(*handler) for handler in handlers.items()])
        self.reactor.sigTerm = lambda *_: None
        signal.signal(signal.SIGTERM, self.reactor.sigTerm)
        install()
        self.assertIsNot(signal.getsignal(signal.SIGTERM), self.reactor.sigTerm)
        peer = self.associate()
        self.begin(peer)
        stopping = service.stopService()
        self.assertTrue(service._signals.is_stopping)
        service._signals.hasten()
        self.reactor.advance(0)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)
        peer.transport.lose()
        self.successResultOf(stopping)
        self.assertIs(signal.getsignal(signal.SIGTERM), self.reactor.sigTerm)

    def test_limits(self) -> None:
        """Each limit is one of how many associations there may be."""
        for option in ("--max-associations", "--max-associations-per-host", "--max-associations-per-aet"):
            self.install(MemoryReactorClock())
            self.start(option, "2")
            answers = [self.answer(self.associate()) for _ in range(3)]
            self.assertIsInstance(answers[1], AssociateAC)
            self.assertEqual(answers[2], AssociateRJ(2, 3, 2))

    def test_descriptors(self) -> None:
        """It has as many file descriptors as its limits need, if it may; and never fewer than before."""
        infinite = resource.RLIM_INFINITY
        for arguments, limits, expected in (
            ((), (1024, 4096), [(2064, 4096)]),
            ((), (1024, infinite), [(2064, infinite)]),
            ((), (1024, 1500), [(1500, 1500)]),
            ((), (4096, 4096), []),
            ((), (infinite, infinite), []),
            (("--max-associations", "10", "--max-half-open", "10"), (1024, 4096), []),
            (("--max-operations", "3"), (1024, 4096), [(3064, 4096)]),
            (("--max-associations", "0"), (1024, 4096), [(4096, 4096)]),
            (("--max-half-open", "0"), (1024, 4096), [(4096, 4096)]),
            (("--max-half-open", "0"), (1024, infinite), []),
        ):
            asked: list[Any] = []
            self.patch(resource, "getrlimit", lambda _, limits=limits: limits)
            self.patch(resource, "setrlimit", lambda _, limits, asked=asked: asked.append(limits))
            makeService(self.options(*arguments))
            self.assertEqual(asked, expected, (arguments, limits))

    def test_descriptors_are_not_allowed(self) -> None:
        """That it may not have more is no reason not to start."""

        def setrlimit(which: int, limits: Any) -> None:
            raise ValueError("not allowed")

        self.patch(resource, "getrlimit", lambda _: (1024, 4096))
        self.patch(resource, "setrlimit", setrlimit)
        self.start()

    def test_max_half_open(self) -> None:
        """Of those who only connect, the oldest are dropped."""
        self.start("--max-half-open", "2")
        peers = [self.peer() for _ in range(3)]
        self.assertEqual([peer.transport.aborted for peer in peers], [True, False, False])

    def test_max_operations(self) -> None:
        """So many operations may be performed at a time, where a window is proposed; else one, unsaid."""
        information = UserInformation(16382, asynchronous_operations_window=(0, 5))
        for options, answered in (((), None), (("--max-operations", "20"), (20, 1))):
            self.start(*options)
            peer = self.peer()
            peer.associates({CT: [EXPLICIT_VR_LE]}, user_information=information)
            (confirmed,) = peer.indications
            window = confirmed.answer.user_information.asynchronous_operations_window  # type: ignore[union-attr]
            self.assertEqual(window, answered)
            self.install(MemoryReactorClock())

    def test_max_instance_size(self) -> None:
        """An instance may have so many octets."""
        self.start("--max-instance-size", "1k")
        peer = self.associate()
        for size, status in ((0, 0), (1024, 0xA700)):
            peer.stores("1.2.3", data_set(size=size))
            self.assertEqual(peer.response.status, status)
        self.assertEqual(os.listdir(self.directory), ["CT.1.2.3"])

    def test_no_echo(self) -> None:
        """Verification can be refused."""
        self.start()
        self.assertEqual(self.results(self.associate()), [0, 0])
        self.install(MemoryReactorClock())
        self.start("--no-echo")
        self.assertEqual(self.results(self.associate()), [0, 3])

    def test_max_pdu(self) -> None:
        """The maximum length is told to the peer, and held against it."""
        for arguments, length in (((), 16382), (("-pdu", "0"), 0), (("-pdu", "4096"), 4096)):
            self.install(MemoryReactorClock())
            self.start(*arguments)
            peer = self.associate()
            self.assertEqual(self.answer(peer).user_information.max_length, length)
        peer.sends(b"\x04\0" + (4097).to_bytes(4, "big") + bytes(4097))
        self.assertIsInstance(peer.indications[-1], Aborted)

    def test_acse_timeout(self) -> None:
        """Who does not say what it wants is gone in time."""
        self.start("-ta", "5")
        peer = self.peer()
        self.reactor.advance(4.9)
        self.assertFalse(peer.transport.disconnecting)
        self.reactor.advance(0.2)
        self.assertTrue(peer.transport.disconnecting)

    def test_network_timeout(self) -> None:
        """An association on which nothing happens is aborted in time."""
        self.start("-tn", "7")
        peer = self.associate()
        self.reactor.advance(6.9)
        peer.echoes()
        self.reactor.advance(6.9)
        peer.exchange()
        self.assertNotIsInstance(peer.indications[-1], Aborted)
        self.reactor.advance(0.2)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)

    def begin(self, peer: Peer) -> None:
        """Send a C-STORE-RQ whose data set never ends."""
        request = CStoreRQ(affected_sop_class_uid=CT, message_id=7, affected_sop_instance_uid="1.2.3")
        peer._core.send_command(1, request, True)
        peer._core.send_data_set(1, data_set(), last=False)
        peer.exchange()

    def test_dimse_timeout(self) -> None:
        """A message that does not go on is aborted in time."""
        self.start("-td", "7", "-tn", "100")
        peer = self.associate()
        self.begin(peer)
        self.reactor.advance(6.9)
        peer.exchange()
        self.assertNotIsInstance(peer.indications[-1], Aborted)
        self.reactor.advance(0.2)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)

    def test_grace(self) -> None:
        """What is in flight has so much time when the service stops."""
        service = self.start("--grace", "5")
        peer = self.associate()
        self.begin(peer)
        stopping = service.stopService()
        self.reactor.advance(4.9)
        peer.exchange()
        self.assertNotIsInstance(peer.indications[-1], Aborted)
        self.reactor.advance(0.2)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)
        peer.transport.lose()
        self.successResultOf(stopping)

    def test_transfer_syntaxes(self) -> None:
        """Of what the peer proposes, the one that is preferred is accepted."""
        proposed = (JPEG, EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE)
        native = EXPLICIT_VR_LE if sys.byteorder == "little" else EXPLICIT_VR_BE
        for option, accepted in (
            ((), IMPLICIT_VR_LE),
            (("-x=",), native),
            (("-xe",), EXPLICIT_VR_LE),
            (("-xb",), EXPLICIT_VR_BE),
            (("-xi",), IMPLICIT_VR_LE),
        ):
            self.install(MemoryReactorClock())
            self.start(*option)
            peer = self.associate(*proposed)
            self.assertEqual(peer.context(CT).transfer_syntax, accepted)
        self.assertEqual(self.results(self.associate(EXPLICIT_VR_LE)), [4, 0])

    def test_verification_syntaxes(self) -> None:
        """The preference is Verification's, too."""
        self.start("-xb")
        peer = self.peer()
        peer.associates({uids.VERIFICATION: (IMPLICIT_VR_LE, EXPLICIT_VR_BE)})
        self.assertEqual(peer.context(uids.VERIFICATION).transfer_syntax, EXPLICIT_VR_BE)

    def test_output_directory(self) -> None:
        """It is made with its parents, at start, and nothing is left in it by that."""
        self.directory = os.path.join(self.directory, "a", "b")
        self.start()
        self.assertEqual(os.listdir(self.directory), [])
        peer = self.associate()
        peer.stores("1.2.3", data_set())
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(os.listdir(self.directory), ["CT.1.2.3"])

    def test_output_directory_lasts(self) -> None:
        """What was made of it survives a power cut: the directory above each is synced, if it can be."""
        synced: list[str] = []

        def sync(directory: str) -> None:
            synced.append(directory)
            raise PermissionError

        self.patch(assembly, "sync_directory", sync)
        above, self.directory = os.path.abspath(self.directory), os.path.join(self.directory, "a", "b")
        os.makedirs(above)
        self.start()
        self.assertEqual(synced, [os.path.join(above, "a"), above])

    def test_stays_there(self) -> None:
        """The directory is where it was at start, wherever the process goes: a daemon goes to the root."""
        start = os.getcwd()
        self.addCleanup(os.chdir, start)
        self.start()
        directory = os.path.abspath(self.directory)
        os.chdir("/")
        self.associate().stores("1.2.3", data_set())
        os.chdir(start)
        self.assertEqual(os.listdir(directory), ["CT.1.2.3"])

    def test_ignore(self) -> None:
        """What is to be ignored leaves no trace, and is not looked at."""
        self.start("--ignore")
        peer = self.associate()
        for data in (data_set(), b"garbage"):
            peer.stores("1.2.3", data)
            self.assertEqual(peer.response.status, 0)
        self.assertFalse(os.path.exists(self.directory))

    def test_accept_unknown(self) -> None:
        """SOP Classes that nobody knows are accepted when that is asked for."""
        self.start()
        self.assertEqual(self.results(self.associate(sop_class_uid="1.2.3.4")), [3, 0])
        self.install(MemoryReactorClock())
        self.start("--accept-unknown")
        peer = self.associate(sop_class_uid="1.2.3.4")
        peer.stores("1.2.3", data_set(sop_class_uid="1.2.3.4"))
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(os.listdir(self.directory), ["UN.1.2.3"])

    def test_no_check(self) -> None:
        """Data sets are checked unless that is not wanted."""
        self.start()
        peer = self.associate()
        peer.stores("1.2.3", b"garbage")
        self.assertEqual(peer.response.status, 0xC210)
        self.install(MemoryReactorClock())
        self.start("--no-check")
        peer = self.associate()
        peer.stores("1.2.3", b"garbage")
        self.assertEqual(peer.response.status, 0)


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

    def test_bad_endpoint(self) -> None:
        """An endpoint that cannot be made says why."""
        options = {**DEFAULTS, "output-directory": self.directory, "ports": ["tcp:11112", "tcp:x"]}
        error = self.assertRaises(CannotStart, makeService, options)
        self.assertEqual(error.code, 1)
        self.assertRegex(self.stderr.getvalue(), r"^dicomnode: error: argument PORT: tcp:x: [^\n]+\n$")

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
