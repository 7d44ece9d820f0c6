"""Tests for :mod:`dicomnode.samples`. pydicom is the oracle."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, Status, Storage
from dicomnode.samples import data_set, dicom_file
from dicomnode.testing import MemoryStorage, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, TRANSFER_SYNTAXES

MR = "1.2.840.10008.5.1.4.1.1.4"
#: What JPIP refers to, deflated.
JPIP = ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")


class SampleTests(SynchronousTestCase):
    """Instances made to measure."""

    def test_read(self) -> None:
        """pydicom reads what was asked for, in each transfer syntax."""
        for syntax in TRANSFER_SYNTAXES:
            file = dicom_file(
                "1.2.34",
                sop_class_uid=MR,
                transfer_syntax_uid=syntax,
                study_instance_uid="1.3",
                series_instance_uid="1.3.1",
                patient_id="ALICE",
                modality="MR",
                octets=1000,
            )
            if syntax in JPIP:
                continue  # pydicom does not inflate those
            read = dcmread(BytesIO(file))
            self.assertEqual(read.file_meta.TransferSyntaxUID, syntax)
            uids = (read.SOPClassUID, read.SOPInstanceUID, read.StudyInstanceUID, read.SeriesInstanceUID)
            self.assertEqual(uids, (MR, "1.2.34", "1.3", "1.3.1"))
            self.assertEqual((read.PatientID, read.Modality), ("ALICE", "MR"))
            self.assertGreaterEqual(len(read.PixelData), 1000)

    def test_size(self) -> None:
        """It is as small as can be, or as large as is asked for; and even."""
        self.assertLess(len(data_set()), 200)
        self.assertEqual(len(data_set(octets=1_000_001)) - len(data_set()), 1_000_002 + 12)

    def test_stored(self) -> None:
        """A Storage that checks takes it, in each transfer syntax."""
        storage = MemoryStorage()
        peer = Peer(Acceptor(Reactor(), [Storage(storage)]))
        ct = "1.2.840.10008.5.1.4.1.1.2"
        for syntax in (EXPLICIT_VR_LE, *TRANSFER_SYNTAXES):
            peer = Peer(Acceptor(Reactor(), [Storage(storage)]))
            peer.associates({ct: [syntax]})
            peer.stores("1.2.3", data_set(transfer_syntax_uid=syntax, octets=10))
            self.assertEqual(peer.response.status, Status.SUCCESS, (syntax, peer.response))
