"""Our requestor against SCPs on real sockets: DCMTK's and pynetdicom's ``storescp``, and our own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from pydicom import dcmread
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.trial.unittest import TestCase

from dicomnode import (
    Acceptor,
    AssociationAborted,
    AssociationRejected,
    Storage,
    Verification,
    associate,
    plan,
)
from dicomnode.policies import CalledAETitle
from dicomnode.requestor import ServiceUser
from dicomnode.testing import MemoryStorage
from dicomnode.uids import IMPLICIT_VR_LE, VERIFICATION
from tests.interop import samples
from tests.interop.samples import Sample, data_set_of
from tests.interop.support import (
    LOOPBACK,
    PATIENCE,
    Process,
    eventually,
    find_program,
    free_port,
    missing_modules,
    missing_programs,
)

#: Octets of an instance that is to be noticed if it is in memory.
LARGE = 64 << 20


def sent() -> list[Sample]:
    """Return the shipped files that say what they are, one for each instance."""
    found: dict[str, Sample] = {}
    for sample in samples.shipped():
        if sample.storable and sample.prefix and sample.instance == sample.meta_instance:
            found.setdefault(sample.instance, sample)
    return list(found.values())


class RequestorTestCase(TestCase):
    """A test with a real reactor, and processes that end with it."""

    timeout = 4 * PATIENCE

    def starts(self, *command: str) -> Process:
        """Start an SCP, and wait until it listens."""
        process = Process(command)
        self.addCleanup(process.clean_up)
        eventually("it listens", lambda: self._listens() or None)
        return process

    def setUp(self) -> None:
        self.port = free_port()

    def _listens(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    def associate(self, **how: Any) -> Deferred[ServiceUser]:
        return associate(reactor, TCP4ClientEndpoint(reactor, LOOPBACK, self.port), **how)  # type: ignore[arg-type]

    async def stores(self, paths: Iterable[Any], **how: Any) -> list[int]:
        """Store, release, and return the statuses."""
        what = list(paths)
        contexts = (*plan(what), *how.pop("more", ()))
        association = await self.associate(contexts=contexts, **how)
        responses = await gatherResults([association.store(one) for one in what], consumeErrors=True)
        await association.release()
        return [response.status for response in responses]

    async def verifies(self, **how: Any) -> None:
        association = await self.associate(**how)
        for _ in range(3):
            self.assertEqual((await association.echo()).status, 0)
        await association.release()


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Deferred[None]]:
    """Let trial wait for a coroutine."""

    def run(self: RequestorTestCase) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class DCMTKTests(RequestorTestCase):
    """DCMTK's ``storescp`` keeps what it is sent, octet for octet."""

    skip = missing_programs("storescp")

    def storescp(self, *options: str) -> Process:
        program = find_program("storescp")
        assert program is not None
        # Bit for bit, as it comes; whatever is proposed is accepted.
        return self.starts(program, "-q", "+B", "+xa", "-pm", *options, f"{self.port}")

    @asynchronous
    async def test_echo(self) -> None:
        """It answers C-ECHO."""
        self.storescp()
        await self.verifies()

    @asynchronous
    async def test_store(self) -> None:
        """Every shipped file arrives as it is, in its own transfer syntax."""
        node = self.storescp("-pdu", "4096")
        files = [
            sample
            for sample in sent()
            # It does not accept Color Palette Storage, which is not below the others' root; and it aborts
            # upon a fragment of odd length, as that data set is against PS3.5 A.5.
            if not sample.name.startswith("palettes/") and len(sample.data_set) % 2 == 0
        ]
        self.assertGreater(len(files), 40)
        self.assertEqual(set(await self.stores(sample.path for sample in files)), {0})
        kept = {}
        for path in node.home.iterdir():
            if path.name not in ("stdout", "stderr"):
                kept[path.name.split(".", 1)[1]] = data_set_of(path.read_bytes())
        for sample in files:
            self.assertEqual(kept[sample.instance], sample.data_set, sample.name)

    @asynchronous
    async def test_large(self) -> None:
        """A large instance is streamed: it is never in memory as a whole."""
        node = self.storescp("-pdu", "131072")
        path = Path(self.mktemp())
        sample = samples.made(_directory(self))[0]
        header = sample.path.read_bytes()[: -len(sample.data_set)]
        path.write_bytes(header + sample.data_set)
        with open(path, "ab") as file:
            file.truncate(len(header) + len(sample.data_set) + LARGE)
        before = _peak_memory()
        self.assertEqual(await self.stores([path]), [0])
        self.assertLess(_peak_memory() - before, LARGE // 4)
        (kept,) = (one for one in node.home.iterdir() if one.stat().st_size > LARGE)
        with open(kept, "rb") as file:
            self.assertEqual(data_set_of(file.read())[: len(sample.data_set)], sample.data_set)

    @asynchronous
    async def test_refused(self) -> None:
        """Its rejection of an association, and its aborting of one, are told."""
        self.storescp("--refuse")
        with self.assertRaises(AssociationRejected) as raised:
            await self.associate()
        self.assertEqual((raised.exception.result, raised.exception.source), (1, 1))

    @asynchronous
    async def test_aborted(self) -> None:
        """Its A-ABORT in the middle of a C-STORE fails that."""
        self.storescp("--abort-during")
        path = samples.shipped()[0].path
        association = await self.associate(contexts=plan([path]))
        with self.assertRaises(AssociationAborted):
            await association.store(path)


class PynetdicomTests(RequestorTestCase):
    """pynetdicom's ``storescp`` takes what it is sent."""

    skip = missing_modules("pynetdicom")

    @asynchronous
    async def test_session(self) -> None:
        """It answers C-ECHO, and C-STORE of files and of data sets."""
        node = self.starts(sys.executable, "-m", "pynetdicom", "storescp", f"{self.port}", "-od", ".")
        await self.verifies()
        files = [sample for sample in sent() if "test_files" in sample.name][:20]
        self.assertEqual(set(await self.stores(sample.path for sample in files)), {0})
        kept = {dcmread(path, force=True).get("SOPInstanceUID") for path in _instances(node.home)}
        self.assertLessEqual({sample.instance for sample in files}, kept)
        read = [dcmread(sample.path) for sample in files[:5]]
        self.assertEqual(set(await self.stores(read)), {0})


class OwnTests(RequestorTestCase):
    """Our own acceptor, on a socket."""

    def listens(self, **how: Any) -> MemoryStorage:
        storage = MemoryStorage()
        acceptor = Acceptor(reactor, [Verification(), Storage(storage)], **how)  # type: ignore[arg-type]
        port = reactor.listenTCP(0, acceptor, interface=LOOPBACK)  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        self.addCleanup(acceptor.drain, 1.0)
        self.port = port.getHost().port
        return storage

    @asynchronous
    async def test_store(self) -> None:
        """What is sent is what is kept."""
        for max_length in (0, 128, 16382):
            storage = self.listens(max_length=max_length)
            await self.verifies()
            files = [sample for sample in sent() if len(sample.data_set) < 1 << 20]
            statuses = await self.stores(sample.path for sample in files)
            for sample, status in zip(files, statuses, strict=True):
                if status == 0:
                    self.assertEqual(storage.instances[sample.instance][1], sample.data_set)
            self.assertLess(len([status for status in statuses if status]), 5)

    @asynchronous
    async def test_rejected(self) -> None:
        """A policy's refusal arrives."""
        self.listens(policy=CalledAETitle("ARCHIVE"))
        with self.assertRaises(AssociationRejected) as raised:
            await self.associate()
        self.assertEqual(raised.exception.reason, 7)
        await self.verifies(called_ae_title="ARCHIVE", contexts={VERIFICATION: [IMPLICIT_VR_LE]})


def _instances(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name not in ("stdout", "stderr")]


def _directory(test: TestCase) -> Path:
    directory = Path(test.mktemp())
    os.makedirs(directory)
    return directory


def _peak_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise LookupError
