"""The messages of PS3.7, declared element by element, and the statuses.

Each message is a class whose fields are the elements of its command set; Command Group Length, Command
Field and Command Data Set Type are the codec's business. To add a message is to declare its two classes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar, cast, dataclass_transform

from dicomnode.values import quick

RESPONSE = 0x8000  #: the bit of the Command Field that makes a request's its response's

# Priority (0000,0700)
MEDIUM, HIGH, LOW = 0x0000, 0x0001, 0x0002


class Status(enum.IntEnum):
    """Values of Status (0000,0900) that a service may answer (PS3.7 Annex C, PS3.4 B.2.3)."""

    SUCCESS = 0x0000
    INVALID_ATTRIBUTE_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    INVALID_OBJECT_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    CLASS_INSTANCE_CONFLICT = 0x0119
    MISSING_ATTRIBUTE = 0x0120
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    COERCION_OF_DATA_ELEMENTS = 0xB000
    ELEMENTS_DISCARDED = 0xB006
    #: The warning of that name, with which the instance is stored.
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING = 0xB007
    #: Of the range C000 to CFFF, Cannot understand: the value that pynetdicom's storescp sends.
    CANNOT_UNDERSTAND = 0xC210
    CANCEL = 0xFE00
    PENDING = 0xFF00


def is_warning(status: int) -> bool:
    """Is it a warning: what was asked for is done, with a remark (PS3.7 Annex C, PS3.4 B.2.3)?"""
    return status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116)


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


class Element(NamedTuple):
    """An element of a message."""

    number: int  #: of group 0000
    name: str
    vr: str
    mandatory: bool


def _elements(message: type[Command]) -> tuple[Element, ...]:
    declared = (
        Element(item.metadata["element"], item.name, item.metadata["vr"], item.default is MISSING)
        for item in fields(message)  # type: ignore[arg-type]  # every message is a dataclass
        if item.metadata
    )
    return tuple(sorted(declared))


#: The elements of a message, in their order.
ELEMENTS: Mapping[type[Command], tuple[Element, ...]] = {
    message: _elements(message) for message in (*COMMANDS.values(), UnrecognizedRQ, UnrecognizedRSP)
}

#: The names of the elements that a message can have.
_NAMES = {message: frozenset(item.name for item in elements) for message, elements in ELEMENTS.items()}


def respond(request: Request, status: int, **elements: Any) -> Response:
    """Return the response to ``request``: of its kind, with its Message ID and the UIDs it named.

    :param elements: further elements of the response. One that the response does not have is left out.
    """
    make, names, uids = _answers(cast(Any, type(request)))
    values: dict[str, Any] = {"message_id_being_responded_to": request.message_id, "status": status}
    for name, of_request in uids:
        values[name] = getattr(request, of_request) or None
    if issubclass(make, UnrecognizedRSP):
        values["command_field"] = request.command_field | RESPONSE
    for name, value in elements.items():
        if name in names and value is not None:
            values[name] = (value[:64] or None) if name == "error_comment" else value  # its VR is LO
    return make(**values)


@cache
def _answers(
    request: type[Request],
) -> tuple[type[Response], frozenset[str], tuple[tuple[str, str], ...]]:
    """Return what makes a request's response, its elements, and which UIDs of it are the request's."""
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
    return quick(message), _NAMES[message], uids
