"""Tests of :mod:`dicomnode.core.command`: the command sets of PS3.7. pydicom is the oracle."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import re
from dataclasses import MISSING
from io import BytesIO

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.filereader import read_dataset
from pynetdicom.status import code_to_category
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.codec import decode, encode
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
    CMoveRSP,
    Command,
    CStoreRQ,
    NCreateRQ,
    NCreateRSP,
    NDeleteRQ,
    NDeleteRSP,
    NGetRQ,
    Request,
    Response,
    Status,
    UnrecognizedRQ,
    UnrecognizedRSP,
    is_warning,
    respond,
)
from tests.core.commandcases import (
    DATA_SET_TYPE,
    ECHO_RQ,
    MESSAGE_ID,
    MESSAGES,
    VALUES,
    by_pydicom,
    element,
    elements_of,
    field_name,
    make,
    us,
)


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
