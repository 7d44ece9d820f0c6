"""What tests of command sets have in common: their octets, and those that pydicom writes."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple

from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicomnode.core.command import (
    HIGH,
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CFindRQ,
    CFindRSP,
    CGetRQ,
    CGetRSP,
    CMoveRQ,
    CMoveRSP,
    Command,
    CStoreRQ,
    CStoreRSP,
    NActionRQ,
    NActionRSP,
    NCreateRQ,
    NCreateRSP,
    NDeleteRQ,
    NDeleteRSP,
    NEventReportRQ,
    NEventReportRSP,
    NGetRQ,
    NGetRSP,
    NSetRQ,
    NSetRSP,
    UnrecognizedRQ,
    UnrecognizedRSP,
)
from tests.core.helpers import octets


class Printed(NamedTuple):
    """A message as PS3.7 prints it: Command Field, and the elements that it must and may have."""

    command_field: int
    mandatory: str
    optional: str = ""


SUBOPERATIONS = (
    "NumberOfRemainingSuboperations NumberOfCompletedSuboperations "
    "NumberOfFailedSuboperations NumberOfWarningSuboperations"
)
ANSWER = "MessageIDBeingRespondedTo Status"
ANSWER_MAY = "AffectedSOPClassUID ErrorComment"

#: PS3.7 Tables 9.3-1 to 9.3-13 and 10.3-1 to 10.3-12, and E.1-1 for the Command Fields. Mandatory is
#: what 9.1 and 10.1 mark M. Not here: the elements of the codec, and of the responses Offending
#: Element, Attribute Identifier List and Error ID, which we do not send.
MESSAGES: dict[type[Command], Printed] = {
    CStoreRQ: Printed(
        0x0001,
        "MessageID AffectedSOPClassUID Priority AffectedSOPInstanceUID",
        "MoveOriginatorApplicationEntityTitle MoveOriginatorMessageID",
    ),
    CStoreRSP: Printed(0x8001, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID"),
    CGetRQ: Printed(0x0010, "MessageID AffectedSOPClassUID Priority"),
    CGetRSP: Printed(0x8010, ANSWER, f"{ANSWER_MAY} {SUBOPERATIONS}"),
    CFindRQ: Printed(0x0020, "MessageID AffectedSOPClassUID Priority"),
    CFindRSP: Printed(0x8020, ANSWER, ANSWER_MAY),
    CMoveRQ: Printed(0x0021, "MessageID AffectedSOPClassUID Priority MoveDestination"),
    CMoveRSP: Printed(0x8021, ANSWER, f"{ANSWER_MAY} {SUBOPERATIONS}"),
    CEchoRQ: Printed(0x0030, "MessageID AffectedSOPClassUID"),
    CEchoRSP: Printed(0x8030, ANSWER, ANSWER_MAY),
    CCancelRQ: Printed(0x0FFF, "MessageIDBeingRespondedTo"),
    NEventReportRQ: Printed(0x0100, "MessageID AffectedSOPClassUID AffectedSOPInstanceUID EventTypeID"),
    NEventReportRSP: Printed(0x8100, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID EventTypeID"),
    NGetRQ: Printed(
        0x0110, "MessageID RequestedSOPClassUID RequestedSOPInstanceUID", "AttributeIdentifierList"
    ),
    NGetRSP: Printed(0x8110, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID"),
    NSetRQ: Printed(0x0120, "MessageID RequestedSOPClassUID RequestedSOPInstanceUID"),
    NSetRSP: Printed(0x8120, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID"),
    NActionRQ: Printed(0x0130, "MessageID RequestedSOPClassUID RequestedSOPInstanceUID ActionTypeID"),
    NActionRSP: Printed(0x8130, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID ActionTypeID"),
    NCreateRQ: Printed(0x0140, "MessageID AffectedSOPClassUID", "AffectedSOPInstanceUID"),
    NCreateRSP: Printed(0x8140, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID"),
    NDeleteRQ: Printed(0x0150, "MessageID RequestedSOPClassUID RequestedSOPInstanceUID"),
    NDeleteRSP: Printed(0x8150, ANSWER, f"{ANSWER_MAY} AffectedSOPInstanceUID"),
}

#: A value for each element, of an odd length where that is possible, so that padding shows.
VALUES: dict[str, Any] = {
    "AffectedSOPClassUID": "1.2.840.10008.1.1",
    "RequestedSOPClassUID": "1.2.840.10008.1.20.1",
    "MessageID": 7,
    "MessageIDBeingRespondedTo": 65535,
    "MoveDestination": "ARCHIVE",
    "Priority": HIGH,
    "Status": 0xFF01,
    "ErrorComment": "no such thing",
    "AffectedSOPInstanceUID": "1.2.3",
    "RequestedSOPInstanceUID": "1.2.34",
    "EventTypeID": 2,
    "AttributeIdentifierList": (0x00100010, 0x7FE00010),
    "ActionTypeID": 1,
    "NumberOfRemainingSuboperations": 4,
    "NumberOfCompletedSuboperations": 3,
    "NumberOfFailedSuboperations": 0,
    "NumberOfWarningSuboperations": 1,
    "MoveOriginatorApplicationEntityTitle": "MODALITY1",
    "MoveOriginatorMessageID": 300,
}

# A C-ECHO-RQ, element by element (PS3.7 Table 9.3-12)
ECHO_RQ = octets("""
    00 00 00 00  04 00 00 00  38 00 00 00                   # Command Group Length: 56
    00 00 02 00  12 00 00 00  '1.2.840.10008.1.1' 00        # Affected SOP Class UID
    00 00 00 01  02 00 00 00  30 00                         # Command Field
    00 00 10 01  02 00 00 00  07 00                         # Message ID
    00 00 00 08  02 00 00 00  01 01                         # Command Data Set Type: none
""")


def field_name(keyword: str) -> str:
    """Return the keyword of an element as the name of a field."""
    short = keyword.replace("ApplicationEntity", "AE")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", short).lower()


def elements_of(message: type[Command]) -> dict[str, Field[Any]]:
    """Return the fields that a message declares as elements."""
    return {item.name: item for item in fields(message) if item.metadata}  # type: ignore[arg-type]


def make(message: type[Command], keywords: str) -> Command:
    values = {field_name(keyword): VALUES[keyword] for keyword in keywords.split()}
    return message(**values)


def by_pydicom(printed: Printed, keywords: str, has_data_set: bool) -> bytes:
    """Return the same command set as pydicom writes it."""
    command_set = Dataset()
    for keyword in keywords.split():
        value = VALUES[keyword]
        setattr(command_set, keyword, list(value) if isinstance(value, tuple) else value)
    command_set.CommandField = printed.command_field
    command_set.CommandDataSetType = 0x0001 if has_data_set else 0x0101
    command_set.CommandGroupLength = len(written(command_set))
    return written(command_set)


def written(command_set: Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = True
    write_dataset(stream, command_set)
    return stream.getvalue()


def element(number: int, value: bytes, *, group: int = 0, length: int | None = None) -> bytes:
    """Return an element, which may claim another length than it has."""
    claimed = len(value) if length is None else length
    return b"".join(
        (group.to_bytes(2, "little"), number.to_bytes(2, "little"), claimed.to_bytes(4, "little"), value)
    )


def us(number: int, value: int) -> bytes:
    return element(number, value.to_bytes(2, "little"))


COMMAND_FIELD, DATA_SET_TYPE, MESSAGE_ID = us(0x0100, 0x0030), us(0x0800, 0x0101), us(0x0110, 7)
MINIMUM = COMMAND_FIELD + MESSAGE_ID + DATA_SET_TYPE


uid_texts = st.text("0123456789.", min_size=1, max_size=16)
plain_texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=16)
numbers = st.integers(0, 0xFFFF)
OF_VR: dict[str, st.SearchStrategy[Any]] = {
    "UI": uid_texts,
    "AE": plain_texts,
    "LO": plain_texts,
    "US": numbers,
    "AT": st.lists(st.integers(0, 0xFFFFFFFF), max_size=4).map(tuple),
}


@st.composite
def commands(draw: st.DrawFn) -> Command:
    message: type[Command] = draw(st.sampled_from([*MESSAGES, UnrecognizedRQ, UnrecognizedRSP]))
    values: dict[str, Any] = {}
    for name, item in elements_of(message).items():
        strategy = OF_VR[item.metadata["vr"]]
        if item.default is not MISSING:
            strategy = st.just(item.default) | strategy
        values[name] = draw(strategy)
    if message is UnrecognizedRQ:
        values["command_field"] = draw(st.integers(0x0200, 0x0FFE))
    elif message is UnrecognizedRSP:
        values["command_field"] = draw(st.integers(0x8200, 0xFFFF))
    return message(**values)
