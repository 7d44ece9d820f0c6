"""The walk over a data set, against pydicom and against the standard's own layouts."""

from __future__ import annotations

import io
import logging
import random
import warnings
import zlib
from collections import abc
from functools import cache
from pathlib import Path
from struct import pack
from typing import NamedTuple
from unittest import mock

import pydicom.data.data_manager
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
from pydicom.sequence import Sequence
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core import dataset
from dicomnode.core.dataset import Inflater, Walk

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
    return (walk.whole, walk.fault, walk.doubt, walk.octets, *kept)


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
        for text in (walk.fault, walk.doubt):
            self.assertLessEqual(len(text or ""), 64)
        return walk

    def assertWhole(self, transfer_syntax: str, data: bytes) -> Walk:
        """Assert that the data set is whole, and that the walk is sure of it."""
        walk = self.walk(transfer_syntax, data)
        self.assertEqual((walk.fault, walk.doubt, walk.whole), (None, None, True))
        return walk

    def assertFault(self, transfer_syntax: str, data: bytes, fault: str) -> None:
        """Assert that the data set is not whole, and why."""
        walk = self.walk(transfer_syntax, data)
        self.assertEqual((walk.fault, walk.doubt, walk.whole), (fault, None, False))

    def assertDoubt(self, transfer_syntax: str, data: bytes, doubt: str) -> None:
        """Assert that the walk gives up, and why."""
        walk = self.walk(transfer_syntax, data)
        self.assertEqual((walk.fault, walk.doubt, walk.whole), (None, doubt, True))


class ElementTests(WalkTestCase):
    """Elements of the top level, and what is kept of them."""

    def test_values(self) -> None:
        """The six values are kept in every transfer syntax, without their padding."""
        ds = Dataset()
        for name, keyword in KEPT.items():
            setattr(ds, keyword, "1.2.3" if name.endswith("uid") else "ABC")
        for transfer_syntax in PLAIN:
            walk = self.assertWhole(transfer_syntax, encoded(ds, transfer_syntax))
            self.assertEqual(
                [getattr(walk, name) for name in KEPT], ["1.2.3", "1.2.3", "1.2.3", "1.2.3", "ABC", "ABC"]
            )

    def test_absent(self) -> None:
        """A value that is absent is None, an empty one is empty."""
        walk = self.assertWhole(IMPLICIT, implicit(PATIENT_ID))
        self.assertEqual((walk.patient_id, walk.sop_instance_uid), ("", None))

    def test_oversize(self) -> None:
        """A value longer than its VR allows counts as absent, and the walk goes on after it."""
        longest = b"x" * dataset.LONGEST_VALUE
        walk = self.assertWhole(EXPLICIT, short(PATIENT_ID, b"LO", longest))
        self.assertEqual(walk.patient_id, longest.decode())
        walk = self.assertWhole(
            EXPLICIT, short(PATIENT_ID, b"LO", longest + b"  ") + short(INSTANCE_UID, b"UI", b"1.2\0")
        )
        self.assertEqual((walk.patient_id, walk.sop_instance_uid), (None, "1.2"))

    def test_text(self) -> None:
        """A value is UTF-8 if it can be, else each octet is a character."""
        for octets, text in ((b"J\xc3\xb6rg \0", "J\u00f6rg"), (b"J\xf6rg", "J\u00f6rg")):
            walk = self.assertWhole(EXPLICIT, short(PATIENT_ID, b"LO", octets))
            self.assertEqual(walk.patient_id, text)

    def test_last_wins(self) -> None:
        """Of elements that occur twice, or out of order, the last one counts, as in pydicom."""
        data = short(PATIENT_ID, b"LO", b"AB") + short(INSTANCE_UID, b"UI", b"1.2\0")
        walk = self.assertWhole(EXPLICIT, data + short(PATIENT_ID, b"LO", b"CD"))
        self.assertEqual((walk.patient_id, walk.sop_instance_uid), ("CD", "1.2"))

    def test_long_vr(self) -> None:
        """Each VR of PS3.5 Table 7.1-1 has a 32-bit length, also around a value that is kept."""
        for vr in b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split():
            walk = self.assertWhole(EXPLICIT, long((9, 1), vr, bytes(20)) + long(PATIENT_ID, vr, b"AB"))
            self.assertEqual(walk.patient_id, "AB")

    def test_unknown_vr(self) -> None:
        """A VR that is not known has a 16-bit length, as in pydicom."""
        for vr in (b"ZZ", b"AA", b"Pn"):
            walk = self.assertWhole(EXPLICIT, short((8, 8), b"CS") + short(PATIENT_ID, vr, b"ABCD"))
            self.assertEqual(walk.patient_id, "ABCD")

    def test_no_vr(self) -> None:
        """Octets that cannot be a VR belong to an implicit VR element, even inside explicit VR."""
        walk = self.assertWhole(
            EXPLICIT, short((8, 8), b"CS") + implicit(PATIENT_ID, b"ABCD") + short((0x10, 0x30), b"DA")
        )
        self.assertEqual(walk.patient_id, "ABCD")

    def test_other_vr_encoding(self) -> None:
        """Explicit VR is recognised under an implicit VR transfer syntax, and the other way round."""
        self.assertEqual(self.assertWhole(IMPLICIT, short(PATIENT_ID, b"LO", b"AB")).patient_id, "AB")
        self.assertEqual(
            self.assertWhole("1.2.840.113619.5.2", implicit(PATIENT_ID, b"A" * 20)).patient_id, "A" * 20
        )

    def test_oddities(self) -> None:
        """Group lengths, odd lengths, private elements and trailing padding are all elements."""
        self.assertWhole(
            EXPLICIT,
            short((8, 0), b"UL", bytes(4))
            + short((9, 0x10), b"LO", b"odd")
            + short((9, 0x1001), b"UN"[::-1], b"")
            + long((0xFFFC, 0xFFFC), b"OB", bytes(100)),
        )

    def test_zeros(self) -> None:
        """Zeros after the last element are padding, however many."""
        for transfer_syntax, order in ((IMPLICIT, "<"), (EXPLICIT, "<"), (BIG_ENDIAN, ">")):
            for zeros in range(20):
                data = implicit((8, 8), b"ABCD", order=order) + bytes(zeros)
                self.assertWhole(transfer_syntax, data)

    def test_large(self) -> None:
        """A value is skipped by counting, up to the largest length there is."""
        walk = Walk(EXPLICIT)
        walk.feed(long(PIXEL_DATA, b"OW", length=UNDEFINED - 1))
        fragment = memoryview(bytes(1 << 20))
        for _ in range(4095):
            walk.feed(fragment)
        walk.feed(fragment[:-2])
        walk.end()
        self.assertEqual((walk.whole, walk.octets), (True, 12 + UNDEFINED - 1))


class SequenceTests(WalkTestCase):
    """Sequences and encapsulated pixel data."""

    def test_lengths(self) -> None:
        """Sequences and items nest with and without lengths, in each encoding."""
        for transfer_syntax in PLAIN:
            for undefined in range(16):
                inner, middle, outer = Dataset(), Dataset(), Dataset()
                inner.PatientID = middle.PatientID = "no"
                middle.ConceptCodeSequence = Sequence([inner, Dataset()])
                outer.ContentSequence = Sequence([middle, middle])
                outer.PatientID = "yes"
                outer.ContentSequence.is_undefined_length = bool(undefined & 1)
                middle.is_undefined_length_sequence_item = bool(undefined & 2)
                middle.ConceptCodeSequence.is_undefined_length = bool(undefined & 4)
                inner.is_undefined_length_sequence_item = bool(undefined & 8)
                data = encoded(outer, transfer_syntax) + encoded(outer, transfer_syntax)[:18]
                walk = self.assertWhole(transfer_syntax, encoded(outer, transfer_syntax))
                self.assertEqual(walk.patient_id, "yes")
                self.assertEqual(
                    walked(transfer_syntax, data).whole,
                    len(data) in pydicom_elements(data, transfer_syntax).boundaries,
                )

    def test_un(self) -> None:
        """A UN of undefined length is a sequence in implicit VR (PS3.5 6.2.2)."""
        items = (
            implicit(ITEM, length=UNDEFINED)
            + implicit(PATIENT_ID, b"no")
            + implicit((9, 9), length=UNDEFINED)
            + implicit(ITEM, length=UNDEFINED)
            # A length whose octets are those of a VR.
            + implicit((9, 9), b"x" * 0x4141)
            + implicit((9, 10), b"x" * 0x4141)
            + implicit(ITEM_END)
            + implicit(SEQUENCE_END)
            + implicit(ITEM_END)
            + implicit(SEQUENCE_END)
        )
        for order, transfer_syntax in (("<", EXPLICIT), (">", BIG_ENDIAN)):
            walk = self.assertWhole(
                transfer_syntax,
                long((9, 0x1001), b"UN", length=UNDEFINED, order=order)
                + items.replace(b"x" * 0x4141, b"x" * 0x41).replace(pack("<I", 0x4141), pack("<I", 0x41))
                + short(PATIENT_ID, b"LO", b"yes ", order=order),
            )
            self.assertEqual(walk.patient_id, "yes")
        data = long((9, 0x1001), b"UN", length=UNDEFINED) + items
        self.assertTrue(walked(EXPLICIT, data).whole)
        self.assertEqual(pydicom_elements(data, EXPLICIT), (frozenset({0, len(data)}), len(data), False))

    def test_un_empty_big_endian(self) -> None:
        """A UN without items ends with a little endian delimiter, also in big endian."""
        for end in ("<", ">"):
            self.assertWhole(
                BIG_ENDIAN,
                long((9, 0x1001), b"UN", length=UNDEFINED, order=">") + implicit(SEQUENCE_END, order=end),
            )

    def test_un_with_length(self) -> None:
        """A UN with a length is skipped, whatever is inside."""
        self.assertWhole(EXPLICIT, long((9, 0x1001), b"UN", implicit(ITEM, length=UNDEFINED)))

    def test_fragments(self) -> None:
        """Encapsulated pixel data are fragments with lengths, and delimiters inside are pixels."""
        fragments = implicit(ITEM) + implicit(ITEM, implicit(SEQUENCE_END)) + implicit(ITEM, b"\xff\xd8")
        for header in (
            long(PIXEL_DATA, b"OB", length=UNDEFINED),
            long(PIXEL_DATA, b"UN", length=UNDEFINED),
            implicit(PIXEL_DATA, length=UNDEFINED),
            long((0x5400, 0x1010), b"OW", length=UNDEFINED),
        ):
            data = short((8, 8), b"CS") + header + fragments + implicit(SEQUENCE_END)
            walk = self.assertWhole(JPEG, data + short(PATIENT_ID, b"LO", b"AB"))
            self.assertEqual(walk.patient_id, "AB")
            self.assertFalse(walked(JPEG, data[:-1]).whole)

    def test_icon(self) -> None:
        """Pixel data may be encapsulated inside a sequence, as in an icon image."""
        self.assertWhole(
            JPEG,
            long((0x88, 0x200), b"SQ", length=UNDEFINED)
            + implicit(ITEM, length=UNDEFINED)
            + long(PIXEL_DATA, b"OB", length=UNDEFINED)
            + implicit(ITEM, b"\xff\xd8")
            + implicit(SEQUENCE_END)
            + implicit(ITEM_END)
            + implicit(SEQUENCE_END),
        )

    def test_delimiters_with_a_vr(self) -> None:
        """An item delimiter written with a VR closes the item, as in pydicom."""
        data = (
            long((8, 0x1140), b"SQ", length=UNDEFINED)
            + implicit(ITEM, length=UNDEFINED)
            + short((8, 8), b"CS")
            + long(ITEM_END, b"UN")
            + implicit(ITEM_END)  # an empty item, to pydicom
            + implicit(SEQUENCE_END)
        )
        self.assertWhole(EXPLICIT, data)
        self.assertEqual(pydicom_elements(data, EXPLICIT), (frozenset({0, len(data)}), len(data), False))

    def test_stray_tags(self) -> None:
        """A sequence delimiter or an item outside of sequences is an element, as in pydicom."""
        for stray in (implicit(SEQUENCE_END), implicit(ITEM, b"ABCD")):
            data = short((8, 8), b"CS") + stray + short(PATIENT_ID, b"LO", b"AB")
            self.assertEqual(self.assertWhole(EXPLICIT, data).patient_id, "AB")
            self.assertIn(len(data), pydicom_elements(data, EXPLICIT).boundaries)

    def test_deep(self) -> None:
        """Sequences nest as deep as the limit, and what nests beyond it cannot be read by anyone."""
        level = long((8, 0x1140), b"SQ", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
        close = implicit(ITEM_END) + implicit(SEQUENCE_END)
        levels = dataset.DEEPEST // 2
        self.assertTrue(walked(EXPLICIT, level * levels + close * levels).whole)
        walk = walked(EXPLICIT, level * levels + close * (levels - 1))
        self.assertEqual(walk.fault, f"data set ends inside (0008,1140) at octet {36 * levels - 16}")
        walk = walked(EXPLICIT, level * (levels + 1))
        self.assertEqual(
            (walk.whole, walk.fault), (False, f"sequences are nested too deep, at octet {20 * levels}")
        )

    def test_hostile_depth(self) -> None:
        """Millions of levels cost neither memory nor an exception."""
        level = implicit((8, 0x1140), length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
        walk = Walk(IMPLICIT)
        for _ in range(1000):
            walk.feed(level * 1000)
            self.assertLessEqual(len(walk._open), dataset.DEEPEST)
        walk.end()
        self.assertEqual((walk.whole, walk.octets, walk._open), (False, 16_000_000, []))


class FeedSequenceTests(WalkTestCase):
    """Several fragments at a time are walked as they are one by one."""

    def test_sequences(self) -> None:
        """Those in the middle of a value are counted, whatever is before and behind."""
        data = short((0x0010, 0x0020), b"LO", b"PATIENT ") + long(PIXEL_DATA, b"OW", bytes(900))
        data += short((0x7FE1, 0x0010), b"LO", b"BEHIND")
        fragments = octet_by_octet(data)
        for size in (1, 7, 100, len(fragments)):
            walk = Walk(EXPLICIT)
            for start in range(0, len(fragments), size):
                walk.feed_sequence(fragments[start : start + size])
            walk.end()
            self.assertEqual(outcome(walk), outcome(walked(EXPLICIT, data)))

    def test_stretches(self) -> None:
        """A walk that has had enough leaves the rest: walked later, that makes no difference."""
        items = implicit((8, 0x1140), length=UNDEFINED) + implicit(ITEM) * 1500 + implicit(SEQUENCE_END)
        data = items * 9 + implicit(PIXEL_DATA, bytes(90_000)) + implicit((0x7FE1, 0x0010), b"BEHIND") * 900
        torn = items[:-8] + items  # is found fault with
        for octets in (data, data[:-1], torn + data):
            for size in (1000, 10_000, len(octets)):
                fragments = [octets[start : start + size] for start in range(0, len(octets), size)]
                walk = Walk(IMPLICIT)
                asked = stretches = 0
                rest: abc.Sequence[bytes | memoryview] = fragments
                while rest:

                    def enough() -> bool:
                        nonlocal asked
                        asked += 1
                        return asked % 2 == 0

                    left = sum(map(len, rest))
                    rest = walk.feed_sequence(rest, enough)
                    done = left - sum(map(len, rest))
                    self.assertGreaterEqual(done, min(left, size, dataset.PIECE))
                    stretches += 1
                walk.end()
                self.assertEqual(outcome(walk), outcome(walked(IMPLICIT, octets)))
                if octets is data:
                    self.assertGreater(stretches, 5)

    def test_what_is_skipped(self) -> None:
        """Nobody is asked where there is nothing to look at: behind the header is a long value."""
        walk = Walk(EXPLICIT)
        data = long(PIXEL_DATA, b"OW", bytes(1 << 20))
        fragments = [data[start : start + 16_384] for start in range(0, len(data), 16_384)]
        self.assertFalse(walk.feed_sequence(fragments, lambda: self.fail("asked")))
        walk.end()
        self.assertTrue(walk.whole)
        self.assertEqual(walk.octets, len(data))


class HeaderTests(WalkTestCase):
    """Once the walk is past the last of the values that it keeps, it says so."""

    def passed(self, transfer_syntax: str, data: bytes) -> tuple[int, Walk]:
        """Walk octet by octet until the header has passed; return how many octets that took."""
        walk = Walk(transfer_syntax)
        for taken, octet in enumerate(octet_by_octet(data), start=1):
            walk.feed(octet)
            if walk.header_passed:
                return taken, walk
        return 0, walk

    def test_passed(self) -> None:
        """It has passed with the header of the first element behind, whatever its tag, and not before."""
        for order, transfer_syntax in (("<", EXPLICIT), (">", BIG_ENDIAN)):
            header = short((0x0010, 0x0020), b"LO", b"PATIENT ", order)
            header += short((0x0020, 0x000D), b"UI", b"1.2.3\0", order)
            header += short((0x0020, 0x000E), b"UI", b"1.2.3.4\0", order)
            behind = (
                short((0x0020, 0x0011), b"IS", b"1 ", order),
                long(PIXEL_DATA, b"OW", bytes(90), order=order),
            )
            for element in behind:
                taken, walk = self.passed(transfer_syntax, header + element)
                self.assertGreaterEqual(taken, len(header) + 8)
                self.assertLessEqual(taken, len(header) + 12)
                self.assertEqual(walk.patient_id, "PATIENT")
                self.assertEqual(walk.series_instance_uid, "1.2.3.4")

    def test_not_passed(self) -> None:
        """It has not while the values may still come: inside a sequence before them, too."""
        header = short((0x0008, 0x0060), b"CS", b"CT")
        item = implicit(ITEM, length=UNDEFINED) + long(PIXEL_DATA, b"OW", bytes(8))
        sequence = long((0x0008, 0x1140), b"SQ", item, length=UNDEFINED)
        series = short((0x0020, 0x000E), b"UI", b"1.2.3.4\0")
        for data in (b"", header, header + sequence, header + series, series[:9]):
            self.assertEqual(self.passed(EXPLICIT, data)[0], 0)

    def test_fault(self) -> None:
        """Where the walk stops, nothing more comes to be known."""
        taken, walk = self.passed(DEFLATED, b"\xff" * 20)
        self.assertGreater(taken, 0)
        self.assertIsNone(walk.patient_id)


class FaultTests(WalkTestCase):
    """What is refused, and how it is put."""

    def test_empty(self) -> None:
        """A data set without octets is empty, deflated or not."""
        self.assertFault(IMPLICIT, b"", "data set is empty")
        self.assertFault(DEFLATED, b"", "data set is empty")
        self.assertFault(DEFLATED, deflate(b""), "data set is empty")

    def test_not_ended(self) -> None:
        """Before the end there is no verdict."""
        walk = Walk(IMPLICIT)
        walk.feed(implicit(PATIENT_ID, b"AB"))
        self.assertFalse(walk.whole)

    def test_value_cut(self) -> None:
        """The fault names the element that was cut, and where the data set ended."""
        data = short((8, 8), b"CS") + long(PIXEL_DATA, b"OW", bytes(300))
        self.assertFault(EXPLICIT, data[:200], "data set ends inside (7FE0,0010) at octet 200")
        self.assertFault(EXPLICIT, data[:20], "data set ends inside (7FE0,0010) at octet 20")
        self.assertFault(EXPLICIT, data[:17], "data set ends inside (7FE0,0010) at octet 17")

    def test_header_cut(self) -> None:
        """Fewer than eight octets after an element have no tag that is worth naming."""
        for octets in range(1, 8):
            self.assertFault(
                EXPLICIT,
                short((8, 8), b"CS") + short(PATIENT_ID, b"LO")[:octets],
                f"data set ends inside an element header at octet {8 + octets}",
            )

    def test_kept_value_cut(self) -> None:
        """A value that would be kept is named when it is cut, and not kept."""
        data = short(PATIENT_ID, b"LO", b"ABCD", ">")
        self.assertFault(BIG_ENDIAN, data[:-1], "data set ends inside (0010,0020) at octet 11")
        self.assertIsNone(walked(BIG_ENDIAN, data[:-1]).patient_id)

    def test_sequence_cut(self) -> None:
        """Inside a sequence the fault names the element of the top level."""
        data = (
            long((8, 0x1140), b"SQ", length=UNDEFINED, order=">")
            + implicit(ITEM, length=UNDEFINED, order=">")
            + long((9, 0x1001), b"UN", length=UNDEFINED, order=">")
            + implicit(ITEM, length=UNDEFINED)
            + implicit((9, 9), b"ABCD")
            + implicit(ITEM_END)
            + implicit(SEQUENCE_END)
            + implicit(ITEM_END, order=">")
            + implicit(SEQUENCE_END, order=">")
        )
        self.assertWhole(BIG_ENDIAN, data)
        for octets in range(12, len(data)):
            self.assertFault(BIG_ENDIAN, data[:octets], f"data set ends inside (0008,1140) at octet {octets}")

    def test_no_item_delimiter(self) -> None:
        """A sequence delimiter does not close an item, to pydicom either."""
        data = (
            long((8, 0x1140), b"SQ", length=UNDEFINED)
            + implicit(ITEM, length=UNDEFINED)
            + implicit(SEQUENCE_END)
        )
        self.assertFault(EXPLICIT, data, "data set ends inside (0008,1140) at octet 28")
        self.assertTrue(pydicom_elements(data, EXPLICIT).raised)

    def test_stray_item_delimiter(self) -> None:
        """What follows an item delimiter outside of items is lost to pydicom, unless it is padding."""
        data = short((8, 8), b"CS") + implicit(ITEM_END)
        for padding in (0, 1, 8, 20):
            self.assertWhole(EXPLICIT, data + bytes(padding))
        data += short(PATIENT_ID, b"LO", b"AB")
        self.assertEqual(pydicom_elements(data, EXPLICIT).last, 8)
        for padding in range(20):
            strange = data[:16] + bytes(padding) + data[16:]
            fault = f"item delimiter outside of items before octet {16 + padding}"
            for octets in range(17 + padding, len(strange) + 1):
                self.assertFault(EXPLICIT, strange[:octets], fault)

    def test_text(self) -> None:
        """Text is no data set."""
        for transfer_syntax in PLAIN:
            for data in (b"garbage", b"garbage" * 100, b"GARBAGE" * 100, b"GET / HTTP/1.1\r\n\r\n"):
                self.assertFalse(walked(transfer_syntax, data).whole, (transfer_syntax, data))

    def test_zeros_only(self) -> None:
        """Fewer zeros than a header has are no data set."""
        for octets in range(1, 8):
            fault = f"data set ends inside an element header at octet {octets}"
            self.assertFault(EXPLICIT, bytes(octets), fault)

    def test_overrun(self) -> None:
        """A length that reaches past the end is a fault, however large."""
        self.assertFault(
            IMPLICIT,
            implicit((0x10, 0x10), b"AB", UNDEFINED - 1),
            "data set ends inside (0010,0010) at octet 10",
        )


class DoubtTests(WalkTestCase):
    """Where the walk gives up and the data set is kept."""

    def test_no_item(self) -> None:
        """Something else where an item is due may make sense to pydicom, which searches."""
        odd = short(PATIENT_ID, b"LO", b"AB")
        for header in (
            long((8, 0x1140), b"SQ", length=UNDEFINED),
            long(PIXEL_DATA, b"OB", length=UNDEFINED),
            implicit((8, 0x1140), length=UNDEFINED),
        ):
            where = len(header) + 8
            self.assertDoubt(
                EXPLICIT,
                header + implicit(ITEM) + odd + bytes(1000),
                f"no item where one is due, at octet {where}",
            )

    def test_fragment_without_length(self) -> None:
        """A fragment has a length (PS3.5 A.4)."""
        self.assertDoubt(
            JPEG,
            long(PIXEL_DATA, b"OB", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED) + b"\xff\xd8",
            "no item where one is due, at octet 12",
        )

    def test_raw_value(self) -> None:
        """A value of undefined length that is no sequence is found by pydicom all the same."""
        data = long((9, 9), b"OB", b"raw octets", UNDEFINED) + implicit(SEQUENCE_END)
        self.assertFalse(pydicom_elements(data, EXPLICIT).raised)
        self.assertDoubt(EXPLICIT, data, "no item where one is due, at octet 12")

    def test_garbage(self) -> None:
        """Garbage may look like a value of undefined length, but it has no SOP Instance UID."""
        walk = self.walk(IMPLICIT, b"\xff" * 100)
        self.assertEqual((walk.doubt, walk.sop_instance_uid), ("no item where one is due, at octet 8", None))

    def test_values_stay(self) -> None:
        """What was kept before the doubt stays, what comes after is not seen."""
        walk = walked(
            EXPLICIT,
            short(INSTANCE_UID, b"UI", b"1.2\0")
            + long((8, 0x1140), b"SQ", b"12345678", UNDEFINED)
            + short(PATIENT_ID, b"LO", b"AB"),
        )
        self.assertEqual((walk.sop_instance_uid, walk.patient_id), ("1.2", None))


class DeflatedTests(WalkTestCase):
    """Data sets that are deflated as a whole."""

    data = short(INSTANCE_UID, b"UI", b"1.2\0") + long(PIXEL_DATA, b"OW", random.Random(1).randbytes(700))

    def test_deflated(self) -> None:
        """A deflated data set is walked as it is inflated; octets are counted as received."""
        for transfer_syntax in (DEFLATED, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"):
            walk = self.assertWhole(transfer_syntax, deflate(self.data))
            self.assertEqual((walk.sop_instance_uid, walk.octets), ("1.2", len(deflate(self.data))))

    def test_padding(self) -> None:
        """What follows the deflated stream is padding."""
        for padding in (b"\0", b"\0\0", b"x" * 20000):
            self.assertTrue(walked(DEFLATED, deflate(self.data) + padding).whole)
            self.assertTrue(walked(DEFLATED, *octet_by_octet(deflate(self.data) + padding)).whole)

    def test_cut(self) -> None:
        """A stream that is cut is a fault, wherever."""
        deflated = deflate(self.data)
        for octets in range(1, len(deflated)):
            walk = walked(DEFLATED, deflated[:octets])
            self.assertEqual((walk.whole, walk.fault), (False, f"deflated data set is cut at octet {octets}"))

    def test_file_cut(self) -> None:
        """A deflated file is whole as soon as its stream has ended, and not before."""
        (file,) = (file for file in files() if file.transfer_syntax == DEFLATED)
        inflater = zlib.decompressobj(wbits=-15)
        inflater.decompress(file.data)
        size = len(file.data) - len(inflater.unused_data)
        self.assertFalse(walked(DEFLATED, file.data[: size - 1]).whole)
        self.assertTrue(walked(DEFLATED, file.data[:size]).whole)
        self.assertTrue(walked(DEFLATED, file.data).whole)

    def test_cut_inside(self) -> None:
        """A whole stream may hold a data set that is cut."""
        self.assertFault(
            DEFLATED,
            deflate(self.data[:-1]),
            f"data set ends inside (7FE0,0010) at octet {len(self.data) - 1}",
        )

    def test_corrupt(self) -> None:
        """What is not deflated is a fault."""
        walk = walked(DEFLATED, self.data)
        self.assertEqual(
            (walk.whole, walk.fault), (False, f"deflated data set is corrupt before octet {len(self.data)}")
        )
        self.assertFalse(walked(DEFLATED, *octet_by_octet(self.data)).whole)

    def test_fault_inside(self) -> None:
        """The walk does not inflate on once it has found fault."""
        stray = implicit((8, 8)) + implicit(ITEM_END) + implicit((8, 8))
        with mock.patch.object(Walk, "_walk", autospec=True, side_effect=Walk._walk) as walk:
            found = walked(DEFLATED, deflate(stray + bytes(1 << 20)))
        self.assertEqual(found.fault, "item delimiter outside of items before octet 16")
        self.assertEqual(walk.call_count, 1)

    def test_pieces(self) -> None:
        """However far octets inflate, no piece is larger than the limit, and none is missing."""
        for size in (0, 1, dataset.INFLATED_PIECE - 1, dataset.INFLATED_PIECE, 5_000_000):
            for data in (bytes(size), random.Random(size).randbytes(size)):
                inflater = Inflater()
                pieces = list(inflater.pieces(memoryview(deflate(data))))
                self.assertEqual(b"".join(pieces), data)
                self.assertLessEqual(max(map(len, pieces)), dataset.INFLATED_PIECE)
                self.assertTrue(inflater.ended)

    def test_large(self) -> None:
        """Pixels that deflate well are inflated and skipped."""
        data = long(PIXEL_DATA, b"OW", bytes(30_000_000))
        walk = walked(DEFLATED, deflate(data))
        self.assertEqual((walk.whole, walk.doubt), (True, None))

    def test_deflated_is_told(self) -> None:
        """A walk says whether it has to inflate."""
        self.assertTrue(Walk(DEFLATED).deflated)
        self.assertFalse(Walk(EXPLICIT).deflated)

    def test_bomb_of_elements(self) -> None:
        """Elements that inflate without measure are a fault, found after little work."""
        sequence = long((8, 0x1140), b"SQ", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
        nothing = sequence + implicit(ITEM_END) + implicit(SEQUENCE_END)
        for data in (short((8, 8), b"CS") * (4 << 20), nothing * 130_000):
            squeezed = deflate(data)
            walk = walked(DEFLATED, squeezed)
            self.assertFalse(walk.whole)
            self.assertIn("data set inflates too far, at octet ", walk.fault or "")
            self.assertLessEqual(len(walk.fault or ""), 64)
            allowed = dataset.INFLATED_ALLOWANCE + dataset.INFLATED_RATIO * len(squeezed)
            self.assertLess(walk._walked, allowed + 2 * dataset.INFLATED_PIECE)

    def test_work_is_counted(self) -> None:
        """Opening and closing a sequence counts for more octets than it has."""
        item = implicit(ITEM, length=UNDEFINED) + implicit(ITEM_END)
        data = long((8, 0x1140), b"SQ", length=UNDEFINED) + item * 4000 + implicit(SEQUENCE_END)
        walk = walked(DEFLATED, deflate(data))
        self.assertIn("inflates too far", walk.fault or "")
        self.assertLess(walk._walked, len(data))

    def test_bomb_of_pixels(self) -> None:
        """Pixels may inflate as far as deflate goes: they are not walked."""
        bomb = zlib.compressobj(wbits=-15)
        pixels = bomb.compress(long(PIXEL_DATA, b"OW", length=130 << 20))
        pixels += b"".join(bomb.compress(bytes(1 << 20)) for _ in range(130)) + bomb.flush()
        walk = walked(DEFLATED, pixels)
        self.assertEqual((walk.whole, walk.fault, walk.doubt), (True, None, None))

    def test_bomb_in_all(self) -> None:
        """But only as far as no real data set does; what was received counts."""
        data = deflate(long(PIXEL_DATA, b"OW", bytes(4 << 20)))
        for allowance, ratio, whole in (
            (4 << 20, 128, True),
            (3 << 20, 512, True),
            (1 << 20, 128, False),
        ):
            with mock.patch.multiple(dataset, TOTAL_ALLOWANCE=allowance, TOTAL_RATIO=ratio):
                walk = walked(DEFLATED, data)
                self.assertEqual(walk.whole, whole)
                allowed = allowance + ratio * len(data)
                self.assertLessEqual(walk._walked, allowed + dataset.INFLATED_PIECE)
        self.assertEqual(walk.fault, f"data set inflates too far, at octet {walk._walked}")

    def test_inflate(self) -> None:
        """It may be walked bit by bit, and what follows a fault is counted, and not inflated."""
        walk = Walk(DEFLATED)
        data = deflate(self.data)
        self.assertEqual(sum(walk.inflate(data)), len(self.data))
        walk.end()
        self.assertTrue(walk.whole)
        walk = Walk(DEFLATED)
        self.assertEqual([*walk.inflate(b"\xff" * 10), *walk.inflate(data)], [])
        self.assertEqual(walk.octets, 10 + len(data))
        self.assertEqual(walk.fault, "deflated data set is corrupt before octet 10")


class PydicomFileTests(WalkTestCase):
    """The files that pydicom ships."""

    def test_files(self) -> None:
        """Every file is whole, beyond doubt, but the two cut on purpose and one an octet out of step."""
        self.assertGreater(len(files()), 90)
        faults = {}
        for file in files():
            walk = walked(file.transfer_syntax, file.data)
            self.assertIsNone(walk.doubt, file.name)
            self.assertEqual(walk.octets, len(file.data))
            if walk.fault:
                faults[file.name] = walk.fault
            reads = not file.elements.raised and file.elements.last == len(file.inflated)
            self.assertEqual(walk.whole, reads, file.name)
        self.assertEqual(
            faults,
            {
                "MR_truncated.dcm": "data set ends inside (7FE0,0010) at octet 9296",
                "no_meta.dcm": "data set ends inside (0820,0500) at octet 38871",
                "rtplan_truncated.dcm": "data set ends inside (300A,00B0) at octet 1829",
            },
        )

    def test_values(self) -> None:
        """The values are pydicom's."""
        for file in files():
            walk = walked(file.transfer_syntax, file.data)
            for name, keyword in KEPT.items():
                value = file.read.get(keyword)
                self.assertEqual(getattr(walk, name), value, (file.name, name))

    def test_fragmented(self) -> None:
        """It does not matter how a file arrives."""
        for file in files():
            data, transfer_syntax = file.data, file.transfer_syntax
            expected = outcome(walked(transfer_syntax, data))
            size = 1 if len(data) <= 10_000 else 13
            pieces = [data[n : n + size] for n in range(0, len(data), size)]
            self.assertEqual(outcome(walked(transfer_syntax, *pieces)), expected, file.name)
            for offset in random.Random(len(data)).sample(offsets(file, 100, 100), 40):
                pieces = [data[:offset], data[offset:]]
                self.assertEqual(outcome(walked(transfer_syntax, *pieces)), expected, (file.name, offset))

    def test_cut(self) -> None:
        """A file that is cut is whole only where a top-level element ends, give or take a zero."""
        for file in files():
            if file.transfer_syntax == DEFLATED:
                continue
            boundaries = file.elements.boundaries - {0}
            small = len(file.data) <= 4500
            walk, start, last = Walk(file.transfer_syntax), 0, 0
            for offset in range(1, len(file.data)) if small else offsets(file, 500, 100):
                walk.feed(file.data[start:offset])
                start = offset
                ended = Walk(file.transfer_syntax)
                vars(ended).update(vars(walk))
                ended.end()
                last = offset if offset in boundaries else last
                whole = last > 0 and offset - last < 8 and not any(file.data[last:offset])
                self.assertEqual(ended.whole, whole, (file.name, offset, ended.fault))


def encoded(ds: Dataset, transfer_syntax: str) -> bytes:
    """Encode a data set with pydicom."""
    stream = DicomBytesIO()
    stream.is_little_endian = transfer_syntax != BIG_ENDIAN
    stream.is_implicit_VR = transfer_syntax == IMPLICIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(stream, ds)
    return stream.getvalue()


WORDS = st.text("AB0. ", max_size=20)
PLAIN_ELEMENTS = st.one_of(
    st.tuples(st.sampled_from([0x00080018, 0x0020000D, 0x00080016]), st.just("UI"), st.just("1.2.3")),
    st.tuples(st.sampled_from([0x00100020, 0x00091001, 0x00204000]), st.just("LO"), WORDS),
    st.tuples(st.sampled_from([0x00080060, 0x00400010]), st.just("CS"), st.text("AB0 ", max_size=16)),
    st.tuples(st.just(0x00280010), st.just("US"), st.integers(0, 65535)),
    st.tuples(st.just(0x00091002), st.just("UN"), st.binary(max_size=40)),
    st.tuples(st.just(0x0040A160), st.just("UT"), WORDS),
    st.tuples(st.just(0x60003000), st.just("OB"), st.binary(max_size=300)),
)


def data_set(elements: list[tuple[int, str, object]], undefined: bool) -> Dataset:
    """Build a data set of elements."""
    ds = Dataset()
    for tag, vr, value in elements:
        ds.add_new(tag, vr, value)
        if vr == "SQ":
            ds[tag].value.is_undefined_length = undefined
    ds.is_undefined_length_sequence_item = undefined
    return ds


SEQUENCES = st.sampled_from([0x00081140, 0x0040A730, 0x00091010])
DATA_SETS = st.recursive(
    st.builds(data_set, st.lists(PLAIN_ELEMENTS, max_size=6), st.booleans()),
    lambda inner: st.builds(
        data_set,
        st.lists(
            PLAIN_ELEMENTS | st.tuples(SEQUENCES, st.just("SQ"), st.lists(inner, max_size=3)), max_size=5
        ),
        st.booleans(),
    ),
    max_leaves=8,
)

#: Pieces of data sets, which make better garbage than octets do.
SHARDS = st.one_of(
    st.builds(
        implicit, st.sampled_from([ITEM, PIXEL_DATA, (8, 8)]), length=st.sampled_from([0, 8, 20, UNDEFINED])
    ),
    st.sampled_from([implicit(ITEM_END), implicit(SEQUENCE_END), short(PATIENT_ID, b"LO", b"AB")]),
    st.builds(
        long,
        st.sampled_from([(8, 0x1140), PIXEL_DATA]),
        st.sampled_from([b"SQ", b"UN", b"OB"]),
        length=st.sampled_from([0, 8, 20, UNDEFINED]),
    ),
    st.builds(short, st.just((8, 8)), st.binary(min_size=2, max_size=2), st.binary(max_size=9)),
    st.binary(max_size=12),
)
GARBAGE = st.binary(max_size=300) | st.lists(SHARDS, max_size=15).map(b"".join)

quickly = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


class PropertyTests(WalkTestCase):
    """What holds of any data set, and of anything else."""

    @quickly
    @given(DATA_SETS, st.sampled_from(PLAIN), st.data())
    def test_data_set(self, ds: Dataset, transfer_syntax: str, draw: st.DataObject) -> None:
        """A data set that pydicom writes is whole, has its values, and is cut between elements only."""
        data = encoded(ds, transfer_syntax)
        if data:
            walk = walked(transfer_syntax, data)
            self.assertEqual((walk.whole, walk.fault, walk.doubt), (True, None, None))
            for name, keyword in KEPT.items():
                expected = ds.get(keyword)
                self.assertEqual(getattr(walk, name), expected if expected is None else expected.rstrip())
            cut = draw.draw(st.integers(1, len(data)))
            last = max(b for b in pydicom_elements(data, transfer_syntax).boundaries if b <= cut)
            self.assertEqual(
                walked(transfer_syntax, data[:cut]).whole, last > 0 and not any(data[last:cut]), (last, cut)
            )
            split = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=5)))
            pieces = [data[a:b] for a, b in zip([0, *split], [*split, len(data)], strict=True)]
            self.assertEqual(outcome(walked(transfer_syntax, *pieces)), outcome(walk))
            if transfer_syntax != BIG_ENDIAN:
                self.assertTrue(walked(DEFLATED, deflate(data)).whole)

    @quickly
    @given(GARBAGE, st.sampled_from([*PLAIN, DEFLATED]), st.lists(st.integers(0, 300), max_size=5))
    def test_garbage(self, data: bytes, transfer_syntax: str, cuts: list[int]) -> None:
        """Garbage raises nothing, is kept nowhere, and tells the same however it arrives."""
        cuts = sorted(cut for cut in cuts if cut <= len(data))
        walk = Walk(transfer_syntax)
        for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
            walk.feed(data[a:b])
            self.assertLess(len(walk._held), dataset.LONGEST_HEAD)
            self.assertLessEqual(len(walk._open), dataset.DEEPEST)
        walk.end()
        self.assertEqual(walk.whole, walk.fault is None)
        self.assertLessEqual(len(walk.fault or ""), 64)
        self.assertEqual((walk.whole, walk.doubt), outcome(walked(transfer_syntax, data))[0:3:2])

    @quickly
    @given(GARBAGE, st.sampled_from(PLAIN))
    def test_pydicom_reads(self, data: bytes, transfer_syntax: str) -> None:
        """What pydicom reads to its end is whole, but for a fragment that swallows its delimiter."""
        elements = pydicom_elements(data, transfer_syntax)
        swallowed = implicit(SEQUENCE_END) in data[:8] + data[-8:]
        if data and not elements.raised and elements.last == len(data) and not swallowed:
            self.assertTrue(walked(transfer_syntax, data).whole)
