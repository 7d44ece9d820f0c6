"""Each option of ``storescp`` by its effect, its errors, and how it stops."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from signal import SIGKILL

from tests.interop import wire
from tests.interop.support import (
    LOOPBACK,
    MODULE,
    TWIST,
    TWISTD,
    InteropTestCase,
    Storescp,
    eventually,
    free_port,
)
from tests.interop.wire import (
    ABORTED,
    CT_IMAGE_STORAGE,
    DATA,
    DEFLATED_LE,
    ECHO,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    JPEG_BASELINE,
    LAST_COMMAND,
    PDU,
    VERIFICATION,
    Peer,
    a_abort,
    data_set,
    p_data,
    pdv,
    store_rq,
)

PRIVATE = "1.2.826.0.1.3680043.8.498.1"

BOTH: Sequence[wire.Proposal] = (
    (1, CT_IMAGE_STORAGE, (EXPLICIT_LE,)),
    (3, VERIFICATION, (IMPLICIT_LE,)),
)


class NetworkTests(InteropTestCase):
    """Who is listened to, where, and for how long."""

    def assertServed(self, address: tuple[str, int] | str) -> None:
        with Peer(address) as peer:
            peer.associate(ECHO)
            self.assertEqual(peer.echo()[wire.STATUS], 0)
            peer.release()

    def assertRefusesConnections(self, address: tuple[str, int]) -> None:
        with self.assertRaises(ConnectionRefusedError):
            Peer(address)

    def test_ae_title(self) -> None:
        """The title by which it is called does not matter."""
        node = self.storescp("-aet", "OURS")
        with Peer(node.address) as peer:
            answer = peer.associate(called="THEIRS", calling="PEER")
            self.assertEqual((answer.called, answer.calling), ("THEIRS", "PEER"))
            peer.release()

    def test_require_called_aet(self) -> None:
        """Who calls another title is rejected: Called AE Title not recognized."""
        node = self.storescp("-aet", "OURS", "--require-called-aet")
        for called in ("THEIRS", "ours", "OUR", "OURS2"):
            with Peer(node.address) as peer:
                peer.send(wire.associate_rq(called=called))
                self.assertEqual(peer.read(), PDU(wire.ASSOCIATE_RJ, bytes((0, 1, 1, 7))))
        with Peer(node.address) as peer:
            peer.associate(called="OURS")
            peer.release()

    def test_acse_timeout(self) -> None:
        """A connection on which no association is requested is closed."""
        node = self.storescp("-ta", "1", "-tn", "60", "-td", "60")
        with Peer(node.address) as silent, Peer(node.address) as idle:
            idle.associate()
            began = time.monotonic()
            self.assertIsNone(silent.read())
            self.assertBetween(0.7, time.monotonic() - began, 3)
            self.assertEqual(idle.store("1.2.3")[wire.STATUS], 0)

    def test_network_timeout(self) -> None:
        """An association on which nothing happens is aborted."""
        node = self.storescp("-ta", "60", "-tn", "1", "-td", "60")
        with Peer(node.address) as silent, Peer(node.address) as idle:
            idle.associate()
            began = time.monotonic()
            self.assertEqual(idle.read(), ABORTED)
            self.assertBetween(0.7, time.monotonic() - began, 3)
            silent.associate()

    def test_dimse_timeout(self) -> None:
        """A message that does not go on is aborted; what comes between messages may take its time."""
        node = self.storescp("-ta", "60", "-tn", "60", "-td", "1")
        with Peer(node.address) as peer, Peer(node.address) as idle:
            idle.associate()
            peer.associate()
            peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3"))))
            began = time.monotonic()
            self.assertEqual(peer.read(), ABORTED)
            self.assertBetween(0.7, time.monotonic() - began, 3)
            self.assertEqual(idle.store("1.2.3")[wire.STATUS], 0)

    def test_no_timeouts(self) -> None:
        """With 0, there is no limit."""
        node = self.storescp("-ta", "0", "-tn", "0", "-td", "0")
        with Peer(node.address) as silent, Peer(node.address) as peer:
            peer.associate()
            peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3"))))
            time.sleep(1)
            peer.send_data_set(data_set("1.2.3"))
            self.assertEqual(peer.response()[wire.STATUS], 0)
            silent.associate()

    def assertBetween(self, least: float, value: float, most: float) -> None:
        self.assertGreater(value, least)
        self.assertLess(value, most)

    def test_max_pdu(self) -> None:
        """The maximum length is announced, and held to."""
        node = self.storescp("-pdu", "4096")
        with Peer(node.address) as peer:
            self.assertEqual(peer.associate().max_length, 4096)
            self.assertEqual(
                peer.store("1.2.3", data_set("1.2.3", pixels=bytes(10000)), cut=4090)[wire.STATUS], 0
            )
            peer.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.4"))))
            peer.send(p_data(pdv(1, DATA, bytes(4091))))
            self.assertEqual(peer.read(), a_abort(2, 6))
        self.assertEqual(node.files(), ["CT.1.2.3"])

    def test_max_pdu_default(self) -> None:
        """The maximum length is 16382 octets when nothing is said."""
        node = self.storescp()
        with Peer(node.address) as peer:
            self.assertEqual(peer.associate().max_length, 16382)

    def test_max_pdu_unlimited(self) -> None:
        """With 0, no limit is announced, and a P-DATA-TF may be as long as it likes."""
        node = self.storescp("-pdu", "0")
        before = node.memory()
        whole = data_set("1.2.3", pixels=bytes(32 << 20))
        with Peer(node.address) as peer:
            self.assertEqual(peer.associate().max_length, 0)
            self.assertEqual(peer.store("1.2.3", whole, cut=len(whole))[wire.STATUS], 0)
        self.assertTrue((node.directory / "CT.1.2.3").read_bytes().endswith(whole))
        self.assertLess(node.peak_memory() - before, 12 << 20)

    def test_bind_address(self) -> None:
        """With an IPv4 address, that interface is listened to, and no other."""
        node = self.storescp("-ba", "127.0.0.1")
        self.assertServed((LOOPBACK, node.port))
        self.assertRefusesConnections(("127.0.0.2", node.port))

    def test_bind_address_ipv6(self) -> None:
        """With an IPv6 address, that interface is listened to, and no other."""
        node = self.storescp("-ba", "::1")
        self.assertServed(("::1", node.port))
        self.assertRefusesConnections((LOOPBACK, node.port))

    if not os.path.exists("/proc/net/if_inet6"):
        test_bind_address_ipv6.skip = "this machine has no IPv6"  # type: ignore[attr-defined]

    def test_ports(self) -> None:
        """Several ports may be given, as arguments and as options."""
        node = self.storescp("-p", "0", "--port", "0", ports=("0",))
        found = eventually("three ports", lambda: node.stderr.count("Listening on") == 3 and node.stderr, 5)
        for line in found.splitlines():
            self.assertServed((LOOPBACK, int(line.rsplit(":", 1)[1])))

    def test_unix(self) -> None:
        """A port may be an endpoint: a UNIX socket, which goes away with the command."""
        path = self.directory() / "socket"
        node = self.storescp(ports=(f"unix:{path}",))
        self.assertServed(str(path))
        self.assertEqual(node.stop().code, 0)
        self.assertFalse(path.exists())

    def test_endpoints(self) -> None:
        """A port may be an endpoint of TCP, with its own interface."""
        node = self.storescp(ports=("tcp:0:interface=127.0.0.1", "0"))
        for port in node.ports:
            self.assertServed((LOOPBACK, port))
        self.assertRefusesConnections(("127.0.0.2", node.ports[0]))

    def test_no_echo(self) -> None:
        """Verification is not among what is served."""
        node = self.storescp("--no-echo")
        with Peer(node.address) as peer:
            answer = peer.associate(BOTH)
            self.assertEqual([answer.contexts[number][0] for number in (1, 3)], [0, 3])
            self.assertEqual(peer.store("1.2.3")[wire.STATUS], 0)
            peer.release()


#: What is proposed, and what is accepted of it, by option. None: it is rejected.
PREFERENCES: dict[tuple[str, ...], dict[str, str | None]] = {
    (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, JPEG_BASELINE): {
        "": IMPLICIT_LE,
        "-x=": EXPLICIT_LE if sys.byteorder == "little" else EXPLICIT_BE,
        "-xe": EXPLICIT_LE,
        "-xb": EXPLICIT_BE,
        "-xi": IMPLICIT_LE,
    },
    (EXPLICIT_BE, EXPLICIT_LE): {
        "": EXPLICIT_LE,
        "-x=": EXPLICIT_LE if sys.byteorder == "little" else EXPLICIT_BE,
        "-xe": EXPLICIT_LE,
        "-xb": EXPLICIT_BE,
        "-xi": None,
    },
    (DEFLATED_LE, EXPLICIT_BE): {
        "": DEFLATED_LE,
        "-x=": EXPLICIT_BE,
        "-xe": DEFLATED_LE,
        "-xb": EXPLICIT_BE,
        "-xi": None,
    },
    # Uncompressed is preferred to compressed, where pynetdicom takes JPEG.
    (JPEG_BASELINE, IMPLICIT_LE): {
        "": IMPLICIT_LE,
        "-x=": IMPLICIT_LE,
        "-xe": IMPLICIT_LE,
        "-xb": IMPLICIT_LE,
        "-xi": IMPLICIT_LE,
    },
    (JPEG_BASELINE,): {
        "": JPEG_BASELINE,
        "-x=": JPEG_BASELINE,
        "-xe": JPEG_BASELINE,
        "-xb": JPEG_BASELINE,
        "-xi": None,
    },
}


class TransferSyntaxTests(InteropTestCase):
    """Which transfer syntax is accepted."""

    def assertAccepts(self, option: str) -> None:
        node = self.storescp(*filter(None, (option,)))
        for proposed, accepted in PREFERENCES.items():
            for abstract_syntax in (CT_IMAGE_STORAGE, VERIFICATION):
                with Peer(node.address) as peer:
                    answer = peer.associate([(1, abstract_syntax, proposed)])
                    expected = (4, proposed[0]) if accepted[option] is None else (0, accepted[option])
                    self.assertEqual(answer.contexts[1], expected, proposed)

    def test_default(self) -> None:
        """Implicit VR, then Explicit VR, Deflated and Big Endian, then the others."""
        self.assertAccepts("")

    def test_prefer_uncompressed(self) -> None:
        """``-x=``: what is not compressed, Explicit VR in the machine's byte order first."""
        self.assertAccepts("-x=")

    def test_prefer_little(self) -> None:
        """``-xe``: Explicit VR Little Endian first."""
        self.assertAccepts("-xe")

    def test_prefer_big(self) -> None:
        """``-xb``: Explicit VR Big Endian first."""
        self.assertAccepts("-xb")

    def test_implicit(self) -> None:
        """``-xi``: Implicit VR Little Endian, and no other."""
        self.assertAccepts("-xi")


class StorageTests(InteropTestCase):
    """What is stored, and where."""

    def store(self, node: Storescp, data: bytes | None = None, **more: str) -> str:
        """Store an instance, and return the status of the response."""
        with Peer(node.address) as peer:
            peer.associate([(1, more.get("sop_class", CT_IMAGE_STORAGE), (EXPLICIT_LE,))])
            response = peer.store("1.2.3", data, **more)  # type: ignore[arg-type]
            peer.release()
        return f"{response[wire.STATUS]:04X}"

    def test_output_directory(self) -> None:
        """The directory is made at start, with its parents."""
        node = self.storescp("-od", "some/where/else")
        self.assertTrue((node.directory / "some/where/else").is_dir())
        self.assertEqual(self.store(node), "0000")
        self.assertEqual(node.files(), ["some/where/else/CT.1.2.3"])

    def test_working_directory(self) -> None:
        """Without one, files go to the working directory; the second replaces the first."""
        node = self.storescp()
        self.assertEqual(self.store(node), "0000")
        again = data_set("1.2.3", pixels=b"again!")
        self.assertEqual(self.store(node, again), "0000")
        self.assertEqual(node.files(), ["CT.1.2.3"])
        self.assertTrue((node.directory / "CT.1.2.3").read_bytes().endswith(again))
        self.assertIn("W: DICOM file already exists, overwriting", node.stderr)

    def test_ignore(self) -> None:
        """With --ignore nothing is written, nor looked at, and no directory is made."""
        node = self.storescp("--ignore", "-od", "nowhere")
        for data in (None, b"garbage", data_set("1.2.4")):
            self.assertEqual(self.store(node, data), "0000")
        self.assertEqual(node.files(), [])
        self.assertFalse((node.directory / "nowhere").exists())

    def test_accept_unknown(self) -> None:
        """A private SOP Class is stored, if asked for; a standard one that is not for storing is not."""
        proposed = [(1, PRIVATE, (EXPLICIT_LE,)), (3, "1.2.840.10008.5.1.4.31", (EXPLICIT_LE,))]
        with Peer(self.storescp().address) as peer:
            self.assertEqual([result for result, _ in peer.associate(proposed).contexts.values()], [3, 3])
        node = self.storescp("--accept-unknown")
        with Peer(node.address) as peer:
            self.assertEqual([result for result, _ in peer.associate(proposed).contexts.values()], [0, 3])
        self.assertEqual(self.store(node, data_set("1.2.3", sop_class=PRIVATE), sop_class=PRIVATE), "0000")
        self.assertEqual(node.files(), ["UN.1.2.3"])

    def test_no_check(self) -> None:
        """What is not whole, or another instance, is stored as it is, if it is asked for."""
        whole = data_set("1.2.3")
        for data, status in ((whole[:-10], "C210"), (b"garbage", "C210"), (data_set("1.2.4"), "A900")):
            self.assertEqual(self.store(self.checking(), data), status)
            node = self.storescp("--no-check")
            self.assertEqual(self.store(node, data), "0000")
            self.assertTrue((node.directory / "CT.1.2.3").read_bytes().endswith(data))

    def checking(self) -> Storescp:
        if not hasattr(self, "_checking"):
            self._checking = self.storescp()
        return self._checking

    def test_disk_full(self) -> None:
        """What cannot be written is refused: out of resources. An older copy stays as it was."""
        # A file size limit fails as a full disk does, and needs no disk.
        limited = ("sh", "-c", 'ulimit -f 1024; exec "$0" "$@"', *MODULE)
        node = self.storescp(how=limited)
        with Peer(node.address) as peer:
            peer.associate()
            self.assertEqual(peer.store("1.2.3")[wire.STATUS], 0)
            kept = (node.directory / "CT.1.2.3").read_bytes()
            for _ in range(2):
                response = peer.store("1.2.3", data_set("1.2.3", pixels=bytes(4 << 20)))
                self.assertEqual(response[wire.STATUS], 0xA700)
                self.assertNotIn("/", str(response[wire.COMMENT]))
                self.assertEqual(node.files(), ["CT.1.2.3"])
                self.assertEqual((node.directory / "CT.1.2.3").read_bytes(), kept)
            self.assertEqual(peer.store("1.2.4")[wire.STATUS], 0)
            peer.release()
        self.assertIn("E: Could not write file to specified directory:", node.stderr)
        self.assertCalm(node.stderr)

    def test_directory_gone(self) -> None:
        """A directory that goes away is no reason to go, too; and may come back."""
        node = self.storescp("-od", "out")
        directory = node.directory / "out"
        directory.rmdir()
        self.assertEqual(self.store(node), "A700")
        directory.mkdir()
        self.assertEqual(self.store(node), "0000")
        self.assertCalm(node.stderr)

    def test_killed(self) -> None:
        """After a kill in the middle of a store, nothing torn has a final name."""
        node = self.storescp("-od", "out")
        self.assertEqual(self.store(node), "0000")
        kept = (node.directory / "out/CT.1.2.3").read_bytes()
        with Peer(node.address) as peer:
            peer.associate()
            peer.send(
                p_data(pdv(1, LAST_COMMAND, store_rq("1.2.3"))), p_data(pdv(1, DATA, data_set("1.2.3")[:-1]))
            )
            eventually("it is being written", lambda: len(node.files()) == 2, 5)
            node.stop(SIGKILL)
        visible = [name for name in os.listdir(node.directory / "out") if not name.startswith(".")]
        self.assertEqual(visible, ["CT.1.2.3"])
        self.assertEqual((node.directory / "out/CT.1.2.3").read_bytes(), kept)


class LogTests(InteropTestCase):
    """What is said, and where."""

    def converse(self, node: Storescp) -> None:
        """Associate, verify, store, be refused, and break the rules."""
        identity = b"\2\0" + len(b"somebody").to_bytes(2, "big") + b"somebody"
        identity += len(b"passcode").to_bytes(2, "big") + b"passcode"
        with Peer(node.address) as peer:
            peer.associate(BOTH, more=wire.item(0x58, identity))
            self.assertEqual(peer.echo(context=3)[wire.STATUS], 0)
            self.assertEqual(peer.store("1.2.3")[wire.STATUS], 0)
            self.assertEqual(peer.store("1.2.3", b"garbage")[wire.STATUS], 0xC210)
            peer.release()
        with Peer(node.address) as peer:
            peer.send(wire.pdu(0x99, b""))
            self.assertEqual(peer.read(), ABORTED)

    def said(self, *options: str, how: Sequence[str] = MODULE) -> list[str]:
        """Start the command, converse with it, stop it, and return the lines of its stderr."""
        node = self.storescp(*options, how=how, ports=(str(free_port()),))
        self.converse(node)
        ended = node.stop()
        if how is MODULE:
            self.assertEqual(ended.code, 0)
            self.assertEqual(ended.stdout, "")
        self.assertNotIn("passcode", ended.stdout + ended.stderr)
        return ended.lines

    def test_quiet(self) -> None:
        """``-q`` says nothing at all, whatever ``-ll`` says."""
        self.assertEqual(self.said("-q"), [])
        self.assertEqual(self.said("-q", "-ll", "debug"), [])

    def test_verbose(self) -> None:
        """``-v`` says what pynetdicom says, and then who and why."""
        lines = self.said("-v")
        self.assertIn("I: Accepting Association", lines)
        self.assertIn("I: Received Echo Request (MsgID 1)", lines)
        self.assertIn("I: Received Store Request", lines)
        self.assertIn("I: Storing DICOM file: CT.1.2.3", lines)
        self.assertIn("I: Association Released", lines)
        self.assertEqual({line[:3] for line in lines} - {"I: ", "W: ", "E: "}, set())

    def test_debug(self) -> None:
        """``-d`` says what was negotiated, too."""
        lines = self.said("-d")
        self.assertIn(
            "D: ======================= INCOMING A-ASSOCIATE-RQ PDU ========================", lines
        )
        self.assertIn(
            "D: ========================== INCOMING DIMSE MESSAGE ==========================", lines
        )
        self.assertIn("D: Calling Application Name:    INTEROP", lines)
        self.assertTrue(any("somebody" in line for line in lines))
        self.assertEqual({line[:3] for line in lines} - {"D: ", "I: ", "W: ", "E: "}, set())

    def test_log_level(self) -> None:
        """``-ll`` overrides ``-v`` and ``-d``; each level says no more than itself and those above."""
        spoken = {"critical": "C", "error": "CE", "warn": "CEW", "warning": "CEW", "info": "CEWI"}
        for level, letters in spoken.items():
            lines = self.said("-d", "-ll", level)
            self.assertEqual({line[0] for line in lines} - set(letters), set(), level)
        self.assertTrue(any(line.startswith("W: ") for line in self.said("-ll", "warn")))
        self.assertTrue(any(line.startswith("D: ") for line in self.said("-ll", "debug")))

    def test_default(self) -> None:
        """Without an option, no more than errors is said."""
        node = self.storescp("-ll", "error", ports=(str(free_port()),))
        self.converse(node)
        self.assertEqual({line[0] for line in node.stop().lines} - {"E", "C"}, set())

    def test_json(self) -> None:
        """``--log-format json`` says one object a line."""
        for loudness in ("-v", "-d"):
            records = [json.loads(line) for line in self.said("--log-format", "json", loudness)]
            stored = [
                one for one in records if one["event"] == "OperationEnded" and one["operation"] == "C-STORE"
            ]
            self.assertEqual([one["status"] for one in stored], ["0x0000", "0xC210"])
            self.assertEqual(stored[0]["sop_instance_uid"], "1.2.3")
            self.assertEqual(stored[0]["calling_ae_title"], "INTEROP")
            self.assertEqual(stored[0]["octets"], len(data_set("1.2.3")))

    def test_twistd(self) -> None:
        """Under ``twistd`` and ``twist`` the lines are the same, on stderr."""
        alone = _without_addresses(self.said("-v"))
        for how in (TWISTD, TWIST):
            self.assertEqual(_without_addresses(self.said("-v", how=how)), alone)

    def test_once(self) -> None:
        """Where stdout and stderr are one file, each event is there once."""
        for how in (TWISTD, TWIST):
            node = self.storescp("-v", how=how, together=True)
            self.converse(node)
            node.stop()
            self.assertEqual(node.stdout.count("Storing DICOM file: CT.1.2.3"), 1, how)


def _without_addresses(lines: list[str]) -> list[str]:
    return [re.sub(r"127\.0\.0\.1:\d+", "peer", line) for line in lines if "Listening on" not in line]
