"""Orthanc as the acceptor, and as the requestor."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydicom import dcmread

from tests.interop import samples
from tests.interop.orthanc import Orthanc, missing_orthanc
from tests.interop.samples import Sample, data_set_of
from tests.interop.test_clients import ClientTestCase, client
from tests.interop.test_dcmtk import ALTERED
from tests.interop.test_requestor import RequestorTestCase, asynchronous
from tests.interop.transfers import TransferTestCase

#: What Orthanc 1.10.1 does not take: the first it cannot understand, and to the others it answers nothing.
NOT_TAKEN = {
    "test_files/rtdose_rle.dcm",
    "test_files/SC_rgb_jpeg.dcm",
    "test_files/image_dfl.dcm",
}


@cache
def indexed() -> tuple[Sample, ...]:
    """Return the shipped files, one for each instance, that say what Orthanc wants to know of an instance."""
    found: dict[str, Sample] = {}
    for sample in samples.shipped():
        if not (sample.storable and sample.prefix and sample.instance == sample.meta_instance):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are wrong ones among them, on purpose
            read = dcmread(sample.path, force=True, stop_before_pixels=True)
        if all(keyword in read for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")):
            found.setdefault(sample.instance, sample)
    return tuple(sample for sample in found.values() if sample.name not in NOT_TAKEN)


class CommandTests(ClientTestCase):
    """The commands ``echo`` and ``store`` with Orthanc at the other end."""

    skip = missing_orthanc()

    def orthanc(self) -> Orthanc:
        orthanc = Orthanc()
        self.addCleanup(orthanc.clean_up)
        return orthanc

    def test_echo(self) -> None:
        """It answers C-ECHO."""
        orthanc = self.orthanc()
        for options in ((), ("--repeat", "3"), ("-xb",)):
            done = client("echo", orthanc.port, *options)
            self.assertEqual((done.code, done.stderr), (0, ""))

    def test_store(self) -> None:
        """A directory of files arrives, each as it is, but for what Orthanc encodes anew."""
        orthanc, home, files = self.orthanc(), self.directory(), indexed()
        self.assertGreater(len([sample for sample in files if sample.name not in ALTERED]), 80)
        for number, sample in enumerate(files):
            directory = home / f"{number % 7}"
            directory.mkdir(exist_ok=True)
            shutil.copy(sample.path, directory / f"{number}.dcm")
        done = client("store", orthanc.port, "-r", home)
        self.assertEqual((done.code, done.stderr), (0, ""), done.stdout)
        self.assertIn(f"{len(files)} of {len(files)} files have arrived", done.stdout)
        self.assertKept(orthanc, files)

    def assertKept(self, orthanc: Orthanc, files: Sequence[Sample]) -> None:
        for sample in files:
            kept = orthanc.file(sample.instance)
            self.assertIsNotNone(kept, f"{sample.name} is not there")
            if sample.name not in ALTERED:
                self.assertEqual(data_set_of(kept or b""), sample.data_set, sample.name)

    def test_refused(self) -> None:
        """What it does not store is told, with its status, and the others arrive."""
        orthanc, files = self.orthanc(), indexed()[:2]
        nameless = next(
            one for one in samples.shipped() if one.name == "test_files/JPEGLSNearLossless_08.dcm"
        )
        done = client("store", orthanc.port, files[0].path, nameless.path, files[1].path)
        self.assertEqual((done.code, done.stderr), (1, ""))
        self.assertIn("JPEGLSNearLossless_08.dcm: 0xA700 Refused: Out of resources", done.stdout)
        self.assertIn("2 of 3 files have arrived", done.stdout)
        self.assertKept(orthanc, files)


class LibraryTests(RequestorTestCase):
    """``associate`` and what is done with an association, with Orthanc at the other end."""

    skip = missing_orthanc()

    def setUp(self) -> None:
        self.orthanc = Orthanc()
        self.addCleanup(self.orthanc.clean_up)
        self.port = self.orthanc.port

    @asynchronous
    async def test_session(self) -> None:
        """It answers C-ECHO, and C-STORE of files and of data sets."""
        await self.verifies()
        files = indexed()
        self.assertEqual(set(await self.stores(sample.path for sample in files)), {0})
        for sample in files:
            if sample.name not in ALTERED:
                kept = self.orthanc.file(sample.instance)
                self.assertEqual(data_set_of(kept or b""), sample.data_set, sample.name)
        self.assertEqual(set(await self.stores([dcmread(sample.path) for sample in files[:5]])), {0})


class RequestorTests(TransferTestCase):
    """Orthanc sends, as it is told to by its REST API."""

    skip = missing_orthanc()

    def setUp(self) -> None:
        super().setUp()
        self.orthanc = Orthanc()
        self.addCleanup(self.orthanc.clean_up)

    def send(self, paths: Sequence[Path], _: Sequence[Sample], port: int) -> None:
        said = self.orthanc.send([*paths], port)
        self.assertEqual((said["InstancesCount"], said["FailedInstancesCount"]), (len(paths), 0))

    def test_store(self) -> None:
        """What it sends is stored as it was sent; and that is what is in the file, unless it alters that."""
        self.assertTransferred(indexed(), self.send, self.storescp(), altered=ALTERED)

    def test_processes(self) -> None:
        """So it is with several processes."""
        node = self.storescp("--processes", "2", "--sync", "none")
        self.assertTransferred(indexed()[:20], self.send, node, altered=ALTERED)

    def test_echo(self) -> None:
        """It verifies that somebody is there, and after that, that nobody is."""
        node = self.storescp()
        self.orthanc.modality(node.port)
        self.orthanc.ask("POST", "modalities/peer/echo", b"{}")
        self.assertCalm(node.stop().stderr)
        self.assertRaises(AssertionError, self.orthanc.ask, "POST", "modalities/peer/echo", b"{}")
