"""Command sets as they may come: hostile ones, and any that can be made."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from io import BytesIO
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.codec import LIMIT, decode, encode
from dicomnode.core.command import (
    MEDIUM,
    CEchoRQ,
    Command,
    NCreateRQ,
    NGetRQ,
)
from dicomnode.errors import InvalidCommand
from tests.core.commandcases import (
    COMMAND_FIELD,
    DATA_SET_TYPE,
    ECHO_RQ,
    MESSAGE_ID,
    MESSAGES,
    MINIMUM,
    VALUES,
    by_pydicom,
    commands,
    element,
    field_name,
    make,
    us,
)
from tests.core.helpers import stable, truncations


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
