"""Faults of one store: its data set, its file, its association, the disk and the process below it."""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from signal import SIGTERM

from tests.interop import wire
from tests.interop.samples import Sample, data_set_of, shipped
from tests.interop.test_durability import calls
from tests.interop.wire import Peer, data_set, p_data, pdv
from tests.reliability.observed import answer, grown, on_disk, reset, store, version
from tests.reliability.servers import Server

UID = "1.2.3.4"
_OTHER = "1.2.3.5"


def _sent(kind: str, uid: str, data: bytes) -> str:
    """Send one data set, well or not, and say what became of it."""
    with Server(kind) as server, server.peer() as peer:
        peer.associate()
        said = store(peer, uid, data)
        return f"{said}, {on_disk(server, uid, {'stored': data})}"


def truncated(kind: str) -> str:
    """A data set that ends inside an element."""
    return _sent(kind, UID, data_set(UID, pixels=bytes(1000))[:-500])


def garbage(kind: str) -> str:
    """A data set of random octets."""
    return _sent(kind, UID, random.Random(1).randbytes(4000))


def mismatch(kind: str) -> str:
    """A data set whose SOP Instance UID is not the command's."""
    data = data_set(_OTHER)
    with Server(kind) as server, server.peer() as peer:
        peer.associate()
        said = store(peer, UID, data)
        for uid, whose in ((UID, "the command's"), (_OTHER, "the data set's")):
            if server.path(uid) is not None:
                return f"{said}, {on_disk(server, uid, {'stored': data})} under {whose} UID"
        return f"{said}, nothing on disk"


def cut(kind: str) -> str:
    """The association is cut in the middle of a re-send: with a reset, and with a mere close."""
    good, newer = version(UID, b"A", 1 << 20), version(UID, b"B", 1 << 20)
    found = []
    for close in (reset, lambda peer: peer.socket.close()):
        with Server(kind) as server:
            with server.peer() as peer:
                peer.associate()
                assert store(peer, UID, good) == "0000"
                server.names()
                peer.send(p_data(pdv(1, wire.LAST_COMMAND, wire.store_rq(UID))))
                for start in range(0, len(newer) // 2, 16000):
                    peer.send(p_data(pdv(1, wire.DATA, newer[start : start + 16000])))
                time.sleep(0.5)
                close(peer)
            time.sleep(1)
            said = on_disk(server, UID, {"good copy intact": good, "the newer": newer}, "good copy gone")
            others = len(server.names()) - (server.path(UID) is not None)
            found.append(said + (f", {others} other files" if others else ""))
    return found[0] if found[0] == found[1] else f"reset: {found[0]}; close: {found[1]}"


@contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dicomnode-peers-") as directory:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True, text=True
        )
        if done.returncode:
            raise PermissionError(f"not staged: {done.stderr.strip()}")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


def full(kind: str) -> str:
    """The disk is full when an instance is sent again, and has room later."""
    good, newer = version(UID, b"A", 1 << 20), version(UID, b"B", 5 << 19)
    known = {"good copy intact": good, "the newer": newer}
    # dicomnode would refuse all along, for its reserve: what is staged is the system call that fails.
    with _small_disk("4m") as disk, Server(kind, "--reserve", "0", directory=disk) as server:
        peer = server.peer()
        peer.associate()
        assert store(peer, UID, good) == "0000"
        server.names()
        filler = disk / "filler"
        filler.write_bytes(bytes(2 << 20))
        # 1 MiB is free, 2 if the good copy is truncated: 2.5 have no room either way.
        said = [store(peer, UID, newer), on_disk(server, UID, known, "good copy gone")]
        filler.unlink()
        again = store(peer, UID, newer)
        if not again.isalnum():
            said.append(f"association: {again}")
            with server.peer() as peer:
                peer.associate()
                again = store(peer, UID, newer)
        else:
            said.append("association lives")
        now = on_disk(server, UID, {"stored": newer, "good copy": good})
        return ", ".join((*said, f"with room again: {again}, {now}"))


def _interleaved(peers: Mapping[str, Peer], uid: str, versions: Mapping[str, bytes], at_once: bool) -> str:
    """Send a version on each of the peers, fragments in turn; return those acknowledged, in that order."""
    cuts = {
        name: [data[start : start + 16000] for start in range(0, len(data), 16000)]
        for name, data in versions.items()
    }
    for peer in peers.values():
        peer.send(p_data(pdv(1, wire.LAST_COMMAND, wire.store_rq(uid))))
    for number in range(max(map(len, cuts.values())) - 1):
        for name, peer in peers.items():
            if number < len(cuts[name]) - 1:
                peer.send(p_data(pdv(1, wire.DATA, cuts[name][number])))
    said: dict[str, str] = {}
    for name, peer in peers.items():
        peer.send(p_data(pdv(1, wire.LAST_DATA, cuts[name][-1])))
        if not at_once:
            said[name] = answer(peer)
    for name, peer in peers.items():
        if at_once:
            said[name] = answer(peer)
    return "".join(name for name in said if said[name] == "0000")


def twice(kind: str, rounds: int = 40) -> str:
    """Two associations send the same instance, of different content, interleaved; most end at once."""
    count: Counter[str] = Counter()
    with Server(kind, concurrent=True) as server, server.peer() as one, server.peer() as other:
        peers = {"A": one, "B": other}
        for peer in peers.values():
            peer.associate()
        for number in range(rounds):
            uid = f"1.2.3.{number}"
            versions = {"A": version(uid, b"A", 1 << 20), "B": version(uid, b"B", 3 << 18)}
            at_once = number % 4 > 0
            acknowledged = _interleaved(peers, uid, versions, at_once)
            octets = server.contents(uid) or b""
            there = next((name for name, data in versions.items() if data == octets), "")
            if all(letter * 100 in octets for letter in (b"A", b"B")):
                count["a mixture of both"] += 1
            elif not there or there not in acknowledged:
                count["neither that was acknowledged"] += 1
            elif not at_once and there != acknowledged[-1]:
                count["whole, but not the last acknowledged"] += 1
            else:
                count["whole, as acknowledged"] += 1
            count["not acknowledged"] += len(versions) - len(acknowledged)
    return ", ".join(f"{number} of {rounds} {what}" for what, number in count.items() if number)


def one_pdu(kind: str) -> str:
    """One P-DATA-TF with a command and three PDVs of the data set."""
    data = data_set(UID, pixels=bytes(range(256)) * 4)
    pdvs = [pdv(1, wire.LAST_COMMAND, wire.store_rq(UID)), pdv(1, wire.DATA, data[:300])]
    pdvs += [pdv(1, wire.DATA, data[300:700]), pdv(1, wire.LAST_DATA, data[700:])]
    with Server(kind) as server, server.peer() as peer:
        peer.associate()
        peer.send(p_data(*pdvs))
        said = f"{answer(peer)}, {on_disk(server, UID, {'stored': data})}"
        return said + (f", server {server.end}" if server.end else "")


def terminated(kind: str) -> str:
    """SIGTERM when half of a data set was sent; the other half is sent after it."""
    data = version(UID, b"A", 1 << 20)
    half = len(data) // 2 & ~1  # fragments are of even length
    with Server(kind) as server, server.peer() as peer:
        peer.associate()
        peer.send(p_data(pdv(1, wire.LAST_COMMAND, wire.store_rq(UID))))
        for start in range(0, half, 16000):
            peer.send(p_data(pdv(1, wire.DATA, data[start : min(start + 16000, half)])))
        time.sleep(0.5)
        server.send_signal(SIGTERM)
        time.sleep(0.5)
        with suppress(OSError):
            peer.send_data_set(data[half:])
        said = [answer(peer, 5)]
        while said[-1].isalnum() and len(said) < 3:
            said.append(answer(peer, 5))
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(5)
        there = on_disk(server, UID, {"stored": data, "half of it": data[:half]})
        return f"{', then '.join(said)}; {there}; {server.end or 'server lives'}"


def synced(kind: str) -> str:
    """What was synced before the answer, as strace sees it."""
    with tempfile.TemporaryDirectory(prefix="dicomnode-peers-") as home:
        trace = Path(home, "trace")
        traced = "fsync,fdatasync,syncfs,sync,sendto,sendmsg,write,writev,send"
        tracer = ("strace", "-D", "-f", "-y", "-s", "64", "-e", f"trace={traced}", "-o", str(trace))
        with Server(kind, tracer=tracer) as server:
            before = trace.stat().st_size
            with server.peer() as peer:
                peer.associate()
                assert store(peer, UID, data_set(UID)) == "0000"
                peer.release()
            time.sleep(0.5)
            made = list(calls(trace.read_text()[before:]))
    answers = [
        number
        for number, call in enumerate(made)
        if re.match(r'(?:sendto|write|send)\(\d+<[^>]*>, "\\4\\0|(?:sendmsg|writev)\(.*"\\4\\0', call)
    ]
    if not answers:
        return "the answer was not seen"
    syncs = [call for call in made[: answers[0]] if re.match(r"(?:fsync|fdatasync|syncfs|sync)\(.*= 0", call)]
    files = sum(str(server.directory) + "/" in call for call in syncs)
    names = sum(str(server.directory) + ">" in call for call in syncs)
    later = sum("sync(" in call for call in made[answers[0] :])
    found = [word for word, number in (("file", files), ("directory", names)) if number]
    return " and ".join(found) if found else f"no ({later} later)" if later else "no"


#: Pixel data that are sent again and again: a large instance takes no memory here.
_BLOCK = bytes(range(250)) * 64


def _large(octets: int) -> Iterator[bytes]:
    """Yield a data set with so many octets of pixel data, in fragments."""
    yield data_set(UID, pixels=b"")[:-4] + octets.to_bytes(4, "little")
    for start in range(0, octets, len(_BLOCK)):
        yield _BLOCK[: octets - start]


def gigabyte(kind: str) -> str:
    """One instance of 1 GiB."""
    octets = 1 << 30
    with Server(kind) as server, server.peer() as peer:
        peer.associate()
        assert store(peer, _OTHER, data_set(_OTHER)) == "0000"
        before = server.peak()
        began = time.monotonic()
        peer.send(p_data(pdv(1, wire.LAST_COMMAND, wire.store_rq(UID))))
        peer.socket.settimeout(60)
        fragments = _large(octets)
        while some := list(islice(fragments, 64)):
            peer.send(*(p_data(pdv(1, wire.DATA, fragment)) for fragment in some))
        peer.send(p_data(pdv(1, wire.LAST_DATA, b"")))
        said = answer(peer, 60)
        seconds = time.monotonic() - began
        after = server.peak()
        path = server.path(UID)
        exact = path is not None and _same(path, octets)
        return f"{said}, {'exact' if exact else 'not exact'}, {grown(before, after)}, {seconds:.1f} s"


def _same(path: Path, octets: int) -> bool:
    with path.open("rb") as file:
        head = file.read(144)
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        return all(file.read(len(part)) == part for part in _large(octets)) and not file.read(1)


def exact(kind: str) -> str:
    """Every file that pydicom ships, as it is."""
    count: Counter[str] = Counter()
    everything = 0
    with Server(kind) as server:
        for sample in shipped():
            if not (sample.sop_class and sample.instance):
                continue
            everything += 1
            said = _raw(server, sample)
            if said == "0000":
                count["acknowledged"] += 1
                count["exact"] += _there(server.directory, sample.data_set)
            else:
                count[said] += 1
            # Not all go by the command's UIDs when they name a file: whatever is there is this one's.
            for path in server.directory.iterdir():
                path.unlink()
    summary = f"{count.pop('exact', 0)} of {count.pop('acknowledged', 0)} acknowledged are exact"
    others = ", ".join(f"{number} {what}" for what, number in sorted(count.items()))
    return f"{summary}; the others of {everything}: {others or 'none'}"


def _there(directory: Path, data: bytes) -> bool:
    """Is a file of this data set there, or soon? DCMTK answers before it has written."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if any(data_set_of(path.read_bytes()) == data for path in directory.iterdir()):
            return True
        time.sleep(0.01)
    return False


def _raw(server: Server, sample: Sample) -> str:
    with server.peer() as peer:
        contexts = ((1, sample.sop_class, (sample.transfer_syntax,)),)
        peer.send(wire.associate_rq(contexts))
        answered = peer.read()
        if answered is None or answered.kind != wire.ASSOCIATE_AC:
            return "not associated"
        if wire.Answer.of(answered.body).contexts[1][0]:
            return "not negotiated"
        said = _stored(peer, sample)
        if said.isalnum():
            with suppress(OSError, AssertionError):
                peer.release()
        return said


def _stored(peer: Peer, sample: Sample) -> str:
    with suppress(OSError):
        request = wire.store_rq(sample.instance, sop_class=sample.sop_class)
        peer.send(p_data(pdv(1, wire.LAST_COMMAND, request)))
        peer.send_data_set(sample.data_set)
    return answer(peer)
