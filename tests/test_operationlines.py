"""Tests of the lines of the log that tell of operations, and of what else there is."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed

from dicomnode import events, uids
from dicomnode.core.command import CCancelRQ, CFindRQ
from dicomnode.lines import SAID, who
from dicomnode.testing import MemoryStorage
from tests.cases import Service
from tests.logs import CT, INSTANCE, INSTANCE_WHO, WHO, LogCase, data_set


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
