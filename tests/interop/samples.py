"""The instances that are sent: every DICOM file that pydicom ships, and one made for each transfer syntax."""

from __future__ import annotations

import shutil
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom
import pydicom.data

from dicomnode import uids
from dicomnode.core.dataset import DEFLATED
from tests.interop import wire

_SHIPPED = Path(pydicom.data.__file__).parent

#: What these are in, nothing in them says.
_WITHOUT_META = {
    "test_files/ExplVR_BigEndNoMeta.dcm": wire.EXPLICIT_BE,
    "test_files/ExplVR_LitEndNoMeta.dcm": wire.EXPLICIT_LE,
}


@dataclass(frozen=True)
class Sample:
    """A file, and the instance in it."""

    name: str
    path: Path
    sop_class: str  #: of the data set, or else of the File Meta Information
    instance: str  #: the same
    meta_instance: str  #: the SOP Instance UID of the File Meta Information
    transfer_syntax: str
    data_set: bytes
    named: bool  #: the data set has both UIDs
    prefix: bool  #: preamble and prefix are there

    @property
    def stored_name(self) -> str:
        """The name under which the command stores it."""
        return f"{uids.file_name_prefix(self.sop_class)}.{self.instance}"

    @property
    def storable(self) -> bool:
        """Is it an instance, of a SOP Class that is stored?"""
        return self.named and self.sop_class in uids.STORAGE_SOP_CLASSES


def data_set_of(octets: bytes) -> bytes:
    """Return what is behind the File Meta Information of a file (PS3.10 7.1): group 0002, Explicit VR LE."""
    position = 132 if octets[128:132] == b"DICM" else 0
    while octets[position : position + 2] == b"\2\0":
        if octets[position + 4 : position + 6] == b"OB":
            (length,) = struct.unpack_from("<I", octets, position + 8)
            position += 12 + length
        else:
            (length,) = struct.unpack_from("<H", octets, position + 6)
            position += 8 + length
    return octets[position:]


@cache
def shipped() -> tuple[Sample, ...]:
    """Every file that pydicom ships and that is DICOM, by name."""
    return tuple(_shipped())


def _shipped() -> Iterator[Sample]:
    for path in sorted(path for path in _SHIPPED.rglob("*") if path.is_file()):
        octets = path.read_bytes()
        prefix = octets[128:132] == b"DICM"
        if not prefix and path.suffix != ".dcm":
            continue
        name = path.relative_to(_SHIPPED).as_posix()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are wrong ones among them, on purpose
            read = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        meta = read.file_meta
        yield Sample(
            name,
            path,
            str(read.get("SOPClassUID", meta.get("MediaStorageSOPClassUID", ""))),
            str(read.get("SOPInstanceUID", meta.get("MediaStorageSOPInstanceUID", ""))),
            str(meta.get("MediaStorageSOPInstanceUID", "")),
            str(meta.get("TransferSyntaxUID", _WITHOUT_META.get(name, wire.IMPLICIT_LE))),
            data_set_of(octets),
            "SOPClassUID" in read and "SOPInstanceUID" in read,
            prefix,
        )


def made(directory: Path) -> list[Sample]:
    """Make an instance in each transfer syntax of our table: the pixel data are arbitrary."""
    return [
        _made(directory, f"1.2.826.0.1.3680043.8.498.{number}", transfer_syntax)
        for number, transfer_syntax in enumerate(uids.TRANSFER_SYNTAXES, 1)
    ]


def _made(directory: Path, instance: str, transfer_syntax: str) -> Sample:
    data = encoded(instance, transfer_syntax)
    meta = b""
    for element, uid in (
        (2, wire.CT_IMAGE_STORAGE),
        (3, instance),
        (0x10, transfer_syntax),
        (0x12, "1.2.3.4"),
    ):
        octets = uid.encode() + b"\0" * (len(uid) % 2)
        meta += struct.pack("<HH2sH", 2, element, b"UI", len(octets)) + octets
    meta = struct.pack("<HH2sxxI", 2, 1, b"OB", 2) + b"\0\1" + meta
    header = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    path = directory / f"{transfer_syntax}.dcm"
    path.write_bytes(header + meta + data)
    name = uids.TRANSFER_SYNTAXES[transfer_syntax]
    return Sample(name, path, wire.CT_IMAGE_STORAGE, instance, instance, transfer_syntax, data, True, True)


#: A frame of nothing in particular.
_PIXELS = bytes(range(256)) * 2


def encoded(instance: str, transfer_syntax: str) -> bytes:
    """Encode a CT image of 16 x 16 pixels; they are encapsulated, in one fragment, where compressed."""
    order = ">" if transfer_syntax == wire.EXPLICIT_BE else "<"

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        if transfer_syntax == wire.IMPLICIT_LE:
            return struct.pack("<HHI", group, number, len(value)) + value
        if vr == b"OW":
            return struct.pack(order + "HH2sxxI", group, number, vr, len(value)) + value
        return struct.pack(order + "HH2sH", group, number, vr, len(value)) + value

    def number(value: int) -> bytes:
        return struct.pack(order + "H", value)

    data = b"".join(
        (
            element(0x0008, 0x0016, b"UI", wire.CT_IMAGE_STORAGE.encode()),
            element(0x0008, 0x0018, b"UI", instance.encode()),
            element(0x0008, 0x0060, b"CS", b"CT"),
            element(0x0010, 0x0010, b"PN", b"Interop^Transfer Syntax"),
            element(0x0010, 0x0020, b"LO", b"1"),
            element(0x0020, 0x000D, b"UI", b"1.2.826.0.1.3680043.8.498.0.1"),
            element(0x0020, 0x000E, b"UI", b"1.2.826.0.1.3680043.8.498.0.2"),
            element(0x0028, 0x0002, b"US", number(1)),
            element(0x0028, 0x0004, b"CS", b"MONOCHROME2"),
            element(0x0028, 0x0010, b"US", number(16)),
            element(0x0028, 0x0011, b"US", number(16)),
            element(0x0028, 0x0100, b"US", number(16)),
            element(0x0028, 0x0101, b"US", number(16)),
            element(0x0028, 0x0102, b"US", number(15)),
            element(0x0028, 0x0103, b"US", number(0)),
        )
    )
    if transfer_syntax in _NATIVE:
        data += element(0x7FE0, 0x0010, b"OW", _PIXELS)
    elif transfer_syntax in _REFERENCED:
        url = b"https://example.invalid/pixels"
        data += struct.pack("<HH2sxxI", 0x0028, 0x7FE0, b"UR", len(url)) + url
    else:
        data += struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF)
        data += struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(_PIXELS)) + _PIXELS
        data += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    if transfer_syntax in DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
        data += b"\0" * (len(data) % 2)
    return data


_NATIVE = (wire.IMPLICIT_LE, wire.EXPLICIT_LE, wire.EXPLICIT_BE, wire.DEFLATED_LE)
#: JPIP: the pixel data are elsewhere (PS3.5 A.6).
_REFERENCED = tuple(f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205))


def in_rounds(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Share samples out so that no two of a round are stored under one name."""
    rounds: list[dict[str, Sample]] = []
    for sample in samples:
        for one in rounds:
            if sample.stored_name not in one:
                one[sample.stored_name] = sample
                break
        else:
            rounds.append({sample.stored_name: sample})
    return [list(one.values()) for one in rounds]


def lay_out(samples: Iterable[Sample], directory: Path) -> list[Path]:
    """Copy samples to a directory, under names that keep their order."""
    paths = []
    for number, sample in enumerate(samples):
        path = directory / f"{number:04}.dcm"
        shutil.copyfile(sample.path, path)
        paths.append(path)
    return paths
