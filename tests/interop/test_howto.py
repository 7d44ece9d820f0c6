"""The programs of ``docs/howto`` as processes, on real sockets."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from signal import SIGHUP, SIGTERM
from threading import Thread
from typing import Any

from tests.certificates import Authority
from tests.interop import wire
from tests.interop.support import (
    LOOPBACK,
    NO_DELAY,
    TWISTD,
    Ended,
    InteropTestCase,
    Process,
    eventually,
    free_port,
    missing_programs,
    run,
)
from tests.interop.test_tls import sample

Pairs = Iterable[tuple[str, str]]

HOWTO = Path(__file__).resolve().parent.parent.parent / "docs" / "howto"


def listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port)).close()
    except ConnectionRefusedError:
        return False
    return True


class HowtoTestCase(InteropTestCase):
    """A program of ``docs/howto`` in a process, on ports that are free."""

    def starts(self, name: str, ports: Mapping[str, int], *arguments: str, texts: Pairs = ()) -> Process:
        """Run a program, and wait until it listens.

        :param ports: those that it is to have, by those that it says.
        :param texts: what else is replaced in it, and by what.
        """
        text = (HOWTO / name).read_text()
        for said, meant in (*texts, *((said, str(port)) for said, port in ports.items())):
            self.assertIn(said, text)
            text = text.replace(said, meant)
        program = self.directory() / name
        program.write_text(text)
        how = (*TWISTD[:-1], "-y") if program.suffix == ".tac" else (sys.executable,)
        return self.listening([*how, str(program), *arguments], *ports.values())

    def listening(self, command: Sequence[str], *ports: int) -> Process:
        process = Process(command)
        self.addCleanup(process.clean_up)
        for port in ports:
            eventually("it listens", lambda port=port: listens(port) or self.lives(process))
        return process

    def lives(self, process: Process) -> None:
        if process.process.poll() is not None:
            raise AssertionError(f"it ended: {process.stderr}")

    def stores(self, port: int, *options: str) -> Ended:
        return run("storescu", *options, LOOPBACK, f"{port}", sample(), **NO_DELAY)

    def assertStopped(self, process: Process) -> None:
        """Assert that it stops upon SIGTERM, and had nothing to complain of."""
        ended = process.stop(SIGTERM)
        self.assertIn(ended.code, (0, -SIGTERM), ended)
        self.assertCalm(ended.stdout + ended.stderr)


class WebsiteTests(HowtoTestCase):
    """A node and a web site in one process."""

    skip = missing_programs("storescu")

    def test_website(self) -> None:
        """What is sent to the one is got from the other."""
        dicom, http = free_port(), free_port()
        process = self.starts("website.py", {"11112": dicom, "8080": http})
        self.assertEqual(self.stores(dicom).code, 0)
        (name,) = os.listdir(process.home / "incoming")
        with urllib.request.urlopen(f"http://{LOOPBACK}:{http}/{name}") as page:
            self.assertEqual(page.read(), (process.home / "incoming" / name).read_bytes())
        with urllib.request.urlopen(f"http://{LOOPBACK}:{http}/counted") as page:
            self.assertEqual(json.load(page)["instances"]["kept"], 1)
        self.assertStopped(process)


class TwoTitlesTests(HowtoTestCase):
    """Two AE titles on two ports, one of them TLS, under ``twistd``."""

    skip = missing_programs("storescu")

    def test_two_titles(self) -> None:
        """Each title is called at its own port; that with TLS wants a certificate, and can renew its own."""
        authority = Authority(self.directory())
        ours = authority.issue("ct1", rsa_key=True)
        key, certificate = authority.issue("node", rsa_key=True)
        plain, tls = free_port(), free_port()
        texts = (("node.key", key), ("node.pem", certificate), ("ca.pem", authority.path))
        texts = (*texts, ('["-aet"', '["-v", "-aet"'))
        process = self.starts("two_titles.tac", {"11112": plain, "2762": tls}, texts=texts)
        secure = ("+tls", *ours, "+cf", authority.path)
        for port, title, options, code in (
            (plain, "MODALITY", (), 0),
            (plain, "PARTNER", (), 1),
            (tls, "PARTNER", secure, 0),
            (tls, "MODALITY", secure, 1),
            (tls, "PARTNER", (), 1),
            (tls, "PARTNER", ("+tla", "+cf", authority.path), 1),
        ):
            sent = run("storescu", *options, "-aec", title, "localhost", f"{port}", sample(), **NO_DELAY)
            self.assertEqual(bool(sent.code), bool(code), (title, options, sent))
        key, certificate = authority.issue("node", rsa_key=True)
        process.send_signal(SIGHUP)
        eventually("they are read again", lambda: "Certificates read" in process.stdout or None)
        sent = run("storescu", *secure, "-aec", "PARTNER", "localhost", f"{tls}", sample(), **NO_DELAY)
        self.assertEqual(sent.code, 0, sent)
        for directory in ("modalities", "partners"):
            self.assertEqual(len(os.listdir(process.home / directory)), 1)
        ended = process.stop(SIGTERM)
        self.assertIn(ended.code, (0, -SIGTERM), ended)
        self.assertNotIn("Traceback", ended.stdout + ended.stderr)


class HTTPAPITests(HowtoTestCase):
    """A storage that posts, and a server that takes it."""

    skip = missing_programs("storescu")

    def test_http_api(self) -> None:
        """What is posted is a DICOM file; what the server answers, the sender is told."""
        codes, posted = [201, 507], []

        class Server(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                posted.append(body)
                self.send_response(codes[len(posted) - 1])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = HTTPServer((LOOPBACK, 0), Server)
        Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        port = free_port()
        url = f"http://{LOOPBACK}:{server.server_port}/instances"
        process = self.starts("http_api.py", {"11112": port}, url)
        for answer in ("Success", "Refused: OutOfResources"):
            said = self.stores(port, "-v").stderr
            self.assertIn(f"Received Store Response ({answer})", said, process.stdout + process.stderr)
        self.assertEqual(posted[0][128:132], b"DICM")
        self.assertIn(wire.CT_IMAGE_STORAGE.encode(), posted[0])
        self.assertEqual(posted[0], posted[1])
        self.assertStopped(process)


class RouterTests(HowtoTestCase):
    """A router between a sender and two nodes."""

    def test_router(self) -> None:
        """A large instance is at both nodes; neither the memory nor the disk between has held it."""
        nodes = [self.storescp("-aet", title, "--require-called-aet") for title in ("ARCHIVE", "RESEARCH")]
        port = free_port()
        where = [f"tcp:{LOOPBACK}:{node.port}" for node in nodes]
        process = self.starts("router.py", {"11112": port}, *where)
        before = self.memory(process)
        data_set = wire.data_set("1.2.3", pixels=bytes(64 << 20))
        with wire.Peer((LOOPBACK, port)) as peer:
            peer.associate()
            self.assertEqual(peer.store("1.2.3", data_set)[wire.STATUS], 0)
            peer.release()
        self.assertLess(self.memory(process) - before, 24 << 20)
        for node in nodes:
            (name,) = node.files()
            self.assertTrue((node.home / name).read_bytes().endswith(data_set))
        self.assertEqual({*os.listdir(process.home)}, {"stdout", "stderr"})
        nodes[1].stop(SIGTERM)
        with wire.Peer((LOOPBACK, port)) as peer:
            peer.associate()
            self.assertEqual(peer.store("1.2.4", wire.data_set("1.2.4"))[wire.STATUS], 0xA700)
        self.assertStopped(process)

    def memory(self, process: Process) -> int:
        """Return the most that it has had in memory, in octets."""
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


class HAProxyTests(HowtoTestCase):
    """What HAProxy sends, by hand."""

    V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"

    def header(self, address: str) -> bytes:
        """Return the header of version 2, which HAProxy sends with ``send-proxy-v2``."""
        return self.V2 + socket.inet_aton(address) + socket.inet_aton("192.0.2.1") + b"\xc3\x50\0\x68"

    def test_haproxy(self) -> None:
        """The peer is who connected to HAProxy; who omits the header is nobody."""
        port = free_port()
        process = self.starts("behind_haproxy.py", {"11112": port})
        for header, answer in (
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 104\r\n", wire.ASSOCIATE_AC),
            (b"PROXY TCP4 198.51.100.7 192.0.2.1 50000 104\r\n", wire.ASSOCIATE_RJ),
            (self.header("192.0.2.8"), wire.ASSOCIATE_AC),
            (self.header("198.51.100.8"), wire.ASSOCIATE_RJ),
            (self.V2[:12] + b"\x20\0\0\0", wire.ASSOCIATE_RJ),  # HAProxy itself
            (b"", None),
        ):
            with wire.Peer((LOOPBACK, port)) as peer:
                peer.send(header, wire.associate_rq(wire.ECHO))
                answered = peer.read()
                self.assertEqual(answered and answered.kind, answer, header)
        self.assertStopped(process)


class SystemdTests(HowtoTestCase):
    """A socket that was opened by somebody else, and inherited."""

    def test_systemd(self) -> None:
        """Who connects before the program runs is served when it does; it stops, and the socket stays."""
        with socket.create_server((LOOPBACK, 0)) as server:
            address = server.getsockname()
            for _ in range(2):
                with wire.Peer(address) as peer:
                    process = self.inherits(server)
                    self.assertEqual(peer.associate(wire.ECHO).contexts, {1: (0, wire.IMPLICIT_LE)})
                    self.assertEqual(peer.echo()[wire.STATUS], 0)
                    peer.release()
                self.assertStopped(process)

    def inherits(self, server: socket.socket) -> Process:
        """Run the program as systemd does: with the socket as descriptor 3."""
        number = server.fileno()
        program = f"{sys.executable} {HOWTO}/systemd_socket.py"
        shell = f"exec 3<&{number}; LISTEN_FDS=1 LISTEN_FDNAMES=dicomnode.socket LISTEN_PID=$$ exec {program}"
        patching = self.patch(subprocess, "Popen", partial(subprocess.Popen, pass_fds=(number,)))
        process = self.listening(["bash", "-c", shell])
        patching.restore()
        return process


class KubernetesTests(HowtoTestCase):
    """What the manifest says, as processes."""

    def found(self, pattern: str) -> Any:
        found = re.search(pattern, (HOWTO / "kubernetes.yaml").read_text())
        assert found is not None, pattern
        return json.loads(found[1])

    def test_kubernetes(self) -> None:
        """The node is ready once it echoes; when it is told to stop, what is in flight is answered."""
        probe = self.found(r'command: (\[.*"/app/echo_probe.py".*\])')
        port, home = free_port(), self.directory()
        probe = [{"python": sys.executable, "11112": f"{port}"}.get(part, part) for part in probe]
        probe = [part.replace("/app", str(HOWTO)) for part in probe]
        self.assertEqual(run(*probe).code, 1)
        command = [*self.found(r"command: (\[.*storescp.*\])"), *self.found(r"args: (\[.*\])")]
        replaced = {"python": sys.executable, "11112": f"{port}", "/data": str(home)}
        process = self.listening([replaced.get(part, part) for part in command], port)
        self.assertEqual(run(*probe).code, 0)
        data_set = wire.data_set("1.2.3", pixels=bytes(1 << 16))
        with wire.Peer((LOOPBACK, port)) as peer:
            peer.associate()
            peer.send(wire.p_data(wire.pdv(1, wire.LAST_COMMAND, wire.store_rq("1.2.3"))))
            peer.send(wire.p_data(wire.pdv(1, wire.DATA, data_set[:10_000])))
            eventually("it has begun", lambda: os.listdir(home))
            process.send_signal(SIGTERM)
            eventually("it does not listen any more", lambda: not listens(port) or None)
            self.assertEqual(run(*probe).code, 1)
            peer.send_data_set(data_set[10_000:])
            self.assertEqual(peer.response()[wire.STATUS], 0)
        self.assertEqual(process.ended().code, 0)
        self.assertEqual(len(os.listdir(home)), 1)


class ReceivingTests(HowtoTestCase):
    """The test suite that receives."""

    def test_receiving(self) -> None:
        """It passes under trial."""
        home = self.directory()
        trial = Path(sys.executable).parent / "trial"
        ended = run(trial, f"--temp-directory={home}/trial", str(HOWTO / "test_receiving.py"))
        self.assertEqual(ended.code, 0, ended)
        self.assertIn("PASSED (successes=3)", ended.stdout)
