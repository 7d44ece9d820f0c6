"""The walk over a data set, against the standard's own layouts."""

from __future__ import annotations

from collections import abc
from struct import pack

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.core import dataset
from dicomnode.core.dataset import Walk
from tests.core.walkcases import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    INSTANCE_UID,
    ITEM,
    ITEM_END,
    JPEG,
    KEPT,
    PATIENT_ID,
    PIXEL_DATA,
    PLAIN,
    SEQUENCE_END,
    UNDEFINED,
    WalkTestCase,
    deflate,
    encoded,
    implicit,
    long,
    octet_by_octet,
    outcome,
    pydicom_elements,
    short,
    walked,
)


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
        taken, walk = self.passed(DEFLATED, b"\xff" * 2000)
        self.assertEqual(taken, dataset.DEFLATED_BLOCK)
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


class GuessTests(WalkTestCase):
    """Whether VRs are explicit is guessed by the first element, and by what is agreed upon, or said."""

    def test_length_like_a_vr(self) -> None:
        """Where VRs should be implicit, a length of two capitals is one, unless there is such a VR."""
        for octets in (b"AB", b"BB", b"TT", b"ZZ"):
            value = bytes(int.from_bytes(octets, "little"))
            element = implicit((8, 6), value)
            self.assertTrue(walked(IMPLICIT, element).whole, octets)
            unknown = long((0x29, 0x1010), b"UN", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
            unknown += element + implicit(ITEM_END) + implicit(SEQUENCE_END)
            self.assertTrue(walked(EXPLICIT, unknown).whole, octets)

    def test_explicit_all_the_same(self) -> None:
        """What is explicit VR where it should not be is read as that: short forms, and long ones."""
        for element in (short((8, 6), b"CS", b"AB"), long((8, 6), b"OB", b"AB")):
            self.assertWhole(IMPLICIT, element + short(PATIENT_ID, b"LO", b"AB"))
            unknown = long((0x29, 0x1010), b"UN", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
            self.assertWhole(EXPLICIT, unknown + element + implicit(ITEM_END) + implicit(SEQUENCE_END))

    def test_unknown_vr(self) -> None:
        """In an explicit VR transfer syntax, and in a sequence, an unknown VR is one."""
        element = short((8, 6), b"ZZ", b"AB")
        self.assertWhole(EXPLICIT, element)
        sequence = long((8, 0x1140), b"SQ", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED)
        self.assertWhole(EXPLICIT, sequence + element + implicit(ITEM_END) + implicit(SEQUENCE_END))


class NoItemTests(WalkTestCase):
    """Where nobody can tell what follows, and whether the data set is whole."""

    def test_no_item(self) -> None:
        """Something else where an item is due may make sense to pydicom, which searches; a cut, too."""
        odd = short(PATIENT_ID, b"LO", b"AB")
        for header in (
            long((8, 0x1140), b"SQ", length=UNDEFINED),
            long(PIXEL_DATA, b"OB", length=UNDEFINED),
            implicit((8, 0x1140), length=UNDEFINED),
        ):
            where = len(header) + 8
            self.assertFault(
                EXPLICIT,
                header + implicit(ITEM) + odd + bytes(1000),
                f"no item where one is due, at octet {where}",
            )

    def test_fragment_without_length(self) -> None:
        """A fragment has a length (PS3.5 A.4)."""
        self.assertFault(
            JPEG,
            long(PIXEL_DATA, b"OB", length=UNDEFINED) + implicit(ITEM, length=UNDEFINED) + b"\xff\xd8",
            "no item where one is due, at octet 12",
        )

    def test_raw_value(self) -> None:
        """A value of undefined length that is no sequence is found by pydicom all the same."""
        data = long((9, 9), b"OB", b"raw octets", UNDEFINED) + implicit(SEQUENCE_END)
        self.assertFalse(pydicom_elements(data, EXPLICIT).raised)
        self.assertFault(EXPLICIT, data, "no item where one is due, at octet 12")

    def test_garbage(self) -> None:
        """Garbage may look like a value of undefined length, but it has no SOP Instance UID."""
        walk = self.walk(IMPLICIT, b"\xff" * 100)
        self.assertEqual((walk.fault, walk.sop_instance_uid), ("no item where one is due, at octet 8", None))

    def test_values_stay(self) -> None:
        """What was kept before the fault stays, what comes after is not seen."""
        walk = walked(
            EXPLICIT,
            short(INSTANCE_UID, b"UI", b"1.2\0")
            + long((8, 0x1140), b"SQ", b"12345678", UNDEFINED)
            + short(PATIENT_ID, b"LO", b"AB"),
        )
        self.assertEqual((walk.sop_instance_uid, walk.patient_id), ("1.2", None))
