"""Turns events into log lines, into records for programs, and into numbers.

:class:`LogObserver` says on a :class:`twisted.logger.Logger` what happens; :class:`TextLines` and
:class:`JSONLines` write that to a stream. :class:`Counters` counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from dicomnode import events
from dicomnode.core.command import Status
from dicomnode.interfaces import IAssociation
from dicomnode.lines import SAID, Said
from dicomnode.records import record
from dicomnode.visible import visible

#: Characters of a line: more than any of ours has, for what is not ours.
_LINE = 8192

#: What there is to format in a line of ours.
_FORMAT = "{line}"

#: Of the Logger that a LogObserver is given, for what it says to be told from all the rest.
_NAMESPACE = "dicomnode"


class LogObserver:
    """Says on a log what happens.

    A line is one log event, which carries ``line``; ``event``, the event that it is about, and the
    number of its ``association``; ``severity``, the level of the event as a whole; and ``ordinal``:
    which of the event's lines it is. An event that has no line at this level is a log event without
    a format, that writers of text pass over.

    :param level: ``"none"``, ``"critical"``, ``"error"``, ``"warn"``, ``"info"`` or ``"debug"``.
        What is below is not looked at.
    :param log: Twisted's own, in the namespace ``dicomnode``, if it is not another.
    """

    def __init__(self, level: str = "error", *, log: Logger | None = None) -> None:
        self._log = Logger(_NAMESPACE) if log is None else log
        self._said = {} if level == "none" else _said_at(LogLevel.levelWithName(level))
        said, logged = self._said.get(events.OperationEnded, (None, False))
        #: Is nothing said of an operation that ended well, as nearly all do? To find that out takes longer.
        self._passes_success = said is not None and not logged

    def wants(self, kind: type[Any]) -> bool:
        """Is anything said of such events, at this level?"""
        return kind in self._said

    def __call__(self, event: events.Event) -> None:
        kind = type(event)
        if kind is events.OperationEnded and self._passes_success:
            response = cast(events.OperationEnded, event).response
            if response is not None and response.status == Status.SUCCESS:
                return
        said = self._said.get(kind)
        if said is not None:
            try:
                self._say(event, *said)
            except Exception:
                # It is our own fault; the association goes on.
                self._log.failure("Failed to say what happened")

    def _say(self, event: events.Event, said: Said, logged: bool) -> None:
        lines = [(level, line) for level, words in said.words for line in words(event)]
        if not lines and not logged:
            return
        association: IAssociation | None = getattr(event, "association", None)
        common: dict[str, object] = {
            "event": event,
            "severity": max((said.level, *(level for level, _ in lines))),
            "association": association.number if association is not None else 0,
        }
        if isinstance(event, events.Unexpected):
            common["log_failure"] = event.failure
        if not lines:
            self._log.emit(said.level, None, ordinal=0, **common)
        for ordinal, (level, line) in enumerate(lines):
            self._log.emit(level, _FORMAT, line=visible(line, _LINE), ordinal=ordinal, **common)


def _said_at(threshold: LogLevel) -> Mapping[type[Any], tuple[Said, bool]]:
    """Return what is said at a level, and whether an event is logged of which nothing is said."""
    table = {}
    for kind, said in SAID.items():
        words = tuple(item for item in said.words if item[0] >= threshold)
        logged = said.level >= threshold
        if words or logged:
            table[kind] = (Said(said.level, words), logged)
    return table


@implementer(ILogObserver)
class TextLines:
    """Writes log events as lines: ``I: Accepting Association``.

    What follows the first line of an event, such as a traceback, is indented: so no line begins as
    if it were another event's.

    :param stream: that it cannot be written to is nobody's business but its own; None is nowhere.
    :param namespace: the ``log_namespace`` of the events that are written; None for all.
    :param worker: where several processes write, which one this is: ``I: [3] Accepting Association``.
    """

    def __init__(
        self, stream: TextIO | None, namespace: str | None = _NAMESPACE, *, worker: int | None = None
    ) -> None:
        self._stream = stream
        self._whose = "" if worker is None else f"[{worker}] "
        self._namespace = namespace

    def __call__(self, event: dict[str, Any]) -> None:
        if self._namespace is not None and event.get("log_namespace") != self._namespace:
            return
        failure: Failure | None = event.get("log_failure")
        if event.get("log_format") is None and failure is None:
            return
        level = event.get("log_level", LogLevel.info)
        # Formatting takes a third of the time that a line costs, and in ours there is nothing to format.
        ours = event.get("log_format") == _FORMAT and "line" in event
        text = str(event["line"]) if ours else formatEvent(event)
        first, *rest = text.split("\n")
        if failure is not None:
            rest += failure.getTraceback().splitlines()
        lines = [f"{level.name[0].upper()}: {self._whose}{visible(first, _LINE)}\n"]
        lines += [f"    {visible(line, _LINE)}\n" for line in rest]
        write(self._stream, "".join(lines))


@implementer(ILogObserver)
class JSONLines:
    """Writes a JSON object for each of our events, on one line.

    The parameters are those of :class:`TextLines`, but the namespace is ours; ``worker`` is among the
    values.
    """

    def __init__(self, stream: TextIO | None, *, worker: int | None = None) -> None:
        self._stream = stream
        self._whose: dict[str, object] = {} if worker is None else {"worker": worker}

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_namespace") != _NAMESPACE or event.get("ordinal", 0):
            return  # not ours, or another line about the same
        about: events.Event | None = event.get("event")
        level = event.get("severity") or event["log_level"]
        time = datetime.fromtimestamp(event["log_time"], UTC)
        values = {"time": time.isoformat(timespec="milliseconds"), "level": level.name, **self._whose}
        values |= record(about) if about is not None else {"event": "Log", "text": formatEvent(event)}
        failure: Failure | None = event.get("log_failure")
        if failure is not None:
            values["error"] = f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
            values["traceback"] = failure.getTraceback()
        write(self._stream, json.dumps(values) + "\n")


def write(stream: TextIO | None, text: str) -> None:
    """Write, or do not: that nobody reads it is no failure of what is done."""
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode())
        stream.flush()
    except (OSError, ValueError):
        pass  # broken, or closed


class Relay:
    """Passes on what other processes have written, whole lines, as it is.

    :param stream: where it goes; None: nowhere.
    :param log: where each line is an event besides; None: nowhere.
    """

    def __init__(self, stream: TextIO | None, log: Logger | None = None) -> None:
        self._stream = stream
        self._log = log

    def __call__(self, octets: bytes) -> None:
        text = octets.decode("utf-8", "backslashreplace")
        write(self._stream, text)
        if self._log is not None:
            for line in text.splitlines():
                self._log.info(_FORMAT, line=line)


def lines_for(log_format: str, stream: TextIO, worker: int | None = None) -> TextLines | JSONLines:
    """Return what writes our lines to ``stream``, as ``--log-format`` says: ``"text"`` or ``"json"``."""
    return JSONLines(stream, worker=worker) if log_format == "json" else TextLines(stream, worker=worker)


def begin_lines(log_format: str, stream: TextIO, worker: int | None = None) -> None:
    """Have our lines written to ``stream``, and of what Twisted itself has to say no more than errors."""
    wrong = LogLevelFilterPredicate(defaultLogLevel=LogLevel.error)
    others = FilteringLogObserver(TextLines(stream, namespace=None, worker=worker), [_not_ours, wrong])
    ours = lines_for(log_format, stream, worker)
    globalLogBeginner.beginLoggingTo([ours, others], redirectStandardIO=False)


@provider(ILogFilterPredicate)
def _not_ours(event: Mapping[str, Any]) -> Any:
    """What a LogObserver says has a level, and lines, of its own."""
    ours = event.get("log_namespace") == _NAMESPACE
    return PredicateResult.no if ours else PredicateResult.maybe


class Counters:
    """Counts what happens: plain integers, and sums of octets and seconds."""

    def __init__(self) -> None:
        self._open: set[IAssociation] = set()
        self._in_progress = 0
        self._associations = dict.fromkeys(
            ("requested", "accepted", "rejected", "released", "aborted", "lost", "never"), 0
        )
        self._operations: dict[str, dict[str, int]] = {}
        self._instances = dict.fromkeys(("kept", "replaced", "dropped", "not_kept"), 0)
        self._others = dict.fromkeys(("octets", "paused", "timed_out", "unexpected"), 0)
        self._seconds = 0.0
        self._count: Mapping[type[Any], Callable[[Any], None]] = {
            events.AssociationRequested: self._requested,
            events.AssociationAccepted: self._accepted,
            events.AssociationRejected: self._rejected,
            events.AssociationEnded: self._ended,
            events.OperationStarted: self._operation_started,
            events.OperationEnded: self._operation_ended,
            events.InstanceKept: self._kept,
            events.InstanceNotKept: self._not_kept,
            events.Paused: self._paused,
            events.TimedOut: self._timed_out,
            events.Unexpected: self._unexpected,
        }

    def __call__(self, event: events.Event) -> None:
        count = self._count.get(type(event))
        if count is not None:
            count(event)

    def snapshot(self) -> dict[str, Any]:
        """Return all of it, as it is now: nothing of it changes later.

        ``seconds`` and ``octets`` are sums over the operations; ``operations`` are by the message's
        class and the status answered, or ``"unanswered"``. An association whose transport connection
        was closed before it was established is ``"never"``.
        """
        return {
            "associations": self._associations | {"open": len(self._open)},
            "operations": {name: dict(statuses) for name, statuses in self._operations.items()},
            "in_progress": self._in_progress,
            "instances": dict(self._instances),
            "seconds": self._seconds,
            **self._others,
        }

    def _requested(self, event: events.AssociationRequested) -> None:
        self._associations["requested"] += 1

    def _accepted(self, event: events.AssociationAccepted) -> None:
        self._associations["accepted"] += 1
        self._open.add(event.association)

    def _rejected(self, event: events.AssociationRejected) -> None:
        self._associations["rejected"] += 1

    def _ended(self, event: events.AssociationEnded) -> None:
        self._open.discard(event.association)
        if event.how != "rejected":
            self._associations[event.how] += 1

    def _operation_started(self, event: events.OperationStarted) -> None:
        self._in_progress += 1

    def _operation_ended(self, event: events.OperationEnded) -> None:
        self._in_progress -= 1
        self._others["octets"] += event.octets
        self._seconds += event.seconds
        statuses = self._operations.setdefault(type(event.operation.request).__name__, {})
        status = "unanswered" if event.response is None else f"0x{event.response.status:04X}"
        statuses[status] = statuses.get(status, 0) + 1

    def _kept(self, event: events.InstanceKept) -> None:
        self._instances["dropped" if event.dropped else "replaced" if event.replaced else "kept"] += 1

    def _not_kept(self, event: events.InstanceNotKept) -> None:
        self._instances["not_kept"] += 1

    def _paused(self, event: events.Paused) -> None:
        self._others["paused"] += 1

    def _timed_out(self, event: events.TimedOut) -> None:
        self._others["timed_out"] += 1

    def _unexpected(self, event: events.Unexpected) -> None:
        self._others["unexpected"] += 1
