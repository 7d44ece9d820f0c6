"""Tests for :mod:`dicomnode.tls`: the endpoint strings."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import pem
from tests.certificates import Authority


class EndpointTests(SynchronousTestCase):
    """The strings that describe endpoints."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self.key, self.certificate = self.authority.issue("node")
        self.reactor = MemoryReactorClock()
        self.files = f"privateKey={self.key}:certKey={self.certificate}"

    def server(self, description: str) -> None:
        endpoint = serverFromString(self.reactor, description)
        endpoint.listen(Factory.forProtocol(Protocol))

    def invalid(self, why: str, description: str) -> None:
        with self.assertRaises((TypeError, ValueError)) as raised:
            serverFromString(self.reactor, description)
        self.assertIn(why, str(raised.exception))

    def test_server(self) -> None:
        """It listens on the registered port, or where it is told to."""
        trust = f"{self.files}:trustRoots={self.authority.path}"
        self.server(f"dicom-tls:{trust}")
        self.server(f"dicom-tls:104:{trust}:interface=192.0.2.7:backlog=5:profile=extended")
        self.server(
            rf"dicom-tls:{trust}:endpoint=tcp6\:11112\:interface=\:\:1".replace(r"=\:\:1", r"=\\\:\\\:1")
        )
        found = [(port, interface, backlog) for port, _, backlog, interface in self.reactor.tcpServers]
        self.assertEqual(found, [(2762, "", 1024), (104, "192.0.2.7", 5), (11112, "::1", 50)])

    def test_all_keys(self) -> None:
        """Each key of the description has its effect."""
        dh = self.authority.write("dh.pem", pem.ffdhe2048())
        self.server(
            f"dicom-tls:0:{self.files}:trustRoots={self.authority.path}:crl={self.authority.revoke()}:"
            f"extraCertChain={self.authority.path}:dhParameters={dh}:clientCertificate=request:profile=bcp195"
        )
        self.server(f"dicom-tls:0:{self.files}:clientCertificate=none")
        self.assertEqual(len(self.reactor.tcpServers), 2)

    def test_paths(self) -> None:
        """Files are found again wherever the process goes."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        path = os.path.abspath("node.pem")
        endpoint: Any = serverFromString(
            self.reactor, "dicom-tls:0:privateKey=node.key:certKey=node.pem:clientCertificate=none"
        )
        os.chdir("/")
        endpoint.read()
        self.assertEqual(endpoint.path, path)

    def test_invalid(self) -> None:
        """What is wrong with a description is said in a line."""
        self.invalid("privateKey= is needed", "dicom-tls:0")
        self.invalid("client certificates need trust roots", f"dicom-tls:0:{self.files}")
        self.invalid(
            "profile=strong is none of bcp195, non-downgrading, extended, rfc9325",
            f"dicom-tls:0:{self.files}:clientCertificate=none:profile=strong",
        )
        self.invalid(
            "clientCertificate=yes is none of require, request, none",
            f"dicom-tls:0:{self.files}:clientCertificate=yes",
        )
        self.invalid("unexpected keyword argument 'colour'", f"dicom-tls:0:{self.files}:colour=red")

    def test_client(self) -> None:
        """A client connects to the registered port, or where it is told to, with a certificate or without."""
        client = f"privateKey={self.key}:certificate={self.certificate}:trustRoots={self.authority.path}"
        for description, address in (
            ("dicom-tls:host=192.0.2.7", ("192.0.2.7", 2762)),
            (f"dicom-tls:192.0.2.7:104:{client}:hostname=pacs:profile=extended", ("192.0.2.7", 104)),
            ("dicom-tls:192.0.2.7:104:timeout=3:bindAddress=192.0.2.9", ("192.0.2.7", 104)),
        ):
            endpoint: Any = clientFromString(self.reactor, description)
            hosted = endpoint._wrappedEndpoint
            self.assertEqual((hosted._hostText, hosted._port), address)
            self.assertEqual(hosted._timeout, 3 if "timeout" in description else 30)
            self.assertEqual(hosted._bindAddress, ("192.0.2.9", 0) if "bind" in description else None)

    def test_not_installed(self) -> None:
        """Without pyOpenSSL, it is said what to install."""
        self.addCleanup(sys.modules.update, {"OpenSSL": sys.modules["OpenSSL"]})
        sys.modules["OpenSSL"] = cast(Any, None)
        for parse in (serverFromString, clientFromString):
            with self.assertRaises(ValueError) as raised:
                parse(self.reactor, "dicom-tls:0")
            self.assertEqual(str(raised.exception), "TLS needs dicomnode[tls]: pip install 'dicomnode[tls]'")
