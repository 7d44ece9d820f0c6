"""A router: each instance goes on to two other nodes as it arrives, and is Success when it is to both.

``python router.py`` listens on port 11112. Nothing touches the disk, and memory does not depend on what
passes.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IConsumer, IPushProducer, IStreamClientEndpoint
from twisted.internet.task import react
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    ContextNotAccepted,
    DicomNodeError,
    IAssociation,
    IInstanceWriter,
    Instance,
    IStorage,
    OperationFailed,
    ServiceUser,
    Status,
    Storage,
    Verification,
    associate,
    events,
    plan,
)
from dicomnode.uids import VERIFICATION


@dataclass(frozen=True)
class Destination:
    """A node to which instances go on."""

    ae_title: str
    endpoint: IStreamClientEndpoint


@implementer(IStorage)
class Router:
    """Keeps nothing. For each association with us there is one with each destination, as long as it lasts."""

    def __init__(self, reactor: Any, destinations: Sequence[Destination]) -> None:
        self._reactor = reactor
        self._destinations = destinations
        self._onward: dict[IAssociation, dict[Destination, ServiceUser]] = {}
        self._numbers = count(1)

    def observe(self, event: events.Event) -> None:
        """Learn which associations there are with us, as the observer of the acceptor."""
        match event:
            case events.AssociationAccepted(association=association):
                self._onward[association] = {}
            case events.AssociationEnded(association=association):
                for user in self._onward.pop(association, {}).values():
                    Deferred.fromCoroutine(released(user))

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        return Deferred.fromCoroutine(self._open(instance))

    async def _open(self, instance: Instance) -> IInstanceWriter:
        forwarding = Forwarding()
        for destination in self._destinations:
            leg = Leg(forwarding)
            forwarding.legs.append(leg)
            leg.forwards(self._forward(destination, instance, leg))
        # Nothing is read from the sender before both are ready for it.
        for leg in forwarding.legs:
            await leg.ready
        if any(leg.problem for leg in forwarding.legs):
            problem = forwarding.problem()
            await forwarding.abort()
            raise problem
        return forwarding

    async def _forward(self, destination: Destination, instance: Instance, leg: Leg) -> None:
        """Store an instance at a destination; the leg is what produces it."""
        onward = self._onward.get(instance.association, {})
        status, why = int(Status.OUT_OF_RESOURCES), ""
        try:
            if destination not in onward:
                onward[destination] = await self._associate(destination, instance.association)
            response = await onward[destination].store(
                leg,
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
            )
            status, why = response.status, response.error_comment or ""
        except ContextNotAccepted:
            status, why = Status.SOP_CLASS_NOT_SUPPORTED, "does not take this"
        except Exception as error:  # it cannot be reached, or does not want us; or the other leg has failed
            why = str(error) or type(error).__name__
        if status != Status.SUCCESS:
            raise OperationFailed(status, f"{destination.ae_title}: {why}")

    async def _associate(self, destination: Destination, association: IAssociation) -> ServiceUser:
        contexts = association.contexts.values()
        pairs = [(context.abstract_syntax, context.transfer_syntax) for context in contexts]
        user = await associate(
            self._reactor,
            destination.endpoint,
            calling_ae_title="ROUTER",
            called_ae_title=destination.ae_title,
            contexts=plan([pair for pair in pairs if pair[0] != VERIFICATION], defaults=False),
            observe=lambda event: self._gone(event, destination, association),
            number=next(self._numbers),
        )
        if association not in self._onward:  # it has ended meanwhile
            user.abort()
        return user

    def _gone(self, event: events.Event, destination: Destination, association: IAssociation) -> None:
        """Forget an association with a destination that is over: the next instance needs another."""
        if isinstance(event, events.AbortReceived | events.AbortSent | events.AssociationEnded):
            onward = self._onward.get(association, {})
            if destination in onward and onward[destination].number == event.association.number:
                del onward[destination]


async def released(user: ServiceUser) -> None:
    with suppress(DicomNodeError):  # it has ended otherwise
        await user.release()


def by_itself(going: Coroutine[Any, Any, None]) -> Deferred[None]:
    """Return a Deferred that can be cancelled: what goes on behind it goes on."""
    waiting: Deferred[None] = Deferred()
    Deferred.fromCoroutine(going).chainDeferred(waiting)
    return waiting


@implementer(IInstanceWriter)
class Forwarding:
    """One instance that passes: what the sender brings goes to all legs; the slowest one sets the pace."""

    def __init__(self) -> None:
        self.legs: list[Leg] = []
        self._behind: set[Leg] = set()
        self._sender: IPushProducer | None = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._sender = producer
        if self._behind:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._sender = None

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        octets = b"".join(data)
        for leg in self.legs:
            leg.write(octets)

    def commit(self) -> Deferred[None]:
        """The instance is complete, and was found whole: let the legs end, and wait for the responses."""
        for leg in self.legs:
            leg.complete()
        return by_itself(self._answered())

    def abort(self) -> Deferred[None]:
        """Let no destination take what has come for an instance: the associations are aborted."""
        for leg in self.legs:
            leg.break_off()
        return by_itself(self._ended())

    async def _answered(self) -> None:
        await self._ended()
        if any(leg.problem for leg in self.legs):
            raise self.problem()

    async def _ended(self) -> None:
        for leg in self.legs:
            await leg.ended

    def problem(self) -> OperationFailed:
        """Return what to answer: a failure rather than a warning (0xB000 and above)."""
        problems = [leg.problem for leg in self.legs if leg.problem]
        return min(problems, key=lambda problem: problem.status >> 12 == 0xB)

    def set_behind(self, leg: Leg, behind: bool) -> None:
        """Pause the sender while any leg is behind."""
        before = bool(self._behind)
        (self._behind.add if behind else self._behind.discard)(leg)
        if self._sender is not None and before is not bool(self._behind):
            if self._behind:
                self._sender.pauseProducing()
            else:
                self._sender.resumeProducing()


@implementer(IBodyProducer)
class Leg:
    """An instance on its way to one destination: produces what the forwarding is given."""

    length = UNKNOWN_LENGTH

    def __init__(self, forwarding: Forwarding) -> None:
        self.problem: OperationFailed | None = None
        self.ready: Deferred[None] = Deferred()  #: fires when octets may come, or there is a problem
        self.ended: Deferred[None]  #: fires when it is answered, or there is a problem
        self._forwarding = forwarding
        self._consumer: IConsumer | None = None
        self._produced: Deferred[None] = Deferred()

    def forwards(self, forwarding: Any) -> None:
        """Note how the coroutine ends that this is given to."""
        self.ended = Deferred.fromCoroutine(forwarding).addErrback(self._failed).addBoth(self._over)

    def _failed(self, failure: Any) -> None:
        self.problem = failure.value

    def _over(self, _: None) -> None:
        self._forwarding.set_behind(self, False)
        if not self.ready.called:
            self.ready.callback(None)

    # For the forwarding

    def write(self, octets: bytes) -> None:
        if self._consumer is not None:
            self._consumer.write(octets)

    def complete(self) -> None:
        if self._consumer is not None:
            self._produced.callback(None)

    def break_off(self) -> None:
        if self._consumer is not None:
            self._produced.errback(DicomNodeError("the sender has broken off"))

    # For the association with the destination

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        self.ready.callback(None)
        return self._produced

    def pauseProducing(self) -> None:
        self._forwarding.set_behind(self, True)

    def resumeProducing(self) -> None:
        self._forwarding.set_behind(self, False)

    def stopProducing(self) -> None:
        self._consumer = None


async def main(reactor: Any, *descriptions: str) -> None:
    first, second = descriptions or ("tcp:archive.example.org:104", "tcp:research.example.org:11112")
    destinations = [
        Destination("ARCHIVE", clientFromString(reactor, first)),
        Destination("RESEARCH", clientFromString(reactor, second)),
    ]
    router = Router(reactor, destinations)
    # What becomes of an instance is for the two others to say: support=None.
    storage = Storage(router, support=None)
    acceptor = Acceptor(reactor, [Verification(), storage], observe=router.observe)
    await serverFromString(reactor, "tcp:11112").listen(acceptor)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main, sys.argv[1:])
