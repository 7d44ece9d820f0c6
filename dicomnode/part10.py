"""What stands before a data set in a DICOM file (PS3.10 7.1)."""

from __future__ import annotations

from struct import Struct

from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import Instance

#: What may stand in File Meta, as it is; anything else as a question mark. So does a backslash, which
#: would make two values of one.
_DEFAULT_REPERTOIRE = bytes(octet if 0x20 <= octet < 0x7F and octet != 0x5C else 0x3F for octet in range(256))

_UL = Struct("<I")
#: Tag, VR, and a length of two octets (PS3.5 7.1.2); or, for OB, of four after two reserved ones.
_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2sxxI")


def part10_header(instance: Instance) -> bytes:
    """Return what precedes the data set in a DICOM file: preamble, prefix, File Meta (PS3.10 7.1)."""
    elements = [_LONG.pack(0x0002, 0x0001, b"OB", 2), b"\0\1"]
    for number, vr, value in (
        (0x0002, b"UI", instance.sop_class_uid),
        (0x0003, b"UI", instance.sop_instance_uid),
        (0x0010, b"UI", instance.transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        (0x0016, b"AE", instance.calling_ae_title),
        (0x0018, b"AE", instance.called_ae_title),
    ):
        if value:
            octets = _default_repertoire(value)
            if len(octets) & 1:
                octets += b"\0" if vr == b"UI" else b" "
            elements.append(_SHORT.pack(0x0002, number, vr, len(octets)))
            elements.append(octets)
    body = b"".join(elements)
    return b"".join((bytes(128), b"DICM", _SHORT.pack(0x0002, 0x0000, b"UL", 4), _UL.pack(len(body)), body))


def _default_repertoire(value: str) -> bytes:
    """File Meta knows but the default character repertoire, without control characters (PS3.5 6.1.3)."""
    return value.encode("latin-1", "replace").translate(_DEFAULT_REPERTOIRE)
