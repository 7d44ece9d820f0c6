"""What an observer can be told.

An observer is any callable that takes an event. It must not block. When it raises, that is logged
once for each association, and the association is aborted: nobody would know what happens on it. Events
are values; the association they happened on is the first field of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure

from dicomnode.core import machine
from dicomnode.core.command import CCancelRQ, Response
from dicomnode.core.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ

_log = Logger()  # for what an observer cannot be told: its own failure

if TYPE_CHECKING:
    from dicomnode.interfaces import IAssociation, Instance, IOperation
    from dicomnode.invocation import Invocation


@dataclass(frozen=True, slots=True)
class Started:
    """The program has started."""

    version: str


@dataclass(frozen=True, slots=True)
class Listening:
    """The service listens."""

    address: IAddress


@dataclass(frozen=True, slots=True)
class PartRemoved:
    """What a dead process had left of a file is removed."""

    name: str


@dataclass(frozen=True, slots=True)
class PolicyRead:
    """A policy file is in force as it is now."""

    path: str


@dataclass(frozen=True, slots=True)
class PolicyNotRead:
    """A policy file cannot be used; what it said before stays in force."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class CertificatesRead:
    """The keys and certificates of an endpoint are in force as they are now."""

    path: str  #: of its own certificate


@dataclass(frozen=True, slots=True)
class CertificatesNotRead:
    """The keys and certificates of an endpoint cannot be used; those from before stay in force."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class TLSFailed:
    """There is no TLS with a peer: no common version or cipher suite, no certificate or none that is good."""

    peer: IAddress
    why: str


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """One of several processes accepts associations."""

    worker: int
    process: int


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """One of several processes has ended, and should not have; its associations are lost."""

    worker: int
    process: int
    why: str
    delay: float | None = None  #: until another takes its place, in seconds; None: none will


@dataclass(frozen=True, slots=True)
class TooManyHalfOpen:
    """There are too many connections without an association: from here on the oldest are dropped.

    It is said again once they have become fewer, by half, and too many again.
    """

    limit: int
    host: str  #: which has most of them
    held: int  #: and how many


@dataclass(frozen=True, slots=True)
class AssociationRequested:
    """An A-ASSOCIATE-RQ has arrived; or, where we are the requestor, was sent."""

    association: IAssociation
    request: AssociateRQ


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The user of the requestor has logged in; whether there is an association is still to be seen."""

    association: IAssociation
    user: str  #: the user's name; empty for an anonymous one


@dataclass(frozen=True, slots=True)
class AssociationAccepted:
    """The association is established."""

    association: IAssociation
    request: AssociateRQ
    answer: AssociateAC


@dataclass(frozen=True, slots=True)
class AssociationRejected:
    """The association is refused: by us, or, where we are the requestor, by the other end."""

    association: IAssociation
    request: AssociateRQ
    rejection: AssociateRJ
    why: str  #: in words, for an operator


@dataclass(frozen=True, slots=True)
class AbortReceived:
    """The peer has sent an A-ABORT."""

    association: IAssociation
    abort: Abort


@dataclass(frozen=True, slots=True)
class AbortSent:
    """We have sent an A-ABORT."""

    association: IAssociation
    abort: Abort
    why: str  #: in words, for an operator
    by_user: bool = True  #: of the service; otherwise it is the protocol machine that found fault


@dataclass(frozen=True, slots=True)
class AssociationReleased:
    """The association has ended in good order; its transport connection is still to be closed."""

    association: IAssociation


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The peer was silent for longer than it may be; an A-ABORT follows, or the connection closes."""

    association: IAssociation
    what: str  #: ``"ACSE"``, ``"DIMSE"`` or ``"network"``
    seconds: float


@dataclass(frozen=True, slots=True)
class AssociationEnded:
    """The transport connection is closed, whatever became of the association."""

    association: IAssociation
    how: str  #: ``"released"``, ``"aborted"``, ``"lost"``, ``"rejected"``, or ``"never"`` established
    seconds: float  #: since the transport connection was made
    truncated: bool = False  #: the last PDU that the peer sent had not come whole


@dataclass(frozen=True, slots=True)
class OperationStarted:
    """A request has arrived: its command set whole, its data set not yet."""

    association: IAssociation
    operation: IOperation


@dataclass(frozen=True, slots=True)
class OperationEnded:
    """A request is answered; or, when ``response`` is None, its association ended before that."""

    association: IAssociation
    operation: IOperation
    response: Response | None
    octets: int  #: of the data set
    seconds: float


@dataclass(frozen=True, slots=True)
class InvocationStarted:
    """We have invoked an operation: its command set is sent, its data set not yet."""

    association: IAssociation
    invocation: Invocation


@dataclass(frozen=True, slots=True)
class InvocationEnded:
    """What we invoked is answered; or, when ``response`` is None, its association ended before that."""

    association: IAssociation
    invocation: Invocation
    response: Response | None
    octets: int  #: of the data set, that were sent
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """The peer wants no more of an operation; it may have ended already."""

    association: IAssociation
    context_id: int
    request: CCancelRQ


@dataclass(frozen=True, slots=True)
class InstanceKept:
    """An instance is kept under a name."""

    association: IAssociation
    instance: Instance
    name: str
    replaced: bool = False  #: in the place of another that had it before
    dropped: bool = False  #: another has it, and keeps it: what came was dropped


@dataclass(frozen=True, slots=True)
class InstanceNotKept:
    """An instance could not be written where it should be."""

    association: IAssociation
    instance: Instance
    name: str
    directory: str
    error: OSError


@dataclass(frozen=True, slots=True)
class ExecutionEnded:
    """A command that a hook has had executed has ended; or it is not executed at all."""

    arguments: tuple[str, ...]  #: the name of the program first
    process: int  #: its id; 0: it was not run
    why: str  #: in words; empty where its exit code is 0
    seconds: float


@dataclass(frozen=True, slots=True)
class ExecutionSaid:
    """A command that a hook has had executed has written a line."""

    process: int
    line: str


@dataclass(frozen=True, slots=True)
class Paused:
    """We have stopped reading from the transport: someone is behind."""

    association: IAssociation


@dataclass(frozen=True, slots=True)
class Resumed:
    """We read from the transport again."""

    association: IAssociation


@dataclass(frozen=True, slots=True)
class Transition:
    """A step of the upper layer protocol machine (PS3.8 Table 9-10). Only made when asked for."""

    association: IAssociation
    state: machine.State
    event: machine.Event
    action: str
    following: machine.State


@dataclass(frozen=True, slots=True)
class Unexpected:
    """Something failed that nobody foresaw: a bug, of ours or of a service's."""

    association: IAssociation
    failure: Failure
    doing: str


Event: TypeAlias = (
    Started
    | Listening
    | PartRemoved
    | PolicyRead
    | PolicyNotRead
    | WorkerStarted
    | WorkerEnded
    | CertificatesRead
    | CertificatesNotRead
    | TLSFailed
    | TooManyHalfOpen
    | AssociationRequested
    | LoggedIn
    | AssociationAccepted
    | AssociationRejected
    | AbortReceived
    | AbortSent
    | TimedOut
    | AssociationReleased
    | AssociationEnded
    | OperationStarted
    | OperationEnded
    | InvocationStarted
    | InvocationEnded
    | CancelReceived
    | InstanceKept
    | InstanceNotKept
    | ExecutionEnded
    | ExecutionSaid
    | Paused
    | Resumed
    | Transition
    | Unexpected
)
Observer: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing. A bug, which should not go unseen, is logged: as is whatever fails in Twisted."""
    if isinstance(event, Unexpected):
        _log.failure("Failed {doing}", event.failure, doing=event.doing)


def wants(observe: Observer, kind: type[Any]) -> bool:
    """Does an observer want to be told of events of a kind?

    One says so by a method ``wants(kind)``; one that has none is told of all. Whoever makes an event for
    every operation asks first, once: an event that nobody looks at costs as much as one that is counted.
    It spares events, and is no filter: what it does not want, an observer may be told all the same.
    """
    if observe is ignore:
        return False
    asked: Callable[[type[Any]], bool] | None = getattr(observe, "wants", None)
    return asked is None or asked(kind)


def wanted(observe: Observer) -> frozenset[type[Event]]:
    """Return the kinds of events that an observer wants to be told of."""
    return frozenset(kind for kind in get_args(Event) if wants(observe, kind))


def guarded(observe: Observer) -> Observer:
    """Return an observer that tells another, and logs what that raises."""
    return _Guarded(observe)


class _Guarded:
    def __init__(self, observe: Observer) -> None:
        self._observe = observe

    def wants(self, kind: type[Any]) -> bool:
        return wants(self._observe, kind)

    def __call__(self, event: Event) -> None:
        try:
            self._observe(event)
        except Exception:
            _log.failure("An observer failed upon {event}", event=type(event).__name__)


class Fanout:
    """Tells several observers of each event, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def wants(self, kind: type[Any]) -> bool:
        """Does any of them want to be told of such events?"""
        return any(wants(observer, kind) for observer in self._observers)

    def __call__(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)
