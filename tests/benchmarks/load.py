"""The load generator: an SCU on a blocking socket, which sends what was encoded beforehand.

It is not a DICOM toolkit: it knows one SOP Class and one transfer syntax, and takes what it is
answered for what it should be, except the status. An operation costs it one ``sendmsg`` and one
``recv``; ``--calibrate`` shows what that comes to.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache

from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import AssociateRQ, ProposedContext, ReleaseRQ
from dicomnode.uids import EXPLICIT_VR_LE, STORAGE_SOP_CLASSES, VERIFICATION
from tests.benchmarks.messages import CT_IMAGE_STORAGE, IMPLEMENTATION, Message

_RELEASE = ReleaseRQ().encode()
_SUCCESS = b"\0\0\0\x09\2\0\0\0\0\0"  # (0000,0900), two octets, 0000


class Refused(Exception):
    """The association was rejected, or ended before its time."""


@lru_cache
def _request(contexts: int) -> bytes:
    classes = [
        CT_IMAGE_STORAGE,
        VERIFICATION,
        *(uid for uid in STORAGE_SOP_CLASSES if uid != CT_IMAGE_STORAGE),
    ]
    proposed = [
        ProposedContext(2 * number + 1, sop_class, (EXPLICIT_VR_LE,))
        for number, sop_class in enumerate(classes[:contexts])
    ]
    information = UserInformation(max_length=16384, implementation_class_uid=IMPLEMENTATION)
    return AssociateRQ("ANY-SCP", "LOAD", tuple(proposed), information).encode()


class SCU:
    """An association, requested on a blocking socket.

    :param nagle: leave Nagle's algorithm on, and write each piece of a message by itself, as stock SCUs do.
    :param wait: for the answer. One who takes its associations one by one answers not before the
        last one was released.
    :param contexts: how many presentation contexts to propose.
    :param patience: how long anything may take, in seconds.
    """

    def __init__(
        self,
        port: int,
        *,
        nagle: bool = False,
        wait: bool = True,
        contexts: int = 2,
        patience: int = 60,
    ) -> None:
        self._socket = socket.socket()
        # Not settimeout(): with it, Python polls before each call.
        for option in socket.SO_RCVTIMEO, socket.SO_SNDTIMEO:
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", patience, 0))
        if not nagle:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect(("127.0.0.1", port))
        self._together = 0 if nagle else 4
        self._socket.sendall(_request(contexts))
        if wait:
            self.established()

    def established(self) -> None:
        """Wait until the association is established."""
        answer = self._pdu()
        if answer[0] != 2:
            raise Refused(f"PDU type {answer[0]}, {answer[6:].hex()}")

    def send(self, message: Message) -> None:
        """Send an encoded message, and wait for Success."""
        self._send(message)
        answer = self._pdu()
        if answer[0] != 4 or _SUCCESS not in answer:
            raise Refused(f"PDU type {answer[0]}, {answer[6:].hex()}")

    def release(self) -> None:
        """Release the association, and close."""
        self._socket.sendall(_RELEASE)
        self._pdu()
        self._socket.close()

    def close(self) -> None:
        """Close the connection, as an SCU that died does."""
        self._socket.close()

    def _send(self, message: Message) -> None:
        if len(message) == 1:
            self._socket.sendall(message[0])
            return
        if len(message) > self._together:
            for piece in message:
                self._socket.sendall(piece)
            return
        sent = self._socket.sendmsg(message)
        if sent != sum(map(len, message)):  # A signal, or the timeout, came between.
            self._socket.sendall(memoryview(b"".join(message))[sent:])

    def _pdu(self) -> bytes:
        data = self._socket.recv(65536)
        while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
            more = self._socket.recv(65536)
            if not more:
                raise Refused("the connection was closed")
            data += more
        return data


def split(message: Message) -> Message:
    """Return the PDUs of a message each as a piece."""
    joined = b"".join(message)
    pdus = []
    while joined:
        end = 6 + int.from_bytes(joined[2:6], "big")
        pdus.append(joined[:end])
        joined = joined[end:]
    return tuple(pdus)
