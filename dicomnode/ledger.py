"""Who holds the slots of a node that is several processes: memory that they share.

Each process has a region of it, and writes in no other, so that there is nothing to lock: one record
for each association that holds a slot, and how many connections there are. Whoever wants to know how
many there are counts in all regions.

To count and to write are two steps: where several processes accept in the same instant, a limit may be
overstepped by as many associations as there are other processes, and not for long after: nobody is
accepted until there are fewer. A record that is read while it is written may be missed in the same way.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from struct import Struct

from dicomnode.errors import AssociationRejected
from dicomnode.interfaces import IAssociation
from dicomnode.limits import LOCAL_LIMIT_EXCEEDED, Holder, Limits, Slots

#: The head of a region: whether its process listens, its connections, the records that hold a slot, and
#: how many records, from the first, have ever been used.
_HEAD = Struct("=4q")
_LISTENING, _CONNECTIONS, _HELD, _USED = range(0, _HEAD.size, 8)
_NUMBER = Struct("=q")

#: A record: whether it holds a slot, the machine, and the calling AE title; both in UTF-8, and cut.
_RECORD = Struct("=B55s64s")


class Ledger:
    """The memory that the processes of a node share.

    :param descriptor: of a file that is as long as :meth:`make` makes it.
    :param regions: how many processes there are.
    :param records: how many slots each may hold.
    """

    def __init__(self, descriptor: int, regions: int, records: int) -> None:
        self.descriptor = descriptor
        self.regions = regions
        self.records = records
        self._map = mmap.mmap(descriptor, regions * self._size)

    @classmethod
    def make(cls, regions: int, records: int) -> Ledger:
        """Make one in which there is nobody."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("dicomnode-ledger")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, regions * (_HEAD.size + records * _RECORD.size))
        return cls(descriptor, regions, records)

    @property
    def _size(self) -> int:
        return _HEAD.size + self.records * _RECORD.size

    def clear(self, region: int) -> None:
        """The process of a region is no more: it holds nothing, and does not listen."""
        self._map[region * self._size : region * self._size + _HEAD.size] = bytes(_HEAD.size)

    def read(self, region: int, number: int) -> int:
        """Return a number of a region's head."""
        value: int = _NUMBER.unpack_from(self._map, region * self._size + number)[0]
        return value

    def write(self, region: int, number: int, value: int) -> None:
        """Change a number of a region's head."""
        _NUMBER.pack_into(self._map, region * self._size + number, value)

    def record(self, region: int, place: int, holder: Holder | None) -> None:
        """Write who holds the slot of a place; None: no one."""
        start = region * self._size + _HEAD.size + place * _RECORD.size
        if holder is not None:
            self._map[start + 1 : start + _RECORD.size] = _RECORD.pack(0, *_written(holder))[1:]
        self._map[start] = holder is not None

    def held(self) -> int:
        """Return how many slots are held in all."""
        return sum(self.read(region, _HELD) for region in range(self.regions))

    def holders(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield who holds each of them, as it is written."""
        for region in range(self.regions):
            start = region * self._size + _HEAD.size
            used = min(self.read(region, _USED), self.records)
            records = self._map[start : start + used * _RECORD.size]
            yield from ((where, title) for holds, where, title in _RECORD.iter_unpack(records) if holds)

    def fewest(self) -> int:
        """Return how many connections the listening process has that has fewest; 0 if none listens."""
        listening = [region for region in range(self.regions) if self.read(region, _LISTENING)]
        return min((self.read(region, _CONNECTIONS) for region in listening), default=0)


class Page:
    """A process's own region of a ledger.

    :param region: its number.
    """

    def __init__(self, ledger: Ledger, region: int) -> None:
        self.ledger = ledger
        self._region = region
        self._free: list[int] = []
        self._used = self._held = self._connections = 0
        ledger.clear(region)

    @property
    def full(self) -> bool:
        """There is no place for another record."""
        return self._held >= self.ledger.records

    @property
    def connections(self) -> int:
        """How many connections this process has, with and without a slot."""
        return self._connections

    @connections.setter
    def connections(self, number: int) -> None:
        self._connections = number
        self.ledger.write(self._region, _CONNECTIONS, number)

    def listens(self, listening: bool) -> None:
        """Say whether this process accepts connections."""
        self.ledger.write(self._region, _LISTENING, listening)

    def hold(self, holder: Holder) -> int:
        """Write that someone holds a slot, and return in which place."""
        place = heappop(self._free) if self._free else self._used
        self.ledger.record(self._region, place, holder)
        if place == self._used:
            self._used += 1
            self.ledger.write(self._region, _USED, self._used)
        self._count(1)
        return place

    def free(self, place: int) -> None:
        """Write that the slot of a place is free."""
        self.ledger.record(self._region, place, None)
        heappush(self._free, place)
        self._count(-1)

    def _count(self, more: int) -> None:
        self._held += more
        self.ledger.write(self._region, _HELD, self._held)


class SharedSlots(Slots):
    """Slots that are held in several processes, and limited in all of them together.

    :param page: the region of this one.
    """

    def __init__(self, limits: Limits, page: Page) -> None:
        super().__init__(limits)
        self._page = page
        self._places: dict[IAssociation, int] = {}

    def __len__(self) -> int:
        return self._page.ledger.held()

    def connected(self) -> None:
        self._page.connections += 1

    def free(self, association: IAssociation) -> None:
        self._page.connections -= 1
        place = self._places.pop(association, None)
        if place is not None:
            self._page.free(place)

    def _hold(self, association: IAssociation, holder: Holder) -> None:
        if self._page.full:
            why = f"all {self._page.ledger.records} associations of this process are in use"
            raise AssociationRejected(*LOCAL_LIMIT_EXCEEDED, why)
        self._places[association] = self._page.hold(holder)

    def _holders(self) -> Iterable[Holder]:
        return [(_read(where), _read(title)) for where, title in self._page.ledger.holders()]

    def _of_host(self, where: str) -> int:
        written = _written((where, ""))[0]
        return sum(found == written for found, _ in self._page.ledger.holders())

    def _of_ae_title(self, ae_title: str) -> int:
        written = _written(("", ae_title))[1]
        return sum(found == written for _, found in self._page.ledger.holders())


def _written(holder: Holder) -> tuple[bytes, bytes]:
    where, title = (text.encode("utf-8", "backslashreplace") for text in holder)
    return where[:55].ljust(55, b"\0"), title[:64].ljust(64, b"\0")


def _read(written: bytes) -> str:
    return written.rstrip(b"\0").decode("utf-8", "replace")
