"""What tests of the walk have in common: data sets, element by element, and pydicom's view of them."""

from __future__ import annotations

import io
import logging
import random
import warnings
import zlib
from functools import cache
from pathlib import Path
from struct import pack
from typing import NamedTuple

import pydicom.data.data_manager
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import (
    _is_implicit_vr,
    _read_file_meta_info,
    data_element_generator,
    dcmread,
    read_preamble,
)
from pydicom.filewriter import write_dataset
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.dataset import Walk

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
PLAIN = (IMPLICIT, EXPLICIT, BIG_ENDIAN)

UNDEFINED = 0xFFFFFFFF
ITEM = (0xFFFE, 0xE000)
ITEM_END = (0xFFFE, 0xE00D)
SEQUENCE_END = (0xFFFE, 0xE0DD)
PIXEL_DATA = (0x7FE0, 0x0010)
INSTANCE_UID = (0x0008, 0x0018)
PATIENT_ID = (0x0010, 0x0020)

KEPT = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "patient_id": "PatientID",
    "modality": "Modality",
}


def implicit(tag: tuple[int, int], value: bytes = b"", length: int | None = None, order: str = "<") -> bytes:
    """Encode an element as PS3.5 7.1.3 does, or an item or delimiter (7.5.2)."""
    return pack(order + "HHI", *tag, len(value) if length is None else length) + value


def short(tag: tuple[int, int], vr: bytes, value: bytes = b"", order: str = "<") -> bytes:
    """Encode an element with a 16-bit length (PS3.5 Table 7.1-2)."""
    return pack(order + "HH2sH", *tag, vr, len(value)) + value


def long(
    tag: tuple[int, int], vr: bytes, value: bytes = b"", length: int | None = None, order: str = "<"
) -> bytes:
    """Encode an element with a 32-bit length (PS3.5 Table 7.1-1)."""
    return pack(order + "HH2s2xI", *tag, vr, len(value) if length is None else length) + value


def walked(transfer_syntax: str, *fragments: bytes | memoryview) -> Walk:
    """Walk the fragments to the end."""
    walk = Walk(transfer_syntax)
    for fragment in fragments:
        walk.feed(fragment)
    walk.end()
    return walk


def outcome(walk: Walk) -> tuple[object, ...]:
    """Give all that a walk tells."""
    kept = tuple(getattr(walk, name) for name in KEPT)
    return (walk.whole, walk.fault, walk.octets, *kept)


def octet_by_octet(data: bytes) -> list[bytes]:
    """Cut everywhere."""
    return [data[n : n + 1] for n in range(len(data))]


def deflate(data: bytes) -> bytes:
    """Deflate without a header, as PS3.5 A.5 has it."""
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


class Elements(NamedTuple):
    """What pydicom finds at the top level."""

    #: Offsets between elements, the start of the first included.
    boundaries: frozenset[int]
    #: The end of the last one, as its length says.
    last: int
    raised: bool


def pydicom_elements(data: bytes, transfer_syntax: str) -> Elements:
    """Find the elements of the top level with pydicom."""
    stream = io.BytesIO(data)
    little = transfer_syntax != BIG_ENDIAN
    boundaries, last, raised = {0}, 0, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            implicit_vr = _is_implicit_vr(stream, transfer_syntax == IMPLICIT, little, None, False)
            stream.seek(0)
            for element in data_element_generator(stream, implicit_vr, little):
                if isinstance(element, RawDataElement) and element.length != UNDEFINED:
                    last = element.value_tell + element.length
                else:
                    last = stream.tell()
                boundaries.add(last)
        except Exception:
            raised = True
    return Elements(frozenset(b for b in boundaries if b <= len(data)), last, raised)


class File(NamedTuple):
    """A file that pydicom ships."""

    name: str
    transfer_syntax: str
    #: The data set as it would be sent.
    data: bytes
    #: The data set, inflated if it needs that.
    inflated: bytes
    elements: Elements
    read: Dataset


@cache
def files() -> list[File]:
    """Read the data sets of every DICOM file that is installed with pydicom."""
    found = []
    root = Path(pydicom.data.data_manager.DATA_ROOT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            try:
                read = dcmread(path, force=True)
            except Exception:  # the JSON, text and gzip files that are there too
                continue
            if not len(read) or path.suffix not in ("", ".dcm") or path.name == "README":
                continue
            with path.open("rb") as stream:
                read_preamble(stream, force=True)
                _read_file_meta_info(stream)
                data = stream.read()
            implicit_vr, little = read.original_encoding
            guessed = IMPLICIT if implicit_vr else EXPLICIT if little else BIG_ENDIAN
            transfer_syntax = str(read.file_meta.get("TransferSyntaxUID", guessed))
            inflated = zlib.decompress(data, -15) if transfer_syntax == DEFLATED else data
            elements = pydicom_elements(inflated, transfer_syntax)
            found.append(File(path.name, transfer_syntax, data, inflated, elements, read))
    return found


def offsets(file: File, first: int, sampled: int) -> list[int]:
    """Choose the first offsets of a file, those around its elements, and some at random."""
    size = len(file.data)
    chosen = {*range(1, first), *random.Random(size).sample(range(size), min(sampled, size))}
    for boundary in file.elements.boundaries:
        chosen.update((boundary - 1, boundary, boundary + 1, boundary + 9))
    return sorted(offset for offset in chosen if 0 < offset < size)


def encoded(ds: Dataset, transfer_syntax: str) -> bytes:
    """Encode a data set with pydicom."""
    stream = DicomBytesIO()
    stream.is_little_endian = transfer_syntax != BIG_ENDIAN
    stream.is_implicit_VR = transfer_syntax == IMPLICIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(stream, ds)
    return stream.getvalue()


class WalkTestCase(SynchronousTestCase):
    """What the walk of some octets tells, however they arrive."""

    def setUp(self) -> None:
        """Keep what pydicom says of broken data sets out of the output."""
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)
        self.addCleanup(logging.getLogger("pydicom").setLevel, logging.NOTSET)

    def walk(self, transfer_syntax: str, data: bytes) -> Walk:
        """Walk the octets whole, one by one, and cut at every offset; all must tell the same."""
        walk = walked(transfer_syntax, data)
        arrivals: list[list[bytes] | list[memoryview]] = [[memoryview(data)], octet_by_octet(data)]
        arrivals += [[data[:n], data[n:]] for n in range(min(len(data), 1000))]
        for fragments in arrivals:
            self.assertEqual(outcome(walked(transfer_syntax, *fragments)), outcome(walk))
        self.assertLessEqual(len(walk.fault or ""), 64)
        return walk

    def assertWhole(self, transfer_syntax: str, data: bytes) -> Walk:
        """Assert that the data set is whole, and that the walk is sure of it."""
        walk = self.walk(transfer_syntax, data)
        self.assertEqual((walk.fault, walk.whole), (None, True))
        return walk

    def assertFault(self, transfer_syntax: str, data: bytes, fault: str) -> None:
        """Assert that the data set is not whole, and why."""
        walk = self.walk(transfer_syntax, data)
        self.assertEqual((walk.fault, walk.whole), (fault, False))
