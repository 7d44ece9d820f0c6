"""How an association comes about, or does not: A-ASSOCIATE, at either end (PS3.8 7.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from dicomnode import events
from dicomnode.core.association import Association
from dicomnode.core.machine import State
from dicomnode.core.negotiation import narrower
from dicomnode.core.pdu import AssociateAC, AssociateRJ, AssociateRQ
from dicomnode.errors import AssociationRejected
from dicomnode.interfaces import IAssociation


def nobody(association: IAssociation, request: AssociateRQ) -> Deferred[AssociateAC]:
    """Consider nothing: of a requestor nobody requests anything, for the machine has it refused."""
    raise NotImplementedError


class Host(Protocol):
    """What the establishment of an association needs of that."""

    calling_ae_title: str
    called_ae_title: str
    wanted: frozenset[type[events.Event]]  #: of what it wants to be told

    def tell(self, event: events.Event) -> None: ...

    def unexpected(self, failure: Failure, doing: str) -> None: ...

    def pump(self) -> None: ...

    def give_up(self, why: str) -> None: ...

    def came_about(self, window: tuple[int, int] | None) -> None:
        """There is an association, with this asynchronous operations window; None: none was answered."""

    def was_rejected(self) -> None:
        """There is none."""


class Establishment:
    """The request for an association, and the answer to it.

    :param consider: of an acceptor: decides on the peer's request.
    :param request: of a requestor: what it asks for.
    """

    _considering: Deferred[AssociateAC] | None = None

    def __init__(
        self,
        association: IAssociation,
        host: Host,
        core: Association,
        consider: Callable[[AssociateRQ], AssociateAC | Deferred[AssociateAC]],
        request: AssociateRQ | None,
    ) -> None:
        self._association = association
        self._host = host
        self._core = core
        self._consider = consider
        self._request = request
        if request is not None:
            core.request(request)

    @cached_property
    def established(self) -> Deferred[AssociateAC]:
        """Of a requestor: fires when there is an association.

        It fails with AssociationRejected, or with how it came to none.
        """
        return Deferred(self._given_up)

    def opened(self) -> None:
        """There is a transport connection."""
        if self._request is not None:
            self._introduce(self._request)

    def over(self, error: Exception) -> None:
        """The association has ended, or will never be."""
        if self._considering is not None:
            self._considering.cancel()
        request, self._request = self._request, None
        if request is not None and not self.established.called:
            self.established.errback(error)

    def _introduce(self, request: AssociateRQ) -> None:
        self._host.calling_ae_title = request.calling_ae_title
        self._host.called_ae_title = request.called_ae_title
        if events.AssociationRequested in self._host.wanted:
            self._host.tell(events.AssociationRequested(self._association, request))

    # Of a requestor

    def confirmed(self, answer: AssociateAC | AssociateRJ) -> None:
        """The peer has answered."""
        request = self._request
        assert request is not None  # who has not asked for an association is not answered
        if isinstance(answer, AssociateRJ):
            self._request = None
            rejected = AssociationRejected(answer.result, answer.source, answer.reason)
            self._rejected(request, answer, str(rejected))
            self.established.errback(rejected)
            return
        proposed = request.user_information.asynchronous_operations_window or (1, 1)
        accepted = answer.user_information.asynchronous_operations_window or (1, 1)
        self._host.came_about((narrower(proposed[0], accepted[0]), narrower(proposed[1], accepted[1])))
        self._host.tell(events.AssociationAccepted(self._association, request, answer))
        self._request = None
        if not self.established.called:  # else whoever was told has ended it, or waits no longer
            self.established.callback(answer)

    def _given_up(self, established: Deferred[AssociateAC]) -> None:
        established.errback(CancelledError())
        self._host.give_up("the local user does not wait any longer")

    # Of an acceptor

    def requested(self, request: AssociateRQ) -> None:
        """The peer asks for an association."""
        self._introduce(request)
        try:
            answer = self._consider(request)
        except Exception:
            answer = fail()
        if isinstance(answer, Deferred):
            self._considering = answer
            answer.addCallbacks(
                self._accept, self._reject, callbackArgs=(request,), errbackArgs=(request,)
            ).addErrback(self._not_answered)
            return
        try:
            self._accept(answer, request)
        except Exception:
            self._not_answered(Failure())  # type: ignore[no-untyped-call]

    def refused(self, request: AssociateRQ, rejection: AssociateRJ) -> None:
        """The peer's request was refused by the protocol machine."""
        self._introduce(request)
        self._rejected(request, rejection, "the protocol version is not 1")

    def _not_answered(self, failure: Failure) -> None:
        self._host.unexpected(failure, "answering an A-ASSOCIATE-RQ")
        self._host.give_up("an internal error")

    def _accept(self, answer: AssociateAC, request: AssociateRQ) -> None:
        self._considering = None
        if self._core.state is not State.STA3:
            return  # the peer has gone
        self._core.accept(answer)
        # It is the requestor's: what it may invoke we perform (PS3.7 D.3.3.3).
        window = answer.user_information.asynchronous_operations_window
        self._host.came_about(window and (window[1], window[0]))
        if events.AssociationAccepted in self._host.wanted:
            self._host.tell(events.AssociationAccepted(self._association, request, answer))
        self._host.pump()

    def _reject(self, failure: Failure, request: AssociateRQ) -> None:
        self._considering = None
        error = failure.value
        gone = self._core.state is not State.STA3
        if gone and isinstance(error, CancelledError):
            return
        if isinstance(error, AssociationRejected):
            rejection = AssociateRJ(error.result, error.source, error.reason)
        else:
            self._host.unexpected(failure, "considering an A-ASSOCIATE-RQ")
            rejection = AssociateRJ(2, 1, 1)  # transient, service user, no reason given
        if gone:
            return
        self._core.reject(rejection.result, rejection.source, rejection.reason)
        self._rejected(request, rejection, str(error))
        self._host.pump()

    def _rejected(self, request: AssociateRQ, rejection: AssociateRJ, why: str) -> None:
        self._host.was_rejected()
        self._host.tell(events.AssociationRejected(self._association, request, rejection, why))
