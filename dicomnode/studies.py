"""Tells when nothing more comes of a study: across associations, and whoever sends it.

DICOM does not say when a study is complete. What can be seen is that no instance of it has come for a
while, and none is on its way. A study that goes on after that is another one to those who are told.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dicomnode.hooks import Hook, InstanceReceived, tell
from dicomnode.interfaces import Instance
from dicomnode.networks import host
from dicomnode.waiting import Once

#: Studies that are waited for at a time: some kilobytes each, at the most. A department sends a few dozen.
MOST = 10_000

#: Titles and addresses of each that are remembered: a study comes from a few devices, unless someone makes
#: it look otherwise.
SENDERS = 16


class Because(Enum):
    """Why a study has ended."""

    #: nothing of it has come for so long
    QUIET = "quiet"
    #: too many others have begun, and of this one nothing has come for longer than of any
    CROWDED = "crowded"
    #: the service stops; the rest of it may come when it runs again
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StudyEnded:
    """Nothing more comes of a study, as far as can be known."""

    study_instance_uid: str
    #: who has sent of it, who was heard last being the last; at most ``SENDERS``
    calling_ae_titles: tuple[str, ...]
    #: by which titles we were called, likewise
    called_ae_titles: tuple[str, ...]
    #: the addresses from which it came, likewise: as :func:`dicomnode.networks.host` has them
    hosts: tuple[str, ...]
    #: how many were received: an instance that was sent twice counts twice
    instances: int
    #: of their data sets
    octets: int
    #: in which all of its files are, and maybe others'; None where the storage keeps no files
    directory: str | None
    #: when the first and the last instance were kept, in seconds, by the reactor's clock
    first: float
    last: float
    because: Because = Because.QUIET


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a study remembers of an instance that is kept."""

    study_instance_uid: str
    calling_ae_title: str
    called_ae_title: str
    #: of the peer: as :func:`dicomnode.networks.host` has it
    host: str
    #: of the data set
    octets: int
    #: when it was kept, in seconds
    time: float
    #: of its file, if it has one
    path: str | None

    @classmethod
    def of(cls, received: InstanceReceived) -> Arrived | None:
        """Return it, or None for what is of no study."""
        instance = received.instance
        study = study_of(instance)
        if not study:
            return None
        return cls(
            study_instance_uid=study,
            calling_ae_title=instance.calling_ae_title,
            called_ae_title=instance.called_ae_title,
            host=host(instance.association.peer),
            octets=received.octets,
            time=received.time,
            path=received.path,
        )


def study_of(instance: Instance) -> str:
    """Return the Study Instance UID that the walk over an instance has found, or none."""
    walk = instance.walk
    return "" if walk is None else walk.study_instance_uid or ""


class _Study:
    """What has come of a study."""

    def __init__(self, first: float) -> None:
        self.calling: OrderedDict[str, None] = OrderedDict()
        self.called: OrderedDict[str, None] = OrderedDict()
        self.hosts: OrderedDict[str, None] = OrderedDict()
        self.instances = 0
        self.octets = 0
        self.directory: str | None = None
        self.first = self.last = self.heard = first

    def add(self, arrived: Arrived, heard: float) -> None:
        for senders, sender in (
            (self.calling, arrived.calling_ae_title),
            (self.called, arrived.called_ae_title),
            (self.hosts, arrived.host),
        ):
            senders[sender] = None
            senders.move_to_end(sender)
            if len(senders) > SENDERS:
                senders.popitem(last=False)
        self.instances += 1
        self.octets += arrived.octets
        self.last = arrived.time
        self.heard = heard
        if arrived.path is not None:
            directory = os.path.dirname(arrived.path)
            if self.directory is None:
                self.directory = directory
            elif directory != self.directory:
                self.directory = os.path.commonpath([self.directory, directory])

    def ended(self, uid: str, because: Because) -> StudyEnded:
        return StudyEnded(
            study_instance_uid=uid,
            calling_ae_titles=tuple(self.calling),
            called_ae_titles=tuple(self.called),
            hosts=tuple(self.hosts),
            instances=self.instances,
            octets=self.octets,
            directory=self.directory,
            first=self.first,
            last=self.last,
            because=because,
        )


class Studies:
    """Calls hooks when a study has ended.

    It is given to :class:`~dicomnode.hooks.Hooked`, which tells it what arrives. Which study that is, the
    walk says: without one, or without a Study Instance UID in it, an instance belongs to none. There is one
    timer, and none while nothing is waited for. A :class:`~dicomnode.node.Node` takes it as what is
    ``behind``: so the studies end when that stops.

    :param hooks: are called for each study, one after the other; nothing but the end of the service waits for
        them.
    :param quiet: for how long nothing of a study must have come, in seconds. An instance that is arriving
        keeps its study from ending.
    :param most: of studies that are waited for; beyond it the one of which nothing has come for longest
        ends early.
    """

    def __init__(
        self, clock: IReactorTime, *hooks: Hook[StudyEnded], quiet: float = 30.0, most: int = MOST
    ) -> None:
        self._clock = clock
        self._hooks = hooks
        self._quiet = quiet
        self._most = most
        self._studies: OrderedDict[str, _Study] = OrderedDict()  # who was heard last is the last
        self._arriving: dict[Hashable, str] = {}  # of which study is what
        self._timer: IDelayedCall | None = None
        self._telling: set[Deferred[None]] = set()
        self._patience: IDelayedCall | None = None
        self._is_late = False  # are hooks waited for no longer?
        self._finished: Once | None = None

    def begun(self, instance: Instance) -> None:
        """An instance begins to arrive, and its walk knows of which study."""
        self.begins(id(instance), study_of(instance))

    def given_up(self, instance: Instance) -> None:
        """An instance that began to arrive is not kept."""
        self.ends(id(instance))

    def received(self, received: InstanceReceived) -> None:
        """An instance is kept."""
        self.given_up(received.instance)
        arrived = Arrived.of(received)
        if arrived is not None:
            self.arrives(arrived)

    # The same of what arrives elsewhere, in another process say

    def begins(self, key: Hashable, study_instance_uid: str) -> None:
        """Something of a study begins to arrive."""
        self._arriving[key] = study_instance_uid

    def ends(self, key: Hashable) -> None:
        """It does not any longer: it is kept, or given up."""
        self._arriving.pop(key, None)

    def arrives(self, arrived: Arrived) -> None:
        """An instance of a study is kept."""
        uid = arrived.study_instance_uid
        study = self._studies.get(uid)
        if study is None:
            study = self._studies[uid] = _Study(arrived.time)
        # By our own clock: who was heard last is the last, whoever was told to be so when.
        study.add(arrived, self._clock.seconds())
        self._studies.move_to_end(uid)
        self._wait()
        if len(self._studies) > self._most:
            self._end([next(iter(self._studies))], Because.CROWDED)

    def stop(self) -> None:
        """End all of them: the service stops."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end([*self._studies], Because.STOPPED)

    # For the service behind which they are

    def start(self) -> None:
        """The service starts."""
        self._finished = None
        self._is_late = False

    def stop_within(self, seconds: float) -> None:
        """Give hooks so many seconds; what they do then, or later, is cancelled, and not waited for."""
        self._stop_waiting()
        if seconds > 0:
            self._patience = self._clock.callLater(seconds, self._cancel)
        else:
            self._cancel()

    def finished(self) -> Deferred[None]:
        """End all of them; fire when the hooks have been told, and have done."""
        self.stop()
        self._finished = Once()
        finished = self._finished.wait()
        if self._is_late:
            self._cancel()
        else:
            self._told(None)
        return finished

    def _wait(self) -> None:
        """Wait for the one that will be quiet first."""
        if self._timer is None and self._studies:
            first = next(iter(self._studies.values()))
            left = first.heard + self._quiet - self._clock.seconds()
            self._timer = self._clock.callLater(max(0.0, left), self._look)

    def _look(self) -> None:
        """End those that have been quiet for long enough."""
        self._timer = None
        now = self._clock.seconds()
        due = [*takewhile(lambda uid: self._studies[uid].heard + self._quiet <= now, self._studies)]
        for uid in {*self._arriving.values()}.intersection(due):
            self._studies[uid].heard = now
            self._studies.move_to_end(uid)
            due.remove(uid)
        self._end(due, Because.QUIET)
        self._wait()

    def _end(self, uids: Sequence[str], because: Because) -> None:
        # All are gone before anyone is told, who might bring more.
        for ended in [self._studies.pop(uid).ended(uid, because) for uid in uids]:
            telling = Deferred.fromCoroutine(tell(self._hooks, ended))
            self._telling.add(telling)
            telling.addBoth(self._told, telling)

    def _told(self, _: object, telling: Deferred[None] | None = None) -> None:
        self._telling.discard(telling)
        if self._finished is not None and not self._telling:
            self._stop_waiting()
            self._finished.happens()

    def _cancel(self) -> None:
        self._is_late = True
        telling, self._telling = self._telling, set()
        for one in telling:
            one.cancel()
        self._told(None)

    def _stop_waiting(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
