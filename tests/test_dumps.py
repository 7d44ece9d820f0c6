"""Tests for :mod:`dicomnode.dumps`: what pynetdicom's storescp was seen to print is the measure."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import dumps, uids
from dicomnode.core import command as dimse
from dicomnode.core.items import (
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from dicomnode.core.pdu import (
    Abort,
    AnsweredContext,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ProposedContext,
)
from tests.core.helpers import stable

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
STORAGE_SERVICE = "1.2.840.10008.4.2"
IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LE, uids.EXPLICIT_VR_LE

ALL_ITEMS = """\
Request Parameters:
======================= INCOMING A-ASSOCIATE-RQ PDU ========================
Their Implementation Class UID:      1.2.3.4.5
Their Implementation Version Name:   RAWSCU_1
Application Context Name:    1.2.840.10008.3.1.1.1
Calling Application Name:    RAWSCU
Called Application Name:     ANY-SCP
Their Max PDU Receive Size:  16384
Presentation Contexts:
  Context ID:        1 (Proposed)
    Abstract Syntax: =CT Image Storage
    Proposed SCP/SCU Role: SCP/SCU
    Proposed Transfer Syntaxes:
      =Explicit VR Little Endian
      =Implicit VR Little Endian
  Context ID:        3 (Proposed)
    Abstract Syntax: =MR Image Storage
    Proposed SCP/SCU Role: Default
    Proposed Transfer Syntax:
      =Implicit VR Little Endian
Requested Extended Negotiation:
  SOP Class: =1.2.840.10008.5.1.4.1.1.2
    01  02  03
Requested Common Extended Negotiation:
  SOP Class: =CT Image Storage
    Service Class: =Storage Service Class
    Related General SOP Class(es):
      =MR Image Storage
Requested Asynchronous Operations Window Negotiation:
  Maximum Invoked Operations:     5
  Maximum Performed Operations:   5
Requested User Identity Negotiation:
  Authentication Mode: 2 - Username/Password
  Username: [user]
  Password: [********]
  Positive Response Requested: Yes
========================== END A-ASSOCIATE-RQ PDU ==========================
"""

NO_ITEMS = """\
Request Parameters:
======================= INCOMING A-ASSOCIATE-RQ PDU ========================
Their Implementation Class UID:      unknown
Their Implementation Version Name:   unknown
Application Context Name:    None
Calling Application Name:    RAWSCU
Called Application Name:     ANY-SCP
Their Max PDU Receive Size:  None
Presentation Context:
  Context ID:        1 (Proposed)
    Abstract Syntax: =CT Image Storage
    Proposed SCP/SCU Role: Default
    Proposed Transfer Syntax:
      =Explicit VR Little Endian
Requested Extended Negotiation: None
Requested Common Extended Negotiation: None
Requested Asynchronous Operations Window Negotiation: None
Requested User Identity Negotiation: None
========================== END A-ASSOCIATE-RQ PDU ==========================
"""

ACCEPTED = """\
Accept Parameters:
======================= OUTGOING A-ASSOCIATE-AC PDU ========================
Our Implementation Class UID:      1.2.3
Our Implementation Version Name:   US
Application Context Name:    1.2.840.10008.3.1.1.1
Responding Application Name: ANY-SCP
Our Max PDU Receive Size:    16382
Presentation Contexts:
  Context ID:        1 (Accepted)
    Abstract Syntax: =CT Image Storage
    Accepted SCP/SCU Role: Default
    Accepted Transfer Syntax: =Explicit VR Little Endian
  Context ID:        3 (Rejected - Abstract Syntax Not Supported)
    Abstract Syntax: =1.2.3.4
  Context ID:        5 (Rejected - Transfer Syntax Not Supported)
    Abstract Syntax: =CT Image Storage
Accepted Extended Negotiation: None
Accepted Asynchronous Operations Window Negotiation: None
User Identity Negotiation Response: None
========================== END A-ASSOCIATE-AC PDU ==========================
"""

STORE_RQ = """\
========================== INCOMING DIMSE MESSAGE ==========================
Message Type                  : C-STORE RQ
Presentation Context ID       : 1
Message ID                    : 7
Affected SOP Class UID        : CT Image Storage
Affected SOP Instance UID     : 1.2.3
Move Originator               : AET
Data Set                      : Present
Priority                      : Low
============================ END DIMSE MESSAGE =============================
"""


def request(
    *contexts: ProposedContext, information: UserInformation | None = None, **fields: Any
) -> AssociateRQ:
    contexts = contexts or (ProposedContext(1, CT, (EXPLICIT,)),)
    return AssociateRQ("ANY-SCP", "RAWSCU", contexts, information or UserInformation(), **fields)


class DumpCase(SynchronousTestCase):
    """Tests of what is in a dump."""

    def assert_said(self, lines: Iterable[str], text: str) -> None:
        self.assertEqual("".join(f"{line}\n" for line in lines), text)

    def said(self, marker: str, **information: Any) -> list[str]:
        """Return the block of an A-ASSOCIATE-RQ that begins with ``marker``."""
        lines = list(dumps.associate_rq(request(information=UserInformation(**information))))
        start = next(index for index, line in enumerate(lines) if line.startswith(marker))
        end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
        return lines[start:end]


class NameTests(DumpCase):
    """UIDs are called by their names."""

    def test_registry(self) -> None:
        """Every UID of the registry that has a name is called by it, without its being retired."""
        for uid, entry in UID_dictionary.items():
            if entry[0]:
                self.assertEqual(dumps.uid_name(uid), entry[0])

    def test_others(self) -> None:
        """Where the registry knows no name, ours is used, and then the UID; no line lacks both."""
        self.assertEqual(dumps.uid_name("1.2.3.4"), "1.2.3.4")
        self.assertEqual(dumps.uid_name("1.2\n"), r"1.2\x0a")
        for uid in (*uids.STORAGE_SOP_CLASSES, "1.2.840.10008.5.1.4.1.1.12.77"):
            self.assertTrue(dumps.uid_name(uid))

    def test_data_sets(self) -> None:
        """A data set's line says how it is encoded; what is encapsulated is Explicit VR Little Endian."""
        for uid, name in (
            (IMPLICIT, "Little Endian Implicit"),
            (EXPLICIT, "Little Endian Explicit"),
            ("1.2.840.10008.1.2.4.50", "Little Endian Explicit"),
            (uids.EXPLICIT_VR_BE, "Big Endian Explicit"),
            (uids.DEFLATED_EXPLICIT_VR_LE, "Deflated Little Endian Explicit"),
        ):
            self.assertEqual(dumps.read_data_set(uid), f'pydicom.read_dataset() TransferSyntax="{name}"')


class AssociateRQTests(DumpCase):
    """An A-ASSOCIATE-RQ is shown as pynetdicom shows it, without its secrets."""

    def test_all_items(self) -> None:
        """Each item that can be negotiated has its lines, the contexts in ascending order."""
        information = UserInformation(
            16384,
            "1.2.3.4.5",
            "RAWSCU_1",
            (5, 5),
            (RoleSelection(CT, True, True),),
            (ExtendedNegotiation(CT, b"\1\2\3"),),
            (CommonExtendedNegotiation(CT, STORAGE_SERVICE, (MR,)),),
            UserIdentity(2, b"user", b"pass", True),
        )
        contexts = (ProposedContext(3, MR, (IMPLICIT,)), ProposedContext(1, CT, (EXPLICIT, IMPLICIT)))
        self.assert_said(dumps.associate_rq(request(*contexts, information=information)), ALL_ITEMS)

    def test_no_items(self) -> None:
        """What is absent is said to be."""
        self.assert_said(dumps.associate_rq(request(application_context="")), NO_ITEMS)

    def test_roles(self) -> None:
        """The role is that of the last item for the class; of neither it is empty."""
        for roles, said in (
            (((True, False),), "SCU"),
            (((False, True),), "SCP"),
            (((False, False),), ""),
            (((True, True), (False, True)), "SCP"),
        ):
            items = tuple(RoleSelection(CT, scu, scp) for scu, scp in roles)
            information = UserInformation(roles=(*items, RoleSelection(MR, True, True)))
            lines = list(dumps.associate_rq(request(information=information)))
            self.assertIn(f"    Proposed SCP/SCU Role: {said}", lines)

    def test_application_information(self) -> None:
        """Sixteen octets a line, of 512 at most; what is cut is said before."""
        block = self.said(
            "Requested Extended",
            extended=(ExtendedNegotiation("1.2\x1b", b""), ExtendedNegotiation(CT, bytes(range(17)))),
        )
        self.assertEqual(block[1:3], [r"  SOP Class: =1.2\x1b", f"  SOP Class: ={CT}"])
        self.assertEqual(block[3], "    00  01  02  03  04  05  06  07  08  09  0a  0b  0c  0d  0e  0f")
        self.assertEqual(block[4:], ["    10"])
        block = self.said("Requested Extended", extended=(ExtendedNegotiation(CT, bytes(513)),))
        self.assertEqual((block[2], len(block)), ("    Only dumping 512 bytes.", 35))
        block = self.said("Requested Extended", extended=(ExtendedNegotiation(CT, bytes(512)),))
        self.assertEqual(len(block), 34)

    def test_no_related_classes(self) -> None:
        """Common extended negotiation may relate to no other class."""
        item = CommonExtendedNegotiation("1.2.3.4", "1.2.3.5")
        self.assertEqual(
            self.said("Requested Common", common_extended=(item,))[1:],
            ["  SOP Class: =1.2.3.4", "    Service Class: =1.2.3.5", "    Related General SOP Classes: None"],
        )

    def test_unlimited_window(self) -> None:
        """A window of 0, no limit, is shown as such."""
        block = self.said("Requested Async", asynchronous_operations_window=(0, 65535))
        self.assertEqual(
            block[1:], ["  Maximum Invoked Operations:     0", "  Maximum Performed Operations:   65535"]
        )

    def test_user_identity(self) -> None:
        """Users are named; of what proves who they are, at most the length is shown."""
        secret = b"s3cret"
        for identity, said in (
            (UserIdentity(1, b"user", secret), ["1 - Username", "Username: [user]"]),
            (UserIdentity(1, b"a]b\nc\0d"), ["1 - Username", r"Username: [a]b\x0ac\x00d]"]),
            (UserIdentity(1, "José".encode()), ["1 - Username", "Username: [José]"]),
            (UserIdentity(1, b"Jos\xe9"), ["1 - Username", r"Username: [Jos\xe9]"]),
            (UserIdentity(2, b"u", b""), ["2 - Username/Password", "Username: [u]", "Password: [********]"]),
            (UserIdentity(3, secret), ["3 - Kerberos", "Kerberos Service Ticket (not dumped) length: 6"]),
            (UserIdentity(4, secret), ["4 - SAML", "SAML Assertion (not dumped) length: 6"]),
            (UserIdentity(5, secret), ["5 - JSON Web Token", "JSON Web Token (not dumped) length: 6"]),
            (UserIdentity(6, secret), ["6 - (no value available)"]),
        ):
            block = self.said("Requested User Identity", user_identity=identity)
            self.assertEqual(block[1], f"  Authentication Mode: {said[0]}")
            self.assertEqual(
                block[2:], [f"  {line}" for line in [*said[1:], "Positive Response Requested: None"]]
            )
            self.assertNotIn("s3cret", "".join(block))

    def test_long_lists(self) -> None:
        """A peer can fill a PDU of 1 MiB, but not the log: its lists are cut."""
        many = 10_000
        information = UserInformation(
            extended=(ExtendedNegotiation(CT, b""),) * many,
            common_extended=(CommonExtendedNegotiation(CT, "1.2", ("1.2.3",) * many),) * many,
            roles=(RoleSelection(CT, True, True),) * many,
        )
        contexts = [ProposedContext(number, CT, (EXPLICIT,) * many) for number in range(1, 256, 2)]
        lines = list(dumps.associate_rq(request(*contexts, information=information)))
        self.assertLess(len(lines), 40_000)
        cut = many - dumps.MOST
        self.assertEqual(lines.count(f"      ... {cut} more"), 128 + dumps.MOST)
        self.assertEqual(lines.count(f"  ... {cut} more"), 2)

    @given(st.text(st.characters(max_codepoint=0xFF)))
    @stable
    def test_hostile(self, text: str) -> None:
        """No text of the peer's brings anything but printable characters into the dump."""
        information = UserInformation(
            implementation_class_uid=text,
            implementation_version_name=text,
            extended=(ExtendedNegotiation(text, b"\n"),),
            common_extended=(CommonExtendedNegotiation(text, text, (text,)),),
            user_identity=UserIdentity(1, text.encode("latin-1")),
        )
        asked = AssociateRQ(text, text, (ProposedContext(1, text, (text,)),), information, text)
        answered = AssociateAC(text, text, (AnsweredContext(1, 0, text),))
        store = dimse.CStoreRQ(
            affected_sop_class_uid=text,
            message_id=1,
            affected_sop_instance_uid=text,
            move_originator_ae_title=text,
        )
        for dump in (
            dumps.associate_rq(asked),
            dumps.associate_ac(asked, answered),
            dumps.message(1, store, True),
        ):
            for line in dump:
                self.assertTrue(line.isprintable(), line)
                self.assertLess(len(line), 3000)


class AnswerTests(DumpCase):
    """Answers and aborts are shown as pynetdicom shows them."""

    def test_accepted(self) -> None:
        """What was accepted is shown with its transfer syntax; what was not, with the reason."""
        asked = request(
            ProposedContext(5, CT, ("1.2.3",)),
            ProposedContext(1, CT, (EXPLICIT,)),
            ProposedContext(3, "1.2.3.4", (EXPLICIT,)),
        )
        contexts = (AnsweredContext(5, 4, ""), AnsweredContext(1, 0, EXPLICIT), AnsweredContext(3, 3, ""))
        answer = AssociateAC("ANY-SCP", "RAWSCU", contexts, UserInformation(16382, "1.2.3", "US"))
        self.assert_said(dumps.associate_ac(asked, answer), ACCEPTED)

    def test_negotiated(self) -> None:
        """What else was agreed upon is shown; what the user was answered, is not."""
        contexts = (AnsweredContext(1, 0, EXPLICIT), AnsweredContext(3, 1, ""), AnsweredContext(5, 9, ""))
        information = UserInformation(
            asynchronous_operations_window=(1, 1),
            roles=(RoleSelection(CT, False, True),),
            extended=(ExtendedNegotiation(CT, b"\1"),),
            user_identity_response=b"s3cret",
        )
        lines = list(dumps.associate_ac(request(), AssociateAC("A", "B", contexts, information)))
        for line in (
            "    Accepted SCP/SCU Role: SCP",
            "  Context ID:        3 (Rejected - User Rejection)",
            "  Context ID:        5 (Rejected)",
            "Accepted Extended Negotiation:",
            "    01",
            "  Maximum Invoked Operations:     1",
            "User Identity Negotiation Response: (not dumped) length: 6",
        ):
            self.assertIn(line, lines)

    def test_rejected(self) -> None:
        """Result, source and reason are given in words."""
        self.assert_said(
            dumps.associate_rj(AssociateRJ(1, 2, 2)),
            "Reject Parameters:\n"
            "======================= OUTGOING A-ASSOCIATE-RJ PDU ========================\n"
            "Result:    Rejected (Permanent)\n"
            "Source:    DUL service-provider (ACSE related)\n"
            "Reason:    Protocol version not supported\n"
            "========================== END A-ASSOCIATE-RJ PDU ==========================\n",
        )
        lines = list(dumps.associate_rj(AssociateRJ(9, 9, 9)))
        self.assertEqual(
            lines[2:5],
            ["Result:    (no value available)", "Source:    (no value available)", "Reason:    Reserved"],
        )

    def test_aborts(self) -> None:
        """Source and reason are given in words; only a provider has a reason."""
        self.assert_said(
            dumps.abort(Abort(2, 2), "OUTGOING"),
            "Abort Parameters:\n"
            "=========================== OUTGOING A-ABORT PDU ===========================\n"
            "Abort Source: DUL service-provider\n"
            "Abort Reason: Unexpected PDU\n"
            "============================= END A-ABORT PDU ==============================\n",
        )
        for source, reason, said in (
            (0, 2, ("DUL service-user", "(no value available)")),
            (1, 0, ("Reserved", "(no value available)")),
            (2, 7, ("DUL service-provider", "(no value available)")),
            (3, 0, ("(no value available)", "(no value available)")),
        ):
            lines = list(dumps.abort(Abort(source, reason), "INCOMING"))
            self.assertEqual(lines[2:4], [f"Abort Source: {said[0]}", f"Abort Reason: {said[1]}"])


class MessageTests(DumpCase):
    """Messages are shown as pynetdicom shows them."""

    def rows(self, command: dimse.Command, has_data_set: bool = False) -> list[tuple[str, str]]:
        lines = list(dumps.message(1, command, has_data_set))[1:-1]
        for line in lines:
            self.assertEqual(line[30:32], ": ")
        return [(line[:30].rstrip(), line[32:]) for line in lines]

    def test_store(self) -> None:
        """A C-STORE-RQ with all that it may have."""
        command = dimse.CStoreRQ(
            affected_sop_class_uid=CT,
            message_id=7,
            priority=dimse.LOW,
            affected_sop_instance_uid="1.2.3",
            move_originator_ae_title="AET",
            move_originator_message_id=1,
        )
        self.assert_said(dumps.message(1, command, True), STORE_RQ)

    def test_store_at_its_least(self) -> None:
        """No line about what is absent, but for the data set; a priority that is none is a number."""
        command = dimse.CStoreRQ(
            affected_sop_class_uid="1.2", message_id=7, priority=3, affected_sop_instance_uid=""
        )
        self.assertEqual(
            self.rows(command)[3:],
            [
                ("Affected SOP Class UID", "1.2"),
                ("Affected SOP Instance UID", ""),
                ("Data Set", "None"),
                ("Priority", "3"),
            ],
        )

    def test_others(self) -> None:
        """Each kind of request has its rows."""
        affected: dict[str, Any] = {"affected_sop_class_uid": CT, "message_id": 5}
        requested: dict[str, Any] = {
            "requested_sop_class_uid": CT,
            "requested_sop_instance_uid": "1.2",
            "message_id": 5,
        }
        identifier = ["Message ID", "Affected SOP Class UID", "Identifier", "Priority"]
        names = ["Message ID", "Requested SOP Class UID", "Requested SOP Instance UID"]
        both = ["Message ID", "Affected SOP Class UID", "Affected SOP Instance UID"]
        for command, name, labels in (
            (dimse.CEchoRQ(**affected), "C-ECHO RQ", ["Presentation Context ID", "Message ID", "Data Set"]),
            (dimse.CFindRQ(**affected), "C-FIND RQ", identifier),
            (dimse.CGetRQ(**affected), "C-GET RQ", identifier),
            (
                dimse.CMoveRQ(**affected, move_destination="AET"),
                "C-MOVE RQ",
                [*identifier[:2], "Move Destination", *identifier[2:]],
            ),
            (
                dimse.CCancelRQ(message_id_being_responded_to=5),
                "C-CANCEL RQ",
                ["Message ID Being Responded To"],
            ),
            (
                dimse.NEventReportRQ(**affected, affected_sop_instance_uid="1.2", event_type_id=1),
                "N-EVENT-REPORT RQ",
                [*both, "Event Type ID", "Event Information"],
            ),
            (dimse.NGetRQ(**requested), "N-GET RQ", [*names, "Attribute Identifier List"]),
            (dimse.NSetRQ(**requested), "N-SET RQ", [*names, "Modification List"]),
            (
                dimse.NActionRQ(**requested, action_type_id=1),
                "N-ACTION RQ",
                [*names, "Action Type ID", "Action Information"],
            ),
            (
                dimse.NCreateRQ(**affected, affected_sop_instance_uid="1.2"),
                "N-CREATE RQ",
                [*both, "Attribute List"],
            ),
            (dimse.NCreateRQ(**affected), "N-CREATE RQ", [*both[:2], "Attribute List"]),
            (dimse.NDeleteRQ(**requested), "N-DELETE RQ", names),
            (
                dimse.UnrecognizedRQ(command_field=0x7777, message_id=5),
                "0x7777 RQ",
                ["Presentation Context ID", "Message ID", "Data Set"],
            ),
        ):
            rows = self.rows(command, True)
            self.assertEqual(rows[0], ("Message Type", name))
            self.assertEqual([label for label, _ in rows[1:]], labels)
            self.assertEqual(dumps.message_type(command), name)

    def test_attribute_identifier_list(self) -> None:
        """Of a list of attributes, the number is shown."""
        for tags, said in (((), "None"), ((0x00100010, 0x00100020), "(2 Attribute Tag(s))")):
            command = dimse.NGetRQ(
                requested_sop_class_uid=CT,
                requested_sop_instance_uid="1.2",
                message_id=5,
                attribute_identifier_list=tags,
            )
            self.assertIn(("Attribute Identifier List", said), self.rows(command))
