"""Messages that are encoded before the clock starts: what the load generator sends is made here.

Instances of one size are alike but for their UID. So a message is a head of its own, some 700 octets,
and a body that all share: 400 instances of 512 KiB take one megabyte, which the caches hold, and not
200, which would push the pages of what is measured out of them. Even 4 GiB are a megabyte, repeated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from math import gcd
from typing import TypeAlias

from dicomnode.core.codec import encode
from dicomnode.core.command import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP
from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import AnsweredContext, AssociateAC, ReleaseRP, p_data_tf
from dicomnode.uids import EXPLICIT_VR_LE, VERIFICATION

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"

#: The implementation class UID, which is mandatory: DCMTK insists.
IMPLEMENTATION = "1.2.826.0.1.3680043.10.1"

#: Presentation context ids.
STORAGE, ECHO = 1, 3

#: Octets of data set in a PDU: what fits 16382, the least that any of the peers accepts by default.
FRAGMENT = 16376

#: All UIDs begin so, and are of one length.
PREFIX = "1.2.826.0.1.3680043.10.1.1"

#: The pixel data, again and again.
_PERIOD = bytes(range(256))
_PATTERN = _PERIOD * 4096

#: What is sent in one go; a body of more is this many octets again and again.
_BLOCK = 1 << 19

#: Where the head of a message ends: both its UIDs are before it.
_HEAD = 700

#: The octets of a message, in pieces to be sent one after the other.
Message: TypeAlias = tuple[bytes, ...]


def uid(number: int) -> str:
    """Return a UID; all are of one length."""
    return f"{PREFIX}{number:08d}"


def element(group: int, element: int, vr: bytes, value: bytes, *, implicit: bool = False) -> bytes:
    """Return a data element, in Little Endian."""
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) & 1)
    if implicit:
        return struct.pack("<HHI", group, element, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _pixels(offset: int, octets: int) -> bytes:
    offset %= len(_PERIOD)
    if offset + octets <= len(_PATTERN):
        return _PATTERN[offset : offset + octets]
    return (_PERIOD * (octets // len(_PERIOD) + 2))[offset : offset + octets]


_ELEMENTS = (
    (0x0008, 0x0060, b"CS", b"CT"),
    (0x0010, 0x0010, b"PN", b"Benchmark^Load"),
    (0x0010, 0x0020, b"LO", b"LOAD"),
    (0x0020, 0x000D, b"UI", b"1.2.826.0.1.3680043.10.1.2"),
    (0x0020, 0x000E, b"UI", b"1.2.826.0.1.3680043.10.1.3"),
)


def _start(number: int, octets: int, implicit: bool = False) -> tuple[bytes, int]:
    """Return what is before the pixels of a data set, and their number."""
    uids = (
        (0x0008, 0x0016, b"UI", CT_IMAGE_STORAGE.encode()),
        (0x0008, 0x0018, b"UI", uid(number).encode()),
    )
    head = b"".join(element(*what) for what in (*uids, *_ELEMENTS))
    pixels = max(octets - len(head) - 12, 2) & ~1
    if implicit:
        head = b"".join(element(*what, implicit=True) for what in (*uids, *_ELEMENTS))
        return head + struct.pack("<HHI", 0x7FE0, 0x0010, pixels), pixels
    return head + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", pixels), pixels


def data_set(number: int, octets: int, turn: int = 0, *, implicit: bool = False) -> Iterator[bytes]:
    """Yield a data set of about ``octets`` octets, in blocks.

    :param turn: where its pixels begin: those of another number are other pixels.
    :param implicit: in Implicit VR Little Endian, and not Explicit.
    """
    head, pixels = _start(number, octets, implicit)
    yield head
    for offset in range(0, pixels, _BLOCK):
        yield _pixels(turn + offset, min(_BLOCK, pixels - offset))


def c_store(number: int, octets: int, *, fragment: int = FRAGMENT, turn: int = 0) -> Message:
    """Return the PDUs of a C-STORE-RQ.

    Its Message ID is 1, as all others': one that is answered may be used again (PS3.7 9.1.1.1.1).

    :param fragment: how much of the data set goes into a PDU.
    """
    head, body = _template(octets, fragment, turn)
    return head.replace(uid(0).encode(), uid(number).encode()), *body


@lru_cache(maxsize=64)
def _template(octets: int, fragment: int, turn: int) -> tuple[bytes, Message]:
    request = CStoreRQ(
        affected_sop_class_uid=CT_IMAGE_STORAGE, message_id=1, affected_sop_instance_uid=uid(0)
    )
    command = p_data_tf(STORAGE, True, True, encode(request, has_data_set=True))
    start, pixels = _start(0, octets)
    first = min(fragment - len(start), pixels)
    assert first >= 0, f"fragments of {fragment} octets are too short for the start of a data set"
    pdu = p_data_tf(STORAGE, False, first == pixels, start + _pixels(turn, first))
    joined = command + pdu
    pieces = list(_fragments(turn + first, pixels - first, fragment)) if first < pixels else [b""]
    pieces[0] = joined[_HEAD:] + pieces[0]
    return joined[:_HEAD], tuple(pieces)


def _fragments(offset: int, pixels: int, fragment: int) -> Iterator[bytes]:
    """Yield the other PDUs of a data set, joined; equal ones are the same object."""
    whole = (pixels - 1) // fragment
    # So many fragments, and the pixels are where they were.
    cycle = len(_PERIOD) // gcd(fragment, len(_PERIOD))
    cycle *= max(_BLOCK // (cycle * fragment), 1)
    if whole >= cycle:
        block = b"".join(
            p_data_tf(STORAGE, False, False, _pixels(offset + i * fragment, fragment)) for i in range(cycle)
        )
        for _ in range(whole // cycle):
            yield block
    left = [
        p_data_tf(STORAGE, False, False, _pixels(offset + i * fragment, fragment))
        for i in range(whole // cycle * cycle, whole)
    ]
    last = _pixels(offset + whole * fragment, pixels - whole * fragment)
    yield b"".join((*left, p_data_tf(STORAGE, False, True, last)))


def answers() -> tuple[bytes, bytes, bytes, bytes]:
    """Return what a peer without a mind of its own answers.

    It is A-ASSOCIATE-AC, with both contexts accepted, A-RELEASE-RP, C-ECHO-RSP and C-STORE-RSP.
    """
    contexts = (AnsweredContext(STORAGE, 0, EXPLICIT_VR_LE), AnsweredContext(ECHO, 0, EXPLICIT_VR_LE))
    information = UserInformation(max_length=16384, implementation_class_uid=IMPLEMENTATION)
    c_echo_rsp = CEchoRSP(message_id_being_responded_to=1, status=0, affected_sop_class_uid=VERIFICATION)
    c_store_rsp = CStoreRSP(
        message_id_being_responded_to=1,
        status=0,
        affected_sop_class_uid=CT_IMAGE_STORAGE,
        affected_sop_instance_uid=uid(0),
    )
    return (
        AssociateAC("ANY-SCP", "LOAD", contexts, information).encode(),
        ReleaseRP().encode(),
        p_data_tf(ECHO, True, True, encode(c_echo_rsp)),
        p_data_tf(STORAGE, True, True, encode(c_store_rsp)),
    )


def c_echo() -> Message:
    """Return the PDU of a C-ECHO-RQ."""
    request = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=1)
    return (p_data_tf(ECHO, True, True, encode(request)),)
