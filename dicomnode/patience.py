"""How long an association waits, and for what: one timer, which is ARTIM, or that of its peer's silence."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, cast

from twisted.internet.interfaces import IReactorTime

from dicomnode import events
from dicomnode.core.association import Association
from dicomnode.core.machine import ANSWERING_STATES, RELEASING_STATES, Role, State
from dicomnode.errors import AssociationTimedOut
from dicomnode.gate import Gate
from dicomnode.interfaces import IAssociation
from dicomnode.invocation import Invocations
from dicomnode.performing import Operations
from dicomnode.timers import LINGER, MIN_PROGRESS, Silence, Timeouts, Timer, Watch

# To look up a member of an enumeration takes longer than what is done with it.
_CONSIDERING, _ASSOCIATED = State.STA3, State.STA6
#: What is due already is so in the next turn of the reactor, in seconds: 0 is for ever.
_AT_ONCE = 1e-6
#: How often it is looked, within a timeout, whether a peer that is behind goes on.
_LOOKS = 4
#: The peer's answer to A-RELEASE-RQ is awaited; or that, or its answer to A-ASSOCIATE-RQ.
_AWAITING_RELEASE = frozenset((State.STA7, State.STA10, State.STA11))
_AWAITING_ANSWER = _AWAITING_RELEASE | {State.STA5}


class Host(Protocol):
    """What there is to wait for on an association, and what becomes of it that has waited for too long."""

    closing: bool  #: is the transport connection being closed by us?
    closed: bool  #: is it gone?
    draining: bool  #: do we stop?
    invocations: Invocations | None

    def tell(self, event: events.Event) -> None: ...

    def pump(self) -> None: ...

    def give_up(self, why: str, error: AssociationTimedOut) -> None:
        """Abort, and say why; what is awaited fails with this error."""

    def drop(self) -> None:
        """Close the connection at once."""


class Patience:
    """Keeps the timer in step with what is waited for.

    ARTIM follows from the state (PS3.8 9.1.4), silence from what is awaited where that does not run.
    """

    _gate: Gate  # there are these two from when there is a transport
    _operations: Operations
    # Most associations have none of these: nothing is ever owed for longer than a turn.
    _work: Watch | None = None  # what we owe
    _overdue: Timer | None = None  # for that, while something else is waited for
    _watch: Watch | None = None  # what the peer owes us: to say
    _reading: Watch | None = None  # and to read
    _for: Hashable = None  # which of what; since that, or since it was enough:
    _read = 0  # octets of ours that the peer has read
    _has_read_all = False  # what is awaited of it, too: what it reads now is something else
    _come = 0  # and of messages that come before it

    def __init__(
        self,
        association: IAssociation,
        host: Host,
        core: Association,
        timeouts: Timeouts,
        clock: IReactorTime,
    ) -> None:
        self._association = association
        self._host = host
        self._core = core
        self._timeouts = timeouts
        self._timer = Timer(clock, self._expired)
        self.silence = Silence(self._timer)
        self._clock = clock
        self._idle = (timeouts.network, ("network", False, False))  # the peer may be, for so long

    def opened(self, gate: Gate, operations: Operations) -> None:
        """There is a transport connection."""
        self._gate = gate
        self._operations = operations

    def lost(self) -> None:
        """The transport connection is gone: nothing is waited for any more."""
        self._timer.stop()
        if self._overdue is not None:
            self._overdue.stop()

    def set_artim(self, again: bool = False) -> None:
        """Have ARTIM run, where it is to.

        :param again: anew, though it does.
        """
        if self._awaits_close:
            seconds = LINGER if self._host.draining else self._timeouts.acse
            self._timer.wait(seconds, self._core.state, again=again)

    def set_silence(self) -> None:
        """Let the peer be silent for as long as what is awaited may take."""
        core, gate, host = self._core, self._gate, self._host
        begun = core.begun
        idle = not (begun or self._operations.unanswered or host.invocations or gate.closed or gate.unread)
        if idle and core.state is _ASSOCIATED and not host.closed:
            self.silence.allow(*self._idle)  # as below, which takes longer to say so behind each message
        elif not self._awaits_close:
            owed = self._owed()
            seconds, what = self._allowed_silence(owed)
            if not self._wait_for_us(owed, what):
                awaited = self._watched(what) if seconds else None
                if awaited is None:
                    _interrupt(self._watch)
                    self.silence.allow(seconds, (what, begun, gate.unread))
                elif self._comes_first:
                    self._wait_for_message(awaited, seconds)
                else:
                    self._watch_for(awaited, seconds)

    # What we owe the peer

    def _owed(self) -> Hashable:
        """Return what we have owed for longest, and how far that is; None: the peer is to go on."""
        operations, invocations = self._operations, self._host.invocations
        unanswered = operations.unanswered
        if len(unanswered) <= (operations.arriving is not None):
            if invocations is not None and invocations.sending and self._core.state in RELEASING_STATES:
                return invocations.sent  # to its end
            return None
        oldest = next(iter(unanswered))
        if invocations is None:
            return oldest.request.message_id, unanswered[oldest]
        if invocations.asked_for(oldest):
            return None
        return oldest.request.message_id, unanswered[oldest], invocations.sent

    def _wait_for_us(self, owed: Hashable, what: str) -> bool:
        """Wait for what we owe, where it is that which is waited for, or has taken too long."""
        seconds = self._timeouts.performing
        if owed is None or not seconds or self._is_unread(what):
            _interrupt(self._work)
            return False
        left = seconds - self._spent(owed)
        if what != "performing" and left > 0:
            if self._overdue is None:
                self._overdue = Timer(self._clock, self._work_expired)
            self._overdue.wait(left, owed)
            return False
        _interrupt(self._watch)
        self.silence.pass_over()
        self._timer.wait(max(left, _AT_ONCE), ("performing", owed))
        return True

    def _is_overdue(self, owed: Hashable, what: str) -> bool:
        """Has what we owe taken too long?"""
        seconds = self._timeouts.performing
        return owed is not None and not self._is_unread(what) and self._spent(owed) >= seconds > 0

    def _spent(self, owed: Hashable) -> float:
        """Return for how long we have owed that, in seconds."""
        if self._work is None:
            self._work = Watch(self._clock)
        return self._work.spent(owed)

    def _is_unread(self, what: str) -> bool:
        """Is the peer to read before anything else goes on?"""
        return self._gate.unread and what == "network"

    # What the peer owes us, where nothing else that it says stands for that

    def _watched(self, what: str) -> Hashable:
        """Return what is awaited, where nothing but that stands for it: no octets of anything else."""
        invocations = self._host.invocations
        if self._is_unread(what):
            return "to be read", self._gate.times_unread
        if what == "performing":
            return None
        if what == "ACSE":
            return (what, self._core.state) if self._core.state in _AWAITING_RELEASE else None
        if invocations is None or not self._timeouts.dimse or not invocations.awaits_response:
            return None
        return invocations.progress

    @property
    def _comes_first(self) -> bool:
        """Does a message come, before whose end there is nothing of what is awaited?"""
        return self._core.in_message and not self._gate.unread

    def _wait_for_message(self, awaited: Hashable, seconds: float) -> bool:
        """Wait for that message, as long as it comes on. Return whether it does."""
        self._watches(awaited)
        self._come += self.silence.pass_over()
        comes_on = self._come >= MIN_PROGRESS
        if comes_on:
            self._come = 0
        left = seconds - self._measure().interrupted(awaited, again=comes_on)
        self._timer.wait(max(min(seconds / _LOOKS, left), _AT_ONCE), ("message", awaited))
        return left > 0

    def _watch_for(self, awaited: Hashable, seconds: float) -> None:
        self._watches(awaited)
        spent = self._measure().spent(awaited)
        if self._timer.wait(max(min(seconds / _LOOKS, seconds - spent), _AT_ONCE), ("watch", awaited)):
            self._gate.read_meanwhile()  # from here on, as what is heard
            self.silence.pass_over()

    def _watches(self, awaited: Hashable) -> None:
        if awaited != self._for:
            self._for, self._read, self._come, self._has_read_all = awaited, 0, 0, False

    def _measure(self) -> Watch:
        """Return what measures what is awaited; the other is interrupted, for it cannot come before."""
        if self._gate.unread:
            _interrupt(self._watch)
            self._reading = self._reading or Watch(self._clock)
            return self._reading
        self._watch = self._watch or Watch(self._clock)
        return self._watch

    def _goes_on(self, seconds: float, what: str) -> bool:
        """Is there time left for what is watched, or does the peer read on? It cannot answer before that.

        Of what the transport writes it tells no sooner than when all is written.
        """
        awaited = self._watched(what)
        if awaited is None:
            return False
        self._timer.stop()
        if self._comes_first:
            return self._wait_for_message(awaited, seconds)
        self._watches(awaited)
        self._read += max(self._gate.read_meanwhile(), 0)
        self._has_read_all = self._has_read_all or self._gate.has_read_all
        watch = self._measure()
        if self._read >= MIN_PROGRESS and not self._has_read_all:
            watch.again()
            self._read = 0
        elif watch.spent(awaited) >= seconds:
            return False
        self._watch_for(awaited, seconds)
        return True

    @property
    def _awaits_close(self) -> bool:
        """Is the timer ARTIM?

        PS3.8 has it stopped where we close. But what we have yet to write may never be read, and TLS awaits
        an answer: a connection that is being closed may stay, if the peer so wants.
        """
        return self._core.artim_running or self._host.closing

    def _allowed_silence(self, owed: Hashable) -> tuple[float, str]:
        """How long the peer may be silent, and who says so; 0 is for ever.

        :param owed: what we owe it, where it is for us to go on.
        """
        state = self._core.state
        timeouts = self._timeouts
        invocations = self._host.invocations
        if self._host.closed:
            return 0.0, ""
        if self._gate.unread and state in ANSWERING_STATES:
            return timeouts.network, "network"
        if self._gate.closed:
            return timeouts.performing, "performing"  # a slow disk is not the peer's fault
        if state is not _ASSOCIATED:
            if state in _AWAITING_ANSWER:
                return timeouts.acse, "ACSE"
            if state is _CONSIDERING or state in RELEASING_STATES:
                return timeouts.performing, "performing"  # in which no timer of PS3.8 runs
            return 0.0, ""
        if self._core.in_message:
            if timeouts.dimse and (not timeouts.network or timeouts.dimse <= timeouts.network):
                return timeouts.dimse, "DIMSE"
        elif owed is not None and not self._core.in_pdu:
            return timeouts.performing, "performing"  # it waits for us, whatever it is yet to answer
        elif invocations is not None and invocations.awaiting and not invocations.sending:
            return timeouts.dimse, "DIMSE"
        elif invocations is not None:
            if invocations.sending:
                return 0.0, ""  # so it does; where it does not read, that was seen above
            if self._core.role is Role.REQUESTOR and not self._core.in_pdu:
                return 0.0, ""  # it is for us to say something
        return timeouts.network, "network"

    # It has taken too long.

    def _expired(self) -> None:
        if self._awaits_close:
            self._artim_expired()
        else:
            self._silent()

    def _work_expired(self) -> None:
        cast(Timer, self._overdue).stop()
        if self._awaits_close:
            return
        owed = self._owed()
        if self._is_overdue(owed, self._allowed_silence(owed)[1]):
            self._silent()
        else:
            self.set_silence()

    def _artim_expired(self) -> None:
        given_up = self._host.closing or self._core.state is State.STA13
        if not given_up:
            self._host.tell(events.TimedOut(self._association, "ACSE", self._timeouts.acse))
        if self._core.artim_running:
            self._core.artim_expired()
        self._host.pump()
        if given_up:
            self._host.drop()

    def _silent(self) -> None:
        owed = self._owed()
        seconds, what = self._allowed_silence(owed)
        if self._is_overdue(owed, what):
            seconds, what = self._timeouts.performing, "performing"
        elif self._goes_on(seconds, what):
            return
        self._host.tell(events.TimedOut(self._association, what, seconds))
        octets = self.silence.octets
        few = f": only {octets} octets in {seconds:g} s" if self._core.begun and octets else ""
        self._host.give_up(f"{what} timeout{few}", AssociationTimedOut(what, seconds))


def _interrupt(watch: Watch | None) -> None:
    if watch is not None:
        watch.interrupt()
