"""Tests for :mod:`dicomnode.waiting`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import gc
import sys
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.waiting import InTurn, Once, begun, shielded


class ShieldedTests(SynchronousTestCase):
    """Who waits may give up: what is waited for goes on."""

    def setUp(self) -> None:
        self.cancelled: list[Any] = []
        self.late: list[Any] = []
        self.going: Deferred[int] = Deferred(self.cancelled.append)
        self.waiting = shielded(self.going, self.late.append)

    def test_result(self) -> None:
        """Who waits is given what it comes to, and nobody else is."""
        self.going.callback(1)
        self.assertEqual(self.successResultOf(self.waiting), 1)
        self.assertEqual(self.late, [])

    def test_failure(self) -> None:
        """And what it fails with."""
        self.going.errback(ValueError("no"))
        self.failureResultOf(self.waiting, ValueError)
        self.assertEqual(self.late, [])

    def test_cancelled(self) -> None:
        """Who gives up is told so at once; what it comes to is somebody else's."""
        self.waiting.cancel()
        self.failureResultOf(self.waiting, CancelledError)
        self.assertEqual(self.cancelled, [])
        self.going.callback(1)
        self.assertEqual(self.late, [1])

    def test_fails_late(self) -> None:
        """So is what it fails with; where that is given back, it is logged."""
        waiting = shielded(going := Deferred[int](), lambda result: result)
        waiting.addErrback(lambda failure: None)
        for one in (self.waiting.addErrback(lambda failure: None), waiting):
            one.cancel()
        for deferred in (self.going, going):
            deferred.errback(ValueError("no"))
        (failure,) = self.late
        self.assertIsInstance(failure, Failure)
        del going, deferred, waiting, one
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class BegunTests(SynchronousTestCase):
    """A coroutine is run as far as it goes."""

    async def waits_for(self, going: Deferred[int]) -> int:
        return await going + 1

    def test_at_once(self) -> None:
        """What has nothing to wait for is done."""
        self.assertEqual(begun(self.waits_for(succeed(1))), 2)

    def test_raises(self) -> None:
        """What it raises at once is raised."""
        self.assertRaises(ValueError, begun, self.waits_for(fail(ValueError("no"))))

    def test_waits(self) -> None:
        """Of what waits there is a Deferred."""
        going: Deferred[int] = Deferred()
        waiting = begun(self.waits_for(going))
        assert isinstance(waiting, Deferred)
        self.assertNoResult(waiting)
        going.callback(1)
        self.assertEqual(self.successResultOf(waiting), 2)

    def test_cancelled(self) -> None:
        """Who gives up cancels what is waited for."""
        going: Deferred[int] = Deferred()
        waiting = begun(self.waits_for(going))
        assert isinstance(waiting, Deferred)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(going.called)

    def test_forgotten(self) -> None:
        """What waits for what nobody can bring any more is closed, and that is nobody's error."""
        closed: list[str] = []
        wrong: list[Any] = []
        self.patch(sys, "unraisablehook", wrong.append)

        async def waits(name: str) -> None:
            try:
                await Deferred()
            finally:
                closed.append(name)

        coroutines = [waits("by the collector"), waits("before that")]
        waiting = [begun(coroutine) for coroutine in coroutines]
        coroutines[1].close()
        del waiting, coroutines
        gc.collect()
        self.assertEqual(closed, ["before that", "by the collector"])
        self.assertEqual(wrong, [])


class InTurnTests(SynchronousTestCase):
    """What concerns the same is done one after the other."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.in_turn = InTurn(self.clock)
        self.going: dict[str, Deferred[str]] = {}
        self.told: list[str] = []

    def run_(self, what: str, name: str) -> None:
        """Do a job until its Deferred fires."""

        def job() -> Deferred[str]:
            self.going[name] = Deferred()
            return self.going[name]

        def tell(result: str | Failure) -> None:
            self.told.append(f"{name}: {result.type.__name__ if isinstance(result, Failure) else result}")

        self.in_turn.run(what, job).addBoth(tell)

    def test_order(self) -> None:
        """The next is begun once it is told what became of the one before; others are done meanwhile."""
        self.assertFalse(self.in_turn)
        for what, name in (("a", "first"), ("a", "second"), ("b", "other"), ("a", "third")):
            self.run_(what, name)
        self.assertEqual(len(self.in_turn), 4)
        self.assertEqual(set(self.going), {"first", "other"})
        self.going["other"].callback("done")
        self.going["first"].errback(ValueError("no"))
        self.assertEqual(self.told, ["other: done", "first: ValueError"])
        self.assertNotIn("third", self.going)
        self.assertNotIn("second", self.going)
        for name in ("second", "third"):
            self.clock.advance(0)
            self.going[name].callback("done")
        self.assertEqual(self.told[2:], ["second: done", "third: done"])
        self.assertFalse(self.in_turn)

    def test_at_once(self) -> None:
        """A job may be done at once; what is given by whoever is told of one comes behind that."""
        done: list[int] = []
        first: Deferred[None] = Deferred()

        def again(_: None) -> None:
            self.in_turn.run("a", lambda: succeed(done.append(2)))
            done.append(1)

        self.in_turn.run("a", lambda: first).addCallback(again)
        first.callback(None)
        self.assertEqual(done, [1])
        self.clock.advance(0)
        self.assertEqual(done, [1, 2])
        self.assertFalse(self.in_turn)
        self.assertEqual(self.successResultOf(self.in_turn.run("a", lambda: succeed(3))), 3)

    def test_many(self) -> None:
        """However many wait, each has a turn of the reactor of its own."""
        first: Deferred[int] = Deferred()
        self.in_turn.run("a", lambda: first)
        done: list[int] = []
        for number in range(3000):
            self.in_turn.run("a", lambda number=number: succeed(number)).addCallback(done.append)
        first.callback(0)
        for number in range(3000):
            self.assertEqual(done, list(range(number)))
            (due,) = self.clock.calls
            self.clock.calls.remove(due)
            due.func(*due.args)
        self.assertEqual(len(done), 3000)
        self.assertFalse(self.in_turn)


class OnceTests(SynchronousTestCase):
    """Any number waits."""

    def test_happens(self) -> None:
        """Whoever waits is told, before and after."""
        once = Once()
        before = [once.wait(), once.wait()]
        for waiting in before:
            self.assertNoResult(waiting)
        once.happens()
        for waiting in (*before, once.wait()):
            self.assertIsNone(self.successResultOf(waiting))

    def test_fails(self) -> None:
        """Each has the error, and a failure of its own."""
        once = Once()
        before = [once.wait(), once.wait()]
        once.happens(ValueError("no"))
        for waiting in (*before, once.wait()):
            self.failureResultOf(waiting, ValueError)
        self.assertIsInstance(once.error, ValueError)

    def test_only_once(self) -> None:
        """What happened first counts."""
        once = Once()
        waiting = once.wait()
        once.happens()
        once.happens(ValueError("no"))
        self.successResultOf(waiting)
        self.successResultOf(once.wait())

    def test_cancelled(self) -> None:
        """Who gives up does so for nobody else."""
        once = Once()
        first, second = once.wait(), once.wait()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        once.happens()
        self.successResultOf(second)

    def test_cancelled_by_another(self) -> None:
        """One may cancel another while they are told."""
        once = Once()
        first, second = once.wait(), once.wait()
        first.addCallback(lambda _: second.cancel())
        once.happens()
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
