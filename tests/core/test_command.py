"""Tests of :mod:`dicomnode.core.command`: the command sets of PS3.7. pydicom is the oracle."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from io import BytesIO
from itertools import permutations
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pynetdicom.status import code_to_category
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.codec import LIMIT, decode, encode
from dicomnode.core.command import (
    COMMANDS,
    HIGH,
    LOW,
    MEDIUM,
    RESPONSE,
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
    Request,
    Response,
    Status,
    UnrecognizedRQ,
    UnrecognizedRSP,
    is_warning,
    respond,
)
from dicomnode.errors import InvalidCommand
from tests.core.helpers import octets, stable, truncations


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


class DeclarationTests(SynchronousTestCase):
    """The messages as declared, against the tables of PS3.7 and pydicom's dictionary."""

    def test_all_messages(self) -> None:
        """The 23 messages of PS3.7 are found by their Command Fields."""
        self.assertEqual(len(MESSAGES), 23)
        self.assertEqual(COMMANDS, {printed.command_field: message for message, printed in MESSAGES.items()})

    def test_tags(self) -> None:
        """Each element has the number that the dictionary gives the keyword of its name."""
        for message, printed in MESSAGES.items():
            expected = {
                field_name(keyword): tag_for_keyword(keyword)
                for keyword in f"{printed.mandatory} {printed.optional}".split()
            }
            declared = {name: item.metadata["element"] for name, item in elements_of(message).items()}
            self.assertEqual(declared, expected, message)

    def test_vrs(self) -> None:
        """Each element has the VR that the dictionary gives its tag, those of unknown messages too."""
        for message in (*MESSAGES, UnrecognizedRQ, UnrecognizedRSP):
            for name, item in elements_of(message).items():
                tag = item.metadata["element"]
                self.assertEqual(item.metadata["vr"], dictionary_VR(tag), name)
                self.assertEqual(name, field_name(keyword_for_tag(tag)))

    def test_mandatory(self) -> None:
        """The elements that PS3.7 marks M are those without default, and Priority, whose default is sent."""
        for message, printed in MESSAGES.items():
            required = {name for name, item in elements_of(message).items() if item.default is MISSING}
            expected = {field_name(keyword) for keyword in printed.mandatory.split()}
            self.assertEqual(required, expected - {"priority"}, message)

    def test_requests_and_responses(self) -> None:
        """A response has bit 15 of its request's Command Field; C-CANCEL-RQ is no request to respond to."""
        for message, printed in MESSAGES.items():
            command = make(message, printed.mandatory)
            self.assertEqual(command.command_field, printed.command_field)
            self.assertEqual(command.is_response, isinstance(command, Response))
            self.assertEqual(command.is_response, message.__name__.endswith("RSP"))
            if isinstance(command, Request):
                self.assertEqual(
                    COMMANDS[command.command_field | RESPONSE].__name__, f"{message.__name__[:-2]}RSP"
                )
            else:
                self.assertTrue(command.is_response or message is CCancelRQ)

    def test_documented(self) -> None:
        """The docstring of a message begins with its name in PS3.7."""
        for message in MESSAGES:
            name = re.sub(r"(?<=.)(?=[A-Z][a-z]|RQ|RSP)", "-", message.__name__).upper()
            self.assertTrue((message.__doc__ or "").startswith(f"{name} (PS3.7 Table"), name)

    def test_command_is_abstract(self) -> None:
        """A command that is no message has no Command Field."""
        self.assertRaises(NotImplementedError, lambda: Command().command_field)

    def test_priorities(self) -> None:
        """Priority is one of three values (PS3.7 E.1), medium unless told."""
        self.assertEqual((LOW, MEDIUM, HIGH), (2, 0, 1))
        self.assertEqual(CFindRQ(message_id=1, affected_sop_class_uid="1").priority, MEDIUM)

    def test_statuses(self) -> None:
        """The statuses have the values of PS3.7 Annex C and PS3.4 B.2.3."""
        expected = {
            "SUCCESS": 0x0000,
            "INVALID_ATTRIBUTE_VALUE": 0x0106,
            "PROCESSING_FAILURE": 0x0110,
            "DUPLICATE_SOP_INSTANCE": 0x0111,
            "NO_SUCH_SOP_INSTANCE": 0x0112,
            "INVALID_OBJECT_INSTANCE": 0x0117,
            "NO_SUCH_SOP_CLASS": 0x0118,
            "CLASS_INSTANCE_CONFLICT": 0x0119,
            "MISSING_ATTRIBUTE": 0x0120,
            "SOP_CLASS_NOT_SUPPORTED": 0x0122,
            "NO_SUCH_ACTION": 0x0123,
            "NOT_AUTHORIZED": 0x0124,
            "DUPLICATE_INVOCATION": 0x0210,
            "UNRECOGNIZED_OPERATION": 0x0211,
            "RESOURCE_LIMITATION": 0x0213,
            "OUT_OF_RESOURCES": 0xA700,
            "DATA_SET_DOES_NOT_MATCH_SOP_CLASS": 0xA900,
            "COERCION_OF_DATA_ELEMENTS": 0xB000,
            "ELEMENTS_DISCARDED": 0xB006,
            "DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING": 0xB007,
            "CANNOT_UNDERSTAND": 0xC210,
            "CANCEL": 0xFE00,
            "PENDING": 0xFF00,
        }
        self.assertEqual({status.name: status.value for status in Status}, expected)

    def test_warnings(self) -> None:
        """What pynetdicom takes for a warning is one, and nothing else."""
        for status in (
            0x0000,
            0x0001,
            0x0107,
            0x0110,
            0x0116,
            0xA700,
            0xB000,
            0xB007,
            0xBFFF,
            0xC000,
            0xFF00,
        ):
            self.assertEqual(is_warning(status), code_to_category(status) == "Warning", f"{status:04X}")


class EncodingTests(SynchronousTestCase):
    """The codec, against pydicom's."""

    def test_printed(self) -> None:
        """A C-ECHO-RQ is encoded as PS3.7 6.3.1 prints it, and decoded."""
        command = CEchoRQ(message_id=7, affected_sop_class_uid="1.2.840.10008.1.1")
        self.assertEqual(encode(command), ECHO_RQ)
        self.assertEqual(decode(ECHO_RQ), (command, False))

    def test_all_elements(self) -> None:
        """Each message with all of its elements is encoded as pydicom encodes it, and decoded."""
        self.check([f"{printed.mandatory} {printed.optional}" for printed in MESSAGES.values()])

    def test_mandatory_elements(self) -> None:
        """Each message with its mandatory elements alone, likewise."""
        self.check([printed.mandatory for printed in MESSAGES.values()])

    def check(self, keywords: list[str]) -> None:
        for (message, printed), words in zip(MESSAGES.items(), keywords, strict=True):
            for has_data_set in (False, True):
                command = make(message, words)
                data = by_pydicom(printed, words, has_data_set)
                self.assertEqual(encode(command, has_data_set), data, message)
                self.assertEqual(decode(data), (command, has_data_set), message)

    def test_read_by_pydicom(self) -> None:
        """pydicom reads from our encoding the elements that were put in."""
        for message, printed in MESSAGES.items():
            keywords = f"{printed.mandatory} {printed.optional}".split()
            data = encode(make(message, " ".join(keywords)))
            command_set = read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)
            for keyword in keywords:
                value = command_set[keyword].value
                self.assertEqual(
                    tuple(value) if isinstance(VALUES[keyword], tuple) else value, VALUES[keyword]
                )
            self.assertEqual(command_set.CommandField, printed.command_field)
            self.assertEqual(command_set.CommandGroupLength, len(data) - 12)
            self.assertEqual(len(command_set), len(keywords) + 3)

    def test_defaults_are_sent(self) -> None:
        """A mandatory element with a default is sent when it was not given."""
        command = CStoreRQ(message_id=1, affected_sop_class_uid="1.2", affected_sop_instance_uid="1.3")
        self.assertIn(us(0x0700, MEDIUM), encode(command))

    def test_absent_elements(self) -> None:
        """An optional element that is None, or an empty list, is not sent."""
        empty = NGetRQ(message_id=1, requested_sop_class_uid="1.2", requested_sop_instance_uid="1.3")
        self.assertNotIn(element(0x1005, b""), encode(empty))
        self.assertEqual(decode(encode(empty)), (empty, False))
        response = CEchoRSP(message_id_being_responded_to=1, status=0)
        self.assertNotIn(b"\0\0\x02\0", encode(response))
        self.assertNotIn(b"\0\0\x02\x09", encode(response))

    def test_zero_is_sent(self) -> None:
        """A number that is 0, and a text that is empty, are there all the same."""
        response = CMoveRSP(
            message_id_being_responded_to=0,
            status=0,
            error_comment="",
            number_of_failed_suboperations=0,
        )
        data = encode(response)
        for octets_of_element in (us(0x0120, 0), us(0x0900, 0), us(0x1022, 0), element(0x0902, b"")):
            self.assertIn(octets_of_element, data)
        self.assertEqual(decode(data), (response, False))

    def test_text_that_is_not_latin(self) -> None:
        """What the character repertoire of a command set does not hold is replaced, not raised."""
        response = CEchoRSP(message_id_being_responded_to=1, status=0, error_comment="\u20ac\xe9")
        self.assertIn(element(0x0902, b"?\xe9"), encode(response))

    def test_buffers(self) -> None:
        """Any buffer is decoded, and the values do not keep it."""
        for data in (bytearray(ECHO_RQ), memoryview(ECHO_RQ), ECHO_RQ):
            self.assertEqual(decode(data)[0].command_field, 0x0030)
        buffer = bytearray(ECHO_RQ)
        command, _ = decode(buffer)
        buffer.clear()
        self.assertEqual(command, decode(ECHO_RQ)[0])


class UnrecognizedTests(SynchronousTestCase):
    """Command Fields that PS3.7 does not know."""

    def test_request(self) -> None:
        """An unknown request is known by its Command Field and Message ID, and round trips."""
        command = UnrecognizedRQ(message_id=7, command_field=0x0199)
        self.assertEqual(
            encode(command), element(0, b"\x1e\0\0\0") + us(0x0100, 0x0199) + MESSAGE_ID + DATA_SET_TYPE
        )
        self.assertEqual(decode(encode(command, True)), (command, True))
        self.assertFalse(command.is_response)

    def test_response(self) -> None:
        """An unknown response is known by what every response has, and round trips."""
        response = UnrecognizedRSP(message_id_being_responded_to=7, status=0x0211, command_field=0x8199)
        self.assertEqual(decode(encode(response)), (response, False))
        self.assertTrue(response.is_response)

    def test_other_elements(self) -> None:
        """The other elements of an unknown request are passed over."""
        data = us(0x0100, 0x0199) + MESSAGE_ID + element(0x1000, b"1.2\0") + DATA_SET_TYPE
        self.assertEqual(decode(data)[0], UnrecognizedRQ(message_id=7, command_field=0x0199))

    def test_every_command_field(self) -> None:
        """Each of the 65,536 Command Fields is read as a message of its own, or as an unknown one."""
        rest = MESSAGE_ID + us(0x0120, 8) + DATA_SET_TYPE + us(0x0900, 0) + us(0x1002, 1) + us(0x1008, 1)
        for code in range(0x10000):
            command, _ = decode(us(0x0100, code) + rest)
            unknown = UnrecognizedRSP if code & RESPONSE else UnrecognizedRQ
            self.assertIs(type(command), COMMANDS.get(code, unknown))
            self.assertEqual(command.command_field, code)


class RespondTests(SynchronousTestCase):
    """The response to a request."""

    def test_each_request(self) -> None:
        """It is of the request's kind, and has its Message ID and the UIDs that it named."""
        for message, printed in MESSAGES.items():
            command = make(message, f"{printed.mandatory} {printed.optional}")
            if not isinstance(command, Request):
                continue
            response = respond(command, 0x0110)
            names = elements_of(type(response))
            self.assertIs(type(response), COMMANDS[printed.command_field | RESPONSE])
            self.assertEqual(response.message_id_being_responded_to, 7)
            self.assertEqual(response.status, 0x0110)
            self.assertIsNone(response.error_comment)
            asked = "Requested" if "Requested" in printed.mandatory else "Affected"
            self.assertEqual(response.affected_sop_class_uid, VALUES[f"{asked}SOPClassUID"])
            if (name := "affected_sop_instance_uid") in names:
                expected = VALUES[f"{asked}SOPInstanceUID"]
                self.assertEqual(getattr(response, name), expected)

    def test_unnamed_uids(self) -> None:
        """A UID that the request did not name, or that was empty, is not in the response."""
        for uid in (None, ""):
            request = NCreateRQ(message_id=1, affected_sop_class_uid="", affected_sop_instance_uid=uid)
            self.assertEqual(respond(request, 0), NCreateRSP(message_id_being_responded_to=1, status=0))
        delete = NDeleteRQ(message_id=1, requested_sop_class_uid="", requested_sop_instance_uid="")
        self.assertEqual(respond(delete, 0), NDeleteRSP(message_id_being_responded_to=1, status=0))

    def test_elements(self) -> None:
        """Further elements can be given, and override what was taken from the request."""
        request = NCreateRQ(message_id=1, affected_sop_class_uid="1.2")
        response = respond(
            request, Status.SUCCESS, affected_sop_instance_uid="1.3", affected_sop_class_uid="1.4"
        )
        self.assertEqual(
            response,
            NCreateRSP(
                message_id_being_responded_to=1,
                status=0,
                affected_sop_class_uid="1.4",
                affected_sop_instance_uid="1.3",
            ),
        )

    def test_elements_of_other_responses(self) -> None:
        """An element that the response does not have is left out."""
        request = CEchoRQ(message_id=1, affected_sop_class_uid="1.2")
        response = respond(request, 0, number_of_failed_suboperations=1, move_destination="X")
        self.assertEqual(response, respond(request, 0))

    def test_error_comment(self) -> None:
        """An error comment is cut to the 64 characters of its VR; an empty one is none."""
        request = CEchoRQ(message_id=1, affected_sop_class_uid="1.2")
        for comment, expected in (
            ("x" * 65, "x" * 64),
            ("x" * 64, "x" * 64),
            ("why", "why"),
            ("", None),
            (None, None),
        ):
            self.assertEqual(respond(request, 0x0110, error_comment=comment).error_comment, expected)

    def test_unrecognized(self) -> None:
        """An unknown request is answered in kind."""
        request = UnrecognizedRQ(message_id=7, command_field=0x0199)
        self.assertEqual(
            respond(request, Status.UNRECOGNIZED_OPERATION, error_comment="?"),
            UnrecognizedRSP(
                message_id_being_responded_to=7, status=0x0211, error_comment="?", command_field=0x8199
            ),
        )

    def test_status_is_written(self) -> None:
        """A status may be a Status or a number."""
        request = CEchoRQ(message_id=1, affected_sop_class_uid="1.2")
        self.assertEqual(encode(respond(request, Status.PENDING)), encode(respond(request, 0xFF00)))


class HostileTests(SynchronousTestCase):
    """Command sets that are none."""

    def test_truncations(self) -> None:
        """The beginning of a command set is refused, unless it holds all that is needed."""
        for message, printed in MESSAGES.items():
            data = encode(make(message, f"{printed.mandatory} {printed.optional}"))
            for beginning in truncations(data):
                try:
                    command, has_data_set = decode(beginning)
                except InvalidCommand:
                    continue
                self.assertIs(type(command), message)
                self.assertFalse(has_data_set)

    def test_cut_inside_an_element(self) -> None:
        """Whatever ends inside an element is refused."""
        for beginning in truncations(ECHO_RQ):
            self.assertRaises(InvalidCommand, decode, beginning)

    def test_trailing_octets(self) -> None:
        """One to seven octets behind the last element are no element."""
        for count in range(1, 8):
            self.assertRaises(InvalidCommand, decode, ECHO_RQ + bytes(count))

    def test_lengths_that_overrun(self) -> None:
        """No length is believed beyond the end, be it of an element that nobody asked for."""
        for number in (0x0000, 0x0002, 0x0100, 0x0110, 0x5010):
            for length in (3, 0x10000, 0xFFFFFFFF):
                self.assertRaises(InvalidCommand, decode, MINIMUM + element(number, b"12", length=length))

    def test_command_field(self) -> None:
        """Without a Command Field of two octets there is no telling the message."""
        for wrong in (b"", element(0x0100, b""), element(0x0100, b"\x30"), element(0x0100, b"\x30\0\0\0")):
            self.assertRaises(InvalidCommand, decode, wrong + MESSAGE_ID + DATA_SET_TYPE)

    def test_data_set_type(self) -> None:
        """Without a Command Data Set Type of two octets there is no telling what follows."""
        for wrong in (b"", element(0x0800, b""), element(0x0800, b"\1"), element(0x0800, b"\1\1\1\1")):
            self.assertRaises(InvalidCommand, decode, COMMAND_FIELD + MESSAGE_ID + wrong)

    def test_data_set_types(self) -> None:
        """Any Command Data Set Type but 0101 says that a data set follows (PS3.7 E.1)."""
        for value, expected in (
            (0x0101, False),
            (0x0000, True),
            (0x0001, True),
            (0x0102, True),
            (0xFFFF, True),
        ):
            self.assertEqual(decode(COMMAND_FIELD + MESSAGE_ID + us(0x0800, value))[1], expected)

    def test_numbers(self) -> None:
        """A number is two octets long, the optional ones too; an optional one that is empty is absent."""
        store = us(0x0100, 0x0001) + MESSAGE_ID + DATA_SET_TYPE
        for length in (0, 1, 3, 4):
            wrong = COMMAND_FIELD + DATA_SET_TYPE + element(0x0110, bytes(length))
            self.assertRaises(InvalidCommand, decode, wrong)
            if length:
                self.assertRaises(InvalidCommand, decode, store + element(0x1031, bytes(length)))
        self.assertEqual(decode(store + element(0x1031, b"")), decode(store))

    def test_absent_numbers(self) -> None:
        """A mandatory number that is absent makes the command set invalid, but for the Priority."""
        for printed in MESSAGES.values():
            for keyword in printed.mandatory.split():
                others = [word for word in printed.mandatory.split() if word != keyword]
                data = by_pydicom(printed, " ".join(others), False)
                if isinstance(VALUES[keyword], str) or keyword == "Priority":
                    value = getattr(decode(data)[0], field_name(keyword))
                    self.assertEqual(value, MEDIUM if keyword == "Priority" else "", keyword)
                else:
                    self.assertRaises(InvalidCommand, decode, data)

    def test_absent_options(self) -> None:
        """An optional element that is absent is None, or no list."""
        create, _ = decode(us(0x0100, 0x0140) + MESSAGE_ID + DATA_SET_TYPE)
        self.assertEqual(create, NCreateRQ(message_id=7, affected_sop_class_uid=""))
        get, _ = decode(us(0x0100, 0x0110) + MESSAGE_ID + DATA_SET_TYPE)
        self.assertEqual(get, NGetRQ(message_id=7, requested_sop_class_uid="", requested_sop_instance_uid=""))

    def test_padding(self) -> None:
        """NUL and space on either side of a text are dropped; what is not ASCII is kept."""
        for padded, expected in (
            (b"1.2\0", "1.2"),
            (b" 1.2 \0\0", "1.2"),
            (b"\xe9\0", "\xe9"),
            (b"", ""),
            (b"\0\0", ""),
        ):
            command, _ = decode(MINIMUM + element(0x0002, padded))
            self.assertEqual(command, CEchoRQ(message_id=7, affected_sop_class_uid=expected))

    def test_attribute_lists(self) -> None:
        """Of a list of attributes, an odd end is dropped."""
        data = us(0x0100, 0x0110) + MESSAGE_ID + DATA_SET_TYPE
        for value, expected in (
            (b"", ()),
            (b"\x10\0\x20", ()),
            (b"\x10\0\x20\0", (0x00100020,)),
            (b"\x10\0\x20\0\x08\0", (0x00100020,)),
            (b"\x10\0\x20\0\xe0\x7f\x10\0", (0x00100020, 0x7FE00010)),
        ):
            command, _ = decode(data + element(0x1005, value))
            assert isinstance(command, NGetRQ)
            self.assertEqual(command.attribute_identifier_list, expected)

    def test_other_groups(self) -> None:
        """Elements of other groups are passed over, whatever their numbers."""
        foreign = element(0x0100, b"\1\0", group=0x0008) + element(0x0110, b"", group=0xFFFF)
        expected = decode(MINIMUM)
        self.assertEqual(decode(foreign + MINIMUM + foreign), expected)
        self.assertRaises(InvalidCommand, decode, foreign)

    def test_unknown_elements(self) -> None:
        """Elements that the message does not have are passed over, retired ones too."""
        others = element(0x0010, b"ACR") + element(0x0902, b"x") + element(0x0903, b"") + element(0xFFFF, b"")
        self.assertEqual(decode(others + MINIMUM + others), decode(MINIMUM))

    def test_duplicates(self) -> None:
        """Of an element that comes twice the last counts, and nothing is added up."""
        command, has_data_set = decode(us(0x0110, 1) + us(0x0800, 0) + MINIMUM)
        self.assertEqual((command, has_data_set), decode(MINIMUM))

    def test_any_order(self) -> None:
        """The elements are found in any order."""
        parts = (COMMAND_FIELD, MESSAGE_ID, DATA_SET_TYPE, element(0x0002, b"1.2\0"))
        for order in permutations(parts):
            self.assertEqual(decode(b"".join(order))[0], CEchoRQ(message_id=7, affected_sop_class_uid="1.2"))

    def test_group_length(self) -> None:
        """The Command Group Length is neither needed nor believed."""
        for value in (b"", b"\0", bytes(4), b"\xff\xff\xff\xff", bytes(8)):
            self.assertEqual(decode(element(0, value) + MINIMUM), decode(MINIMUM))

    def test_many_elements(self) -> None:
        """A command set as long as one may be, of the smallest elements, is read for what it is."""
        filling = element(0x5010, b"") * ((LIMIT - len(MINIMUM)) // 8)
        self.assertEqual(decode(filling + MINIMUM), decode(MINIMUM))


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


class PropertyTests(SynchronousTestCase):
    """What holds for all commands and all octets."""

    @stable
    @given(commands(), st.booleans())
    def test_round_trip(self, command: Command, has_data_set: bool) -> None:
        """What was encoded decodes to itself, is of even length, and has its elements in order."""
        data = encode(command, has_data_set)
        self.assertEqual(decode(data), (command, has_data_set))
        self.assertEqual(len(data) % 2, 0)
        command_set = read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)
        self.assertEqual([*command_set.keys()], sorted(command_set.keys()))

    @stable
    @given(commands(), st.data())
    def test_any_damage(self, command: Command, data: st.DataObject) -> None:
        """A command set with an octet changed is refused, or survives being sent."""
        damaged = bytearray(encode(command))
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        try:
            decoded, has_data_set = decode(damaged)
        except InvalidCommand:
            return
        self.assertEqual(decode(encode(decoded, has_data_set)), (decoded, has_data_set))

    @stable
    @given(st.binary(max_size=80), st.integers(0, 2))
    def test_any_octets(self, data: bytes, place: int) -> None:
        """Any octets, in front of a command set, behind it or alone, are refused or read."""
        for whole in (data, data + MINIMUM, MINIMUM + data):
            try:
                decoded, has_data_set = decode(whole)
            except InvalidCommand:
                continue
            self.assertEqual(decode(encode(decoded, has_data_set)), (decoded, has_data_set))

    def test_values(self) -> None:
        """Commands are values: equal by their elements, changed only into others."""
        command = CEchoRQ(message_id=1, affected_sop_class_uid="1.2")
        self.assertEqual(command, CEchoRQ(message_id=1, affected_sop_class_uid="1.2"))
        self.assertNotEqual(command, CEchoRQ(message_id=2, affected_sop_class_uid="1.2"))
        with self.assertRaises(AttributeError):
            command.message_id = 2  # type: ignore[misc]
