"""The instances that are sent: every DICOM file that pydicom ships, and one made for each transfer syntax."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom
import pydicom.data
from pydicom.errors import InvalidDicomError

from dicomnode import uids

_SHIPPED = Path(pydicom.data.__file__).parent


@dataclass(frozen=True)
class Sample:
    """A file, and the instance in it. What names the instance is empty where it is absent."""

    name: str
    path: Path
    sop_class: str
    instance: str
    transfer_syntax: str
    data_set: bytes

    @property
    def stored_name(self) -> str:
        """The name under which the command stores it."""
        return f"{uids.file_name_prefix(self.sop_class)}.{self.instance}"


def data_set_of(octets: bytes) -> bytes:
    """Return what is behind the File Meta Information of a file (PS3.10 7.1): group 0002, Explicit VR LE."""
    position = 132 if octets[128:132] == b"DICM" else 0
    while octets[position : position + 2] == b"\2\0":
        vr = octets[position + 4 : position + 6]
        if vr in (b"OB", b"UN", b"SQ", b"UT"):
            (length,) = struct.unpack_from("<I", octets, position + 8)
            position += 12 + length
        else:
            (length,) = struct.unpack_from("<H", octets, position + 6)
            position += 8 + length
    return octets[position:]


@cache
def shipped() -> tuple[Sample, ...]:
    """Every file that pydicom ships and can read as DICOM, by name."""
    return tuple(_shipped())


def _shipped() -> Iterator[Sample]:
    for path in sorted(_SHIPPED.rglob("*")):
        if not path.is_file() or path.suffix in (
            ".py",
            ".pyc",
            ".json",
            ".md",
            ".txt",
            ".gz",
            ".icc",
            ".dump",
        ):
            continue
        try:
            read = pydicom.dcmread(path, stop_before_pixels=True)
            transfer_syntax = read.file_meta.get("TransferSyntaxUID", "")
        except InvalidDicomError:
            read = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            transfer_syntax = read.file_meta.get("TransferSyntaxUID", "")
        yield Sample(
            path.relative_to(_SHIPPED).as_posix(),
            path,
            read.get("SOPClassUID", ""),
            read.get("SOPInstanceUID", ""),
            transfer_syntax,
            data_set_of(path.read_bytes()),
        )


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
    """Copy samples to a directory, under names that keep their order; some clients take only directories."""
    paths = []
    for number, sample in enumerate(samples):
        path = directory / f"{number:04}.dcm"
        shutil.copyfile(sample.path, path)
        paths.append(path)
    return paths
