"""Measure what one instance, and idle associations, cost the server::

    python -m tests.reliability.memory [--octets 4294967296] [--idle 1000] [--directory DIR]

It prints the server's peak of resident memory before and behind an instance of so many octets, checks
that the file is whole, and then the processor time that idle associations take in ten seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.load import SCU, data_set, uid


def status(pid: int, name: str) -> int:
    """Return a figure of the process, in KiB."""
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def ticks(pid: int) -> int:
    """Return the processor time of the process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("--octets", type=int, default=4 << 30)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        command = [sys.executable, "-m", "dicomnode", "storescp", "0", "-v", "-od", directory]
        command += ["--max-associations", "0", "-tn", "120"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            port = int(server.stderr.readline().rpartition(":")[2])
            measure(server.pid, port, Path(directory), arguments.octets, arguments.idle)
        finally:
            server.terminate()
            server.communicate()


def measure(pid: int, port: int, directory: Path, octets: int, idle: int) -> None:
    scu = SCU(port)
    scu.stream(1, 4096)
    before = status(pid, "VmHWM")
    began = time.monotonic()
    scu.stream(2, octets)
    seconds = time.monotonic() - began
    after = status(pid, "VmHWM")
    print(
        f"peak {before / 1024:.1f} MiB behind 4 KiB, {after / 1024:.1f} MiB behind {octets >> 20} MiB",
        end=" ",
    )
    print(f"({octets / seconds / 1e6:.0f} MB/s, --sync full)")
    with (directory / f"CT.{uid(2)}").open("rb") as file:
        head = file.read(144)
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        for block in data_set(2, octets):
            assert file.read(len(block)) == block, "the file differs"
        assert not file.read(1)
    scu.release()

    peers = [SCU(port) for _ in range(idle)]
    busy = ticks(pid)
    time.sleep(10)
    share = (ticks(pid) - busy) / os.sysconf("SC_CLK_TCK") / 10
    print(f"{len(peers)} idle associations: {share:.2%} of a core, {status(pid, 'VmRSS') / 1024:.1f} MiB")
    peers[0].stream(3, 4096)


if __name__ == "__main__":
    main()
