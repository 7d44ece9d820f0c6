"""The load generator's processes: each is one SCU, encoded and connected before the clock starts.

One process for each association that is held, so that no two of them wait for each other. They are
forks of this one, and share its pages.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any

from tests.benchmarks.load import SCU, Refused, split
from tests.benchmarks.messages import FRAGMENT, Message, c_echo, c_store

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Plan:
    """What one SCU is to do."""

    operations: int  #: how many; 0: until told to stop
    octets: int = 0  #: of each instance; 0: C-ECHO
    first: int = 1  #: the number of the first instance
    turn: int = 0  #: where its pixels begin
    each: bool = False  #: an association for each operation
    nagle: bool = False  #: leave Nagle's algorithm on
    wait: bool = True  #: associate before the clock starts, and release after it
    pause: float = 0  #: between operations, in seconds
    contexts: int = 2  #: presentation contexts to propose
    fragment: int = FRAGMENT  #: octets of data set in a PDU
    patience: int = 60  #: how long anything may take, in seconds
    associations: int = 1  #: how many to hold, and to use in turn
    silent: bool = False  #: associate and release, and nothing between

    def messages(self) -> list[Message]:
        """Return the messages to be sent, encoded."""
        if not self.octets:
            return [c_echo()] * max(self.operations, 1)
        messages = [
            c_store(number, self.octets, fragment=self.fragment, turn=self.turn) for number in self._numbers()
        ]
        if self.nagle:
            messages = [split(message) for message in messages]
        return messages

    def instances(self) -> dict[int, tuple[int, int]]:
        """Return size and turn of the instances, by their number."""
        numbers = self._numbers() if self.octets else ()
        return dict.fromkeys(numbers, (self.octets, self.turn))

    def _numbers(self) -> range:
        return range(self.first, self.first + self.operations)

    def associate(self, port: int) -> SCU:
        """Request an association."""
        return SCU(port, nagle=self.nagle, wait=self.wait, contexts=self.contexts, patience=self.patience)


@dataclass
class Outcome:
    """What became of a plan."""

    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0  #: seconds, of the SCU
    times: list[float] = field(default_factory=list)  #: of each operation, in seconds
    error: str = ""


def _act(plan: Plan, port: int, parent: Connection) -> None:
    outcome = Outcome()
    try:
        messages = plan.messages()
        scus = [plan.associate(port) for _ in range(0 if plan.each else plan.associations)]
        gc.disable()
        parent.send(None)
        parent.recv()
        outcome.began = time.perf_counter()
        cpu = time.process_time()
        if plan.each:
            _associate_each(plan, port, messages, outcome.times)
        elif plan.wait:
            _operate(scus, plan, messages, outcome.times, parent)
        else:
            scus[0].established()
            _operate(scus, plan, messages, outcome.times, parent)
            scus.pop().release()
        outcome.cpu = time.process_time() - cpu
        outcome.ended = time.perf_counter()
        parent.send(outcome)
        parent.recv()
        for scu in scus:
            scu.release()
    except (OSError, Refused) as error:
        outcome.error = f"{type(error).__name__}: {error}"
        parent.send(outcome)


def _operate(
    scus: Sequence[SCU], plan: Plan, messages: Sequence[Message], times: list[float], parent: Connection
) -> None:
    clock = time.perf_counter
    while True:
        for scu, message in zip(cycle(scus), messages, strict=False):
            began = clock()
            scu.send(message)
            times.append(clock() - began)
            if plan.pause:
                time.sleep(plan.pause)
        if plan.operations:
            return
        if parent.poll():
            parent.recv()
            return


def _associate_each(plan: Plan, port: int, messages: Sequence[Message], times: list[float]) -> None:
    clock = time.perf_counter
    for message in messages:
        began = clock()
        scu = plan.associate(port)
        if not plan.silent:
            scu.send(message)
        scu.release()
        times.append(clock() - began)


class Failed(Exception):
    """An SCU did not come through."""


class Workers:
    """Processes, each with its plan."""

    def __init__(self, port: int, plans: Sequence[Plan]) -> None:
        self._processes: list[tuple[Any, Any]] = []
        for plan in plans:
            ours, theirs = _FORK.Pipe()
            process = _FORK.Process(target=_act, args=(plan, port, theirs), daemon=True)
            process.start()
            self._processes.append((process, ours))
        try:
            for outcome in (self._hear(ours) for _, ours in self._processes):
                if outcome is not None:
                    raise Failed(outcome.error)
        except BaseException:
            self.end()
            raise

    def go(self, *which: int) -> None:
        """Start the clock: for all, or for those of the numbers. For one that runs on and on, stop it."""
        for number, (_, connection) in enumerate(self._processes):
            if not which or number in which:
                connection.send(None)

    def outcomes(self, *which: int) -> list[Outcome]:
        """Wait until they have done."""
        found = []
        for number, (_, connection) in enumerate(self._processes):
            if not which or number in which:
                outcome = self._hear(connection)
                assert outcome is not None
                if outcome.error:
                    raise Failed(outcome.error)
                found.append(outcome)
        return found

    @staticmethod
    def _hear(connection: Any) -> Outcome | None:
        try:
            outcome: Outcome | None = connection.recv()
        except EOFError:
            raise Failed("an SCU died") from None
        return outcome

    def release(self) -> None:
        """Have all release their associations, and end."""
        self.go()
        for process, _ in self._processes:
            process.join(10)

    def end(self) -> None:
        """End them, whatever they are at."""
        for process, connection in self._processes:
            process.kill()
            process.join()
            connection.close()


@contextmanager
def working(port: int, plans: Sequence[Plan]) -> Iterator[Workers]:
    """Have processes ready, and end them in the end."""
    workers = Workers(port, plans)
    try:
        yield workers
    finally:
        workers.end()
