"""We associate with them: associations that we request, and what we have the other end do on them.

:func:`associate` is the way to an association, over any of Twisted's client endpoints. What it gives is
a :class:`ServiceUser`, by which operations are invoked: C-ECHO, C-STORE, and any other of PS3.7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dicomnode import events
from dicomnode.core.association import Association
from dicomnode.core.command import MEDIUM, CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, Request, Response
from dicomnode.core.items import (
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from dicomnode.core.machine import Role
from dicomnode.core.negotiation import PresentationContext
from dicomnode.core.pdu import AssociateAC, AssociateRQ, ProposedContext
from dicomnode.errors import TooManyContexts
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.interfaces import Body, IAssociation, IService, OnResponse, Progress
from dicomnode.message import Message
from dicomnode.offer import Served
from dicomnode.protocol import AssociationProtocol
from dicomnode.sources import CONTEXTS, Names, Source, Storable, open_source
from dicomnode.sources import plan as plan
from dicomnode.timers import Timeouts
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, VERIFICATION

_VERIFICATION = {VERIFICATION: (IMPLICIT_VR_LE, EXPLICIT_VR_LE)}


@implementer(IAssociation)
class ServiceUser:
    """Uses the services of the other end of an association: an SCU, in the words of PS3.7.

    :func:`associate` makes one. A service can make one for the association of an operation, too: which end
    asked for the association does not matter.

    An operation that cannot be invoked, or is not answered, is a Deferred that fails, as
    :meth:`dicomnode.interfaces.IAssociation.invoke` says. A response with another status than Success is no
    failure: look at its ``status``.

    :param pool: in whose threads files are opened and read; the reactor's own, if there is none.
    :param application_information: what the other end has answered to what we proposed as ``extended``.
    """

    def __init__(
        self,
        association: AssociationProtocol,
        pool: ThreadPool | None = None,
        application_information: Mapping[str, bytes] = {},
    ) -> None:
        self._association = association
        self._pool = pool
        self.number = association.number
        self.clock = association.clock
        #: for SOP Classes, what the other end has answered to ``extended``; what the octets mean is for the
        #: service class to say (PS3.7 D.3.3.5)
        self.application_information = application_information

    @property
    def role(self) -> Role:
        return self._association.role

    @property
    def peer(self) -> IAddress:
        return self._association.peer

    @property
    def calling_ae_title(self) -> str:
        return self._association.calling_ae_title

    @property
    def called_ae_title(self) -> str:
        return self._association.called_ae_title

    @property
    def contexts(self) -> Mapping[int, PresentationContext]:
        """What was agreed upon, by id; those that the other end refused are not there."""
        return self._association.contexts

    @cached_property
    def _as_scu(self) -> Mapping[int, PresentationContext]:
        """The contexts on which we are SCU, by the roles that were agreed upon (PS3.7 D.3.3.4)."""
        requested = self.role is Role.REQUESTOR
        return {one.id: one for one in self.contexts.values() if (one.scu if requested else one.scp)}

    def echo(self) -> Deferred[CEchoRSP]:
        """C-ECHO: ask whether the other end is there (PS3.7 9.1.5). Fires with the response."""
        request = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=0)
        return self.invoke(request)  # type: ignore[return-value]  # a C-ECHO-RQ is answered by its like

    def store(
        self,
        what: Storable,
        *,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        transfer_syntax_uid: str | None = None,
        priority: int = MEDIUM,
        move_originator: tuple[str, int] | None = None,
        progress: Progress | None = None,
    ) -> Deferred[CStoreRSP]:
        """C-STORE: send a composite instance (PS3.7 9.1.1). Fires with the response.

        It is sent once what was invoked before is answered, and looked at no earlier. Beside what ``invoke``
        fails with, the Deferred fails with OSError or InvalidFile when a file cannot be read or is not
        one of DICOM, with ValueError when a name is missing, and with what the producer failed with.
        A data set that ends by such a failure once it has begun takes the association with it, by an A-ABORT.

        :param what: the path of a DICOM file, whose data set is sent as it is, in pieces, however long; a
            data set of pydicom, which is encoded in its own transfer syntax, or, if it is not compressed and
            that was not accepted, in Explicit or Implicit VR Little Endian; the octets of a data set; or what
            produces these, as ``twisted.web.iweb.IBodyProducer`` does. The last two need all three names.
        :param sop_class_uid: of the instance, instead of what the file or the data set says.
        :param sop_instance_uid: the same.
        :param transfer_syntax_uid: the same: there must be a context for both, else it is ContextNotAccepted.
        :param priority: 0 medium, 1 high, 2 low.
        :param move_originator: AE title and Message ID of the C-MOVE-RQ that asked for it.
        :param progress: is called with the octets of the data set that were sent, and how many there are.
        """
        names = Names(sop_class_uid, sop_instance_uid, transfer_syntax_uid)

        def prepare(clock: IReactorTime) -> Message | Deferred[Message]:
            source = open_source(what, names, self._as_scu, clock, self._pool)
            return source.addCallback(message) if isinstance(source, Deferred) else message(source)

        def message(source: Source) -> Message:
            title, message_id = move_originator or (None, None)
            request = CStoreRQ(
                affected_sop_class_uid=source.sop_class_uid,
                message_id=0,
                affected_sop_instance_uid=source.sop_instance_uid,
                priority=priority,
                move_originator_ae_title=title,
                move_originator_message_id=message_id,
            )
            return Message(source.context, request, source.body)

        return self._association.invokes(prepare, progress=progress)  # type: ignore[return-value]  # as above

    def invoke(
        self,
        request: Request,
        data_set: bytes | Body | None = None,
        *,
        context: PresentationContext | int | str | None = None,
        on_response: OnResponse | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Response]:
        """Invoke any operation: see :meth:`dicomnode.interfaces.IAssociation.invoke`."""
        return self._association.invoke(
            request, data_set, context=context, on_response=on_response, progress=progress
        )

    def release(self) -> Deferred[None]:
        """End the association in good order, once what was invoked is answered (PS3.8 7.2)."""
        return self._association.release()

    def abort(self) -> None:
        """End the association at once (PS3.8 7.3): what is unanswered fails with AssociationAborted."""
        self._association.abort()

    def when_ended(self) -> Deferred[None]:
        """Wait for the end of the association, whoever ends it.

        The Deferred fires when it was released, and fails with how it ended otherwise: see
        :meth:`dicomnode.interfaces.IAssociation.when_ended`.
        """
        return self._association.when_ended()


def associate(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    calling_ae_title: str = "DICOMNODE",
    called_ae_title: str = "ANY-SCP",
    contexts: Mapping[str, Sequence[str]] | Sequence[ProposedContext] = _VERIFICATION,
    services: Sequence[IService] = (),
    roles: Mapping[str, tuple[bool, bool]] = {},
    extended: Mapping[str, bytes] = {},
    common_extended: Sequence[CommonExtendedNegotiation] = (),
    asynchronous_operations: tuple[int, int] = (1, 1),
    user_identity: UserIdentity | None = None,
    timeouts: Timeouts = Timeouts(),
    max_length: int = 16382,
    observe: events.Observer = events.ignore,
    trace: bool = False,
    number: int = 1,
    pool: ThreadPool | None = None,
) -> Deferred[ServiceUser]:
    """Request an association (PS3.8 7.1).

    The Deferred fires when it is established, even if no context was accepted; it fails with

    - what the endpoint failed with, where there is no transport connection;
    - AssociationRejected, with the standard's result, source and reason;
    - AssociationAborted, with its source and reason, or AssociationTimedOut, when there is no answer
      within ``timeouts.acse``;
    - AssociationLost, where the connection goes away;
    - CancelledError, if it is cancelled: an A-ABORT is sent, if there is anyone to send it to.

    :param reactor: its clock: the connection is the endpoint's business.
    :param endpoint: to which to connect; for TLS, what ``twisted.internet.endpoints.wrapClientTLS`` makes.
    :param contexts: the transfer syntaxes for each abstract syntax, of which the other end chooses one; or
        the contexts themselves, as :func:`plan` makes them for what is to be stored. At most 128.
    :param services: they perform what the other end invokes, as those of an acceptor do.
    :param roles: for SOP Classes, whether we can be SCU, and SCP (PS3.7 D.3.3.4). To be sent instances on
        this association, by a C-GET, is to be SCP of their class.
    :param extended: for SOP Classes, service-class-application-information to propose (PS3.7 D.3.3.5); the
        answers are the :attr:`ServiceUser.application_information`.
    :param common_extended: of which Service Class SOP Classes are that the other end may not know, and from
        which they are specialized (PS3.7 D.3.3.6). It has no answer but whether contexts are accepted.
    :param asynchronous_operations: how many operations we would invoke, and perform, at a time; 0 is no
        limit (PS3.7 D.3.3.3): then 65,535 may be unanswered, and 64 are performed at a time, while the others
        wait unread. Without a window in the answer it is one.
    :param user_identity: of the user on whose behalf we ask (PS3.7 D.3.3.7).
    :param timeouts: how long the other end may be silent: ``acse`` for its answers to A-ASSOCIATE-RQ and
        A-RELEASE-RQ, ``dimse`` for a response, ``network`` for reading what is sent to it. An association
        on which nothing is invoked is left alone.
    :param max_length: of a P-DATA-TF that we accept, in octets; 0 is no limit.
    :param observe: is told of everything.
    :param trace: tell it of each step of the protocol machine, too.
    :param number: tells it from others in what an observer is told.
    :param pool: in whose threads files are opened and read; the reactor's own, if there is none.
    :raises ValueError: when an AE title is not one to 16 characters long, there is no context, or something
        of what is asked for cannot be encoded.
    :raises TooManyContexts: when there are more than 128.
    """
    for title in (calling_ae_title, called_ae_title):
        if not 0 < len(title.strip()) <= 16:
            raise ValueError(f"{title!r} is not an AE title")
    if isinstance(contexts, Mapping):
        contexts = [
            ProposedContext(2 * index + 1, abstract_syntax, tuple(transfer_syntaxes))
            for index, (abstract_syntax, transfer_syntaxes) in enumerate(contexts.items())
        ]
    if not contexts:
        raise ValueError("there is no presentation context")
    if len(contexts) > CONTEXTS:
        raise TooManyContexts(len(contexts))
    information = UserInformation(
        max_length=max_length,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        asynchronous_operations_window=None if asynchronous_operations == (1, 1) else asynchronous_operations,
        roles=tuple(RoleSelection(sop_class, *may) for sop_class, may in roles.items()),
        extended=tuple(ExtendedNegotiation(sop_class, octets) for sop_class, octets in extended.items()),
        common_extended=tuple(common_extended),
        user_identity=user_identity,
    )
    request = AssociateRQ(called_ae_title, calling_ae_title, tuple(contexts), information)
    try:
        request.encode()
    except Exception as error:  # once connected, nobody could be told
        raise ValueError(f"the request cannot be encoded: {error}") from error
    association = AssociationProtocol(
        Association(Role.REQUESTOR, max_length=max_length),
        clock=reactor,
        service_for=Served(services),
        request=request,
        closed=lambda _: None,
        timeouts=timeouts,
        observe=observe,
        trace=trace,
        number=number,
    )

    def using(answer: AssociateAC) -> ServiceUser:
        answered = answer.user_information.extended
        information = {item.sop_class_uid: item.application_information for item in answered}
        return ServiceUser(association, pool, information)

    connecting = endpoint.connect(_Connecting(association)).addErrback(_not_connected)
    return connecting.addCallback(lambda _: association.established).addCallback(using)


def _not_connected(failure: Failure) -> Failure:
    # Twisted's endpoints have a word of their own for it, which is no CancelledError.
    if failure.check(ConnectingCancelledError):  # type: ignore[no-untyped-call]
        raise CancelledError
    return failure


class _Connecting(Factory):
    """Gives the one association to the one connection."""

    noisy = False

    def __init__(self, association: AssociationProtocol) -> None:
        self._association = association

    def buildProtocol(self, addr: IAddress | None) -> AssociationProtocol:
        return self._association
