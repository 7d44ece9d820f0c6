"""Everything a third party can implement, and the values that cross it.

A storage keeps instances; a service performs operations; a policy says who may associate. An
association and an operation are what these are given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IConsumer, IReactorTime
from zope.interface import Attribute, Interface

from dicomnode.core.command import CStoreRQ, Request, Response
from dicomnode.core.dataset import Walk
from dicomnode.core.items import CommonExtendedNegotiation
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import AssociateRQ, ProposedContext
from dicomnode.values import quick

if TYPE_CHECKING:
    from twisted.internet.ssl import Certificate  # which needs pyOpenSSL


#: Of a policy that does not refuse: the presentation contexts that it lets be accepted, or None for all; at
#: once, or by a Deferred or a coroutine.
Decision: TypeAlias = Sequence[ProposedContext] | Awaitable[Sequence[ProposedContext] | None] | None
#: Is called with each response to what was invoked, the pending ones too, and with its data set.
OnResponse: TypeAlias = Callable[[Response, bytes], None]
#: Is called with the octets of a data set that were sent, and with how many there are if that is known.
Progress: TypeAlias = Callable[[int, int | None], None]


class Body(Protocol):
    """Produces a data set that is sent: what Twisted knows as ``twisted.web.iweb.IBodyProducer``."""

    @property
    def length(self) -> Any:
        """How many octets; anything but an int where that is not known."""

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Begin to ``write`` to an IConsumer. The Deferred fires when all is written, or fails."""

    def pauseProducing(self) -> None:
        """Write no more, until :meth:`resumeProducing`."""

    def resumeProducing(self) -> None:
        """Go on."""

    def stopProducing(self) -> None:
        """Write no more, and let go of what is held: the Deferred never fires."""


class IAssociation(Interface):
    """An association: who is at its two ends, and how to end it."""

    clock: IReactorTime = Attribute("By which its timeouts and turns go: a reactor, or a Clock in tests.")
    number: int = Attribute("Tells it from the others of its factory; it counts from 1.")
    role: Role = Attribute("Whether we asked for it.")
    peer: IAddress = Attribute("The other end's address.")
    calling_ae_title: str = Attribute("The requestor's title; empty before it is known.")
    called_ae_title: str = Attribute("The title that the requestor asked for; empty before it is known.")
    contexts: Mapping[int, PresentationContext] = Attribute("What was agreed upon, by id.")

    def release() -> Deferred[None]:
        """Ask the other end to end the association in good order (PS3.8 7.2).

        What was invoked before is answered first; nothing can be invoked any more.
        The Deferred fires when it has ended, and fails with AssociationAborted or AssociationLost; where it
        had ended before, with how, or with LocalProtocolError if it was released, or is being.
        """

    def abort() -> None:
        """End the association at once, and tell the other end (PS3.8 7.3)."""

    def when_ended() -> Deferred[None]:
        """Wait for the end of the association: as often as you like, and after it, too.

        The Deferred fires when either end has released it in good order, and fails with how it ended
        otherwise: AssociationAborted, AssociationTimedOut or AssociationLost. Each caller has one of its
        own, and may cancel that.
        """

    def invoke(
        request: Request,
        data_set: bytes | Body | None = None,
        *,
        context: PresentationContext | int | str | None = None,
        on_response: OnResponse | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Response]:
        """Invoke an operation on the other end, or a notification, once those before it have been.

        As many are unanswered at a time as the asynchronous operations window allows: one, if none was
        negotiated (PS3.7 D.3.3.3). The others wait for their turn, first come, first served.

        :param request: the command set. Its Message ID does not matter: another is put in its place.
        :param data_set: in the transfer syntax of the context; it is cut to the other end's maximum length.
        :param context: on which it is sent: one, its id, or its abstract syntax. Without it, that of
            the SOP Class that the request names.
        :param on_response: is called with each response, the last included, and its data set.
        :return: fires with the last response, whatever its status. It fails with ContextNotAccepted, with
            what the data set failed with, or with how the association ended: AssociationAborted,
            AssociationTimedOut, AssociationLost or AssociationReleased. If it is cancelled, what has not
            begun is not sent; a C-FIND, C-GET or C-MOVE is sent a C-CANCEL-RQ; of anything else the
            response is awaited, and dropped.
        """


class IOperation(Interface):
    """An operation that the other end invoked: a request, and what becomes of it."""

    association: IAssociation = Attribute("On which it was invoked.")
    context: PresentationContext = Attribute("On which it was invoked.")
    request: Request = Attribute("The command set of the request.")
    has_data_set: bool = Attribute("Does a data set come with the request?")

    def deliver_data_set(consumer: IConsumer) -> Deferred[None]:
        """Hand the data set on to ``consumer`` as it arrives.

        Until this is called, nothing more is read from the peer. The operation is registered with
        the consumer as a streaming producer: ``pauseProducing`` pauses the transport, and
        ``stopProducing`` says that the consumer wants no more: the rest is received and dropped.
        An :class:`IInstanceWriter` is given the fragments of one read in one ``writeSequence``.

        The Deferred fires when the last fragment has been handed on, and fails with what the
        consumer raised, or with CancelledError when the association ends before that.
        """

    def read_data_set(limit: int) -> Deferred[bytes]:
        """Return the data set whole.

        The Deferred fails with OperationFailed (0xA700) when it is longer than ``limit`` octets.
        """


@dataclass(frozen=True, slots=True)
class Instance:
    """A composite SOP instance that is about to arrive, as its C-STORE-RQ names it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    association: IAssociation = field(compare=False, repr=False)
    #: what has been seen of its data set, complete when the writer's commit is called; None: it is not walked
    walk: Walk | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, operation: IOperation, walk: Walk | None = None) -> Instance:
        """Return the instance that a C-STORE operation brings."""
        request = operation.request
        assert isinstance(request, CStoreRQ)
        make = _quickly if cls is Instance else cls
        return make(
            sop_class_uid=request.affected_sop_class_uid,
            sop_instance_uid=request.affected_sop_instance_uid,
            transfer_syntax_uid=operation.context.transfer_syntax,
            calling_ae_title=operation.association.calling_ae_title,
            called_ae_title=operation.association.called_ae_title,
            association=operation.association,
            walk=walk,
        )


_quickly = quick(Instance)


class IInstanceWriter(IConsumer):
    """Receives the data set of one instance. Exactly one of commit and abort is called, once.

    A writer that is behind calls its producer's ``pauseProducing`` and ``resumeProducing``; a few
    fragments may still come after the former. One that can write no more calls ``stopProducing``,
    and lets ``commit`` fail with the cause.
    """

    def write(data: bytes) -> None:
        """Take the next octets of the data set."""

    def writeSequence(data: Sequence[bytes | memoryview]) -> None:
        """Take the next octets of the data set: what one read from the transport contained of them.

        What it contained may come in several turns, where it takes long to be walked.

        The memoryviews may be kept: they stay as they are.
        """

    def commit() -> Awaitable[int | None]:
        """The data set is complete: keep the instance.

        The Deferred that this returns, or the coroutine, fires once the instance is kept as well as this
        storage promises: Success is answered then; or, where it fires with one, a warning (PS3.4 B.2.3:
        B000, B006, B007), by which the instance is stored as well. When it fails, the instance is not kept,
        and what there was of it before is as it was. An OSError is answered with 0xA700, an OperationFailed
        with its status. Nobody cancels it: what was begun to be kept is kept, though the association ends.
        """

    def abort() -> Awaitable[None]:
        """Forget what was written. Fires when nothing is left of it; nobody cancels that."""


class IStorage(Interface):
    """Keeps composite SOP instances."""

    def open(instance: Instance) -> Awaitable[IInstanceWriter]:
        """Begin to keep an instance.

        The Deferred that this returns, or the coroutine, may fail as a writer's commit may. Until it fires,
        nothing is read from the peer. If that goes away meanwhile, the writer is aborted.
        """


class IImmediateStorage(IStorage):
    """A storage that can keep an instance at one stretch, where its data set has come as a whole.

    Small ones do. They then need no writer, no producer and no Deferred, which cost more than to keep them.
    """

    immediate: bool = Attribute("Can it now, without waiting for anything? Else it is asked to open.")

    def keep(instance: Instance, data_set: Sequence[bytes | memoryview]) -> None:
        """Keep an instance as a writer's commit does, before returning; raise as that fails."""


class IService(Interface):
    """Performs the operations of some SOP Classes."""

    contexts: Mapping[str, Sequence[str]] = Attribute(
        "For each abstract syntax that is served, the transfer syntaxes, preferred first."
    )

    def perform(operation: IOperation) -> Awaitable[int] | int:
        """Perform an operation and return, or fire with, the status of its response.

        Fail with OperationFailed to answer another status, with an Error Comment; an OSError is
        answered with 0xA700, and so is how an association has ended that it needed; anything else with
        0x0110, and logged as a bug. It is cancelled when
        the association ends, or, if it is a C-FIND, C-GET or C-MOVE, upon a C-CANCEL-RQ.
        """


class IRoleSelection(IService):
    """A service that is an SCU, too, on associations that the other end requests (PS3.7 D.3.3.4).

    One that performs C-GETs is: it invokes C-STOREs on the association of the C-GET (PS3.4 C.4.3). The
    other end proposes to be the SCP of these SOP Classes; what is agreed upon is in the ``scu`` and ``scp``
    of a context.
    """

    contexts_as_scu: Mapping[str, Sequence[str]] = Attribute(
        "For each abstract syntax of which the other end may be SCP, the transfer syntaxes, preferred first."
    )


class IExtendedNegotiation(IService):
    """A service whose SOP Classes have more to be agreed upon than contexts (PS3.7 D.3.3.5)."""

    def application_information(sop_class_uid: str, proposed: bytes) -> bytes | None:
        """Return the service-class-application-information that answers what is proposed; None: no answer.

        It is asked for each SOP Class that is proposed with some, and accepted. What the octets mean is this
        service's to say; those that are proposed may be any.
        """


class ICommonExtendedNegotiation(IService):
    """A service that takes SOP Classes it does not know, by what is said of them (PS3.7 D.3.3.6)."""

    def transfer_syntaxes_for(proposed: CommonExtendedNegotiation) -> Sequence[str] | None:
        """Return the transfer syntaxes for a SOP Class, preferred first, or None where it is not taken.

        It is asked for abstract syntaxes that no service has in its ``contexts``. Those that it takes are
        its own on this association: it performs their operations.

        :param proposed: the SOP Class, with its Service Class and its related general SOP Classes.
        """


class IAssociationPolicy(Interface):
    """Says who may associate."""

    def consider(request: AssociateRQ, peer: IAddress) -> Decision:
        """Return, or fire, to accept. Raise, or fail with, AssociationRejected to refuse.

        To accept no more than some of the presentation contexts, return those of ``request.contexts``, or
        the same with fewer transfer syntaxes; the others are rejected, by the user (PS3.8 Table 9-18). None
        leaves it to the services which are accepted.

        :param peer: the other end's address.
        """


class ICertificatePolicy(IAssociationPolicy):
    """Says who may associate, and looks at the certificate for that."""

    def consider(request: AssociateRQ, peer: IAddress, certificate: Certificate | None = None) -> Decision:
        """Decide as :class:`IAssociationPolicy` does.

        :param certificate: the peer's, which has been verified against the trust roots of the endpoint;
            None where the connection is not TLS, or the peer has shown none.
        """


class IUser(Interface):
    """A user who has logged in: the avatar that a realm of :mod:`twisted.cred` makes."""

    name: str = Attribute("By which a log may know the user; empty for nobody in particular.")


class IReadable(Interface):
    """Certificates in files, which can be read again: ``storescp`` does upon SIGHUP.

    Endpoints that have any may provide it.
    """

    path: str = Attribute("Names the certificates in the log.")

    def read() -> None:
        """Read the files again. Raise ValueError, with a line on what is wrong, to stay as before."""


class IShareable(IReadable):
    """Certificates that one of several processes reads from files, and tells the others.

    Those that can only be read again are read by each process of ``storescp --processes``.
    """

    contents: Mapping[str, bytes] = Attribute("What is in force of the files, by their paths.")

    def use(contents: Mapping[str, bytes]) -> None:
        """Let this be in force, as if it had been read. Raise ValueError, as above."""
