"""Compare ``dicomnode storescp`` with its peers, side by side::

    python -m tests.benchmarks.storescp [--rounds 5] [--json FILE] [--directory DIR] [SCENARIO ...]

Each round starts every server afresh in turn, drives it with one process (``load.py``), and checks
that every instance is on disk and exact. What is printed are medians, and ratios taken within a
round: these machines are shared, and nothing else compares. dicomnode runs with ``--sync none``, for
its peers sync nothing, and beside that with ``--sync full``. DCMTK runs with ``TCP_NODELAY=1``: as
shipped it answers 22 operations a second, whatever their size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import SCU, data_set, uid


@dataclass(frozen=True)
class Scenario:
    """What is sent, on one association."""

    instances: int
    octets: int


SCENARIOS = {
    "400 x 512 KiB": Scenario(400, 512 << 10),
    "3000 x 4 KiB": Scenario(3000, 4 << 10),
    "1 x 1 GiB": Scenario(1, 1 << 30),
}


def _dicomnode(sync: str) -> Callable[[int, str], list[str]]:
    command = [sys.executable, "-m", "dicomnode", "storescp", "--sync", sync]
    return lambda port, directory: [*command, str(port), "-od", directory]


#: The first is compared with the others, which sync nothing either.
SERVERS: dict[str, Callable[[int, str], list[str]]] = {
    "dicomnode": _dicomnode("none"),
    "--sync full": _dicomnode("full"),
    "pynetdicom": lambda port, directory: [
        *(sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", directory)
    ],
    "dcmtk +B": lambda port, directory: ["storescp", "+B", "+xa", "-od", directory, str(port)],
}


@dataclass
class Result:
    """One server in one round of one scenario."""

    seconds: float
    cpu: float  #: seconds, of the server
    peak: float  #: MiB resident, of the server


def run(server: str, scenario: Scenario, parent: str) -> Result:
    """Run one server through one scenario."""
    directory = tempfile.mkdtemp(dir=parent)
    port = _free_port()
    process = subprocess.Popen(
        SERVERS[server](port, directory),
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        before = _cpu(process.pid)
        seconds = _drive(port, scenario)
        result = Result(seconds, _cpu(process.pid) - before, _peak(process.pid))
        _check(Path(directory), scenario)
        return result
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(directory)


def _drive(port: int, scenario: Scenario) -> float:
    scu = SCU(port)
    if scenario.instances == 1:
        began = time.perf_counter()
        scu.stream(1, scenario.octets)
    else:
        # Not all at once: 200 MB of them would push the servers' pages out of the caches.
        encoded = (b"".join(scu.encoded(number, scenario.octets)) for number in range(scenario.instances))
        ready = list(encoded) if scenario.instances * scenario.octets < 1 << 26 else encoded
        began = time.perf_counter()
        for message in ready:
            scu.send(message)
    seconds = time.perf_counter() - began
    scu.release()
    return seconds


def _check(directory: Path, scenario: Scenario) -> None:
    """Every instance is there, and its data set is what was sent."""
    deadline = time.monotonic() + 10  # DCMTK answers before it has written
    while len(files := sorted(directory.iterdir())) < scenario.instances and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(files) == scenario.instances, f"{len(files)} files of {scenario.instances}"
    by_uid = {path.name.partition(".")[2].removesuffix(".dcm"): path for path in files}
    for number in range(scenario.instances) if scenario.instances > 1 else (1,):
        with by_uid[uid(number)].open("rb") as file:
            head = file.read(144)  # preamble, prefix, (0002,0000)
            file.seek(144 + int.from_bytes(head[140:144], "little"))
            for block in data_set(number, scenario.octets):
                assert file.read(len(block)) == block, f"instance {number} differs"
            assert not file.read(1), f"instance {number} is longer than what was sent"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            SCU(port).release()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write all figures to this file, too")
    parser.add_argument("--directory", default=None, help="where the servers keep their files")
    arguments = parser.parse_args()
    servers = [name for name in SERVERS if name != "dcmtk +B" or shutil.which("storescp")]
    figures: dict[str, dict[str, list[Result]]] = {}
    for name in arguments.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        results: dict[str, list[Result]] = {server: [] for server in servers}
        for _ in range(arguments.rounds):
            for server in servers:
                results[server].append(run(server, scenario, arguments.directory or tempfile.gettempdir()))
        figures[name] = results
        _print(name, scenario, results)
    if arguments.json:
        plain = {
            name: {server: [vars(result) for result in rounds] for server, rounds in results.items()}
            for name, results in figures.items()
        }
        Path(arguments.json).write_text(json.dumps(plain, indent=1))


def _print(name: str, scenario: Scenario, results: dict[str, list[Result]]) -> None:
    print(f"\n{name}, one association")
    print(f"  {'':12}{'inst/s':>10}{'MB/s':>10}{'CPU ms/inst':>13}{'peak MiB':>10}{'dicomnode is':>14}")
    ours = results["dicomnode"]
    for server, rounds in results.items():
        seconds = statistics.median(result.seconds for result in rounds)
        cpu = statistics.median(result.cpu for result in rounds)
        peak = statistics.median(result.peak for result in rounds)
        ratio = statistics.median(
            theirs.seconds / mine.seconds for theirs, mine in zip(rounds, ours, strict=True)
        )
        print(
            f"  {server:12}{scenario.instances / seconds:10.1f}"
            f"{scenario.instances * scenario.octets / seconds / 1e6:10.1f}"
            f"{cpu / scenario.instances * 1e3:13.2f}{peak:10.1f}"
            + (f"{ratio:13.2f}x" if server != "dicomnode" else "")
        )


if __name__ == "__main__":
    main()
