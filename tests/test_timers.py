"""Tests for the timers of an association."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.timers import MIN_PROGRESS, Silence, Timeouts, Timer, Watch


class TimerTests(SynchronousTestCase):
    """A timer runs from when what is awaited changes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.expired: list[float] = []
        self.timer = Timer(self.clock, lambda: self.expired.append(self.clock.seconds()))

    def test_expires(self) -> None:
        """It expires once."""
        self.assertTrue(self.timer.wait(3, "a"))
        self.clock.pump([2.9, 0.2, 10])
        self.assertEqual(len(self.expired), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_same(self) -> None:
        """Awaiting the same still does not start it anew, unless it is told to."""
        self.timer.wait(3, "a")
        self.clock.advance(2)
        self.assertFalse(self.timer.wait(3, "a"))
        self.assertTrue(self.timer.wait(3, "a", again=True))
        self.clock.advance(2)
        self.assertEqual(self.expired, [])
        self.clock.advance(1)
        self.assertEqual(self.expired, [5])

    def test_other(self) -> None:
        """Awaiting something else starts it anew."""
        self.timer.wait(3, "a")
        self.clock.advance(2)
        self.timer.wait(5, "b")
        self.clock.advance(4.5)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.5)
        self.assertEqual(self.expired, [7])

    def test_comes_while_it_expires(self) -> None:
        """What has come while the reactor was held up has come in time, though it is read later."""
        self.timer.wait(3, "a")
        self.clock.callLater(3, self.timer.wait, 3, "a", again=True)  # behind the timer, in the same turn
        self.clock.advance(3)
        self.assertEqual(self.expired, [])
        self.clock.advance(3)
        self.assertEqual(self.expired, [6])

    def test_for_ever(self) -> None:
        """0 is for ever, and leaves nothing with the clock."""
        self.timer.wait(3, "a")
        self.timer.wait(0, "b")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.timer.wait(0, "c")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_it_expired(self) -> None:
        """It can be started again when it has expired."""
        self.timer.wait(3, "a")
        self.clock.advance(3)
        self.timer.wait(3, "a", again=True)
        self.clock.advance(3)
        self.assertEqual(self.expired, [3, 6])

    def test_stopped(self) -> None:
        """Stopped, it leaves nothing with the clock, and can be started for the same again."""
        self.timer.wait(3, "a")
        for _ in range(2):
            self.timer.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.timer.wait(3, "a"))
        self.clock.advance(3)
        self.assertEqual(self.expired, [3])


class WatchTests(SynchronousTestCase):
    """Interruptions are not counted."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.watch = Watch(self.clock)

    def test_interrupted(self) -> None:
        """What is awaited still after an interruption has been so for as long as before."""
        self.assertEqual(self.watch.spent("a"), 0)
        self.clock.advance(3)
        for _ in range(2):
            self.watch.interrupt()
            self.clock.advance(10)
        self.assertEqual(self.watch.spent("a"), 3)
        self.clock.advance(4)
        self.assertEqual(self.watch.spent("a"), 7)

    def test_interrupted_by_the_peer(self) -> None:
        """How long its peer has said something else is known, all in all."""
        self.assertEqual(self.watch.interrupted("a"), 0)
        for number in (1, 2):
            self.clock.advance(3)
            self.assertEqual(self.watch.spent("a"), 5 * (number - 1))
            self.clock.advance(5)
            self.assertEqual(self.watch.interrupted("a"), 3 * number)
        self.watch.interrupt()
        self.clock.advance(100)
        self.assertEqual(self.watch.interrupted("a"), 6)
        self.assertEqual(self.watch.interrupted("b"), 0)

    def test_other(self) -> None:
        """Something else has not been awaited before, and nothing has if that is said."""
        for again in (lambda: "b", lambda: self.watch.again() or "a"):
            self.watch.spent("a")
            self.clock.advance(3)
            awaited = again()
            self.assertEqual(self.watch.spent(awaited), 0)
            self.clock.advance(1)
            self.assertEqual(self.watch.spent(awaited), 1)


class SilenceTests(SynchronousTestCase):
    """Next to nothing is silence."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.expired = 0
        self.silence = Silence(Timer(self.clock, self.expire))
        self.silence.allow(30, "message")

    def expire(self) -> None:
        self.expired += 1

    def hear(self, octets: int, seconds: float) -> None:
        self.clock.advance(seconds)
        self.silence.octets += octets
        self.silence.allow(30, "message")

    def test_dribble(self) -> None:
        """An octet now and then does not keep it from expiring."""
        for _ in range(30):
            self.hear(1, 1)
        self.assertEqual(self.expired, 1)

    def test_progress(self) -> None:
        """A slow line does."""
        for _ in range(100):
            self.hear(MIN_PROGRESS, 29)
        self.assertEqual(self.expired, 0)

    def test_adds_up(self) -> None:
        """Octets add up, and are counted anew each time it is started."""
        self.hear(MIN_PROGRESS - 1, 10)
        self.assertEqual(self.silence.octets, MIN_PROGRESS - 1)
        self.hear(1, 10)
        self.assertEqual(self.silence.octets, 0)
        self.clock.advance(29)
        self.assertEqual(self.expired, 0)
        self.clock.advance(1)
        self.assertEqual(self.expired, 1)

    def test_whole_message(self) -> None:
        """A whole message is progress, however short."""
        self.clock.advance(20)
        self.silence.came_on()
        self.hear(10, 0)
        self.clock.advance(29)
        self.assertEqual(self.expired, 0)


class TimeoutsTests(SynchronousTestCase):
    """The timeouts are a value."""

    def test_defaults(self) -> None:
        """Half a minute each, as with pynetdicom."""
        self.assertEqual(Timeouts(), Timeouts(30, 30, 30, 600))
