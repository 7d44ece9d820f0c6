"""What stands before a data set in a DICOM file (PS3.10 7.1): written, and read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import BinaryIO

from dicomnode.errors import InvalidFile
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import Instance

#: What may stand in File Meta, as it is; anything else as a question mark. So does a backslash, which
#: would make two values of one.
_DEFAULT_REPERTOIRE = bytes(octet if 0x20 <= octet < 0x7F and octet != 0x5C else 0x3F for octet in range(256))

_UL = Struct("<I")
#: Tag, VR, and a length of two octets (PS3.5 7.1.2); or, for OB, of four after two reserved ones.
_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2sxxI")

#: The preamble, the prefix, and File Meta Information Group Length but for its value.
_PREAMBLE = bytes(128) + b"DICM" + _SHORT.pack(0x0002, 0x0000, b"UL", 4)


def part10_header(instance: Instance) -> bytes:
    """Return what precedes the data set in a DICOM file: preamble, prefix, File Meta (PS3.10 7.1)."""
    before, behind = _around(
        instance.sop_class_uid,
        instance.transfer_syntax_uid,
        instance.calling_ae_title,
        instance.called_ae_title,
    )
    uid = _element(0x0003, b"UI", instance.sop_instance_uid)
    length = _UL.pack(len(before) + len(uid) + len(behind))
    return b"".join((_PREAMBLE, length, before, uid, behind))


@lru_cache(maxsize=256)
def _around(sop_class: str, transfer_syntax: str, calling: str, called: str) -> tuple[bytes, bytes]:
    """Return what stands before and behind the SOP Instance UID: it is the same for a whole series."""
    before = _LONG.pack(0x0002, 0x0001, b"OB", 2) + b"\0\1" + _element(0x0002, b"UI", sop_class)
    behind = (
        _element(0x0010, b"UI", transfer_syntax),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        _element(0x0016, b"AE", calling),
        _element(0x0018, b"AE", called),
    )
    return before, b"".join(behind)


def _element(number: int, vr: bytes, value: str) -> bytes:
    """Encode an element of group 0002; one without a value is left out."""
    if not value:
        return b""
    octets = _default_repertoire(value)
    if len(octets) & 1:
        octets += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(0x0002, number, vr, len(octets)) + octets


def _default_repertoire(value: str) -> bytes:
    """File Meta knows but the default character repertoire, without control characters (PS3.5 6.1.3)."""
    return value.encode("latin-1", "replace").translate(_DEFAULT_REPERTOIRE)


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the File Meta Information of a DICOM file says of the data set behind it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: int  #: where the data set begins: octets from the beginning of the file


#: VRs whose length has four octets (PS3.5 7.1.2); those of group 0002 are among them.
_LONG_VRS = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT"))


def read_file_meta(file: BinaryIO) -> FileMeta:
    """Read the File Meta Information of a DICOM file, and leave the file where the data set begins.

    A preamble may be missing, as it is in files of old; File Meta Information may not.

    :raises InvalidFile: when it is none, or says not which instance it is, or not how it is encoded.
    """
    start = file.read(132)
    position = 132 if start[128:] == b"DICM" else 0
    uids: dict[int, str] = {}
    while True:
        file.seek(position)
        head = file.read(12)
        if head[:2] != b"\2\0":
            break
        if head[4:6] in _LONG_VRS:
            length, size = int.from_bytes(head[8:12], "little"), 12
        else:
            length, size = int.from_bytes(head[6:8], "little"), 8
        if len(head) < size:
            raise InvalidFile("the File Meta Information ends inside an element")
        if head[4:6] == b"UI":
            file.seek(position + size)
            uids[int.from_bytes(head[2:4], "little")] = file.read(length).decode("latin-1").rstrip("\0 ")
        position += size + length
    for number, name in ((0x0002, "SOP Class"), (0x0003, "SOP Instance"), (0x0010, "Transfer Syntax")):
        if not uids.get(number):
            raise InvalidFile(f"there is no File Meta Information that gives a {name} UID")
    file.seek(position)
    return FileMeta(uids[0x0002], uids[0x0003], uids[0x0010], position)
