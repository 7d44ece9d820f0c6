"""A load generator: a Storage SCU on a blocking socket, whose PDUs are encoded beforehand.

It is not a DICOM toolkit: it knows one SOP Class and one transfer syntax, and takes what it is
answered for what it should be, except the status.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from dicomnode.core.command import CEchoRQ, CStoreRQ, encode
from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import AssociateAC, AssociateRQ, ProposedContext, ReleaseRQ, p_data_tf
from dicomnode.uids import EXPLICIT_VR_LE, VERIFICATION

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
#: Octets of pixel data that are sent again and again: large instances take no memory here.
BLOCK = bytes(range(256)) * 4096


def uid(number: int) -> str:
    """Return a UID; all are of one length."""
    return f"1.2.826.0.1.3680043.10.1.{100_000_000 + number}"


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) & 1)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def data_set(number: int, octets: int) -> Iterator[bytes]:
    """Yield a data set of about ``octets`` octets, in blocks."""
    head = b"".join(
        (
            _element(0x0008, 0x0016, b"UI", CT_IMAGE_STORAGE.encode()),
            _element(0x0008, 0x0018, b"UI", uid(number).encode()),
            _element(0x0008, 0x0060, b"CS", b"CT"),
            _element(0x0010, 0x0010, b"PN", b"Benchmark^Load"),
            _element(0x0020, 0x000D, b"UI", uid(0).encode()),
            _element(0x0020, 0x000E, b"UI", uid(0).encode()),
        )
    )
    pixels = max(octets - len(head) - 12, 2) & ~1
    yield head + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", pixels)
    while pixels > 0:
        yield BLOCK[:pixels]
        pixels -= len(BLOCK)


class SCU:
    """An association, requested on a blocking socket."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        contexts = (
            ProposedContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LE,)),
            ProposedContext(3, VERIFICATION, (EXPLICIT_VR_LE,)),
        )
        # The implementation class UID is mandatory, and DCMTK insists.
        information = UserInformation(max_length=16384, implementation_class_uid="1.2.826.0.1.3680043.10.1")
        self._socket.sendall(AssociateRQ("ANY-SCP", "LOAD", contexts, information).encode())
        kind, body = self._pdu()
        assert kind == 2, f"refused: PDU type {kind}"
        maximum = AssociateAC.decode(memoryview(body)).user_information.max_length
        self._fragment = min(maximum or 1 << 17, 1 << 17) - 6
        self._message_id = 0

    def encoded(self, number: int, octets: int) -> Iterator[bytes]:
        """Yield the PDUs of a C-STORE, joined in blocks of about a megabyte."""
        self._message_id = self._message_id % 65535 + 1
        request = CStoreRQ(
            affected_sop_class_uid=CT_IMAGE_STORAGE,
            message_id=self._message_id,
            affected_sop_instance_uid=uid(number),
        )
        block = [p_data_tf(1, True, True, encode(request, has_data_set=True))]
        held = b""
        for piece in data_set(number, octets):
            held += piece
            while len(held) > self._fragment:
                block.append(p_data_tf(1, False, False, held[: self._fragment]))
                held = held[self._fragment :]
            yield b"".join(block)
            block = []
        yield p_data_tf(1, False, True, held)

    def send(self, encoded: bytes) -> None:
        """Send one encoded C-STORE, and wait for Success."""
        self._socket.sendall(encoded)
        self.expect_success()

    def stream(self, number: int, octets: int) -> None:
        """Send a C-STORE of any size, and wait for Success."""
        for block in self.encoded(number, octets):
            self._socket.sendall(block)
        self.expect_success()

    def echo(self) -> None:
        """C-ECHO."""
        request = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=1)
        self._socket.sendall(p_data_tf(3, True, True, encode(request)))
        self.expect_success()

    def release(self) -> None:
        """Release the association, and close."""
        self._socket.sendall(ReleaseRQ().encode())
        self._pdu()
        self._socket.close()

    def expect_success(self) -> None:
        kind, body = self._pdu()
        assert kind == 4, f"PDU type {kind} {body!r}"
        status = body.rindex(b"\0\0\0\x09\2\0\0\0")  # (0000,0900), two octets
        assert body[status + 8 : status + 10] == b"\0\0", f"status {body[status + 8 : status + 10].hex()}"

    def _pdu(self) -> tuple[int, bytes]:
        head = self._exactly(6)
        return head[0], self._exactly(int.from_bytes(head[2:], "big"))

    def _exactly(self, octets: int) -> bytes:
        parts = []
        while octets:
            part = self._socket.recv(octets)
            assert part, "the connection was closed"
            parts.append(part)
            octets -= len(part)
        return b"".join(parts)
