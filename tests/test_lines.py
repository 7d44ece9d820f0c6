"""Tests for :mod:`dicomnode.lines`: what pynetdicom's storescp was seen to print is the measure."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from dicomnode import events, uids
from dicomnode.core.codec import encode
from dicomnode.core.command import CCancelRQ, CEchoRSP, CFindRQ, CStoreRQ
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
from dicomnode.lines import REJECTED_CONTEXTS, SAID, who
from dicomnode.observers import LogObserver, TextLines
from dicomnode.policies import CalledAETitle
from dicomnode.requestor import ServiceUser, associate
from dicomnode.services import Discard
from dicomnode.testing import CalledPeer, MemoryStorage, Reactor
from tests.cases import Service
from tests.logs import CT, EXPLICIT, INSTANCE, WHO, LogCase, data_set

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

INSTANCE_WHO = f"(SOP Instance UID {INSTANCE}, {WHO})"


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


class OperationTests(LogCase):
    """Operations that are refused are told of with status, comment, instance and peer."""

    def test_not_understood(self) -> None:
        """A data set that cannot be read is the error that it is with pynetdicom."""
        peer = self.associate("debug")
        self.written()
        peer.stores(INSTANCE, data_set()[:-60])
        comment = peer.response.error_comment
        lines = self.written().splitlines()
        self.assertEqual(
            lines[-4:],
            [
                'D: pydicom.read_dataset() TransferSyntax="Little Endian Explicit"',
                "E: Unable to decode the received dataset or missing 'SOP Class UID' and/or "
                "'SOP Instance UID' elements",
                f"E: {comment}",
                f"W: C-STORE refused with status 0xC210: {comment} {INSTANCE_WHO}",
            ],
        )
        peer.stores(INSTANCE, b"")
        self.assertEqual(self.written().count("pydicom.read_dataset()"), 1)

    def test_refused(self) -> None:
        """Any other refusal is a warning."""
        peer = self.associate("warn")
        peer.stores("1.2\n3", data_set())
        why = "Affected SOP Instance UID is not a UID"
        self.assert_written(
            rf"W: C-STORE refused with status 0x0117: {why} (SOP Instance UID 1.2\x0a3, {WHO})"
        )
        peer.invokes(CT, CFindRQ(affected_sop_class_uid=CT, message_id=9), b"")
        self.assert_written(f"W: C-FIND refused with status 0x0211 ({WHO})")

    def test_warning(self) -> None:
        """What is done with a warning is not refused."""
        find = "1.2.840.10008.5.1.4.1.2.2.1"
        services = [Service(lambda operation: succeed(0xB000), find)]
        peer = self.associate("warn", {find: [uids.IMPLICIT_VR_LE]}, services=services)
        peer.invokes(find, CFindRQ(affected_sop_class_uid=find, message_id=5))
        self.assert_written(f"W: C-FIND done with a warning, status 0xB000 ({WHO})")

    def test_cancelled(self) -> None:
        """C-CANCEL is shown; what was cancelled is not said to be refused."""
        find = "1.2.840.10008.5.1.4.1.2.2.1"

        def perform(operation: Any) -> Deferred[int]:
            return operation.read_data_set(100).addCallback(lambda _: Deferred())  # type: ignore[no-any-return]

        services = [Service(perform, find)]
        peer = self.associate("debug", {find: [uids.IMPLICIT_VR_LE]}, services=services)
        self.written()
        peer.invokes(find, CFindRQ(affected_sop_class_uid=find, message_id=5), b"-")
        self.assertNotIn("I: ", self.written())
        peer.invokes(find, CCancelRQ(message_id_being_responded_to=5))
        self.assertEqual(peer.response.status, 0xFE00)
        self.assert_written(
            'D: pydicom.read_dataset() TransferSyntax="Little Endian Implicit"',
            "D: ========================== INCOMING DIMSE MESSAGE ==========================",
            "D: Message Type                  : C-CANCEL RQ",
            "D: Message ID Being Responded To : 5",
            "D: ============================ END DIMSE MESSAGE =============================",
        )

    def test_doubted(self) -> None:
        """What is stored in doubt is told of."""
        peer = self.associate("warn")
        peer.stores(INSTANCE, data_set())
        operation = self.recorder.of(events.OperationEnded)[0].operation
        self.log(events.Doubted(peer.association, operation, "what is it"))
        self.assert_written(f"W: Data set in doubt: what is it {INSTANCE_WHO}")

    def test_not_kept(self) -> None:
        """A file that cannot be written: which, where, and what the system says; no traceback."""
        peer = self.associate("info")
        os.mkdir(os.path.join(self.directory, f"CT.{INSTANCE}"))
        self.written()
        peer.stores(INSTANCE, data_set())
        lines = self.written().splitlines()
        self.assertEqual(
            lines[:4],
            [
                "I: Received Store Request",
                f"I: Storing DICOM file: CT.{INSTANCE}",
                "E: Could not write file to specified directory:",
                f"E:     {self.directory}",
            ],
        )
        self.assertTrue(lines[4].startswith(f"E: [Errno {errno.EISDIR}] Is a directory: "))
        self.assertEqual(lines[5:], [f"W: C-STORE refused with status 0xA700: Is a directory {INSTANCE_WHO}"])

    def test_no_directory(self) -> None:
        """Where a file is in the directory's place, that is told."""
        peer = self.associate("error")
        os.rmdir(self.directory)
        with open(self.directory, "wb"):
            peer.stores(INSTANCE, data_set())
        lines = self.written().splitlines()
        self.assertEqual(lines[:2], ["E: Unable to create the output directory:", f"E:     {self.directory}"])
        self.assertTrue(lines[2].startswith(f"E: [Errno {errno.ENOTDIR}] Not a directory: "))
        self.assertEqual(len(lines), 3)


class OtherTests(LogCase):
    """What is seldom seen."""

    def test_every_event(self) -> None:
        """Every event of which an observer is told has its place in the table."""
        self.assertEqual(set(SAID), set(events.Event.__args__))

    def test_executions(self) -> None:
        """A command that fails is an error, on one line; others are for who debugs them."""
        arguments = ("/bin/hook", "a b", "x\ny")
        for event, line in (
            (
                events.ExecutionEnded(arguments, 4711, "ended with exit code 1: no\x1b", 1.5),
                r"E: Command /bin/hook 'a b' 'x\x0ay' (process 4711) ended with exit code 1: no\x1b",
            ),
            (
                events.ExecutionEnded(("hook",), 0, "not run: the service stops", 0.0),
                "E: Command hook not run: the service stops",
            ),
            (
                events.ExecutionEnded(("hook",), 4711, "", 1.5),
                "D: Command hook (process 4711) has ended, after 1.500 s",
            ),
            (events.ExecutionSaid(4711, "it\x1b said"), r"D: Process 4711: it\x1b said"),
        ):
            self.start("debug" if line.startswith("D") else "error")
            self.log(event)
            self.assert_written(line)

    def test_transitions(self) -> None:
        """The steps of the protocol machine, where they are traced."""
        self.start("debug", trace=True)
        self.assert_written("D: Evt5 AE-5 Sta1 -> Sta2 (association 1)")

    def test_logged_in(self) -> None:
        """Who has logged in is named, if there is a name, on one line."""
        association: Any = self.start("info").association
        for user, line in (
            ("al\nice", r"I: User al\x0aice has logged in"),
            ("", "I: An anonymous user is let in"),
        ):
            self.log(events.LoggedIn(association, user))
            self.assert_written(line)

    def test_policy_file(self) -> None:
        """Reading the policy file again is told, and above all that it could not be used."""
        for event, line in (
            (events.PolicyRead("/etc/a\nb"), r"I: Policy file read: /etc/a\x0ab"),
            (events.CertificatesRead("/etc/c"), "I: Certificates read: /etc/c"),
            (
                events.CertificatesNotRead("/etc/c", "it is\nbad"),
                r"E: The certificates stay as they were: it is\x0abad",
            ),
            (
                events.TLSFailed(IPv4Address("TCP", "192.0.2.1", 5), "no\x1b"),
                r"W: TLS with 192.0.2.1:5 failed: no\x1b",
            ),
            (events.PolicyNotRead("/etc/p", "it is\nbad"), r"E: The policy stays as it was: it is\x0abad"),
        ):
            self.start("info")
            self.log(event)
            self.assert_written(line)

    def test_files(self) -> None:
        """A file that a dead process has left, and an instance that is there already, are worth a warning."""
        self.start("warn")
        self.log(events.PartRemoved(".CT.1\n.1-1.part"))
        self.assert_written(r"W: Removed what a dead process has left of a file: .CT.1\x0a.1-1.part")
        peer = self.start("warn")
        instance: Any = None
        self.log(events.InstanceKept(peer.association, instance, "CT.1", dropped=True))
        self.assert_written("W: DICOM file already exists, keeping it")

    def test_too_many_half_open(self) -> None:
        """Who holds the connections that are no association is named."""
        self.start("warn")
        self.log(events.TooManyHalfOpen(1000, "192.0.2.1", 990))
        self.assert_written(
            "W: More than 1000 connections without an association, 990 of them from 192.0.2.1: "
            "the oldest are dropped"
        )

    def test_nothing_to_say(self) -> None:
        """Pausing and resuming are not worth a line."""
        peer = self.start("debug")
        self.log(events.Paused(peer.association))
        self.log(events.Resumed(peer.association))
        self.assert_written()

    def test_unexpected(self) -> None:
        """A bug is told at every level but none, with its traceback."""
        storage = MemoryStorage()
        storage.error = ZeroDivisionError("one\ntwo")
        for level in ("critical", "error", "warn"):
            peer = self.associate(level, storage=storage)
            peer.stores(INSTANCE, data_set())
            first, *rest = self.written().splitlines()
            self.assertEqual(
                first, rf"C: Failed performing a CStoreRQ: ZeroDivisionError: one\x0atwo ({WHO})"
            )
            self.assertIn("    Traceback (most recent call last):", rest)
            self.assertTrue(all(line.startswith("    ") for line in rest if line[1:2] != ":"))
        self.associate("none", storage=storage).stores(INSTANCE, data_set())
        self.assert_written()

    def test_who(self) -> None:
        """A peer is named by its titles as soon as it has said them."""
        peer = self.start("none")
        self.assertEqual(who(peer.association), "192.0.2.1:50000")
        peer.associates(calling="A\x1b", called="")
        self.assertEqual(who(peer.association), r"A\x1b at 192.0.2.1:50000 calling ")
