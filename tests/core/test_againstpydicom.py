"""The walk over a data set, against pydicom: its files, and whatever else."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.core import dataset
from dicomnode.core.dataset import Walk
from tests.core.walkcases import (
    BIG_ENDIAN,
    DEFLATED,
    ITEM,
    ITEM_END,
    KEPT,
    PATIENT_ID,
    PIXEL_DATA,
    PLAIN,
    SEQUENCE_END,
    UNDEFINED,
    WalkTestCase,
    deflate,
    encoded,
    files,
    implicit,
    long,
    offsets,
    outcome,
    pydicom_elements,
    short,
    walked,
)


class PydicomFileTests(WalkTestCase):
    """The files that pydicom ships."""

    def test_files(self) -> None:
        """Every file is whole but the two cut on purpose and one an octet out of step."""
        self.assertGreater(len(files()), 90)
        faults = {}
        for file in files():
            walk = walked(file.transfer_syntax, file.data)
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
            self.assertEqual((walk.whole, walk.fault), (True, None))
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
        self.assertEqual((walk.whole, walk.fault), outcome(walked(transfer_syntax, data))[:2])

    @quickly
    @given(GARBAGE, st.sampled_from(PLAIN))
    def test_pydicom_reads(self, data: bytes, transfer_syntax: str) -> None:
        """What pydicom reads to its end is whole, but for a fragment that swallows its delimiter."""
        elements = pydicom_elements(data, transfer_syntax)
        swallowed = implicit(SEQUENCE_END) in data[:8] + data[-8:]
        if data and not elements.raised and elements.last == len(data) and not swallowed:
            self.assertTrue(walked(transfer_syntax, data).whole)
