"""Where an instance goes: a template over what its association, command and data set say.

Every value comes from a peer. It becomes one component of a path, or a part of one, made safe by
:func:`safe`: no value leaves the storage's directory, hides a file, or breaks a line of a log.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from string import Formatter

from dicomnode.interfaces import Instance
from dicomnode.uids import file_name_prefix

#: pynetdicom's: ``CT.1.2.3``.
FLAT = "{prefix}.{instance}"

#: The octets of a name that a template may make at most: file systems take 255, of which some are
#: left for the number of one that is kept beside another.
LONGEST = 245

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
#: What :func:`safe` leaves as it is: nearly everything that it sees.
_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{,63}")


def safe(value: str | None) -> str:
    """Return ``value`` as it may stand in a path: 64 characters at most, ``_`` for any that is not harmless.

    What is absent is ``_``, too; and a leading dot, which would hide a file or lead out of a directory.
    """
    if value and _SAFE.fullmatch(value):
        return value
    text = _UNSAFE.sub("_", value or "")[:64]
    return "_" + text[1:] if text[:1] in ("", ".") else text


def _walked(instance: Instance, name: str) -> str | None:
    value: str | None = getattr(instance.walk, name, None)
    return value


#: The fields of a template.
FIELDS: dict[str, Callable[[Instance], str | None]] = {
    "prefix": lambda instance: file_name_prefix(instance.sop_class_uid),
    "class": lambda instance: instance.sop_class_uid,
    "instance": lambda instance: instance.sop_instance_uid,
    "study": lambda instance: _walked(instance, "study_instance_uid"),
    "series": lambda instance: _walked(instance, "series_instance_uid"),
    "patient": lambda instance: _walked(instance, "patient_id"),
    "modality": lambda instance: _walked(instance, "modality"),
    "calling": lambda instance: instance.calling_ae_title,
    "called": lambda instance: instance.called_ae_title,
    "date": lambda instance: time.strftime("%Y%m%d"),
}


#: The most characters that some of them have; the others are made safe, and so have 64 at most.
_LONGEST = {"prefix": 3, "calling": 16, "called": 16, "date": 8}


def flat(instance: Instance) -> str:
    """Return what :data:`FLAT` makes of an instance: each part file is called after it."""
    return f"{file_name_prefix(instance.sop_class_uid)}.{safe(instance.sop_instance_uid)}"


class Layout:
    """Gives instances their names.

    :param template: text with fields in braces, and slashes between directories:
        ``{study}/{series}/{prefix}.{instance}.dcm``.
    :raises ValueError: when it has an unknown field, leaves the directory, or would give two instances
        one name.
    """

    def __init__(self, template: str = FLAT) -> None:
        if re.search(r"[\0-\x1f\x7f\\]", template):
            raise ValueError(f"{template!r} has a control character or a backslash")
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"{template!r}: {error}") from None
        self.template = template
        self._parts: list[tuple[str, Callable[[Instance], str | None] | None]] = []
        names = []
        for text, name, spec, conversion in parts:
            if name is not None and (name not in FIELDS or spec or conversion):
                raise ValueError(f"{{{name}}} is none of {', '.join(sorted(FIELDS))}")
            self._parts.append((text, FIELDS[name] if name is not None else None))
            names.append(name)
        if "instance" not in names:
            raise ValueError(f"{template!r} has no {{instance}}: all would have one name")
        components = re.sub(r"\{\w+\}", "x", template).split("/")
        if any(component.startswith(".") or not component for component in components):
            raise ValueError(f"{template!r} has a component that is empty or hidden")
        longest = "".join(
            text + "x" * (0 if name is None else _LONGEST.get(name, 64)) for text, name, *_ in parts
        )
        if any(len(os.fsencode(component)) > LONGEST for component in longest.split("/")):
            raise ValueError(f"{template!r} could make a name of more than {LONGEST} octets")
        #: does it ask for what only the data set says?
        self.needs_walk = bool({"study", "series", "patient", "modality"} & set(names))

    def __call__(self, instance: Instance) -> str:
        """Return the name of an instance, relative to the directory of the storage."""
        parts = [text if field is None else text + safe(field(instance)) for text, field in self._parts]
        return "".join(parts)
