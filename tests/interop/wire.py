"""PDUs and command sets by hand: what a peer sends, right or wrong, and what it is answered.

Written from PS3.8 9.3 and PS3.7 6.3 anew, and not with ``dicomnode.core``: what we got wrong there, we would
get wrong here, too.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from tests.interop.support import PATIENCE

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

#: Message control headers (PS3.8 E.2).
COMMAND, LAST_COMMAND, DATA, LAST_DATA = 1, 3, 0, 2

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

#: Command Fields (PS3.7 E.1).
C_STORE_RQ, C_FIND_RQ, C_ECHO_RQ, RESPONSE = 0x0001, 0x0020, 0x0030, 0x8000

#: Elements of group 0000.
SOP_CLASS, FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
PRIORITY, DATA_SET_TYPE, STATUS, COMMENT, SOP_INSTANCE = 0x0700, 0x0800, 0x0900, 0x0902, 0x1000

#: A presentation context as it is proposed: its id, abstract syntax, and transfer syntaxes.
Proposal = tuple[int, str, Sequence[str]]

CT: Sequence[Proposal] = ((1, CT_IMAGE_STORAGE, (EXPLICIT_LE,)),)
ECHO: Sequence[Proposal] = ((1, VERIFICATION, (IMPLICIT_LE,)),)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Make a PDU; ``length`` is what it claims to be."""
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def associate_rq(
    contexts: Iterable[Proposal] = CT,
    *,
    called: str = "STORESCP",
    calling: str = "INTEROP",
    max_length: int = 16384,
    version: int = 1,
    application_context: str = "1.2.840.10008.3.1.1.1",
    more: bytes = b"",
) -> bytes:
    """Make an A-ASSOCIATE-RQ (PS3.8 9.3.2); ``more`` are further user information items."""
    body = struct.pack(">H2x16s16s32x", version, called.ljust(16).encode(), calling.ljust(16).encode())
    body += item(0x10, application_context.encode())
    for number, abstract_syntax, transfer_syntaxes in contexts:
        context = bytes((number, 0, 0, 0)) + item(0x30, abstract_syntax.encode())
        context += b"".join(item(0x40, syntax.encode()) for syntax in transfer_syntaxes)
        body += item(0x20, context)
    information = item(0x51, struct.pack(">I", max_length)) + item(0x52, b"1.2.3.4") + more
    return pdu(ASSOCIATE_RQ, body + item(0x50, information))


def release_rq() -> bytes:
    return pdu(RELEASE_RQ, bytes(4))


def abort() -> bytes:
    return pdu(ABORT, bytes(4))


def pdv(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(*pdvs: bytes) -> bytes:
    return pdu(P_DATA_TF, b"".join(pdvs))


def command(elements: Mapping[int, int | str]) -> bytes:
    """Encode a command set: numbers as US, text as UI."""
    encoded = b""
    for element, value in sorted(elements.items()):
        if isinstance(value, int):
            octets = struct.pack("<H", value)
        else:
            octets = value.encode()
            octets += b"\0" * (len(octets) % 2)
        encoded += struct.pack("<HHI", 0, element, len(octets)) + octets
    return struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded


def store_rq(
    instance: str | None, *, sop_class: str = CT_IMAGE_STORAGE, message_id: int = 1, data_set: bool = True
) -> bytes:
    """Encode the command set of a C-STORE-RQ."""
    elements: dict[int, int | str] = {
        SOP_CLASS: sop_class,
        FIELD: C_STORE_RQ,
        MESSAGE_ID: message_id,
        PRIORITY: 0,
        DATA_SET_TYPE: 1 if data_set else 0x0101,
    }
    if instance is not None:
        elements[SOP_INSTANCE] = instance
    return command(elements)


def echo_rq(message_id: int = 1) -> bytes:
    """Encode the command set of a C-ECHO-RQ."""
    return command({SOP_CLASS: VERIFICATION, FIELD: C_ECHO_RQ, MESSAGE_ID: message_id, DATA_SET_TYPE: 0x0101})


def decoded_command(octets: bytes) -> dict[int, int | str]:
    """Decode a command set: numbers where the element is one, else text."""
    elements: dict[int, int | str] = {}
    position = 0
    while position < len(octets):
        _, element, length = struct.unpack_from("<HHI", octets, position)
        value = octets[position + 8 : position + 8 + length]
        text = element in (SOP_CLASS, COMMENT, SOP_INSTANCE, 0x1030)
        elements[element] = value.decode("latin-1").rstrip("\0 ") if text else int.from_bytes(value, "little")
        position += 8 + length
    return elements


def data_set(
    instance: str, *, sop_class: str = CT_IMAGE_STORAGE, pixels: bytes = bytes(64), more: bytes = b""
) -> bytes:
    """Encode a small instance in Explicit VR Little Endian; ``more`` are elements before the pixel data."""
    elements = b""
    for element, uid in ((0x0016, sop_class), (0x0018, instance)):
        octets = uid.encode() + b"\0" * (len(uid) % 2)
        elements += struct.pack("<HH2sH", 0x0008, element, b"UI", len(octets)) + octets
    return elements + more + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", len(pixels)) + pixels


class PDU(NamedTuple):
    """A PDU as it came."""

    kind: int
    body: bytes


def a_abort(source: int, reason: int) -> PDU:
    """Make the A-ABORT that is expected (PS3.8 Table 9-26)."""
    return PDU(ABORT, bytes((0, 0, source, reason)))


#: Where the service user aborts, and where there is no association yet (AA-1): the reason is not significant.
ABORTED = a_abort(0, 0)


def pdus(stream: bytes) -> Iterator[PDU]:
    """Cut a recorded stream into its PDUs."""
    position = 0
    while position + 6 <= len(stream):
        kind, length = struct.unpack_from(">BxI", stream, position)
        yield PDU(kind, bytes(stream[position + 6 : position + 6 + length]))
        position += 6 + length


def items(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a sequence of items in two: their types and values."""
    position = 0
    while position < len(body):
        kind, length = struct.unpack_from(">BxH", body, position)
        yield kind, body[position + 4 : position + 4 + length]
        position += 4 + length


@dataclass(frozen=True)
class Answer:
    """What an A-ASSOCIATE-AC says: of each context its result and transfer syntax; and the maximum length."""

    called: str
    calling: str
    contexts: dict[int, tuple[int, str]]
    max_length: int

    @classmethod
    def of(cls, body: bytes) -> Answer:
        contexts = {}
        max_length = 0
        for kind, value in items(body[68:]):
            if kind == 0x21:
                syntaxes = [syntax for inner, syntax in items(value[4:]) if inner == 0x40]
                contexts[value[0]] = value[2], syntaxes[0].decode().rstrip("\0")
            elif kind == 0x50:
                for inner, octets in items(value):
                    if inner == 0x51:
                        (max_length,) = struct.unpack(">I", octets)
        return cls(body[4:20].decode().strip(), body[20:36].decode().strip(), contexts, max_length)


@dataclass(frozen=True)
class Message:
    """A DIMSE message: its command set, and its data set if it has one."""

    context: int
    command: dict[int, int | str]
    data_set: bytes


def messages(stream: Iterable[PDU]) -> Iterator[Message]:
    """Assemble the messages of a recorded stream."""
    commands: dict[int, int | str] = {}
    command_set, data = bytearray(), bytearray()
    for kind, body in stream:
        position = 0
        while kind == P_DATA_TF and position < len(body):
            length, context, control = struct.unpack_from(">IBB", body, position)
            fragment = body[position + 6 : position + 4 + length]
            position += 4 + length
            if control & 1:
                command_set += fragment
            else:
                data += fragment
            if control == LAST_COMMAND:
                commands, command_set = decoded_command(bytes(command_set)), bytearray()
            if control == LAST_DATA or (control == LAST_COMMAND and commands[DATA_SET_TYPE] == 0x0101):
                yield Message(context, commands, bytes(data))
                data = bytearray()


class Peer:
    """A requestor on a socket, that sends what it is told."""

    def __init__(self, address: tuple[str, int] | str, patience: float = PATIENCE) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(patience)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout=patience)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def send_anyway(self, data: bytes) -> None:
        """Send as much as the other end still takes."""
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def read(self) -> PDU | None:
        """Return the next PDU, or None where the stream has ended.

        :raises TimeoutError: when there is neither.
        """
        while len(self._received) < 6 or len(self._received) < 6 + self._length():
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._received, "the stream ends inside a PDU"
                return None
            self._received += data
        end = 6 + self._length()
        whole, self._received = self._received[:end], self._received[end:]
        return PDU(whole[0], whole[6:])

    def _length(self) -> int:
        (length,) = struct.unpack_from(">I", self._received, 2)
        return int(length)

    def rest(self) -> list[PDU]:
        """Return the PDUs that come until the other end closes."""
        return list(iter(self.read, None))

    def associate(self, contexts: Iterable[Proposal] = CT, **more: object) -> Answer:
        """Ask for an association, which must be accepted."""
        self.send(associate_rq(contexts, **more))  # type: ignore[arg-type]
        answer = self.read()
        assert answer is not None, "no answer"
        assert answer.kind == ASSOCIATE_AC, answer
        return Answer.of(answer.body)

    def response(self) -> dict[int, int | str]:
        """Read a response."""

        def arriving() -> Iterator[PDU]:
            while (pdu := self.read()) is not None:
                assert pdu.kind == P_DATA_TF, pdu
                yield pdu

        message = next(messages(arriving()), None)
        assert message is not None, "no response"
        return message.command

    def store(
        self,
        instance: str,
        data: bytes | None = None,
        *,
        context: int = 1,
        sop_class: str = CT_IMAGE_STORAGE,
        message_id: int = 1,
        cut: int = 16000,
    ) -> dict[int, int | str]:
        """Invoke a C-STORE, and return the response."""
        data = data_set(instance) if data is None else data
        self.send(p_data(pdv(context, LAST_COMMAND, store_rq(instance, sop_class=sop_class))))
        self.send_data_set(data, context=context, cut=cut)
        return self.response()

    def send_data_set(self, data: bytes, *, context: int = 1, cut: int = 16000) -> None:
        """Send a data set, one PDV in each P-DATA-TF."""
        for start in range(0, len(data) or 1, cut):
            control = LAST_DATA if start + cut >= len(data) else DATA
            self.send(p_data(pdv(context, control, data[start : start + cut])))

    def echo(self, context: int = 1) -> dict[int, int | str]:
        """Invoke a C-ECHO, and return the response."""
        self.send(p_data(pdv(context, LAST_COMMAND, echo_rq())))
        return self.response()

    def release(self) -> None:
        """Release the association, which must be answered."""
        self.send(release_rq())
        answer = self.read()
        assert answer is not None, "no answer"
        assert answer.kind == RELEASE_RP, answer
