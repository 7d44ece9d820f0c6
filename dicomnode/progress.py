"""How far it is: a bar on a terminal, if there is rich (``dicomnode[progress]``), else plain lines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

#: Seconds between lines.
EVERY = 5.0


class Progress:
    """Takes how far it is, and says nothing."""

    def looks(self, files: int) -> None:
        """So many files have been looked at."""

    def begins(self, files: int, octets: int) -> None:
        """So much is to be sent."""

    def comes(self, files: int, octets: int) -> None:
        """Files that have come to their end, and octets that were sent, from the beginning."""

    def ends(self) -> None:
        """That was all, or is to be."""


class Lines(Progress):
    """Writes a line every now and then.

    :param write: takes them.
    :param seconds: tells the time.
    """

    def __init__(self, write: Callable[[str], object], seconds: Callable[[], float]) -> None:
        self._write = write
        self._seconds = seconds
        self._last = seconds()
        self._files = self._octets = 0

    def looks(self, files: int) -> None:
        if self._due():
            self._write(f"{files} files looked at\n")

    def begins(self, files: int, octets: int) -> None:
        self._files, self._octets = files, octets

    def comes(self, files: int, octets: int) -> None:
        if self._due():
            percent = 100 * octets // self._octets if self._octets else 100
            self._write(f"{files} of {self._files} files sent, {percent} % of {self._octets} octets\n")

    def _due(self) -> bool:
        now = self._seconds()
        if now - self._last < EVERY:
            return False
        self._last = now
        return True


class Bar(Progress):
    """Draws a bar.

    :param console: rich's, on a terminal.
    """

    def __init__(self, console: Any) -> None:
        from rich import progress

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[files]}"),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("Looking", total=None, files="")
        self._files = 0
        self._progress.start()

    def looks(self, files: int) -> None:
        self._progress.update(self._task, files=f"{files} files")

    def begins(self, files: int, octets: int) -> None:
        self._files = files
        self._progress.reset(self._task, total=octets, description="Sending", files=f"0/{files} files")

    def comes(self, files: int, octets: int) -> None:
        self._progress.update(self._task, completed=octets, files=f"{files}/{self._files} files")

    def ends(self) -> None:
        with suppress(OSError, ValueError):  # nobody looks any more
            self._progress.stop()


def progress_on(stream: TextIO, write: Callable[[str], object], seconds: Callable[[], float]) -> Progress:
    """Return a bar, if ``stream`` is a terminal on which it can be drawn and there is rich; else lines.

    :param write: takes the lines.
    :param seconds: tells the time.
    """
    if stream.isatty():
        try:
            from rich.console import Console
        except ImportError:
            return Lines(write, seconds)
        console = Console(file=stream)
        if console.is_interactive:
            return Bar(console)
    return Lines(write, seconds)
