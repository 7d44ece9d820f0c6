"""What is measured: the scenarios, and what dicomnode must reach in each."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeAlias

from tests.benchmarks import files
from tests.benchmarks.load import SCU, Refused
from tests.benchmarks.messages import c_store
from tests.benchmarks.servers import Running, Server, find_program
from tests.benchmarks.workers import Failed, Outcome, Plan, working

#: One server in one round, by the name of the figure: see ``report.FIGURES``.
Figures: TypeAlias = dict[str, float]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Goal:
    """What dicomnode must reach, and what it is to reach."""

    must: float
    target: float | None = None
    than: str | None = None  #: a server: the goal is a ratio; otherwise, a figure
    figure: str = "rate"
    at_most: bool = False


@dataclass(frozen=True)
class Scale:
    """How much of a scenario is done."""

    operations: float = 1.0  #: a part of them
    octets: float = 1.0  #: a part of a large instance
    idle: int = 2000  #: associations
    seconds: float = 5.0  #: for which idle associations are watched


QUICK = Scale(operations=0.25, octets=0.25, seconds=2.0)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A row of the table."""

    name: str
    title: str
    goals: tuple[Goal, ...]
    figures: tuple[str, ...] = ("rate", "MB/s", "p10", "p50", "cpu", "load", "share", "peak")

    def omits(self, server: Server) -> str | None:
        """Say why a server is not measured."""
        return None

    def run(self, server: Running, scale: Scale) -> Figures:
        """Drive a server, check what it has stored, and return the figures."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Load(Scenario):
    """Operations on associations, one after the other on each."""

    operations: int  #: on each association
    octets: int = 0  #: of an instance; 0: C-ECHO
    associations: int = 1
    each: bool = False  #: an association for each operation
    nagle: bool = False

    def omits(self, server: Server) -> str | None:
        if server.processes > 1 and self.associations == 1 and not self.each:
            return "an association is one process's"
        if server.syncs and not self.octets:
            return "nothing is stored"
        if self.nagle and not server.stores:
            return "waits for acknowledgements, and for nothing else"
        return None

    def plans(self, server: Server, scale: Scale) -> list[Plan]:
        """Return what the SCUs are to do."""
        octets = self.octets if self.octets < GIB else int(self.octets * scale.octets)
        operations = self.operations * scale.operations * server.share
        count = max(int(operations), min(self.operations, 4))
        wait = not (server.serial and self.associations > 1)
        plan = Plan(count, octets, each=self.each, nagle=self.nagle, wait=wait)
        return [
            replace(plan, first=1 + number * count, turn=37 * number) for number in range(self.associations)
        ]

    def run(self, server: Running, scale: Scale) -> Figures:
        plans = self.plans(server.server, scale)
        with working(server.port, plans) as workers:
            before = server.cpu()
            workers.go()
            outcomes = workers.outcomes()
            figures = figures_of(plans, outcomes, server.cpu() - before)
            figures["peak"] = server.peak()
            if plans[0].wait:
                workers.release()
        _check(server, plans)
        return figures

    def message(self, scale: Scale) -> int:
        """Return the length of a message."""
        octets = self.octets if self.octets < GIB else int(self.octets * scale.octets)
        return sum(map(len, c_store(1, octets))) if octets else 0


def figures_of(plans: Sequence[Plan], outcomes: Sequence[Outcome], cpu: float) -> Figures:
    """Return what came of it.

    :param cpu: what the server took for it, in seconds.
    """
    times = sorted(seconds for outcome in outcomes for seconds in outcome.times)
    seconds = max(outcome.ended for outcome in outcomes) - min(outcome.began for outcome in outcomes)
    load = sum(outcome.cpu for outcome in outcomes)
    octets = sum(plan.octets * len(outcome.times) for plan, outcome in zip(plans, outcomes, strict=True))
    return {
        "operations": len(times),
        "seconds": seconds,
        "rate": len(times) / seconds,
        "MB/s": octets / seconds / 1e6,
        "p10": _percentile(times, 10),
        "p50": _percentile(times, 50),
        "p99": _percentile(times, 99),
        "cpu": cpu / len(times) * 1e3,
        "load": load / len(times) * 1e3,
        "share": load / seconds * 100,
    }


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return a percentile, in milliseconds."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1e3


def _check(server: Running, plans: Sequence[Plan]) -> None:
    if server.server.stores:
        expected = {number: what for plan in plans for number, what in plan.instances().items()}
        files.check(server.directory, expected, framed=server.server.framed)


@dataclass(frozen=True, kw_only=True)
class Stock(Scenario):
    """A program of DCMTK's sends files, as it was shipped: with Nagle's algorithm on."""

    program: str
    instances: int
    octets: int
    figures: tuple[str, ...] = ("rate", "MB/s", "cpu", "peak")
    warm: ClassVar[dict[tuple[int, int], tempfile.TemporaryDirectory[str]]] = {}

    def omits(self, server: Server) -> str | None:
        if server.canned:
            return "understands only the load generator"
        if server.processes > 1:
            return "an association is one process's"
        if find_program(self.program) is None:
            return f"{self.program} is not installed"
        return None

    def run(self, server: Running, scale: Scale) -> Figures:
        program = find_program(self.program)
        assert program is not None
        command = [program, "127.0.0.1", str(server.port), "+sd", self._files()]
        environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
        before, began = server.cpu(), time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise Refused(f"{self.program} ended with {done.returncode}: {done.stderr[-200:]!r}")
        cpu = server.cpu() - before
        figures = {
            "operations": self.instances,
            "seconds": seconds,
            "rate": self.instances / seconds,
            "MB/s": self.instances * self.octets / seconds / 1e6,
            "cpu": cpu / self.instances * 1e3,
            "peak": server.peak(),
        }
        files.check(server.directory, dict.fromkeys(range(1, self.instances + 1), (self.octets, 0)))
        return figures

    def _files(self) -> str:
        key = self.instances, self.octets
        if key not in self.warm:
            self.warm[key] = tempfile.TemporaryDirectory(prefix="dicomnode-benchmark-")
            for number in range(1, self.instances + 1):
                files.write(Path(self.warm[key].name), number, self.octets)
        return self.warm[key].name


@dataclass(frozen=True, kw_only=True)
class Idle(Scenario):
    """Associations on which nothing is sent, and one on which something is."""

    instances: int = 100
    octets: int = 512 * KIB
    tries: int = 3  #: at a transfer, the best of which counts
    figures: tuple[str, ...] = ("held", "rss", "busy", "rate", "kept")

    def omits(self, server: Server) -> str | None:
        if server.serial:
            return "takes its associations one by one"
        return "the same as without" if server.syncs or server.processes > 1 else None

    def run(self, server: Running, scale: Scale) -> Figures:
        figures: Figures = {}
        without = self._transfer(server, 0)
        held: list[SCU] = []
        try:
            while len(held) < scale.idle:
                try:
                    held.append(SCU(server.port, patience=5))
                except (OSError, Refused):
                    break
            figures["held"] = len(held)
            time.sleep(0.5)
            figures["rss"] = server.resident()
            before = server.cpu()
            time.sleep(scale.seconds)
            figures["busy"] = (server.cpu() - before) / scale.seconds * 100
            if len(held) == scale.idle:
                figures["rate"] = self._transfer_after(server)
                figures["kept"] = figures["rate"] / without * 100
        finally:
            for scu in held:
                scu.close()
        return figures

    def _transfer_after(self, server: Running) -> float:
        try:
            return self._transfer(server, self.tries)
        except Failed:
            return 0.0  # It has accepted more than it serves.

    def _transfer(self, server: Running, before: int) -> float:
        operations = int(self.instances * server.server.share)
        rates = []
        for number in range(before, before + self.tries):
            plan = Plan(operations, self.octets, first=1 + number * operations, patience=10)
            with working(server.port, [plan]) as workers:
                workers.go()
                (outcome,) = workers.outcomes()
                workers.release()
            _check(server, [plan])
            rates.append(len(outcome.times) / (outcome.ended - outcome.began))
        return max(rates)


@dataclass(frozen=True, kw_only=True)
class Beside(Scenario):
    """C-ECHO on an association of its own, while others transfer in bulk."""

    associations: int = 4
    instances: int = 250
    octets: int = 512 * KIB
    pause: float = 0.002
    figures: tuple[str, ...] = ("p10", "p50", "p99", "rate", "MB/s", "cpu", "load", "share", "peak")

    def omits(self, server: Server) -> str | None:
        return "takes its associations one by one" if server.serial else None

    def run(self, server: Running, scale: Scale) -> Figures:
        bulk = Load(
            name="", title="", goals=(), operations=self.instances, octets=self.octets,
            associations=self.associations,
        ).plans(server.server, scale)  # fmt: skip
        with working(server.port, [Plan(0, pause=self.pause), *bulk]) as workers:
            before = server.cpu()
            workers.go()
            outcomes = workers.outcomes(*range(1, 1 + len(bulk)))
            cpu = server.cpu() - before
            workers.go(0)
            (echoes,) = workers.outcomes(0)
            figures = figures_of(bulk, outcomes, cpu)
            figures["peak"] = server.peak()
            workers.release()
        times = sorted(echoes.times)
        figures |= {f"p{percent}": _percentile(times, percent) for percent in (10, 50, 99)}
        _check(server, bulk)
        return figures


_P, _B, _F, _T, _C = "pynetdicom", "dcmtk +B", "+B --fork", "twisted sink", "C sink"

SCENARIOS: tuple[Scenario, ...] = (
    Load(
        name="bulk",
        title="512 KiB, one association",
        operations=400,
        octets=512 * KIB,
        goals=(Goal(8, 15, _P), Goal(1.0, 1.2, _B), Goal(1.0, 1.5, _T), Goal(0.5, 0.75, _C)),
    ),
    Load(
        name="bulk-4",
        title="512 KiB, 4 associations",
        operations=100,
        octets=512 * KIB,
        associations=4,
        goals=(Goal(25, 40, _P), Goal(1.3, 1.9, _B), Goal(0.85, 1.5, _F)),
    ),
    Load(
        name="bulk-32",
        title="512 KiB, 32 associations",
        operations=20,
        octets=512 * KIB,
        associations=32,
        goals=(Goal(1.1, 1.4, _F), Goal(70, figure="peak", at_most=True)),
    ),
    Load(
        name="small",
        title="4 KiB, one association",
        operations=3000,
        octets=4 * KIB,
        goals=(Goal(12, 30, _P), Goal(0.8, 1.2, _B)),
    ),
    Load(
        name="each",
        title="64 KiB, an association each",
        operations=300,
        octets=64 * KIB,
        each=True,
        goals=(Goal(50, 110, _P), Goal(0.5, 0.8, _B), Goal(2.5, None, _F)),
    ),
    Load(
        name="echo",
        title="C-ECHO, one association",
        operations=5000,
        goals=(Goal(10, 30, _P), Goal(0.6, 1.0, _B)),
    ),
    Load(
        name="echo-each",
        title="associate, C-ECHO, release",
        operations=400,
        each=True,
        goals=(Goal(60, 150, _P), Goal(0.45, 0.7, _B)),
    ),
    Load(
        name="nagle",
        title="512 KiB, an SCU that leaves Nagle on",
        operations=100,
        octets=512 * KIB,
        nagle=True,
        goals=(Goal(1.0, 2.5, _B),),
    ),
    Stock(
        name="storescu",
        title="512 KiB x 100, DCMTK's storescu",
        program="storescu",
        instances=100,
        octets=512 * KIB,
        goals=(Goal(1.0, 2.5, _B),),
    ),
    Stock(
        name="dcmsend",
        title="512 KiB x 100, DCMTK's dcmsend",
        program="dcmsend",
        instances=100,
        octets=512 * KIB,
        goals=(Goal(1.0, 2.5, _B),),
    ),
    Load(
        name="large",
        title="one instance of 1 GiB",
        operations=1,
        octets=GIB,
        figures=("MB/s", "cpu", "load", "share", "peak"),
        goals=(Goal(1.2, 1.7, _B), Goal(60, 40, figure="peak", at_most=True)),
    ),
    Idle(
        name="idle",
        title="2,000 idle associations",
        goals=(
            Goal(2000, figure="held"),
            Goal(100, 40, figure="rss", at_most=True),
            Goal(1, figure="busy", at_most=True),
            Goal(90, figure="kept"),
        ),
    ),
    Beside(
        name="beside",
        title="C-ECHO beside four bulk transfers of 512 KiB",
        goals=(Goal(4, 2, figure="p50", at_most=True), Goal(0.8, None, _F)),
    ),
)
