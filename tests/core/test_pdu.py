"""Tests of :mod:`dicomnode.core.pdu`: the PDUs of PS3.8 9.3."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core import pdu as pdus
from dicomnode.core.items import ITEMS, RoleSelection, UserIdentity, UserInformation, encode_item
from dicomnode.core.pdu import (
    PDU,
    PDUS,
    REQUESTS,
    TRANSFER_SYNTAXES,
    Abort,
    AnsweredContext,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ProposedContext,
    ReleaseRP,
    ReleaseRQ,
    p_data_tf,
)
from dicomnode.errors import InvalidPDU
from tests.core.helpers import octets, stable, truncations, uids

# PS3.8 Table 9-11
ASSOCIATE_RQ = octets("""
    01 00 00 00 00 C0                           # PDU type, reserved, PDU length
    00 01 00 00                                 # Protocol version, reserved
    'ARCHIVE         '                          # Called AE title
    'MODALITY        '                          # Calling AE title
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00     # Reserved
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    10 00 00 15 '1.2.840.10008.3.1.1.1'         # Application Context Item (Table 9-12)
    20 00 00 45                                 # Presentation Context Item (Table 9-13)
        01 00 00 00                             #   presentation context id, reserved
        30 00 00 11 '1.2.840.10008.1.1'         #   Abstract Syntax (Table 9-14)
        40 00 00 11 '1.2.840.10008.1.2'         #   Transfer Syntax (Table 9-15)
        40 00 00 13 '1.2.840.10008.1.2.1'       #   Transfer Syntax
    50 00 00 16                                 # User Information Item (Table 9-16)
        51 00 00 04 00 00 40 00                 #   maximum length
        52 00 00 0A '1.2.3.4.50'                #   implementation class UID
""")

REQUEST = AssociateRQ(
    called_ae_title="ARCHIVE",
    calling_ae_title="MODALITY",
    contexts=(ProposedContext(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")),),
    user_information=UserInformation(max_length=16384, implementation_class_uid="1.2.3.4.50"),
)

# PS3.8 Table 9-17
ASSOCIATE_AC = octets("""
    02 00 00 00 00 A3                           # PDU type, reserved, PDU length
    00 01 00 00                                 # Protocol version, reserved
    'ARCHIVE         '                          # Reserved: as in the A-ASSOCIATE-RQ
    'MODALITY        '
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    10 00 00 15 '1.2.840.10008.3.1.1.1'         # Application Context Item (Table 9-12)
    21 00 00 19                                 # Presentation Context Item (Table 9-18)
        01 00 00 00                             #   presentation context id, reserved, acceptance
        40 00 00 11 '1.2.840.10008.1.2'         #   Transfer Syntax (Table 9-15)
    21 00 00 19
        03 00 03 00                             #   abstract-syntax-not-supported
        40 00 00 11 '1.2.840.10008.1.2'
    50 00 00 08                                 # User Information Item (Table 9-16)
        51 00 00 04 00 00 00 00                 #   maximum length: no limit
""")

ACCEPT = AssociateAC(
    called_ae_title="ARCHIVE",
    calling_ae_title="MODALITY",
    contexts=(AnsweredContext(1, 0, "1.2.840.10008.1.2"), AnsweredContext(3, 3, "1.2.840.10008.1.2")),
    user_information=UserInformation(max_length=0),
)

#: Each PDU of fixed length: as a value, and as PS3.8 Tables 9-21 and 9-24 to 9-26 print it.
FIXED: tuple[tuple[PDU, str], ...] = (
    (AssociateRJ(result=1, source=2, reason=2), "03 00 00 00 00 04  00 01 02 02"),
    (AssociateRJ(result=2, source=3, reason=1), "03 00 00 00 00 04  00 02 03 01"),
    (ReleaseRQ(), "05 00 00 00 00 04  00 00 00 00"),
    (ReleaseRP(), "06 00 00 00 00 04  00 00 00 00"),
    (Abort(), "07 00 00 00 00 04  00 00 00 00"),
    (Abort(source=2, reason=6), "07 00 00 00 00 04  00 00 02 06"),
)

#: Octets 1 to 6 are the header; the fixed fields of the A-ASSOCIATE PDUs end with octet 74.
HEADER_END, FIXED_END = 6, 74

CONTEXT = encode_item(0x20, octets("01 00 00 00 30 00 00 01 '1' 40 00 00 01 '2'"))
ANSWER = encode_item(0x21, octets("01 00 00 00 40 00 00 01 '2'"))

titles = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=16)
context_ids = st.integers(0, 127).map(lambda number: 2 * number + 1)
informations = st.builds(UserInformation, max_length=st.none() | st.integers(0, 2**32 - 1))
requests = st.builds(
    AssociateRQ,
    titles,
    titles,
    st.lists(
        st.builds(ProposedContext, context_ids, uids, st.lists(uids, min_size=1, max_size=3).map(tuple)),
        min_size=1,
        max_size=4,
        unique_by=lambda context: context.id,
    ).map(tuple),
    informations,
    uids,
    st.integers(0, 2**16 - 1),
)
accepts = st.builds(
    AssociateAC,
    titles,
    titles,
    st.lists(
        st.builds(AnsweredContext, context_ids, st.integers(0, 255), uids),
        min_size=1,
        max_size=4,
        unique_by=lambda context: context.id,
    ).map(tuple),
    informations,
    uids,
    st.integers(0, 2**16 - 1),
)


def decode(data: bytes) -> PDU:
    """Decode a whole PDU, whatever length its header claims."""
    return PDUS[data[0]].decode(memoryview(data)[HEADER_END:])


def request(*items: bytes) -> bytes:
    """Return an A-ASSOCIATE-RQ of these items."""
    return ASSOCIATE_RQ[:FIXED_END] + b"".join(items)


def accept(*items: bytes) -> bytes:
    """Return an A-ASSOCIATE-AC of these items."""
    return ASSOCIATE_AC[:FIXED_END] + b"".join(items)


def decode_request(data: bytes) -> AssociateRQ:
    pdu = decode(data)
    assert isinstance(pdu, AssociateRQ)
    return pdu


def decode_accept(data: bytes) -> AssociateAC:
    pdu = decode(data)
    assert isinstance(pdu, AssociateAC)
    return pdu


class FixedTests(SynchronousTestCase):
    """The PDUs of four octets."""

    def test_encode(self) -> None:
        """They are encoded as printed."""
        for pdu, dump in FIXED:
            self.assertEqual(pdu.encode(), octets(dump), pdu)

    def test_decode(self) -> None:
        """They are decoded as printed."""
        for pdu, dump in FIXED:
            self.assertEqual(decode(octets(dump)), pdu)

    def test_reserved(self) -> None:
        """Reserved fields are not tested (PS3.8 9.3.1)."""
        for pdu, dump in (
            (AssociateRJ(1, 2, 2), "03 FF 00 00 00 04  FF 01 02 02"),
            (ReleaseRQ(), "05 FF 00 00 00 04  FF FF FF FF"),
            (ReleaseRP(), "06 FF 00 00 00 04  FF FF FF FF"),
            (Abort(2, 1), "07 FF 00 00 00 04  FF FF 02 01"),
        ):
            self.assertEqual(decode(octets(dump)), pdu)

    def test_other_lengths(self) -> None:
        """Fields cannot be read from fewer octets, nor from more; where there are none it is no matter."""
        for length in (0, 1, 2, 3, 5):
            body = memoryview(bytes(length))
            self.assertRaises(InvalidPDU, AssociateRJ.decode, body)
            self.assertRaises(InvalidPDU, Abort.decode, body)
            self.assertEqual(ReleaseRQ.decode(body), ReleaseRQ())
            self.assertEqual(ReleaseRP.decode(body), ReleaseRP())

    def test_types(self) -> None:
        """A PDU is found by its type; P-DATA-TF is not among them, as it is never whole."""
        self.assertEqual(
            PDUS,
            {1: AssociateRQ, 2: AssociateAC, 3: AssociateRJ, 5: ReleaseRQ, 6: ReleaseRP, 7: Abort},
        )


class AssociateRQTests(SynchronousTestCase):
    """A-ASSOCIATE-RQ."""

    def test_encode(self) -> None:
        """It is encoded as printed."""
        self.assertEqual(REQUEST.encode(), ASSOCIATE_RQ)

    def test_decode(self) -> None:
        """It is decoded as printed."""
        self.assertEqual(decode(ASSOCIATE_RQ), REQUEST)

    def test_protocol_version(self) -> None:
        """All bits of the protocol version are read, whoever tests them."""
        data = bytearray(ASSOCIATE_RQ)
        data[6:8] = b"\x80\x02"
        pdu = decode_request(bytes(data))
        self.assertEqual(pdu, replace(REQUEST, protocol_version=0x8002))
        self.assertEqual(pdu.encode(), bytes(data))

    def test_reserved(self) -> None:
        """Reserved fields, of the PDU and its items, are not tested."""
        data = bytearray(ASSOCIATE_RQ)
        for position in (1, 8, 9, *range(42, 74), 75):
            data[position] = 0xFF
        data[100], data[105], data[106] = 0xFF, 0xFF, 0xFF  # of the presentation context item
        self.assertEqual(decode(bytes(data)), REQUEST)

    def test_titles(self) -> None:
        """Space is not significant on either side of an AE title, and NUL pads as well as space."""
        for padded in (
            b"ARCHIVE         ",
            b"         ARCHIVE",
            b"ARCHIVE" + bytes(9),
            b" ARCHIVE \0\0    \0",
        ):
            data = ASSOCIATE_RQ[:10] + padded + padded + ASSOCIATE_RQ[42:]
            pdu = decode_request(data)
            self.assertEqual((pdu.called_ae_title, pdu.calling_ae_title), ("ARCHIVE", "ARCHIVE"))

    def test_empty_titles(self) -> None:
        """A title of nothing but padding reads as empty."""
        for padding in (b" ", b"\0"):
            pdu = decode_request(ASSOCIATE_RQ[:10] + padding * 32 + ASSOCIATE_RQ[42:])
            self.assertEqual((pdu.called_ae_title, pdu.calling_ae_title), ("", ""))

    def test_full_titles(self) -> None:
        """A title of sixteen characters has no padding, and keeps its inner space."""
        pdu = replace(REQUEST, called_ae_title="SIXTEEN LETTERS!", calling_ae_title="A\xe9 B")
        self.assertEqual(pdu.encode()[10:42], b"SIXTEEN LETTERS!A\xe9 B            ")
        self.assertEqual(decode(pdu.encode()), pdu)

    def test_titles_that_do_not_fit(self) -> None:
        """Of our own titles only what sixteen octets hold is sent."""
        pdu = replace(REQUEST, called_ae_title="SEVENTEEN LETTERS", calling_ae_title="\u20ac")
        self.assertEqual(pdu.encode()[10:42], b"SEVENTEEN LETTER?               ")

    def test_any_order(self) -> None:
        """The items may come in any order; the contexts keep theirs."""
        second = CONTEXT.replace(b"\1\0\0\0", b"\3\0\0\0", 1)
        pdu = decode_request(request(encode_item(0x50, b""), second, encode_item(0x10, b"1.2"), CONTEXT))
        self.assertEqual([context.id for context in pdu.contexts], [3, 1])
        self.assertEqual(pdu.application_context, "1.2")

    def test_unknown_items(self) -> None:
        """Items not recognised are ignored, an answered context and sub-items out of place included."""
        for item in (0x00, 0x11, 0x21, 0x30, 0x40, 0x51, 0xFF):
            unknown = encode_item(item, b"\xff\xff\xff\xff\xff")
            self.assertEqual(decode(request(unknown, ASSOCIATE_RQ[FIXED_END:], unknown)), REQUEST)

    def test_unknown_items_of_a_context(self) -> None:
        """The same holds inside a presentation context."""
        unknown = encode_item(0x41, b"\xff\xff\xff")
        syntaxes = octets("30 00 00 01 '1'"), octets("40 00 00 01 '2'")
        inside = b"\1\0\0\0" + unknown + unknown.join(syntaxes) + unknown
        pdu = decode_request(request(encode_item(0x20, inside)))
        self.assertEqual(pdu.contexts, (ProposedContext(1, "1", ("2",)),))

    def test_no_application_context(self) -> None:
        """A missing application context reads as empty: whether that is acceptable is not decided here."""
        self.assertEqual(decode_request(request(CONTEXT)).application_context, "")

    def test_no_user_information(self) -> None:
        """Missing user information is as good as empty."""
        self.assertEqual(decode_request(request(CONTEXT)).user_information, UserInformation())

    def test_repeated_user_information(self) -> None:
        """There is one User Information Item: a PDU full of them is not read to its end."""
        for pdu in (ASSOCIATE_RQ, ASSOCIATE_AC):
            self.assertRaises(InvalidPDU, decode, pdu + encode_item(0x50, b""))

    def test_no_context(self) -> None:
        """At least one presentation context must be proposed."""
        self.assertRaises(InvalidPDU, decode, request())
        self.assertRaises(InvalidPDU, decode, request(encode_item(0x10, b"1"), encode_item(0x50, b"")))
        self.assertRaises(InvalidPDU, decode, request(ANSWER))

    def test_even_id(self) -> None:
        """The id of a presentation context is odd."""
        for number in (0, 2, 254):
            context = CONTEXT.replace(b"\1\0\0\0", bytes((number, 0, 0, 0)), 1)
            self.assertRaises(InvalidPDU, decode, request(context))

    def test_repeated_id(self) -> None:
        """The id of a presentation context is proposed once."""
        self.assertRaises(InvalidPDU, decode, request(CONTEXT, CONTEXT))

    def test_all_ids(self) -> None:
        """128 presentation contexts can be proposed, and no more."""
        contexts = tuple(ProposedContext(number, "1.2", ("1.3",)) for number in range(1, 256, 2))
        pdu = replace(REQUEST, contexts=contexts)
        self.assertEqual(len(decode_request(pdu.encode()).contexts), 128)
        self.assertRaises(InvalidPDU, decode, pdu.encode() + CONTEXT)

    def test_context_without_syntax(self) -> None:
        """A context needs an abstract syntax and a transfer syntax, and neither may be empty."""
        for items in (
            "",
            "30 00 00 01 '1'",
            "40 00 00 01 '1'",
            "30 00 00 00 40 00 00 01 '1'",
            "30 00 00 01 00 40 00 00 01 '1'",
        ):
            context = encode_item(0x20, b"\1\0\0\0" + octets(items))
            self.assertRaises(InvalidPDU, decode, request(context))

    def test_padded_uids(self) -> None:
        """A UID padded with NUL is read without it."""
        inside = octets("01 00 00 00 30 00 00 04 '1.2' 00 40 00 00 04 '1.3' 00")
        pdu = decode_request(request(encode_item(0x10, b"1.1\0"), encode_item(0x20, inside)))
        self.assertEqual(pdu.contexts, (ProposedContext(1, "1.2", ("1.3",)),))
        self.assertEqual(pdu.application_context, "1.1")

    def test_uids_that_are_not_ascii(self) -> None:
        """UIDs that are none survive, octet for octet, so that they can be answered and logged."""
        contexts = (ProposedContext(1, "\xff\x80", ("\xe9",)),)
        pdu = replace(REQUEST, contexts=contexts, application_context="\xb5")
        self.assertIn(b"\x30\0\0\2\xff\x80", pdu.encode())
        self.assertEqual(decode(pdu.encode()), pdu)

    def test_secrets(self) -> None:
        """A user identity does not show in the PDU's representation, nor do the octets to be echoed."""
        identity = UserIdentity(2, b"PRIMARY", b"SECONDARY")
        pdu = replace(REQUEST, user_information=UserInformation(user_identity=identity))
        text = repr(decode(pdu.encode()))
        for hidden in ("PRIMARY", "SECONDARY", "echo", "    "):
            self.assertNotIn(hidden, text)
        self.assertIn("ARCHIVE", text)


class RememberedTests(SynchronousTestCase):
    """Requests that have come before."""

    def setUp(self) -> None:
        self.patch(pdus, "_requests", {})

    def test_again(self) -> None:
        """The items of a request are read once, whoever sends it to whomever."""
        first = decode_request(REQUEST.encode())
        again = decode_request(replace(REQUEST, calling_ae_title="OTHER").encode())
        self.assertEqual(again, replace(first, calling_ae_title="OTHER"))
        self.assertIs(again.contexts, first.contexts)

    def test_told_apart(self) -> None:
        """Requests that differ in anything are read each by itself."""
        (context,) = REQUEST.contexts
        for other in (
            replace(REQUEST, contexts=(replace(context, id=3),)),
            replace(REQUEST, contexts=(replace(context, transfer_syntaxes=("1.2.840.10008.1.2",)),)),
            replace(REQUEST, user_information=replace(REQUEST.user_information, max_length=0)),
            replace(REQUEST, application_context="1.2.3"),
            replace(REQUEST, protocol_version=3),
            replace(REQUEST, called_ae_title="OTHER"),
        ):
            for _ in range(2):
                self.assertEqual(decode_request(REQUEST.encode()), REQUEST)
                self.assertEqual(decode_request(other.encode()), other)

    def test_bounded(self) -> None:
        """No more are remembered than so many, the latest; and none that is long."""
        for number in range(2 * REQUESTS):
            decode(replace(REQUEST, application_context=f"1.2.{number}").encode())
        self.assertEqual(len(pdus._requests), REQUESTS)
        remembered = list(pdus._requests)
        contexts = tuple(ProposedContext(number, "1.2", ("1.2.3" * 12,)) for number in range(1, 256, 2))
        decode(replace(REQUEST, contexts=contexts).encode())
        self.assertEqual(list(pdus._requests), remembered)

    def test_refused(self) -> None:
        """What is refused is refused each time."""
        wrong = replace(REQUEST, contexts=(replace(REQUEST.contexts[0], id=2),)).encode()
        for _ in range(2):
            self.assertRaises(InvalidPDU, decode, wrong)

    def test_user_identity(self) -> None:
        """A request with a user identity is not kept: there may be a password in it."""
        identity = UserIdentity(2, b"name", b"password")
        request = replace(REQUEST, user_information=UserInformation(user_identity=identity))
        self.assertEqual(decode(request.encode()), request)
        self.assertEqual(pdus._requests, {})


class AssociateACTests(SynchronousTestCase):
    """A-ASSOCIATE-AC."""

    def test_encode(self) -> None:
        """It is encoded as printed."""
        self.assertEqual(ACCEPT.encode(), ASSOCIATE_AC)

    def test_decode(self) -> None:
        """It is decoded as printed."""
        self.assertEqual(decode(ASSOCIATE_AC), ACCEPT)

    def test_echo(self) -> None:
        """Octets 11 to 74 of the request come back unchanged, whatever they are (Table 9-17)."""
        echo = bytes(range(192, 256))
        proposed = decode_request(ASSOCIATE_RQ[:10] + echo + ASSOCIATE_RQ[74:])
        self.assertEqual(proposed.echo, echo)
        self.assertEqual(proposed.encode()[10:74], echo)
        self.assertEqual(replace(ACCEPT, echo=proposed.echo).encode()[10:74], echo)

    def test_echo_is_not_compared(self) -> None:
        """What pads the titles makes no difference between two values."""
        self.assertEqual(replace(ACCEPT, echo=bytes(64)), ACCEPT)
        self.assertNotIn("echo", repr(ACCEPT))

    def test_context_without_transfer_syntax(self) -> None:
        """The transfer syntax of a context that was not accepted may be missing or empty."""
        for items in ("", "40 00 00 00", "41 00 00 01 FF"):
            answer = encode_item(0x21, b"\1\0\3\0" + octets(items))
            self.assertEqual(decode_accept(accept(answer)).contexts, (AnsweredContext(1, 3, ""),))

    def test_several_transfer_syntaxes(self) -> None:
        """An answer has one transfer syntax: of several, the first."""
        answer = encode_item(0x21, octets("01 00 00 00 40 00 00 01 '1' 40 00 00 01 '2'"))
        self.assertEqual(decode_accept(accept(answer)).contexts, (AnsweredContext(1, 0, "1"),))

    def test_even_and_repeated_ids(self) -> None:
        """Ids are odd, and answered once."""
        even = encode_item(0x21, octets("02 00 00 00 40 00 00 01 '1'"))
        self.assertRaises(InvalidPDU, decode, accept(even))
        self.assertRaises(InvalidPDU, decode, accept(ANSWER, ANSWER))

    def test_no_context(self) -> None:
        """At least one presentation context must be answered; a proposed one does not count."""
        self.assertRaises(InvalidPDU, decode, accept())
        self.assertRaises(InvalidPDU, decode, accept(CONTEXT))

    def test_unknown_items(self) -> None:
        """Items not recognised are ignored."""
        unknown = encode_item(0x20, b"\xff")
        self.assertEqual(decode(accept(unknown, ASSOCIATE_AC[FIXED_END:], unknown)), ACCEPT)


class HostileTests(SynchronousTestCase):
    """What ends too early, or claims to end too late."""

    def test_truncated_associate(self) -> None:
        """The beginning of an A-ASSOCIATE PDU is refused, unless it ends where an item does."""
        user_information = encode_item(0x50, REQUEST.user_information.encode())
        harmless = {
            ASSOCIATE_RQ: {len(ASSOCIATE_RQ) - len(user_information)},
            ASSOCIATE_AC: {len(ASSOCIATE_AC) - 12 - 29, len(ASSOCIATE_AC) - 12},
        }
        for whole, ends in harmless.items():
            for data in truncations(whole):
                if len(data) in ends:
                    decode(data)
                elif len(data) >= HEADER_END:
                    self.assertRaises(InvalidPDU, decode, data)

    def test_truncated_context(self) -> None:
        """The beginning of a presentation context is refused, though the lengths outside it are right."""
        for data in truncations(CONTEXT[4:]):
            self.assertRaises(InvalidPDU, decode, request(encode_item(0x20, data)))
        for data in truncations(ANSWER[4:]):
            if len(data) == 4:  # no transfer syntax
                decode(accept(encode_item(0x21, data)))
            else:
                self.assertRaises(InvalidPDU, decode, accept(encode_item(0x21, data)))

    def test_nested_lengths(self) -> None:
        """No item reaches beyond what holds it, however much follows."""
        behind = encode_item(0x50, bytes(0))
        for item in (
            encode_item(0x20, octets("01 00 00 00 30 00 00 02 '1'")),
            encode_item(0x20, octets("01 00 00 00 30 00 00 01 '1' 40 00 FF FF '2'")),
            encode_item(0x20, octets("01 00 00 00 30 00 00 01 '1' 40 00 00 01 '2' 40")),
            encode_item(0x50, octets("51 00 00 05 00 00 00 00")),
            encode_item(0x50, octets("51 00 FF FF")),
        ):
            self.assertRaises(InvalidPDU, decode, request(CONTEXT, item, behind))
        for length in ("00 0F", "00 FF", "FF FF"):
            self.assertRaises(InvalidPDU, decode, request(octets(f"20 00 {length}"), CONTEXT[4:]))

    def test_values_are_bounded(self) -> None:
        """What is kept of a PDU is no longer than the PDU: no length in it is believed."""
        context = b"\1\0\0\0" + encode_item(0x30, b"1") + encode_item(0x40, b"") * TRANSFER_SYNTAXES
        many = encode_item(0x20, context)
        role = encode_item(0x54, RoleSelection("", True, True).encode())
        pdu = decode_request(request(many, encode_item(0x50, role * ITEMS), encode_item(0x99, b"") * 1000))
        self.assertEqual(len(pdu.contexts[0].transfer_syntaxes), TRANSFER_SYNTAXES)
        self.assertEqual(len(pdu.user_information.roles), ITEMS)
        self.assertRaises(InvalidPDU, decode, request(many, encode_item(0x50, role * (ITEMS + 1))))
        self.assertRaises(InvalidPDU, decode, request(many, encode_item(0x99, b"") * ITEMS))
        more = encode_item(0x20, context + encode_item(0x40, b""))
        self.assertRaises(InvalidPDU, decode, request(more))

    @stable
    @given(st.binary(max_size=60))
    def test_any_items(self, data: bytes) -> None:
        """Any octets behind the fixed fields are refused, or survive being sent."""
        for pdu_type, prefix in ((AssociateRQ, request(CONTEXT)), (AssociateAC, accept(ANSWER))):
            try:
                pdu = pdu_type.decode(memoryview(prefix + data)[HEADER_END:])
            except InvalidPDU:
                continue
            self.assertEqual(decode(pdu.encode()), pdu)

    @stable
    @given(st.sampled_from(sorted(PDUS)), st.binary(max_size=120))
    def test_any_octets(self, pdu_type: int, body: bytes) -> None:
        """Any octets at all are refused, or survive being sent."""
        try:
            pdu = PDUS[pdu_type].decode(memoryview(body))
        except InvalidPDU:
            return
        self.assertEqual(decode(pdu.encode()), pdu)

    @stable
    @given(requests, st.data())
    def test_any_damage(self, pdu: AssociateRQ, data: st.DataObject) -> None:
        """A request with an octet changed is refused, or survives being sent."""
        damaged = bytearray(pdu.encode())
        damaged[data.draw(st.integers(HEADER_END, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        try:
            decoded = decode(bytes(damaged))
        except InvalidPDU:
            return
        self.assertEqual(decode(decoded.encode()), decoded)


class RoundTripTests(SynchronousTestCase):
    """What was encoded decodes to itself."""

    @stable
    @given(requests)
    def test_request(self, pdu: AssociateRQ) -> None:
        """An A-ASSOCIATE-RQ does, and its header tells its length."""
        data = pdu.encode()
        self.assertEqual(decode(data), pdu)
        self.assertEqual(int.from_bytes(data[2:6], "big"), len(data) - HEADER_END)
        self.assertEqual(decode(data).encode(), data)

    @stable
    @given(accepts)
    def test_accept(self, pdu: AssociateAC) -> None:
        """An A-ASSOCIATE-AC does, and its header tells its length."""
        data = pdu.encode()
        self.assertEqual(decode(data), pdu)
        self.assertEqual(int.from_bytes(data[2:6], "big"), len(data) - HEADER_END)
        self.assertEqual(decode(data).encode(), data)


class PDataTFTests(SynchronousTestCase):
    """P-DATA-TF, on its way out."""

    def test_encode(self) -> None:
        """One PDV in each: its length counts the context id and the message control header."""
        for is_command, is_last, control in (
            (False, False, "00"),
            (True, False, "01"),
            (False, True, "02"),
            (True, True, "03"),
        ):
            expected = octets(f"""
                04 00 00 00 00 09               # PDU type, reserved, PDU length (PS3.8 Table 9-22)
                00 00 00 05                     # PDV item length (Table 9-23)
                FF                              # presentation context id
                {control}                       # message control header (E.2)
                'abc'
            """)
            self.assertEqual(p_data_tf(255, is_command, is_last, b"abc"), expected)

    def test_empty(self) -> None:
        """A fragment may be empty: so ends a data set whose end was not foreseen."""
        self.assertEqual(p_data_tf(1, False, True, b""), octets("04 00 00 00 00 06 00 00 00 02 01 02"))
