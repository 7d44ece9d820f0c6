"""Requestors that say who their user is: pynetdicom, and DCMTK's ``storescu``."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import Any

from pydicom.data import get_testdata_file

from tests.interop.support import (
    LOOPBACK,
    InteropTestCase,
    Storescp,
    missing_modules,
    missing_programs,
    run,
)


class UserIdentityTests(InteropTestCase):
    """pynetdicom offers user identities, and is let in with the right ones."""

    skip = missing_modules("pynetdicom")

    def associates(
        self,
        node: Storescp,
        type_: int | None,
        primary: bytes = b"",
        secondary: bytes = b"",
        response_requested: bool = False,
    ) -> Any:
        """Return an association that was asked for with a user identity, and an echo where it could be."""
        from pynetdicom import AE, evt
        from pynetdicom.pdu import A_ASSOCIATE_RJ
        from pynetdicom.pdu_primitives import UserIdentityNegotiation
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        entity = AE("SCU")
        entity.add_requested_context(Verification)
        offered: list[Any] = []
        if type_ is not None:
            identity = UserIdentityNegotiation()
            identity.user_identity_type = type_
            identity.positive_response_requested = response_requested
            identity.primary_field = primary
            if secondary:
                identity.secondary_field = secondary
            offered.append(identity)
        self.rejections: list[Any] = []

        def received(event: Any) -> None:
            if isinstance(event.pdu, A_ASSOCIATE_RJ):
                self.rejections.append(event.pdu)

        handlers = [(evt.EVT_PDU_RECV, received)]
        association = entity.associate(LOOPBACK, node.port, ext_neg=offered, evt_handlers=handlers)
        if association.is_established:
            self.assertEqual(association.send_c_echo().Status, 0)
            association.release()
        return association

    def assertRejected(self, association: Any) -> None:
        # What it received, for it races itself: a rejection that comes at once it may take for an abort.
        self.assertFalse(association.is_released)
        (rejection,) = self.rejections
        self.assertEqual((rejection.result, rejection.source, rejection.reason_diagnostic), (1, 2, 1))

    def test_passcode(self) -> None:
        """The right passcode is, a wrong one is not; nor is a user name alone, a token or nobody."""
        file = self.directory() / "passwd"
        file.write_text("alice:s3cret\n")
        node = self.storescp("-d", "--auth", f"file:{file}", "--auth", "memory:bob:t0p")
        for name, passcode in ((b"alice", b"s3cret"), (b"bob", b"t0p")):
            association = self.associates(node, 2, name, passcode)
            self.assertTrue(association.is_released)
            self.assertIsNone(association.acceptor.user_identity)
        self.assertRejected(self.associates(node, 2, b"alice", b"t0p"))
        self.assertRejected(self.associates(node, 1, b"alice"))
        self.assertRejected(self.associates(node, 5, b"s3cret-token"))
        self.assertRejected(self.associates(node, None))
        log = node.stderr
        self.assertCalm(log)
        for secret in ("s3cret", "t0p"):
            self.assertNotIn(secret, log)
        self.assertEqual(log.count("I: User alice has logged in"), 1)
        self.assertEqual(log.count("W: Association rejected: "), 4)

    def test_response(self) -> None:
        """The positive response is sent when it is asked for."""
        node = self.storescp("--auth", "memory:alice:s3cret")
        association = self.associates(node, 2, b"alice", b"s3cret", response_requested=True)
        self.assertTrue(association.is_released)
        self.assertEqual(association.acceptor.user_identity.server_response, b"")
        self.assertRejected(self.associates(node, 2, b"alice", b"t0p", response_requested=True))

    def test_anonymous(self) -> None:
        """Nobody is let in, too, where that is said."""
        node = self.storescp("--auth", "memory:alice:s3cret", "--auth", "anonymous")
        self.assertTrue(self.associates(node, None).is_released)
        self.assertRejected(self.associates(node, 2, b"alice", b"t0p"))

    def test_not_asked_for(self) -> None:
        """Without a method, no one looks at a user identity, and no response is sent."""
        association = self.associates(self.storescp(), 2, b"alice", b"any", response_requested=True)
        self.assertTrue(association.is_released)
        self.assertIsNone(association.acceptor.user_identity)

    def test_several_processes(self) -> None:
        """Each process that accepts knows the users."""
        node = self.storescp("--auth", "memory:alice:s3cret", "--processes", "2")
        for _ in range(4):
            self.assertTrue(self.associates(node, 2, b"alice", b"s3cret").is_released)
            self.assertRejected(self.associates(node, 2, b"alice", b"t0p"))
        self.assertNotIn("s3cret", node.stderr)


class StorescuTests(InteropTestCase):
    """DCMTK's ``storescu`` stores for its user, and is refused without the right one."""

    skip = missing_programs("storescu")

    def test_storescu(self) -> None:
        """It sends a passcode or a SAML assertion, and gets the positive response that it asks for."""
        node = self.storescp("-d", "--auth", "memory:alice:s3cret")
        assertion = self.directory() / "assertion"
        assertion.write_text("<s3cret/>")
        path = str(get_testdata_file("CT_small.dcm"))
        alice = ("--user", "alice")
        for options, stored in (
            ((*alice, "--password", "s3cret"), True),
            ((*alice, "--password", "s3cret", "-rsp"), True),
            ((*alice, "--password", "t0p"), False),
            ((*alice, "--empty-password"), False),
            (alice, False),
            (("--saml", str(assertion)), False),
            ((), False),
        ):
            done = run("storescu", "-v", *options, LOOPBACK, f"{node.port}", path)
            self.assertEqual(done.code == 0, stored, (options, done.stderr))
            self.assertEqual("Rejected Permanent" in done.stdout + done.stderr, not stored, options)
        self.assertEqual(node.stderr.count("I: Storing DICOM file: "), 2)
        self.assertNotIn("s3cret", node.stderr)
        self.assertCalm(node.stderr)
