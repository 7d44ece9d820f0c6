"""Turns the octets of a transport connection into PDUs, and P-DATA-TF into PDV fragments.

Between two reads it keeps at most an unfinished header, or an unfinished small PDU below its
limit. A P-DATA-TF is never assembled: its fragments are slices of what was read, so that memory
does not depend on the maximum length negotiated (PS3.8 9.3.5, Annex D.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import TypeAlias

from dicomnode.core.pdu import (
    ASSOCIATE_AC,
    ASSOCIATE_RQ,
    DATA_HEADER,
    DATA_HEADER_SIZE,
    HEADER,
    HEADER_SIZE,
    INVALID_PDU_PARAMETER_VALUE,
    P_DATA_TF,
    PDUS,
    PDV_HEADER,
    PDV_HEADER_SIZE,
    UNRECOGNIZED_PDU,
)
from dicomnode.errors import InvalidPDU

#: The longest A-ASSOCIATE-RQ or -AC that is read, in octets: 128 contexts of all the transfer syntaxes
#: that there are take 180 KiB. As much is kept for each peer that has yet to complete one.
ASSOCIATE_LIMIT = 1 << 18

#: PDVs of a data set that are looked at before what they hold is yielded: no more than one ``writev`` takes,
#: and little enough to do at a stretch, though each were of an octet, or of none.
FRAGMENTS = 512

_unpack_header = HEADER.unpack_from
_unpack_data_header = DATA_HEADER.unpack_from


# Not frozen: a frozen dataclass costs 1.0 us to make, these 0.4, and there are two for each PDV.
@dataclass(slots=True)
class PDUHeader:
    """The header of a PDU; its variable field follows. :meth:`PDUReader.skip` passes over that."""

    pdu_type: int
    length: int


@dataclass(slots=True)
class PDUBody:
    """The whole variable field of a PDU other than P-DATA-TF."""

    pdu_type: int
    data: memoryview


@dataclass(slots=True)
class PDVFragment:
    """The part of a PDV which one read contained."""

    context_id: int
    is_command: bool
    is_last: bool  #: of the command set, or data set, to which the PDV belongs
    data: memoryview
    ends_pdv: bool


@dataclass(slots=True)
class DataSetFragments:
    """Fragments of the data set that is awaited, one behind the other."""

    data: list[memoryview]  #: of what the transport delivered; none of them is empty
    is_last: bool  #: do they end the data set?
    pdvs: int = 1  #: that were looked at for them, empty ones too: what it has cost


Item: TypeAlias = PDUHeader | PDUBody | PDVFragment | DataSetFragments | InvalidPDU


class PDUReader:
    """Reads PDUs as they come.

    :param max_length: the longest variable field of a P-DATA-TF, in octets; 0 is no limit.
    """

    #: Does nobody need to be told of the PDUs that bring PDVs? Then a P-DATA-TF has no :class:`PDUHeader`.
    plain: bool
    #: Where it is plain: the presentation context on which fragments of a data set are awaited. They are
    #: yielded as :class:`DataSetFragments`, until the last.
    data_set_context: int | None

    def __init__(self, max_length: int = 0) -> None:
        self.plain = False
        self.data_set_context = None
        self._max_length = max_length
        self._header = b""  # of a PDU, or of a PDV inside one: what has come of it
        self._type = 0
        self._pdu_left = 0  # octets of the PDU's variable field yet to come
        self._body: bytearray | None = None  # of a PDU other than P-DATA-TF
        self._pdv = (0, False, False)
        self._pdv_left = 0  # octets of the PDV's fragment yet to come
        self._in_pdv = False
        # The header of the last command set that was found, its presentation context, and its P-DATA-TF's end
        self._command_header: tuple[int, ...] = ()
        self._command = 0, 0
        self._run = 0  # octets of the last PDU that was begun and holds one PDV: the next may be like it
        self._skipping = False

    @property
    def in_pdu(self) -> bool:
        """Has a PDU begun that has not ended?"""
        return bool(self._pdu_left or self._header)

    def skip(self) -> None:
        """Pass over what is left of the PDU in hand, without looking at it."""
        if self._pdu_left:
            # A PDV header that was cut in two has come in part, but is counted only when whole.
            self._pdu_left -= len(self._header)
            self._header = b""
        self._skipping = True
        self._body = None
        self._in_pdv = False

    def feed(self, data: bytes | memoryview) -> Iterator[Item]:
        """Yield what ``data`` holds, a thing at a time, as it is asked for.

        A :class:`PDUHeader` comes before anything of its PDU is looked at: so what is done about it
        (:meth:`skip`, or nothing) decides how that PDU is read. An :class:`InvalidPDU` is yielded,
        not raised: the rest of its PDU is skipped, and reading goes on behind it.
        """
        view = memoryview(data)
        return self._behind_header(view) if self._header else self._walk(view)

    # What is taken at once, without an iterator: nearly all of what there is to take.

    def find_command_set(self, view: memoryview) -> tuple[int, int]:
        """Find the command set with which ``view`` begins, if it is whole, and the only PDV of its P-DATA-TF.

        So commands come. Return its presentation context, and where the P-DATA-TF ends: it is taken by
        whoever goes on from there. Anything else, of which (0, 0) is returned, is for :meth:`feed`.
        """
        within = self._pdu_left or self._header or self._skipping or self.data_set_context
        if within or not self.plain or len(view) < DATA_HEADER_SIZE:
            return 0, 0
        header = _unpack_data_header(view)
        if header != self._command_header:
            pdu_type, room, length, context_id, control = header
            whole = room == length + 4 and control & 3 == 3 and length >= 2
            if not whole or pdu_type != P_DATA_TF or room > (self._max_length or room):
                return 0, 0
            self._command_header = header  # those of one peer are much alike
            self._command = context_id, HEADER_SIZE + room
        return self._command if self._command[1] <= len(view) else (0, 0)

    def find_pdu(self, view: memoryview) -> tuple[int, int]:
        """Find the PDU with which ``view`` begins, if it is whole, and no P-DATA-TF: return its type and end.

        As above, anything else is for :meth:`feed`: a PDU, too, that is longer than it may be.
        """
        if self._pdu_left or self._header or self._skipping or len(view) < HEADER_SIZE:
            return 0, 0
        pdu_type, length = _unpack_header(view)
        behind = HEADER_SIZE + length
        if behind > len(view) or (length != 4 and pdu_type not in (ASSOCIATE_RQ, ASSOCIATE_AC)):
            return 0, 0
        return (pdu_type, behind) if length <= ASSOCIATE_LIMIT else (0, 0)

    def take_data_set(self, view: memoryview, position: int = 0) -> tuple[int, DataSetFragments] | None:
        """Take what ``view`` holds, from ``position`` on, of the data set that is awaited.

        Return where that ends, and what it is. What is behind is for :meth:`feed`; all of it is where None
        is returned, which it never is behind a command set that was found.
        """
        awaited = self.data_set_context
        if awaited is None or not self.plain or self._header or self._skipping:
            return None
        left, run = self._pdu_left, None
        if left:
            if self._in_pdv and self._run and self._pdv_left == left and self._pdv == (awaited, False, False):
                run = self._take_run(view, position, left, awaited)
        elif len(view) - position >= DATA_HEADER_SIZE:
            pdu_type, room, length, context_id, control = _unpack_data_header(view, position)
            allowed = pdu_type == P_DATA_TF and room <= (self._max_length or room)
            if allowed and context_id == awaited and room == length + 4 > 6:  # one PDV, which is not empty
                behind = position + HEADER_SIZE + room
                if control & 3 == 2 and behind <= len(view):  # all of a data set that is small
                    self.data_set_context = None
                    return behind, DataSetFragments([view[position + DATA_HEADER_SIZE : behind]], True)
                self._run = HEADER_SIZE + room
                run = self._take_run(view, position, 0, awaited)
        return run or self._data_set(view, position, awaited)

    def _take_run(
        self, view: memoryview, position: int, left: int, context_id: int
    ) -> tuple[int, DataSetFragments] | None:
        """Take a read of PDUs that are alike, as those of a large data set are: cut anywhere, or by its end.

        Each of them holds one PDV. Where it is otherwise, None is returned.

        :param left: what is to come of the first of them.
        """
        size, start, end = self._run, position + left, len(view)
        count, rest = divmod(end - start, size)
        if rest < DATA_HEADER_SIZE or not 0 <= count < FRAGMENTS - 1:
            return None
        tail = end - rest
        header, unpack = _run_of(size, context_id)
        is_last = view[tail : tail + DATA_HEADER_SIZE] != header
        if is_last and not _ends(view[tail:], size, context_id):
            return None
        if list(unpack(view[start:tail])).count((header,)) < count:
            return None
        fragments = _cut(view, start, size, tail)
        if left:
            fragments.insert(0, view[position:start])
        if rest > DATA_HEADER_SIZE:
            fragments.append(view[tail + DATA_HEADER_SIZE :])
        if is_last:
            self._pdv_left = self._pdu_left = 0
            self._in_pdv = False
            self.data_set_context = None
        else:
            self._pdv_left = self._pdu_left = size - rest
            self._in_pdv = True
            self._pdv = context_id, False, False
        return end, DataSetFragments(fragments, is_last, count + (2 if left else 1))

    def _behind_header(self, view: memoryview) -> Iterator[Item]:
        # What completes the header is copied, and not the whole read.
        size = PDV_HEADER_SIZE if self._pdu_left else HEADER_SIZE
        missing = size - len(self._header)
        if len(view) < missing:
            self._header += view
            return
        joined = memoryview(self._header + view[:missing])
        self._header = b""
        yield from self._walk(joined)
        yield from self._walk(view[missing:])

    def _walk(self, view: memoryview) -> Iterator[Item]:
        position = 0
        end = len(view)
        while True:
            if self.data_set_context is not None and self.plain and not self._skipping:
                position, fragments = self._data_set(view, position, self.data_set_context)
                if fragments.data or fragments.is_last or fragments.pdvs == FRAGMENTS:
                    yield fragments
                    continue
            available = end - position
            if self._skipping:
                skipped = min(available, self._pdu_left)
                position += skipped
                self._pdu_left -= skipped
                if self._pdu_left:
                    return
                self._skipping = False
            elif self._in_pdv:
                if not available and self._pdv_left:
                    return
                taken = min(available, self._pdv_left)
                self._pdv_left -= taken
                self._pdu_left -= taken
                self._in_pdv = self._pdv_left > 0
                fragment = view[position : position + taken]
                position += taken
                yield PDVFragment(*self._pdv, fragment, not self._in_pdv)
            elif self._body is not None:
                taken = min(available, self._pdu_left)
                self._body += view[position : position + taken]
                position += taken
                self._pdu_left -= taken
                if self._pdu_left:
                    return
                body, self._body = self._body, None
                yield PDUBody(self._type, memoryview(body))
            elif self._pdu_left:
                if self._pdu_left < PDV_HEADER_SIZE:
                    yield self._refuse("a PDV item is shorter than its header")
                elif available < PDV_HEADER_SIZE:
                    self._header = bytes(view[position:])
                    return
                else:
                    length, context_id, control = PDV_HEADER.unpack_from(view, position)
                    position += PDV_HEADER_SIZE
                    self._pdu_left -= PDV_HEADER_SIZE
                    # The length counts the context id and the control header as well.
                    self._pdv_left = length - 2
                    if 0 <= self._pdv_left <= self._pdu_left:
                        self._pdv = (context_id, bool(control & 1), bool(control & 2))
                        self._in_pdv = True
                    else:
                        yield self._refuse("a PDV item does not end inside its PDU")
            elif available < HEADER_SIZE:
                self._header = bytes(view[position:])
                return
            else:
                if self.plain and available >= DATA_HEADER_SIZE:
                    pdu_type, room, length, context_id, control = _unpack_data_header(view, position)
                    behind = position + HEADER_SIZE + room
                    whole = room == length + 4 and length >= 2 and behind <= end
                    if whole and pdu_type == P_DATA_TF and room <= (self._max_length or room):
                        # One PDV and all of it, as commands come: there is nothing to remember.
                        fragment = view[position + DATA_HEADER_SIZE : behind]
                        position = behind
                        yield PDVFragment(context_id, bool(control & 1), bool(control & 2), fragment, True)
                        continue
                self._type, self._pdu_left = _unpack_header(view, position)
                position += HEADER_SIZE
                yield from self._begin()

    def _data_set(self, view: memoryview, position: int, context_id: int) -> tuple[int, DataSetFragments]:
        """Take what there is of the data set: up to its end, or to what has to be looked at singly.

        A turn of the loop is a PDV, or as many as are alike.
        """
        end = len(view)
        limit = self._max_length or 0xFFFFFFFF
        pdu_left, pdv_left, in_pdv = self._pdu_left, self._pdv_left, self._in_pdv
        current, is_command, is_last = self._pdv
        if in_pdv and (is_command or current != context_id):
            return position, DataSetFragments([], False, 0)
        fragments: list[memoryview] = []
        pdvs = 0
        ended = False
        while pdvs < FRAGMENTS:
            pdvs += 1
            if in_pdv:
                behind = position + pdv_left
                if behind > end:
                    if position < end:
                        fragments.append(view[position:])
                        pdv_left -= end - position
                        pdu_left -= end - position
                        position = end
                    break
                fragments.append(view[position:behind])
                pdu_left -= pdv_left
                position = behind
                in_pdv = False
                if is_last:
                    ended = True
                    self.data_set_context = None
                    break
            if pdu_left:
                if end - position < PDV_HEADER_SIZE:
                    break
                length, current, control = PDV_HEADER.unpack_from(view, position)
                size, room = PDV_HEADER_SIZE, pdu_left - PDV_HEADER_SIZE
            else:
                if end - position < DATA_HEADER_SIZE:
                    break
                pdu_type, room, length, current, control = _unpack_data_header(view, position)
                if pdu_type != P_DATA_TF or room > limit:
                    break
                size = HEADER_SIZE + room
                if (
                    position + size <= end
                    and current == context_id
                    and not control & 3
                    and room == length + 4 > 6
                ):
                    alike = _alike(view, position, size, FRAGMENTS - pdvs + 1)
                    fragments += alike
                    position += size * len(alike)
                    pdvs += len(alike) - 1
                    continue
                if room == length + 4 > 6:
                    self._run = size
                size, room = DATA_HEADER_SIZE, room - PDV_HEADER_SIZE
            if current != context_id or control & 1 or not 0 <= length - 2 <= room:
                break
            position += size
            pdu_left, pdv_left = room, length - 2
            in_pdv, is_last = True, bool(control & 2)
            if not pdv_left:
                # It is over, though the loop may be, too.
                in_pdv = False
                if is_last:
                    ended = True
                    self.data_set_context = None
                    break
        self._pdu_left, self._pdv_left, self._in_pdv = pdu_left, pdv_left, in_pdv
        self._pdv = context_id, False, is_last
        return position, DataSetFragments(fragments, ended, pdvs)

    def _begin(self) -> Iterator[Item]:
        if self._type != P_DATA_TF and self._type not in PDUS:
            yield self._refuse(f"unknown PDU type 0x{self._type:02X}", UNRECOGNIZED_PDU)
            return
        left = self._pdu_left
        if not self.plain or self._type != P_DATA_TF:
            yield PDUHeader(self._type, left)
        if self._skipping:
            return
        if self._type == P_DATA_TF:
            if self._max_length and left > self._max_length:
                yield self._refuse("a P-DATA-TF is longer than the maximum length")
            elif not left:
                yield self._refuse("a P-DATA-TF holds no PDV")  # PS3.8 Table 9-22: one or more
        elif self._type in (ASSOCIATE_RQ, ASSOCIATE_AC):
            if left > ASSOCIATE_LIMIT:
                yield self._refuse("an A-ASSOCIATE PDU is longer than 256 KiB")
            else:
                self._body = bytearray()
        elif left != 4:
            yield self._refuse("a PDU of four octets claims another length")
        else:
            self._body = bytearray()

    def _refuse(self, why: str, reason: int = INVALID_PDU_PARAMETER_VALUE) -> InvalidPDU:
        self.skip()
        return InvalidPDU(why, reason)


def _alike(view: memoryview, position: int, size: int, most: int) -> list[memoryview]:
    """Return the fragments of a P-DATA-TF, of so many octets, and of those behind it that begin as it does.

    A data set comes in PDUs of one PDV, all but the last of one length: what is done for each is left to
    C. The time of a transfer was spent here.
    """
    count = min((len(view) - position) // size, most)
    headers = list(_headers(size).iter_unpack(view[position : position + count * size]))
    first = headers[0]
    if headers.count(first) < count:
        count = next(index for index, header in enumerate(headers) if header != first)
    return _cut(view, position, size, position + count * size)


def _cut(view: memoryview, position: int, size: int, end: int) -> list[memoryview]:
    """Return what P-DATA-TFs hold that are of so many octets each, up to ``end``."""
    starts = range(position + DATA_HEADER_SIZE, end, size)
    return list(map(view.__getitem__, map(slice, starts, range(position + size, end + 1, size))))


@lru_cache(maxsize=64)
def _headers(size: int) -> Struct:
    """Return what takes the headers of P-DATA-TFs of so many octets."""
    return Struct(f"{DATA_HEADER_SIZE}s{size - DATA_HEADER_SIZE}x")


@lru_cache(maxsize=64)
def _run_of(size: int, context_id: int) -> tuple[bytes, Callable[[memoryview], Iterator[tuple[bytes]]]]:
    """Return the header of a P-DATA-TF of so many octets that does not end its data set; and as above."""
    length = size - HEADER_SIZE
    return DATA_HEADER.pack(P_DATA_TF, length, length - 4, context_id, 0), _headers(size).iter_unpack


def _ends(view: memoryview, longest: int, context_id: int) -> bool:
    """Is this a P-DATA-TF that ends the data set?"""
    pdu_type, room, length, current, control = _unpack_data_header(view)
    ends = room == length + 4 and control & 3 == 2 and len(view) == HEADER_SIZE + room <= longest
    return bool(ends and pdu_type == P_DATA_TF and current == context_id)
