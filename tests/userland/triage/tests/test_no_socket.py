"""A test that the other tests open no socket."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase


class NoSocketTests(SynchronousTestCase):
    def test_forbidden(self) -> None:
        """Who opens a socket fails, and who asks for an address."""
        self.assertRaises(AssertionError, socket.socket)
        self.assertRaises(AssertionError, socket.getaddrinfo, "localhost", 104)
