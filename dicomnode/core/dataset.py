"""The walk over the elements of a data set (PS3.5) while its fragments pass.

Nothing of the data set is kept but six values, the header that a fragment cut in two, and a place
for each sequence that is open. At the end the walk says whether the data set ended where an
element ended.

It reads what pydicom reads, the way pydicom reads it: two octets that cannot be a VR belong to an
implicit VR length, an unknown VR has a 16-bit length, the first element of a data set or item tells
whether its VRs are explicit. It finds fault where pydicom would raise an exception or lose data, and
where nobody can tell whether the data set is whole: pydicom searches for a delimiter where there is no
item, or where a fragment of pixel data has swallowed it, and at times finds the right one; but a length
which reaches past the end is what a torn data set looks like.

What is inside sequences and items of defined length is passed over: that they end where they should
follows from those lengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from struct import Struct
from typing import Any

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: The data set of these is deflated as a whole (PS3.5 A.5; the last two are the JPIP ones).
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

UNDEFINED_LENGTH = 0xFFFFFFFF
#: Two reserved octets and a 32-bit length follow these (PS3.5 Table 7.1-1).
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
#: A 16-bit length follows these (PS3.5 Table 7.1-2).
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
#: With these an undefined length is a sequence's: PS3.5 6.2.2 says so of UN; implicit VR has none.
SEQUENCE_VRS = frozenset({b"SQ", b"UN", b""})

#: The last of the tags whose values are kept, as data sets are ordered.
LAST_KEPT = 0x0020000E

#: Octets of the longest value that is kept: the 64 characters of LO, of four octets each in UTF-8.
LONGEST_VALUE = 256
#: Octets that hold a whole header and the longest value.
LONGEST_HEAD = 12 + LONGEST_VALUE
#: Sequences and items of undefined length that are open at a time. Real ones nest some ten levels,
#: of two places each; pydicom, which recurses, gives up at about 250 levels.
DEEPEST = 512

#: Octets of a fragment that are looked at before it is asked whether that is enough for now: a
#: millisecond, where they hold nothing but empty items.
PIECE = 1 << 13

#: Deflated octets are inflated ``DEFLATED_BLOCK`` at a time (zlib copies what it has not used) into
#: pieces of at most ``INFLATED_PIECE``.
DEFLATED_BLOCK = 1024
INFLATED_PIECE = 8192
#: Deflate can grow a thousandfold, so what a walk may spend on elements follows from what was received:
#: so many octets of them, where opening and closing a sequence or item counts as ``TURN`` octets. That
#: is a quarter of a second, in a thread. Of real data sets those of many frames come nearest, whose
#: functional groups are alike, and are sequences of undefined length: 10,000 frames take five sixths of it.
#: What is inside values need only be inflated, and is not counted.
INFLATED_ALLOWANCE = 1 << 26
INFLATED_RATIO = 16
TURN = 128
#: How far a data set may inflate in all: so many octets, and so many for each that was received. That is two
#: seconds, and a quarter of one for each further MB; without it, it is two for each. Of real ones, masks and
#: blank frames shrink to a hundredth and below, but there are not gigabytes of them in one instance.
TOTAL_ALLOWANCE = 1 << 30
TOTAL_RATIO = 128


class ByteOrder:
    """One of the two byte orders: how headers are unpacked, and what the tags look like then.

    A tag is unpacked as one integer. In little endian its group is the low half (PS3.5 7.3).
    """

    def __init__(self, prefix: str) -> None:
        self.little = prefix == "<"
        self.element: Callable[..., tuple[Any, ...]] = Struct(prefix + "I2sH").unpack_from
        self.item: Callable[..., tuple[Any, ...]] = Struct(prefix + "II").unpack_from
        self.length: Callable[..., tuple[Any, ...]] = Struct(prefix + "I").unpack_from
        self.item_delimiter = self.turned(0xFFFEE00D)
        self.sequence_delimiter = self.turned(0xFFFEE0DD)
        self.pixel_data = self.turned(0x7FE00010)
        #: What starts an item: pydicom takes an item delimiter for one, too.
        self.items = frozenset({self.turned(0xFFFEE000), self.item_delimiter})
        #: The tags that an item is watched for, and those that the top level of a data set is.
        self.delimiters = {self.item_delimiter: ""}
        self.marked = {
            self.item_delimiter: "",
            self.turned(0x00080016): "sop_class_uid",
            self.turned(0x00080018): "sop_instance_uid",
            self.turned(0x00080060): "modality",
            self.turned(0x00100020): "patient_id",
            self.turned(0x0020000D): "study_instance_uid",
            self.turned(0x0020000E): "series_instance_uid",
        }

    def turned(self, tag: int) -> int:
        """Give a tag as this byte order unpacks it, and the other way round."""
        return (tag & 0xFFFF) << 16 | tag >> 16 if self.little else tag

    def named(self, tag: int) -> str:
        """Write a tag as the standard does."""
        tag = self.turned(tag)
        return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


LITTLE = ByteOrder("<")
BIG = ByteOrder(">")
#: Little endian tags of an item and of a sequence's end, as big endian unpacks them.
TURNED_TAGS = frozenset({0xFEFF00E0, 0xFEFFDDE0})


class Part(Enum):
    """What is being walked."""

    #: A data set or item whose first element will tell whether its VRs are explicit.
    UNDECIDED = 0
    EXPLICIT = 1
    IMPLICIT = 2
    #: The items of a sequence in an explicit VR data set, and in an implicit VR one.
    ITEMS = 3
    IMPLICIT_ITEMS = 4
    #: The fragments of encapsulated pixel data (PS3.5 A.4).
    FRAGMENTS = 5
    #: A data set or item that should be implicit VR, and may be found not to be: what is agreed upon, or that
    #: it is inside a UN (PS3.5 6.2.2), says so.
    UNSURE = 6
    #: The items of a UN.
    UNKNOWN_ITEMS = 7


# To look them up in the enumeration takes as long as to walk an element.
_UNDECIDED, _EXPLICIT, _IMPLICIT = Part.UNDECIDED, Part.EXPLICIT, Part.IMPLICIT
_ITEMS, _IMPLICIT_ITEMS, _FRAGMENTS = Part.ITEMS, Part.IMPLICIT_ITEMS, Part.FRAGMENTS
_UNSURE, _UNKNOWN_ITEMS = Part.UNSURE, Part.UNKNOWN_ITEMS
_OF_ITEMS = (_FRAGMENTS, _ITEMS, _IMPLICIT_ITEMS, _UNKNOWN_ITEMS)


class Inflater:
    """Inflates a deflated data set (PS3.5 A.5) in pieces, none of which it keeps.

    It takes a block of what is received at a time, so that what is found, and when, does not depend on how
    that arrives.
    """

    def __init__(self) -> None:
        self.taken = 0  #: octets of what was received that have been inflated, or are being so
        self._zlib = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._held = b""  # the start of a block

    @property
    def ended(self) -> bool:
        """Whether the deflated stream has ended."""
        return self._zlib.eof

    def pieces(self, data: bytes | memoryview, *, last: bool = False) -> Iterator[bytes]:
        """Inflate some more octets. Whoever stops taking pieces has given up the rest.

        What follows the end of the stream is ignored, as pydicom ignores it: mostly the NUL that
        makes its length even.

        :param last: nothing follows: what is left is a block, too.
        :raises zlib.error: what was received is not a deflated stream.
        """
        data = memoryview(b"".join((self._held, data)) if self._held else data)
        whole = len(data) if last else len(data) - len(data) % DEFLATED_BLOCK
        self._held = bytes(data[whole:])
        for start in range(0, whole, DEFLATED_BLOCK):
            block: bytes | memoryview = data[start : min(start + DEFLATED_BLOCK, whole)]
            self.taken += len(block)
            while not self._zlib.eof:
                piece = self._zlib.decompress(block, INFLATED_PIECE)
                yield piece
                block = self._zlib.unconsumed_tail
                # A full piece may have left octets inside zlib, though the block is used up.
                if not block and len(piece) < INFLATED_PIECE:
                    break


class Walk:
    """Walks the elements of a data set while it passes, without keeping it.

    Give every fragment to :meth:`feed`, call :meth:`end`, then read :attr:`whole`. At its first
    fault the walk stops, and only counts octets from there on.

    :param transfer_syntax: the UID of the transfer syntax that was agreed on.
    """

    #: The data set ended where an element ended, and nothing contradicted. Known after ``end()``.
    whole: bool = False
    #: What is wrong, where: at most 64 characters, and none of the peer's among them. Offsets are
    #: of the inflated data set, except where the text says "deflated".
    fault: str | None = None
    #: Octets seen, as received.
    octets: int = 0
    # Values of the top level, without trailing NULs and spaces; None if absent, or too long to be.
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    patient_id: str | None = None
    modality: str | None = None

    _tag = 0  # the last element of the top level

    def __init__(self, transfer_syntax: str) -> None:
        self._inflater = Inflater() if transfer_syntax in DEFLATED else None
        self._order = BIG if transfer_syntax == EXPLICIT_VR_BIG_ENDIAN else LITTLE
        self._top_order = self._order
        # The first element tells explicit from implicit VR, not the transfer syntax: pydicom does
        # so too, and some private transfer syntaxes are implicit.
        self._part = _UNSURE if transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN else _UNDECIDED
        self._open: list[tuple[ByteOrder, Part]] = []  # what each open sequence or item interrupted
        self._held = b""  # the start of an element that the last fragment cut
        self._skip = 0  # octets to come before the next header
        self._walked = 0  # octets walked, once inflated
        self._base = 0  # offset of the octets at hand
        self._spent = 0  # see INFLATED_ALLOWANCE
        self._stray = False  # an item delimiter ended the top level
        self._stopped = False

    @property
    def deflated(self) -> bool:
        """Is the data set inflated to be walked? Then a walk costs what it holds, not what it is fed."""
        return self._inflater is not None

    @property
    def header_passed(self) -> bool:
        """Is the walk past the elements whose values it keeps?

        They are in order of their tags (PS3.5 7.1). Of a data set in which they are not, and of one that
        ends before, it may be seen no sooner than at the end what it has to say.
        """
        return self._stopped or self._top_order.turned(self._tag) > LAST_KEPT

    def feed(self, data: bytes | memoryview) -> None:
        """Walk the next octets. Never raises for what the peer sent."""
        if self._inflater is None:
            self.octets += len(data)
            if not self._stopped:
                self._walk(data)
        else:
            for _ in self.inflate(data):
                pass

    def inflate(self, data: bytes | memoryview, *, last: bool = False) -> Iterator[int]:
        """Walk the next octets of a deflated data set, bit by bit; yield how many octets each was.

        :param last: what waits for a block to be whole, too.
        """
        inflater = self._inflater
        assert inflater is not None
        self.octets += len(data)
        try:
            for piece in inflater.pieces(data, last=last) if not self._stopped else ():
                self._spent += max(0, len(piece) - self._skip)
                self._walk(piece)
                # What is behind this, and may have come already, does not pay for it.
                if not self._stopped and (
                    self._spent > INFLATED_ALLOWANCE + INFLATED_RATIO * inflater.taken
                    or self._walked > TOTAL_ALLOWANCE + TOTAL_RATIO * inflater.taken
                ):
                    self._stop(f"data set inflates too far, at octet {self._walked}")
                if self._stopped:
                    return
                yield len(piece)
        except zlib.error:
            self._stop(f"deflated data set is corrupt before octet {inflater.taken}")

    def feed_sequence(
        self, fragments: Sequence[bytes | memoryview], enough: Callable[[], bool] = lambda: False
    ) -> Sequence[bytes | memoryview]:
        """Walk the next octets: what :meth:`feed` does for each of ``fragments``.

        :param enough: is asked after each ``PIECE`` that had to be looked at: is that enough for now?
            What is deflated is walked without asking.
        :return: what has yet to be walked; nothing, unless that was enough.
        """
        if self._inflater is not None or (len(fragments) == 1 and len(fragments[0]) <= PIECE):
            for fragment in fragments:
                self.feed(fragment)
            return ()
        left = sum(map(len, fragments))
        start = 0  # of what is left of the fragment
        looked = False
        for index, fragment in enumerate(fragments):
            while not (self._skip >= left or self._stopped):
                if looked and enough():
                    return fragment[start:], *fragments[index + 1 :]
                end = start + self._skip + PIECE
                piece = fragment if not start and end >= len(fragment) else fragment[start:end]
                taken = len(piece)
                self.octets += taken
                self._walk(piece)
                looked = True
                left -= taken
                start += taken
                if start == len(fragment):
                    start = 0
                    break
            else:
                break  # most of a data set is inside some long value
        self.octets += left
        self._walked += left
        self._skip = max(0, self._skip - left)
        return ()

    def end(self) -> None:
        """Settle the verdict: the data set has ended."""
        if self._inflater is not None:
            for _ in self.inflate(b"", last=True):
                pass
        held = len(self._held)
        if self._stopped:
            pass
        elif self._inflater and self.octets and not self._inflater.ended:
            self._stop(f"deflated data set is cut at octet {self.octets}")
        elif not self._walked:
            self._stop("data set is empty")
        elif self._open or self._skip or held >= 8:
            order = self._open[0][0] if self._open else self._order
            self._stop(f"data set ends inside {order.named(self._tag)} at octet {self._walked}")
        elif self._stray:
            self._base = self._walked - held
            self._padding(self._held, 0)
        elif any(self._held) or held == self._walked:
            # Zeros after an element are padding. Eight of them are read as an empty (0000,0000).
            self._stop(f"data set ends inside an element header at octet {self._walked}")
        self.whole = self.fault is None

    def _stop(self, fault: str) -> None:
        self.fault = fault
        self._stopped = True
        self._held = b""
        self._open = []

    def _walk(self, data: bytes | memoryview) -> None:
        """Walk octets which are not deflated, or no longer."""
        size = len(data)
        self._base = self._walked
        self._walked += size
        if self._skip >= size:
            self._skip -= size
            return
        if self._held:
            # The element that was cut is completed from a copy of its octets, not of the fragment.
            held = len(self._held)
            head = self._held + data[:LONGEST_HEAD]
            self._base -= held
            position = self._elements(head, 0)
            if len(head) == held + size:
                data, size = head, len(head)
            else:
                self._base += held
                position = self._elements(data, position - held)
        else:
            position = self._elements(data, self._skip)
        self._held = bytes(data[position:])
        self._skip = max(0, position - size)

    def _elements(self, data: bytes | memoryview, position: int) -> int:
        """Walk every header in ``data``, and return where the next one starts.

        That is before the end of ``data`` if it is cut there, or past it by what is to be skipped.
        """
        end = len(data)
        start = -1
        while start < position <= end - 8 and not self._stopped:
            start = position
            self._spent += TURN
            if self._stray:
                position = self._padding(data, position)
            elif self._part in _OF_ITEMS:
                position = self._items(data, position)
            else:
                position = self._data_set(data, position)
        return end if self._stopped else position

    def _data_set(self, data: bytes | memoryview, position: int) -> int:
        """Walk elements, up to where a sequence opens, the item closes or the octets end."""
        order, end, top = self._order, len(data), not self._open
        if self._part is not _EXPLICIT and self._part is not _IMPLICIT:
            self._part = self._decided(bytes(data[position + 4 : position + 8]))
        explicit = self._part is _EXPLICIT
        unpack_element, unpack_item, unpack_length = order.element, order.item, order.length
        marked = order.marked if top else order.delimiters
        vr, tag = b"", 0
        while (value := position + 8) <= end:
            if explicit:
                tag, vr, length = unpack_element(data, position)
                if vr in SHORT_VRS:
                    if tag not in marked:  # as most of them
                        position = value + length
                        continue
                    name = marked[tag]
                    if name and length <= LONGEST_VALUE and value + length <= end:
                        position = value + length
                        setattr(self, name, text(data[value:position]))
                        continue
                elif vr in LONG_VRS:
                    value += 4
                    if value > end:
                        break
                    (length,) = unpack_length(data, position + 8)
                elif not b"AA" <= vr <= b"ZZ":
                    vr = b""
                    (length,) = unpack_length(data, position + 4)
            else:
                tag, length = unpack_item(data, position)
                if tag not in marked and length != UNDEFINED_LENGTH:
                    position = value + length
                    continue
            if tag in marked:
                if tag == order.item_delimiter:
                    self._close()
                    return value
                if value + length > end and length <= LONGEST_VALUE:
                    break
                kept = text(data[value : value + length]) if length <= LONGEST_VALUE else None
                setattr(self, marked[tag], kept)
            if length == UNDEFINED_LENGTH:
                if top:
                    self._tag = tag
                if tag == order.pixel_data or vr not in SEQUENCE_VRS:
                    self._enter(_FRAGMENTS, position)
                elif not explicit:
                    self._enter(_IMPLICIT_ITEMS, position)
                else:
                    self._enter(_UNKNOWN_ITEMS if vr == b"UN" else _ITEMS, position)
                return value
            position = value + length
        if top:
            self._tag = tag
        return position

    def _decided(self, octets: bytes) -> Part:
        """Return whether VRs are explicit, by four octets of an element behind its tag: VR, or a length."""
        vr = octets[:2]
        if self._part is _UNSURE:
            explicit = vr in SHORT_VRS or (vr in LONG_VRS and octets[2:] == b"\0\0")
        else:
            explicit = vr.isalpha() and vr.isupper()
        return _EXPLICIT if explicit else _IMPLICIT

    def _items(self, data: bytes | memoryview, position: int) -> int:
        """Walk the items of a sequence or the fragments of pixel data, skipping those with a length."""
        order, end = self._order, len(data)
        while position + 8 <= end:
            tag, length = order.item(data, position)
            if tag == order.sequence_delimiter:
                self._close()
                return position + 8
            if tag in order.items and length != UNDEFINED_LENGTH:
                position += 8 + length
            elif tag in order.items and self._part is not _FRAGMENTS:
                part = self._part
                first = _UNDECIDED if part is _ITEMS else _UNSURE if part is _UNKNOWN_ITEMS else _IMPLICIT
                self._enter(first, position)
                return position + 8
            elif tag in TURNED_TAGS and self._part in (_ITEMS, _UNKNOWN_ITEMS):
                # PS3.5 6.2.2: the items of a UN are implicit VR little endian, whatever is around it.
                order, self._order, self._part = LITTLE, LITTLE, _IMPLICIT_ITEMS
            else:
                # An item whose length is wrong, or a value of undefined length that is no sequence.
                self._stop(f"no item where one is due, at octet {self._base + position}")
                break
        return position

    def _enter(self, part: Part, position: int) -> None:
        """Open a sequence or an item of undefined length."""
        if len(self._open) == DEEPEST:
            self._stop(f"sequences are nested too deep, at octet {self._base + position}")
        else:
            self._open.append((self._order, self._part))
            self._part = part

    def _close(self) -> None:
        """Close the innermost sequence or item. Where none is open, pydicom reads no further."""
        if self._open:
            self._order, self._part = self._open.pop()
        else:
            self._stray = True

    def _padding(self, data: bytes | memoryview, position: int) -> int:
        """Find fault with octets that pydicom would not read, unless they are zeros."""
        octets = bytes(data[position:])
        strange = octets.lstrip(b"\0")
        if strange:
            offset = self._base + len(data) - len(strange)
            self._stop(f"item delimiter outside of items before octet {offset}")
        return len(data)


def text(value: bytes | memoryview) -> str:
    """Decode a value for a file name or a log line: as UTF-8, or else octet by octet.

    The Specific Character Set is left aside: UIDs need none, and other names do not need its tables.
    """
    try:
        decoded = str(value, "utf-8")
    except UnicodeDecodeError:
        decoded = str(value, "latin-1")
    return decoded.rstrip("\0 ")
