"""What the workers of a node tell the process that has started them: what arrives of each study.

A study may come over associations of several workers, and none of them sees all of it. So that process
keeps the studies, and has their commands executed; a worker tells it when an instance of one begins to
arrive, is kept, or is given up. That an instance is kept is told before it is answered: one that a peer
was told of is counted, though its worker be killed the moment after.

Alternatives: workers that tell each other have N - 1 of them to tell, and nobody who knows when one is
no more; in memory that they share there is no room for what a study is remembered by.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

from twisted.internet import fdesc
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dicomnode.hooks import InstanceReceived
from dicomnode.interfaces import Instance
from dicomnode.studies import Arrived, Studies, study_of

#: Is given a word and a value that JSON has, to be told.
Tell: TypeAlias = Callable[[str, Any], None]

BEGUN, GIVEN_UP, KEPT = "begun", "given-up", "kept"


class Reports(FileDescriptor):
    """A worker's end of what it tells: a word and a value each, in a line.

    :param descriptor: where it writes that.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self._left = bytearray()  # for which there is no room yet
        self._told: list[Deferred[None]] = []
        self.connected = 1
        fdesc.setNonBlocking(descriptor)  # type: ignore[no-untyped-call]

    def fileno(self) -> int:
        return self._descriptor

    def tell(self, word: str, value: Any = None) -> None:
        """Tell something, at once if there is room for it. Who is not there any more is told nothing."""
        if not self.connected:
            return
        waits = bool(self._left)
        self._left += f"{word} {json.dumps(value)}\n".encode()
        if waits:
            return  # behind what was told before
        failed = self.doWrite()
        if failed is not None:
            self.connectionLost(Failure(failed))  # type: ignore[no-untyped-call]
        elif self._left:
            self.startWriting()  # type: ignore[no-untyped-call]

    def told(self) -> Deferred[None]:
        """Fire when there is nothing left to be told, or nobody to tell it to."""
        if not (self.connected and self._left):
            return succeed(None)
        self._told.append(Deferred())
        return self._told[-1]

    def doWrite(self) -> Exception | None:
        written: int | Exception = fdesc.writeToFD(self._descriptor, self._left)  # type: ignore[no-untyped-call]
        if isinstance(written, Exception):
            return written
        del self._left[:written]
        if not self._left:
            self.stopWriting()  # type: ignore[no-untyped-call]
            self._all_told()
        return None

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._all_told()

    def _all_told(self) -> None:
        told, self._told = self._told, []
        for one in told:
            one.callback(None)


class Reporter:
    """Tells what arrives: to a worker's storage, it is what :class:`~dicomnode.studies.Studies` is elsewhere.

    :param reports: by which it tells that.
    """

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._begun: set[int] = set()

    def begun(self, instance: Instance) -> None:
        """An instance begins to arrive, and its walk knows of which study."""
        self._begun.add(id(instance))
        self._reports.tell(BEGUN, [id(instance), study_of(instance)])

    def given_up(self, instance: Instance) -> None:
        """An instance is not kept."""
        if id(instance) in self._begun:
            self._begun.remove(id(instance))
            self._reports.tell(GIVEN_UP, id(instance))

    def received(self, received: InstanceReceived) -> None:
        """An instance is kept."""
        self._begun.discard(id(received.instance))
        arrived = Arrived.of(received)
        if arrived is not None:
            self._reports.tell(KEPT, [id(received.instance), asdict(arrived)])

    def stop(self) -> Deferred[None]:
        """Nothing more arrives: fire when all of it is told. Studies are not ended here."""
        return self._reports.told()


class Gathering:
    """Has studies know what workers tell."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._arriving: defaultdict[int, set[int]] = defaultdict(set)  # by worker

    def report(self, worker: int, word: str, value: Any) -> None:
        """A worker has told something."""
        number = value if word == GIVEN_UP else value[0]
        if word == BEGUN:
            self._arriving[worker].add(number)
            self._studies.begins((worker, number), value[1])
            return
        self._arriving[worker].discard(number)
        self._studies.ends((worker, number))
        if word == KEPT:
            self._studies.arrives(Arrived(**value[1]))

    def gone(self, worker: int) -> None:
        """A worker is no more: what was arriving there does not any longer. What it has kept stays so."""
        for number in self._arriving.pop(worker, ()):
            self._studies.ends((worker, number))
