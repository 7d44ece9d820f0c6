"""Tests for :mod:`dicomnode.records`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.python.failure import Failure

from dicomnode import events, records
from dicomnode.core import machine
from dicomnode.core.command import CCancelRQ, NGetRQ
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.pdu import Abort, AssociateRQ, ProposedContext
from dicomnode.lines import SAID
from dicomnode.policies import CalledAETitle
from dicomnode.records import record
from dicomnode.visible import LIMIT
from tests.core.helpers import stable
from tests.logs import CT, EXPLICIT, INSTANCE, STORESCU, LogCase, data_set

ASSOCIATION = {
    "association": 1,
    "peer": "192.0.2.1:50000",
    "calling_ae_title": "STORESCU",
    "called_ae_title": "ANY-SCP",
}
OPERATION = {
    **ASSOCIATION,
    "operation": "C-STORE",
    "message_id": 1,
    "context": 1,
    "transfer_syntax": EXPLICIT,
    "sop_class_uid": CT,
    "sop_instance_uid": INSTANCE,
}
INSTANCE_KEPT = {
    **ASSOCIATION,
    "sop_class_uid": CT,
    "sop_instance_uid": INSTANCE,
    "transfer_syntax": EXPLICIT,
    "name": f"CT.{INSTANCE}",
}


class RecordTests(LogCase):
    """A record says of an event what there is to say, in values that JSON can express."""

    def last(self, kind: type[Any]) -> dict[str, Any]:
        """Return the record of the last event of a kind, as it comes out of JSON."""
        values: dict[str, Any] = json.loads(json.dumps(record(self.recorder.of(kind)[-1])))
        return values

    def assert_recorded(self, event: events.Event, **values: Any) -> None:
        self.assertEqual(record(event), {"event": type(event).__name__, **values})

    def test_service(self) -> None:
        """The start, and where it listens."""
        self.assert_recorded(events.Started("0.1"), version="0.1")
        self.assert_recorded(events.PartRemoved(".CT.1.1-1.part"), name=".CT.1.1-1.part")
        self.assert_recorded(events.Listening(IPv4Address("TCP", "::1", 104)), address="[::1]:104")

    def test_association(self) -> None:
        """What was asked for, what was accepted, and how it ended."""
        peer = self.associate("none", {CT: [EXPLICIT, "1.2"], "1.2.3.4": [EXPLICIT]})
        self.assertEqual(
            self.last(events.AssociationRequested),
            {
                "event": "AssociationRequested",
                **ASSOCIATION,
                "implementation_class_uid": STORESCU.implementation_class_uid,
                "implementation_version_name": "PYNETDICOM_304",
                "max_length": 16382,
                "contexts": [
                    {"id": 1, "abstract_syntax": CT, "transfer_syntaxes": [EXPLICIT, "1.2"]},
                    {"id": 3, "abstract_syntax": "1.2.3.4", "transfer_syntaxes": [EXPLICIT]},
                ],
            },
        )
        self.assertEqual(
            self.last(events.AssociationAccepted),
            {
                "event": "AssociationAccepted",
                **ASSOCIATION,
                "accepted": [{"id": 1, "abstract_syntax": CT, "transfer_syntax": EXPLICIT}],
                "rejected": [{"id": 3, "abstract_syntax": "1.2.3.4", "result": 3}],
            },
        )
        self.reactor.advance(1.23456789)
        peer.releases()
        peer.transport.lose()
        self.assertEqual(
            self.last(events.AssociationReleased), {"event": "AssociationReleased", **ASSOCIATION}
        )
        self.assertEqual(
            self.last(events.AssociationEnded),
            {
                "event": "AssociationEnded",
                **ASSOCIATION,
                "how": "released",
                "seconds": 1.234568,
                "truncated": False,
            },
        )

    def test_user(self) -> None:
        """A user is named; what proves who it is, is not recorded."""
        for identity, values in (
            (UserIdentity(2, b"user", b"s3cret"), {"user_identity_type": 2, "user": "user"}),
            (UserIdentity(3, b"s3cret"), {"user_identity_type": 3}),
        ):
            peer = self.start("none")
            peer.associates(user_information=UserInformation(user_identity=identity))
            recorded = self.last(events.AssociationRequested)
            self.assertEqual({name: recorded[name] for name in recorded if "user" in name}, values)
            self.assertNotIn("s3cret", str(recorded))

    def test_logged_in(self) -> None:
        """Who has logged in is named, and cut."""
        for name in ("alice", "x" * (LIMIT + 1)):
            association: Any = self.start("none").association
            values = record(events.LoggedIn(association, name))
            self.assertEqual(values["user"], name[:LIMIT])

    def test_rejected(self) -> None:
        """A rejection has its codes, and is explained."""
        peer = self.start("none", policy=CalledAETitle("US"))
        peer.associates(calling="STORESCU")
        self.assertEqual(
            self.last(events.AssociationRejected),
            {
                "event": "AssociationRejected",
                **ASSOCIATION,
                "result": 1,
                "source": 1,
                "reason": 7,
                "why": "it calls ANY-SCP, and we are US",
            },
        )

    def test_aborts(self) -> None:
        """An abort has its codes; ours is explained. So is what led to it."""
        self.associate("none").sends(Abort(2, 1).encode())
        self.assertEqual(
            self.last(events.AbortReceived),
            {"event": "AbortReceived", **ASSOCIATION, "source": 2, "reason": 1},
        )
        self.associate("none")
        self.reactor.advance(30)
        self.assertEqual(
            self.last(events.TimedOut),
            {"event": "TimedOut", **ASSOCIATION, "what": "network", "seconds": 30},
        )
        self.assertEqual(
            self.last(events.AbortSent),
            {
                "event": "AbortSent",
                **ASSOCIATION,
                "source": 0,
                "reason": 0,
                "why": "network timeout",
                "by_user": True,
            },
        )

    def test_store(self) -> None:
        """A store has its UIDs, and in the end its status, octets and seconds."""
        peer = self.associate("none")
        peer.stores(INSTANCE, data_set())
        self.assertEqual(
            self.last(events.OperationStarted), {"event": "OperationStarted", **OPERATION, "data_set": True}
        )
        self.assertEqual(
            self.last(events.InstanceKept),
            {"event": "InstanceKept", **INSTANCE_KEPT, "replaced": False, "dropped": False},
        )
        ended = {"event": "OperationEnded", **OPERATION, "octets": len(data_set()), "seconds": 0}
        self.assertEqual(self.last(events.OperationEnded), {**ended, "status": "0x0000"})
        event = self.recorder.of(events.OperationEnded)[-1]
        unanswered = events.OperationEnded(event.association, event.operation, None, 7, 0.5)
        self.assertEqual(record(unanswered), {**ended, "status": None, "octets": 7, "seconds": 0.5})

    def test_not_kept(self) -> None:
        """A failure to store is explained."""
        peer = self.associate("none")
        os.rmdir(self.directory)
        peer.stores(INSTANCE, data_set())
        recorded = self.last(events.InstanceNotKept)
        self.assertTrue(recorded.pop("error").startswith("[Errno 2] No such file or directory"))
        self.assertEqual(recorded, {"event": "InstanceNotKept", **INSTANCE_KEPT, "directory": self.directory})
        recorded = self.last(events.OperationEnded)
        self.assertEqual(recorded["status"], "0xA700")
        self.assertEqual(recorded["error_comment"], "No such file or directory")

    def test_normalized(self) -> None:
        """An operation on a requested instance has that instance's UIDs."""
        peer = self.associate("none")
        request = NGetRQ(requested_sop_class_uid=CT, requested_sop_instance_uid="1.2", message_id=1)
        peer.invokes(CT, request)
        recorded = self.last(events.OperationStarted)
        self.assertEqual((recorded["sop_class_uid"], recorded["sop_instance_uid"]), (CT, "1.2"))
        self.assertEqual((recorded["operation"], recorded["data_set"]), ("N-GET", False))

    def test_others(self) -> None:
        """What is seldom seen."""
        association = self.associate("none").association
        cancel = CCancelRQ(message_id_being_responded_to=5)
        self.assert_recorded(
            events.CancelReceived(association, 1, cancel), **ASSOCIATION, message_id=5, context=1
        )
        self.assert_recorded(events.PolicyRead("/etc/p"), path="/etc/p")
        self.assert_recorded(events.PolicyNotRead("/etc/p", "no"), path="/etc/p", why="no")
        self.assert_recorded(events.CertificatesRead("/etc/c"), path="/etc/c")
        self.assert_recorded(events.CertificatesNotRead("/etc/c", "no"), path="/etc/c", why="no")
        self.assert_recorded(
            events.TLSFailed(IPv4Address("TCP", "192.0.2.1", 5), "no"), peer="192.0.2.1:5", why="no"
        )
        self.assert_recorded(
            events.TooManyHalfOpen(1000, "192.0.2.1", 990), limit=1000, host="192.0.2.1", held=990
        )
        self.assert_recorded(
            events.ExecutionEnded(("x", "y"), 4711, "ended with exit code 1", 1.5),
            arguments=["x", "y"],
            process=4711,
            why="ended with exit code 1",
            seconds=1.5,
        )
        self.assert_recorded(events.ExecutionSaid(4711, "line"), process=4711, line="line")
        self.assert_recorded(events.Paused(association), **ASSOCIATION)
        self.assert_recorded(events.Resumed(association), **ASSOCIATION)
        self.assert_recorded(
            events.Unexpected(association, Failure(ValueError()), "x"), **ASSOCIATION, doing="x"
        )
        step = events.Transition(
            association, machine.State.STA1, machine.Event.TRANSPORT_INDICATION, "AE-5", machine.State.STA2
        )
        self.assert_recorded(
            step,
            **ASSOCIATION,
            state="STA1",
            protocol_event="TRANSPORT_INDICATION",
            action="AE-5",
            following="STA2",
        )

    def test_every_event(self) -> None:
        """Every event of which something can be said can be recorded."""
        self.assertEqual(set(records._VALUES), set(SAID))

    @given(st.text(st.characters(max_codepoint=0xFF), min_size=LIMIT))
    @stable
    def test_bounded(self, text: str) -> None:
        """No text of the peer's makes a record long."""
        association = self.start("none").association
        contexts = tuple(ProposedContext(number, text, (text,) * 1000) for number in (1, 3))
        information = UserInformation(
            implementation_class_uid=text,
            implementation_version_name=text,
            user_identity=UserIdentity(1, text.encode("latin-1")),
        )
        request = AssociateRQ("A", "B", contexts, information)
        recorded = record(events.AssociationRequested(association, request))
        self.assertEqual(len(recorded["implementation_class_uid"]), LIMIT)
        self.assertLess(len(json.dumps(recorded)), 1 << 20)
