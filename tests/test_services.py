"""Tests for :mod:`dicomnode.services`."""

from __future__ import annotations

from typing import Any, cast

from pydicom._uid_dict import UID_dictionary
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import uids
from dicomnode.acceptor import Acceptor
from dicomnode.contracts import ServiceContract
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.command import CEchoRQ, CFindRQ, CStoreRQ, NActionRQ, Status
from dicomnode.core.items import CommonExtendedNegotiation, ExtendedNegotiation, UserInformation
from dicomnode.core.pdu import AssociateAC
from dicomnode.interfaces import (
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IInstanceWriter,
    Instance,
    IService,
)
from dicomnode.services import Discard, Storage, StorageSupport, Verification
from dicomnode.testing import MemoryStorage, Peer, Reactor
from tests.servicecases import (
    CT,
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    MR,
    CoroutineStorage,
    ServiceCase,
    data_set,
)

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"

SQ_UNDEFINED = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff"


def ui(number: int, value: bytes) -> bytes:
    """Return an element of group 0008 that is a UID, whatever is in it."""
    return b"\x08\0" + bytes([number, 0]) + b"UI" + len(value).to_bytes(2, "little") + value


class VerificationTests(ServiceCase):
    """The Verification service class answers that we are here."""

    def test_service(self) -> None:
        """It is a service, which accepts every transfer syntax unless it is told others."""
        service = Verification()
        verifyObject(IService, service)
        self.assertEqual(service.contexts, {uids.VERIFICATION: tuple(uids.TRANSFER_SYNTAXES)})
        self.assertEqual(Verification([IMPLICIT_VR_LE]).contexts, {uids.VERIFICATION: (IMPLICIT_VR_LE,)})

    def test_echo(self) -> None:
        """C-ECHO succeeds."""
        self.peer.echoes()
        self.assert_answered(0x0000)

    def test_other_operations(self) -> None:
        """It knows no other operation, with a data set or without."""
        request = CStoreRQ(
            affected_sop_class_uid=uids.VERIFICATION, message_id=7, affected_sop_instance_uid="1.2.3"
        )
        self.peer.invokes(uids.VERIFICATION, request, data_set())
        self.assert_answered(0x0211)
        self.peer.invokes(uids.VERIFICATION, request)
        self.assert_answered(0x0211)


class MistakeTests(SynchronousTestCase):
    """Who puts the parts together wrongly is told so at once, and not by what peers are answered."""

    def test_storage_for_service(self) -> None:
        """A storage is no service, a class is none yet, and what performs nothing is none at all."""
        storage = MemoryStorage()
        for service, words in (
            (storage, f"{storage!r} is no service: a storage is served by Storage"),
            (Verification, f"{Verification!r} is no service"),
            (None, "None is no service"),
        ):
            error = self.assertRaises(TypeError, Acceptor, Reactor(), [Verification(), service])
            self.assertEqual(str(error), words)

    def test_no_storage(self) -> None:
        """What opens nothing is no storage, and nor is a class."""
        for storage in ("/tmp", None, MemoryStorage):
            error = self.assertRaises(TypeError, Storage, storage)
            self.assertEqual(str(error), f"{storage!r} is no storage")


class StorageTests(ServiceCase):
    """The Storage service class gives to a storage what is an instance, and says what is not."""

    def test_service(self) -> None:
        """It is a service for the Storage SOP Classes, unless it is told others."""
        service = Storage(self.storage)
        verifyObject(IService, service)
        self.assertEqual(set(service.contexts), set(uids.STORAGE_SOP_CLASSES))
        self.assertEqual(service.contexts[CT], tuple(uids.TRANSFER_SYNTAXES))
        service = Storage(self.storage, sop_classes=[MR], transfer_syntaxes=[IMPLICIT_VR_LE])
        self.assertEqual(service.contexts, {MR: (IMPLICIT_VR_LE,)})

    def test_coroutines(self) -> None:
        """A storage may be written in coroutines."""
        storage = CoroutineStorage()
        peer = self.associate(storage)
        peer.stores("1.2.3", data_set())
        self.assert_answered(0x0000, peer=peer)
        self.assertEqual(storage.instances["1.2.3"][1], data_set())
        peer.stores("1.2.4", data_set()[:-3])
        self.assertEqual(peer.response.status, 0xC210)
        self.assertEqual([writer.ended for writer in storage.writers], ["commit", "abort"])

    def test_stores(self) -> None:
        """What arrives is given to the storage, and answered when that has kept it."""
        data = data_set(size=100_000)
        self.peer.stores("1.2.3", data)
        self.assert_answered(0x0000)
        instance, kept = self.storage.instances["1.2.3"]
        self.assertEqual(kept, data)
        self.assertEqual(instance, Instance(CT, "1.2.3", EXPLICIT_VR_LE, "PEER", "ANY-SCP", cast(Any, None)))
        self.assertIs(instance.association, self.peer.association)
        self.assertEqual(self.storage.writers[0].ended, "commit")

    def test_however_it_arrives(self) -> None:
        """The same is kept when it arrives octet by octet, and at other sizes of read."""
        data = data_set(size=2000)
        for size in (1, 2, 7, 100, 1500):
            peer = self.associate(size=size)
            peer.stores("1.2.3", data)
            self.assertEqual(peer.response.status, 0)
            self.assertEqual(self.storage.instances.pop("1.2.3")[1], data)

    def test_trailing_nul(self) -> None:
        """A UID may be padded, in the command as in the data set."""
        data = ui(0x16, CT.encode() + b"\0") + ui(0x18, b"1.2.3\0\0\0")
        self.peer.stores("1.2.3\0", data)
        self.assert_answered(0x0000)
        self.assertEqual(self.storage.instances["1.2.3"][0].sop_instance_uid, "1.2.3")

    def test_unusual_uids(self) -> None:
        """UIDs of 64 characters, and those with leading zeros, are stored."""
        for uid in ("1" * 64, "1.02.3"):
            self.peer.stores(uid, b"".join((ui(0x16, CT.encode()), ui(0x18, uid.encode()))))
            self.assert_answered(0x0000)

    def test_not_a_uid(self) -> None:
        """What is no UID names no instance: it becomes no file name."""
        for uid in (
            "../../x",
            "1" * 65,
            "1.2/3",
            "..",
            ".",
            "1..2",
            "1.2.",
            "1.2.x",
            "1.2 3",
            "1.2\n",
            "\xb2.1",
            "1\\2",
            "-1",
        ):
            self.peer.stores(uid, data_set())
            self.assert_answered(0x0117, "Affected SOP Instance UID is not a UID")
        self.assertEqual(self.storage.writers, [])

    def test_no_uid(self) -> None:
        """An instance without a name is refused, whether the name is empty or absent."""
        for uid in ("", " \0", None):
            self.peer.stores(cast(Any, uid), data_set())
            self.assert_answered(0x0106, "Affected SOP Instance UID is absent")
        self.assertEqual(self.storage.writers, [])

    def test_other_sop_class(self) -> None:
        """The SOP Class of the command is that of the presentation context."""
        for sop_class_uid, status, comment in (
            (MR, 0x0122, "SOP Class is not the presentation context's"),
            ("1.2.3.4", 0x0122, "SOP Class is not the presentation context's"),
            ("", 0x0118, "Affected SOP Class UID is not a UID"),
            (None, 0x0118, "Affected SOP Class UID is not a UID"),
            ("../CT", 0x0118, "Affected SOP Class UID is not a UID"),
        ):
            request = CStoreRQ(
                affected_sop_class_uid=cast(Any, sop_class_uid),
                message_id=7,
                affected_sop_instance_uid="1.2.3",
            )
            self.peer.invokes(CT, request, data_set())
            self.assert_answered(status, comment)
        self.assertEqual(self.storage.writers, [])

    def test_other_operations(self) -> None:
        """It knows no other operation, with a data set or without."""
        for request, data in (
            (CEchoRQ(affected_sop_class_uid=CT, message_id=7), None),
            (CFindRQ(affected_sop_class_uid=CT, message_id=7), data_set()),
            (
                NActionRQ(
                    requested_sop_class_uid=CT,
                    message_id=7,
                    requested_sop_instance_uid="1.2.3",
                    action_type_id=1,
                ),
                data_set(),
            ),
        ):
            self.peer.invokes(CT, request, data)
            self.assert_answered(0x0211)
        self.assertEqual(self.storage.writers, [])

    def test_no_data_set(self) -> None:
        """A C-STORE without a data set brings nothing."""
        request = CStoreRQ(affected_sop_class_uid=CT, message_id=7, affected_sop_instance_uid="1.2.3")
        self.peer.invokes(CT, request)
        self.assert_answered(0xC210, "no data set")
        self.assertEqual(self.storage.writers, [])

    def test_not_whole(self) -> None:
        """A data set that is empty, garbage or cut short is not stored; where it ends is said."""
        whole = data_set(size=2000)
        for data, comment in (
            (b"", "data set is empty"),
            (b"\xff" * 100, "no item where one is due, at octet 8"),
            (b"\x08\0" * 50, "data set ends inside (0008,0008) at octet 100"),
            (whole[:-1], f"data set ends inside (7FE0,0010) at octet {len(whole) - 1}"),
            (whole[:1000], "data set ends inside (7FE0,0010) at octet 1000"),
            (whole + b"\x01", f"data set ends inside an element header at octet {len(whole) + 1}"),
        ):
            self.peer.stores("1.2.3", data)
            self.assert_answered(0xC210, comment)
        self.assert_nothing_kept()
        self.assertEqual(len(self.storage.writers), 6)

    def test_no_uids_in_the_data_set(self) -> None:
        """A data set that does not say what it is is not stored."""
        for data, comment in (
            (data_set(uid=None), "the data set has no SOP Instance UID"),
            (data_set(sop_class_uid=None), "the data set has no SOP Class UID"),
            (ui(0x16, CT.encode()) + ui(0x18, b""), "the data set has no SOP Instance UID"),
            (ui(0x16, b"\0\0") + ui(0x18, b"1.2.3"), "the data set has no SOP Class UID"),
        ):
            self.peer.stores("1.2.3", data)
            self.assert_answered(0xC210, comment)
        self.assert_nothing_kept()

    def test_another_instance(self) -> None:
        """A data set that is another instance than the command says is not stored; both UIDs are said."""
        for data, comment in (
            (data_set(uid="1.2.4"), "SOP Instance 1.2.4, not 1.2.3"),
            (data_set(sop_class_uid=MR), f"SOP Class {MR}, not {CT}"[:64]),
            (data_set(uid="1." + "2" * 62), f"SOP Instance 1.{'2' * 62}"[:64]),
        ):
            self.peer.stores("1.2.3", data)
            self.assert_answered(0xA900, comment)
        self.assert_nothing_kept()

    def test_not_a_uid_in_the_data_set(self) -> None:
        """What the data set has in place of a UID is not repeated to anyone."""
        for value in (b"../../x\0", b"1\n2\x1b[", b"\xe6\xbc\xa2\xe5\xad\x97", b"1.2.3\\1.2.4\0", b"x" * 200):
            self.peer.stores("1.2.3", ui(0x16, CT.encode()) + ui(0x18, value))
            self.assert_answered(0xA900, "SOP Instance UID of the data set is not a UID")
        self.assert_nothing_kept()

    def test_no_item(self) -> None:
        """What cannot be followed may have been cut anywhere: it does not take a good one's place."""
        self.peer.stores("1.2.3", data_set())
        good = self.storage.instances["1.2.3"]
        named = ui(0x16, CT.encode() + b"\0") + ui(0x18, b"1.2.3\0")
        self.peer.stores("1.2.3", named + SQ_UNDEFINED + b"no item" * 4)
        self.assert_answered(0xC210, "no item where one is due, at octet 60")
        self.assertIs(self.storage.instances["1.2.3"], good)

    def test_unchecked(self) -> None:
        """Where nothing is checked, anything is stored under the name that the command gives it."""
        peer = self.associate(check=False)
        for data in (b"", b"garbage", data_set(uid="1.2.4"), data_set(sop_class_uid=MR), data_set()[:-3]):
            peer.stores("1.2.3", data)
            self.assert_answered(0x0000, peer=peer)
            self.assertEqual(self.storage.instances["1.2.3"][1], data)
        peer.stores("../x", data_set())
        self.assert_answered(0x0117, "Affected SOP Instance UID is not a UID", peer)


class UnknownTests(SynchronousTestCase):
    """SOP Classes that this program does not know may be accepted."""

    def setUp(self) -> None:
        self.contexts = Storage(
            MemoryStorage(), accept_unknown=True, transfer_syntaxes=[EXPLICIT_VR_LE]
        ).contexts

    def test_not_by_default(self) -> None:
        """They are refused unless it is asked for."""
        self.assertNotIn("1.2.3.4", Storage(MemoryStorage()).contexts)

    def test_private(self) -> None:
        """Private ones are accepted, and those that the standard may add to its Storage SOP Classes."""
        for uid in ("1.2.3.4", "2.25.1", "1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.9999"):
            self.assertIn(uid, self.contexts)
            self.assertEqual(self.contexts[uid], (EXPLICIT_VR_LE,))
            self.assertNotIn(uid, uids.STORAGE_SOP_CLASSES)

    def test_known(self) -> None:
        """What is known is as ever; and what there is to iterate over is that."""
        self.assertEqual(self.contexts[CT], (EXPLICIT_VR_LE,))
        self.assertEqual(list(self.contexts), list(uids.STORAGE_SOP_CLASSES))
        self.assertEqual(len(self.contexts), len(uids.STORAGE_SOP_CLASSES))

    def test_not_for_storing(self) -> None:
        """What the standard registers for other purposes is not accepted: pydicom knows their names."""
        for uid, (name, kind, *_) in UID_dictionary.items():
            if name and uid not in uids.STORAGE_SOP_CLASSES:
                self.assertNotIn(uid, self.contexts, f"{name} ({kind})")

    def test_negotiated(self) -> None:
        """A private class is negotiated and stored; the verification class is still the other service's."""
        storage = MemoryStorage()
        service = Storage(storage, accept_unknown=True)
        peer = Peer(Acceptor(Reactor(), [service, Verification()]))
        contexts = dict.fromkeys(("1.2.3.4", STORAGE_COMMITMENT, uids.VERIFICATION), (EXPLICIT_VR_LE,))
        peer.associates(contexts)
        self.assertRaises(AssertionError, peer.context, STORAGE_COMMITMENT)
        peer.stores("1.2.3", data_set(sop_class_uid="1.2.3.4"), "1.2.3.4")
        self.assertEqual(peer.response.status, 0)
        self.assertIn("1.2.3", storage.instances)
        peer.echoes()
        self.assertEqual(peer.response.status, 0)


class SupportTests(SynchronousTestCase):
    """What a Storage says of itself to peers that ask (PS3.4 B.3.1)."""

    def answers(self, service: Storage, proposed: bytes = b"\3\0\0\0\2\0") -> list[bytes]:
        """Return what a peer that says of itself that it is SCU only is answered."""
        peer = Peer(Acceptor(Reactor(), [service]))
        information = UserInformation(16382, extended=(ExtendedNegotiation(CT, proposed),))
        peer.associates({CT: (EXPLICIT_VR_LE,)}, user_information=information)
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC)
        return [item.application_information for item in confirmed.answer.user_information.extended]

    def test_interfaces(self) -> None:
        """It is a service that takes part in both kinds of extended negotiation."""
        service = Storage(MemoryStorage())
        verifyObject(IExtendedNegotiation, service)
        verifyObject(ICommonExtendedNegotiation, service)

    def test_default(self) -> None:
        """It is of level 2, preserves digital signatures, and coerces nothing (PS3.4 Table B.3-2)."""
        self.assertEqual(self.answers(Storage(MemoryStorage())), [b"\2\0\3\0\0\0"])

    def test_another(self) -> None:
        """Whose storage does otherwise says so."""
        support = StorageSupport(level=1, digital_signatures=0, coerces=True)
        self.assertEqual(self.answers(Storage(MemoryStorage(), support=support)), [b"\1\0\0\0\1\0"])

    def test_nothing_to_say(self) -> None:
        """Who would rather not say, and who keeps nothing, does not answer."""
        self.assertEqual(self.answers(Storage(MemoryStorage(), support=None)), [])
        self.assertEqual(self.answers(Storage(Discard())), [])

    def test_whatever_it_is_told(self) -> None:
        """What the peer says of itself changes nothing, and may be no such information at all."""
        for proposed in (b"", b"\0", b"\2\0\1\0\0\0", b"\xff" * 7, bytes(1000)):
            self.assertEqual(self.answers(Storage(MemoryStorage()), proposed), [b"\2\0\3\0\0\0"])


class GeneralTests(SynchronousTestCase):
    """SOP Classes that a Storage takes for what is said of them (PS3.4 B.4.1.2)."""

    PRIVATE = "1.2.840.99999.1"

    def takes(self, service: Storage, service_class: str, *related: str, uid: str = PRIVATE) -> bool:
        """Does it take a SOP Class of a Service Class, with these related general SOP Classes?"""
        syntaxes = service.transfer_syntaxes_for(CommonExtendedNegotiation(uid, service_class, related))
        if syntaxes is not None:
            self.assertEqual(syntaxes, service.contexts[MR])
        return syntaxes is not None

    def test_storage(self) -> None:
        """What is said to be for storing is taken by whoever takes all that is known to be."""
        service = Storage(MemoryStorage())
        self.assertTrue(self.takes(service, uids.STORAGE_SERVICE_CLASS))
        self.assertTrue(self.takes(service, uids.STORAGE_SERVICE_CLASS, "1.2.3"))
        self.assertFalse(self.takes(service, "1.2.840.10008.4.99"))
        self.assertFalse(self.takes(service, ""))

    def test_related(self) -> None:
        """What is specialized from what is taken is, too, whatever its Service Class is called."""
        for service in (Storage(MemoryStorage()), Storage(MemoryStorage(), sop_classes=[MR])):
            self.assertTrue(self.takes(service, uids.STORAGE_SERVICE_CLASS, "1.2.3", MR))
            self.assertTrue(self.takes(service, "", MR))
            self.assertFalse(self.takes(service, "", "1.2.3"))

    def test_some(self) -> None:
        """Who takes some classes alone takes no other for its Service Class, and no known one at all."""
        service = Storage(MemoryStorage(), sop_classes=[MR])
        self.assertFalse(self.takes(service, uids.STORAGE_SERVICE_CLASS))
        self.assertFalse(self.takes(service, uids.STORAGE_SERVICE_CLASS, CT))
        self.assertFalse(self.takes(service, uids.STORAGE_SERVICE_CLASS, MR, uid=CT))

    def test_stored(self) -> None:
        """An instance of such a class is stored, and is one of its own class."""
        storage = MemoryStorage()
        peer = Peer(Acceptor(Reactor(), [Storage(storage), Verification()]))
        item = CommonExtendedNegotiation(self.PRIVATE, uids.STORAGE_SERVICE_CLASS, (MR,))
        information = UserInformation(16382, common_extended=(item,))
        contexts = dict.fromkeys((self.PRIVATE, STORAGE_COMMITMENT, MR), (EXPLICIT_VR_LE,))
        peer.associates(contexts, user_information=information)
        self.assertRaises(AssertionError, peer.context, STORAGE_COMMITMENT)
        peer.stores("1.2.3", data_set(sop_class_uid=self.PRIVATE), self.PRIVATE)
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(storage.instances["1.2.3"][0].sop_class_uid, self.PRIVATE)
        peer.stores("1.2.3", data_set(sop_class_uid=MR), self.PRIVATE)
        self.assertEqual(peer.response.status, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)


class DiscardTests(ServiceCase):
    """What is to be ignored is answered with Success, and is nowhere."""

    def test_ignores(self) -> None:
        """Whatever comes is received and forgotten."""
        peer = self.associate(Discard(), check=False)
        for data in (b"", b"garbage", data_set(size=100_000)):
            peer.stores("1.2.3", data)
            self.assert_answered(0x0000, peer=peer)

    def test_checks(self) -> None:
        """It may be checked all the same."""
        peer = self.associate(Discard())
        peer.stores("1.2.3", data_set())
        self.assert_answered(0x0000, peer=peer)
        peer.stores("1.2.3", b"")
        self.assert_answered(0xC210, "data set is empty", peer)


class CheckingTests(SynchronousTestCase):
    """What checks a data set is a writer round another."""

    def test_another_operation(self) -> None:
        """An operation that knows no more than IConsumer is served as well."""
        storage = MemoryStorage()
        data = data_set()

        class Plain:
            association = cast(Any, None)
            context = type("Context", (), {"transfer_syntax": EXPLICIT_VR_LE, "abstract_syntax": CT})
            request = CStoreRQ(affected_sop_class_uid=CT, message_id=1, affected_sop_instance_uid="1.2.3")
            has_data_set = True

            def deliver_data_set(plain, consumer: Any) -> Deferred[None]:
                verifyObject(IInstanceWriter, consumer)
                transport = StringTransport()
                consumer.registerProducer(transport, True)
                writer = storage.writers[0]
                writer.producer.pauseProducing()
                self.assertEqual(transport.producerState, "paused")
                writer.producer.resumeProducing()
                self.assertEqual(transport.producerState, "producing")
                for octet in data:
                    consumer.write(bytes([octet]))
                consumer.unregisterProducer()
                self.assertIsNone(writer.producer)
                return succeed(None)

        plain = Plain()
        plain.association = type(
            "Association", (), {"calling_ae_title": "A", "called_ae_title": "B", "clock": Clock()}
        )
        performing = Deferred.fromCoroutine(Storage(storage).perform(cast(Any, plain)))
        self.assertEqual(self.successResultOf(performing), Status.SUCCESS)
        self.assertEqual(storage.instances["1.2.3"][1], data)


class VerificationContractTests(ServiceContract, SynchronousTestCase):
    """Verification keeps the contract of services."""

    def make_service(self) -> IService:
        return Verification()

    def requests(self) -> Any:
        return [(uids.VERIFICATION, CEchoRQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1), None)]


class StorageContractTests(ServiceContract, SynchronousTestCase):
    """Storage keeps the contract of services."""

    def make_service(self) -> IService:
        return Storage(MemoryStorage())

    def requests(self) -> Any:
        return [
            (
                sop_class,
                CStoreRQ(affected_sop_class_uid=sop_class, message_id=7, affected_sop_instance_uid="1.2.3"),
                data_set(sop_class_uid=sop_class),
            )
            for sop_class in (CT, MR)
        ]


@implementer(IService)
class Careless:
    """A service that says Success to everything, or fails by a bug."""

    contexts = {uids.VERIFICATION: (IMPLICIT_VR_LE,)}

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def perform(self, operation: Any) -> int:
        if self._fails:
            raise KeyError("a bug")
        return Status.SUCCESS


class ServiceContractTests(SynchronousTestCase):
    """The contract can be broken."""

    def test_broken(self) -> None:
        """A service that does not look at what is asked, or fails by a bug, does not keep it."""
        for fails in (False, True):
            contract = VerificationContractTests()
            contract.make_service = lambda fails=fails: Careless(fails)  # type: ignore[misc]
            self.assertRaises(self.failureException, contract.test_other_operation)
        self.assertRaises(self.failureException, contract.test_answers)
        self.assertRaises(self.failureException, contract.test_goes_away)

    def test_who_it_is_about(self) -> None:
        """It asks for a service, and for what that may be asked."""
        contract = ServiceContract()
        self.assertRaises(NotImplementedError, contract.make_service)
        self.assertRaises(NotImplementedError, contract.requests)
