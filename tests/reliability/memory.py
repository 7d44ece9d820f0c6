"""Measure what one instance, and idle associations, cost the server::

    python -m tests.reliability.memory [--octets 4294967296] [--idle 1000] [--directory DIR]

It sends an instance of 4 KiB, and then one of so many octets in PDUs of 16 KiB; and again, to a server that
takes PDUs of any length, one that is a single P-DATA-TF of the greatest length there is. For each it prints
the server's peak of resident memory before and behind it, and checks that the file is whole; then, the
processor time that idle associations take in ten seconds. At the end there must be as many descriptors as
at the beginning, and no more threads than the pool may have.
"""

from __future__ import annotations

import argparse
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dicomnode.assembly import THREADS
from tests.interop import wire
from tests.interop.support import Storescp, eventually
from tests.interop.wire import CT, DATA, ECHO, LAST_COMMAND, LAST_DATA, P_DATA_TF, Peer, p_data, pdv, store_rq

MIB = 1 << 20

#: How long a disk may take to sync 4 GiB, in seconds.
SYNC = 600.0

#: By how much the peak may grow behind a large instance.
GROWTH = 16 * MIB

#: Octets of pixel data that are sent again and again.
BLOCK = bytes(range(256)) * 4096

#: Octets of a data set in a P-DATA-TF that is as long as the command allows.
FRAGMENT = 16382 - 6

#: The length of the longest P-DATA-TF: its field has 32 bits, and a PDV is of even length (PS3.8 9.3.5.1).
LONGEST = 0xFFFFFFFE


def ticks(pid: int) -> int:
    """Return the processor time of the process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def held(pid: int) -> tuple[int, int]:
    """Return how many threads and descriptors the process has."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


def data_set(uid: str, octets: int) -> Iterator[bytes]:
    """Yield a data set of so many octets, in blocks: large ones take no memory here."""
    head = wire.data_set(uid, pixels=b"")[:-4]
    left = octets - len(head) - 4
    yield head + struct.pack("<I", left)
    while left > 0:
        yield BLOCK[:left]
        left -= len(BLOCK)


def send_in_many(peer: Peer, blocks: Iterable[bytes]) -> None:
    """Send a data set in PDUs of 16 KiB; the last of them may be empty."""
    held = b""
    for block in blocks:
        held += block
        starts = range(0, len(held) - FRAGMENT, FRAGMENT)
        peer.send(*(p_data(pdv(1, DATA, held[start : start + FRAGMENT])) for start in starts))
        held = held[len(starts) * FRAGMENT :]
    peer.send(p_data(pdv(1, LAST_DATA, held)))


def send_in_one(peer: Peer, octets: int, blocks: Iterable[bytes]) -> None:
    """Send a data set of so many octets as one PDV in one P-DATA-TF."""
    peer.send(struct.pack(">BxIIBB", P_DATA_TF, octets + 6, octets + 2, 1, LAST_DATA))
    for block in blocks:
        peer.send(block)


class Server:
    """The command, and what it has cost once it has stored 4 KiB."""

    def __init__(self, parent: str | None, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(dir=parent)
        self._process = Storescp("-od", self._directory.name, *options)
        self.address = self._process.address
        self.pid = self._process.process.pid
        with Peer(self.address) as peer:
            peer.associate(ECHO)
            without = held(self.pid)[1] - 1
            peer.release()
        self._store("1.2.3", 4096, send_in_many)
        eventually("its descriptors are closed", lambda: held(self.pid)[1] == without)
        self._peak = self._process.peak_memory()
        self._held = held(self.pid)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.clean_up()
        self._directory.cleanup()

    def measure(self, what: str, octets: int, send: Callable[[Peer, Iterable[bytes]], None]) -> None:
        """Print what an instance costs, whose data set has so many octets and which ``send`` sends."""
        seconds = self._store("1.2.4", octets, send)
        peak = self._process.peak_memory()
        print(f"{what}: {octets:,} octets, exact on disk; {octets / seconds / 1e6:.0f} MB/s, --sync full")
        print(f"    peak {self._peak / MIB:.1f} MiB behind 4 KiB, {peak / MIB:.1f} MiB behind it", flush=True)
        assert peak - self._peak <= GROWTH, "it has grown"

    def idle(self, number: int) -> None:
        """Print what idle associations cost."""
        peers = []
        for _ in range(number):
            peers.append(Peer(self.address))
            peers[-1].associate(ECHO)
        busy = ticks(self.pid)
        time.sleep(10)
        share = (ticks(self.pid) - busy) / os.sysconf("SC_CLK_TCK") / 10
        resident = self._process.memory()
        print(f"{number} idle associations: {share:.2%} of a core, {resident / MIB:.1f} MiB", flush=True)
        for peer in peers:
            with peer:
                assert peer.echo()[wire.STATUS] == 0
                peer.release()

    def settle(self) -> None:
        """Wait until it has as many descriptors as behind 4 KiB. Those threads that it was given may stay."""
        before, descriptors = self._held
        eventually("its descriptors are as before", lambda: held(self.pid)[1] == descriptors)
        threads, _ = held(self.pid)
        print(
            f"    then {descriptors} descriptors, as before, and {threads} threads; there were {before}",
            flush=True,
        )
        assert threads <= max(before, 1 + THREADS), "it has too many threads"

    def _store(self, uid: str, octets: int, send: Callable[[Peer, Iterable[bytes]], None]) -> float:
        """Store an instance, look at its file, and remove that. Return how long it took to be answered."""
        with Peer(self.address, SYNC) as peer:
            peer.associate(CT)
            began = time.monotonic()
            peer.send(p_data(pdv(1, LAST_COMMAND, store_rq(uid))))
            send(peer, data_set(uid, octets))
            assert peer.response()[wire.STATUS] == 0
            seconds = time.monotonic() - began
            peer.release()
        path = Path(self._directory.name, f"CT.{uid}")
        with path.open("rb") as file:
            head = file.read(144)
            file.seek(144 + int.from_bytes(head[140:144], "little"))
            for block in data_set(uid, octets):
                assert file.read(len(block)) == block, "the file differs"
            assert not file.read(1), "the file is longer"
        path.unlink()
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("::")[0])
    parser.add_argument("--octets", type=int, default=4 << 30)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--longest", type=int, default=LONGEST, help="the length of the single P-DATA-TF")
    parser.add_argument("--directory")
    arguments = parser.parse_args()
    octets, longest = arguments.octets, arguments.longest - 6
    with Server(arguments.directory, "--max-associations", "0", "-tn", "120") as server:
        server.measure("PDUs of 16 KiB", octets, send_in_many)
        server.idle(arguments.idle)
        server.settle()
    with Server(arguments.directory, "--max-pdu", "0") as server:
        server.measure("a single PDU", longest, lambda peer, blocks: send_in_one(peer, longest, blocks))
        server.settle()


if __name__ == "__main__":
    main()
