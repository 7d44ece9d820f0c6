"""Tests for :mod:`dicomnode.lines`: what pynetdicom's storescp was seen to print is the measure."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from dicomnode import events, uids
from dicomnode.core.codec import encode
from dicomnode.core.command import CEchoRSP, CFindRQ, CStoreRQ
from dicomnode.core.pdu import (
    Abort,
    AnsweredContext,
    AssociateAC,
    AssociateRQ,
    ProposedContext,
    ReleaseRP,
    p_data_tf,
)
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__
from dicomnode.lines import REJECTED_CONTEXTS
from dicomnode.observers import LogObserver, TextLines
from dicomnode.policies import CalledAETitle
from dicomnode.requestor import ServiceUser, associate
from dicomnode.services import Discard
from dicomnode.testing import CalledPeer, Reactor
from tests.logs import CT, EXPLICIT, INSTANCE, INSTANCE_WHO, WHO, LogCase, data_set

VERBOSE = f"""\
I: Accepting Association
I: Received Store Request
I: Storing DICOM file: CT.{INSTANCE}
I: Received Store Request
I: Storing DICOM file: CT.{INSTANCE}
W: DICOM file already exists, overwriting
I: Association Released
"""

DEBUG = f"""\
D: Request Parameters:
D: ======================= INCOMING A-ASSOCIATE-RQ PDU ========================
D: Their Implementation Class UID:      1.2.826.0.1.3680043.9.3811.3.0.4
D: Their Implementation Version Name:   PYNETDICOM_304
D: Application Context Name:    1.2.840.10008.3.1.1.1
D: Calling Application Name:    STORESCU
D: Called Application Name:     ANY-SCP
D: Their Max PDU Receive Size:  16382
D: Presentation Context:
D:   Context ID:        1 (Proposed)
D:     Abstract Syntax: =CT Image Storage
D:     Proposed SCP/SCU Role: Default
D:     Proposed Transfer Syntax:
D:       =Explicit VR Little Endian
D: Requested Extended Negotiation: None
D: Requested Common Extended Negotiation: None
D: Requested Asynchronous Operations Window Negotiation: None
D: Requested User Identity Negotiation: None
D: ========================== END A-ASSOCIATE-RQ PDU ==========================
I: Accepting Association
D: Accept Parameters:
D: ======================= OUTGOING A-ASSOCIATE-AC PDU ========================
D: Our Implementation Class UID:      {IMPLEMENTATION_CLASS_UID}
D: Our Implementation Version Name:   {IMPLEMENTATION_VERSION_NAME}
D: Application Context Name:    1.2.840.10008.3.1.1.1
D: Responding Application Name: ANY-SCP
D: Our Max PDU Receive Size:    16382
D: Presentation Contexts:
D:   Context ID:        1 (Accepted)
D:     Abstract Syntax: =CT Image Storage
D:     Accepted SCP/SCU Role: Default
D:     Accepted Transfer Syntax: =Explicit VR Little Endian
D: Accepted Extended Negotiation: None
D: Accepted Asynchronous Operations Window Negotiation: None
D: User Identity Negotiation Response: None
D: ========================== END A-ASSOCIATE-AC PDU ==========================
D: pydicom.read_dataset() TransferSyntax="Little Endian Implicit"
I: Received Store Request
D: ========================== INCOMING DIMSE MESSAGE ==========================
D: Message Type                  : C-STORE RQ
D: Presentation Context ID       : 1
D: Message ID                    : 1
D: Affected SOP Class UID        : CT Image Storage
D: Affected SOP Instance UID     : {INSTANCE}
D: Move Originator               : AET
D: Data Set                      : Present
D: Priority                      : Low
D: ============================ END DIMSE MESSAGE =============================
D: pydicom.read_dataset() TransferSyntax="Little Endian Explicit"
I: Storing DICOM file: CT.{INSTANCE}
I: Association Released
"""


def abort_dump(direction: str, source: str, reason: str) -> list[str]:
    return [
        "D: Abort Parameters:",
        f"D: =========================== {direction} A-ABORT PDU ===========================",
        f"D: Abort Source: {source}",
        f"D: Abort Reason: {reason}",
        "D: ============================= END A-ABORT PDU ==============================",
    ]


REQUESTED = f"""\
D: Request Parameters:
D: ======================= OUTGOING A-ASSOCIATE-RQ PDU ========================
D: Our Implementation Class UID:      {IMPLEMENTATION_CLASS_UID}
D: Our Implementation Version Name:   {IMPLEMENTATION_VERSION_NAME}
D: Application Context Name:    1.2.840.10008.3.1.1.1
D: Calling Application Name:    SENDER
D: Called Application Name:     ARCHIVE
D: Our Max PDU Receive Size:    16382
D: Presentation Context:
D:   Context ID:        1 (Proposed)
D:     Abstract Syntax: =CT Image Storage
D:     Proposed SCP/SCU Role: Default
D:     Proposed Transfer Syntax:
D:       =Explicit VR Little Endian
D: Requested Extended Negotiation: None
D: Requested Common Extended Negotiation: None
D: Requested Asynchronous Operations Window Negotiation: None
D: Requested User Identity Negotiation: None
D: ========================== END A-ASSOCIATE-RQ PDU ==========================
I: Association Accepted
D: Accept Parameters:
D: ======================= INCOMING A-ASSOCIATE-AC PDU ========================
D: Their Implementation Class UID:    unknown
D: Their Implementation Version Name: unknown
D: Application Context Name:    1.2.840.10008.3.1.1.1
D: Calling Application Name:    SENDER
D: Called Application Name:     ARCHIVE
D: Their Max PDU Receive Size:  16382
D: Presentation Contexts:
D:   Context ID:        1 (Accepted)
D:     Abstract Syntax: =CT Image Storage
D:     Accepted SCP/SCU Role: Default
D:     Accepted Transfer Syntax: =Explicit VR Little Endian
D: Accepted Extended Negotiation: None
D: Accepted Asynchronous Operations Window Negotiation: None
D: User Identity Negotiation Response: None
D: ========================== END A-ASSOCIATE-AC PDU ==========================
I: Sending Store Request: MsgID 1, (CT)
D: ========================== OUTGOING DIMSE MESSAGE ==========================
D: Message Type                  : C-STORE RQ
D: Presentation Context ID       : 1
D: Message ID                    : 1
D: Affected SOP Class UID        : CT Image Storage
D: Affected SOP Instance UID     : {INSTANCE}
D: Data Set                      : Present
D: Priority                      : Medium
D: ============================ END DIMSE MESSAGE =============================
I: Received Store Response (Status: 0x0000 - Success)
"""


class RequestorTests(LogCase):
    """What pynetdicom's storescu and echoscu print is printed of associations that we request."""

    def requests(self, level: str, **how: Any) -> tuple[CalledPeer, Deferred[ServiceUser]]:
        peer = CalledPeer()
        log = LogObserver(level, log=Logger("dicomnode", observer=TextLines(self.stream)))
        how = {"calling_ae_title": "SENDER", "called_ae_title": "ARCHIVE", "observe": log} | how
        return peer, associate(Reactor(), peer, **how)

    def test_debug(self) -> None:
        """An association and a store, at -d: each PDU goes the way it goes, and is whose it is."""
        peer, associating = self.requests("debug", contexts={CT: [uids.EXPLICIT_VR_LE]})
        peer.accepts()
        association = self.successResultOf(associating)
        association.store(
            b"data",
            sop_class_uid=CT,
            sop_instance_uid=INSTANCE,
            transfer_syntax_uid=uids.EXPLICIT_VR_LE,
        )
        peer.responds(0)
        self.assertEqual(self.written(), REQUESTED)

    def test_echo(self) -> None:
        """A C-ECHO, at -v."""
        peer, associating = self.requests("info")
        peer.accepts()
        self.successResultOf(associating).echo()
        peer.responds(0)
        self.assert_written(
            "I: Association Accepted",
            "I: Sending Echo Request: MsgID 1",
            "I: Received Echo Response (Status: 0x0000 - Success)",
        )

    def test_others(self) -> None:
        """Of other operations there is the response; what is no success is a warning."""
        peer, associating = self.requests("info", contexts={CT: [uids.EXPLICIT_VR_LE]})
        peer.accepts()
        association = self.successResultOf(associating)
        self.written()
        association.invoke(CFindRQ(affected_sop_class_uid=CT, message_id=0))
        peer.responds(0x0110, error_comment="no")
        association.invoke(CFindRQ(affected_sop_class_uid=CT, message_id=0)).addErrback(lambda _: None)
        peer.transport.lose()
        at = "(SENDER at 192.0.2.1:50000 calling ARCHIVE)"
        self.assert_written(
            "I: Received C-FIND Response (Status: 0x0110 - Processing failure)",
            f"W: C-FIND refused with status 0x0110: no {at}",
            f"W: C-FIND ended without a response after 0 octets {at}",
            "I: Association Aborted (A-P-ABORT)",
        )

    def test_rejected(self) -> None:
        """An A-ASSOCIATE-RJ has come in."""
        peer, associating = self.requests("debug")
        self.written()
        peer.rejects(1, 1, 7)
        self.failureResultOf(associating)
        lines = self.written().splitlines()
        self.assertEqual(lines[0], "I: Association Rejected")
        self.assertIn(
            "D: ======================= INCOMING A-ASSOCIATE-RJ PDU ========================", lines
        )


class TranscriptTests(LogCase):
    """What pynetdicom prints about what goes well is printed line for line, and nothing else."""

    def test_verbose(self) -> None:
        """A store, and the same again, at -v."""
        peer = self.associate("info")
        peer.stores(INSTANCE, data_set())
        peer.stores(INSTANCE, data_set())
        peer.releases()
        peer.transport.lose()
        self.assertEqual(self.written(), VERBOSE)

    def test_debug(self) -> None:
        """An association and a store, at -d."""
        peer = self.associate("debug")
        peer.stores(INSTANCE, data_set(), priority=2, move_originator_ae_title="AET")
        peer.releases()
        peer.transport.lose()
        self.assertEqual(self.written(), DEBUG)

    def test_echo(self) -> None:
        """A C-ECHO names its message; of it too, the response is not told."""
        peer = self.associate("debug", {uids.VERIFICATION: [uids.IMPLICIT_VR_LE]})
        self.written()
        peer.echoes()
        self.assert_written(
            'D: pydicom.read_dataset() TransferSyntax="Little Endian Implicit"',
            "I: Received Echo Request (MsgID 1)",
            "D: ========================== INCOMING DIMSE MESSAGE ==========================",
            "D: Message Type                  : C-ECHO RQ",
            "D: Presentation Context ID       : 1",
            "D: Message ID                    : 1",
            "D: Data Set                      : None",
            "D: ============================ END DIMSE MESSAGE =============================",
        )

    def test_ignore(self) -> None:
        """What is discarded is not said to be stored."""
        peer = self.associate("info", storage=Discard())
        peer.stores(INSTANCE, data_set())
        self.assert_written("I: Accepting Association", "I: Received Store Request")

    def test_start(self) -> None:
        """The start is told at -d, and where it listens at -v."""
        for level, lines in (
            ("debug", [f"D: dicomnode {__version__}", "D: ", "I: Listening on 192.0.2.2:104"]),
            ("info", ["I: Listening on 192.0.2.2:104"]),
            ("warn", []),
        ):
            self.start(level)
            self.log(events.Started(__version__))
            self.log(events.Listening(IPv4Address("TCP", "192.0.2.2", 104)))
            self.assert_written(*lines)


class RejectedTests(LogCase):
    """Who, or what, is rejected is told, and why."""

    def test_association(self) -> None:
        """A rejected association: by whom it was asked for, and why it is rejected."""
        peer = self.start("debug", policy=CalledAETitle("US"))
        peer.associates({CT: [EXPLICIT]}, calling="STORESCU")
        lines = self.written().splitlines()
        self.assertEqual(
            lines[lines.index("I: Rejecting Association") :],
            [
                "I: Rejecting Association",
                "D: Reject Parameters:",
                "D: ======================= OUTGOING A-ASSOCIATE-RJ PDU ========================",
                "D: Result:    Rejected (Permanent)",
                "D: Source:    DUL service-user",
                "D: Reason:    Called AE title not recognised",
                "D: ========================== END A-ASSOCIATE-RJ PDU ==========================",
                f"W: Association rejected: it calls ANY-SCP, and we are US ({WHO})",
            ],
        )

    def test_protocol_version(self) -> None:
        """A protocol version that we do not know is the peer's error."""
        peer = self.start("info")
        contexts = (ProposedContext(1, CT, (EXPLICIT,)),)
        peer.sends(AssociateRQ("ANY-SCP", "STORESCU", contexts, protocol_version=2).encode())
        self.assert_written(
            "E: A-ASSOCIATE-RQ: Unsupported protocol version '0x0002'",
            f"W: Association rejected: the protocol version is not 1 ({WHO})",
        )

    def test_contexts(self) -> None:
        """A rejected context: why, and what can be done about it."""
        find = "1.2.840.10008.5.1.4.1.2.2.1"
        for abstract_syntax, syntax, why in (
            (
                "1.2.3.4",
                EXPLICIT,
                "the SOP Class 1.2.3.4 is not accepted; start with --accept-unknown to accept it",
            ),
            (
                find,
                EXPLICIT,
                f"no service here has the SOP Class {find}; propose it to another node",
            ),
            (
                CT,
                "1.2.3",
                "CT Image Storage is not accepted in 1.2.3; propose Implicit VR Little Endian, too",
            ),
            (
                CT,
                "",
                "CT Image Storage is not accepted in ''; propose Implicit VR Little Endian, too",
            ),
        ):
            self.associate("warn", {abstract_syntax: [syntax]})
            self.assert_written(f"W: Presentation context 1 rejected: {why} ({WHO})")

    def test_verification(self) -> None:
        """Where C-ECHO is switched off, it is said how to switch it on."""
        peer = self.start("warn")
        contexts = (ProposedContext(1, uids.VERIFICATION, (EXPLICIT,)),)
        asked = AssociateRQ("ANY-SCP", "STORESCU", contexts)
        answer = AssociateAC("ANY-SCP", "STORESCU", (AnsweredContext(1, 3, ""),))
        self.log(events.AssociationAccepted(peer.association, asked, answer))
        self.assert_written(
            "W: Presentation context 1 rejected: Verification SOP Class is switched off; "
            "start without --no-echo to accept it (192.0.2.1:50000)"
        )

    def test_many_contexts(self) -> None:
        """Of many rejected contexts, and of many transfer syntaxes, the first few are told."""
        contexts = {f"1.2.3.{number}": [EXPLICIT] for number in range(126)}
        self.associate("warn", {CT: [f"1.2.3.{number}" for number in range(50)], **contexts})
        lines = self.written().splitlines()
        self.assertEqual(len(lines), REJECTED_CONTEXTS + 1)
        self.assertEqual(
            lines[0],
            "W: Presentation context 1 rejected: CT Image Storage is not accepted in 1.2.3.0, 1.2.3.1, "
            f"1.2.3.2 and 47 more; propose Implicit VR Little Endian, too ({WHO})",
        )
        self.assertEqual(lines[-1], f"W: 124 more of 127 presentation contexts rejected ({WHO})")


class EndTests(LogCase):
    """How an association ends otherwise than released is told as pynetdicom tells it; then, why."""

    def test_peer_aborts(self) -> None:
        """The peer's user aborts, or its provider."""
        for abort, said, dump in (
            (Abort(0, 0), "", ("DUL service-user", "(no value available)")),
            (Abort(2, 1), " (A-P-ABORT)", ("DUL service-provider", "Unrecognised PDU")),
        ):
            peer = self.associate("debug")
            self.written()
            peer.sends(abort.encode())
            peer.transport.lose()
            self.assert_written(*abort_dump("INCOMING", *dump), f"I: Association Aborted{said}")

    def test_lost(self) -> None:
        """The transport connection is closed under the association, or inside a PDU."""
        peer = self.associate("info")
        peer.transport.lose()
        self.assert_written("I: Accepting Association", "I: Association Aborted (A-P-ABORT)")
        peer = self.associate("info")
        peer.sends(p_data_tf(1, True, True, bytes(1000))[:100])
        peer.transport.lose()
        self.assert_written(
            "I: Accepting Association",
            "E: Connection closed before the entire PDU was received",
            "I: Association Aborted (A-P-ABORT)",
        )

    def test_never_established(self) -> None:
        """A connection that is closed before anything is asked is not worth a line."""
        peer = self.start("debug")
        peer.transport.lose()
        self.assert_written()

    def test_connects_and_is_silent(self) -> None:
        """One that says nothing is no error: who it was is told."""
        self.start("info")
        self.reactor.advance(10)
        self.assert_written("W: ACSE timeout reached (192.0.2.1:50000)")

    def test_network_timeout(self) -> None:
        """A silent peer is aborted."""
        self.associate("debug")
        self.written()
        self.reactor.advance(30)
        self.assert_written(
            "E: Network timeout reached",
            "I: Aborting Association",
            *abort_dump("OUTGOING", "DUL service-user", "(no value available)"),
            f"W: Aborted: network timeout ({WHO})",
        )

    def test_dimse_timeout(self) -> None:
        """A message that does not go on is told of with what had come of it."""
        peer = self.associate("info")
        self.written()
        command = CStoreRQ(affected_sop_class_uid=CT, message_id=1, affected_sop_instance_uid=INSTANCE)
        peer.sends(p_data_tf(1, True, True, encode(command, True)) + p_data_tf(1, False, False, bytes(100)))
        self.reactor.advance(20)
        self.assert_written(
            "I: Received Store Request",
            "E: DIMSE timeout reached",
            "I: Aborting Association",
            f"W: Aborted: DIMSE timeout ({WHO})",
            f"W: C-STORE ended without a response after 100 octets {INSTANCE_WHO}",
        )

    def test_unknown_pdu(self) -> None:
        """A PDU of an unknown type, on an association."""
        peer = self.associate("debug")
        self.written()
        peer.sends(b"\x99\0\0\0\0\0")
        self.assert_written(
            "E: Unknown PDU type received '0x99'",
            *abort_dump("OUTGOING", "DUL service-provider", "Unrecognised PDU"),
            "I: Association Aborted (A-P-ABORT)",
            f"W: Aborted: unknown PDU type 0x99 ({WHO})",
        )

    def test_unknown_pdu_at_first(self) -> None:
        """Something else than DICOM."""
        peer = self.start("debug")
        peer.sends(b"GET / HTTP/1.0\r\n\r\n")
        self.assert_written(
            "E: Unknown PDU type received '0x47'",
            *abort_dump("OUTGOING", "DUL service-user", "(no value available)"),
            "W: Aborted: unknown PDU type 0x47 (192.0.2.1:50000)",
        )

    def test_unexpected_pdu(self) -> None:
        """A PDU that is in order, but not expected, is no error of decoding."""
        peer = self.associate("info")
        self.written()
        peer.sends(ReleaseRP().encode())
        self.assert_written(
            "I: Association Aborted (A-P-ABORT)",
            f"W: Aborted: RELEASE-RP received in Sta6 ({WHO})",
        )

    def test_undecodable_pdu(self) -> None:
        """A PDU that cannot be decoded, before there is an association and on it."""
        peer = self.start("info")
        peer.sends(b"\1\0\0\0\0\0")
        why = "the PDU ends inside its fixed fields"
        self.assert_written(
            "E: Unable to decode the received PDU data",
            f"E: {why}",
            f"W: Aborted: {why} (192.0.2.1:50000)",
        )
        peer = self.associate("error")
        peer.sends(p_data_tf(77, True, True, b"-"))
        self.assert_written(
            "E: Unable to decode the received PDU data", "E: presentation context 77 was not accepted"
        )

    def test_invalid_message(self) -> None:
        """A data set whose command set never came."""
        peer = self.associate("error")
        peer.sends(p_data_tf(1, False, True, b"-"))
        self.assert_written(
            "E: Received an invalid DIMSE message", "E: a data set fragment that no command set announced"
        )

    def test_abort_by_us(self) -> None:
        """A response to nothing."""
        peer = self.associate("info")
        self.written()
        answer = CEchoRSP(message_id_being_responded_to=1, status=0)
        peer.sends(p_data_tf(1, True, True, encode(answer)))
        self.assert_written("I: Aborting Association", f"W: Aborted: a CEchoRSP that answers nothing ({WHO})")
