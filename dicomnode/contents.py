"""Files as one process has read them, for others to use: what all of a node's processes have is the same.

A worker that takes another's place must have what is in force, not what has come to be in the files since.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_known: ContextVar[Mapping[str, bytes]] = ContextVar("known")


class Contents(dict[str, bytes]):
    """The octets of files by their paths, each once it is read.

    :param known: what another process has read, all of it; nothing: this one reads.
    """

    def __init__(self, known: Mapping[str, bytes] = {}) -> None:
        super().__init__(known)
        self._known = bool(known)

    def read(self, path: str) -> bytes:
        """Return the octets of a file.

        :raises OSError: when it is not known, and cannot be read.
        """
        if path not in self:
            with open(path, "rb") as file:
                self[path] = file.read()
        return self[path]

    def below(self, directory: str, *suffixes: str) -> list[str] | None:
        """Return the paths of the files in a directory whose names end so; None: it is no directory."""
        if self._known:
            found = [path for path in self if os.path.dirname(path) == directory and path.endswith(suffixes)]
            return sorted(found) or None
        if not os.path.isdir(directory):
            return None
        return [
            os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(suffixes)
        ]


@contextmanager
def knowing(contents: Mapping[str, bytes]) -> Iterator[None]:
    """Have what is made meanwhile use what another process has read."""
    token = _known.set(contents)
    try:
        yield
    finally:
        _known.reset(token)


def known() -> Mapping[str, bytes]:
    """Return what is known of files while something is made: mostly nothing."""
    return _known.get({})
