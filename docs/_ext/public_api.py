"""What is public, and how it is called.

``python docs/_ext/public_api.py`` writes it to ``tests/public_api.txt``. It is read from the source, so that
annotations and defaults are as they are written. It needs nothing but dicomnode, so the tests call it without
Sphinx.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import dicomnode

TEXT = Path(__file__).resolve().parent.parent.parent / "tests" / "public_api.txt"

#: The names of each module that stay. Those that ``dicomnode`` itself has are among them.
PUBLIC: Mapping[str, str] = {
    "interfaces": """
        Body Decision IAssociation IAssociationPolicy ICertificatePolicy ICommonExtendedNegotiation
        IExtendedNegotiation IImmediateStorage IInstanceWriter IOperation IReadable IRoleSelection IService
        IShareable IStorage IUser
        Instance OnResponse Progress
    """,
    "acceptor": "Acceptor",
    "requestor": "ServiceUser associate plan",
    "sources": "Storable",
    "protocol": "AssociationProtocol",
    "invocation": "Invocation",
    "services": "Discard Storage StorageSupport Verification",
    "filestore": "FileStorage default_name",
    "layout": "Layout",
    "commits": "IStorageReactor Sync",
    "partfile": "OnDuplicate",
    "part10": "FileMeta part10_header read_file_meta",
    "pipe": "Pipe",
    "hooks": "Arrivals AssociationHooks AssociationOver Hook Hooked InstanceReceived",
    "studies": "Because Studies StudyEnded",
    "executions": "Executions OnReception OnStudy",
    "commandline": "CommandLine",
    "considering": "Consider",
    "walking": "Threads",
    "policies": """
        AcceptAny All CALLED_AE_TITLE_NOT_RECOGNIZED CALLING_AE_TITLE_NOT_RECOGNIZED CalledAETitle
        CallingAETitle CertificateSubject InvalidPolicy NO_REASON_GIVEN PeerAddress PolicyFile
    """,
    "identity": "Login Portal User Users",
    "credentials": "IJSONWebToken IKerberosServiceTicket ISAMLAssertion IUsername",
    "checkers": "checker_of",
    "limits": "Limits",
    "timers": "Timeouts",
    "node": "Behind Node",
    "tls": "ClientCertificate TLSServerEndpoint client_options",
    "tap": "CannotStart Options makeService",
    "events": """
        AbortReceived AbortSent AssociationAccepted AssociationEnded AssociationRejected
        AssociationReleased AssociationRequested CancelReceived CertificatesNotRead CertificatesRead
        Event ExecutionEnded ExecutionSaid Fanout InstanceKept InstanceNotKept InvocationEnded
        InvocationStarted Listening LoggedIn Observer OperationEnded OperationStarted PartRemoved Paused
        PolicyNotRead PolicyRead Resumed Started TLSFailed TimedOut TooManyHalfOpen Transition Unexpected
        WorkerEnded WorkerStarted ignore wants
    """,
    "observers": "Counters JSONLines LogObserver TextLines",
    "testing": """
        CalledPeer MemoryStorage MemoryWriter Network Peer Pool Reactor Recorder Transport data_set dicom_file
    """,
    "contracts": "InstanceWriterContract PolicyContract ServiceContract",
    "errors": """
        AssociationAborted AssociationLost AssociationRejected AssociationReleased AssociationTimedOut
        ContextNotAccepted DicomNodeError InvalidCommand InvalidFile InvalidPDU LocalProtocolError
        OperationFailed TooManyContexts
    """,
    "uids": """
        DEFLATED_EXPLICIT_VR_LE EXPLICIT_VR_BE EXPLICIT_VR_LE IMPLICIT_VR_LE STORAGE_SERVICE_CLASS
        STORAGE_SOP_CLASSES TRANSFER_SYNTAXES VERIFICATION file_name_prefix name preferred
    """,
    "core.command": """
        CCancelRQ CEchoRQ CEchoRSP CFindRQ CFindRSP CGetRQ CGetRSP CMoveRQ CMoveRSP CStoreRQ CStoreRSP
        Command NActionRQ NActionRSP NCreateRQ NCreateRSP NDeleteRQ NDeleteRSP NEventReportRQ
        NEventReportRSP NGetRQ NGetRSP NSetRQ NSetRSP Request Response Status is_warning respond
    """,
    "core.codec": "decode encode",
    "core.pdu": "Abort AnsweredContext AssociateAC AssociateRJ AssociateRQ ProposedContext",
    "core.items": "CommonExtendedNegotiation ExtendedNegotiation RoleSelection UserIdentity UserInformation",
    "core.negotiation": "PresentationContext",
    "core.dataset": "Walk",
    "core.machine": "Event Role State",
    "core.association": """
        Aborted AssociateConfirmed AssociateRefused AssociateRequested Association DataSetFragments
        Indication MessageReceived ReleaseConfirmed ReleaseRequested
    """,
}

#: Classes of which more is seen by the rest of the package than stays: what does stay.
ONLY = {
    "AssociationProtocol": """
        abort called_ae_title calling_ae_title contexts invoke number peer release role when_ended
    """,
    "FileStorage": "__init__ directory open",
    "Hooked": "__init__ open",
    "Invocation": "association context has_data_set octets octets_total request",
    "Studies": "__init__ begun given_up received stop",
    "Executions": "__init__ finished stop_within",
    "Threads": "__init__",
    "Walk": """
        __init__ end fault feed feed_sequence modality octets patient_id series_instance_uid
        sop_class_uid sop_instance_uid study_instance_uid whole
    """,
    "Acceptor": "__init__ associations buildProtocol drain logins",
}

#: What is longer is a table, or a text: that it is there is all that is promised.
_LONG = 90


def names() -> str:
    """Return the public names, by module, for the page on stability."""
    rows = {"dicomnode": dicomnode.__all__} | {
        f"dicomnode.{module}": listed.split() for module, listed in PUBLIC.items()
    }
    lines: list[str] = []
    for module, listed in rows.items():
        lines += [f"``{module}``", f"   {' '.join(f'``{name}``' for name in sorted(listed))}", ""]
    return "\n".join(lines)


def describe() -> str:
    """Return all that is public, and how it is called."""
    lines = ["dicomnode", *(f"    {name}" for name in sorted(dicomnode.__all__))]
    for module, listed in PUBLIC.items():
        lines += ["", f"dicomnode.{module}"]
        for name in sorted(listed.split()):
            lines += [f"    {line}" for line in _described(f"dicomnode.{module}", name)]
    return "\n".join(lines) + "\n"


def _described(module: str, name: str) -> Iterator[str]:
    value = getattr(import_module(module), name)
    home = getattr(value, "__module__", None)
    node = _nodes(module).get(name)
    if node is None and home is not None:  # it is at home elsewhere
        node = _nodes(home)[name]
        module = home
    if isinstance(node, ast.ClassDef):
        yield from _class(module, node)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from _function(node).splitlines()
    else:
        assert node is not None, f"{module}.{name}"
        yield _assignment(node)


@cache
def _nodes(module: str) -> dict[str, ast.stmt]:
    """Return what a module defines, by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                    found[ast.unparse(one)] = node
    return found


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    text = f"{kind} {node.name}({ast.unparse(node.args)}){returns}"
    if len(text) <= _LONG:
        return text
    parameters = "\n".join(f"    {parameter}," for parameter in _parameters(node.args))
    return f"{kind} {node.name}(\n{parameters}\n){returns}"


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Yield the parameters, one by one."""
    positional = [*arguments.posonlyargs, *arguments.args]
    absent = len(positional) - len(arguments.defaults)
    defaults = [None] * absent + [*arguments.defaults]
    yield from map(_parameter, positional, defaults)
    if arguments.vararg is not None:
        yield f"*{_parameter(arguments.vararg, None)}"
    elif arguments.kwonlyargs:
        yield "*"
    yield from map(_parameter, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg is not None:
        yield f"**{_parameter(arguments.kwarg, None)}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def _assignment(node: ast.stmt) -> str:
    text = ast.unparse(node)
    if len(text) <= (_LONG if "TypeAlias" not in text else 2 * _LONG):
        return text
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _class(module: str, node: ast.ClassDef) -> Iterator[str]:
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    yield f"class {node.name}{bases}"
    members: dict[str, str] = {}
    for name, text in _members(module, node):
        if name not in members or ": " in text:  # rather with its annotation
            members[name] = text
    only = ONLY.get(node.name, "").split()
    # The order of a value's fields is that of its parameters, and stays.
    ordered = members if "__init__" not in members else dict(sorted(members.items()))
    for name, text in ordered.items():
        if not only or name in only:
            yield from (f"    {line}" for line in text.splitlines())


def _members(module: str, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield names and texts of what a class has, with what bases have that are not public themselves."""
    for base in node.bases:
        inherited = _nodes(module).get(ast.unparse(base))
        if isinstance(inherited, ast.ClassDef) and inherited.name.startswith("_"):
            yield from _members(module, inherited)
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            if item.name == "__init__":
                yield from _attributes(item)
            if not item.name.startswith("_") or item.name in ("__init__", "__call__"):
                yield item.name, _method(item)
        elif isinstance(item, ast.Assign | ast.AnnAssign) and not _target(item).startswith("_"):
            yield _target(item), _attribute(item)


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if "property" in decorators:
        return f"{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}"
    text = _function(node)
    return f"@classmethod {text}" if "classmethod" in decorators else text


def _attributes(init: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    """Yield the attributes that are set when something is made."""
    for node in ast.walk(init):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = _target(node)
            if target.startswith("self.") and not target.startswith("self._"):
                name = target.removeprefix("self.")
                annotation = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
                yield name, f"{name}{annotation}"


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _attribute(node: ast.Assign | ast.AnnAssign) -> str:
    value: Any = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Attribute":  # of an interface
        assert isinstance(node, ast.AnnAssign)
        return f"{_target(node)}: {ast.unparse(node.annotation)}"
    return _assignment(node)


if __name__ == "__main__":
    TEXT.write_text(describe())
