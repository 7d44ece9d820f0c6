"""The command sets of PS3.7, declared element by element, one codec, and the statuses.

A command set is group 0000 in Implicit VR Little Endian (PS3.7 6.3.1). Each message is a class
whose fields are its elements; Command Group Length, Command Field and Command Data Set Type are
the codec's business. To add a message is to declare its two classes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from struct import Struct
from struct import error as _StructError
from typing import Any, ClassVar, NamedTuple, TypeVar, cast, dataclass_transform

from dicomnode.errors import InvalidCommand

#: Group, element and length of an element (PS3.5 7.1.3).
_ELEMENT = Struct("<HHI")
_US = Struct("<H")
#: An element that is a number, with its value.
_US_ELEMENT = Struct("<HHIH")
#: Command Group Length (0000,0000), with its value.
_GROUP_LENGTH = Struct("<HHII")

_COMMAND_FIELD = 0x0100
_DATA_SET_TYPE = 0x0800
_NO_DATA_SET = 0x0101
#: Any other value says that there is one (PS3.7 E.1).
_DATA_SET = 0x0001

#: A command set longer than this is not read, in octets: every element but a list of attributes is
#: bounded by its VR.
LIMIT = 1 << 16

RESPONSE = 0x8000  #: the bit of the Command Field that makes a request's its response's

# Priority (0000,0700)
MEDIUM, HIGH, LOW = 0x0000, 0x0001, 0x0002


class Status(enum.IntEnum):
    """Values of Status (0000,0900) that a service may answer (PS3.7 Annex C, PS3.4 B.2.3)."""

    SUCCESS = 0x0000
    INVALID_ATTRIBUTE_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    INVALID_OBJECT_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    #: Of the range C000 to CFFF, Cannot understand: the value that pynetdicom's storescp sends.
    CANNOT_UNDERSTAND = 0xC210
    CANCEL = 0xFE00
    PENDING = 0xFF00


def element(number: int, vr: str, *, default: Any = MISSING) -> Any:
    """Declare an element of group 0000.

    One without a default is mandatory. A mandatory text that is absent nevertheless reads as empty,
    so that whoever performs the operation can say which status that deserves; a number makes the
    command set invalid.
    """
    return field(default=default, metadata={"element": number, "vr": vr})


class Command:
    """A command set. Its subclasses are the messages of PS3.7 9.3 and 10.3."""

    __slots__ = ()

    @property
    def command_field(self) -> int:
        """The Command Field (0000,0100) (PS3.7 E.1)."""
        raise NotImplementedError

    @property
    def is_response(self) -> bool:
        return bool(self.command_field & RESPONSE)


_Message = TypeVar("_Message", bound=Command)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(element,))
def _message(message: type[_Message]) -> type[_Message]:
    return dataclass(frozen=True, slots=True, kw_only=True)(message)


@_message
class Request(Command):
    """A command set that a response answers."""

    message_id: int = element(0x0110, "US")


@_message
class Response(Command):
    """A command set that answers a request."""

    affected_sop_class_uid: str | None = element(0x0002, "UI", default=None)
    message_id_being_responded_to: int = element(0x0120, "US")
    status: int = element(0x0900, "US")
    error_comment: str | None = element(0x0902, "LO", default=None)


@_message
class CEchoRQ(Request):
    """C-ECHO-RQ (PS3.7 Table 9.3-12)."""

    command_field: ClassVar[int] = 0x0030
    affected_sop_class_uid: str = element(0x0002, "UI")


@_message
class CEchoRSP(Response):
    """C-ECHO-RSP (PS3.7 Table 9.3-13)."""

    command_field: ClassVar[int] = 0x8030


@_message
class CStoreRQ(Request):
    """C-STORE-RQ (PS3.7 Table 9.3-1)."""

    command_field: ClassVar[int] = 0x0001
    affected_sop_class_uid: str = element(0x0002, "UI")
    priority: int = element(0x0700, "US", default=MEDIUM)
    affected_sop_instance_uid: str = element(0x1000, "UI")
    move_originator_ae_title: str | None = element(0x1030, "AE", default=None)
    move_originator_message_id: int | None = element(0x1031, "US", default=None)


@_message
class CStoreRSP(Response):
    """C-STORE-RSP (PS3.7 Table 9.3-2)."""

    command_field: ClassVar[int] = 0x8001
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)


@_message
class CFindRQ(Request):
    """C-FIND-RQ (PS3.7 Table 9.3-3)."""

    command_field: ClassVar[int] = 0x0020
    affected_sop_class_uid: str = element(0x0002, "UI")
    priority: int = element(0x0700, "US", default=MEDIUM)


@_message
class CFindRSP(Response):
    """C-FIND-RSP (PS3.7 Table 9.3-4)."""

    command_field: ClassVar[int] = 0x8020


@_message
class CGetRQ(Request):
    """C-GET-RQ (PS3.7 Table 9.3-6)."""

    command_field: ClassVar[int] = 0x0010
    affected_sop_class_uid: str = element(0x0002, "UI")
    priority: int = element(0x0700, "US", default=MEDIUM)


@_message
class CGetRSP(Response):
    """C-GET-RSP (PS3.7 Table 9.3-7)."""

    command_field: ClassVar[int] = 0x8010
    number_of_remaining_suboperations: int | None = element(0x1020, "US", default=None)
    number_of_completed_suboperations: int | None = element(0x1021, "US", default=None)
    number_of_failed_suboperations: int | None = element(0x1022, "US", default=None)
    number_of_warning_suboperations: int | None = element(0x1023, "US", default=None)


@_message
class CMoveRQ(Request):
    """C-MOVE-RQ (PS3.7 Table 9.3-9)."""

    command_field: ClassVar[int] = 0x0021
    affected_sop_class_uid: str = element(0x0002, "UI")
    move_destination: str = element(0x0600, "AE")
    priority: int = element(0x0700, "US", default=MEDIUM)


@_message
class CMoveRSP(Response):
    """C-MOVE-RSP (PS3.7 Table 9.3-10)."""

    command_field: ClassVar[int] = 0x8021
    number_of_remaining_suboperations: int | None = element(0x1020, "US", default=None)
    number_of_completed_suboperations: int | None = element(0x1021, "US", default=None)
    number_of_failed_suboperations: int | None = element(0x1022, "US", default=None)
    number_of_warning_suboperations: int | None = element(0x1023, "US", default=None)


@_message
class CCancelRQ(Command):
    """C-CANCEL-RQ (PS3.7 Tables 9.3-5, 9.3-8, 9.3-11): it has no response of its own."""

    command_field: ClassVar[int] = 0x0FFF
    message_id_being_responded_to: int = element(0x0120, "US")


@_message
class NEventReportRQ(Request):
    """N-EVENT-REPORT-RQ (PS3.7 Table 10.3-1)."""

    command_field: ClassVar[int] = 0x0100
    affected_sop_class_uid: str = element(0x0002, "UI")
    affected_sop_instance_uid: str = element(0x1000, "UI")
    event_type_id: int = element(0x1002, "US")


@_message
class NEventReportRSP(Response):
    """N-EVENT-REPORT-RSP (PS3.7 Table 10.3-2)."""

    command_field: ClassVar[int] = 0x8100
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)
    event_type_id: int | None = element(0x1002, "US", default=None)


@_message
class NGetRQ(Request):
    """N-GET-RQ (PS3.7 Table 10.3-3)."""

    command_field: ClassVar[int] = 0x0110
    requested_sop_class_uid: str = element(0x0003, "UI")
    requested_sop_instance_uid: str = element(0x1001, "UI")
    attribute_identifier_list: tuple[int, ...] = element(0x1005, "AT", default=())


@_message
class NGetRSP(Response):
    """N-GET-RSP (PS3.7 Table 10.3-4)."""

    command_field: ClassVar[int] = 0x8110
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)


@_message
class NSetRQ(Request):
    """N-SET-RQ (PS3.7 Table 10.3-5)."""

    command_field: ClassVar[int] = 0x0120
    requested_sop_class_uid: str = element(0x0003, "UI")
    requested_sop_instance_uid: str = element(0x1001, "UI")


@_message
class NSetRSP(Response):
    """N-SET-RSP (PS3.7 Table 10.3-6)."""

    command_field: ClassVar[int] = 0x8120
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)


@_message
class NActionRQ(Request):
    """N-ACTION-RQ (PS3.7 Table 10.3-7)."""

    command_field: ClassVar[int] = 0x0130
    requested_sop_class_uid: str = element(0x0003, "UI")
    requested_sop_instance_uid: str = element(0x1001, "UI")
    action_type_id: int = element(0x1008, "US")


@_message
class NActionRSP(Response):
    """N-ACTION-RSP (PS3.7 Table 10.3-8)."""

    command_field: ClassVar[int] = 0x8130
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)
    action_type_id: int | None = element(0x1008, "US", default=None)


@_message
class NCreateRQ(Request):
    """N-CREATE-RQ (PS3.7 Table 10.3-9)."""

    command_field: ClassVar[int] = 0x0140
    affected_sop_class_uid: str = element(0x0002, "UI")
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)


@_message
class NCreateRSP(Response):
    """N-CREATE-RSP (PS3.7 Table 10.3-10)."""

    command_field: ClassVar[int] = 0x8140
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)


@_message
class NDeleteRQ(Request):
    """N-DELETE-RQ (PS3.7 Table 10.3-11)."""

    command_field: ClassVar[int] = 0x0150
    requested_sop_class_uid: str = element(0x0003, "UI")
    requested_sop_instance_uid: str = element(0x1001, "UI")


@_message
class NDeleteRSP(Response):
    """N-DELETE-RSP (PS3.7 Table 10.3-12)."""

    command_field: ClassVar[int] = 0x8150
    affected_sop_instance_uid: str | None = element(0x1000, "UI", default=None)


@_message
class UnrecognizedRQ(Request):
    """A request whose Command Field PS3.7 does not know: it can be answered, and no more."""

    command_field: int


@_message
class UnrecognizedRSP(Response):
    """The answer in kind to a request that PS3.7 does not know."""

    command_field: int


#: The messages of PS3.7, by Command Field.
COMMANDS: dict[int, type[Command]] = {
    message.command_field: message
    for message in (
        *(CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, CFindRQ, CFindRSP, CGetRQ, CGetRSP, CMoveRQ, CMoveRSP),
        *(CCancelRQ, NEventReportRQ, NEventReportRSP, NGetRQ, NGetRSP, NSetRQ, NSetRSP),
        *(NActionRQ, NActionRSP, NCreateRQ, NCreateRSP, NDeleteRQ, NDeleteRSP),
    )
}


class _Element(NamedTuple):
    number: int
    name: str
    vr: str
    mandatory: bool


def _elements(message: type[Command]) -> tuple[_Element, ...]:
    declared = (
        _Element(item.metadata["element"], item.name, item.metadata["vr"], item.default is MISSING)
        for item in fields(message)  # type: ignore[arg-type]  # every message is a dataclass
        if item.metadata
    )
    return tuple(sorted(declared))


_ELEMENTS: Mapping[type[Command], tuple[_Element, ...]] = {
    message: _elements(message) for message in (*COMMANDS.values(), UnrecognizedRQ, UnrecognizedRSP)
}

#: What :func:`encode` writes, in order: with what every message has.
_ELEMENTS_TO_ENCODE: Mapping[type[Command], tuple[_Element, ...]] = {
    message: tuple(
        sorted(
            (
                *elements,
                _Element(_COMMAND_FIELD, "command_field", "US", True),
                _Element(_DATA_SET_TYPE, "", "US", True),
            )
        )
    )
    for message, elements in _ELEMENTS.items()
}

#: The names of the elements that a message can have.
_NAMES = {message: frozenset(item.name for item in elements) for message, elements in _ELEMENTS.items()}

#: What pads a text to an even length (PS3.5 6.2).
_PADDING = {"UI": b"\0", "AE": b" ", "LO": b" "}


def encode(command: Command, has_data_set: bool = False) -> bytes:
    """Return the command set of ``command``.

    :param has_data_set: does a data set follow it?
    """
    parts = [b""]
    for number, name, vr, _ in _ELEMENTS_TO_ENCODE[type(command)]:
        if number == _DATA_SET_TYPE:
            parts.append(_US_ELEMENT.pack(0, number, 2, _DATA_SET if has_data_set else _NO_DATA_SET))
            continue
        value = getattr(command, name)
        if value is None or value == ():
            continue  # an empty list of attributes is an absent one: its VM is 1-n
        if vr == "US":
            parts.append(_US_ELEMENT.pack(0, number, 2, value))
        else:
            octets = _encode_value(vr, value)
            parts.append(_ELEMENT.pack(0, number, len(octets)) + octets)
    parts[0] = _GROUP_LENGTH.pack(0, 0, 4, sum(map(len, parts)))
    return b"".join(parts)


def _encode_value(vr: str, value: Any) -> bytes:
    if vr == "AT":
        return b"".join(_US.pack(tag >> 16) + _US.pack(tag & 0xFFFF) for tag in value)
    octets: bytes = value.encode("latin-1", "replace")
    return octets + _PADDING[vr] if len(octets) & 1 else octets


def decode(data: bytes | bytearray | memoryview) -> tuple[Command, bool]:
    """Return the command of a command set, and whether a data set follows it.

    :raises InvalidCommand: when ``data`` is not a command set, or lacks what no message can do without.
    """
    values = _split(bytes(data))
    try:
        (code,) = _US.unpack(values[_COMMAND_FIELD])
        (data_set_type,) = _US.unpack(values[_DATA_SET_TYPE])
    except (KeyError, ValueError, _StructError):
        raise InvalidCommand("Command Field or Command Data Set Type is absent or malformed") from None
    message = COMMANDS.get(code)
    known: dict[str, Any] = {}
    if message is None:
        message = UnrecognizedRSP if code & RESPONSE else UnrecognizedRQ
        known["command_field"] = code
    for number, name, vr, mandatory in _ELEMENTS[message]:
        value = values.get(number)
        if value or (value is not None and vr != "US"):  # an empty number is no number
            known[name] = _decode_value(number, vr, value)
        elif mandatory:
            if vr == "US":
                raise InvalidCommand(f"(0000,{number:04X}) is absent")
            known[name] = ""
    return message(**known), data_set_type != _NO_DATA_SET


def _split(data: bytes) -> dict[int, bytes]:
    """Return the values of group 0000, by element number."""
    values = {}
    position, end = 0, len(data)
    while position < end:
        value = position + _ELEMENT.size
        if value > end:
            raise InvalidCommand("a command set ends inside an element")
        group, number, length = _ELEMENT.unpack_from(data, position)
        position = value + length
        if position > end:
            raise InvalidCommand(f"({group:04X},{number:04X}) is longer than its command set")
        if group == 0:
            values[number] = data[value:position]
    return values


def _decode_value(number: int, vr: str, value: bytes) -> Any:
    if vr == "US":
        if len(value) != 2:
            raise InvalidCommand(f"(0000,{number:04X}) is not two octets long")
        return int.from_bytes(value, "little")
    if vr == "AT":
        numbers = value[: len(value) & ~3]
        pairs = Struct(f"<{len(numbers) // 2}H").unpack(numbers)
        return tuple(high << 16 | low for high, low in zip(pairs[::2], pairs[1::2], strict=True))
    return value.decode("latin-1").strip(" \0")


def respond(request: Request, status: int, **elements: Any) -> Response:
    """Return the response to ``request``: of its kind, with its Message ID and the UIDs it named.

    :param elements: further elements of the response. One that the response does not have is left out.
    """
    message, names, uids = _answers(cast(Any, type(request)))
    values: dict[str, Any] = {"message_id_being_responded_to": request.message_id, "status": status}
    for name, of_request in uids:
        values[name] = getattr(request, of_request) or None
    if message is UnrecognizedRSP:
        values["command_field"] = request.command_field | RESPONSE
    if elements:
        if elements.get("error_comment") is not None:
            elements["error_comment"] = elements["error_comment"][:64] or None  # its VR is LO
        values |= {name: value for name, value in elements.items() if name in names}
    return message(**values)


@cache
def _answers(
    request: type[Request],
) -> tuple[type[Response], frozenset[str], tuple[tuple[str, str], ...]]:
    """Return a request's response, its elements, and which UIDs of it are which of the request's."""
    message: type[Response] = UnrecognizedRSP
    if request is not UnrecognizedRQ:
        code = cast(int, request.command_field) | RESPONSE
        message = cast("type[Response]", COMMANDS.get(code, UnrecognizedRSP))
    uids = tuple(
        (f"affected_{name}", f"{which}_{name}")
        for name in ("sop_class_uid", "sop_instance_uid")
        for which in ("affected", "requested")
        if f"affected_{name}" in _NAMES[message] and f"{which}_{name}" in _NAMES[request]
    )
    return message, _NAMES[message], uids
