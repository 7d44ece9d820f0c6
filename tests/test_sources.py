"""Tests of :mod:`dicomnode.sources`: what can be stored, and the contexts it needs."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.filereader import read_file_meta_info
from twisted.internet.defer import CancelledError

from dicomnode import Acceptor, sources
from dicomnode.core.association import Aborted, DataSetFragments, ReleaseConfirmed
from dicomnode.core.command import CStoreRQ
from dicomnode.core.pdu import ProposedContext
from dicomnode.errors import (
    AssociationAborted,
    AssociationReleased,
    ContextNotAccepted,
    InvalidFile,
    TooManyContexts,
)
from dicomnode.requestor import plan
from dicomnode.services import Storage
from dicomnode.testing import CalledPeer, MemoryStorage, Pool
from dicomnode.uids import DEFLATED_EXPLICIT_VR_LE, EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from tests.cases import CT_IMAGE_STORAGE
from tests.interop.samples import data_set_of
from tests.requestorcases import RequestorCase

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


JPEG_BASELINE = "1.2.840.10008.1.2.4.50"


def shipped(name: str) -> str:
    return str(get_testdata_file(name, download=False))


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Encode an element whose length has four octets, in Explicit VR Little Endian (PS3.5 7.1.2)."""
    return struct.pack("<HH2sxxI", group, number, vr, len(value)) + value


def made(**elements: Any) -> Dataset:
    """Return a data set that has never been encoded."""
    data_set = Dataset()
    data_set.SOPClassUID = CT_IMAGE_STORAGE
    data_set.SOPInstanceUID = "1.2.3"
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    return data_set


class StoreCase(RequestorCase):
    """Tests that store in an acceptor of ours."""

    def stored(self, *what: Any, contexts: Any = None, **how: Any) -> MemoryStorage:
        """Store in an acceptor of ours, and return what it has kept."""
        storage = MemoryStorage()
        acceptor = Acceptor(self.reactor, [Storage(storage, check=False)])
        network, association = self.joins(
            acceptor, contexts=plan(what) if contexts is None else contexts, **how
        )
        storing = [association.store(one) for one in what]
        network.exchange()
        self.assertEqual([self.successResultOf(stored).status for stored in storing], [0] * len(what))
        return storage


class FileTests(StoreCase):
    """A file is sent as it is."""

    def test_octets(self) -> None:
        """What arrives is what is in the file, whatever it is encoded in, and whole or not."""
        names = (
            "CT_small.dcm",
            "MR_small_bigendian.dcm",
            "image_dfl.dcm",
            "JPEG2000.dcm",
            "MR_truncated.dcm",
        )
        for name in (*names, "rtplan.dcm", "SC_rgb_jpeg.dcm"):
            path = shipped(name)
            storage = self.stored(path, capacity=5000)
            ((instance, octets),) = storage.instances.values()
            self.assertEqual(octets, data_set_of(Path(path).read_bytes()), name)
            meta = read_file_meta_info(path)
            self.assertEqual(instance.transfer_syntax_uid, meta.TransferSyntaxUID)
            self.assertEqual(instance.sop_instance_uid, meta.MediaStorageSOPInstanceUID)

    def test_path(self) -> None:
        """A path may be a Path; the file is closed when it is sent, and its length is known."""
        path = Path(shipped("CT_small.dcm"))
        peer, association = self.associates(contexts=plan([path]))
        progress: list[tuple[int, int | None]] = []
        before = len(os.listdir("/proc/self/fd"))
        stored = association.store(path, progress=lambda *how: progress.append(how))
        peer.responds(0)
        self.successResultOf(stored)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(progress[-1], (38870, 38870))

    def test_shrinks(self) -> None:
        """A file that shrinks while it is sent is not taken for whole: the association is aborted."""
        path = self.mktemp()
        whole = Path(shipped("CT_small.dcm")).read_bytes()
        whole += element(0xFFFC, 0xFFFC, b"OB", bytes(1 << 20))
        Path(path).write_bytes(whole)
        peer, association = self.associates(CalledPeer(capacity=1000), contexts=plan([path]))
        stored = association.store(path)
        os.truncate(path, 600_000)
        for _ in range(10):
            peer.exchange()
            self.reactor.advance(0)
        length = len(data_set_of(whole))
        said = str(self.failureResultOf(stored, InvalidFile).value)
        self.assertEqual(said, f"it ended after {600_000 - len(whole) + length} of {length} octets")
        self.assertFalse(any(item.is_last for item in peer.indications if isinstance(item, DataSetFragments)))
        self.assertEqual(peer.indications[-1], Aborted(0, 0, by_peer=True))

    def test_opened_in_its_turn(self) -> None:
        """A file is not open before its turn, nor when it is not accepted."""
        path = shipped("CT_small.dcm")
        _, association = self.associates(contexts=plan([path]))
        before = len(os.listdir("/proc/self/fd"))
        stored = [association.store(path) for _ in range(10)]
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before + 1)
        association.abort()
        for failed in stored:
            self.failureResultOf(failed, AssociationAborted)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        _, association = self.associates()
        self.failureResultOf(association.store(path), ContextNotAccepted)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_thread(self) -> None:
        """A file is opened and read in a thread, and what is behind it waits for its turn."""
        small, large = shipped("CT_small.dcm"), self.mktemp()
        Path(large).write_bytes(Path(small).read_bytes() + element(0xFFFC, 0xFFFC, b"OB", bytes(1 << 20)))
        pool = Pool()
        peer, association = self.associates(contexts=plan([small]), pool=pool)
        stored = [association.store(path) for path in (small, large)]
        echoed = association.echo()
        self.turns(peer)
        self.assertEqual((peer.messages, len(pool.jobs)), ([], 1))
        self.reactor.advance(10_000)  # nobody is to blame
        pool.run(1)
        peer.responds(0)
        self.successResultOf(stored[0])
        self.assertEqual((len(peer.messages), len(pool.jobs)), (1, 1))
        while pool.jobs:
            pool.run(1)
            self.turns(peer)
        peer.responds(0)
        self.successResultOf(stored[1])
        self.assertEqual(
            peer.data_set, b"".join(data_set_of(Path(path).read_bytes()) for path in (small, large))
        )
        self.failureResultOf(echoed, ContextNotAccepted)

    def test_nobody_waits(self) -> None:
        """What is opened for nobody any more is closed, and what was behind it had its turn."""
        path = self.mktemp()
        Path(path).write_bytes(Path(shipped("CT_small.dcm")).read_bytes() + bytes(1 << 20))
        pool = Pool()
        before = len(os.listdir("/proc/self/fd"))
        peer, association = self.associates(contexts=plan([path]), pool=pool)
        first, second, third = (association.store(what) for what in (path, "nowhere.dcm", path))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(len(pool.jobs), 2)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        pool.run(2)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        association.abort()
        self.failureResultOf(third, AssociationAborted)
        pool.run()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(peer.messages, [])

    def test_released_meanwhile(self) -> None:
        """A peer that asks for release while a file is being opened has it."""
        pool = Pool()
        path = shipped("CT_small.dcm")
        peer, association = self.associates(contexts=plan([path]), pool=pool)
        stored = association.store(path)
        peer.releases()
        self.failureResultOf(stored, AssociationReleased)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], ReleaseConfirmed)
        pool.run()
        self.assertEqual(peer.messages, [])

    def test_release_waits(self) -> None:
        """A release waits for a file that is being opened."""
        pool = Pool()
        path = shipped("CT_small.dcm")
        peer, association = self.associates(contexts=plan([path]), pool=pool)
        stored, released = association.store(path), association.release()
        peer.exchange()
        self.assertNoResult(released)
        pool.run()
        peer.responds(0)
        self.successResultOf(stored)
        peer.answers_release()
        self.successResultOf(released)

    def test_fifo(self) -> None:
        """Nobody waits for what is no file."""
        path = self.mktemp()
        os.mkfifo(path)
        _, association = self.associates(contexts=plan([shipped("CT_small.dcm")]))
        self.assertIn("not a regular", str(self.failureResultOf(association.store(path), InvalidFile).value))
        self.assertIn("not a regular", str(self.assertRaises(InvalidFile, plan, [path])))

    def test_cannot_be_encoded(self) -> None:
        """A request that cannot be encoded leaves no file open."""
        path = shipped("CT_small.dcm")
        _, association = self.associates(contexts=plan([path]))
        before = len(os.listdir("/proc/self/fd"))
        self.assertTrue(self.failureResultOf(association.store(path, priority=1 << 16)))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_names(self) -> None:
        """It may be sent under other names, and on behalf of a C-MOVE."""
        path = shipped("CT_small.dcm")
        peer, association = self.associates(contexts=plan([path]))
        stored = association.store(path, sop_instance_uid="1.2.3", priority=1, move_originator=("MOVER", 7))
        peer.exchange()
        self.assertEqual(
            peer.messages,
            [
                CStoreRQ(
                    affected_sop_class_uid=CT_IMAGE_STORAGE,
                    message_id=1,
                    affected_sop_instance_uid="1.2.3",
                    priority=1,
                    move_originator_ae_title="MOVER",
                    move_originator_message_id=7,
                )
            ],
        )
        peer.responds(0)
        self.successResultOf(stored)

    def test_no_file(self) -> None:
        """What is no file, or none of DICOM, fails; what comes behind it does not."""
        path = shipped("CT_small.dcm")
        peer, association = self.associates(contexts=plan([path]))
        failing = [association.store("nowhere.dcm"), association.store(__file__)]
        self.failureResultOf(failing[0], FileNotFoundError)
        self.failureResultOf(failing[1], InvalidFile)
        stored = association.store(path)
        peer.responds(0)
        self.successResultOf(stored)

    def test_without_names(self) -> None:
        """Octets say nothing of themselves."""
        _, association = self.associates()
        names = {"sop_class_uid": "1.2", "sop_instance_uid": "1.3", "transfer_syntax_uid": IMPLICIT_VR_LE}
        for missing in names:
            some = {name: uid for name, uid in names.items() if name != missing}
            self.failureResultOf(association.store(b"data", **some), ValueError)


class DatasetTests(StoreCase):
    """A data set of pydicom is encoded."""

    def test_own_transfer_syntax(self) -> None:
        """It is encoded as it was when it was read."""
        for name in ("CT_small.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "rtplan.dcm", "image_dfl.dcm"):
            read = pydicom.dcmread(shipped(name))
            storage = self.stored(read)
            ((instance, octets),) = storage.instances.values()
            self.assertEqual(instance.transfer_syntax_uid, read.file_meta.TransferSyntaxUID)
            if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LE:
                octets = zlib.decompress(octets, -zlib.MAX_WBITS)
            buffer = BytesIO()
            plain = read.copy()
            del plain.file_meta
            little = instance.transfer_syntax_uid != EXPLICIT_VR_BE
            implicit = instance.transfer_syntax_uid == IMPLICIT_VR_LE
            plain.save_as(buffer, implicit_vr=implicit, little_endian=little)
            self.assertEqual(octets, data_set_of(buffer.getvalue()), name)

    def test_another_transfer_syntax(self) -> None:
        """One that is not compressed may go in Explicit or Implicit VR LE, if its own was not accepted."""
        for what, accepted, expected in (
            (pydicom.dcmread(shipped("CT_small.dcm")), IMPLICIT_VR_LE, IMPLICIT_VR_LE),
            (made(), IMPLICIT_VR_LE, IMPLICIT_VR_LE),
            (made(), EXPLICIT_VR_LE, EXPLICIT_VR_LE),
        ):
            storage = self.stored(what, contexts={CT_IMAGE_STORAGE: [accepted]})
            ((instance, octets),) = storage.instances.values()
            self.assertEqual(instance.transfer_syntax_uid, expected)
            read = pydicom.dcmread(BytesIO(octets), force=True)
            self.assertEqual(read.SOPInstanceUID, what.SOPInstanceUID)

    def test_compressed(self) -> None:
        """One that is compressed goes in its own, or not at all."""
        read = pydicom.dcmread(shipped("JPEG2000.dcm"))
        _, association = self.associates(contexts={str(read.SOPClassUID): [EXPLICIT_VR_LE]})
        error = self.failureResultOf(association.store(read), ContextNotAccepted).value
        self.assertEqual(error.transfer_syntax, read.file_meta.TransferSyntaxUID)

    def test_made_encapsulated(self) -> None:
        """Of one that was made, and not read, encapsulated pixel data has an undefined length (PS3.5 A.4)."""
        what = made()
        what.file_meta = pydicom.dataset.FileMetaDataset()
        what.add_new("PixelData", "OB", b"")
        for syntax, head in (
            (JPEG_BASELINE, b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"),
            (EXPLICIT_VR_LE, b"\xe0\x7f\x10\0OB\0\0\x02\0\0\0"),
            ("1.2.3", b"\xe0\x7f\x10\0OB\0\0\x02\0\0\0"),
        ):
            what.file_meta.TransferSyntaxUID = syntax
            what.PixelData = encapsulate([b"frame "]) if syntax == JPEG_BASELINE else b"\0\0"
            self.assertIn(head, sources._octets(what, syntax))

    def test_without_file_meta(self) -> None:
        """One without File Meta Information goes as it was read."""
        for name, syntax in (
            ("CT_small.dcm", EXPLICIT_VR_LE),
            ("rtplan.dcm", IMPLICIT_VR_LE),
            ("MR_small_bigendian.dcm", EXPLICIT_VR_BE),
        ):
            read = pydicom.dcmread(shipped(name))
            del read.file_meta
            self.assertEqual(sources._transfer_syntax(read), syntax)
        read.file_meta = pydicom.dataset.FileMetaDataset()
        self.assertEqual(sources._transfer_syntax(read), EXPLICIT_VR_BE)

    def test_without_a_context(self) -> None:
        """Without a context for it, it is not sent."""
        _, association = self.associates(CalledPeer(), contexts={MR_IMAGE_STORAGE: [IMPLICIT_VR_LE]})
        self.failureResultOf(association.store(made()), ContextNotAccepted)

    def test_without_identity(self) -> None:
        """One that does not say what it is is not sent, unless it is said for it."""
        peer, association = self.associates()
        self.failureResultOf(association.store(Dataset()), ValueError)
        named = {"sop_class_uid": CT_IMAGE_STORAGE, "sop_instance_uid": "1.2.3"}
        stored = association.store(Dataset(), **named)
        peer.responds(0)
        self.successResultOf(stored)


class PlanTests(RequestorCase):
    """The presentation contexts for what is to be stored."""

    def test_plan(self) -> None:
        """A context for each SOP Class and transfer syntax, in their order; then the default ones."""
        ct, mr = shipped("CT_small.dcm"), Path(shipped("MR_small_bigendian.dcm"))
        pair = (MR_IMAGE_STORAGE, IMPLICIT_VR_LE)
        planned = plan([ct, mr, ct, pair, made(), pydicom.dcmread(ct)])
        self.assertEqual(
            planned,
            (
                ProposedContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LE,)),
                ProposedContext(3, MR_IMAGE_STORAGE, (EXPLICIT_VR_BE,)),
                ProposedContext(5, MR_IMAGE_STORAGE, (IMPLICIT_VR_LE,)),
                ProposedContext(7, CT_IMAGE_STORAGE, (IMPLICIT_VR_LE,)),
            ),
        )
        self.assertEqual(plan([ct], defaults=False), planned[:1])
        self.assertEqual(plan([]), ())

    def test_room(self) -> None:
        """There is room for 128; the default ones are proposed as far as there is."""
        pairs = [(f"1.2.{number}", EXPLICIT_VR_LE) for number in range(128)]
        planned = plan(pairs)
        self.assertEqual([context.id for context in planned], [*range(1, 256, 2)])
        self.assertEqual({context.transfer_syntaxes for context in planned}, {(EXPLICIT_VR_LE,)})
        self.assertEqual(len(plan(pairs[:100])), 128)
        error = self.assertRaises(TooManyContexts, plan, [*pairs, ("1.2", EXPLICIT_VR_LE)])
        self.assertEqual(error.contexts, 129)

    def test_wrong(self) -> None:
        """What cannot be read, or says not what it is, is said with its name."""
        self.assertRaises(FileNotFoundError, plan, ["nowhere.dcm"])
        for path in (__file__, shipped("rtstruct.dcm")):
            self.assertIn(path, str(self.assertRaises(InvalidFile, plan, [path])))
        self.assertRaises(ValueError, plan, [Dataset()])
