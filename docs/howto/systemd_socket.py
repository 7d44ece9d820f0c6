"""A node on a socket that systemd has opened: so it needs no privilege for port 104.

``systemd-socket-activate -l 11112 --fdname=dicom python systemd_socket.py`` tries it out.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react

from dicomnode import Acceptor, FileStorage, Node, Storage, Verification

#: What ``StateDirectory=`` of the unit has made.
DIRECTORY = os.environ.get("STATE_DIRECTORY", ".")


async def main(reactor: Any, description: str = "systemd:domain=INET:index=0") -> None:
    files = FileStorage(DIRECTORY, reactor=reactor)
    acceptor = Acceptor(reactor, [Verification(), Storage(files)])
    node = Node([serverFromString(reactor, description)], acceptor, grace=30)
    node.startService()
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main)
