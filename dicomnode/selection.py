"""The files that are to be sent: found, looked at, and shared out among associations.

Of each, the File Meta Information is read, and no more; what is kept is its path, and what it is.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dicomnode.core.pdu import ProposedContext
from dicomnode.errors import InvalidFile
from dicomnode.part10 import read_file_meta
from dicomnode.sources import CONTEXTS, plan
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, WELL_FORMED, name

#: Says of a file that it lists others (PS3.3 F.3): it is made anew where they go.
_DIRECTORY = "1.2.840.10008.1.3.10"

#: Data sets in one of these can be encoded in the other.
EXCHANGEABLE = frozenset((EXPLICIT_VR_LE, IMPLICIT_VR_LE))


@dataclass(frozen=True, slots=True)
class File:
    """A DICOM file."""

    path: str
    sop_class_uid: str
    transfer_syntax_uid: str
    octets: int  #: of its data set


@dataclass(frozen=True, slots=True)
class Passed:
    """What is not sent."""

    path: str
    why: str
    failed: bool  #: it was to be sent; else it was only met with in a directory, and is something else


def find(paths: Iterable[str], *, recurse: bool = False) -> Iterator[File | Passed]:
    """Yield what there is at each path; of a directory, what is in it, by name.

    :param recurse: of the directories below it, too.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, recurse)
        else:
            yield _look(path, named=True)


def _walk(path: str, recurse: bool) -> Iterator[File | Passed]:
    directories = [path]
    while directories:
        directory = directories.pop()
        try:
            with os.scandir(directory) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError as error:
            yield Passed(directory, error.strerror or str(error), True)
            continue
        below = []
        for name_, is_directory in found:
            path = os.path.join(directory, name_)
            if not is_directory:
                yield _look(path, named=False)
            elif recurse:
                below.append(path)
            else:
                yield Passed(path, "it is a directory, and -r is not given", False)
        directories += reversed(below)


def _look(path: str, *, named: bool) -> File | Passed:
    """Return what a file is.

    :param named: by the user: else it may well be something else than a DICOM file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return Passed(path, "it is not a regular file", named)
        with open(path, "rb") as file:
            try:
                meta = read_file_meta(file)
            except InvalidFile as error:
                file.seek(128)
                if file.read(4) == b"DICM":
                    return Passed(path, str(error), True)
                return Passed(path, "it is not a DICOM file", named)
            octets = max(0, os.fstat(file.fileno()).st_size - meta.data_set)
    except OSError as error:
        return Passed(path, error.strerror or str(error), True)
    for named_by, uid in (("SOP Class", meta.sop_class_uid), ("Transfer Syntax", meta.transfer_syntax_uid)):
        if not WELL_FORMED.fullmatch(uid):  # in a request it would cost all the others
            return Passed(path, f"its {named_by} UID is not a UID", True)
    if meta.sop_class_uid == _DIRECTORY:
        return Passed(path, "it is a DICOMDIR", named)
    # Many files have the same: what is kept of each is one reference.
    return File(path, sys.intern(meta.sop_class_uid), sys.intern(meta.transfer_syntax_uid), octets)


@dataclass(slots=True)
class Batch:
    """What goes on one association."""

    pairs: list[tuple[str, str]] = field(default_factory=list)  #: SOP Class and transfer syntax of contexts
    files: list[File] = field(default_factory=list)

    def contexts(self, *, defaults: bool) -> tuple[ProposedContext, ...]:
        """Return the contexts for them: see :func:`dicomnode.requestor.plan`."""
        return plan(self.pairs, defaults=defaults)


class Selection:
    """Files, shared out among as few associations as have contexts for them.

    :param request: the one transfer syntax in which to send; None: each file as it is.
    """

    def __init__(self, request: str | None = None) -> None:
        self.batches: list[Batch] = []
        self.files = 0
        self.octets = 0
        self._request = request
        self._batch_of: dict[tuple[str, str], Batch] = {}

    def add(self, file: File) -> Passed | None:
        """Take a file; or return why it cannot be sent."""
        transfer_syntax = self._request or file.transfer_syntax_uid
        if file.transfer_syntax_uid != transfer_syntax and not (
            {file.transfer_syntax_uid, transfer_syntax} <= EXCHANGEABLE
        ):
            asked, own = name(transfer_syntax), name(file.transfer_syntax_uid)
            return Passed(file.path, f"it is in {own}, and only {asked} is to be proposed", True)
        pair = (file.sop_class_uid, transfer_syntax)
        batch = self._batch_of.get(pair)
        if batch is None:
            if not self.batches or len(self.batches[-1].pairs) == CONTEXTS:
                self.batches.append(Batch())
            batch = self._batch_of[pair] = self.batches[-1]
            batch.pairs.append(pair)
        batch.files.append(file)
        self.files += 1
        self.octets += file.octets
        return None
