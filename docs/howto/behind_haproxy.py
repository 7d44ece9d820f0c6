"""A node behind HAProxy, which says by the PROXY protocol who has connected: ``python behind_haproxy.py``."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react

from dicomnode import Acceptor, FileStorage, Limits, PeerAddress, Storage, Verification

DIRECTORY = "incoming"


async def main(reactor: Any, description: str = "haproxy:tcp:11112:interface=127.0.0.1") -> None:
    os.makedirs(DIRECTORY, exist_ok=True)
    files = FileStorage(DIRECTORY, reactor=reactor)
    acceptor = Acceptor(
        reactor,
        [Verification(), Storage(files)],
        policy=PeerAddress("192.0.2.0/24"),  # of those who connect to HAProxy
        limits=Limits(per_host=4),  # and so is the host
    )
    await serverFromString(reactor, description).listen(acceptor)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main)
