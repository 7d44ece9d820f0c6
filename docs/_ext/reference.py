"""Reference in reStructuredText that is made from the code: options, SOP Classes, statuses, timeouts.

It needs nothing but dicomnode, so the tests call it without Sphinx.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import public_api

from dicomnode import credentials, interfaces, uids
from dicomnode.clientoptions import echo_parser, store_parser
from dicomnode.core.command import Status
from dicomnode.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.options import storescp_parser

#: Words of a help text that are typed as they stand: options, endpoints, an option's value.
_TYPED = re.compile(r"(?<![\w`-])(--?[a-z][\w-]*=?|(?:tcp6?|unix):[\w./]*\w)(?![\w`])")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> str:
    """Return a list table."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (head, *rows):
        for index, cell in enumerate(row):
            lines.append(f"     - {cell}" if index else f"   * - {cell}")
    return "\n".join(lines) + "\n"


# The options


def options(parser: argparse.ArgumentParser | None = None) -> str:
    """Return the reference of every option of a command, ``storescp`` by default, in its parser's groups."""
    parser = parser or storescp_parser()
    sections = [f".. program:: {parser.prog}\n"]
    exclusive = [group._group_actions for group in parser._mutually_exclusive_groups]
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        title = group.title or ""
        sections.append(f"{title}\n{'~' * len(title)}\n")
        if group.description:
            sections.append(f"{_typed(group.description)}\n")
        for action in group._group_actions:
            others = [other for actions in exclusive if action in actions for other in actions]
            sections.append(_option(parser, action, [other for other in others if other is not action]))
    return "\n".join(sections)


def _option(parser: argparse.ArgumentParser, action: argparse.Action, excluded: list[argparse.Action]) -> str:
    values = vars(action) | {"prog": parser.prog, "choices": ", ".join(action.choices or ())}
    text = (action.help or "") % values
    for choice in action.choices or ():
        text = re.sub(rf"(?<![\w`]){choice}(?![\w`])", f"``{choice}``", text)
    body = _typed(f"{text[:1].upper()}{text[1:]}.")
    if excluded:
        body += f" Not together with {' or '.join(f'``{other.option_strings[0]}``' for other in excluded)}."
    return f".. option:: {', '.join(spellings(action))}\n\n   {body}\n"


def spellings(action: argparse.Action) -> list[str]:
    """Return the ways to write an option, with the name of its value."""
    if not action.option_strings:
        return [str(action.metavar)]
    value = f" {action.metavar}" if action.metavar else ""
    return [f"{option}{value}" for option in action.option_strings]


def _typed(text: str) -> str:
    return _TYPED.sub(r"``\1``", text.replace("*", r"\*"))


def settings() -> str:
    """Return the defaults and the ranges of what can be configured, for the conformance statement."""
    parser = storescp_parser()
    rows = []
    for dest, what, values in (
        ("optional-ports", "Port", "0 to 65535, or an endpoint; none by default"),
        ("ae-title", "AE Title", "1 to 16 characters"),
        ("require-called-aet", "Called AE Title is checked", "yes or no"),
        ("allow-aet", "Calling AE Titles that are accepted", "titles; none: any"),
        ("allow-from", "Addresses from which associations are accepted", "networks; none: any"),
        ("policy", "File of AE Titles and addresses that are accepted", "a TOML file; none: any"),
        ("auth", "Methods by which user identities are checked", "methods; none: not looked at"),
        ("max-associations", "Associations at a time", "0 or more; 0: no limit"),
        ("max-associations-per-host", "Associations at a time with one address", "0 or more; 0: no limit"),
        (
            "max-associations-per-aet",
            "Associations at a time with one Calling AE Title",
            "0 or more; 0: no limit",
        ),
        ("max-half-open", "Connections without an association", "0 or more; 0: no limit"),
        (
            "max-operations",
            "Operations of one association at a time, where a window is proposed",
            "1 to 65535; 1: none is negotiated",
        ),
        ("max-instance-size", "Length of a Data Set, in octets", "0 or more; 0: no limit"),
        ("max-pdu", "Maximum length of a P-DATA-TF, in octets", "128 to 4294967295; 0: no limit"),
        ("acse-timeout", "ARTIM; answer to A-RELEASE-RQ, in seconds", "0 or more; 0: no limit"),
        (
            "dimse-timeout",
            "Silence, or less than 1 KiB, inside a message, in seconds",
            "0 or more; 0: no limit",
        ),
        ("network-timeout", "Silence on an association, in seconds", "0 or more; 0: no limit"),
        ("grace", "Completion of operations when the program stops, in seconds", "0 or more"),
        ("processes", "Processes that accept associations", "1 to 999"),
        ("prefer", "Order of the Transfer Syntaxes", "four preferences"),
        ("no-echo", "Verification is refused", "yes or no"),
        ("accept-unknown", "SOP Classes that are not listed are stored", "yes or no"),
        ("no-check", "Data sets are stored unchecked", "yes or no"),
        ("ignore", "Instances are answered and not stored", "yes or no"),
        ("output-directory", "Directory of the files", "any that can be written"),
        ("layout", "Names of the files in it", "a template"),
        ("on-duplicate", "What becomes of an instance whose name is taken", "one of four"),
        ("sync", "What is on stable storage when Success is answered", "one of three"),
        ("reserve", "Free space below which nothing is stored, in octets", "0 or more"),
    ):
        action = next(action for action in parser._actions if action.dest == dest)
        names = ", ".join(f"``{option}``" for option in action.option_strings)
        if dest == "prefer":
            names = "``-x=``, ``-xe``, ``-xb``, ``-xi``"
        rows.append((what, names, _default(action), values))
    return table(("Parameter", "Option", "Default", "Values"), rows, (34, 26, 14, 26))


def _default(action: argparse.Action) -> str:
    default: Any = action.default
    if default is None or default == []:
        return "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else f"``{default}``"


# The tables of the conformance statement


def sop_classes() -> str:
    """Return the SOP Classes that are accepted."""
    rows = [(uids.name(uids.VERIFICATION), f"``{uids.VERIFICATION}``", "No", "Yes")]
    rows += [(name, f"``{uid}``", "No", "Yes") for uid, name in uids.STORAGE_SOP_CLASSES.items()]
    return table(("SOP Class Name", "SOP Class UID", "SCU", "SCP"), rows, (46, 40, 7, 7))


def transfer_syntaxes() -> str:
    """Return the Transfer Syntaxes that are accepted, in order of preference."""
    rows = [
        (str(number), name, f"``{uid}``")
        for number, (uid, name) in enumerate(uids.TRANSFER_SYNTAXES.items(), start=1)
    ]
    return table(("", "Transfer Syntax Name", "Transfer Syntax UID"), rows, (6, 58, 36))


def preferences() -> str:
    """Return which Transfer Syntaxes come first, by preference."""
    rows = []
    for option, preference in (
        ("(none)", None),
        ("``-x=``", "uncompressed"),
        ("``-xe``", "little"),
        ("``-xb``", "big"),
        ("``-xi``", "implicit"),
    ):
        accepted = uids.preferred(preference, "little")
        first = ", ".join(uids.name(uid) for uid in accepted[:4])
        more = len(accepted) - 4
        rows.append((option, first + (f", and {more} more" if more > 0 else " alone")))
    return table(("Option", "Accepted, the first that is proposed"), rows, (16, 84))


def implementation() -> str:
    """Return the names by which the implementation is known."""
    rows = [
        ("Implementation Class UID", f"``{IMPLEMENTATION_CLASS_UID}``"),
        ("Implementation Version Name", f"``{IMPLEMENTATION_VERSION_NAME}``"),
    ]
    return table(("Name", "Value"), rows, (40, 60))


_OTHERS = "Not sent by ``storescp``; for services of other SOP Classes."
_STORED = "Not sent by ``storescp``; for storages that keep an instance otherwise than as it came."

#: Of each status: its meaning in the standard's terms, and when it is sent.
MEANINGS: dict[Status, tuple[str, str]] = {
    Status.SUCCESS: ("Success", "The instance is kept; or the echo is answered."),
    Status.INVALID_ATTRIBUTE_VALUE: (
        "Failure: Invalid attribute value",
        "The Affected SOP Instance UID is absent.",
    ),
    Status.PROCESSING_FAILURE: (
        "Failure: Processing failure",
        "Something failed that was not foreseen; the log has the details.",
    ),
    Status.DUPLICATE_SOP_INSTANCE: (
        "Failure: Duplicate SOP Instance",
        "Not sent by ``storescp``, which replaces an instance; for services of other SOP Classes.",
    ),
    Status.NO_SUCH_SOP_INSTANCE: ("Failure: No such SOP Instance", _OTHERS),
    Status.INVALID_OBJECT_INSTANCE: (
        "Failure: Invalid SOP Instance",
        "The Affected SOP Instance UID is not a UID: it holds other characters than digits and dots, or "
        "more than 64 of them.",
    ),
    Status.NO_SUCH_SOP_CLASS: ("Failure: No such SOP Class", "The Affected SOP Class UID is not a UID."),
    Status.CLASS_INSTANCE_CONFLICT: ("Failure: Class-Instance conflict", _OTHERS),
    Status.MISSING_ATTRIBUTE: ("Failure: Missing attribute", _OTHERS),
    Status.SOP_CLASS_NOT_SUPPORTED: (
        "Failure: SOP Class not supported",
        "The Affected SOP Class UID is not the Abstract Syntax of the Presentation Context.",
    ),
    Status.NO_SUCH_ACTION: ("Failure: No such action", _OTHERS),
    Status.NOT_AUTHORIZED: (
        "Failure: Refused: Not authorized",
        "Not sent by ``storescp``; for who lets instances or operations in.",
    ),
    Status.DUPLICATE_INVOCATION: (
        "Failure: Duplicate invocation",
        "The Message ID is that of an operation which is not answered yet.",
    ),
    Status.RESOURCE_LIMITATION: (
        "Failure: Resource limitation",
        "There are more operations at a time than were negotiated, while we await a response on the same "
        "association that may be behind this one.",
    ),
    Status.UNRECOGNIZED_OPERATION: (
        "Failure: Unrecognized operation",
        "The operation is not one of the Presentation Context's SOP Class: any but C-ECHO on Verification, "
        "any but C-STORE on a Storage SOP Class.",
    ),
    Status.OUT_OF_RESOURCES: (
        "Failure: Refused: Out of resources",
        "The instance cannot be written: the disk is full, a quota is exceeded, the directory is gone; or it "
        "is larger than ``--max-instance-size``. The Error Comment says which.",
    ),
    Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS: (
        "Failure: Data Set does not match SOP Class",
        "The SOP Class UID or SOP Instance UID of the Data Set is not the command's.",
    ),
    Status.CANNOT_UNDERSTAND: (
        "Failure: Cannot understand",
        "There is no Data Set, or it is cut or malformed, or has no SOP Class UID or SOP Instance UID. The "
        "Error Comment says where it ends, or what is missing.",
    ),
    Status.COERCION_OF_DATA_ELEMENTS: ("Warning: Coercion of Data Elements", _STORED),
    Status.ELEMENTS_DISCARDED: ("Warning: Elements Discarded", _STORED),
    Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING: ("Warning: Data Set does not match SOP Class", _STORED),
    Status.CANCEL: ("Cancel", "Not sent by ``storescp``; for services whose operations can be cancelled."),
    Status.PENDING: ("Pending", "Not sent by ``storescp``; for services with more than one response."),
}


def statuses() -> str:
    """Return the statuses of :class:`Status`, and when they are sent."""
    rows = [(f"``{status.value:04X}``", *MEANINGS[status]) for status in Status]
    return table(("Code", "Meaning", "When"), rows, (10, 32, 58))


def store_statuses() -> str:
    """Return the statuses of a C-STORE-RSP, as a table of the conformance statement."""
    rows = []
    for status in Status:
        meaning, reason = MEANINGS[status]
        service_status, _, further = meaning.partition(": ")
        if not reason.startswith("Not sent"):
            rows.append((service_status, further or service_status, f"``{status.value:04X}``", reason))
    return table(("Service Status", "Further Meaning", "Error Code", "Reason"), rows, (16, 26, 12, 46))


# The interfaces, of which autodoc knows nothing


def zope_interfaces(module: ModuleType = interfaces) -> str:
    """Return the interfaces of a module, with the annotations of their source."""
    lines = [f".. py:currentmodule:: {module.__name__}", ""]
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef) or not node.bases:
            continue
        if ast.unparse(node.bases[0]) == "Protocol":
            continue  # autodoc knows of those
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        lines += [f".. py:class:: {node.name}({bases})", "", *_indented(ast.get_docstring(node), 3)]
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                returns = ast.unparse(item.returns) if item.returns else "None"
                lines += [f"   .. py:method:: {item.name}({ast.unparse(item.args)}) -> {returns}", ""]
                lines += _indented(ast.get_docstring(item), 6)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Call):
                (text,) = item.value.args
                lines.append(f"   .. py:attribute:: {ast.unparse(item.target)}")
                lines += [f"      :type: {ast.unparse(item.annotation)}", ""]
                lines += _indented(ast.literal_eval(text), 6)
    return "\n".join(lines)


def _indented(text: str | None, by: int) -> list[str]:
    return [" " * by + line if line else "" for line in (text or "").splitlines()] + [""]


GENERATED: dict[str, Callable[[], str]] = {
    "options": options,
    "echo-options": lambda: options(echo_parser()),
    "store-options": lambda: options(store_parser()),
    "settings": settings,
    "sop-classes": sop_classes,
    "transfer-syntaxes": transfer_syntaxes,
    "preferences": preferences,
    "implementation": implementation,
    "statuses": statuses,
    "store-statuses": store_statuses,
    "interfaces": zope_interfaces,
    "public-names": public_api.names,
    "credentials": partial(zope_interfaces, credentials),
}
