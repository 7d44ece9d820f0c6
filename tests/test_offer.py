"""Tests of :mod:`dicomnode.offer`: what services make of a proposal, as their peer is told."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.command import CGetRQ, CStoreRSP, Status
from dicomnode.core.items import (
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    RoleSelection,
    UserInformation,
    encode_item,
)
from dicomnode.core.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, ProposedContext
from dicomnode.errors import ContextNotAccepted
from dicomnode.interfaces import (
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IOperation,
    IRoleSelection,
    IService,
)
from dicomnode.requestor import ServiceUser, associate
from dicomnode.services import Storage
from dicomnode.testing import MemoryStorage, Network, Peer
from dicomnode.timers import Timeouts
from dicomnode.uids import STORAGE_SERVICE_CLASS
from tests.cases import CT_IMAGE_STORAGE, IMPLICIT_VR_LE, Service, ShellTestCase, store_rq
from tests.core.helpers import arrivals, stable

GET = "1.2.840.10008.5.1.4.1.2.2.3"
MR = "1.2.840.10008.5.1.4.1.1.4"
PRIVATE = "1.2.840.99999.1"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"

#: Sub-items of a proposal: such as there may be, and any octets in their place.
proposable = st.sampled_from((CT_IMAGE_STORAGE, MR, PRIVATE, GET, STORAGE_SERVICE_CLASS, "", "1.9"))
items = st.builds(encode_item, st.integers(0x53, 0x57), st.binary(max_size=40)) | st.builds(
    UserInformation,
    asynchronous_operations_window=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    roles=st.tuples(st.builds(RoleSelection, proposable, st.booleans(), st.booleans())),
    extended=st.tuples(st.builds(ExtendedNegotiation, proposable, st.binary(max_size=10))),
    common_extended=st.tuples(
        st.builds(
            CommonExtendedNegotiation, proposable, proposable, st.lists(proposable, max_size=3).map(tuple)
        )
    ),
).map(UserInformation.encode)


@implementer(IRoleSelection)
class Retrieve(Service):
    """Performs C-GET: stores on the association what it is told to have."""

    def __init__(self, *instances: str, syntaxes: Sequence[str] = (IMPLICIT_VR_LE,)) -> None:
        super().__init__(self._get, GET)
        self.contexts_as_scu: Mapping[str, Sequence[str]] = {CT_IMAGE_STORAGE: syntaxes}
        self.instances = instances
        self.failures: list[Exception] = []

    async def _get(self, operation: IOperation) -> int:
        await operation.read_data_set(1000)
        user = ServiceUser(operation.association)  # type: ignore[arg-type]
        for instance in self.instances:
            try:
                await user.store(
                    b"data of " + instance.encode(),
                    sop_class_uid=CT_IMAGE_STORAGE,
                    sop_instance_uid=instance,
                    transfer_syntax_uid=IMPLICIT_VR_LE,
                )
            except ContextNotAccepted as error:
                self.failures.append(error)
        return Status.SUCCESS


@implementer(IExtendedNegotiation)
class Informed(Service):
    """Answers information with what a function makes of it."""

    def __init__(self, answer: Any, *abstract_syntaxes: str) -> None:
        super().__init__(lambda _: succeed(0), *abstract_syntaxes)
        self.asked: list[tuple[str, bytes]] = []
        self.answer = answer

    def application_information(self, sop_class_uid: str, proposed: bytes) -> bytes | None:
        self.asked.append((sop_class_uid, proposed))
        answer: bytes | None = self.answer(proposed)
        return answer


@implementer(ICommonExtendedNegotiation)
class General(Service):
    """Takes what is related to its one SOP Class."""

    def transfer_syntaxes_for(self, proposed: CommonExtendedNegotiation) -> Sequence[str] | None:
        (general,) = self.contexts
        return self.contexts[general] if general in proposed.related_general_sop_class_uids else None


class OfferCase(ShellTestCase):
    """A peer that proposes more than contexts."""

    def proposes(self, contexts: Mapping[str, Sequence[str]], **information: Any) -> tuple[Peer, AssociateAC]:
        """Return a peer, and what it was answered."""
        peer = self.connects()
        peer.associates(contexts, user_information=UserInformation(16382, **information))
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC), confirmed
        peer.indications.clear()
        return peer, confirmed.answer

    def assertResults(self, answer: AssociateAC, *results: int) -> None:
        self.assertEqual([context.result for context in answer.contexts], [*results])


class RoleTests(OfferCase):
    """In which roles the two ends are (PS3.7 D.3.3.4)."""

    def answers(
        self, *proposed: tuple[bool, bool], syntaxes: Sequence[str] = (IMPLICIT_VR_LE,)
    ) -> tuple[list[tuple[bool, bool]], list[tuple[int, str]]]:
        """Propose roles for CT images. Return those that were answered, and the contexts."""
        roles = tuple(RoleSelection(CT_IMAGE_STORAGE, *role) for role in proposed)
        _, answer = self.proposes({CT_IMAGE_STORAGE: syntaxes}, roles=roles)
        for role in answer.user_information.roles:
            self.assertEqual(role.sop_class_uid, CT_IMAGE_STORAGE)
        return (
            [(role.scu, role.scp) for role in answer.user_information.roles],
            [(context.result, context.transfer_syntax) for context in answer.contexts],
        )

    def test_interfaces(self) -> None:
        """What a service may say, it says by these interfaces; none of them is asked of all services."""
        verifyObject(IRoleSelection, Retrieve())
        verifyObject(IExtendedNegotiation, Informed(None))
        verifyObject(ICommonExtendedNegotiation, General(lambda _: succeed(0)))
        self.assertFalse(IRoleSelection.providedBy(Storage(self.storage)))
        for interface in (IRoleSelection, IExtendedNegotiation, ICommonExtendedNegotiation):
            self.assertTrue(interface.extends(IService))

    def test_service_that_is_scp(self) -> None:
        """Who is SCP alone accepts that the requestor is SCU; else the default roles stay."""
        self.accepts(Storage(self.storage))
        accepted = [(0, IMPLICIT_VR_LE)]
        self.assertEqual(self.answers((True, False)), ([(True, False)], accepted))
        self.assertEqual(self.answers((True, True)), ([(True, False)], accepted))
        self.assertEqual(self.answers((False, True)), ([], accepted))
        self.assertEqual(self.answers((False, False)), ([], accepted))
        self.assertEqual(self.answers(), ([], accepted))

    def test_service_that_is_scu(self) -> None:
        """Who is SCU alone has contexts only for a requestor that proposes to be SCP."""
        self.accepts(Retrieve())
        self.assertEqual(self.answers((False, True)), ([(False, True)], [(0, IMPLICIT_VR_LE)]))
        self.assertEqual(self.answers((True, True)), ([(False, True)], [(0, IMPLICIT_VR_LE)]))
        self.assertEqual(self.answers((True, False)), ([], [(3, IMPLICIT_VR_LE)]))
        self.assertEqual(self.answers(), ([], [(3, IMPLICIT_VR_LE)]))

    def test_both(self) -> None:
        """Where one service is SCP, and one SCU, all roles are to be had."""
        for services in ((Retrieve(), Storage(self.storage)), (Storage(self.storage), Retrieve())):
            self.accepts(*services)
            for role in ((False, True), (True, True), (True, False)):
                self.assertEqual(self.answers(role), ([role], [(0, IMPLICIT_VR_LE)]))

    def test_transfer_syntaxes(self) -> None:
        """The transfer syntax is one of the role's, and of both where there are both, if that can be."""
        storage = Storage(self.storage, transfer_syntaxes=[EXPLICIT_VR_LE, IMPLICIT_VR_LE])
        self.accepts(storage, Retrieve(syntaxes=(JPEG, IMPLICIT_VR_LE)))
        both = (EXPLICIT_VR_LE, IMPLICIT_VR_LE, JPEG)
        for role, syntaxes, roles, answered in (
            ((True, True), both, (True, True), (0, IMPLICIT_VR_LE)),
            ((True, False), both, (True, False), (0, EXPLICIT_VR_LE)),
            ((False, True), both, (False, True), (0, JPEG)),
            # Nothing of ours could be sent in it: we are no SCU.
            ((True, True), (EXPLICIT_VR_LE,), (True, False), (0, EXPLICIT_VR_LE)),
            ((False, True), (EXPLICIT_VR_LE,), None, (4, EXPLICIT_VR_LE)),
            ((True, True), ("1.9",), None, (4, "1.9")),
        ):
            expected = ([] if roles is None else [roles], [answered])
            self.assertEqual(self.answers(role, syntaxes=syntaxes), expected, (role, syntaxes))

    def test_repeated(self) -> None:
        """A role that is proposed twice is answered once, as the last says."""
        self.accepts(Storage(self.storage), Retrieve())
        self.assertEqual(self.answers((True, False), (False, True))[0], [(False, True)])

    def test_no_context(self) -> None:
        """A role without a context is not answered."""
        self.accepts(Storage(self.storage), Retrieve())
        _, answer = self.proposes(
            {MR: [IMPLICIT_VR_LE]}, roles=(RoleSelection(CT_IMAGE_STORAGE, True, True),)
        )
        self.assertEqual(answer.user_information.roles, ())
        self.assertResults(answer, 0)

    def test_agreed(self) -> None:
        """Both ends know the roles by the context."""
        self.accepts(Storage(self.storage), Retrieve())
        role = RoleSelection(CT_IMAGE_STORAGE, False, True)
        peer, _ = self.proposes({CT_IMAGE_STORAGE: [IMPLICIT_VR_LE], MR: [IMPLICIT_VR_LE]}, roles=(role,))
        for contexts in (peer.association.contexts, peer._core.contexts):
            roles = [(context.scu, context.scp) for context in contexts.values()]
            self.assertEqual(roles, [(False, True), (True, False)])


class RetrieveTests(OfferCase):
    """C-STORE comes in over the association of a C-GET, at either end."""

    def gets(self, role: bool, *instances: str) -> tuple[int, MemoryStorage, Retrieve]:
        """C-GET with our own requestor. Return the status, what it was sent, and the service."""
        service = Retrieve(*instances)
        self.accepts(service, Storage(self.storage, check=False))
        received = MemoryStorage()
        network = Network(self.reactor, self.acceptor)
        self.addCleanup(network.lose)
        associating = associate(
            self.reactor,
            network,
            contexts={GET: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]},
            roles={CT_IMAGE_STORAGE: (True, role)},
            services=[Storage(received, check=False)],
            timeouts=Timeouts(0, 0, 0),
        )
        network.exchange()
        association = self.successResultOf(associating)
        got = association.invoke(CGetRQ(affected_sop_class_uid=GET, message_id=0), b"identifier")
        network.exchange()
        response = self.successResultOf(got)
        stored = association.store(
            b"back",
            sop_class_uid=CT_IMAGE_STORAGE,
            sop_instance_uid="1.2.9",
            transfer_syntax_uid=IMPLICIT_VR_LE,
        )
        network.exchange()
        self.assertEqual(self.successResultOf(stored).status, 0)
        self.assertEqual([*self.storage.instances], ["1.2.9"])
        return response.status, received, service

    def test_get(self) -> None:
        """Each instance arrives, and is kept by the requestor's service; it may store itself, too."""
        status, received, _ = self.gets(True, "1.2.3", "1.2.4")
        self.assertEqual(status, 0)
        kept = {uid: data for uid, (_, data) in received.instances.items()}
        self.assertEqual(kept, {"1.2.3": b"data of 1.2.3", "1.2.4": b"data of 1.2.4"})

    def test_not_the_scp(self) -> None:
        """To a requestor that is no SCP nothing is stored: there is no context for it."""
        status, received, service = self.gets(False, "1.2.3")
        self.assertEqual((status, received.instances), (0, {}))
        self.assertEqual([type(error) for error in service.failures], [ContextNotAccepted])

    def test_requestor_that_is_no_scu(self) -> None:
        """A requestor that has proposed not to be SCU, and is not, stores nothing."""
        self.accepts(Retrieve())
        network = Network(self.reactor, self.acceptor)
        self.addCleanup(network.lose)
        associating = associate(
            self.reactor,
            network,
            contexts={CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]},
            roles={CT_IMAGE_STORAGE: (False, True)},
        )
        network.exchange()
        names = {"sop_class_uid": CT_IMAGE_STORAGE, "sop_instance_uid": "1.2.3"}
        association = self.successResultOf(associating)
        stored = association.store(b"data", transfer_syntax_uid=IMPLICIT_VR_LE, **names)
        self.failureResultOf(stored, ContextNotAccepted)

    def test_unserved(self) -> None:
        """What a requestor stores where we are SCU is performed by nobody."""
        self.accepts(Retrieve())
        role = RoleSelection(CT_IMAGE_STORAGE, False, True)
        peer, _ = self.proposes({CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]}, roles=(role,))
        peer.invokes(CT_IMAGE_STORAGE, store_rq(), b"data")
        self.assertResponses(peer, 0x0211)
        self.assertEqual([type(response) for response in peer.responses], [])

    def test_response_to_a_store(self) -> None:
        """The peer's own response ends a sub-operation, and the C-GET is answered behind it."""
        self.accepts(Retrieve("1.2.3"))
        role = RoleSelection(CT_IMAGE_STORAGE, False, True)
        contexts = {GET: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]}
        peer, _ = self.proposes(contexts, roles=(role,))
        peer.invokes(GET, CGetRQ(affected_sop_class_uid=GET, message_id=7), b"identifier")
        self.assertResponses(peer)
        answer = CStoreRSP(
            affected_sop_class_uid=CT_IMAGE_STORAGE, message_id_being_responded_to=1, status=0xA700
        )
        peer.invokes(CT_IMAGE_STORAGE, answer)
        self.assertResponses(peer, 0)


class ExtendedTests(OfferCase):
    """Information of the service's own (PS3.7 D.3.3.5)."""

    def answers(self, *proposed: tuple[str, bytes], **more: Any) -> list[tuple[str, bytes]]:
        contexts = {CT_IMAGE_STORAGE: [IMPLICIT_VR_LE], MR: [IMPLICIT_VR_LE]}
        items = tuple(ExtendedNegotiation(*item) for item in proposed)
        _, answer = self.proposes(contexts, extended=items, **more)
        extended = answer.user_information.extended
        return [(item.sop_class_uid, item.application_information) for item in extended]

    def test_asked(self) -> None:
        """A service is asked for what was proposed for its SOP Classes, and what it says is the answer."""
        service = Informed(lambda proposed: proposed[::-1])
        self.accepts(service)
        self.assertEqual(self.answers((CT_IMAGE_STORAGE, b"\1\2")), [(CT_IMAGE_STORAGE, b"\2\1")])
        self.assertEqual(service.asked, [(CT_IMAGE_STORAGE, b"\1\2")])

    def test_not_asked(self) -> None:
        """It is not for what was not proposed, not accepted, or has no context."""
        service = Informed(lambda proposed: b"")
        self.accepts(service)
        self.assertEqual(self.answers(), [])
        self.assertEqual(self.answers((MR, b"\1"), (PRIVATE, b"\1")), [])
        self.assertEqual(service.asked, [])

    def test_no_answer(self) -> None:
        """A service may leave it unanswered, and one that knows nothing of it does."""
        self.accepts(Informed(lambda proposed: None), Service(lambda _: succeed(0), MR))
        self.assertEqual(self.answers((CT_IMAGE_STORAGE, b"\1"), (MR, b"\1")), [])

    def test_any_octets(self) -> None:
        """None is an answer, and so are no octets; what is proposed may be any."""
        service = Informed(lambda proposed: b"")
        self.accepts(service)
        for octets in (b"", b"\0", bytes(range(256)), bytes(10_000)):
            self.assertEqual(self.answers((CT_IMAGE_STORAGE, octets)), [(CT_IMAGE_STORAGE, b"")])
            self.assertEqual(service.asked.pop(), (CT_IMAGE_STORAGE, octets))

    def test_repeated(self) -> None:
        """What is proposed twice is answered once."""
        self.accepts(Informed(lambda proposed: proposed))
        twice = ((CT_IMAGE_STORAGE, b"\1"), (CT_IMAGE_STORAGE, b"\2"))
        self.assertEqual(self.answers(*twice), [(CT_IMAGE_STORAGE, b"\2")])

    def test_who_performs_answers(self) -> None:
        """Of two services for one SOP Class that one is asked that performs it, and no other in its place."""
        first, second = Informed(lambda _: b"1"), Informed(lambda _: b"2")
        self.accepts(first, second)
        self.assertEqual(self.answers((CT_IMAGE_STORAGE, b"")), [(CT_IMAGE_STORAGE, b"1")])
        self.accepts(Service(lambda _: succeed(0)), second)
        self.assertEqual(self.answers((CT_IMAGE_STORAGE, b"")), [])

    def test_who_invokes_answers(self) -> None:
        """Where we are SCU alone, the service is asked that is."""

        @implementer(IExtendedNegotiation)
        class Both(Retrieve):
            def application_information(self, sop_class_uid: str, proposed: bytes) -> bytes:
                return b"\3\0\0\0\2\0"  # PS3.4 Table B.3-2: SCU only

        roles = (RoleSelection(CT_IMAGE_STORAGE, False, True),)
        self.accepts(Storage(self.storage), Both())
        answered = self.answers((CT_IMAGE_STORAGE, b""), roles=roles)
        self.assertEqual(answered, [(CT_IMAGE_STORAGE, b"\3\0\0\0\2\0")])
        self.assertEqual(self.answers((CT_IMAGE_STORAGE, b"")), [(CT_IMAGE_STORAGE, b"\2\0\3\0\0\0")])

    def test_bug(self) -> None:
        """A service that fails has a bug: its peer is refused, transiently, and not left waiting."""

        def fail(proposed: bytes) -> bytes:
            raise ZeroDivisionError

        self.accepts(Informed(fail))
        peer = self.connects()
        items = (ExtendedNegotiation(CT_IMAGE_STORAGE, b""),)
        information = UserInformation(16382, extended=items)
        peer.associates({CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]}, user_information=information)
        self.assertAnswered(peer, AssociateRJ(2, 1, 1))
        self.assertEqual(len(self.seen.of(events.Unexpected)), 1)


class CommonExtendedTests(OfferCase):
    """SOP Classes that nobody knows, and what is said of them (PS3.7 D.3.3.6)."""

    def proposes_unknown(self, service_class: str, *related: str, **more: Any) -> tuple[Peer, AssociateAC]:
        item = CommonExtendedNegotiation(PRIVATE, service_class, related)
        return self.proposes({PRIVATE: [IMPLICIT_VR_LE]}, common_extended=(item,), **more)

    def test_taken(self) -> None:
        """Who takes it performs its operations, on this association."""
        general = General(lambda operation: operation.read_data_set(100).addCallback(lambda _: 0xB000))
        self.accepts(Service(lambda _: succeed(0), MR), general)
        peer, answer = self.proposes_unknown("1.9", "1.8", CT_IMAGE_STORAGE)
        self.assertResults(answer, 0)
        peer.stores("1.2.3", b"data", PRIVATE)
        self.assertResponses(peer, 0xB000)
        self.assertEqual(answer.user_information.common_extended, ())
        _, answer = self.proposes({PRIVATE: [IMPLICIT_VR_LE]})
        self.assertResults(answer, 3)

    def test_not_taken(self) -> None:
        """What nobody takes is not accepted."""
        self.accepts(General(lambda _: succeed(0)))
        self.assertResults(self.proposes_unknown("1.9", MR)[1], 3)
        self.assertResults(self.proposes_unknown("1.9")[1], 3)

    def test_first(self) -> None:
        """The first that takes it has it, and is the only one asked about its information."""
        one, other = General(lambda _: succeed(1)), General(lambda _: succeed(2))
        self.accepts(one, other)
        item = CommonExtendedNegotiation(PRIVATE, "1.9", (CT_IMAGE_STORAGE,))
        peer, _ = self.proposes({PRIVATE: [IMPLICIT_VR_LE]}, common_extended=(item, item))
        peer.stores("1.2.3", b"data", PRIVATE)
        self.assertResponses(peer, 1)
        self.assertEqual(other.operations, [])

    def test_known(self) -> None:
        """What a service has in its contexts is not asked about."""
        general = General(lambda _: succeed(1), MR)
        self.accepts(Service(lambda _: succeed(2)), general)
        item = CommonExtendedNegotiation(CT_IMAGE_STORAGE, "1.9", (MR,))
        peer, _ = self.proposes({CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]}, common_extended=(item,))
        peer.stores("1.2.3", b"data")
        self.assertResponses(peer, 2)

    def test_no_context(self) -> None:
        """What has no context is not asked about."""
        self.accepts(General(lambda _: succeed(0)))
        item = CommonExtendedNegotiation(PRIVATE, "1.9", (CT_IMAGE_STORAGE,))
        _, answer = self.proposes({MR: [IMPLICIT_VR_LE]}, common_extended=(item,))
        self.assertResults(answer, 3)

    def test_transfer_syntaxes(self) -> None:
        """It is taken in the transfer syntaxes that the service says."""
        self.accepts(General(lambda _: succeed(0)))
        item = CommonExtendedNegotiation(PRIVATE, "1.9", (CT_IMAGE_STORAGE,))
        _, answer = self.proposes({PRIVATE: [JPEG]}, common_extended=(item,))
        self.assertResults(answer, 4)

    def test_with_roles_and_information(self) -> None:
        """A SOP Class that is taken has roles and information as others do."""
        self.accepts(Storage(self.storage))
        _, answer = self.proposes_unknown(
            STORAGE_SERVICE_CLASS,
            roles=(RoleSelection(PRIVATE, True, True),),
            extended=(ExtendedNegotiation(PRIVATE, b""),),
        )
        self.assertResults(answer, 0)
        information = answer.user_information
        self.assertEqual(information.roles, (RoleSelection(PRIVATE, True, False),))
        self.assertEqual(information.extended, (ExtendedNegotiation(PRIVATE, b"\2\0\3\0\0\0"),))


class ArrivalTests(OfferCase):
    """All of it at once, however it arrives, and whatever it is."""

    INFORMATION = UserInformation(
        16382,
        asynchronous_operations_window=(8, 2),
        roles=(RoleSelection(CT_IMAGE_STORAGE, True, True), RoleSelection(MR, False, True)),
        extended=(ExtendedNegotiation(MR, b"\3\0\0\0\2\0"),),
        common_extended=(CommonExtendedNegotiation(PRIVATE, STORAGE_SERVICE_CLASS, (MR,)),),
    )

    def setUp(self) -> None:
        super().setUp()
        self.accepts(Storage(self.storage), Retrieve(), asynchronous_operations=(1, 5))
        contexts = tuple(
            ProposedContext(2 * number + 1, abstract_syntax, (IMPLICIT_VR_LE,))
            for number, abstract_syntax in enumerate((CT_IMAGE_STORAGE, MR, PRIVATE, GET))
        )
        self.request = AssociateRQ("ANY-SCP", "PEER", contexts, self.INFORMATION)

    def answers(self, *reads: bytes) -> bytes:
        """Return what is answered to what arrives."""
        peer = self.connects()
        for read in reads:
            peer.transport.deliver(read)
        self.assertEqual(self.seen.of(events.Unexpected), [])
        answer = peer.transport.taken()
        peer.transport.lose()
        return answer

    def test_answer(self) -> None:
        """Each proposal is answered by whom it is for."""
        answer = AssociateAC.decode(memoryview(self.answers(self.request.encode()))[6:])
        self.assertResults(answer, 0, 0, 0, 0)
        information = answer.user_information
        self.assertEqual(information.asynchronous_operations_window, (5, 1))
        self.assertEqual(information.roles, (RoleSelection(CT_IMAGE_STORAGE, True, True),))
        self.assertEqual(information.extended, (ExtendedNegotiation(MR, b"\2\0\3\0\0\0"),))
        self.assertEqual(information.common_extended, ())

    def test_splits(self) -> None:
        """The answer is the same at every split, and octet by octet."""
        whole = self.answers(self.request.encode())
        for reads in arrivals(self.request.encode()):
            self.assertEqual(self.answers(*reads), whole)

    @stable
    @given(st.lists(items, max_size=6).map(b"".join))
    def test_any_items(self, proposed: bytes) -> None:
        """Whatever is proposed is answered, or ends in an A-ABORT."""
        octets = AssociateRQ("ANY-SCP", "PEER", self.request.contexts).encode()
        information = encode_item(0x50, proposed)
        length = len(octets) - 6 - 4 + len(information)
        # The User Information is the last item, and empty in this one.
        octets = octets[:2] + length.to_bytes(4, "big") + octets[6:-4] + information
        answer = self.answers(octets)
        if answer != Abort().encode():  # AA-1
            self.assertEqual(answer[0], AssociateAC.pdu_type)
            AssociateAC.decode(memoryview(answer)[6:])
