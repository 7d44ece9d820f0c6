"""A command as it is written on a command line, with DCMTK's placeholders.

It is split into arguments once. What a peer has said is put in afterwards, without what means anything to
a shell, a path or an option parser: so it stays within its argument, whatever the program makes of that.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping

#: The placeholders: directory and name of a file, calling and called AE title, address of the peer.
ON_RECEPTION = "pfacr"
#: Those of a study, which has several files.
ON_STUDY = "pacr"

_PLACEHOLDER = re.compile(f"#([{ON_RECEPTION}])")


class CommandLine:
    """A command with placeholders, as it is written on a command line.

    :param text: is split as a POSIX shell would, which is not asked to do it.
    :param placeholders: those that are known here, of ``p``, ``f``, ``a``, ``c`` and ``r``.
    :raises ValueError: when it cannot be split, is empty, has another placeholder, or one in the name of the
        program: a peer would choose it.
    """

    def __init__(self, text: str, placeholders: str = ON_RECEPTION) -> None:
        try:
            self._words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
        if not self._words or not self._words[0]:
            raise ValueError(f"{text!r} names no program")
        if "\0" in text:
            raise ValueError(f"{text!r} has a NUL")
        if _PLACEHOLDER.search(self._words[0]):
            raise ValueError(f"{text!r} has a placeholder in the name of the program")
        for letter in _PLACEHOLDER.findall(text):
            if letter not in placeholders:
                raise ValueError(f"{text!r} has #{letter}, which is not known here")
        found = shutil.which(self._words[0])
        #: where the program is, as an absolute path; None if there is none
        self.program = None if found is None else os.path.abspath(found)

    def arguments(self, values: Mapping[str, str]) -> list[str]:
        """Return the arguments, the name of the program first, with a value for each placeholder."""
        return [_PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in self._words]


def plain(value: str) -> str:
    """Return ``value`` as it may stand in an argument: ``_`` for any character that might not be harmless.

    Letters, digits, dots, colons, underscores and hyphens are; not so a dot or a hyphen at the beginning,
    which would lead out of a directory, or be an option. What is empty is ``_``.
    """
    text = re.sub(r"[^A-Za-z0-9._:-]", "_", value)
    return "_" + text[1:] if text[:1] in ("", ".", "-") else text
