"""What tests of an operation have in common: what stands for its association, and who takes data sets."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomnode.core.command import Request, Response, Status
from dicomnode.core.negotiation import PresentationContext
from dicomnode.interfaces import IInstanceWriter, IOperation
from dicomnode.operation import Operation
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    IMPLICIT_VR_LE,
    Service,
    store_rq,
)

CONTEXT = PresentationContext(CT, CT_IMAGE_STORAGE, IMPLICIT_VR_LE)


class Performer:
    """What an operation asks of its association, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[Response] = []
        self.bugs: list[tuple[Failure, str]] = []

    def pause(self, reason: object) -> None:
        self.asked.append("pause")

    def resume(self, reason: object) -> None:
        self.asked.append("resume")

    def read_on(self) -> None:
        self.asked.append("read on")

    def answer(self, operation: Operation, response: Response) -> None:
        self.answers.append(response)

    def unexpected(self, failure: Failure, doing: str) -> None:
        self.bugs.append((failure, doing))


@implementer(IConsumer)
class Consumer:
    """A consumer as Twisted has them."""

    def __init__(self) -> None:
        self.producer: Any = None
        self.data: list[bytes] = []

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.data.append(data)


@implementer(IInstanceWriter)
class Writer(Consumer):
    """A writer of which one thing at a time goes wrong."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken = broken
        self.ended: list[str] = []
        self.fragments: list[int] = []  #: how many came at a time

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        self.breaks("registerProducer")

    def unregisterProducer(self) -> None:
        self.breaks("unregisterProducer")
        super().unregisterProducer()

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self.breaks("writeSequence")
        self.fragments.append(len(data))
        self.data.append(b"".join(data))

    def commit(self) -> Deferred[None]:
        self.ended.append("commit")
        self.breaks("commit")
        return succeed(None)

    def abort(self) -> Deferred[None]:
        self.ended.append("abort")
        self.breaks("abort")
        return succeed(None)

    def breaks(self, where: str) -> None:
        if self.broken == where:
            raise ZeroDivisionError(where)


class OperationTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.performer = Performer()

    def operation(self, request: Request | None = None, has_data_set: bool = True) -> Operation:
        return Operation(
            None,  # type: ignore[arg-type]
            self.performer,
            CONTEXT,
            store_rq(7) if request is None else request,
            has_data_set,
        )

    def performed(self, perform: Callable[[IOperation], Any], has_data_set: bool = True) -> Operation:
        """Return an operation that has begun."""
        operation = self.operation(has_data_set=has_data_set)
        operation.perform(Service(perform))
        return operation

    def receive(self, operation: Operation, *fragments: bytes, last: bool = True) -> None:
        """Let these fragments arrive in one read."""
        for number, fragment in enumerate(fragments, start=1):
            operation.receive([memoryview(fragment)], last and number == len(fragments))
        operation.flush()

    def assertAnswered(self, *statuses: int) -> None:
        self.assertEqual([response.status for response in self.performer.answers], list(statuses))

    def assertBug(self, kind: type[BaseException], doing: str) -> None:
        """Assert that one bug was reported."""
        ((failure, what),) = self.performer.bugs
        failure.trap(kind)
        self.assertEqual(what, doing)


def read(limit: int) -> Callable[[IOperation], Any]:
    """Return a service that reads the data set."""

    async def perform(operation: IOperation) -> int:
        await operation.read_data_set(limit)
        return Status.SUCCESS

    return perform


def store(writer: Any) -> Callable[[IOperation], Any]:
    """Return a service that stores the data set, as Storage does."""

    async def perform(operation: IOperation) -> int:
        try:
            await operation.deliver_data_set(writer)
        except Exception:
            await writer.abort()
            raise
        await writer.commit()
        return Status.SUCCESS

    return perform
