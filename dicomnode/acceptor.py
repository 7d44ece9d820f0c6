"""They associate with us: the factory of associations that are requested of us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Protocol

from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory

from dicomnode import events
from dicomnode.core.association import Association
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import narrower
from dicomnode.core.pdu import APPLICATION_CONTEXT, AssociateAC, AssociateRQ
from dicomnode.errors import AssociationRejected
from dicomnode.identity import Login, log_in, log_out
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import IAssociation, IAssociationPolicy, IService
from dicomnode.limits import Limits, Slots
from dicomnode.networks import host
from dicomnode.offer import Offer, Served
from dicomnode.policies import AcceptAny, ask, certificate_of, without
from dicomnode.protocol import AssociationProtocol
from dicomnode.timers import Timeouts
from dicomnode.waiting import begun
from dicomnode.wire import Reads


class Listener(Protocol):
    """What an acceptor knows of a service that listens for it."""

    shares: bool  #: may another one have the same acceptor?


class Acceptor(Factory):
    """Accepts associations, and lets services perform what is asked on them.

    :param reactor: its clock; listening is the business of an endpoint.
    :param services: what is served. Where two serve an abstract syntax, the first does.
    :param policy: who may associate, and for what.
    :param portal: where the users of those log in; without one, user identities are not looked at.
    :param limits: how many may, at a time.
    :param slots: where those are counted; not here alone, where several processes share them.
    :param max_length: of a P-DATA-TF that we accept, in octets; 0 is no limit.
    :param asynchronous_operations: how many operations we would invoke, and perform, at a time on an
        association whose requestor proposes a window (PS3.7 D.3.3.3). It is not answered where both are one.
    :param timeouts: how long peers may be silent.
    :param observe: is told of everything.
    :param trace: tell it of each step of the protocol machine, too.
    """

    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        services: Sequence[IService],
        *,
        policy: IAssociationPolicy | None = None,
        portal: Portal | None = None,
        limits: Limits = Limits(),
        slots: Slots | None = None,
        max_length: int = 16382,
        asynchronous_operations: tuple[int, int] = (1, 1),
        timeouts: Timeouts = Timeouts(),
        observe: events.Observer = events.ignore,
        trace: bool = False,
    ) -> None:
        if not all(0 < operations <= 0xFFFF for operations in asynchronous_operations):
            raise ValueError(f"asynchronous_operations: {asynchronous_operations} is out of 1 to 65535")
        #: on which it runs
        self.reactor = reactor
        self._services = services
        self._policy = AcceptAny() if policy is None else policy
        self._portal = portal
        self._limits = limits
        self._max_length = max_length
        self._timeouts = timeouts
        self._observe = observe
        self._wanted = events.wanted(observe)
        self._tell = events.guarded(observe)
        self._trace = trace
        self._offer = Offer(services)
        self._asynchronous_operations = asynchronous_operations
        self._information = UserInformation(
            max_length=max_length,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        )
        self._numbers = count(1)
        self._reads = Reads()
        self._draining = False
        #: which services listen for it: the last of them that stops is to drain it
        self.nodes: set[Listener] = set()
        self._awaiting_end: list[tuple[Deferred[None], IDelayedCall]] = []
        #: those whose transport connection is open
        self.associations: set[AssociationProtocol] = set()
        #: who has logged in on which of them
        self.logins: dict[IAssociation, Login] = {}
        self._slots = Slots(limits) if slots is None else slots
        # Those that hold no slot, the oldest first. What is dropped is in it no more.
        self._half_open: dict[AssociationProtocol, None] = {}
        self._dropping = False

    def buildProtocol(self, addr: IAddress | None) -> AssociationProtocol | None:
        if self._draining:
            return None
        served = Served(self._services)
        association = AssociationProtocol(
            Association(Role.ACCEPTOR, max_length=self._max_length),
            clock=self.reactor,
            service_for=served,
            consider=partial(self._consider, served),
            closed=self._closed,
            timeouts=self._timeouts,
            observe=self._observe,
            wanted=self._wanted,
            trace=self._trace,
            number=next(self._numbers),
            reads=self._reads,
        )
        association.factory = self
        self.associations.add(association)
        self._half_open[association] = None
        self._slots.connected()
        if 0 < self._limits.half_open < len(self._half_open):
            self._drop_oldest()
        return association

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._half_open))
        if not self._dropping:  # said once for each time that they become too many
            self._dropping = True
            hosts = Counter(host(one.peer) for one in self._half_open if one.transport is not None)
            ((holder, held),) = hosts.most_common(1) or [("nowhere", 0)]
            self._tell(events.TooManyHalfOpen(self._limits.half_open, holder, held))
        self._not_half_open(oldest)
        oldest.drop()

    def _not_half_open(self, association: AssociationProtocol) -> None:
        self._half_open.pop(association, None)
        if len(self._half_open) * 2 <= self._limits.half_open:
            self._dropping = False

    def tls_failed(self, peer: IAddress, why: str) -> None:
        """Tell that there is no TLS with a peer: the endpoint says so, which alone knows."""
        self._tell(events.TLSFailed(peer, why))

    def accept(self) -> None:
        """Accept associations, as it does from the beginning: again, where it was drained.

        :raises RuntimeError: when what is in flight has yet to end.
        """
        if self._awaiting_end:
            raise RuntimeError("the acceptor is being drained")
        self._draining = False

    def drain(self, grace: float) -> Deferred[None]:
        """Accept no one any more, answer what is in flight, then abort: every peer is told.

        :param grace: how long that may take, in seconds; what is unanswered then is aborted, too.
        :return: fires when the last transport connection is closed.
        """
        self._draining = True
        for association in list(self.associations):
            association.drain()
        if not self.associations:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._awaiting_end.append((drained, self.reactor.callLater(grace, self._stop)))
        return drained

    def _stop(self) -> None:
        for association in list(self.associations):
            association.stop()

    def _closed(self, association: AssociationProtocol) -> None:
        self.associations.discard(association)
        self._slots.free(association)
        if association in self._half_open:
            self._not_half_open(association)
        login = self.logins.pop(association, None)
        if login is not None:
            log_out(login.logout, association)
        if self._draining and not self.associations:
            awaiting, self._awaiting_end = self._awaiting_end, []
            for drained, patience in awaiting:
                if patience.active():
                    patience.cancel()
                drained.callback(None)

    def _consider(
        self, served: Served, association: AssociationProtocol, request: AssociateRQ
    ) -> AssociateAC | Deferred[AssociateAC]:
        return begun(self._ask(served, association, request))

    async def _ask(
        self, served: Served, association: AssociationProtocol, request: AssociateRQ
    ) -> AssociateAC:
        if request.application_context != APPLICATION_CONTEXT:
            raise AssociationRejected(1, 1, 2, "the Application Context Name is not DICOM's")
        peer = association.peer
        allowed = await ask(self._policy, request, peer, certificate_of(association.transport))
        login = None
        if self._portal is not None:
            identity = request.user_information.user_identity
            clock, seconds = self.reactor, self._timeouts.acse
            login = await log_in(self._portal, association, identity, clock=clock, seconds=seconds)
        if association not in self.associations:  # and its policy has taken no notice of that
            if login is not None:
                log_out(login.logout, association)
            raise CancelledError
        information = self._information
        proposed = request.user_information.asynchronous_operations_window
        if proposed is not None and self._asynchronous_operations != (1, 1):
            # It is the requestor's: what it may invoke we perform. A limit of none is never agreed to.
            invoke, perform = self._asynchronous_operations
            window = narrower(proposed[0], perform), narrower(proposed[1], invoke)
            information = replace(information, asynchronous_operations_window=window)
        if allowed is None:
            accepted = self._offer.answer(request, information, served)
        else:
            narrowed = replace(request, contexts=tuple(allowed))
            accepted = without(self._offer.answer(narrowed, information, served), request)
        if login is not None:
            self.logins[association] = login
            association.tell(events.LoggedIn(association, login.name))
            information = replace(accepted.user_information, user_identity_response=login.response)
            accepted = replace(accepted, user_information=information)
        self._slots.take(association, peer)
        self._not_half_open(association)
        return accepted
