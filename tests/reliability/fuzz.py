"""Coverage-guided fuzz targets, for atheris::

    python -m tests.reliability.fuzz association|walk [libFuzzer's options: -max_total_time=60 ...]

``association``: any octets, in reads of any size, end in the standard's answers: never in an exception,
and however they arrive the answer is the same. ``walk``: a data set never makes the walk fail, and how
it is cut into fragments never changes what it says.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["dicomnode.core"]):
    from dicomnode.core import association as core
    from dicomnode.core.dataset import Walk
    from dicomnode.core.machine import Role, State
    from dicomnode.core.negotiation import answer

from dicomnode.core.command import Request, respond
from dicomnode.core.items import UserInformation
from tests.reliability.sessions import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    SESSIONS,
    data_set,
    deflated,
    implicit,
)

SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", BIG_ENDIAN, DEFLATED)
OFFERED = {CT_IMAGE_STORAGE: SYNTAXES, "1.2.840.10008.1.1": SYNTAXES}


def answered(data: bytes, size: int) -> tuple[bytes, State, list[Any]]:
    """Let an acceptor read ``data``, answering what it is indicated; return what it sends and says."""
    association = core.Association(Role.ACCEPTOR)
    association.transport_opened()
    said: list[Any] = []
    octets = b""
    for start in range(0, len(data), size):
        for indication in association.receive(data[start : start + size]):
            if isinstance(indication, core.DataSetFragments):
                octets += b"".join(indication.data)
                if indication.is_last:
                    said.append(octets)
                    octets = b""
                continue
            said.append(indication)
            if isinstance(indication, core.AssociateRequested):
                association.accept(answer(indication.request, OFFERED, UserInformation(max_length=16382)))
            elif isinstance(indication, core.MessageReceived) and isinstance(indication.command, Request):
                association.send_command(indication.context.id, respond(indication.command, 0))
            elif isinstance(indication, core.ReleaseRequested):
                association.respond_release()
    return b"".join(association.data_to_send()), association.state, said


def fuzz_association(data: bytes) -> None:
    whole = answered(data, max(len(data), 1))
    for size in (1, 7):
        assert answered(data, size) == whole


def walked(data: bytes, syntax: str, size: int) -> tuple[Any, ...]:
    """Walk ``data`` in fragments of ``size`` octets; return what the walk says."""
    walk = Walk(syntax)
    for start in range(0, len(data), size):
        walk.feed(data[start : start + size])
    walk.end()
    return (walk.whole, walk.fault, walk.sop_class_uid, walk.sop_instance_uid, walk.patient_id, walk.octets)


def fuzz_walk(data: bytes) -> None:
    if not data:
        return
    syntax = SYNTAXES[data[0] % len(SYNTAXES)]
    whole = walked(data[1:], syntax, max(len(data), 1))
    assert whole[0] or whole[1]
    assert whole[1] is None or len(whole[1]) <= 64
    for size in (1, 5):
        assert walked(data[1:], syntax, size) == whole


def corpus(target: str) -> list[bytes]:
    """Return what the fuzzer starts from."""
    if target == "association":
        return [b"".join(session) for session in SESSIONS]
    explicit = data_set("1.2.3")
    samples = (explicit, implicit("1.2.3"), data_set("1.2.3", ">"), deflated(explicit))
    return [bytes((index,)) + sample for index, sample in enumerate(samples)]


def main() -> None:
    targets = {"association": fuzz_association, "walk": fuzz_walk}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: python -m tests.reliability.fuzz {'|'.join(targets)} [libFuzzer's options]")
    with tempfile.TemporaryDirectory() as directory:
        for number, sample in enumerate(corpus(sys.argv[1])):
            Path(directory, str(number)).write_bytes(sample)
        atheris.Setup([sys.argv[0], directory, *sys.argv[2:]], targets[sys.argv[1]])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
