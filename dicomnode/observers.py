"""Turns events into log lines."""

from __future__ import annotations

from typing import Any, TextIO

from twisted.logger import ILogObserver, Logger, LogLevel, formatEvent
from zope.interface import implementer

from dicomnode import events


class LogObserver:
    def __init__(self, level: str = "error", *, log: Logger) -> None:
        self._log = log

    def __call__(self, event: events.Event) -> None:
        self._log.info("{line}", line=repr(event)[:300])


@implementer(ILogObserver)
class TextLines:
    def __init__(self, stream: TextIO, namespace: str | None = "dicomnode") -> None:
        self._stream = stream

    def __call__(self, event: dict[str, Any]) -> None:
        level: LogLevel = event["log_level"]
        print(level.name[0].upper() + ":", formatEvent(event), file=self._stream, flush=True)
        if "log_failure" in event:
            print(event["log_failure"].getTraceback(), file=self._stream)


class JSONLines(TextLines): ...
