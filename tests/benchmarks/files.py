"""What a server has on disk, compared with what it was sent, octet by octet."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.benchmarks.messages import CT_IMAGE_STORAGE, IMPLEMENTATION, PREFIX, data_set, element, uid

_UID = re.compile(re.escape(PREFIX).encode() + rb"(\d{8})")
_IMPLICIT = b"\2\0\x10\0UI\x12\x001.2.840.10008.1.2\0"  # Transfer Syntax UID
_BLOCK = 1 << 20


class Inexact(Exception):
    """An instance is missing, or is not what was sent."""


def check(
    directory: Path, expected: Mapping[int, tuple[int, int]], *, framed: bool = False, patience: float = 20
) -> None:
    """Each instance is in a file below the directory, and that file holds what was sent.

    :param expected: size and turn of each, by its number.
    :param framed: the files hold P-DATA-TF PDUs, as the sink writes them.
    :param patience: how long to wait: DCMTK and Orthanc answer before all is written.
    :raises Inexact: when one is missing, or differs.
    """
    deadline = time.monotonic() + patience
    while problem := _problem(directory, expected, framed):
        if time.monotonic() > deadline:
            raise Inexact(problem)
        time.sleep(0.1)


def _problem(directory: Path, expected: Mapping[int, tuple[int, int]], framed: bool) -> str | None:
    found = {}
    for path in directory.rglob("*"):
        if path.is_file() and (number := _number(path)) in expected:
            found[number] = path
    if len(found) < len(expected):
        return f"{len(found)} files of {len(expected)}"
    for number, (octets, turn) in expected.items():
        if not exact(found[number], number, octets, turn, framed=framed):
            return f"instance {number} is not what was sent"
    return None


def exact(path: Path, number: int, octets: int, turn: int = 0, *, framed: bool = False) -> bool:
    """Is what was sent in this file, and nothing else?"""
    if framed:
        return _same(_framed(path), data_set(number, octets, turn))
    with path.open("rb") as file:
        # Who sends files may encode them anew, in what the server prefers.
        implicit = _IMPLICIT in file.read(512)
    return _same(_part10(path), data_set(number, octets, turn, implicit=implicit))


def _number(path: Path) -> int | None:
    with path.open("rb") as file:
        match = _UID.search(file.read(2048))
    return int(match[1]) if match else None


def _part10(path: Path) -> Iterator[bytes]:
    """Yield the data set of a file (PS3.10 7.1)."""
    with path.open("rb") as file:
        head = file.read(144)  # preamble, prefix, (0002,0000)
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        while block := file.read(_BLOCK):
            yield block


def _framed(path: Path) -> Iterator[bytes]:
    """Yield the data set of a file of P-DATA-TF PDUs."""
    with path.open("rb") as file:
        while head := file.read(12):
            fragment = file.read(int.from_bytes(head[2:6], "big") - 6)
            if head[11] in (0, 2):
                yield fragment


def _same(some: Iterator[bytes], others: Iterator[bytes]) -> bool:
    """Are two streams equal, whatever pieces they come in?"""
    left = right = memoryview(b"")
    while True:
        left = left or memoryview(next(some, b""))
        right = right or memoryview(next(others, b""))
        octets = min(len(left), len(right))
        if not octets:
            return not left and not right
        if left[:octets] != right[:octets]:
            return False
        left, right = left[octets:], right[octets:]


def write(directory: Path, number: int, octets: int) -> None:
    """Write an instance to a file, for the programs that send files."""
    meta = b"".join(
        (
            struct.pack("<HH2sxxI2s", 2, 1, b"OB", 2, b"\0\1"),
            element(2, 2, b"UI", CT_IMAGE_STORAGE.encode()),
            element(2, 3, b"UI", uid(number).encode()),
            element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1"),
            element(2, 0x12, b"UI", IMPLEMENTATION.encode()),
        )
    )
    with (directory / f"{number}.dcm").open("wb") as file:
        file.write(bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta)
        file.writelines(data_set(number, octets))
