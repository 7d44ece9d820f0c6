"""Tests for :mod:`dicomnode.part10`."""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.errors import InvalidFile
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import Instance
from dicomnode.part10 import FileMeta, part10_header, read_file_meta
from tests.files import CT, EXPLICIT_VR_LE, instance


class HeaderTests(SynchronousTestCase):
    """pydicom is the oracle of what precedes the data set."""

    def oracle(self, what: Instance, calling: str | None = None, called: str | None = None) -> bytes:
        """Return what pydicom writes, given AE titles as they are to be written."""
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = UID(what.sop_class_uid)
        meta.MediaStorageSOPInstanceUID = UID(what.sop_instance_uid)
        meta.TransferSyntaxUID = UID(what.transfer_syntax_uid)
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        calling = what.calling_ae_title if calling is None else calling
        called = what.called_ae_title if called is None else called
        if calling:
            meta.SourceApplicationEntityTitle = calling
        if called:
            meta.ReceivingApplicationEntityTitle = called
        file = BytesIO()
        write_file_meta_info(file, meta)
        return bytes(128) + b"DICM" + file.getvalue()

    def test_as_pydicom(self) -> None:
        """The File Meta is, octet by octet, what pydicom writes for the same values."""
        for uid in ("1.2.3", "1.2.34", "1", "2.25." + "9" * 59, "1.2." + "3" * 59):
            for sop_class_uid in (CT, "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3.4"):
                what = instance(uid, sop_class_uid)
                self.assertEqual(part10_header(what), self.oracle(what))

    def test_ae_titles(self) -> None:
        """AE titles of odd and even length, with spaces within or none at all, are as pydicom writes them."""
        for title in ("A", "AB", "SIXTEEN LETTERS!", "FIFTEEN LETTERS", "A B", "~!#$%&'()*+,-./", ""):
            for calling, called in ((title, "ANY-SCP"), ("PEER", title), (title, title)):
                what = instance(calling=calling, called=called)
                self.assertEqual(part10_header(what), self.oracle(what))

    def test_foreign_characters(self) -> None:
        """What an AE title may not contain is replaced: File Meta has no character set, nor two titles."""
        for title, written in (
            ("TÊTE", "T?TE"),
            ("漢字", "??"),
            ("A\0B", "A?B"),
            ("A\n\x1b[31mB", "A??[31mB"),
            ("A\x7fB", "A?B"),
            ("A\\B", "A?B"),
            ("\x80\xff", "??"),
        ):
            what = instance(calling=title, called=title)
            self.assertEqual(part10_header(what), self.oracle(what, written, written))

    def test_pydicom_reads(self) -> None:
        """pydicom reads the file: its values are the instance's."""
        path = self.mktemp()
        data = b"\x08\0\x18\0UI\x06\0" + b"1.2.3\0" + b"\x10\0\x10\0PN\x04\0A^B "
        with open(path, "wb") as file:
            file.write(part10_header(instance()) + data)
        read = pydicom.dcmread(path)
        self.assertEqual(read.SOPInstanceUID, "1.2.3")
        self.assertEqual(read.PatientName, "A^B")
        meta = read.file_meta
        self.assertEqual(meta.MediaStorageSOPClassUID, CT)
        self.assertEqual(meta.MediaStorageSOPInstanceUID, "1.2.3")
        self.assertEqual(meta.TransferSyntaxUID, EXPLICIT_VR_LE)
        self.assertEqual(meta.ImplementationClassUID, IMPLEMENTATION_CLASS_UID)
        self.assertEqual(meta.SourceApplicationEntityTitle, "PEER")
        self.assertEqual(meta.ReceivingApplicationEntityTitle, "ANY-SCP")
        self.assertEqual(meta.FileMetaInformationGroupLength, len(part10_header(instance())) - 144)


class ReadTests(SynchronousTestCase):
    """What we write, and what others do, is read."""

    def test_read(self) -> None:
        """It says which instance it is, how it is encoded, and where it begins: there the file is left."""
        header = part10_header(instance())
        for octets, size in ((header, len(header)), (header[132:], len(header) - 132)):
            for behind in (b"", b"\x08\0", b"\x08\0\5\0CS\2\0AB"):
                file = BytesIO(octets + behind)
                expected = FileMeta(CT, instance().sop_instance_uid, EXPLICIT_VR_LE, size)
                self.assertEqual(read_file_meta(file), expected)
                self.assertEqual(file.read(), behind)

    def test_every_truncation(self) -> None:
        """One that is cut off before it says all this is none."""
        header = part10_header(instance())
        for end in range(header.index(b"\2\0\x10\0UI") + 9):
            self.assertRaises(InvalidFile, read_file_meta, BytesIO(header[:end]))

    def test_no_file(self) -> None:
        """Other files are none."""
        for octets in (b"", bytes(200), bytes(128) + b"DICM", b"\2\0" * 100, b"PK\3\4" * 100):
            self.assertRaises(InvalidFile, read_file_meta, BytesIO(octets))
