"""Tests for :mod:`dicomnode.observers`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import io
import json
import os
from io import StringIO
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import events, uids
from dicomnode.core.command import NGetRQ
from dicomnode.core.pdu import AssociateRQ, ProposedContext
from dicomnode.interfaces import Instance
from dicomnode.observers import Counters, JSONLines, LogObserver, TextLines
from dicomnode.policies import CalledAETitle
from dicomnode.testing import MemoryStorage
from tests.core.helpers import stable
from tests.logs import CT, EXPLICIT, INSTANCE, LogCase, data_set


class Untouchable:
    """An association of which nobody may ask anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was looked at")


class LogObserverTests(LogCase):
    """What happens is said on a log, at the levels that it admits."""

    def logged(self, level: str) -> tuple[LogObserver, list[dict[str, Any]]]:
        """Return an observer, and the log events that it makes."""
        log_events: list[dict[str, Any]] = []
        remember: Any = log_events.append
        return LogObserver(level, log=Logger("dicomnode", observer=remember)), log_events

    def tell(self, level: str) -> list[dict[str, Any]]:
        """Return what is logged of an association with a store, a duplicate and a refusal."""
        self.recorder.events.clear()
        peer = self.associate("none")
        peer.stores(INSTANCE, data_set())
        peer.stores(INSTANCE, data_set())
        peer.stores(INSTANCE, b"-")
        peer.releases()
        peer.transport.lose()
        log, log_events = self.logged(level)
        for event in self.recorder.events:
            log(event)
        return log_events

    def test_levels(self) -> None:
        """Each level has what those above it have, and more; none has nothing."""
        self.assertEqual(self.tell("none"), [])
        self.assertEqual(self.tell("critical"), [])
        before: list[str] = []
        for level, count in (("error", 2), ("warn", 4), ("info", 10), ("debug", 80)):
            logged = self.tell(level)
            lines = [event["line"] for event in logged if "line" in event]
            rest = iter(lines)
            self.assertTrue(all(line in rest for line in before))
            self.assertGreaterEqual(len(lines), count)
            self.assertLessEqual(
                {event["log_level"] for event in logged},
                {one for one in LogLevel.iterconstants() if one >= LogLevel.levelWithName(level)},
            )
            before = lines

    def test_log_events(self) -> None:
        """A log event has its line, what it is about, the number of the association, and its ordinal."""
        log_events = self.tell("info")
        accepting = next(event for event in log_events if event.get("line") == "Accepting Association")
        self.assertIsInstance(accepting["event"], events.AssociationAccepted)
        self.assertEqual((accepting["association"], accepting["ordinal"]), (1, 0))
        self.assertEqual(accepting["log_namespace"], "dicomnode")
        storing, overwriting = (
            event
            for event in log_events
            if isinstance(event["event"], events.InstanceKept) and event["event"].replaced
        )
        self.assertEqual((storing["ordinal"], overwriting["ordinal"]), (0, 1))
        for event in (storing, overwriting):
            self.assertIs(event["severity"], LogLevel.warn)
        self.assertIs(storing["log_level"], LogLevel.info)

    def test_wordless(self) -> None:
        """Of what has no line at this level, there is a log event without a format."""
        for event in self.tell("info"):
            about = event["event"]
            if isinstance(about, events.OperationEnded) and about.response and about.response.status == 0:
                self.assertIsNone(event["log_format"])
                self.assertIs(event["severity"], LogLevel.info)
                break
        else:
            self.fail("the end of an operation was not logged")

    def test_without_association(self) -> None:
        """What happens on no association has number 0."""
        log, log_events = self.logged("info")
        log(events.Started("0.1"))
        self.assertEqual([event["association"] for event in log_events], [0])

    def test_looks_at_nothing(self) -> None:
        """What the level does not admit is not looked at."""
        log, log_events = self.logged("warn")
        association: Any = Untouchable()
        log(events.AssociationRequested(association, Untouchable()))  # type: ignore[arg-type]
        log(events.OperationStarted(association, Untouchable()))  # type: ignore[arg-type]
        log(events.AssociationReleased(association))
        self.assertEqual(log_events, [])

    def test_fails(self) -> None:
        """What cannot be said is our fault alone: it is told, and nothing is raised."""
        for level in ("info", "critical"):
            log, log_events = self.logged(level)
            log(events.AssociationAccepted(Untouchable(), Untouchable(), Untouchable()))  # type: ignore[arg-type]
            log(events.Unexpected(Untouchable(), Failure(ValueError()), "x"))  # type: ignore[arg-type]
            self.assertIs(log_events[-1]["log_level"], LogLevel.critical)
            self.assertIn("was looked at", log_events[-1]["log_failure"].getErrorMessage())

    @given(st.text(st.characters(max_codepoint=0xFF)))
    @stable
    def test_hostile(self, text: str) -> None:
        """No peer brings a control character into the log, or a line of its own, or one without end."""
        self.recorder.events.clear()
        peer = self.start("debug", policy=CalledAETitle("US"))
        contexts = (ProposedContext(1, text or "-", (text,)),)
        called = text.encode("latin-1")[:16].decode("latin-1")
        peer.sends(AssociateRQ(called, called, contexts, application_context=text[:9]).encode())
        peer.transport.lose()
        peer = self.associate("debug")
        peer.stores(text, data_set())
        request = NGetRQ(requested_sop_class_uid=text, requested_sop_instance_uid=text, message_id=3)
        peer.invokes(CT, request)
        operation = self.recorder.of(events.OperationStarted)[-1].operation
        instance = Instance.of(self.recorder.of(events.OperationStarted)[0].operation)
        for event in (
            events.AbortSent(peer.association, operation, text),  # type: ignore[arg-type]
            events.InstanceKept(peer.association, instance, text, True),
            events.InstanceNotKept(peer.association, instance, text, text, OSError(5, text, text)),
            events.Unexpected(peer.association, Failure(ValueError(text)), text),
        ):
            self.log(event)
        written = self.written()
        for line in written.split("\n"):
            self.assertTrue(line.isprintable(), repr(line))
            self.assertTrue(not line or line[1:3] == ": " or line.startswith("    "))
            self.assertLess(len(line), 9000)


class Broken(StringIO):
    """A stream that cannot be written to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


class TextLinesTests(SynchronousTestCase):
    """Log events are written as lines."""

    def setUp(self) -> None:
        self.stream = StringIO()
        self.lines = TextLines(self.stream)
        self.log = Logger("dicomnode", observer=self.lines)

    def test_interface(self) -> None:
        """It is an observer of logs."""
        verifyObject(ILogObserver, self.lines)
        verifyObject(ILogObserver, JSONLines(self.stream))

    def test_prefixes(self) -> None:
        """A letter for the level, a colon, a space; also before nothing."""
        for level in LogLevel.iterconstants():
            self.log.emit(level, "{line}", line=f"{{{level.name}}}")
        self.log.debug("{line}", line="")
        self.assertEqual(
            self.stream.getvalue(), "D: {debug}\nI: {info}\nW: {warn}\nE: {error}\nC: {critical}\nD: \n"
        )

    def test_wordless(self) -> None:
        """Of what has no format nothing is written."""
        self.log.info(None)
        self.assertEqual(self.stream.getvalue(), "")

    def test_namespace(self) -> None:
        """Only what is logged under its namespace is written; without one, all is."""
        Logger("elsewhere", observer=self.lines).error("other")
        self.assertEqual(self.stream.getvalue(), "")
        Logger("elsewhere", observer=TextLines(self.stream, None)).error("other")
        TextLines(self.stream, None)({"log_format": "bare"})
        self.assertEqual(self.stream.getvalue(), "E: other\nI: bare\n")

    def test_continuation(self) -> None:
        """What follows the first line is indented, and so are tracebacks: none is another event's line."""
        self.log.error("one\nI: two\x1b")
        try:
            raise ValueError("a\nI: b")
        except ValueError:
            self.log.failure("{what}", what="failed")
        first, second, third, *traceback = self.stream.getvalue().splitlines()
        self.assertEqual([first, second, third], ["E: one", r"    I: two\x1b", "C: failed"])
        self.assertEqual(traceback[0], "    Traceback (most recent call last):")
        self.assertTrue(all(line.startswith("    ") for line in traceback))
        self.assertIn("    I: b", traceback)

    def test_failure_alone(self) -> None:
        """A failure that nobody comments upon is written all the same."""
        self.log.error(None, log_failure=Failure(ValueError("a")))
        self.assertIn("ValueError: a", self.stream.getvalue())

    def test_broken_stream(self) -> None:
        """That nobody can read it stops no one."""
        closed = StringIO()
        closed.close()
        for stream in (
            Broken(BrokenPipeError(errno.EPIPE, "")),
            Broken(OSError(errno.EIO, "")),
            Broken(BlockingIOError(errno.EAGAIN, "")),
            Broken(OSError(errno.ENOSPC, "")),
            closed,
            None,
        ):
            Logger("dicomnode", observer=TextLines(stream)).error("text")
            Logger("dicomnode", observer=JSONLines(stream)).error("text")

    def test_full_device(self) -> None:
        """Nor does a device that is full, and found to be when what is buffered is written."""
        with open(os.devnull, "rb") as unwritable:
            stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.dup(unwritable.fileno()), "wb")))
            Logger("dicomnode", observer=TextLines(stream)).error("text")
            self.assertRaises(OSError, stream.close)

    def test_narrow_stream(self) -> None:
        """A stream that cannot express a character is given its escape."""
        octets = io.BytesIO()
        stream = io.TextIOWrapper(octets, encoding="ascii")
        Logger("dicomnode", observer=TextLines(stream)).info("José")
        self.assertEqual(octets.getvalue(), b"I: Jos\\xe9\n")


class JSONLinesTests(LogCase):
    """Events are written as JSON objects, one a line."""

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written().splitlines()]

    def test_store(self) -> None:
        """Each event is one object, whatever it is in words; at -v as well as at -d."""
        for level in ("info", "debug"):
            peer = self.associate(level, json=True)
            peer.stores(INSTANCE, data_set())
            peer.releases()
            peer.transport.lose()
            objects = self.objects()
            names = [item["event"] for item in objects if item["event"] != "AssociationRequested"]
            self.assertEqual(
                names,
                [
                    "AssociationAccepted",
                    "OperationStarted",
                    "InstanceKept",
                    "OperationEnded",
                    "AssociationReleased",
                    "AssociationEnded",
                ],
            )
            self.assertEqual(len(objects) - len(names), level == "debug")

    def test_values(self) -> None:
        """Each has its time, its level, and what the record of the event has."""
        peer = self.associate("warn", json=True)
        peer.stores(INSTANCE, b"-")
        (ended,) = self.objects()
        self.assertRegex(ended.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")
        self.assertEqual(ended["level"], "error")
        self.assertEqual((ended["event"], ended["status"]), ("OperationEnded", "0xC210"))
        self.assertEqual(ended["sop_instance_uid"], INSTANCE)

    def test_bug(self) -> None:
        """A bug has its traceback."""
        storage = MemoryStorage()
        storage.error = ZeroDivisionError("why")
        self.associate("critical", json=True, storage=storage).stores(INSTANCE, data_set())
        (unexpected,) = self.objects()
        self.assertEqual((unexpected["event"], unexpected["level"]), ("Unexpected", "critical"))
        self.assertEqual(unexpected["error"], "ZeroDivisionError: why")
        self.assertTrue(unexpected["traceback"].startswith("Traceback"))

    def test_others(self) -> None:
        """What is logged without an event is given as text; what is not ours, is not."""
        lines = JSONLines(self.stream)
        Logger("dicomnode", observer=lines).info("some {what}", what="text")
        Logger("elsewhere", observer=lines).info("other")
        (text,) = self.objects()
        self.assertEqual((text["event"], text["level"], text["text"]), ("Log", "info", "some text"))

    @given(st.text(st.characters(max_codepoint=0xFF)))
    @stable
    def test_hostile(self, text: str) -> None:
        """Whatever a peer says, an object is one line of ASCII."""
        peer = self.associate("debug", json=True)
        peer.stores(text, data_set())
        for line in self.written().rstrip("\n").split("\n"):
            self.assertTrue(line.isascii() and line.isprintable())
            json.loads(line)


class CountersTests(LogCase):
    """Counters count."""

    def setUp(self) -> None:
        super().setUp()
        self.counters = Counters()

    def count(self) -> dict[str, Any]:
        """Return what the counters say after what has happened since they were last asked."""
        for event in self.recorder.events:
            self.counters(event)
        self.recorder.events.clear()
        return self.counters.snapshot()

    def test_nothing(self) -> None:
        """At first, all is zero."""
        self.assertEqual(
            self.counters.snapshot(),
            {
                "associations": {
                    "requested": 0,
                    "accepted": 0,
                    "rejected": 0,
                    "released": 0,
                    "aborted": 0,
                    "lost": 0,
                    "never": 0,
                    "open": 0,
                },
                "operations": {},
                "in_progress": 0,
                "instances": {"kept": 0, "replaced": 0, "dropped": 0, "not_kept": 0},
                "octets": 0,
                "seconds": 0.0,
                "paused": 0,
                "timed_out": 0,
                "unexpected": 0,
            },
        )

    def test_associations(self) -> None:
        """Associations by what became of them; the open ones are those not yet ended."""
        peers = [self.associate("none") for _ in range(4)]
        before = self.count()
        self.assertEqual(before["associations"]["open"], 4)
        released, aborted, lost, silent = peers
        released.releases()
        aborted.aborts()
        lost.transport.lose()
        silent.association.abort()
        for peer in (released, aborted, silent, self.start("none")):
            peer.transport.lose()
        rejected = self.start("none", policy=CalledAETitle("US"))
        rejected.associates()
        rejected.transport.lose()
        self.assertEqual(
            self.count()["associations"],
            {
                "requested": 5,
                "accepted": 4,
                "rejected": 1,
                "released": 1,
                "aborted": 2,
                "lost": 1,
                "never": 1,
                "open": 0,
            },
        )
        self.assertEqual(before["associations"]["open"], 4)

    def test_operations(self) -> None:
        """Operations by their kind and status, with their octets and seconds; instances by their fate."""
        peer = self.associate("none", {CT: [EXPLICIT], uids.VERIFICATION: [EXPLICIT]})
        peer.stores(INSTANCE, data_set())
        peer.stores(INSTANCE, data_set())
        peer.stores(INSTANCE, b"-")
        peer.echoes()
        os.remove(os.path.join(self.directory, f"CT.{INSTANCE}"))
        os.rmdir(self.directory)
        peer.stores(INSTANCE, data_set())
        counted = self.count()
        self.assertEqual(
            counted["operations"],
            {"CStoreRQ": {"0x0000": 2, "0xC210": 1, "0xA700": 1}, "CEchoRQ": {"0x0000": 1}},
        )
        self.assertEqual(counted["octets"], 3 * len(data_set()) + 1)
        self.counters(events.InstanceKept(peer.association, cast(Any, None), "CT.1.2.3", dropped=True))
        self.assertEqual(
            self.count()["instances"],
            {"kept": 1, "replaced": 1, "dropped": 1, "not_kept": 1},
        )

    def test_others(self) -> None:
        """What is in progress, unanswered, paused, too late, or a bug."""
        storage = MemoryStorage()
        storage.stalls()
        peer = self.associate("none", storage=storage)
        peer.stores(INSTANCE, data_set())
        counted = self.count()
        self.assertEqual((counted["in_progress"], counted["paused"], counted["operations"]), (1, 1, {}))
        self.counters(events.TimedOut(peer.association, "network", 1.0))
        self.counters(events.Unexpected(peer.association, Failure(ValueError()), ""))
        self.reactor.advance(2)
        peer.transport.lose()
        counted = self.count()
        self.assertEqual(counted["in_progress"], 0)
        self.assertEqual(counted["operations"], {"CStoreRQ": {"unanswered": 1}})
        self.assertEqual(counted["seconds"], 2.0)
        self.assertEqual((counted["timed_out"], counted["unexpected"]), (1, 1))
