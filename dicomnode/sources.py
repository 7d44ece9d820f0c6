"""Where an instance that is to be stored comes from: a file, a data set of pydicom, or what produces octets.

A file is not decoded: what is sent is what is behind its File Meta Information, octet for octet.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.threadpool import ThreadPool

from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import ProposedContext
from dicomnode.errors import ContextNotAccepted, InvalidFile, TooManyContexts
from dicomnode.interfaces import Body
from dicomnode.message import find_context
from dicomnode.part10 import read_file_meta
from dicomnode.reading import FileBody, Opened, Run, open_file, open_regular, threads
from dicomnode.sending import Octets
from dicomnode.uids import DEFLATED_EXPLICIT_VR_LE, EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE

if TYPE_CHECKING:
    from pydicom import Dataset

#: What can be stored: the path of a DICOM file; a data set; or octets, or what produces them.
Storable: TypeAlias = "str | os.PathLike[str] | Dataset | bytes | Body"

#: Presentation contexts of one association: their ids are odd, and of one octet (PS3.8 9.3.2.2).
CONTEXTS = 128

#: In which a data set may be encoded instead of another of these, preferred first.
_EXCHANGEABLE = (EXPLICIT_VR_LE, IMPLICIT_VR_LE)

_PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True, slots=True)
class Source:
    """An instance that is to be sent, and the context on which."""

    sop_class_uid: str
    sop_instance_uid: str
    context: PresentationContext
    body: Body


@dataclass(frozen=True, slots=True)
class Names:
    """What an instance is called, where it does not say so itself."""

    sop_class_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax_uid: str | None


def open_source(
    what: Storable,
    names: Names,
    contexts: Mapping[int, PresentationContext],
    clock: IReactorTime,
    pool: ThreadPool | None = None,
) -> Source | Deferred[Source]:
    """Return what is to be sent of ``what``; of a file, once it is open.

    :param pool: in which files are opened and read; the reactor's own, if there is none.
    :raises InvalidFile: when it is a file, but not one of DICOM.
    :raises OSError: when the file cannot be read.
    :raises ContextNotAccepted: when there is no context for it.
    :raises ValueError: when it lacks a name.
    """
    if isinstance(what, str | os.PathLike):
        run = threads(clock, pool)
        return run(partial(open_file, what)).addCallback(_of_file, names, contexts, clock, run)
    if isinstance(what, bytes) or hasattr(what, "startProducing"):
        sop_class = _named("SOP Class", names.sop_class_uid)
        instance = _named("SOP Instance", names.sop_instance_uid)
        context = find_context(contexts, sop_class, _named("Transfer Syntax", names.transfer_syntax_uid))
        body = Octets(what) if isinstance(what, bytes) else cast(Body, what)
        return Source(sop_class, instance, context, body)
    return _encode(cast("Dataset", what), names, contexts)


def _named(what: str, uid: Any) -> str:
    if not uid:
        raise ValueError(f"{what} UID is not given")
    return str(uid)


def _of_file(
    opened: Opened,
    names: Names,
    contexts: Mapping[int, PresentationContext],
    clock: IReactorTime,
    run: Run,
) -> Source:
    meta, what = opened.meta, opened.data_set
    sop_class = names.sop_class_uid or meta.sop_class_uid
    try:
        context = find_context(contexts, sop_class, names.transfer_syntax_uid or meta.transfer_syntax_uid)
    except ContextNotAccepted:
        opened.close()
        raise
    body = Octets(what) if isinstance(what, bytes) else FileBody(what, clock, opened.length, run)
    return Source(sop_class, names.sop_instance_uid or meta.sop_instance_uid, context, body)


# Data sets of pydicom


def _encode(data_set: Dataset, names: Names, contexts: Mapping[int, PresentationContext]) -> Source:
    sop_class = _named("SOP Class", names.sop_class_uid or data_set.get("SOPClassUID"))
    instance = _named("SOP Instance", names.sop_instance_uid or data_set.get("SOPInstanceUID"))
    own = names.transfer_syntax_uid or _transfer_syntax(data_set)
    context = _context_for(contexts, sop_class, own)
    octets = _octets(data_set, context.transfer_syntax)
    return Source(sop_class, instance, context, Octets(octets))


def _context_for(
    contexts: Mapping[int, PresentationContext], sop_class: str, own: str
) -> PresentationContext:
    """Find a context in a data set's own transfer syntax, or in another that says the same."""
    for transfer_syntax in (own, *_EXCHANGEABLE) if own in ("", *_EXCHANGEABLE) else (own,):
        if transfer_syntax:
            try:
                return find_context(contexts, sop_class, transfer_syntax)
            except ContextNotAccepted:
                pass
    raise ContextNotAccepted(sop_class, own)


def _transfer_syntax(data_set: Dataset) -> str:
    """Return the transfer syntax of a data set; empty: it has none yet, and can be encoded in any."""
    meta = getattr(data_set, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return str(meta.TransferSyntaxUID)
    return {
        (True, True): IMPLICIT_VR_LE,
        (False, True): EXPLICIT_VR_LE,
        (False, False): EXPLICIT_VR_BE,
    }.get(cast(Any, data_set).original_encoding, "")


def _octets(data_set: Dataset, transfer_syntax: str) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset
    from pydicom.uid import UID

    buffer = DicomBytesIO()
    buffer.is_little_endian = transfer_syntax != EXPLICIT_VR_BE
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_VR_LE
    # As dcmwrite does: pixel data that is encapsulated has an undefined length (PS3.5 A.4).
    pixel_data = data_set.get(_PIXEL_DATA)
    if pixel_data is not None and (syntax := UID(transfer_syntax)).is_transfer_syntax:
        pixel_data.is_undefined_length = syntax.is_compressed
    write_dataset(buffer, data_set)
    octets: bytes = buffer.getvalue()
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LE:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        octets = deflate.compress(octets) + deflate.flush()
        octets += b"\0" * (len(octets) % 2)  # PS3.5 A.5
    return octets


# The plan


def plan(
    what: Iterable[str | os.PathLike[str] | Dataset | tuple[str, str]], *, defaults: bool = True
) -> tuple[ProposedContext, ...]:
    """Plan the presentation contexts in which instances are to be stored: those of ``associate``.

    There is one for each SOP Class and transfer syntax, in the order in which they come: were two
    transfer syntaxes proposed in one context, the other end could choose but one of them. Only the File Meta
    Information of files is read, and that at once: of very many, do it in a thread.

    :param what: paths of DICOM files; data sets of pydicom; or a SOP Class UID with a transfer syntax UID.
    :param defaults: propose Implicit VR Little Endian for each SOP Class, too, as PS3.5 10.1 asks: as far
        as there is room. A data set of pydicom may be sent in it, if the other end takes nothing else; a
        file is never sent otherwise than it is.
    :raises TooManyContexts: when there are more than 128.
    :raises InvalidFile: when a file is not one of DICOM.
    :raises OSError: when a file cannot be read.
    """
    pairs = dict.fromkeys(map(_pair, what))
    if len(pairs) > CONTEXTS:
        raise TooManyContexts(len(pairs))
    if defaults:
        more = dict.fromkeys((sop_class, IMPLICIT_VR_LE) for sop_class, _ in pairs)
        pairs = dict.fromkeys([*pairs, *more][:CONTEXTS])
    return tuple(
        ProposedContext(2 * index + 1, sop_class, (transfer_syntax,))
        for index, (sop_class, transfer_syntax) in enumerate(pairs)
    )


def _pair(what: str | os.PathLike[str] | Dataset | tuple[str, str]) -> tuple[str, str]:
    if isinstance(what, tuple):
        return what
    if isinstance(what, str | os.PathLike):
        try:
            with open(open_regular(what)[0], "rb") as file:
                meta = read_file_meta(file)
        except InvalidFile as error:
            raise InvalidFile(f"{os.fspath(what)}: {error}") from None
        return meta.sop_class_uid, meta.transfer_syntax_uid
    return _named("SOP Class", what.get("SOPClassUID")), _transfer_syntax(what) or EXPLICIT_VR_LE
