"""Tests for :mod:`dicomnode.clients`: both ends in memory."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

from pydicom import dcmread
from pydicom.data import get_testdata_file
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import sources
from dicomnode.acceptor import Acceptor
from dicomnode.clientoptions import parse_echo, parse_store
from dicomnode.clients import FILES, Foreground, Store, echo, endpoint_for
from dicomnode.outcomes import Report
from dicomnode.policies import CalledAETitle
from dicomnode.progress import Progress
from dicomnode.reading import Opened, open_file
from dicomnode.services import Storage, Verification
from dicomnode.testing import CalledPeer, MemoryStorage, Network, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from tests.cases import QuickPool

CT = str(get_testdata_file("CT_small.dcm", download=False))
MR = str(get_testdata_file("MR_small.dcm", download=False))
LOSSY = str(get_testdata_file("JPEG-lossy.dcm", download=False))


class Seen(Progress):
    """Remembers how far it was."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def looks(self, files: int) -> None:
        self.all.append(files)

    def begins(self, files: int, octets: int) -> None:
        self.all.append((files, octets))

    def comes(self, files: int, octets: int) -> None:
        self.all.append((files, octets))


class ClientCase(SynchronousTestCase):
    """Tests of a command without its process; at the end, no timer is left."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.reactor.pool = QuickPool()
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        self.storage = MemoryStorage()
        self.progress = Seen()
        self.logged: list[str] = []
        self.addCleanup(self.assertNoTimer)

    def assertNoTimer(self) -> None:
        self.reactor.advance(2)
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.active()], [])

    def network(self, **how: Any) -> Network:
        acceptor = Acceptor(self.reactor, [Verification(), Storage(self.storage, check=False)], **how)
        return Network(self.reactor, acceptor)

    def echoes(self, peer: Any, *arguments: str) -> Deferred[int]:
        options = parse_echo(["host", "104", *arguments])
        work = Deferred.fromCoroutine(
            echo(self.reactor, peer, options, stdout=self.stdout, stderr=self.stderr)
        )
        peer.exchange()
        return work

    def stores(self, peer: Any, *arguments: str) -> Deferred[int]:
        store = Store(
            self.reactor,
            peer,
            parse_store(["host", "104", *arguments]),
            report=Report(self.stdout),
            progress=self.progress,
            stderr=self.stderr,
            log=self.logged.append,
        )
        work = Deferred.fromCoroutine(store.run())
        peer.exchange()
        return work

    @property
    def lines(self) -> list[str]:
        return self.stdout.getvalue().splitlines()

    def file(self, name: str, octets: bytes) -> str:
        path = Path(self.mktemp())
        path.mkdir()
        (path / name).write_bytes(octets)
        return str(path / name)


class EchoTests(ClientCase):
    """Whether the other end is there is said, and told by the exit code."""

    def test_answers(self) -> None:
        """Each answer is said; however the association is ended, it is."""
        for ending in ([], ["--abort"]):
            network = self.network()
            self.assertEqual(self.successResultOf(self.echoes(network, "--repeat", "2", *ending)), 0)
            self.assertEqual([end.connected for end in network.connections[0]], [False, False])
        self.assertEqual(self.lines, ["0x0000 Success, after 0.0 ms"] * 4)

    def test_failure(self) -> None:
        """An answer that is no success is none."""
        peer = CalledPeer()
        work = self.echoes(peer, "-xi")
        self.assertEqual(peer.request.contexts[0].transfer_syntaxes, (IMPLICIT_VR_LE,))
        peer.accepts()
        peer.responds(0x0122)
        peer.answers_release()
        peer.transport.lose()
        self.assertEqual(self.successResultOf(work), 1)
        self.assertEqual(self.lines, ["0x0122 SOP Class not supported, after 0.0 ms"])

    def test_not_accepted(self) -> None:
        """That Verification is not accepted is said, and why."""
        peer = CalledPeer()
        work = self.echoes(peer)
        peer.accepts(3)
        peer.answers_release()
        peer.transport.lose()
        self.assertEqual(self.successResultOf(work), 1)
        self.assertIn("does not support the SOP Class", self.stderr.getvalue())

    def test_rejected(self) -> None:
        """That there is no association is said, in one line."""
        work = self.echoes(self.network(policy=CalledAETitle("OTHER")))
        self.assertEqual(self.successResultOf(work), 1)
        self.assertRegex(
            self.stderr.getvalue(), r"\Adicomnode echo: error: the association was rejected [^\n]+\n\Z"
        )

    def test_silence(self) -> None:
        """Who never answers is not waited for; nor is one whose connection comes to no end."""
        peer = CalledPeer()
        work = self.echoes(peer, "-ta", "5")
        for _ in range(4):
            self.reactor.advance(5)
        self.assertEqual(self.successResultOf(work), 1)
        self.assertIn("ACSE timeout", self.stderr.getvalue())
        peer.transport.lose()

    def test_no_connection(self) -> None:
        """A connection that is never made is given up."""
        peer = mock.Mock(connect=lambda _: Deferred())
        work = self.echoes(peer, "-ta", "5")
        self.reactor.advance(10)
        self.assertEqual(self.successResultOf(work), 1)
        self.assertIn("ACSE timeout: the other end was silent for 10 s", self.stderr.getvalue())

    def test_interrupted(self) -> None:
        """Who is interrupted aborts: before there is an association, and after."""
        for accepted in (False, True):
            peer = CalledPeer()
            work = self.echoes(peer, "-ta", "0")
            if accepted:
                peer.accepts()
            work.cancel()
            self.assertNoResult(work)
            peer.transport.lose()
            self.failureResultOf(work, CancelledError)

    def test_never_closed(self) -> None:
        """Who does not close the connection is not waited for, and nothing is lost by it."""
        peer = CalledPeer()
        work = self.echoes(peer, "--abort")
        peer.accepts()
        peer.responds(0)
        self.assertNoResult(work)
        self.reactor.advance(1)
        self.assertEqual(self.successResultOf(work), 0)
        peer.transport.lose()


class StoreTests(ClientCase):
    """Files are sent one after the other, and what becomes of each is said."""

    def test_all(self) -> None:
        """Each arrives as it is, and how far it is, is told."""
        self.assertEqual(self.successResultOf(self.stores(self.network(), CT, MR, LOSSY, "-cx")), 0)
        self.assertEqual(len(self.storage.instances), 3)
        (line,) = self.lines
        self.assertRegex(line, r"\A3 of 3 files have arrived \(.* KiB in 0.0 s\)\Z")
        files, octets = self.progress.all[0]
        self.assertEqual((files, self.progress.all[-1]), (3, (3, octets)))
        self.assertEqual(self.progress.all[1:], sorted(self.progress.all[1:]))
        self.assertEqual(self.logged, [f"Sending file: {path}" for path in (CT, MR, LOSSY)])

    def test_encoded_anew(self) -> None:
        """If one transfer syntax is asked for, what can be put into it is, and the others are not sent."""
        self.assertEqual(self.successResultOf(self.stores(self.network(), CT, LOSSY, "-xi")), 1)
        ((instance, octets),) = self.storage.instances.values()
        self.assertEqual(instance.transfer_syntax_uid, IMPLICIT_VR_LE)
        self.assertNotIn(b"UI", octets[:40])
        self.assertIn("only Implicit VR Little Endian is to be proposed", self.lines[0])
        self.assertEqual(dcmread(CT).file_meta.TransferSyntaxUID, EXPLICIT_VR_LE)

    def test_directory(self) -> None:
        """A directory is looked through, some files in each turn; what is no DICOM file is skipped."""
        path = os.path.dirname(self.file("README", b"none"))
        for number in range(FILES):
            os.symlink(CT, os.path.join(path, f"{number}"))
        self.assertEqual(self.successResultOf(self.stores(self.network(), path)), 0)
        self.assertEqual(self.progress.all[0], FILES)
        self.assertIn("README: skipped: it is not a DICOM file", self.lines[0])

    def test_not_dicom(self) -> None:
        """A file that is named, and is none of DICOM, has failed; the others are sent."""
        path = self.file("README", b"none")
        self.assertEqual(self.successResultOf(self.stores(self.network(), path, "nowhere", CT)), 1)
        self.assertEqual(
            self.lines[:2], [f"{path}: it is not a DICOM file", "nowhere: No such file or directory"]
        )
        self.assertEqual(len(self.storage.instances), 1)

    def test_nothing(self) -> None:
        """If there is nothing to be sent, nobody is asked for an association."""
        network = self.network()
        self.assertEqual(self.successResultOf(self.stores(network, self.file("README", b""))), 1)
        self.assertEqual(network.connections, [])

    def test_refused(self) -> None:
        """A context that is refused, and a failure status, are of one file each."""
        peer = CalledPeer()
        work = self.stores(peer, CT, LOSSY, MR, CT, "-cx")
        peer.accepts(0, 4, 0)
        peer.responds(0xA700, error_comment="full")
        peer.responds(0xB000)
        peer.responds(0)
        peer.answers_release()
        peer.transport.lose()
        self.assertEqual(self.successResultOf(work), 1)
        first, second, third, last = self.lines
        self.assertEqual(first, f"{CT}: 0xA700 Refused: Out of resources (full)")
        self.assertIn(f"{LOSSY}: the peer does not take ", second)
        self.assertIn("does not support the transfer syntax", second)
        self.assertIn(f"{MR}: has arrived, with a warning", third)
        self.assertRegex(last, r"\A2 of 4 files have arrived .*, 2 failed\Z")

    def test_rejected(self) -> None:
        """Without an association, all have failed."""
        self.assertEqual(
            self.successResultOf(self.stores(self.network(policy=CalledAETitle("X")), CT, MR)), 1
        )
        self.assertEqual(len(self.lines), 3)
        self.assertIn(f"{MR}: not sent: the association was rejected permanently", self.lines[1])
        self.assertEqual(self.stderr.getvalue().count("\n"), 1)

    def test_lost(self) -> None:
        """When the association ends, what was not sent has failed by that."""
        peer = CalledPeer()
        work = self.stores(peer, CT, MR, LOSSY)
        peer.accepts()
        peer.responds(0)
        peer.aborts()
        peer.transport.lose()
        self.assertEqual(self.successResultOf(work), 1)
        first, second, last = self.lines
        self.assertEqual(first, f"{MR}: not answered: the association was aborted")
        self.assertEqual(second, f"{LOSSY}: not sent: the association was aborted")
        self.assertIn("1 of 3 files have arrived", last)

    def test_gone(self) -> None:
        """A file that is gone when its turn comes has failed alone."""
        path = self.file("ct", Path(CT).read_bytes())
        peer = CalledPeer()
        work = self.stores(peer, CT, path, MR)
        os.unlink(path)
        peer.accepts()
        peer.responds(0)
        self.reactor.advance(0)
        peer.responds(0)
        peer.answers_release()
        peer.transport.lose()
        self.assertEqual(self.successResultOf(work), 1)
        self.assertEqual(self.lines[0], f"{path}: No such file or directory")

    def test_broken_by_us(self) -> None:
        """A file that breaks off takes its association with it; the others are sent on another."""
        network = self.network()
        broken = self.file("ct", Path(CT).read_bytes() + bytes(1 << 20))

        def breaks(path: Any) -> Opened:
            opened = open_file(path)
            if path == broken:
                os.truncate(broken, 800_000)
            return opened

        self.patch(sources, "open_file", breaks)
        self.assertEqual(self.successResultOf(self.stores(network, broken, MR)), 1)
        self.assertEqual(len(network.connections), 2)
        self.assertIn("it ended after 799", "".join(self.lines))
        self.assertIn("1 of 2 files have arrived", self.lines[-1])

    def test_many_contexts(self) -> None:
        """What needs more contexts than an association has room for is sent on several."""
        path = os.path.dirname(self.file("a", Path(CT).read_bytes()))
        (Path(path) / "b").write_bytes(Path(MR).read_bytes())
        self.patch_contexts(1)
        network = self.network()
        self.assertEqual(self.successResultOf(self.stores(network, path, "-cx")), 0)
        self.assertEqual(len(network.connections), 2)

    def patch_contexts(self, contexts: int) -> None:
        from dicomnode import selection

        self.patch(selection, "CONTEXTS", contexts)

    def test_interrupted(self) -> None:
        """Who is interrupted aborts, and says how far it was."""
        for accepted in (False, True):
            peer = CalledPeer()
            work = self.stores(peer, CT, MR)
            if accepted:
                peer.accepts()
                peer.responds(0)
            work.cancel()
            self.assertNoResult(work)
            self.reactor.advance(1)
            self.failureResultOf(work, CancelledError)
            self.assertIn(f"interrupted: {accepted:d} of 2 files have arrived", self.lines[-1])
            peer.transport.lose()


class Stopping(MemoryReactorClock):
    """A reactor in memory that runs until it is told to stop."""

    _exitSignal: int | None = None

    def run(self) -> None:
        super().run()
        for _ in range(3):
            self.advance(0)

    def stop(self) -> None:
        super().stop()
        for callback, arguments, keywords in self.triggers["before"]["shutdown"]:
            callback(*arguments, **keywords)


class ForegroundTests(SynchronousTestCase):
    """The reactor runs until it is done, or a signal comes."""

    def setUp(self) -> None:
        self.reactor = Stopping()
        self.reactor.hasRun = False

    def test_done(self) -> None:
        """The exit code is that of what was done."""

        async def work() -> int:
            return 7

        self.assertEqual(Foreground(self.reactor, work).run(), 7)
        self.assertTrue(self.reactor.hasStopped)

    def test_failed(self) -> None:
        """What should not happen is logged, and no success."""

        async def work() -> int:
            raise RuntimeError("it should not")

        self.assertEqual(Foreground(self.reactor, work).run(), 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_signal(self) -> None:
        """What a signal ends is given the time to end, and the exit code says which it was."""
        for number, code in ((None, 130), (15, 143)):
            self.setUp()
            self.reactor._exitSignal = number
            closing: Deferred[None] = Deferred()

            async def work(closing: Deferred[None] = closing) -> int:
                try:
                    await Deferred()
                except CancelledError:
                    await closing
                    raise
                return 0

            foreground = Foreground(self.reactor, work)
            self.reactor.callLater(0, self.reactor.stop)
            self.reactor.callLater(0, closing.callback, None)
            self.assertEqual(foreground.run(), code)

    def test_signal_at_the_end(self) -> None:
        """A signal that comes when it is done changes nothing."""

        async def work() -> int:
            self.reactor.callLater(0, self.reactor.stop)
            return 0

        foreground = Foreground(self.reactor, work)
        self.assertEqual(foreground.run(), 0)
        foreground._signals.hasten()


class EndpointTests(SynchronousTestCase):
    """To whom to connect is told by host and port, or by an endpoint."""

    def test_both(self) -> None:
        """Each is an endpoint."""
        reactor = MemoryReactorClock()
        self.assertIsInstance(endpoint_for(reactor, ("host", 104), 30), HostnameEndpoint)
        self.assertIsInstance(
            endpoint_for(reactor, "tcp:host:104", 30), TCP4ClientEndpoint | HostnameEndpoint
        )
        with self.assertRaises(ValueError):
            endpoint_for(reactor, "host:104", 30)
