"""Tests of :mod:`dicomnode.core.codec`: that what it remembers of a command set never changes what it reads.

What it writes and reads is tested with the messages, in ``test_command.py`` and ``test_commandsets.py``.
"""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from struct import error as StructError
from struct import pack
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core import codec
from dicomnode.core.codec import decode, encode
from dicomnode.core.command import ELEMENTS, CEchoRQ, CEchoRSP, Command, CStoreRQ, NGetRQ
from dicomnode.errors import InvalidCommand
from tests.core.commandcases import commands, element, us
from tests.core.helpers import stable


def store(instance: str, message_id: int = 1, sop_class: str = "1.2.840.10008.5.1.4.1.1.2") -> CStoreRQ:
    return CStoreRQ(
        message_id=message_id, affected_sop_class_uid=sop_class, affected_sop_instance_uid=instance
    )


def read(octets: bytes) -> tuple[Command, bool] | str:
    """Decode ``octets``, or say why that cannot be done."""
    try:
        return decode(octets)
    except InvalidCommand as error:
        return str(error)


def unaided(octets: bytes) -> tuple[Command, bool] | str:
    """The same, with nothing to remember."""
    codec._layouts.clear()
    return read(octets)


def written(command: Command, has_data_set: bool) -> bytes:
    """Encode ``command`` element by element (PS3.7 6.3.1)."""
    values = {0x0100: us(0x0100, command.command_field), 0x0800: us(0x0800, 1 if has_data_set else 0x0101)}
    for number, name, vr, _ in ELEMENTS[type(command)]:
        value = getattr(command, name)
        if value is None or value == ():
            continue
        if vr == "US":
            values[number] = us(number, value)
        elif vr == "AT":
            values[number] = element(number, b"".join(pack("<HH", *divmod(tag, 1 << 16)) for tag in value))
        else:
            octets = value.encode("latin-1", "replace")
            values[number] = element(number, octets + (b"\0" if vr == "UI" else b" ") * (len(octets) % 2))
    octets = b"".join(values[number] for number in sorted(values))
    return element(0x0000, pack("<I", len(octets))) + octets


class FormTests(SynchronousTestCase):
    """A command whose values are of the same types and lengths as one's before it."""

    def setUp(self) -> None:
        codec._forms.clear()
        self.addCleanup(codec._forms.clear)

    @stable
    @given(commands(), commands(), st.booleans())
    def test_as_written(self, taught: Command, command: Command, has_data_set: bool) -> None:
        """Whatever was written before, it is written with its own values, element by element."""
        for other in (taught, command, taught):
            self.assertEqual(encode(other, has_data_set), written(other, has_data_set))

    def test_values(self) -> None:
        """Empty is not absent, what Latin-1 lacks becomes a question mark, and nothing is a format."""
        for uid in (
            None,
            "",
            "1",
            "1.2",
            "\xe9",
            "\u65e5",
            "%b",
            "%",
            "1" * 0x25,
            "1" * 0x2524,
            "1" * 0x2525,
        ):
            for comment in (None, "", "odd", "even"):
                for status in (0, 0x2525, 0xFFFF):
                    response = CEchoRSP(
                        message_id_being_responded_to=7,
                        status=status,
                        affected_sop_class_uid=uid,
                        error_comment=comment,
                    )
                    for _ in ("learned", "remembered"):
                        self.assertEqual(encode(response), written(response, False))

    def test_numbers(self) -> None:
        """A number that is none, or does not fit, is refused each time."""
        for status in (None, -1, 65536, "0"):
            response = CEchoRSP(message_id_being_responded_to=7, status=cast(int, status))
            for _ in ("learned", "remembered"):
                self.assertRaises(StructError, encode, response)

    def test_bounded(self) -> None:
        """However many forms there are, few are remembered."""
        for size in range(600):
            encode(store("2" * size))
            self.assertLessEqual(len(codec._forms), 256)


class LayoutTests(SynchronousTestCase):
    """A command set that is laid out as one before it."""

    def setUp(self) -> None:
        codec._layouts.clear()
        self.addCleanup(codec._layouts.clear)

    def test_other_values(self) -> None:
        """It is read with its own values."""
        for command in (store("1.2.3"), store("1.2.4", message_id=2), store("1.2", message_id=65535)):
            self.assertEqual(decode(encode(command, True)), (command, True))

    def test_remembered(self) -> None:
        """It is taken apart in one step."""
        first, second = encode(store("1.2.3"), True), encode(store("9.8.7", message_id=9), True)
        decode(first)
        self.patch(codec, "_split", lambda octets: self.fail("it was looked at element by element"))
        self.assertEqual(decode(second), (store("9.8.7", message_id=9), True))

    def test_same_length(self) -> None:
        """Another message of that length is read for what it is."""
        request = encode(store("1.2.3"), True)
        for other in (encode(store("1.2.3"), False), request[:20] + request[20:][::-1]):
            self.assertEqual(len(other), len(request))
            expected = unaided(other)
            decode(request)
            self.assertEqual(read(other), expected)

    def test_longer_class(self) -> None:
        """What is longer here and shorter there has a layout of its own."""
        for sop_class, instance in (("1.2", "1.2.3.4"), ("1.2.3.4", "1.2"), ("1.2", "1.2.3.5")):
            command = store(instance, sop_class=sop_class)
            self.assertEqual(decode(encode(command)), (command, False))
        self.assertEqual(len(codec._layouts), 2)

    def test_not_remembered(self) -> None:
        """One that has lists, or elements twice, or lacks what it should have, is looked at each time."""
        listing = NGetRQ(
            message_id=1,
            requested_sop_class_uid="1.2",
            requested_sop_instance_uid="1.3",
            attribute_identifier_list=(0x00100010,),
        )
        minimum = us(0x0100, 0x0030) + us(0x0110, 7) + us(0x0800, 0x0101)
        for octets in (
            encode(listing),
            minimum + element(0x0002, b"1.2\0") + element(0x0002, b"1.3\0"),
            minimum + element(0x0110, b""),
            minimum,
            encode(store("1." * 300 + "1")),
        ):
            read(octets)
        self.assertEqual(codec._layouts, {})

    def test_bounded(self) -> None:
        """However many layouts a peer thinks of, few are remembered."""
        for size in range(200):
            decode(encode(store("1." + "2" * size)))
            self.assertLessEqual(len(codec._layouts), 64)

    @stable
    @given(commands(), commands(), st.booleans(), st.data())
    def test_as_unaided(
        self, taught: Command, command: Command, has_data_set: bool, data: st.DataObject
    ) -> None:
        """Whatever was read before, all octets are read as if nothing had been."""
        lesson = encode(taught, has_data_set)
        damaged = bytearray(lesson)
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        for octets in (lesson, bytes(damaged), encode(command, has_data_set)):
            expected = unaided(octets)
            decode(lesson)
            self.assertEqual(read(octets), expected)

    def test_unknown_elements(self) -> None:
        """Elements that the message does not have, and other groups', may change all the same."""
        octets = encode(CEchoRQ(message_id=3, affected_sop_class_uid="1.2"))
        for behind in (element(0x5010, b"ab"), element(0x5010, b"cd"), element(0x0010, b"ab", group=8)):
            self.assertEqual(
                decode(octets + behind), (CEchoRQ(message_id=3, affected_sop_class_uid="1.2"), False)
            )
