"""A peer that discards what it is sent: what the load generator can do at most::

    python -m tests.benchmarks.discard PORT OCTETS ANSWER...

It knows how long each message is to be, has the kernel throw the octets away without copying them
(MSG_TRUNC), and sends an answer that was written beforehand. Nothing that stores can be faster.
"""

from __future__ import annotations

import socket
import sys
from threading import Thread

#: As the sink's.
ACCEPTED, RELEASED, ECHOED, STORED = map(bytes.fromhex, sys.argv[3:])

_THREADS = 40  # More than any scenario has associations: none is started while the clock runs.
_START = 12  # A PDU's type, and the presentation context of its first PDV.


def associate(connection: socket.socket, octets: int, room: bytearray) -> None:
    """Serve one association, whose messages are ``octets`` long or C-ECHO."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = connection.recv(65536)
    if not request:
        return
    connection.sendall(ACCEPTED)
    while start := connection.recv(_START):
        if start[0] == 5:
            connection.sendall(RELEASED)
            break
        echo = start[10] == ECHOED[10]
        rest = int.from_bytes(start[2:6], "big") + 6 if echo else octets
        rest -= len(start)
        while rest:
            rest -= connection.recv_into(room, min(rest, len(room)), socket.MSG_TRUNC | socket.MSG_WAITALL)
        connection.sendall(ECHOED if echo else STORED)
    connection.close()


def serve(listening: socket.socket, octets: int) -> None:
    """Serve one association after the other."""
    room = bytearray(1 << 20)
    while True:
        associate(listening.accept()[0], octets, room)


def main() -> None:
    port, octets = map(int, sys.argv[1:3])
    listening = socket.create_server(("127.0.0.1", port), backlog=128)
    for _ in range(_THREADS):
        Thread(target=serve, args=(listening, octets)).start()


if __name__ == "__main__":
    main()
