"""Whole sessions as a peer sends them, to be mutated: valid octets of every kind that an acceptor reads."""

from __future__ import annotations

import struct

from dicomnode.core.codec import encode
from dicomnode.core.command import CCancelRQ, CEchoRQ, CFindRQ, Command, CStoreRQ, UnrecognizedRQ
from dicomnode.core.items import (
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from dicomnode.core.pdu import Abort, AssociateRQ, ProposedContext, ReleaseRQ, p_data_tf
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, VERIFICATION

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

REQUEST = AssociateRQ(
    "ANY-SCP",
    "MUTANT",
    (
        ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,)),
        ProposedContext(3, CT_IMAGE_STORAGE, (EXPLICIT_VR_LE,)),
        ProposedContext(5, CT_IMAGE_STORAGE, (IMPLICIT_VR_LE,)),
        ProposedContext(7, CT_IMAGE_STORAGE, (DEFLATED,)),
        ProposedContext(9, CT_IMAGE_STORAGE, (BIG_ENDIAN,)),
        ProposedContext(11, "1.2.3.4", (EXPLICIT_VR_LE, "1.2.3.5")),
    ),
    UserInformation(
        max_length=16382,
        implementation_class_uid="1.2.3",
        implementation_version_name="MUTANT",
        asynchronous_operations_window=(1, 1),
        roles=(RoleSelection(CT_IMAGE_STORAGE, True, False),),
        extended=(ExtendedNegotiation(CT_IMAGE_STORAGE, b"\1\0"),),
        common_extended=(CommonExtendedNegotiation("1.2.3.4", "1.2.840.10008.4.2", (CT_IMAGE_STORAGE,)),),
        user_identity=UserIdentity(2, b"user", b"pass"),
    ),
)


def _element(group: int, number: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    value += b"\0" * (len(value) & 1)
    return struct.pack(order + "HH2sH", group, number, vr, len(value)) + value


def data_set(uid: str, order: str = "<") -> bytes:
    """Return a small data set in explicit VR, with a sequence and encapsulated pixel data."""
    item = _element(0x0008, 0x1150, b"UI", CT_IMAGE_STORAGE.encode(), order)
    sequence = struct.pack(order + "HH2sxxI", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF)
    sequence += struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item
    sequence += struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0) + struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
    pixels = struct.pack(order + "HH2sxxI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF)
    for fragment in (b"", b"\1\2\3\4"):
        pixels += struct.pack(order + "HHI", 0xFFFE, 0xE000, len(fragment)) + fragment
    pixels += struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
    return b"".join(
        (
            _element(0x0008, 0x0016, b"UI", CT_IMAGE_STORAGE.encode(), order),
            _element(0x0008, 0x0018, b"UI", uid.encode(), order),
            _element(0x0008, 0x0060, b"CS", b"CT", order),
            sequence,
            _element(0x0010, 0x0010, b"PN", b"Mutant^A", order),
            pixels,
        )
    )


def implicit(uid: str) -> bytes:
    """Return a smaller data set in implicit VR."""
    values = ((0x0016, CT_IMAGE_STORAGE.encode()), (0x0018, uid.encode()), (0x0060, b"CT"))
    padded = ((number, value + b"\0" * (len(value) & 1)) for number, value in values)
    return b"".join(struct.pack("<HHI", 0x0008, number, len(value)) + value for number, value in padded)


def message(context_id: int, command: Command, data: bytes | None = None, cut: int = 100) -> list[bytes]:
    """Return the PDUs of a message; its data set is cut into fragments of ``cut`` octets."""
    pdus = [p_data_tf(context_id, True, True, encode(command, data is not None))]
    for start in range(0, len(data or b""), cut):
        assert data is not None
        pdus.append(p_data_tf(context_id, False, start + cut >= len(data), data[start : start + cut]))
    return pdus


def store(context_id: int, uid: str, data: bytes, message_id: int = 1) -> list[bytes]:
    """Return the PDUs of a C-STORE."""
    request = CStoreRQ(
        affected_sop_class_uid=CT_IMAGE_STORAGE, message_id=message_id, affected_sop_instance_uid=uid
    )
    return message(context_id, request, data)


def deflated(data: bytes) -> bytes:
    """Deflate a data set as PS3.5 A.5 has it."""
    import zlib

    squeezed = zlib.compressobj(wbits=-15)
    return squeezed.compress(data) + squeezed.flush()


#: The sessions: each a list of PDUs.
SESSIONS: list[list[bytes]] = [
    [
        REQUEST.encode(),
        *message(1, CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=1)),
        ReleaseRQ().encode(),
    ],
    [REQUEST.encode(), *store(3, "1.2.3", data_set("1.2.3")), ReleaseRQ().encode()],
    [REQUEST.encode(), *store(5, "1.2.4", implicit("1.2.4")), ReleaseRQ().encode()],
    [REQUEST.encode(), *store(7, "1.2.5", deflated(data_set("1.2.5"))), Abort().encode()],
    [REQUEST.encode(), *store(9, "1.2.6", data_set("1.2.6", ">")), ReleaseRQ().encode()],
    [
        REQUEST.encode(),
        *store(3, "1.2.7", data_set("1.2.7")),
        *store(3, "1.2.8", data_set("1.2.8"), 2),
        *message(3, CFindRQ(affected_sop_class_uid=CT_IMAGE_STORAGE, message_id=3), b"\0" * 8),
        *message(3, CCancelRQ(message_id_being_responded_to=3)),
        *message(1, UnrecognizedRQ(command_field=0x0077, message_id=4)),
        ReleaseRQ().encode(),
    ],
    [
        REQUEST.encode() + b"".join(store(3, "1.2.9", data_set("1.2.9"))) + ReleaseRQ().encode(),
    ],
]
