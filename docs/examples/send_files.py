"""Send DICOM files, and say what became of each: ``python send_files.py HOST PORT FILE...``"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.task import react

from dicomnode import DicomNodeError, Status, associate, plan


async def send(reactor, endpoint, paths) -> int:
    """Send files on one association, and return how many have arrived."""
    association = await associate(
        reactor, endpoint, calling_ae_title="SENDER", called_ae_title="ARCHIVE", contexts=plan(paths)
    )
    arrived = 0
    for path in paths:
        try:
            response = await association.store(path, progress=lambda sent, total: None)
        except (DicomNodeError, OSError) as error:
            print(f"{path}: {error}")
        else:
            print(f"{path}: 0x{response.status:04X} {response.error_comment or ''}".rstrip())
            arrived += response.status == Status.SUCCESS
    await association.release()
    return arrived


async def send_all(reactor, host: str, port: str, *paths: str) -> None:
    try:
        arrived = await send(reactor, HostnameEndpoint(reactor, host, int(port)), paths)
    except (DicomNodeError, ConnectError, OSError) as error:
        sys.exit(f"{host}: {error}")
    sys.exit(0 if arrived == len(paths) else 1)


def main(reactor, *arguments: str) -> Deferred[None]:
    return Deferred.fromCoroutine(send_all(reactor, *arguments))


if __name__ == "__main__":
    react(main, sys.argv[1:])
