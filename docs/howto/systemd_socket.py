"""A node on a socket that systemd has opened: so it needs no privilege for port 104.

``systemd-socket-activate -l 11112 python systemd_socket.py`` tries it out.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.python.threadpool import ThreadPool

from dicomnode import Acceptor, FileStorage, Storage, Verification
from dicomnode.node import Node

#: What ``StateDirectory=`` of the unit has made.
DIRECTORY = os.environ.get("STATE_DIRECTORY", ".")


async def main(reactor: Any, description: str = "systemd:domain=INET:index=0") -> None:
    pool = ThreadPool(0, 10, "files")
    files = FileStorage(DIRECTORY, reactor=reactor, pool=pool)
    acceptor = Acceptor(reactor, [Verification(), Storage(files)])
    node = Node([serverFromString(reactor, description)], acceptor, pool, grace=30)
    node.startService()
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main)
