"""How long an association waits: the timeouts, and the timer that keeps them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Octets by which a message must grow in the time that its peer may be silent, unless it ends before
#: that; and that a peer must read in that time, of what it is sent. Less is silence: it is 34 octets a
#: second by default, and the slowest of lines has a hundred times as much, while a peer that sends one each
#: second would keep its association for ever.
MIN_PROGRESS = 1024

#: How long a peer that was sent an A-ABORT because we stop may take to close, in seconds.
LINGER = 1.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long we wait, in seconds; 0 is for ever."""

    #: for a whole A-ASSOCIATE-RQ, for the answer to one or to A-RELEASE-RQ, and for the peer to close (ARTIM)
    acse: float = 30.0
    #: for the next octets of a message that has begun
    dimse: float = 30.0
    #: for any octets, and for the peer to read what it was answered, while the association stands
    network: float = 30.0
    #: for whoever decides on an association, or performs an operation, to take more of its data set or to
    #: answer: as long as a disk, or another node, may well take. What is stuck for longer is given up
    performing: float = 600.0


class Timer:
    """Runs from when what is awaited changes. What is awaited still does not start it anew."""

    _awaited: Hashable = None
    _seconds = 0.0
    _call: IDelayedCall | None = None  # to come
    _due = False

    def __init__(self, clock: IReactorTime, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._expired = expired

    def wait(self, seconds: float, awaited: Hashable, *, again: bool = False) -> bool:
        """Wait so long for ``awaited``; 0 is for ever. Return whether the timer was started, or stopped.

        :param again: start it anew, though it runs for that already.
        """
        if awaited == self._awaited and not again:
            return False
        self._awaited = awaited
        self._seconds = seconds
        self._due = False
        call = self._call
        if call is None:
            self._call = self._clock.callLater(seconds, self._expire) if seconds else None
        elif seconds:
            call.reset(seconds)
        else:
            call.cancel()
            self._call = None
        return True

    def again(self) -> None:
        """Wait as long again for what is awaited."""
        self._due = False
        if self._call is not None:
            self._call.reset(self._seconds)

    def stop(self) -> None:
        """Wait for nothing."""
        self._awaited = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _expire(self) -> None:
        if self._due:
            self._call = None
            self._expired()
        else:
            # Once more round the reactor, which looks at its clock before it reads: where something has
            # held it up for long, what is awaited may have come meanwhile.
            self._due = True
            self._call = self._clock.callLater(0, self._expire)


class Watch:
    """Measures for how long something has been awaited, with its interruptions left out.

    While its peer says something else first, that is measured by itself.
    """

    _awaited: Hashable = None
    _goes_on: int | None = None  # which of the two below, since when
    _since = 0.0

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._measured = [0.0, 0.0]  # in seconds: waiting; and while the peer said something else

    def spent(self, awaited: Hashable) -> float:
        """Return for how long ``awaited`` has been, in seconds; from here on, if it was not."""
        return self._measure(0, awaited)

    def interrupted(self, awaited: Hashable, *, again: bool = False) -> float:
        """The peer says something else first. Return for how long that has been so, in seconds.

        :param again: from here on.
        """
        interrupted = self._measure(1, awaited)
        if again:
            interrupted = self._measured[1] = 0.0
        return interrupted

    def interrupt(self) -> None:
        """It cannot come now, for other reasons, which are not its fault."""
        if self._goes_on is not None:
            self._measure(self._goes_on, self._awaited)
            self._goes_on = None

    def again(self) -> None:
        """Measure anew."""
        self._awaited = None

    def _measure(self, which: int, awaited: Hashable) -> float:
        now = self._clock.seconds()
        if awaited != self._awaited:
            self._awaited = awaited
            self._measured = [0.0, 0.0]
        elif self._goes_on is not None:
            self._measured[self._goes_on] += now - self._since
        self._goes_on, self._since = which, now
        return self._measured[which]


class Silence:
    """Has a timer run while the peer says nothing, or next to nothing: see :data:`MIN_PROGRESS`.

    :param timer: may be used for something else while the peer need not say anything.
    """

    _enough = False

    def __init__(self, timer: Timer) -> None:
        self.octets = 0  #: that have come since it was started: who hears them adds them
        self._passed_over = False  # does the timer run for something that no octets put off?
        self._timer = timer

    def came_on(self) -> None:
        """What the peer has said is a whole message, however short."""
        self._enough = True

    def went_on(self) -> None:
        """Let the peer be silent for as long again, if it has said enough: it does what is awaited."""
        if self.octets >= MIN_PROGRESS and not self._passed_over:
            self._timer.again()
            self.octets = 0

    def allow(self, seconds: float, awaited: Hashable) -> None:
        """Let the peer be silent for so long while it is awaited to do something; 0 is for ever.

        :param awaited: what; of one thing, it may be silent for the same time always.
        """
        self._passed_over = False
        if self._timer.wait(seconds, awaited, again=self._enough or self.octets >= MIN_PROGRESS):
            self.octets = 0
            self._enough = False

    def pass_over(self) -> int:
        """What the peer says is not what is awaited. Return how many octets it has said so far."""
        octets, self.octets = self.octets, 0
        self._enough = False
        self._passed_over = True
        return octets
