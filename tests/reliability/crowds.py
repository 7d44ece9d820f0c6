"""Faults of many peers, of floods, and of many rounds: what they cost the server and those beside them."""

from __future__ import annotations

import random
import select
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from tests.interop import wire
from tests.interop.samples import data_set_of
from tests.interop.wire import Peer, data_set, p_data, pdv, store_rq
from tests.reliability import kill, mutants
from tests.reliability.observed import Beside, answer, associated, grown, on_disk, store
from tests.reliability.servers import Server
from tests.reliability.sessions import SESSIONS

#: What is asked of all three where a fault has to be waited for, in seconds.
TIMEOUT = 5


def killed(kind: str, rounds: int = 4) -> str:
    """SIGKILL under load from eight associations, and a restart."""
    moments = random.Random(1)
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="dicomnode-peers-") as name:
        directory = Path(name)
        for number in range(1, rounds + 1):
            with Server(kind, concurrent=True, directory=directory) as server:
                senders = [
                    kill.Sender(server.address, f"1.2.{number}.{connection}")
                    for connection in range(kill.CONNECTIONS)
                ]
                for sender in senders:
                    sender.start()
                time.sleep(moments.uniform(0.3, kill.LONGEST))
                server.kill()
                for sender in senders:
                    sender.join(40)
            for sender in senders:
                _judge(directory, sender, count)
        with Server(kind, concurrent=True, directory=directory):
            count["leftovers"] = sum(1 for _ in directory.iterdir())
    return (
        f"{count['missing']} missing and {count['lost']} torn of {count['acknowledged']} acknowledged, "
        f"{count['torn']} torn under a final name, {count['leftovers']} left after a restart"
    )


def _judge(directory: Path, sender: kill.Sender, count: Counter[str]) -> None:
    """Look at each instance that was sent, and forget it."""
    for uid, newest in sender.sent.items():
        oldest = sender.acknowledged.get(uid)
        count["acknowledged"] += oldest is not None
        path = directory / f"CT.{uid}"
        if not path.exists():
            count["missing"] += oldest is not None
            continue
        contents = path.read_bytes()
        path.unlink()
        versions = range(0 if oldest is None else oldest, newest + 1)
        if not any(kill.whole(contents, kill.version_of(uid, version)) for version in versions):
            count["torn"] += 1
            count["lost"] += oldest is not None


def mutated(kind: str, streams: int = 500, seconds: float = 60) -> str:
    """Whole recorded sessions, mutated."""
    numbers = random.Random(1)
    acknowledged: set[str] = set()
    arrived: set[bytes] = set()
    with Server(kind, timeout=TIMEOUT) as server:
        time.sleep(0.5)  # who was here to see whether it answers is gone
        before = server.descriptors()
        began = time.monotonic()
        sent = 0
        while sent < streams and time.monotonic() - began < seconds and server.end is None:
            data = mutants.mutate(numbers.choice(SESSIONS), numbers)
            arrived |= {message.data_set for message in _messages(data)}
            for message in _messages(_said(server, data)):
                if message.command.get(wire.STATUS) == 0:
                    acknowledged.add(str(message.command.get(wire.SOP_INSTANCE)))
            sent += 1
        took = time.monotonic() - began
        time.sleep(TIMEOUT + 1)
        descriptors = server.descriptors() - before if server.end is None else 0
        state = server.end or f"lives, a new peer {associated(server, 10)}"
        # Whose peer went before the answer may be there, but whole.
        left = sum(
            not any(path.name.endswith(f".{uid}") for uid in acknowledged)
            and data_set_of(path.read_bytes()) not in arrived
            for path in server.directory.iterdir()
        )
        tracebacks = (server.stdout + server.stderr).count("Traceback (most recent call last)")
    return (
        f"{state}, after {sent} in {took:.0f} s; {tracebacks} tracebacks; "
        f"{left} torn files of dead associations, {descriptors:+d} descriptors"
    )


def _said(server: Server, data: bytes) -> bytes:
    """Send octets, close that direction, and return all that is answered, for a while."""
    said = b""
    with suppress(OSError), server.peer(1) as peer:
        peer.send_anyway(data)
        peer.socket.shutdown(socket.SHUT_WR)
        while received := peer.socket.recv(65536):
            said += received
    return said


def _messages(stream: bytes) -> list[wire.Message]:
    """Return the messages of a stream, up to where it is not well-formed."""
    found = []
    with suppress(struct.error, KeyError):
        for message in wire.messages(wire.pdus(stream)):
            found.append(message)
    return found


def enormous(kind: str) -> str:
    """A P-DATA-TF that claims 4 GiB, and up to 256 MiB of it."""
    with Server(kind) as server, server.peer() as peer:
        peer.associate()
        assert store(peer, "1.2.3", data_set("1.2.3")) == "0000"
        before = server.peak()
        peer.send(p_data(pdv(1, wire.LAST_COMMAND, store_rq("1.2.4"))))
        peer.send(struct.pack(">BxIIBB", wire.P_DATA_TF, 0xFFFFFFFF, 0xFFFFFFFB, 1, wire.DATA))
        at_once = select.select([peer.socket], [], [], 1)[0]
        said = f"{answer(peer)} at once" if at_once else ""
        block = bytes(1 << 20)
        taken = 0
        with suppress(OSError):
            while taken < 256:
                peer.socket.sendall(block)
                taken += 1
        after = server.peak()
        return f"{grown(before, after)}, {said or f'{answer(peer, 5)}, {taken} MiB taken'}"


@cache
def _inflating() -> bytes:
    """Return a data set of a megabyte that inflates to 1 GiB."""
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    parts = [squeezed.compress(data_set("1.2.5", pixels=b"")[:-12])]
    parts.append(squeezed.compress(struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", 1 << 30)))
    block = bytes(1 << 20)
    parts += [squeezed.compress(block) for _ in range(1 << 10)]
    return _padded(b"".join((*parts, squeezed.flush())))


def _padded(deflated: bytes) -> bytes:
    return deflated + b"\0" * (len(deflated) % 2)


def inflating(kind: str) -> str:
    """A deflated data set of 1 MB that inflates to 1 GiB."""
    data = _inflating()
    with Server(kind, concurrent=True) as server, server.peer(60) as peer:
        peer.associate(((1, wire.CT_IMAGE_STORAGE, (wire.DEFLATED_LE,)),))
        small = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        first = _padded(small.compress(data_set("1.2.3")) + small.flush())
        assert store(peer, "1.2.3", first) == "0000"
        before = server.peak()
        with Beside(server, lambda beside: beside.echo(3)) as beside:
            said = store(peer, "1.2.5", data, patience=60)
            after = server.peak()
            time.sleep(1)  # some are done before the one beside has asked at all
        there = on_disk(server, "1.2.5", {"stored": data})
        return f"{said}, {there}, {grown(before, after)}; C-ECHO beside: {beside}"


def stalled(kind: str) -> str:
    """Ten peers stalled inside a PDU."""
    with Server(kind, timeout=TIMEOUT, concurrent=True) as server, ExitStack() as stack:
        peers = []
        for _ in range(10):
            peer = stack.enter_context(server.peer())
            peer.associate()
            peer.send(p_data(pdv(1, wire.LAST_COMMAND, store_rq("1.2.3"))))
            peer.send(p_data(pdv(1, wire.LAST_DATA, data_set("1.2.3")))[:50])
            peers.append(peer)
        meanwhile = associated(server, 2)
        deadline = time.monotonic() + 3 * TIMEOUT
        ended = sum(_ended(peer, deadline) for peer in peers)
        return f"an eleventh: {meanwhile}; {ended} of 10 ended in {3 * TIMEOUT} s; an eleventh then: " + (
            associated(server, 5)
        )


def _ended(peer: Peer, deadline: float) -> bool:
    said = "A-ABORT"
    while said == "A-ABORT":
        said = answer(peer, max(0.05, deadline - time.monotonic()))
    return said.startswith(("connection closed", "closed"))


def silent(kind: str, number: int = 1000, seconds: float = 30) -> str:
    """A thousand connections on which nothing is said; a C-STORE beside them."""
    taken: set[str] = set()
    with Server(kind, timeout=TIMEOUT, concurrent=True) as server, ExitStack() as stack:
        with Beside(server, lambda peer: peer.store("1.2.3")) as alone:
            time.sleep(2)
        with Beside(server, lambda peer: peer.store("1.2.3")) as beside:
            before = server.sockets()
            looked = 0.0
            waiting = select.poll()
            connections = {}
            began = time.monotonic()
            for _ in range(number):
                connection = stack.enter_context(server.connection())
                connections[connection.fileno()] = connection
                waiting.register(connection, select.POLLIN)
            while connections and time.monotonic() - began < seconds:
                if time.monotonic() - looked > 0.5:  # to look takes time that the one beside has to share
                    taken |= server.sockets() - before
                    looked = time.monotonic()
                for descriptor, _ in waiting.poll(100):
                    with suppress(BlockingIOError):
                        try:
                            over = not connections[descriptor].recv(4096)
                        except ConnectionError:
                            over = True
                        if over:
                            waiting.unregister(descriptor)
                            del connections[descriptor]
            took = time.monotonic() - began
        ended = f"{len(taken)} taken, {number - len(connections)} ended in {took:.0f} s"
        return f"{ended}; C-STORE beside: {beside}; alone: {alone}"


def dropped(kind: str, number: int = 500, seconds: float = 20) -> str:
    """Peers that connect and drop, as fast as they are taken."""
    with Server(kind, timeout=TIMEOUT, concurrent=True) as server:
        time.sleep(0.5)  # who was here to see whether it answers is gone
        before = server.descriptors()
        began = time.monotonic()
        tried = 0
        while tried < number and time.monotonic() - began < seconds:
            with suppress(OSError):
                server.peer(5).socket.close()
            tried += 1
        # They are over when one who comes after them is served.
        then = associated(server, 60)
        took = time.monotonic() - began
        time.sleep(2)
        left = server.descriptors() - before
        return f"{tried / took:.0f} a second, the next {then}, {left:+d} descriptors"
