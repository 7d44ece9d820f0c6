"""What tests of the how-to pages have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from pydicom import Dataset
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, CalledAETitle, Storage
from dicomnode.core.command import CStoreRQ
from dicomnode.testing import MemoryStorage, Network, Peer, Reactor

HOWTO = Path(__file__).resolve().parent.parent / "docs" / "howto"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def encoded(implicit_vr: bool = False, **elements: Any) -> bytes:
    """Return a data set of these elements."""
    data_set, buffer = Dataset(), BytesIO()
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    data_set.save_as(buffer, implicit_vr=implicit_vr, little_endian=True)
    return buffer.getvalue()


def image(uid: str = "1.2.3", octets: int = 1000) -> bytes:
    return encoded(SOPClassUID=CT_IMAGE_STORAGE, SOPInstanceUID=uid, EncapsulatedDocument=bytes(octets))


class HowtoTestCase(SynchronousTestCase):
    """A test of a program of ``docs/howto``, in a directory of its own."""

    def setUp(self) -> None:
        directory, before = self.mktemp(), os.getcwd()
        os.makedirs(directory)
        os.chdir(directory)
        self.addCleanup(os.chdir, before)

    def load(self, name: str) -> ModuleType:
        """Import a program, and forget it afterwards."""
        self.patch(sys, "path", [str(HOWTO), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        self.addCleanup(sys.modules.pop, name, None)
        return import_module(name)

    def runs(self, program: Coroutine[Any, Any, None]) -> None:
        """Run a program, which does not end by itself."""
        self.assertNoResult(Deferred.fromCoroutine(program))

    def assertAnswered(self, peer: Peer, status: int, comment: str | None = None) -> None:
        self.assertEqual((peer.response.status, peer.response.error_comment), (status, comment))


class Sinks:
    """The two nodes to which a router sends, and who sends to it."""

    def __init__(self, check: bool = True) -> None:
        self.reactor = Reactor()
        self.storages = [MemoryStorage(), MemoryStorage()]
        self.acceptors = [
            Acceptor(self.reactor, [Storage(storage, check=check)], policy=CalledAETitle(title))
            for storage, title in zip(self.storages, ("ARCHIVE", "RESEARCH"), strict=True)
        ]
        self.networks = [Network(self.reactor, one) for one in self.acceptors]

    def exchange(self, peer: Peer, rounds: int = 5) -> None:
        for _ in range(rounds):
            for network in self.networks:
                network.exchange()
            peer.exchange()


def peer_store(uid: str) -> CStoreRQ:
    return CStoreRQ(affected_sop_class_uid=CT_IMAGE_STORAGE, message_id=1, affected_sop_instance_uid=uid)
