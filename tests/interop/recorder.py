"""A relay between a requestor and the command, which remembers every octet that passes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.interop import wire
from tests.interop.support import LOOPBACK, PATIENCE

#: Acknowledge at once: a requestor that leaves Nagle's algorithm on waits for it, 40 ms an instance.
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


@dataclass
class Connection:
    """What went to and fro on a transport connection."""

    sent: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Stored:
    """A C-STORE that was seen on the wire, and its answer."""

    calling: str
    called: str
    sop_class: str
    instance: str
    transfer_syntax: str
    data_set: bytes
    status: int | None


class Recorder:
    """Listens, relays to the address that it is given, and remembers.

    It is no AE: what a requestor sends through it is what it sends to the command, and what it is answered is
    what the command answers.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._listener = socket.create_server((LOOPBACK, 0))
        self._connections: list[Connection] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> list[Connection]:
        """Stop listening, wait until all connections are closed, and return what was recorded."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for thread in self._threads:
            thread.join(PATIENCE)
        for one in self._sockets:
            one.close()
        return self._connections

    def stored(self) -> list[Stored]:
        """Close, and return the C-STOREs that were recorded."""
        return [stored for connection in self.close() for stored in _stored(connection)]

    def _accept(self) -> None:
        while True:
            try:
                requestor, _ = self._listener.accept()
            except OSError:
                return
            acceptor = socket.create_connection(self._address)
            self._sockets += (requestor, acceptor)
            connection = Connection()
            self._connections.append(connection)
            for source, target, record in (
                (requestor, acceptor, connection.sent),
                (acceptor, requestor, connection.answered),
            ):
                target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_relay, args=(source, target, record), daemon=True)
                self._threads.append(thread)
                thread.start()


def _relay(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    try:
        while data := source.recv(1 << 16):
            if _QUICK_ACK is not None:
                source.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
            record += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them has gone: the other sees it


def _stored(connection: Connection) -> Iterator[Stored]:
    answers = list(wire.pdus(bytes(connection.answered)))
    agreed = [wire.Answer.of(pdu.body) for pdu in answers if pdu.kind == wire.ASSOCIATE_AC]
    sent = list(wire.pdus(bytes(connection.sent)))
    # No window is negotiated: responses come in the order of the requests.
    responses = wire.messages(answers)
    for message in wire.messages(sent):
        command = message.command
        response = next(responses, None)
        if command[wire.FIELD] == wire.C_STORE_RQ:
            yield Stored(
                _title(sent[0].body[20:36]),
                _title(sent[0].body[4:20]),
                str(command[wire.SOP_CLASS]),
                str(command[wire.SOP_INSTANCE]),
                agreed[0].contexts[message.context][1],
                message.data_set,
                None if response is None else int(response.command[wire.STATUS]),
            )


def _title(octets: bytes) -> str:
    return octets.decode().strip()
