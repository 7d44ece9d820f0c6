"""Instances made to measure, for tests: a part of :mod:`dicomnode.testing`.

They are as small as an instance can be, or as large as is asked for, and whole: a Storage takes them.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, cast

from dicomnode.core.dataset import Walk
from dicomnode.interfaces import Instance
from dicomnode.part10 import part10_header
from dicomnode.uids import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_NATIVE = (IMPLICIT_VR_LE, EXPLICIT_VR_LE, EXPLICIT_VR_BE)


def data_set(
    sop_instance_uid: str = "1.2.3",
    *,
    sop_class_uid: str = _CT_IMAGE_STORAGE,
    transfer_syntax_uid: str = EXPLICIT_VR_LE,
    study_instance_uid: str = "1.2",
    series_instance_uid: str = "1.2.1",
    patient_id: str = "PATIENT",
    modality: str = "CT",
    octets: int = 0,
) -> bytes:
    """Return the data set of an instance.

    :param transfer_syntax_uid: in which it is encoded; what is none of the standard's four without
        compression has its pixel data encapsulated (PS3.5 A.4).
    :param octets: of pixel data: zeros, or, where these are compressed, one fragment of so many.
    """
    element = _Elements(transfer_syntax_uid)
    encoded = b"".join(
        (
            element(0x0008, 0x0016, b"UI", sop_class_uid),
            element(0x0008, 0x0018, b"UI", sop_instance_uid),
            element(0x0008, 0x0060, b"CS", modality),
            element(0x0010, 0x0020, b"LO", patient_id),
            element(0x0020, 0x000D, b"UI", study_instance_uid),
            element(0x0020, 0x000E, b"UI", series_instance_uid),
            element.pixels(octets),
        )
    )
    if not element.deflated:
        return encoded
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # PS3.5 A.5: without a header
    deflated = deflating.compress(encoded) + deflating.flush()
    return deflated + bytes(len(deflated) % 2)


def dicom_file(
    sop_instance_uid: str = "1.2.3",
    *,
    sop_class_uid: str = _CT_IMAGE_STORAGE,
    transfer_syntax_uid: str = EXPLICIT_VR_LE,
    **how: Any,
) -> bytes:
    """Return a DICOM file (PS3.10) of such a data set."""
    association = cast(Any, None)  # that it came on
    instance = Instance(sop_class_uid, sop_instance_uid, transfer_syntax_uid, "PEER", "ANY-SCP", association)
    encoded = data_set(
        sop_instance_uid, sop_class_uid=sop_class_uid, transfer_syntax_uid=transfer_syntax_uid, **how
    )
    return part10_header(instance) + encoded


class _Elements:
    """Encodes elements in a transfer syntax (PS3.5 7.1)."""

    def __init__(self, transfer_syntax: str) -> None:
        self._order = ">" if transfer_syntax == EXPLICIT_VR_BE else "<"
        self._implicit = transfer_syntax == IMPLICIT_VR_LE
        self.deflated = Walk(transfer_syntax).deflated  # and what JPIP refers to, too (PS3.5 A.7)
        self._native = transfer_syntax in _NATIVE or self.deflated

    def __call__(self, group: int, number: int, vr: bytes, text: str) -> bytes:
        value = text.encode("ascii")
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        if self._implicit:
            return self._head("HHI", group, number, len(value)) + value
        return self._head("HH2sH", group, number, vr, len(value)) + value

    def pixels(self, octets: int) -> bytes:
        if not octets:
            return b""
        length = octets + octets % 2
        if self._implicit:
            return self._head("HHI", 0x7FE0, 0x0010, length) + bytes(length)
        if self._native:
            return self._head("HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length) + bytes(length)
        return b"".join(
            (
                self._head("HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF),
                self._head("HHI", 0xFFFE, 0xE000, 0),  # an empty Basic Offset Table
                self._head("HHI", 0xFFFE, 0xE000, length) + bytes(length),
                self._head("HHI", 0xFFFE, 0xE0DD, 0),
            )
        )

    def _head(self, layout: str, *values: int | bytes) -> bytes:
        return struct.pack(self._order + layout, *values)
