"""The PDUs of PS3.8 9.3 and their items, as values that ``encode`` and ``decode``.

``encode`` gives a whole PDU, its six octet header included; ``decode`` takes what follows that
header. P-DATA-TF is not here: on its way in it is fragments (:mod:`dicomnode.core.stream`), on its
way out a header (:func:`p_data_tf`).

What PS3.8 9.3.1 asks of a receiver holds throughout: items that are not recognised are ignored,
reserved fields are not tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from struct import Struct, error
from typing import Any, ClassVar, NamedTuple, TypeAlias

from dicomnode.core.items import UserInformation, encode_item, read_items, read_uid
from dicomnode.errors import InvalidPDU

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  #: the DICOM Application Context Name (PS3.7 A.2.1)

#: Transfer syntaxes of a presentation context that are read: there are some 65.
TRANSFER_SYNTAXES = 128

#: Devices propose the same contexts each time: what so many of them name is remembered, where it takes
#: no more than so many octets. That is half a MiB at most, whoever proposes what.
REMEMBERED = 512
REMEMBERED_OCTETS = 512

#: And they do so in requests that differ in nothing but the AE titles: as many are remembered whole, where
#: their items take no more than so many octets. That is half a MiB of octets; read, in items as short as can
#: be, ten times as much. Who floods it with others has everyone's read as if they were the first.
REQUESTS = 64
REQUEST_OCTETS = 1 << 13

#: PDU type, reserved, length of what follows.
HEADER = Struct(">BxI")
#: Protocol version, reserved, and the 64 octets that an acceptor echoes: see AssociateRQ.echo.
_ASSOCIATE = Struct(">Hxx64s")
#: Reserved, and three octets that only A-ASSOCIATE-RJ and A-ABORT give a meaning.
_FOUR = Struct(">xBBB")
#: Length of a PDV item, presentation context id, message control header (PS3.8 Table 9-23, E.2).
PDV_HEADER = Struct(">IBB")
#: The header of a P-DATA-TF, and behind it that of its first PDV.
DATA_HEADER = Struct(">BxIIBB")

#: Their lengths. What is looked up on a Struct takes as long as to unpack one.
HEADER_SIZE, PDV_HEADER_SIZE, DATA_HEADER_SIZE = HEADER.size, PDV_HEADER.size, DATA_HEADER.size

# PDU types
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

# Result/Reason of an answered presentation context (PS3.8 Table 9-18)
ACCEPTANCE = 0
USER_REJECTION = 1
NO_REASON = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

# Reason of an A-ABORT by the service provider (PS3.8 Table 9-26)
REASON_NOT_SPECIFIED = 0
UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
UNRECOGNIZED_PDU_PARAMETER = 4
UNEXPECTED_PDU_PARAMETER = 5
INVALID_PDU_PARAMETER_VALUE = 6

# Source of an A-ABORT
SERVICE_USER = 0
SERVICE_PROVIDER = 2


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as proposed (PS3.8 Table 9-13)."""

    id: int  #: odd, 1 to 255
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]

    def encode(self) -> bytes:
        syntaxes = [encode_item(0x40, uid.encode("latin-1")) for uid in self.transfer_syntaxes]
        abstract = encode_item(0x30, self.abstract_syntax.encode("latin-1"))
        return encode_item(0x20, bytes((self.id, 0, 0, 0)) + abstract + b"".join(syntaxes))

    @classmethod
    def decode(cls, value: memoryview) -> ProposedContext:
        if len(value) < 4:
            raise InvalidPDU("a presentation context item is shorter than its own fields")
        read = _read_syntaxes if len(value) <= REMEMBERED_OCTETS else _read_syntaxes.__wrapped__
        abstract, syntaxes = read(bytes(value[4:]))
        if len(syntaxes) > TRANSFER_SYNTAXES:
            raise InvalidPDU(f"presentation context {value[0]} has too many transfer syntaxes")
        if not abstract or not syntaxes:
            raise InvalidPDU(f"presentation context {value[0]} lacks a syntax")
        return cls(value[0], abstract, syntaxes)


@lru_cache(maxsize=REMEMBERED)
def _read_syntaxes(octets: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the abstract syntax and the transfer syntaxes that the items of a context name.

    No more transfer syntaxes are read than show that they are too many.
    """
    abstract = ""
    syntaxes: list[str] = []
    for item, content in read_items(memoryview(octets)):
        if item == 0x30:
            abstract = read_uid(content)
        elif item == 0x40 and len(syntaxes) <= TRANSFER_SYNTAXES:
            syntaxes.append(read_uid(content))
    return abstract, tuple(syntaxes)


@dataclass(frozen=True, slots=True)
class AnsweredContext:
    """The answer to a proposed presentation context (PS3.8 Table 9-18)."""

    id: int
    result: int
    transfer_syntax: str  #: significant only when the result is acceptance

    def encode(self) -> bytes:
        syntax = encode_item(0x40, self.transfer_syntax.encode("latin-1"))
        return encode_item(0x21, bytes((self.id, 0, self.result, 0)) + syntax)

    @classmethod
    def decode(cls, value: memoryview) -> AnsweredContext:
        if len(value) < 4:
            raise InvalidPDU("a presentation context item is shorter than its own fields")
        # Table 9-18: the transfer syntax of a context that is not accepted shall not be tested.
        syntaxes = [read_uid(content) for item, content in read_items(value[4:]) if item == 0x40]
        return cls(value[0], value[2], syntaxes[0] if syntaxes else "")


class AnsweredContexts(tuple[AnsweredContext, ...]):
    """The answers to the contexts of a request, which are encoded once."""

    @cached_property
    def encoded(self) -> bytes:
        return b"".join([context.encode() for context in self])


class ProposedContexts(tuple[ProposedContext, ...]):
    """The contexts of a request that is remembered, and with them what was answered the last time."""

    answered: AnsweredContexts | None = None


def _ae_title(octets: bytes) -> str:
    """Leading and trailing spaces are not significant (PS3.8 Table 9-11); real devices pad with NUL."""
    return octets.decode("latin-1").strip(" \0")


def _echo(called: str, calling: str) -> bytes:
    titles = (title.encode("latin-1", "replace")[:16].ljust(16) for title in (called, calling))
    return b"".join(titles) + bytes(32)


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ (PS3.8 Table 9-11)."""

    pdu_type: ClassVar[int] = ASSOCIATE_RQ

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ProposedContext, ...]
    user_information: UserInformation = field(default_factory=UserInformation)
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1  #: bit 0 is version 1; only that bit is to be tested
    #: octets 11 to 74 as received: both AE titles and a reserved field, which the A-ASSOCIATE-AC
    #: sends back unchanged (Table 9-17). Empty: made from the titles.
    echo: bytes = field(default=b"", compare=False, repr=False)

    def encode(self) -> bytes:
        return _encode_associate(self, b"".join([context.encode() for context in self.contexts]))

    @classmethod
    def decode(cls, body: memoryview) -> AssociateRQ:
        version, echo = _read_fixed(body)
        items = body[_ASSOCIATE.size :]
        read = _read_request(items) if len(items) <= REQUEST_OCTETS else _read_items(items, ProposedContext)
        return cls(_ae_title(echo[:16]), _ae_title(echo[16:32]), *read, version, echo)


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC (PS3.8 Table 9-17)."""

    pdu_type: ClassVar[int] = ASSOCIATE_AC

    #: The two AE titles are not to be tested in an A-ASSOCIATE-AC: they echo the request's.
    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[AnsweredContext, ...]
    user_information: UserInformation = field(default_factory=UserInformation)
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    echo: bytes = field(default=b"", compare=False, repr=False)

    def encode(self) -> bytes:
        contexts = self.contexts
        if not isinstance(contexts, AnsweredContexts):
            contexts = AnsweredContexts(contexts)
        return _encode_associate(self, contexts.encoded)

    @classmethod
    def decode(cls, body: memoryview) -> AssociateAC:
        version, echo = _read_fixed(body)
        read = _read_items(body[_ASSOCIATE.size :], AnsweredContext)
        return cls(_ae_title(echo[:16]), _ae_title(echo[16:32]), *read, version, echo)


def _encode_associate(pdu: AssociateRQ | AssociateAC, contexts: bytes) -> bytes:
    echo = pdu.echo or _echo(pdu.called_ae_title, pdu.calling_ae_title)
    items = b"".join(
        (
            _ASSOCIATE.pack(pdu.protocol_version, echo),
            encode_item(0x10, pdu.application_context.encode("latin-1")),
            contexts,
            encode_item(0x50, pdu.user_information.encode()),
        )
    )
    return HEADER.pack(pdu.pdu_type, len(items)) + items


def _read_fixed(body: memoryview) -> tuple[int, bytes]:
    """Return the protocol version, and what an acceptor echoes."""
    try:
        return _ASSOCIATE.unpack_from(body)
    except error:
        raise InvalidPDU("the PDU ends inside its fixed fields") from None


class _Items(NamedTuple):
    """What the items of A-ASSOCIATE-RQ and -AC say, in the order of the fields."""

    contexts: tuple[Any, ...]
    user_information: UserInformation
    application_context: str


_requests: dict[bytes, _Items] = {}


def _read_request(items: memoryview) -> _Items:
    """Read the items of an A-ASSOCIATE-RQ; or remember them."""
    octets = bytes(items)
    read = _requests.get(octets)
    if read is None:
        read = _read_items(items, ProposedContext)
        if read.user_information.user_identity is None:  # else there may be a password in it
            read = read._replace(contexts=ProposedContexts(read.contexts))
            if len(_requests) >= REQUESTS:
                del _requests[next(iter(_requests))]
            _requests[octets] = read
    return read


def _read_items(items: memoryview, kind: type[ProposedContext] | type[AnsweredContext]) -> _Items:
    application_context = ""
    information: UserInformation | None = None
    contexts: dict[int, Any] = {}
    context_item = 0x20 if kind is ProposedContext else 0x21
    for item, value in read_items(items):
        if item == 0x10:
            application_context = read_uid(value)
        elif item == context_item:
            context = kind.decode(value)
            if not context.id & 1:
                raise InvalidPDU("a presentation context id is even")  # PS3.8 9.3.2.2: odd, 1 to 255
            if context.id in contexts:
                raise InvalidPDU("a presentation context id is repeated")
            contexts[context.id] = context
        elif item == 0x50:
            # Tables 9-11 and 9-17: one. So its 64 KiB bound the sub-items that are read.
            if information is not None:
                raise InvalidPDU("the user information is repeated")
            information = UserInformation.decode(value)
    if not contexts:
        raise InvalidPDU("no presentation context")  # Tables 9-11 and 9-17: one or more
    return _Items(tuple(contexts.values()), information or UserInformation(), application_context)


def _unpack_four(body: memoryview) -> tuple[int, int, int]:
    if len(body) != _FOUR.size:
        raise InvalidPDU("a PDU of four octets has another length")
    return _FOUR.unpack(body)


@dataclass(frozen=True, slots=True)
class AssociateRJ:
    """A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""

    pdu_type: ClassVar[int] = ASSOCIATE_RJ

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        return HEADER.pack(ASSOCIATE_RJ, 4) + _FOUR.pack(self.result, self.source, self.reason)

    @classmethod
    def decode(cls, body: memoryview) -> AssociateRJ:
        return cls(*_unpack_four(body))


@dataclass(frozen=True, slots=True)
class ReleaseRQ:
    """A-RELEASE-RQ (PS3.8 Table 9-24)."""

    pdu_type: ClassVar[int] = RELEASE_RQ

    def encode(self) -> bytes:
        return HEADER.pack(RELEASE_RQ, 4) + bytes(4)

    @classmethod
    def decode(cls, body: memoryview) -> ReleaseRQ:
        return cls()


@dataclass(frozen=True, slots=True)
class ReleaseRP:
    """A-RELEASE-RP (PS3.8 Table 9-25)."""

    pdu_type: ClassVar[int] = RELEASE_RP

    def encode(self) -> bytes:
        return HEADER.pack(RELEASE_RP, 4) + bytes(4)

    @classmethod
    def decode(cls, body: memoryview) -> ReleaseRP:
        return cls()


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 Table 9-26)."""

    pdu_type: ClassVar[int] = ABORT

    source: int = SERVICE_USER
    reason: int = REASON_NOT_SPECIFIED

    def encode(self) -> bytes:
        return HEADER.pack(ABORT, 4) + _FOUR.pack(0, self.source, self.reason)

    @classmethod
    def decode(cls, body: memoryview) -> Abort:
        _, source, reason = _unpack_four(body)
        return cls(source, reason)


PDU: TypeAlias = AssociateRQ | AssociateAC | AssociateRJ | ReleaseRQ | ReleaseRP | Abort

#: The PDUs that are read whole, by their type.
PDUS: dict[int, type[PDU]] = {
    pdu.pdu_type: pdu for pdu in (AssociateRQ, AssociateAC, AssociateRJ, ReleaseRQ, ReleaseRP, Abort)
}


def p_data_tf(context_id: int, is_command: bool, is_last: bool, fragment: bytes | memoryview) -> bytes:
    """Return a P-DATA-TF with one PDV (PS3.8 Table 9-22, E.2)."""
    length = len(fragment)
    control = is_command | is_last << 1
    header = DATA_HEADER.pack(P_DATA_TF, length + PDV_HEADER_SIZE, length + 2, context_id, control)
    return b"".join((header, fragment))
