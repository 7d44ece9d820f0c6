"""Tests of :mod:`dicomnode.core.stream`: octets into PDUs and PDV fragments."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.pdu import (
    INVALID_PDU_PARAMETER_VALUE,
    PDV_HEADER,
    UNRECOGNIZED_PDU,
    Abort,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)
from dicomnode.core.stream import ASSOCIATE_LIMIT, Item, PDUBody, PDUHeader, PDUReader, PDVFragment
from dicomnode.errors import InvalidPDU
from tests.core.helpers import arrivals, cut_at, octet_by_octet, octets, stable, truncations

#: What was read, in a form that does not tell how it arrived.
Joined: TypeAlias = list[tuple[object, ...]]

MAX_LENGTH = 60
HEADERS = 6


def pdu(pdu_type: int, body: bytes, length: int | None = None) -> bytes:
    """Return a PDU, which may claim another length than it has."""
    claimed = len(body) if length is None else length
    return bytes((pdu_type, 0)) + claimed.to_bytes(4, "big") + body


def pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    return (len(fragment) + 2).to_bytes(4, "big") + bytes((context_id, control)) + fragment


def pdv_read(context_id: int, control: int, fragment: bytes) -> tuple[object, ...]:
    return "pdv", context_id, bool(control & 1), bool(control & 2), fragment


def join(items: Iterable[Item]) -> Joined:
    """Join the fragments of each PDV, and copy everything else."""
    joined: Joined = []
    parts: list[bytes] = []
    for item in items:
        if isinstance(item, PDVFragment):
            parts.append(bytes(item.data))
            if item.ends_pdv:
                fragment = b"".join(parts)
                joined.append(("pdv", item.context_id, item.is_command, item.is_last, fragment))
                parts = []
        elif isinstance(item, PDUHeader):
            joined.append(("header", item.pdu_type, item.length))
        elif isinstance(item, PDUBody):
            joined.append(("body", item.pdu_type, bytes(item.data)))
        else:
            joined.append(("invalid", item.reason, str(item)))
    if parts:
        joined.append(("pdv not ended", b"".join(parts)))
    return joined


def read(chunks: Iterable[bytes], reader: PDUReader) -> Joined:
    """Feed a reader, as if each chunk was a read, and join what it yields."""
    return join([item for chunk in chunks for item in reader.feed(chunk)])


def invalid(why: str, reason: int = INVALID_PDU_PARAMETER_VALUE) -> tuple[object, ...]:
    return "invalid", reason, why


def held(reader: PDUReader) -> int:
    """Return how many octets of what it was fed a reader keeps."""
    values = vars(reader).values()
    return sum(len(value) for value in values if isinstance(value, bytes | bytearray | memoryview))


NO_PDV = invalid("a P-DATA-TF holds no PDV")
TOO_LONG = invalid("a P-DATA-TF is longer than the maximum length")
PDV_TOO_SHORT = invalid("a PDV item is shorter than its header")
PDV_OVERRUNS = invalid("a PDV item does not end inside its PDU")
WRONG_LENGTH = invalid("a PDU of four octets claims another length")
ASSOCIATE_TOO_LONG = invalid("an A-ASSOCIATE PDU is longer than 256 KiB")
RELEASE = ("header", 5, 4), ("body", 5, bytes(4))

#: PDUs that are read, and PDUs that are refused, each with what becomes of it.
STREAM: tuple[tuple[bytes, Joined], ...] = (
    (pdu(1, b"request"), [("header", 1, 7), ("body", 1, b"request")]),
    (
        # Several PDVs in one PDU, one of them empty.
        pdu(4, pdv(1, 1, b"com") + pdv(1, 3, b"") + pdv(255, 0, b"data")),
        [("header", 4, 25), pdv_read(1, 1, b"com"), pdv_read(1, 3, b""), pdv_read(255, 0, b"data")],
    ),
    (p_data_tf(3, False, True, b"set"), [("header", 4, 9), pdv_read(3, 2, b"set")]),
    (pdu(9, b"unknown"), [invalid("unknown PDU type 0x09", UNRECOGNIZED_PDU)]),
    (pdu(0, b""), [invalid("unknown PDU type 0x00", UNRECOGNIZED_PDU)]),
    (pdu(4, b""), [("header", 4, 0), NO_PDV]),
    (pdu(4, bytes(5)), [("header", 4, 5), PDV_TOO_SHORT]),
    (pdu(4, pdv(1, 0, b"1") + b"\0"), [("header", 4, 8), pdv_read(1, 0, b"1"), PDV_TOO_SHORT]),
    (pdu(4, octets("00 00 00 06 01 00 '123'")), [("header", 4, 9), PDV_OVERRUNS]),
    (pdu(4, octets("FF FF FF FF 01 00 '123'")), [("header", 4, 9), PDV_OVERRUNS]),
    (pdu(4, octets("00 00 00 01 01 00 '123'")), [("header", 4, 9), PDV_OVERRUNS]),
    (pdu(4, octets("00 00 00 00 01 00 '123'")), [("header", 4, 9), PDV_OVERRUNS]),
    (pdu(4, bytes(MAX_LENGTH + 1)), [("header", 4, MAX_LENGTH + 1), TOO_LONG]),
    (pdu(5, b"123"), [("header", 5, 3), WRONG_LENGTH]),
    (pdu(7, b""), [("header", 7, 0), WRONG_LENGTH]),
    (pdu(2, b""), [("header", 2, 0), ("body", 2, b"")]),
    (ReleaseRQ().encode(), [*RELEASE]),
    (Abort(2, 1).encode(), [("header", 7, 4), ("body", 7, b"\0\0\2\1")]),
)


class StreamTests(SynchronousTestCase):
    """What is read from a stream of PDUs."""

    def test_each_pdu(self) -> None:
        """Each PDU is read, or refused, and then the one behind it, however they arrive."""
        for data, expected in STREAM:
            for chunks in arrivals(data + ReleaseRQ().encode()):
                self.assertEqual(read(chunks, PDUReader(MAX_LENGTH)), [*expected, *RELEASE], chunks)

    def test_mixed_stream(self) -> None:
        """The joined result does not depend on how the octets of many PDUs arrive."""
        data = b"".join(data for data, _ in STREAM)
        expected = [item for _, items in STREAM for item in items]
        for chunks in arrivals(data):
            self.assertEqual(read(chunks, PDUReader(MAX_LENGTH)), expected, chunks)

    def test_pieces_of_equal_size(self) -> None:
        """Nor does it for reads of two, three, four, ... octets."""
        data = b"".join(data for data, _ in STREAM)
        expected = [item for _, items in STREAM for item in items]
        for size in range(2, 30):
            chunks = [data[start : start + size] for start in range(0, len(data), size)]
            self.assertEqual(read(chunks, PDUReader(MAX_LENGTH)), expected, size)

    def test_empty_reads(self) -> None:
        """A read of nothing changes nothing, wherever it comes."""
        for data, expected in STREAM:
            chunks = [chunk for octet in octet_by_octet(data) for chunk in (b"", octet, b"")]
            self.assertEqual(read(chunks, PDUReader(MAX_LENGTH)), expected)

    def test_reserved(self) -> None:
        """The reserved octet of the header is not tested."""
        data = octets("05 FF 00 00 00 04 FF FF FF FF")
        self.assertEqual(read([data], PDUReader()), [("header", 5, 4), ("body", 5, b"\xff\xff\xff\xff")])

    def test_control_header(self) -> None:
        """Of the message control header only bits 0 and 1 have a meaning (PS3.8 E.2)."""
        for control, is_command, is_last in (
            (0, False, False),
            (1, True, False),
            (2, False, True),
            (0xFF, True, True),
        ):
            [_, fragment] = PDUReader().feed(pdu(4, pdv(1, control, b"1")))
            assert isinstance(fragment, PDVFragment)
            self.assertEqual((fragment.is_command, fragment.is_last), (is_command, is_last))

    def test_truncations(self) -> None:
        """The beginning of a PDU is neither refused nor complete: it waits."""
        for data in (ReleaseRQ().encode(), pdu(1, b"request"), pdu(4, pdv(1, 1, b"com") + pdv(1, 0, b"d"))):
            for beginning in truncations(data):
                reader = PDUReader()
                kinds = [kind for kind, *_ in read([beginning], reader)]
                self.assertNotIn("invalid", kinds)
                self.assertNotIn("body", kinds)
                self.assertEqual(reader.in_pdu, beginning != b"")


class PromptnessTests(SynchronousTestCase):
    """When things are yielded."""

    def steps(self, data: bytes) -> list[Joined]:
        """Return what each octet of ``data`` brings."""
        reader = PDUReader(MAX_LENGTH)
        return [read([octet], reader) for octet in octet_by_octet(data)]

    def test_header(self) -> None:
        """A header is known with its sixth octet, a body with its last."""
        steps = self.steps(ReleaseRQ().encode())
        self.assertEqual([len(step) for step in steps], [0, 0, 0, 0, 0, 1, 0, 0, 0, 1])

    def test_fragments(self) -> None:
        """Each octet of a PDV is a fragment as it comes, of which the last ends the PDV."""
        reader = PDUReader()
        items = [
            item for octet in octet_by_octet(p_data_tf(7, True, False, b"abc")) for item in reader.feed(octet)
        ]
        fragments = [item for item in items if isinstance(item, PDVFragment)]
        self.assertEqual([bytes(fragment.data) for fragment in fragments], [b"a", b"b", b"c"])
        self.assertEqual([fragment.ends_pdv for fragment in fragments], [False, False, True])
        self.assertEqual({fragment.context_id for fragment in fragments}, {7})
        self.assertEqual({(fragment.is_command, fragment.is_last) for fragment in fragments}, {(True, False)})

    def test_empty_pdv(self) -> None:
        """An empty PDV is a fragment of its own as soon as its header is there."""
        steps = self.steps(pdu(4, pdv(1, 2, b"") + pdv(1, 2, b"")))
        self.assertEqual([len(step) for step in steps], [0] * 5 + [1] + ([0] * 5 + [1]) * 2)

    def test_refusals_do_not_wait(self) -> None:
        """What is wrong with a PDU is told with the octet that shows it, not at the PDU's end."""
        for data, at in (
            (pdu(9, bytes(4)), HEADERS),
            (pdu(5, bytes(5)), HEADERS),
            (pdu(4, bytes(MAX_LENGTH + 1)), HEADERS),
            (pdu(4, bytes(5)), HEADERS),
            (pdu(4, octets("00 00 00 09 01 00 '1'")), HEADERS + PDV_HEADER.size),
            (pdu(1, b"", ASSOCIATE_LIMIT + 1), HEADERS),
        ):
            reader = PDUReader(MAX_LENGTH)
            before = read([data[: at - 1]], reader)
            self.assertNotIn("invalid", [kind for kind, *_ in before])
            self.assertEqual(read([data[at - 1 : at]], reader)[-1][0], "invalid")

    def test_lazy(self) -> None:
        """Nothing is read before it is asked for."""
        reader = PDUReader()
        self.assertFalse(reader.in_pdu)
        items = reader.feed(ReleaseRQ().encode())
        self.assertFalse(reader.in_pdu)
        self.assertIsInstance(next(items), PDUHeader)
        self.assertTrue(reader.in_pdu)
        self.assertIsInstance(next(items), PDUBody)
        self.assertFalse(reader.in_pdu)

    def test_in_pdu(self) -> None:
        """A PDU is in hand from its first octet until its last."""
        for data, _ in STREAM:
            reader = PDUReader(MAX_LENGTH)
            for position, octet in enumerate(octet_by_octet(data), start=1):
                read([octet], reader)
                self.assertEqual(reader.in_pdu, position < len(data), (data, position))


class SkipTests(SynchronousTestCase):
    """Passing over a PDU."""

    BEHIND = ReleaseRP().encode()
    BEHIND_READ: tuple[tuple[object, ...], ...] = (("header", 6, 4), ("body", 6, bytes(4)))

    def test_at_header(self) -> None:
        """A PDU skipped at its header yields nothing more, be it right or wrong."""
        for data, expected in STREAM:
            if expected[0][0] != "header":
                continue
            for chunks in arrivals(data + self.BEHIND):
                reader = PDUReader(MAX_LENGTH)
                items: list[Item] = []
                for item in (item for chunk in chunks for item in reader.feed(chunk)):
                    items.append(item)
                    if len(items) == 1:
                        reader.skip()
                self.assertEqual(join(items), [expected[0], *self.BEHIND_READ], chunks)

    def test_at_fragment(self) -> None:
        """A P-DATA-TF skipped at a fragment yields no more fragments."""
        data = pdu(4, pdv(1, 0, b"one") + pdv(1, 0, b"two"))
        for chunks in arrivals(data + self.BEHIND):
            reader = PDUReader()
            items: list[Item] = []
            for item in (item for chunk in chunks for item in reader.feed(chunk)):
                items.append(item)
                if isinstance(item, PDVFragment):
                    reader.skip()
            self.assertEqual([type(item) for item in items], [PDUHeader, PDVFragment, PDUHeader, PDUBody])

    def test_between_reads(self) -> None:
        """Between two reads what is left of the PDU in hand is skipped, wherever it was cut."""
        for data in (pdu(1, b"request"), pdu(4, pdv(1, 0, b"one") + pdv(1, 2, b"two"))):
            for cut in range(HEADERS, len(data)):
                for chunks in arrivals(data[cut:] + self.BEHIND):
                    reader = PDUReader()
                    read([data[:cut]], reader)
                    reader.skip()
                    self.assertEqual(read(chunks, reader), [*self.BEHIND_READ], (cut, chunks))
                    self.assertFalse(reader.in_pdu)

    def test_without_pdu(self) -> None:
        """Where no PDU is in hand, or only a part of its header, there is nothing to skip."""
        for cut in range(HEADERS):
            for chunks in arrivals(self.BEHIND[cut:]):
                reader = PDUReader()
                read([self.BEHIND[:cut]], reader)
                reader.skip()
                self.assertEqual(read(chunks, reader), [*self.BEHIND_READ], (cut, chunks))

    def test_behind_the_last_item(self) -> None:
        """Skipping at a PDU's last item does not reach into the next PDU."""
        for data in (ReleaseRQ().encode(), p_data_tf(1, True, True, b"1"), pdu(4, b""), pdu(9, b"")):
            for chunks in arrivals(data + self.BEHIND):
                reader = PDUReader()
                items: list[Item] = []
                for item in (item for chunk in chunks for item in reader.feed(chunk)):
                    if not reader.in_pdu:
                        reader.skip()
                    items.append(item)
                self.assertEqual(join(items)[-2:], [*self.BEHIND_READ], chunks)

    def test_forgets_the_body(self) -> None:
        """What was kept of a skipped PDU is let go."""
        reader = PDUReader()
        read([pdu(1, bytes(1000), 2000)], reader)
        self.assertEqual(held(reader), 1000)
        reader.skip()
        self.assertEqual(held(reader), 0)


class LimitTests(SynchronousTestCase):
    """What is too long."""

    def test_max_length(self) -> None:
        """A P-DATA-TF of the maximum length is read, one of an octet more refused."""
        exact = p_data_tf(1, False, True, bytes(MAX_LENGTH - 6))
        self.assertEqual(
            read([exact], PDUReader(MAX_LENGTH)),
            [("header", 4, MAX_LENGTH), pdv_read(1, 2, bytes(MAX_LENGTH - 6))],
        )
        above = p_data_tf(1, False, True, bytes(MAX_LENGTH - 5))
        self.assertEqual(read([above], PDUReader(MAX_LENGTH)), [("header", 4, MAX_LENGTH + 1), TOO_LONG])

    def test_no_max_length(self) -> None:
        """Without a maximum a P-DATA-TF may claim all that its length can say: 4 GiB less an octet."""
        reader = PDUReader()
        claim = (1 << 32) - 1
        data = octets("04 00 FF FF FF FF FF FF FF FB 01 02 'abc'")
        [header, fragment] = reader.feed(data)
        self.assertEqual(header, PDUHeader(4, claim))
        self.assertEqual(fragment, PDVFragment(1, False, True, memoryview(b"abc"), False))
        self.assertTrue(reader.in_pdu)

    def test_max_length_is_of_p_data(self) -> None:
        """The maximum length holds for P-DATA-TF alone (PS3.8 D.1)."""
        body = bytes(MAX_LENGTH + 1)
        self.assertEqual(
            read([pdu(1, body)], PDUReader(MAX_LENGTH)), [("header", 1, len(body)), ("body", 1, body)]
        )

    def test_associate_limit(self) -> None:
        """An A-ASSOCIATE-RQ or -AC of 256 KiB is read, one of an octet more refused at its header."""
        self.assertEqual(ASSOCIATE_LIMIT, 262_144)
        body = bytes(ASSOCIATE_LIMIT)
        for pdu_type in (1, 2):
            self.assertEqual(
                read([pdu(pdu_type, body)], PDUReader()),
                [("header", pdu_type, ASSOCIATE_LIMIT), ("body", pdu_type, body)],
            )
            for claim in (ASSOCIATE_LIMIT + 1, (1 << 32) - 1):
                self.assertEqual(
                    read([pdu(pdu_type, b"", claim)], PDUReader()),
                    [("header", pdu_type, claim), ASSOCIATE_TOO_LONG],
                )

    def test_fixed_lengths(self) -> None:
        """A-ASSOCIATE-RJ, A-RELEASE-RQ, A-RELEASE-RP and A-ABORT are four octets long, or refused."""
        for pdu_type in (3, 5, 6, 7):
            for length in (0, 1, 3, 5, 8, (1 << 32) - 1):
                self.assertEqual(
                    read([pdu(pdu_type, b"", length)], PDUReader()),
                    [("header", pdu_type, length), WRONG_LENGTH],
                )
            body = b"\1\2\3\4"
            self.assertEqual(
                read([pdu(pdu_type, body)], PDUReader()), [("header", pdu_type, 4), ("body", pdu_type, body)]
            )

    def test_unknown_types(self) -> None:
        """A type that PS3.8 does not know is refused without a header, and passed over whole."""
        for pdu_type in (0, *range(8, 256)):
            expected = invalid(f"unknown PDU type 0x{pdu_type:02X}", UNRECOGNIZED_PDU)
            data = pdu(pdu_type, p_data_tf(1, True, True, b"inside")) + ReleaseRQ().encode()
            self.assertEqual(read([data], PDUReader()), [expected, *RELEASE])

    def test_refusals_are_values(self) -> None:
        """A refusal is yielded, not raised, with the reason for the A-ABORT that answers it."""
        [refusal] = PDUReader().feed(pdu(8, b""))
        assert isinstance(refusal, InvalidPDU)
        self.assertEqual(refusal.reason, 1)


class MemoryTests(SynchronousTestCase):
    """What is kept between two reads."""

    def test_fragments_are_slices(self) -> None:
        """A fragment is a slice of the read that contained it, though a header was cut in two before it."""
        data = p_data_tf(1, False, True, b"data set")
        for cut in range(1, 12):
            reader = PDUReader()
            list(reader.feed(data[:cut]))
            rest = data[cut:]
            *_, fragment = reader.feed(rest)
            assert isinstance(fragment, PDVFragment)
            self.assertIs(fragment.data.obj, rest)

    def test_nothing_of_a_pdv_is_kept(self) -> None:
        """However long a PDV is, no octet of it is kept, and each read comes out as it went in."""
        reader = PDUReader()
        size = 64 * 1024
        list(reader.feed(octets("04 00 FF FF FF FF FF FF FF FB 01 02")))
        chunk = bytes(size)
        for _ in range(200):
            [fragment] = reader.feed(chunk)
            assert isinstance(fragment, PDVFragment)
            self.assertEqual(len(fragment.data), size)
            self.assertEqual(held(reader), 0)

    def test_five_octets_of_a_header(self) -> None:
        """Of a P-DATA-TF that comes octet by octet at most five octets are kept: a header's beginning."""
        reader = PDUReader()
        most = 0
        for octet in octet_by_octet(b"".join(p_data_tf(1, False, True, bytes(50)) for _ in range(3))):
            list(reader.feed(octet))
            most = max(most, held(reader))
        self.assertEqual(most, 5)

    def test_nothing_of_a_skipped_pdu_is_kept(self) -> None:
        """Of a refused PDU nothing is kept, whatever length it claims."""
        for pdu_type in (1, 5, 9):
            reader = PDUReader()
            list(reader.feed(pdu(pdu_type, b"", (1 << 32) - 1)))
            for _ in range(50):
                self.assertEqual(list(reader.feed(bytes(64 * 1024))), [])
                self.assertEqual(held(reader), 0)
            self.assertTrue(reader.in_pdu)

    def test_claims_reserve_nothing(self) -> None:
        """An A-ASSOCIATE-RQ that claims 256 KiB takes no more room than what has come of it."""
        reader = PDUReader()
        list(reader.feed(pdu(1, b"abc", ASSOCIATE_LIMIT)))
        self.assertEqual(held(reader), 3)

    def test_bodies_are_let_go(self) -> None:
        """A body that was yielded is not kept."""
        reader = PDUReader()
        list(reader.feed(pdu(1, bytes(1000))))
        self.assertEqual(held(reader), 0)


controls = st.integers(0, 3)
pdvs = st.tuples(st.integers(0, 255), controls, st.binary(max_size=8))
good_data = st.lists(pdvs, min_size=1, max_size=3).map(
    lambda parts: (
        pdu(4, b"".join(pdv(*part) for part in parts)),
        [("header", 4, sum(len(part[2]) + 6 for part in parts)), *(pdv_read(*part) for part in parts)],
    )
)
good_bodies = st.tuples(st.sampled_from((1, 2)), st.binary(max_size=20)).map(
    lambda part: (pdu(*part), [("header", part[0], len(part[1])), ("body", *part)])
)
streams = st.lists(st.one_of(st.sampled_from(STREAM), good_data, good_bodies), max_size=6)
cuts = st.lists(st.integers(0, 200), max_size=30)


class PropertyTests(SynchronousTestCase):
    """What holds for all streams and all ways in which they arrive."""

    @stable
    @given(streams, cuts)
    def test_mixed_streams(self, parts: list[tuple[bytes, Joined]], cuts: list[int]) -> None:
        """PDUs good and bad are read as each of them would be alone."""
        data = b"".join(octets for octets, _ in parts)
        reader = PDUReader(MAX_LENGTH)
        expected = [item for _, items in parts for item in items]
        self.assertEqual(read(cut_at(data, cuts), reader), expected)
        self.assertFalse(reader.in_pdu)

    @stable
    @given(st.lists(st.sampled_from(b"\0\1\2\4\5\x08"), max_size=120).map(bytes), cuts)
    def test_any_octets(self, data: bytes, cuts: list[int]) -> None:
        """Any octets give the same, however they arrive."""
        readers = PDUReader(MAX_LENGTH), PDUReader(MAX_LENGTH)
        self.assertEqual(read(cut_at(data, cuts), readers[0]), read([data], readers[1]))
        self.assertEqual(readers[0].in_pdu, readers[1].in_pdu)

    @stable
    @given(streams, cuts, st.sets(st.integers(0, 12)))
    def test_skipping(self, parts: list[tuple[bytes, Joined]], cuts: list[int], skipped: set[int]) -> None:
        """PDUs skipped at their headers leave the others as they are."""
        data = b"".join(octets for octets, _ in parts)
        reader = PDUReader(MAX_LENGTH)
        items: list[Item] = []
        expected: Joined = []
        number = 0
        for _, result in parts:
            if result[0][0] == "header":
                expected += result[:1] if number in skipped else result
                number += 1
            else:
                expected += result
        number = 0
        for item in (item for chunk in cut_at(data, cuts) for item in reader.feed(chunk)):
            items.append(item)
            if isinstance(item, PDUHeader):
                if number in skipped:
                    reader.skip()
                number += 1
        self.assertEqual(join(items), expected)
