"""What an instance costs in system calls, as the kernel counts them."""

from __future__ import annotations

from collections import Counter

from tests.interop.support import MODULE, InteropTestCase, eventually
from tests.interop.test_durability import calls, cannot_trace
from tests.interop.wire import Peer, data_set


class SystemCallTests(InteropTestCase):
    """System calls for each instance, of the whole process."""

    skip = cannot_trace()

    def counted(self, octets: int, *options: str) -> float:
        """Return the calls for an instance of so many octets, but for the three that each read costs.

        These wait, read, and write to the file: how many reads there are is the network's business.
        """
        instances = 10
        directory = self.directory()
        trace, files = directory / "trace", directory / "files"
        tracer = ("strace", "-D", "-f", "-o", str(trace))
        server = self.storescp("-od", str(files), *options, how=(*tracer, *MODULE))
        with Peer(server.address) as peer:
            peer.associate()
            for number in range(instances + 1):
                uid = f"1.2.{number}"
                self.assertEqual(peer.store(uid, data_set(uid, pixels=bytes(octets)))[0x0900], 0)
            peer.release()
        self.assertCalm(server.stop().stderr)
        eventually("the trace is complete", lambda: "exited with" in trace.read_text() or None)
        names = [call.partition("(")[0] for call in calls(trace.read_text())]
        named = [index for index, name in enumerate(names) if name in ("rename", "link", "linkat")]
        self.assertEqual(len(named), instances + 1)
        between = Counter(names[named[0] : named[-1]])
        self.assertGreaterEqual(between["recvfrom"], instances)
        return (sum(between.values()) - 3 * between["recvfrom"]) / instances

    def test_small(self) -> None:
        """An instance of 4 KiB: what a file needs, and the answer."""
        self.assertLessEqual(self.counted(4 << 10, "--sync", "none"), 12)

    def test_large(self) -> None:
        """An instance of 512 KiB costs no more, but for its reads."""
        self.assertLessEqual(self.counted(512 << 10, "--sync", "none"), 16)

    def test_durable(self) -> None:
        """An instance of 4 KiB that is synced: with the way to a thread and back."""
        self.assertLessEqual(self.counted(4 << 10), 36)


class PageFaultTests(InteropTestCase):
    """Memory that is asked of the kernel for each instance, and given back."""

    def test_large(self) -> None:
        """What an instance of 512 KiB is read into is what the one before it was read into."""
        server = self.storescp("-od", str(self.directory() / "files"), "--sync", "none")
        before = 0
        with Peer(server.address) as peer:
            peer.associate()
            for number in range(30):
                if number == 10:
                    before = server.page_faults()
                uid = f"1.2.{number}"
                self.assertEqual(peer.store(uid, data_set(uid, pixels=bytes(512 << 10)))[0x0900], 0)
            faults = server.page_faults() - before
            peer.release()
        self.assertLessEqual(faults / 20, 16, "of 128 pages, and some")
