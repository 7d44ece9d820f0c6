"""Tests of the service for Instance Availability Notification."""

from __future__ import annotations

from pydicom import Dataset
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, IService, Status, associate
from dicomnode.contracts import ServiceContract
from dicomnode.core.command import CEchoRQ, NCreateRQ, Request, Response
from dicomnode.testing import Network, Reactor
from dicomnode.uids import EXPLICIT_VR_LE
from triage.availability import INSTANCE_AVAILABILITY, Availability
from triage.tests.samples import octets


class AvailabilityTests(SynchronousTestCase):
    def setUp(self) -> None:
        reactor = Reactor()
        self.availability = Availability()
        self.network = Network(reactor, Acceptor(reactor, [self.availability]))
        associating = associate(reactor, self.network, contexts={INSTANCE_AVAILABILITY: [EXPLICIT_VR_LE]})
        self.network.exchange()
        self.association = self.successResultOf(associating)

    def invoke(self, request: Request, data_set: Dataset | None = None) -> Response:
        invoking = self.association.invoke(
            request, None if data_set is None else octets(data_set), context=INSTANCE_AVAILABILITY
        )
        self.network.exchange()
        return self.successResultOf(invoking)

    def notify(self, data_set: Dataset) -> Response:
        return self.invoke(NCreateRQ(affected_sop_class_uid=INSTANCE_AVAILABILITY, message_id=0), data_set)

    def test_remembers(self) -> None:
        """What is available is known by its study."""
        said = Dataset()
        said.StudyInstanceUID = "1.2"
        said.RetrieveAETitle = "ARCHIVE"
        self.assertEqual(self.notify(said).status, Status.SUCCESS)
        self.assertEqual(self.availability.known["1.2"].RetrieveAETitle, "ARCHIVE")

    def test_says_nothing(self) -> None:
        """Without a study it is no notification."""
        said = Dataset()
        said.RetrieveAETitle = "ARCHIVE"
        self.assertEqual(self.notify(said).status, Status.MISSING_ATTRIBUTE)

    def test_another_operation(self) -> None:
        """Nothing else is performed on that class."""
        response = self.invoke(CEchoRQ(affected_sop_class_uid=INSTANCE_AVAILABILITY, message_id=0))
        self.assertEqual(response.status, Status.UNRECOGNIZED_OPERATION)


class AvailabilityContractTests(ServiceContract, SynchronousTestCase):
    """What every service promises."""

    def make_service(self) -> IService:
        return Availability()

    def requests(self) -> list[tuple[str, Request, bytes | None]]:
        said = Dataset()
        said.StudyInstanceUID = "1.2"
        request = NCreateRQ(affected_sop_class_uid=INSTANCE_AVAILABILITY, message_id=1)
        return [(INSTANCE_AVAILABILITY, request, octets(said))]
