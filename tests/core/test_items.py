"""Tests of :mod:`dicomnode.core.items`: the User Information of PS3.8 Annex D and PS3.7 Annex D.3."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.items import (
    ITEMS,
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    RoleSelection,
    UserIdentity,
    UserInformation,
    encode_item,
    read_items,
    read_uid,
)
from dicomnode.errors import InvalidPDU
from tests.core.helpers import octets, stable, truncations, uids

#: One of each sub-item that a request can have, in ascending order of their types.
GOLDEN = octets("""
    51 00 00 04                                 # Maximum Length (PS3.8 Table D.1-1)
        00 00 40 00                             #   16384
    52 00 00 0F '1.2.840.99999.1'               # Implementation Class UID (PS3.7 Table D.3-1)
    53 00 00 04                                 # Asynchronous Operations Window (Table D.3-7)
        00 05                                   #   invoked
        00 00                                   #   performed: unlimited
    54 00 00 15                                 # SCP/SCU Role Selection (Table D.3-9)
        00 11 '1.2.840.10008.1.1'               #   SOP Class UID
        00                                      #   SCU
        01                                      #   SCP
    55 00 00 0A 'DICOMNODE1'                    # Implementation Version Name (Table D.3-3)
    56 00 00 16                                 # SOP Class Extended Negotiation (Table D.3-11)
        00 11 '1.2.840.10008.1.1'               #   SOP Class UID
        02 00 01                                #   Service-class-application-information
    57 00 00 22                                 # SOP Class Common Extended Negotiation (Table D.3-12)
        00 07 '1.2.3.4'                         #   SOP Class UID
        00 0B '1.2.840.4.2'                     #   Service Class UID
        00 0A                                   #   Related general SOP Class identification
            00 03 '1.5'
            00 03 '1.6'
    58 00 00 12                                 # User Identity (Table D.3-14)
        02                                      #   username and passcode
        01                                      #   a positive response is requested
        00 05 'alice'                           #   primary field
        00 07 'letmein'                         #   secondary field
""")

INFORMATION = UserInformation(
    max_length=16384,
    implementation_class_uid="1.2.840.99999.1",
    implementation_version_name="DICOMNODE1",
    asynchronous_operations_window=(5, 0),
    roles=(RoleSelection("1.2.840.10008.1.1", scu=False, scp=True),),
    extended=(ExtendedNegotiation("1.2.840.10008.1.1", b"\2\0\1"),),
    common_extended=(CommonExtendedNegotiation("1.2.3.4", "1.2.840.4.2", ("1.5", "1.6")),),
    user_identity=UserIdentity(2, b"alice", b"letmein", response_requested=True),
)

short_octets = st.binary(max_size=40)
informations = st.builds(
    UserInformation,
    max_length=st.none() | st.integers(0, 2**32 - 1),
    implementation_class_uid=st.just("") | uids,
    implementation_version_name=st.just("") | uids,
    asynchronous_operations_window=st.none()
    | st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)),
    roles=st.lists(st.builds(RoleSelection, uids, st.booleans(), st.booleans()), max_size=3).map(tuple),
    extended=st.lists(st.builds(ExtendedNegotiation, uids, short_octets), max_size=3).map(tuple),
    common_extended=st.lists(
        st.builds(CommonExtendedNegotiation, uids, uids, st.lists(uids, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    user_identity=st.none()
    | st.builds(UserIdentity, st.integers(0, 255), short_octets, short_octets, st.booleans()),
    user_identity_response=st.none() | short_octets,
)


def decode(data: bytes) -> UserInformation:
    return UserInformation.decode(memoryview(data))


class ItemTests(SynchronousTestCase):
    """Items: type, reserved octet, length, value."""

    def test_encode(self) -> None:
        """An item is its type, a reserved octet, the length of its value, and its value."""
        self.assertEqual(encode_item(0x40, b"1.2"), octets("40 00 00 03 '1.2'"))

    def test_read(self) -> None:
        """Items are read one behind the other; the reserved octet is not tested."""
        data = memoryview(octets("40 FF 00 03 '1.2' 30 00 00 00 99 00 00 01 07"))
        self.assertEqual(
            [(item, bytes(value)) for item, value in read_items(data)],
            [(0x40, b"1.2"), (0x30, b""), (0x99, b"\7")],
        )

    def test_values_are_slices(self) -> None:
        """A value is not copied."""
        data = encode_item(0x40, b"1.2")
        [(_, value)] = read_items(memoryview(data))
        self.assertIs(value.obj, data)

    def test_no_items(self) -> None:
        """Nothing holds no items."""
        self.assertEqual(list(read_items(memoryview(b""))), [])

    def test_too_many(self) -> None:
        """As many are read as anyone could have a use for: of each level, and of related SOP Classes."""
        items = encode_item(0x99, b"") * ITEMS
        self.assertEqual(len(list(read_items(memoryview(items)))), ITEMS)
        self.assertRaises(InvalidPDU, list, read_items(memoryview(items + items[:4])))
        for related in (ITEMS, ITEMS + 1):
            common = CommonExtendedNegotiation("1.2", "1.2.3", ("1",) * related).encode()
            if related > ITEMS:
                self.assertRaises(InvalidPDU, CommonExtendedNegotiation.decode, memoryview(common))
            else:
                decoded = CommonExtendedNegotiation.decode(memoryview(common))
                self.assertEqual(len(decoded.related_general_sop_class_uids), ITEMS)

    def test_ends_inside_header(self) -> None:
        """One to three octets behind the last item are no item."""
        for rest in (b"\x40", b"\x40\0", b"\x40\0\0"):
            data = memoryview(encode_item(0x30, b"1") + rest)
            self.assertRaises(InvalidPDU, list, read_items(data))

    def test_ends_inside_value(self) -> None:
        """An item that claims more than there is is refused, be it by one octet or by 65,535."""
        for length in ("00 02", "00 04", "FF FF"):
            data = memoryview(octets(f"30 00 {length} '1'"))
            self.assertRaises(InvalidPDU, list, read_items(data))

    def test_padded_uids(self) -> None:
        """NUL or space behind a UID is dropped; what is not ASCII is kept."""
        for padded in (b"1.2", b"1.2\0", b"1.2 ", b"1.2\0\0 "):
            self.assertEqual(read_uid(memoryview(padded)), "1.2")
        self.assertEqual(read_uid(memoryview(b"\xe9.\xff")), "\xe9.\xff")


class UserInformationTests(SynchronousTestCase):
    """The User Information as one value."""

    def test_encode(self) -> None:
        """The sub-items are encoded as printed, in ascending order of their types."""
        self.assertEqual(INFORMATION.encode(), GOLDEN)

    def test_decode(self) -> None:
        """The sub-items are flattened into one value."""
        self.assertEqual(decode(GOLDEN), INFORMATION)

    def test_any_order(self) -> None:
        """The order in which the sub-items come has no meaning."""
        items = [encode_item(item, bytes(value)) for item, value in read_items(memoryview(GOLDEN))]
        self.assertEqual(decode(b"".join(reversed(items))), INFORMATION)

    def test_empty(self) -> None:
        """No sub-item is no information, and no information no sub-item."""
        self.assertEqual(decode(b""), UserInformation())
        self.assertEqual(UserInformation().encode(), b"")

    def test_no_limit_is_said(self) -> None:
        """A maximum length of 0, no limit, is not the same as none told."""
        self.assertEqual(UserInformation(max_length=0).encode(), octets("51 00 00 04 00 00 00 00"))
        self.assertEqual(decode(octets("51 00 00 04 00 00 00 00")).max_length, 0)

    def test_response(self) -> None:
        """The acceptor's answer to a user identity is its server response (PS3.7 Table D.3-15)."""
        data = octets("59 00 00 08 00 06 'ticket'")
        self.assertEqual(decode(data), UserInformation(user_identity_response=b"ticket"))
        self.assertEqual(UserInformation(user_identity_response=b"ticket").encode(), data)
        self.assertEqual(decode(octets("59 00 00 02 00 00")).user_identity_response, b"")

    def test_unknown_sub_items(self) -> None:
        """Sub-items not recognised are ignored, wherever they stand (PS3.8 9.3.1)."""
        for unknown in (0x00, 0x50, 0x5A, 0xFF):
            item = encode_item(unknown, b"\xff\xff\xff")
            self.assertEqual(decode(item), UserInformation())
            self.assertEqual(decode(item + GOLDEN + item), INFORMATION)

    def test_several_of_a_kind(self) -> None:
        """Role selection and the two negotiations come once for each SOP Class."""
        many = UserInformation(
            roles=(RoleSelection("1.1", True, False), RoleSelection("1.2", True, True)),
            extended=(ExtendedNegotiation("1.1", b""), ExtendedNegotiation("1.2", b"\1")),
            common_extended=(
                CommonExtendedNegotiation("1.1", "1.9"),
                CommonExtendedNegotiation("1.2", "1.9", ("1.8",)),
            ),
        )
        self.assertEqual(decode(many.encode()), many)

    def test_repeated(self) -> None:
        """Of a sub-item that may come once, the last counts."""
        first, second = UserInformation(max_length=1), UserInformation(max_length=2)
        self.assertEqual(decode(first.encode() + second.encode()), second)

    def test_fixed_lengths(self) -> None:
        """Maximum length and operations window are four octets long, no more and no fewer."""
        for item in (0x51, 0x53):
            for length in (0, 3, 5):
                self.assertRaises(InvalidPDU, decode, encode_item(item, bytes(length)))

    def test_padding(self) -> None:
        """A padded implementation class UID or version name is read without its padding."""
        data = encode_item(0x52, b"1.2\0") + encode_item(0x55, b"NAME  \0")
        information = UserInformation(implementation_class_uid="1.2", implementation_version_name="NAME")
        self.assertEqual(decode(data), information)

    def test_flags(self) -> None:
        """A flag that is neither 0 nor 1 reads as set."""
        role = decode(encode_item(0x54, octets("00 01 '1' 02 FF"))).roles
        self.assertEqual(role, (RoleSelection("1", True, True),))

    def test_secrets(self) -> None:
        """The fields of a user identity, and the answer to it, are in no representation."""
        identity = UserIdentity(2, b"PRIMARY", b"SECONDARY")
        information = UserInformation(user_identity=identity, user_identity_response=b"RESPONSE")
        for text in (repr(identity), str(information), repr(information), f"{information}"):
            for secret in ("PRIMARY", "SECONDARY", "RESPONSE"):
                self.assertNotIn(secret, text)
        self.assertIn("type=2", repr(information))

    def test_secrets_are_compared(self) -> None:
        """Two identities that differ in what is not shown differ."""
        identity = UserIdentity(2, b"alice", b"letmein")
        self.assertNotEqual(identity, replace(identity, secondary=b"letmeout"))


class TruncationTests(SynchronousTestCase):
    """What ends too early."""

    def test_sub_items(self) -> None:
        """The beginning of User Information is refused, unless it ends where a sub-item does."""
        whole = 0
        ends = set()
        for _, value in read_items(memoryview(GOLDEN)):
            ends.add(whole)
            whole += 4 + len(value)
        for data in truncations(GOLDEN):
            if len(data) in ends:
                decode(data)
            else:
                self.assertRaises(InvalidPDU, decode, data)

    def test_fields(self) -> None:
        """A sub-item that ends inside one of its fields is refused, though its length is right."""
        decoders: dict[int, Callable[[memoryview], object]] = {
            0x54: RoleSelection.decode,
            0x57: CommonExtendedNegotiation.decode,
            0x58: UserIdentity.decode,
        }
        for item, value in read_items(memoryview(GOLDEN)):
            if item in decoders:
                for data in truncations(bytes(value)):
                    self.assertRaises(InvalidPDU, decoders[item], memoryview(data))
                    self.assertRaises(InvalidPDU, decode, encode_item(item, data))

    def test_open_end(self) -> None:
        """Extended negotiation ends with what the service class defines, which may be nothing."""
        uid = octets("00 03 '1.2'")
        for data in truncations(uid):
            self.assertRaises(InvalidPDU, ExtendedNegotiation.decode, memoryview(data))
        self.assertEqual(ExtendedNegotiation.decode(memoryview(uid)), ExtendedNegotiation("1.2", b""))

    def test_response(self) -> None:
        """A server response that ends early is refused."""
        for data in truncations(octets("00 06 'ticket'")):
            self.assertRaises(InvalidPDU, decode, encode_item(0x59, data))

    def test_lengths_that_overrun(self) -> None:
        """A length inside a sub-item does not reach into the next sub-item."""
        behind = encode_item(0x55, b"NAME" * 10)
        for value in (
            encode_item(0x54, octets("00 12 '1.2.840.10008.1.1' 00 01")),
            encode_item(0x56, octets("00 12 '1.2.840.10008.1.1'")),
            encode_item(0x57, octets("00 01 '1' 00 01 '2' 00 05 00 FF '1.5'")),
            encode_item(0x57, octets("00 01 '1' 00 01 '2' FF FF 00 03 '1.5'")),
            encode_item(0x58, octets("02 00 FF FF 'alice'")),
            encode_item(0x58, octets("02 00 00 05 'alice' FF FF")),
            encode_item(0x59, octets("FF FF 'ticket'")),
        ):
            self.assertRaises(InvalidPDU, decode, value + behind)

    def test_reserved_end(self) -> None:
        """What follows the last field of a common extended negotiation is reserved, and ignored."""
        value = octets("00 01 '1' 00 01 '2' 00 00") + b"\xff\xff\xff"
        self.assertEqual(
            CommonExtendedNegotiation.decode(memoryview(value)), CommonExtendedNegotiation("1", "2")
        )


class PropertyTests(SynchronousTestCase):
    """What holds for all values and all octets."""

    @stable
    @given(informations)
    def test_round_trip(self, information: UserInformation) -> None:
        """What was encoded decodes to itself."""
        self.assertEqual(decode(information.encode()), information)

    @stable
    @given(
        st.lists(st.builds(encode_item, st.integers(0x50, 0x5A), short_octets), max_size=6).map(b"".join)
        | st.binary(max_size=60)
    )
    def test_any_octets(self, data: bytes) -> None:
        """Any octets are refused, or read as a value that survives being sent."""
        try:
            information = decode(data)
        except InvalidPDU:
            return
        self.assertEqual(decode(information.encode()), information)
