"""The walk over deflated data sets (PS3.5 A.5)."""

from __future__ import annotations

import random
import zlib
from unittest import mock

from dicomnode.core import dataset
from dicomnode.core.dataset import Inflater, Walk
from tests.core.walkcases import (
    DEFLATED,
    EXPLICIT,
    INSTANCE_UID,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    WalkTestCase,
    deflate,
    files,
    implicit,
    long,
    octet_by_octet,
    outcome,
    short,
    walked,
)


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
        self.assertFault(DEFLATED, self.data, f"deflated data set is corrupt before octet {len(self.data)}")

    def test_arrival(self) -> None:
        """However it arrives, it is found whole or not, and at the same octet: one that inflates far, too."""
        self.patch(dataset, "INFLATED_ALLOWANCE", 1 << 18)
        item = implicit(ITEM, length=UNDEFINED) + implicit(ITEM_END)
        pixels = long(PIXEL_DATA, b"OW", random.Random(1).randbytes(5000))
        fine = deflate(self.data[:12] + pixels)
        streams = [fine, fine[:2500] + b"\0" * 100 + fine[2600:]]
        for items in (900, 1000, 1050, 1100, 1200, 2000):
            sequence = long((8, 0x1140), b"SQ", length=UNDEFINED) + item * items + implicit(SEQUENCE_END)
            streams.append(deflate(sequence + pixels))
        faults = set()
        for stream in streams:
            walk = walked(DEFLATED, stream)
            faults.add(walk.fault)
            for size in (1, 100, 400, 1000, 1023, 1024, 1025, 3000):
                fragments = [stream[start : start + size] for start in range(0, len(stream), size)]
                self.assertEqual(outcome(walked(DEFLATED, *fragments)), outcome(walk), size)
        self.assertGreater(len(faults), 2)

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
                pieces = list(inflater.pieces(memoryview(deflate(data)), last=True))
                self.assertEqual(b"".join(pieces), data)
                self.assertLessEqual(max(map(len, pieces)), dataset.INFLATED_PIECE)
                self.assertTrue(inflater.ended)

    def test_large(self) -> None:
        """Pixels that deflate well are inflated and skipped."""
        data = long(PIXEL_DATA, b"OW", bytes(30_000_000))
        walk = walked(DEFLATED, deflate(data))
        self.assertEqual((walk.whole, walk.fault), (True, None))

    def test_deflated_is_told(self) -> None:
        """A walk says whether it has to inflate."""
        self.assertTrue(Walk(DEFLATED).deflated)
        self.assertFalse(Walk(EXPLICIT).deflated)

    def test_bomb_of_elements(self) -> None:
        """Elements that inflate without measure are a fault, found after little work."""
        self.patch(dataset, "INFLATED_ALLOWANCE", 1 << 18)
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

    def test_many_frames(self) -> None:
        """Functional groups of many frames are alike (PS3.3 C.7.6.16): they deflate well, and are walked."""

        def sequence(tag: tuple[int, int], *items: bytes) -> bytes:
            parts = [implicit(ITEM, length=UNDEFINED) + item + implicit(ITEM_END) for item in items]
            return long(tag, b"SQ", b"".join(parts), UNDEFINED) + implicit(SEQUENCE_END)

        groups = [
            b"".join(
                sequence((0x20, 0x9100 + group), short((0x20, 0x9056), b"SH", b"%04d" % frame))
                for group in range(8)
            )
            for frame in range(1000)
        ]
        data = self.data[:12] + sequence((0x5200, 0x9230), *groups) + long(PIXEL_DATA, b"OW", bytes(100))
        squeezed = deflate(data)
        self.assertLess(len(squeezed) * 16, len(data))
        walk = walked(DEFLATED, squeezed)
        self.assertEqual((walk.whole, walk.fault), (True, None))

    def test_work_is_counted(self) -> None:
        """Opening and closing a sequence counts for more octets than it has."""
        self.patch(dataset, "INFLATED_ALLOWANCE", 1 << 18)
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
        self.assertEqual((walk.whole, walk.fault), (True, None))

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
        self.assertEqual(sum(walk.inflate(data)), 0)
        self.assertEqual(sum(walk.inflate(b"", last=True)), len(self.data))
        walk.end()
        self.assertTrue(walk.whole)
        walk = Walk(DEFLATED)
        self.assertEqual([*walk.inflate(b"\xff" * 2000), *walk.inflate(data)], [])
        self.assertEqual(walk.octets, 2000 + len(data))
        self.assertEqual(walk.fault, "deflated data set is corrupt before octet 1024")
