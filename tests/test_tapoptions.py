"""What the options of the command make of a service."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from dicomnode import assembly, uids
from dicomnode.core.association import Aborted
from dicomnode.core.command import CStoreRQ
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.pdu import AssociateAC, AssociateRJ
from dicomnode.tap import makeService
from dicomnode.testing import Peer
from tests.certificates import Authority
from tests.servicecases import CT, EXPLICIT_VR_LE, IMPLICIT_VR_LE, data_set
from tests.tapcases import EXPLICIT_VR_BE, JPEG, TapCase
from tests.test_options import DEFAULTS


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

    def assert_aborted_after(self, seconds: float, peer: Peer) -> None:
        """Assert that the peer is told of an abort when so much time has passed, and not before."""
        self.reactor.advance(seconds - 0.1)
        peer.exchange()
        self.assertNotIsInstance(peer.indications[-1], Aborted)
        self.reactor.advance(0.2)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)

    def test_network_timeout(self) -> None:
        """An association on which nothing happens is aborted in time."""
        self.start("-tn", "7")
        peer = self.associate()
        self.reactor.advance(6.9)
        peer.echoes()
        self.assert_aborted_after(7, peer)

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
        self.assert_aborted_after(7, peer)

    def test_grace(self) -> None:
        """What is in flight has so much time when the service stops."""
        service = self.start("--grace", "5")
        peer = self.associate()
        self.begin(peer)
        stopping = service.stopService()
        self.assert_aborted_after(5, peer)
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
