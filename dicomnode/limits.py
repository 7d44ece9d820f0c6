"""How many may be associated at a time, and who holds the slots.

A slot is taken when an association is accepted, and freed when its transport connection is gone:
what has been released, or aborted, holds it until then. Connections that hold none are half-open:
they have not asked for an association yet, are being considered, or were refused. These have a
limit of their own, so that who only connects takes no slot from anyone; beyond it, the *oldest* of
them is dropped. To refuse the newest instead would let a peer that opens as many and says nothing
keep everyone out for as long as ARTIM runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from twisted.internet.interfaces import IAddress

from dicomnode.errors import AssociationRejected
from dicomnode.interfaces import IAssociation
from dicomnode.networks import address, host

#: Result, source, reason of PS3.8 Table 9-21: rejected transient, by the service provider
#: (presentation related).
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

#: Who has a slot: the machine, as :func:`dicomnode.networks.host` has it, and the calling AE title.
Holder: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many there may be at a time; 0 is no limit."""

    #: associations in all: more than the modalities of a large hospital have open at a time, and half
    #: of the 1,024 descriptors that a process usually has, each with a file
    associations: int = 500
    #: associations with one address; peers at UNIX sockets have none, and are not counted
    per_host: int = 0
    #: associations with one calling AE title
    per_ae_title: int = 0
    #: connections without an association
    half_open: int = 1000


class Slots:
    """The associations that there are, as far as :class:`Limits` are concerned."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._held: dict[IAssociation, Holder] = {}
        self._hosts: Counter[str] = Counter()
        self._ae_titles: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def connected(self) -> None:
        """There is a transport connection more, without a slot yet."""

    def take(self, association: IAssociation, peer: IAddress) -> None:
        """Let an association have a slot, which is its own until it is freed.

        :param peer: whose it is: to ask the association, its transport is asked.

        :raises dicomnode.errors.AssociationRejected: when there is none for it; it says who holds them.
        """
        holder = where, ae_title = host(peer), association.calling_ae_title
        limits = self._limits
        if limits.associations and len(self) >= limits.associations:
            most = self._most(self._holders())
            why = f"all {limits.associations} associations are in use, most of them by {most}"
        elif limits.per_host and address(peer) and self._of_host(where) >= limits.per_host:
            most = self._most(held for held in self._holders() if held[0] == where)
            why = f"all {limits.per_host} associations of {where} are in use, most of them by {most}"
        elif limits.per_ae_title and self._of_ae_title(ae_title) >= limits.per_ae_title:
            most = self._most(held for held in self._holders() if held[1] == ae_title)
            whose = ae_title or "no title"
            why = f"all {limits.per_ae_title} associations of {whose} are in use, most of them by {most}"
        else:
            self._hold(association, holder)
            return
        raise AssociationRejected(*LOCAL_LIMIT_EXCEEDED, why)

    def free(self, association: IAssociation) -> None:
        """The transport connection is gone: its slot, if it had one, is another's."""
        held = self._held.pop(association, None)
        if held is not None:
            where, ae_title = held
            _uncount(self._hosts, where)
            _uncount(self._ae_titles, ae_title)

    # What slots that several processes share do otherwise.

    def _hold(self, association: IAssociation, holder: Holder) -> None:
        self._held[association] = where, ae_title = holder
        self._hosts[where] += 1
        self._ae_titles[ae_title] += 1

    def _holders(self) -> Iterable[Holder]:
        return self._held.values()

    def _of_host(self, where: str) -> int:
        return self._hosts[where]

    def _of_ae_title(self, ae_title: str) -> int:
        return self._ae_titles[ae_title]

    @staticmethod
    def _most(held: Iterable[Holder]) -> str:
        """Return who holds most slots, and how many."""
        for (where, ae_title), count in Counter(held).most_common(1):
            return f"{ae_title or 'no title'} at {where} ({count})"
        return "others"  # who are gone by now, in another process


def _uncount(counts: Counter[str], key: str) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
