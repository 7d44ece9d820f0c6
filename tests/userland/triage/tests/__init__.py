"""Tests of triage, by ``dicomnode.testing`` alone: whatever opens a socket fails."""

import sys

from twisted.internet import reactor  # trial has one, which opens its own at its beginning

__all__ = ["reactor"]


def _forbid(event: str, _: object) -> None:
    if event.startswith("socket."):
        raise AssertionError(f"a test has come to {event}")


sys.addaudithook(_forbid)
