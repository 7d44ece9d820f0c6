"""What the tests of logs share: an acceptor whose every word is kept, and its peers."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from twisted.cred.portal import Portal
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import events, uids
from dicomnode.acceptor import Acceptor
from dicomnode.commits import Sync
from dicomnode.core.items import UserInformation
from dicomnode.filestore import FileStorage
from dicomnode.interfaces import IAssociationPolicy, IService, IStorage
from dicomnode.observers import JSONLines, LogObserver, TextLines
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer, Pool, Reactor, Recorder
from dicomnode.timers import Timeouts
from tests.core.helpers import octets

CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCE = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
EXPLICIT = uids.EXPLICIT_VR_LE

#: Who the peer in the recorded transcripts was.
STORESCU = UserInformation(16382, "1.2.826.0.1.3680043.9.3811.3.0.4", "PYNETDICOM_304")

#: As W lines name it.
WHO = "STORESCU at 192.0.2.1:50000 calling ANY-SCP"
INSTANCE_WHO = f"(SOP Instance UID {INSTANCE}, {WHO})"


def data_set(sop_instance_uid: str = INSTANCE) -> bytes:
    """Return a data set in Explicit VR Little Endian that names an instance."""
    values = b""
    for number, uid in ((0x16, CT), (0x18, sop_instance_uid)):
        value = uid.encode() + b"\0" * (len(uid) % 2)
        values += octets(f"08 00 {number:02X} 00 'UI'") + len(value).to_bytes(2, "little") + value
    return values


class LogCase(SynchronousTestCase):
    """Tests of what is written about an association in memory.

    Everything that happens is told, too, to ``self.recorder``.
    """

    def setUp(self) -> None:
        self.stream = StringIO()
        self.recorder = Recorder()
        self.directory = self.mktemp()
        os.mkdir(self.directory)

    def start(
        self,
        level: str,
        *,
        json: bool = False,
        storage: IStorage | None = None,
        policy: IAssociationPolicy | None = None,
        portal: Portal | None = None,
        services: Sequence[IService] = (),
        trace: bool = False,
    ) -> Peer:
        """Return a peer whose association is told of on ``self.stream``."""
        self.reactor = Reactor()
        lines = JSONLines(self.stream) if json else TextLines(self.stream)
        self.log = LogObserver(level, log=Logger("dicomnode", observer=lines))
        observe = events.Fanout(self.log, self.recorder)
        if storage is None:
            reactor: Any = self.reactor
            pool: Any = Pool()
            storage = FileStorage(self.directory, reactor=reactor, pool=pool, sync=Sync.NONE, observe=observe)
        self.acceptor = Acceptor(
            self.reactor,
            [*services, Storage(storage), Verification()],
            policy=policy,
            portal=portal,
            timeouts=Timeouts(10.0, 20.0, 30.0),
            observe=observe,
            trace=trace,
        )
        return Peer(self.acceptor)

    def associate(
        self, level: str, contexts: Mapping[str, Sequence[str]] | None = None, **start: Any
    ) -> Peer:
        """Return a peer whose association is established."""
        peer = self.start(level, **start)
        contexts = {CT: [EXPLICIT]} if contexts is None else contexts
        peer.associates(contexts, calling="STORESCU", user_information=STORESCU)
        return peer

    def written(self) -> str:
        """Return, and forget, what is on the stream."""
        written = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return written

    def assert_written(self, *lines: str) -> None:
        self.assertEqual(self.written().splitlines(), list(lines))
