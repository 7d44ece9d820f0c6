"""What a peer observes of a server, in the words of a table's cell."""

from __future__ import annotations

import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from tests.interop import wire
from tests.interop.wire import Peer, data_set, messages
from tests.reliability.servers import Server

_KINDS = {
    wire.ASSOCIATE_AC: "accepted",
    wire.ASSOCIATE_RJ: "rejected",
    wire.RELEASE_RQ: "A-RELEASE-RQ",
    wire.RELEASE_RP: "released",
    wire.ABORT: "A-ABORT",
}

#: Both kinds of contexts, where a test wants them.
STORE_AND_ECHO: tuple[wire.Proposal, ...] = (*wire.CT, (3, wire.VERIFICATION, (wire.IMPLICIT_LE,)))


def answer(peer: Peer, patience: float = 10.0) -> str:
    """Say what comes next: a status, a PDU, the end of the connection, or nothing."""
    peer.socket.settimeout(patience)
    came: list[wire.PDU] = []
    try:
        while (pdu := peer.read()) is not None:
            if pdu.kind != wire.P_DATA_TF:
                return _KINDS.get(pdu.kind, f"PDU type {pdu.kind}")
            came.append(pdu)
            for message in messages(came):
                return f"{int(message.command[wire.STATUS]):04X}"
    except TimeoutError:
        return f"no answer in {patience:g} s"
    except (OSError, AssertionError):
        return "closed inside a PDU"
    return "connection closed"


def store(peer: Peer, uid: str, data: bytes, *, patience: float = 10.0) -> str:
    """Invoke a C-STORE as far as the server lets us, and say what is answered."""
    with suppress(OSError):
        peer.send(wire.p_data(wire.pdv(1, wire.LAST_COMMAND, wire.store_rq(uid))))
        peer.send_data_set(data)
    return answer(peer, patience)


def associated(server: Server, patience: float = 5.0) -> str:
    """Say how a new peer's request for an association is answered."""
    try:
        with server.peer(patience) as peer:
            peer.send(wire.associate_rq())
            said = answer(peer, patience)
            if said == "accepted":
                peer.release()
            return said
    except (OSError, AssertionError) as error:
        return type(error).__name__


def version(uid: str, letter: bytes, octets: int) -> bytes:
    """Return a data set whose every block tells which version of the instance it is."""
    return data_set(uid, pixels=letter * octets)


def on_disk(server: Server, uid: str, known: Mapping[str, bytes], nothing: str = "nothing on disk") -> str:
    """Say which of the ``known`` data sets is in the file of an instance."""
    octets = server.contents(uid)
    if octets is None:
        return nothing
    if not octets:
        return "a file without a data set on disk"
    for name, data in known.items():
        if octets == data:
            return name
    for name, data in known.items():
        if data.startswith(octets):
            return f"{len(octets) / len(data):.0%} of {name}"
    return "another data set on disk"


def reset(peer: Peer) -> None:
    """Close with a TCP reset."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


def grown(before: float, after: float) -> str:
    """Say by how much a peak of memory has grown."""
    return f"{after - before:+.0f} MiB"


class Beside(threading.Thread):
    """A well-behaved peer beside the others: does one thing again and again, and takes the time."""

    def __init__(self, server: Server, operation: Callable[[Peer], object]) -> None:
        super().__init__(daemon=True)
        self.latencies: list[float] = []
        self.failed = ""
        self._operation = operation
        self._over = threading.Event()
        self._peer = server.peer(30)
        self._peer.associate(STORE_AND_ECHO)

    def run(self) -> None:
        while not self._over.wait(0.01):
            began = time.perf_counter()
            try:
                self._operation(self._peer)
            except Exception as error:
                self.failed = f", then {type(error).__name__}"
                return
            self.latencies.append(time.perf_counter() - began)

    def __enter__(self) -> Beside:
        self._operation(self._peer)  # the first is never typical
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(35)
        self._peer.socket.close()

    def __str__(self) -> str:
        times = [f"{seconds * 1e3:.0f} ms" for seconds in self._figures()]
        return f"{' median, '.join(times)} at worst{self.failed}" if times else f"none answered{self.failed}"

    def _figures(self) -> list[float]:
        return [statistics.median(self.latencies), max(self.latencies)] if self.latencies else []
