"""Kills the real server under load, again and again, and looks at what is left.

``python -m tests.reliability.kill --rounds 100``: each round starts the command on the directory that the
last one left, stores from several connections, and ends it with SIGKILL at a random moment. Then every
acknowledged instance must be there and whole, nothing else than a whole instance be under a final name, and
after the next start no part file be left. SIGKILL loses no page cache: for what a power cut leaves, see
``docs/durability.rst``.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

from tests.interop.support import Storescp
from tests.interop.wire import Peer, data_set

CONNECTIONS = 8
#: Octets of pixel data: many small instances, some that many reads bring.
SIZES = (64, 64, 4096, 100_000, 3_000_000)
#: The longest that a server lives once the load has begun, in seconds.
LONGEST = 1.0


def version_of(uid: str, version: int) -> bytes:
    """Return the data set of a version of an instance: each differs from all others in every block."""
    number = f"{uid} {version};".encode()
    size = SIZES[(hash_of(uid) + version) % len(SIZES)]
    return data_set(uid, pixels=(number * (size // len(number) + 1))[: size & ~1])


def hash_of(uid: str) -> int:
    return int(uid.rpartition(".")[2])


class Sender(threading.Thread):
    """Stores new instances, and newer versions of them, on one connection, until that is gone."""

    def __init__(self, address: tuple[str, int], prefix: str) -> None:
        super().__init__(daemon=True)
        self.sent: dict[str, int] = {}  #: the last version that was begun
        self.acknowledged: dict[str, int] = {}  #: the last version that was answered with Success
        self.refused: Counter[int | str] = Counter()
        self._address = address
        self._prefix = prefix

    def run(self) -> None:
        # What ends abruptly is what is wanted: a connection, a PDU, an answer.
        with suppress(OSError, AssertionError), Peer(self._address) as peer:
            peer.associate()
            for number in range(1_000_000):
                uid = f"{self._prefix}.{number}"
                for version in range(1 + number % 2):
                    self.sent[uid] = version
                    status = peer.store(uid, version_of(uid, version))[0x0900]
                    if status:
                        self.refused[status] += 1
                    else:
                        self.acknowledged[uid] = version


class Rounds:
    """Rounds on one directory.

    :param options: the server's, besides its directory.
    """

    def __init__(self, directory: Path, seed: int, *options: str) -> None:
        self.directory = directory
        self.acknowledged = 0
        self.unacknowledged = 0  #: instances that were kept, and the peer not told
        self.parts = 0  #: part files that a kill has left
        self._options = ("-od", str(directory), *options)
        self._random = random.Random(seed)
        self._number = 0

    def one(self) -> list[str]:
        """Run a round, and return what is wrong."""
        self._number += 1
        server = Storescp(*self._options)
        try:
            wrong = [f"{name} was left after a start" for name in self._parts()]
            senders = [
                Sender(server.address, f"1.2.{self._number}.{connection}")
                for connection in range(CONNECTIONS)
            ]
            for sender in senders:
                sender.start()
            time.sleep(self._random.uniform(0, LONGEST))
            server.process.send_signal(SIGKILL)
            server.process.wait()
            for sender in senders:
                sender.join()
        finally:
            server.clean_up()
        self.parts += len(self._parts())
        return wrong + [problem for sender in senders for problem in self._judge(sender)] + self._strangers()

    def last(self) -> list[str]:
        """Start once more, and return what is wrong then."""
        Storescp(*self._options).clean_up()
        return [f"{name} was left after the last start" for name in self._parts()]

    def _parts(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if name.startswith(".")]

    def _judge(self, sender: Sender) -> list[str]:
        """Look at each instance that was sent, and forget it."""
        wrong = [f"{count} were refused with {status:04X}" for status, count in sender.refused.items()]
        for uid, newest in sender.sent.items():
            oldest = sender.acknowledged.get(uid)
            found = list(self.directory.rglob(f"CT.{uid}"))
            if not found:
                if oldest is not None:
                    wrong.append(f"{uid} was acknowledged, and is lost")
                continue
            contents = found[0].read_bytes()
            candidates = range(0 if oldest is None else oldest, newest + 1)
            if not any(whole(contents, version_of(uid, version)) for version in candidates):
                wrong.append(f"{uid} is torn, or older than what was acknowledged")
            if oldest is None:
                self.unacknowledged += 1
            else:
                self.acknowledged += 1
            found[0].unlink()
        return wrong

    def _strangers(self) -> list[str]:
        """Return what is under a final name, and was never sent."""
        return [f"{path} was not sent" for path in self.directory.rglob("CT.*") if path.is_file()]


def whole(contents: bytes, data: bytes) -> bool:
    """Is a file File Meta, and then this data set, and nothing else?"""
    length = 144 + int.from_bytes(contents[140:144], "little")
    return contents[128:132] == b"DICM" and contents[length:] == data


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("options", nargs="*", help="options of storescp, behind a --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dicomnode-kill-") as directory:
        rounds = Rounds(Path(directory), arguments.seed, *arguments.options)
        wrong: list[str] = []
        for number in range(1, arguments.rounds + 1):
            found = rounds.one()
            wrong += found
            for problem in found:
                print(f"round {number}: {problem}", flush=True)
        wrong += rounds.last()
    print(
        f"seed {arguments.seed}: {arguments.rounds} kills, "
        f"{rounds.acknowledged} acknowledged instances whole, "
        f"{rounds.unacknowledged} whole though not acknowledged, {rounds.parts} part files left and removed, "
        f"{len(wrong)} problems"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
