"""``--processes``: several processes that are one node."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

from tests.interop import wire
from tests.interop.support import (
    MODULE,
    TWIST,
    TWISTD,
    InteropTestCase,
    Storescp,
    eventually,
    run,
)
from tests.interop.wire import (
    ABORTED,
    DATA,
    LAST_COMMAND,
    LAST_DATA,
    PDU,
    Peer,
    data_set,
    p_data,
    pdv,
    store_rq,
)

LIMIT = PDU(wire.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))

_STARTED = re.compile(r"^I: Worker (\d+) accepts associations \(process (\d+)\)$", re.MULTILINE)


class ProcessesCase(InteropTestCase):
    """Tests of a node that is several processes."""

    def node(self, *options: str, processes: int = 2, **how: object) -> Storescp:
        """Start a node, and wait until its workers accept."""
        node = self.storescp("--processes", f"{processes}", "-v", *options, **how)  # type: ignore[arg-type]
        self.addCleanup(self.end_of, node)
        self.started(node, processes)
        return node

    def end_of(self, node: Storescp) -> None:
        """When the first process has ended, however it did, so do all."""
        workers = self.workers(node).values()
        node.send_signal(SIGKILL)
        node.ended()
        self.gone(*workers)

    def workers(self, node: Storescp) -> dict[int, int]:
        """Return the process of each worker that has ever been."""
        return {int(worker): int(process) for worker, process in _STARTED.findall(node.stderr)}

    def started(self, node: Storescp, number: int) -> None:
        """Wait until so many workers have been started."""
        try:
            eventually(f"{number} workers", lambda: len(self.workers(node)) == number)
        except AssertionError as error:
            raise AssertionError(f"{error}: {node.stderr}") from None

    def gone(self, *processes: int) -> None:
        """Wait until processes have ended."""
        for process in processes:
            eventually(f"the end of {process}", lambda process=process: not Path(f"/proc/{process}").exists())

    def peers(self, node: Storescp, number: int) -> list[Peer]:
        """Return peers with an association each, in the order of the workers that have them."""
        peers = []
        for _ in range(number):
            peer = Peer(node.address)
            self.addCleanup(peer.socket.close)
            peer.associate()
            peers.append(peer)
        return peers

    def holders(self, node: Storescp, number: int) -> list[int]:
        """Return which worker has accepted each of so many associations."""
        said = re.compile(r"^I: \[(\d+)\] Accepting Association$", re.MULTILINE)
        lines = eventually(
            f"{number} lines",
            lambda: found if len(found := said.findall(node.stderr)) >= number else None,
        )
        return [int(worker) for worker in lines]

    def begin(self, peer: Peer, instance: str) -> None:
        peer.send(
            p_data(pdv(1, LAST_COMMAND, store_rq(instance))),
            p_data(pdv(1, DATA, data_set(instance)[:50])),
        )

    def end(self, peer: Peer, instance: str) -> None:
        peer.send(p_data(pdv(1, LAST_DATA, data_set(instance)[50:])))

    def parts(self, node: Storescp) -> list[str]:
        return [name for name in node.files() if name.endswith(".part")]


class StoreTests(ProcessesCase):
    """They store, each its share."""

    def test_stores(self) -> None:
        """What comes on associations with different processes is all stored, and each has as many of them."""
        node = self.node()
        peers = self.peers(node, 4)
        for number in range(3):
            for index, peer in enumerate(peers):
                self.assertEqual(peer.store(f"1.2.{index}.{number}")[wire.STATUS], 0)
        for peer in peers:
            peer.release()
        expected = sorted(f"CT.1.2.{index}.{number}" for index in range(4) for number in range(3))
        self.assertEqual(node.files(), expected)
        self.assertEqual(sorted(Counter(self.holders(node, 4)).items()), [(1, 2), (2, 2)])
        ended = node.stop()
        self.assertEqual((ended.code, ended.stdout), (0, ""))
        self.assertCalm(ended.stderr)

    def test_spread(self) -> None:
        """However many connect together, each process gets as many as the others."""
        node = self.node(processes=3)
        connected = [Peer(node.address) for _ in range(24)]
        for peer in connected:
            self.addCleanup(peer.socket.close)
            peer.send(wire.associate_rq())
        for peer in connected:
            peer.read()
        self.assertEqual(sorted(Counter(self.holders(node, 24)).values()), [8, 8, 8])

    def test_commands(self) -> None:
        """So it is under ``twistd`` and ``twist``; their log has what the processes say, too."""
        for how in (TWISTD, TWIST):
            node = self.node(how=how)
            with Peer(node.address) as peer:
                peer.associate()
                self.assertEqual(peer.store("1.2.3")[wire.STATUS], 0)
                peer.release()
            eventually("the line", lambda node=node: "] Storing DICOM file: CT.1.2.3\n" in node.stderr)
            eventually("the event", lambda node=node: "] Storing DICOM file: CT.1.2.3" in node.stdout)
            self.assertCalm(node.stop().stderr)

    def test_endpoints(self) -> None:
        """A UNIX socket is shared, and outlives a worker; so is an endpoint that is made of another."""
        path = self.directory() / "socket"
        node = self.node(ports=("haproxy:tcp:0", f"unix:{path}"))
        for number, address in enumerate((node.address, str(path))):
            with Peer(address) as peer:
                if number == 0:
                    peer.socket.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 50000 104\r\n")
                peer.associate()
                peer.send(wire.pdu(0x99, b""))
                self.assertIsNotNone(peer.read())
        eventually("its peer", lambda: "at 192.0.2.7:50000" in node.stderr)
        os.kill(self.workers(node)[1], SIGTERM)
        self.started(node, 3)
        self.assertTrue(path.exists())
        with Peer(str(path)) as peer:
            peer.associate()
        self.assertEqual(node.stop().code, 0)
        self.assertFalse(path.exists())

    def test_cannot_start(self) -> None:
        """What keeps it from starting is one line, and exit code 1."""
        node = self.node()
        for arguments, words in (
            ((str(node.port),), "Address already in use"),
            (("stdio",), "argument PORT: stdio: it has no socket that several processes could accept from"),
        ):
            ended = run(*MODULE, "--processes", "2", *arguments, patience=15)
            self.assertEqual(ended.code, 1)
            self.assertEqual(len(ended.lines), 1, ended.stderr)
            self.assertIn(words, ended.stderr)


class LimitTests(ProcessesCase):
    """Limits are of all processes together."""

    def test_max_associations(self) -> None:
        """There are no more associations than the limit, whoever has them; the line says who."""
        node = self.node("--max-associations", "3")
        peers = self.peers(node, 3)
        self.assertEqual(set(self.holders(node, 3)), {1, 2})
        for _ in range(4):
            with Peer(node.address) as peer:
                peer.send(wire.associate_rq())
                self.assertEqual(peer.read(), LIMIT)
        words = "all 3 associations are in use, most of them by INTEROP at 127.0.0.1 (3)"
        eventually("the line", lambda: words in node.stderr)
        peers[0].release()
        peers[0].socket.close()
        eventually("a slot", lambda: self.accepted(node))

    def test_per_host(self) -> None:
        """So it is for those of one address, and of one title."""
        for option in ("--max-associations-per-host", "--max-associations-per-aet"):
            node = self.node(option, "2")
            self.peers(node, 2)
            self.assertFalse(self.accepted(node))

    def accepted(self, node: Storescp) -> bool:
        with Peer(node.address) as peer:
            peer.send(wire.associate_rq())
            return peer.read() != LIMIT


class DeathTests(ProcessesCase):
    """A process that dies takes its own associations with it, and no others."""

    def test_worker(self) -> None:
        """Another takes the place of one that is killed; the others' peers see nothing of it."""
        node = self.node("--max-associations", "2")
        peers = self.peers(node, 2)
        killed, spared = self.holders(node, 2)
        for peer, instance in zip(peers, ("1.2.3", "1.2.4"), strict=True):
            self.begin(peer, instance)
        eventually("they are being written", lambda: len(self.parts(node)) == 2)
        os.kill(self.workers(node)[killed], SIGKILL)
        self.assertIsNone(peers[0].read())
        self.started(node, 3)
        self.assertIn(
            f"E: Worker {killed} (process {self.workers(node)[killed]}) has ended: signal 9; another takes "
            "its place at once\n",
            node.stderr,
        )
        (again,) = self.peers(node, 1)  # it holds no slot any more
        self.assertEqual(again.store("1.2.5")[wire.STATUS], 0)
        self.end(peers[1], "1.2.4")
        self.assertEqual(peers[1].response()[wire.STATUS], 0)
        self.assertEqual(peers[1].store("1.2.6")[wire.STATUS], 0)
        self.assertEqual(node.files(), ["CT.1.2.4", "CT.1.2.5", "CT.1.2.6"])
        self.assertEqual(sorted({*self.holders(node, 3)} - {spared}), [killed, 3])
        self.assertEqual(node.stop().code, 0)

    def test_all(self) -> None:
        """When the first process is killed, the others finish what is in flight, and end."""
        node = self.node()
        peers = self.peers(node, 2)
        for peer, instance in zip(peers, ("1.2.3", "1.2.4"), strict=True):
            self.begin(peer, instance)
        eventually("they are being written", lambda: len(self.parts(node)) == 2)
        node.send_signal(SIGKILL)
        node.ended()
        eventually("no one listens", lambda: not self.listens(node))
        for peer, instance in zip(peers, ("1.2.3", "1.2.4"), strict=True):
            self.end(peer, instance)
            self.assertEqual(peer.response()[wire.STATUS], 0)
            self.assertEqual(peer.read(), ABORTED)
            peer.socket.close()
        self.gone(*self.workers(node).values())
        self.assertEqual(node.files(), ["CT.1.2.3", "CT.1.2.4"])

    def listens(self, node: Storescp) -> bool:
        try:
            Peer(node.address).socket.close()
        except OSError:
            return False
        return True


class StopTests(ProcessesCase):
    """They stop together."""

    def test_drained(self) -> None:
        """Upon a signal, and though all of the group have it, what is in flight is finished in all."""
        for number, group in ((SIGTERM, False), (SIGINT, False), (SIGTERM, True), (SIGINT, True)):
            node = self.node()
            peers = self.peers(node, 4)
            for index in (0, 1):
                self.begin(peers[index], f"1.2.{index}")
            eventually("they are being written", lambda node=node: len(self.parts(node)) == 2)
            if group:
                os.killpg(node.process.pid, number)
            else:
                node.send_signal(number)
            for peer in peers[2:]:
                self.assertEqual(peer.read(), ABORTED)
            for index in (0, 1):
                self.end(peers[index], f"1.2.{index}")
                self.assertEqual(peers[index].response()[wire.STATUS], 0)
                self.assertEqual(peers[index].read(), ABORTED)
            for peer in peers:
                peer.socket.close()
            ended = node.ended()
            self.assertEqual(ended.code, 0)
            self.assertCalm(ended.stderr)
            self.assertEqual([line for line in ended.lines if line.startswith("E: Worker")], [])
            self.assertEqual(node.files(), ["CT.1.2.0", "CT.1.2.1"])

    def test_grace(self) -> None:
        """What takes longer than the grace is aborted."""
        node = self.node("--grace", "1")
        peers = self.peers(node, 2)
        for index, peer in enumerate(peers):
            self.begin(peer, f"1.2.{index}")
        eventually("they are being written", lambda: len(self.parts(node)) == 2)
        began = time.monotonic()
        node.send_signal(SIGTERM)
        for peer in peers:
            self.assertEqual(peer.read(), ABORTED)
            peer.socket.close()
        self.assertEqual(node.ended().code, 0)
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(node.files(), [])

    def test_second_signal(self) -> None:
        """A second signal ends all of them at once, with 1."""
        node = self.node()
        peers = self.peers(node, 2)
        for index, peer in enumerate(peers):
            self.begin(peer, f"1.2.{index}")
        eventually("they are being written", lambda: len(self.parts(node)) == 2)
        node.send_signal(SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        node.send_signal(SIGTERM)
        for peer in peers:
            self.assertEqual(peer.read(), ABORTED)
        self.assertEqual(node.ended().code, 1)
        self.assertLess(time.monotonic() - began, 8)
        self.gone(*self.workers(node).values())
        self.assertEqual(node.files(), [])

    def test_policy(self) -> None:
        """Upon SIGHUP the policy file is read again for all of them, once; and for those that come later."""
        policy = self.directory() / "policy.toml"
        policy.write_text('[[allow]]\naet = "OTHER"')
        node = self.node("--policy", str(policy))
        self.assertFalse(self.allowed(node))
        policy.write_text('[[allow]]\naet = "INTEROP"')
        node.send_signal(SIGHUP)
        eventually("it is in force", lambda: all(self.allowed(node) for _ in range(4)))
        self.assertEqual(node.stderr.count("Policy file read"), 1)
        policy.write_text("nonsense")
        node.send_signal(SIGHUP)
        eventually("it is refused", lambda: "The policy stays as it was" in node.stderr)
        for process in self.workers(node).values():
            os.kill(process, SIGKILL)
        self.started(node, 4)
        self.assertTrue(all(self.allowed(node) for _ in range(4)))

    def allowed(self, node: Storescp) -> bool:
        with Peer(node.address) as peer:
            peer.send(wire.associate_rq())
            answer = peer.read()
            return answer is not None and answer.kind == wire.ASSOCIATE_AC
