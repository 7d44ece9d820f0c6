"""TLS with the requestors that there are: DCMTK's ``storescu``, pynetdicom's, and ``openssl s_client``."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from signal import SIGHUP

from tests.certificates import Authority
from tests.interop import samples
from tests.interop.support import (
    NO_DELAY,
    Ended,
    InteropTestCase,
    Storescp,
    eventually,
    missing_programs,
    run,
)

#: DCMTK's options for the profiles of BCP 195, by ours; and that for the AES profile, which has CBC only.
PROFILES = {"bcp195": "+px", "non-downgrading": "+py", "extended": "+pz"}
AES = "+pa"

#: What our log says of who is refused.
NO_CERTIFICATE = "peer did not return a certificate"
NO_CIPHER = "no shared cipher"


def sample() -> Path:
    """Return a file to send."""
    return next(sample.path for sample in samples.shipped() if sample.name == "test_files/CT_small.dcm")


class TLSTestCase(InteropTestCase):
    """The command with a ``dicom-tls:`` port."""

    def setUp(self) -> None:
        self.home = self.directory()
        self.authority = Authority(self.home)
        self.key, self.certificate = self.authority.issue("node", rsa_key=True)
        self.ours = self.authority.issue("ct1", rsa_key=True)

    def listens(self, *keys: str, options: tuple[str, ...] = ()) -> Storescp:
        """Start the command, with a port for each that there is to say about TLS."""
        port = (
            f"dicom-tls:0:interface=127.0.0.1:privateKey={self.key}:certKey={self.certificate}"
            f":trustRoots={self.authority.path}"
        )
        return self.storescp(*options, ports=tuple(f"{port}:{key}" if key else port for key in keys or ("",)))

    def listens_in_each(self) -> tuple[Storescp, dict[str, int]]:
        """Start the command, with a port for each profile."""
        profiles = (*PROFILES, "rfc9325")
        node = self.listens(*(f"profile={profile}" for profile in profiles))
        return node, dict(zip(profiles, node.ports, strict=True))

    def storescu(self, node: Storescp, *options: str, port: int | None = None, **environment: str) -> Ended:
        """Send a file with DCMTK."""
        trust = ("+cf", self.authority.path)
        return run("storescu", *options, *trust, "localhost", f"{port or node.port}", sample(), **environment)

    def s_client(self, port: int, *options: str) -> Ended:
        """Shake hands with OpenSSL, as far as it goes."""
        return run("openssl", "s_client", *options, "-connect", f"localhost:{port}")

    def assertSaid(self, node: Storescp, why: str, times: int = 1) -> None:
        """Assert that so many were refused, and that the last was for this reason."""
        lines = eventually(
            "it is in the log", lambda: found if len(found := refusals(node.stderr)) >= times else None
        )
        self.assertEqual(len(lines), times, node.stderr)
        self.assertTrue(lines[-1].endswith(f" failed: {why}"), lines)
        self.assertCalm(node.stderr)


def refusals(log: str) -> list[str]:
    """Return what a log says of TLS that failed."""
    return [line for line in log.splitlines() if line.startswith("W: TLS with ")]


class DCMTKTests(TLSTestCase):
    """DCMTK's ``storescu``, in each profile."""

    skip = missing_programs("storescu", "openssl")

    def test_profiles(self) -> None:
        """Each of its profiles finds suites in each of ours."""
        node, ports = self.listens_in_each()
        for ours, port in ports.items():
            for theirs in PROFILES.values():
                sent = self.storescu(node, theirs, "+tls", *self.ours, port=port, **NO_DELAY)
                self.assertEqual(sent.code, 0, (ours, theirs, sent))
        self.assertEqual(len(node.files()), 1)
        self.assertEqual(refusals(node.stderr), [])

    def test_curves(self) -> None:
        """Keys on curves have no suites in its BCP 195 profiles of TLS 1.2, but in TLS 1.3."""
        self.key, self.certificate = self.authority.issue("node")
        ours = self.authority.issue("ct2")
        node, ports = self.listens_in_each()
        for theirs, code in (("+px", 1), ("+py", 1), ("+pz", 0)):
            sent = self.storescu(node, theirs, "+tls", *ours, port=ports["extended"])
            self.assertEqual(sent.code, code, theirs)
            sent = self.storescu(node, theirs, "+tls", *ours, port=ports["rfc9325"])
            self.assertEqual(sent.code, 0, theirs)

    def test_cbc_only(self) -> None:
        """Who has CBC only finds the suite of the AES profile under bcp195, and nothing elsewhere."""
        node, ports = self.listens_in_each()
        others = "ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA384:DHE-RSA-AES128-SHA:AES256-SHA"
        for times, port in enumerate(ports.values(), start=1):
            self.assertNotEqual(self.s_client(port, "-tls1_2", "-cipher", others).code, 0)
            self.assertSaid(node, NO_CIPHER, times)
        del ports["bcp195"]
        for times, port in enumerate(ports.values(), start=len(ports) + 2):
            self.assertNotEqual(self.storescu(node, AES, "+tls", *self.ours, port=port).code, 0)
            self.assertSaid(node, NO_CIPHER, times)
        self.assertEqual(node.files(), [])
        self.assertEqual(self.storescu(node, AES, "+tls", *self.ours).code, 0)

    def test_no_certificate(self) -> None:
        """Without a certificate nothing is sent, unless none is required."""
        node, ports = self.listens_in_each()
        for times, (ours, port) in enumerate(ports.items(), start=1):
            sent = self.storescu(node, PROFILES.get(ours, "+py"), "+tla", port=port)
            self.assertNotEqual(sent.code, 0, sent)
            self.assertSaid(node, NO_CERTIFICATE, times)
        self.assertEqual(node.files(), [])
        node = self.listens("clientCertificate=request")
        self.assertEqual(self.storescu(node, "+tla").code, 0)

    def test_foreign_certificate(self) -> None:
        """With somebody else's certificate nothing is sent, not even where none is required."""
        foreign = Authority(self.directory(), "Foreign CA").issue("ct1", rsa_key=True)
        node = self.listens("clientCertificate=request", *(f"profile={profile}" for profile in PROFILES))
        for times, port in enumerate(node.ports, start=1):
            sent = self.storescu(node, "+tls", *foreign, port=port)
            self.assertNotEqual(sent.code, 0, sent)
            self.assertSaid(node, "CN=ct1: its issuer is not trusted", times)
        self.assertEqual(node.files(), [])

    def test_revoked(self) -> None:
        """With a revoked certificate nothing is sent."""
        revoked = self.authority.issue("ct2", rsa_key=True)
        node = self.listens(f"crl={self.authority.revoke([revoked[1]])}")
        self.assertEqual(self.storescu(node, "+tls", *self.ours).code, 0)
        self.assertNotEqual(self.storescu(node, "+tls", *revoked).code, 0)
        self.assertSaid(node, "CN=ct2: it is revoked")

    def test_tls_1_1(self) -> None:
        """TLS 1.1 is not spoken, nor 1.0."""
        node = self.listens("profile=bcp195")
        for times, version in enumerate(("-tls1_1", "-tls1"), start=1):
            done = self.s_client(node.port, version, "-cipher", "ALL:@SECLEVEL=0")
            self.assertNotEqual(done.code, 0)
            self.assertIn("alert protocol version", done.stderr)
            self.assertSaid(node, "unsupported protocol", times)

    def test_plain(self) -> None:
        """DICOM without TLS is not understood, nor TLS on a port without."""
        node = self.listens()
        self.assertNotEqual(run("storescu", "localhost", f"{node.port}", sample()).code, 0)
        refused = eventually("it is in the log", lambda: refusals(node.stderr) or None)
        self.assertEqual(len(refused), 1)
        self.assertCalm(node.stderr)
        self.assertNotEqual(self.storescu(self.storescp(), "+tls", *self.ours).code, 0)

    def test_acknowledged(self) -> None:
        """A response is acknowledged at once, though DCMTK waits for that before it goes on sending."""
        node = self.listens(options=("--ignore",))
        files = [str(sample())] * 100
        trust = ("+tls", *self.ours, "+cf", self.authority.path)
        began = time.monotonic()
        done = run("storescu", *trust, "localhost", f"{node.port}", *files)
        self.assertEqual(done.code, 0, done)
        self.assertLess(time.monotonic() - began, 100 * 0.035)

    def test_policy(self) -> None:
        """A policy file says whose certificate goes with which title."""
        policy = self.home / "policy.toml"
        policy.write_text('[[allow]]\naet = "CT1"\ncertificate = "ct1"\n')
        node = self.listens(options=("--policy", str(policy)))
        self.assertEqual(self.storescu(node, "-aet", "CT1", "+tls", *self.ours).code, 0)
        self.assertNotEqual(self.storescu(node, "-aet", "MR1", "+tls", *self.ours).code, 0)
        other = self.authority.issue("ct2", rsa_key=True)
        self.assertNotEqual(self.storescu(node, "-aet", "CT1", "+tls", *other).code, 0)
        self.assertIn("ct2 is not one that is allowed", node.stderr)

    def test_read_again(self) -> None:
        """Upon SIGHUP the next to come finds the new certificate, and a bad one changes nothing."""
        node = self.listens()
        again = Authority(self.home, "Hospital CA")  # in place of the one before
        self.key, self.certificate = again.issue("node", rsa_key=True)
        theirs = again.issue("ct2", rsa_key=True)
        self.assertNotEqual(self.storescu(node, "+tls", *theirs).code, 0)
        node.send_signal(SIGHUP)
        eventually("it is read", lambda: "I: Certificates read: " in node.stderr)
        self.assertEqual(self.storescu(node, "+tls", *theirs).code, 0)
        Path(self.certificate).write_text("")
        node.send_signal(SIGHUP)
        eventually("it is said", lambda: "E: The certificates stay as they were: " in node.stderr)
        self.assertEqual(self.storescu(node, "+tls", *theirs).code, 0)

    def test_silent(self) -> None:
        """Who connects and says nothing keeps no one waiting, and is dropped."""
        node = self.listens(options=("-ta", "2"))
        silent = [socket.create_connection(node.address) for _ in range(50)]
        self.assertEqual(self.storescu(node, "+tls", *self.ours).code, 0)
        for connection in silent:
            connection.settimeout(20)
            with contextlib.suppress(ConnectionResetError):  # that is how one is dropped
                self.assertEqual(connection.recv(1), b"")
            connection.close()
        self.assertCalm(node.stderr)


class PynetdicomTests(TLSTestCase):
    """pynetdicom, with Python's ``ssl``."""

    def test_store(self) -> None:
        """It stores over TLS 1.2 and 1.3, with its certificate; without one it does not associate."""
        from pydicom import dcmread
        from pynetdicom import AE
        from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

        node = self.listens()
        data_set = dcmread(sample())
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for certificate in (True, False):
                context = ssl.create_default_context(cafile=self.authority.path)
                context.maximum_version = version
                if certificate:
                    context.load_cert_chain(self.ours[1], self.ours[0])
                entity = AE()
                entity.acse_timeout = 5
                entity.add_requested_context(CTImageStorage, data_set.file_meta.TransferSyntaxUID)
                association = entity.associate("127.0.0.1", node.port, tls_args=(context, "localhost"))
                self.assertEqual(association.is_established, certificate, version)
                if certificate:
                    for _ in range(3):
                        self.assertEqual(association.send_c_store(data_set).Status, 0)
                    association.release()
        self.assertEqual(len(node.files()), 1)
        self.assertCalm(node.stderr)


class ClientTests(TLSTestCase):
    """The commands ``echo`` and ``store``."""

    def client(self, command: str, port: int, *arguments: str | Path, certificate: bool = True) -> Ended:
        key, pem = self.ours
        ours = f":privateKey={key}:certificate={pem}" if certificate else ""
        endpoint = f"dicom-tls:localhost:{port}:trustRoots={self.authority.path}{ours}"
        return run(sys.executable, "-m", "dicomnode", command, endpoint, "-ta", "10", *arguments)

    def test_store(self) -> None:
        """They speak with our own node, and store what they are given; without a certificate they end."""
        node = self.listens()
        self.assertEqual(self.client("echo", node.port).code, 0)
        self.assertEqual(self.client("store", node.port, sample()).code, 0)
        self.assertEqual(len(node.files()), 1)
        self.assertEqual(self.client("echo", node.port, certificate=False).code, 1)

    def test_no_tls(self) -> None:
        """A port without TLS is told at once."""
        node = self.storescp()
        done = self.client("echo", node.port)
        self.assertEqual(done.code, 1)
        self.assertIn("wrong version number", done.lines[-1])


class StartTests(TLSTestCase):
    """What is wrong is said when it starts."""

    def test_cannot_start(self) -> None:
        """Keys that cannot be used end it, with one line and code 1."""
        port = f"dicom-tls:0:privateKey={self.certificate}:clientCertificate=none"
        done = run(sys.executable, "-m", "dicomnode", "storescp", port, "-od", os.fspath(self.home))
        self.assertEqual((done.code, len(done.lines)), (1, 1), done)
        self.assertIn("private key", done.lines[0])
        self.assertIn("there is none that can be read as PEM", done.lines[0])
