"""An operation whose data set has arrived before anyone asks for it."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import Deferred

from dicomnode.core.command import Status
from dicomnode.errors import OperationFailed
from dicomnode.interfaces import IOperation
from dicomnode.operation import Operation
from tests.cases import (
    Service,
    store_rq,
)
from tests.operationcases import CONTEXT, OperationTestCase, Writer, read, store


class ArrivedTests(OperationTestCase):
    """An operation whose data set has come with its request."""

    def arrived(self, perform: Callable[[IOperation], Any], *fragments: bytes) -> Operation:
        """Return an operation that has begun, and has had its data set before that."""
        whole = [memoryview(fragment) for fragment in fragments]
        operation = Operation(
            None,  # type: ignore[arg-type]
            self.performer,
            CONTEXT,
            store_rq(7),
            True,
            whole,
        )
        operation.perform(Service(perform))
        return operation

    def test_stored(self) -> None:
        """It is delivered, and answered, at once."""
        writer = Writer()
        operation = self.arrived(store(writer), b"da", b"ta")
        self.assertAnswered(0)
        self.assertEqual((writer.data, writer.ended, writer.producer), ([b"data"], ["commit"], None))
        self.assertEqual(operation.octets, 4)
        self.assertFalse(operation.awaits_consumer)

    def test_plain_consumer(self) -> None:
        """A consumer as Twisted has them is given it, too."""
        self.arrived(read(10), b"da", b"ta")
        self.assertAnswered(0)

    def test_empty(self) -> None:
        """One of no octets is whole, too."""
        writer = Writer()
        self.arrived(store(writer))
        self.assertAnswered(0)
        self.assertEqual((writer.data, writer.ended), ([], ["commit"]))

    def test_later(self) -> None:
        """It waits until someone takes it, however often who performs it waits before and behind."""
        turns: list[Deferred[int]] = [Deferred(), Deferred(), Deferred()]
        writer = Writer()

        async def perform(operation: IOperation) -> int:
            for turn in turns[:2]:
                await turn
            await operation.deliver_data_set(writer)
            return await turns[2]

        self.arrived(perform, b"data")
        for turn in turns[:2]:
            self.assertEqual(writer.data, [])
            turn.callback(0)
        self.assertEqual(writer.data, [b"data"])
        self.assertAnswered()
        turns[2].callback(Status.CANNOT_UNDERSTAND)
        self.assertAnswered(0xC210)

    def test_failures(self) -> None:
        """What fails, at once, later or in the consumer, is answered so; who performs it may see to it."""
        turn: Deferred[int] = Deferred()
        seen: list[BaseException] = []

        async def perform(operation: IOperation) -> int:
            try:
                await turn
            except OperationFailed as error:
                seen.append(error)
                raise
            return 0

        async def at_once(operation: IOperation) -> int:
            raise OperationFailed(0xA900)

        self.arrived(at_once, b"data")
        self.arrived(perform, b"data")
        turn.errback(OperationFailed(0xA901))
        writer = Writer("writeSequence")
        self.arrived(store(writer), b"data")
        self.assertAnswered(0xA900, 0xA901, 0x0110)
        self.assertEqual((len(seen), writer.ended), (1, ["abort"]))
        self.assertBug(ZeroDivisionError, "performing a CStoreRQ")

    def test_cancelled(self) -> None:
        """When its association ends, who performs it is cancelled."""
        turn: Deferred[int] = Deferred()
        ended: list[str] = []

        async def perform(operation: IOperation) -> int:
            try:
                return await turn
            finally:
                ended.append("cleaned up")

        self.arrived(perform, b"data").association_ended()
        self.assertTrue(turn.called)
        self.assertEqual(ended, ["cleaned up"])
        self.assertAnswered()

    def test_context(self) -> None:
        """A context variable that is set meanwhile is set for it alone, from beginning to end."""
        variable = ContextVar("variable", default="outside")
        turn: Deferred[int] = Deferred()
        seen: list[str] = []

        async def perform(operation: IOperation) -> int:
            variable.set("inside")
            await turn
            seen.append(variable.get())
            return 0

        self.arrived(perform, b"data")
        turn.callback(0)
        self.assertEqual((seen, variable.get()), (["inside"], "outside"))
