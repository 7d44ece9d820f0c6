"""Imports go down the picture of the architecture, and never across the line above ``dicomnode.core``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import dicomnode

ROOT = Path(dicomnode.__file__).parent

#: What each module of ours may import of ours; ``core`` is everything in it.
MAY_IMPORT = {
    "errors": "",
    "fragments": "",
    "backlog": "fragments",
    "uids": "",
    "implementation": "",
    "visible": "",
    "values": "",
    "core.machine": "",
    "core.items": "errors",
    "core.pdu": "errors core.items",
    "core.stream": "errors core.pdu",
    "core.command": "values",
    "core.codec": "errors core.command values",
    "core.dataset": "errors",
    "core.negotiation": "core.items core.pdu",
    "core.association": """
        errors core.machine core.items core.pdu core.stream core.command core.codec core.negotiation
    """,
    "core": "",
    "interfaces": "core values",
    "offer": "core interfaces",
    "credentials": "core",
    "checkers": "credentials",
    "events": "core",
    "part10": "errors interfaces implementation",
    "reading": "errors part10",
    "sending": "interfaces reading",
    "waiting": "errors",
    "walking": "core interfaces backlog",
    "reception": "core interfaces waiting walking",
    "operation": "errors core interfaces fragments waiting walking reception",
    "wire": "",
    "gate": "wire",
    "timers": "",
    "message": "errors core interfaces sending reading",
    "invocation": "errors core interfaces events sending gate message",
    "establishment": "errors core interfaces events invocation",
    "performing": "core interfaces events wire gate operation timers values",
    "intake": "core wire gate timers performing",
    "patience": "errors core interfaces events gate timers invocation performing",
    "protocol": """
        errors core interfaces events wire waiting gate timers message invocation establishment performing
        intake patience
    """,
    "sources": "errors core interfaces uids message sending part10 reading",
    "requestor": """
        errors core interfaces events uids implementation timers message protocol sources offer
    """,
    "identity": "errors core interfaces protocol credentials",
    "networks": "",
    "policies": "errors core interfaces networks visible",
    "limits": "errors interfaces networks",
    "acceptor": """
        errors core interfaces events implementation timers waiting protocol identity networks policies limits
        offer wire
    """,
    "considering": "interfaces waiting walking",
    "services": "errors core interfaces events operation uids waiting walking considering reception",
    "partfile": "errors core values",
    "commits": "partfile",
    "layout": "interfaces uids",
    "filestore": "interfaces events backlog part10 partfile commits layout waiting",
    "pipe": "errors core interfaces",
    "hooks": "errors core interfaces events waiting",
    "studies": "interfaces networks waiting hooks",
    "commandline": "",
    "executions": "events networks hooks studies commandline",
    "reports": "interfaces hooks studies",
    "dumps": "core uids visible",
    "statuses": "core",
    "lines": "core interfaces events uids visible dumps statuses",
    "records": "core interfaces events uids visible dumps",
    "observers": "core interfaces events visible lines records",
    "ledger": "errors interfaces limits",
    "turns": "",
    "workers": "events ledger reports",
    "node": "events timers waiting acceptor workers",
    "peers": "core acceptor uids",
    "samples": "core interfaces part10 uids",
    "testing": "interfaces events commits peers samples",
    "contracts": "errors core interfaces events uids policies acceptor services waiting testing",
    "signals": "",
    "contents": "",
    "pem": "contents",
    "profiles": "",
    "tls": "interfaces contents pem profiles",
    "arguments": "",
    "ports": "arguments",
    "options": "arguments checkers uids networks partfile commits layout commandline ports",
    "assembly": """
        interfaces events uids policies limits timers acceptor walking services partfile commits layout
        filestore checkers identity hooks studies commandline executions reports
    """,
    "tap": """
        interfaces events uids implementation policies limits acceptor partfile observers node signals options
        ledger turns workers assembly studies reports contents
    """,
    "": """
        errors core interfaces events implementation policies limits timers protocol requestor acceptor
        services filestore node pipe
    """,
    "worker": "observers reports signals tap workers",
    "progress": "",
    "selection": "errors core uids part10 sources",
    "outcomes": "errors core uids visible dumps statuses observers",
    "clientoptions": "arguments uids",
    "clients": """
        errors core interfaces events uids signals timers requestor visible progress selection outcomes
        observers
    """,
    "__main__": "observers options tap clientoptions clients outcomes progress",
}
#: What is imported when it is needed, and not before.
LAZY = {
    ("sources", "pydicom.filebase"),
    ("sources", "pydicom.filewriter"),
    ("sources", "pydicom.uid"),
    ("sources", "pydicom.uid"),
    ("arguments", ""),
    ("__main__", ""),
    ("clients", "pydicom"),
    ("dumps", "pydicom.uid"),
}


def imports(node: ast.AST, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield what a tree imports, and whether only when it is needed; type checkers' imports are left out."""
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module, "imports are absolute"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            path = ROOT.parent.joinpath(*name.split("."))
            yield name if path.is_dir() or path.with_suffix(".py").exists() else node.module, lazy
    for child in ast.iter_child_nodes(node):
        yield from imports(child, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


class ImportTests(SynchronousTestCase):
    """Every module imports what is below it."""

    def setUp(self) -> None:
        # (module, what it imports, whether that is ours, whether only when it is needed)
        self.imports = set()
        for path in ROOT.rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts).removesuffix("__init__").strip(".")
            for name, lazy in imports(ast.parse(path.read_text(encoding="utf-8"))):
                ours = name.split(".")[0] == "dicomnode"
                short = name.removeprefix("dicomnode").strip(".") if ours else name
                self.imports.add((module, short, ours, lazy))

    def test_downwards(self) -> None:
        """The table allows no import of what stands further down in it."""
        above: set[str] = set()
        for module, allowed in MAY_IMPORT.items():
            self.assertLessEqual(set(allowed.split()), above, module)
            above.add(module)

    def test_table(self) -> None:
        """Each module imports no more of ours than the table allows."""
        for module, name, ours, lazy in self.imports:
            allowed = MAY_IMPORT[module].split()
            if ours and not (lazy and (module, name) in LAZY):
                self.assertIn(
                    "core" if name.startswith("core") and "core" in allowed else name, allowed, module
                )

    def test_core(self) -> None:
        """The core needs the standard library, and nothing else: no Twisted, no files, no clock."""
        io = {"asyncio", "datetime", "io", "logging", "os", "pathlib", "select", "socket", "time"}
        allowed = sys.stdlib_module_names - io
        for module, name, ours, _ in self.imports:
            if module.startswith("core") and not ours:
                self.assertIn(name.split(".")[0], allowed, module)

    def test_command_line(self) -> None:
        """Only the commands themselves import the service of the command line."""
        found = {module for module, name, ours, _ in self.imports if ours and name == "tap"}
        self.assertEqual(found, {"__main__", "worker"})

    def test_pydicom(self) -> None:
        """pydicom is not on the path of what arrives: it gives names to dumps, once there are any."""
        for module, name, _, lazy in self.imports:
            if name.startswith("pydicom"):
                self.assertIn((module, name), LAZY)
                self.assertTrue(lazy, module)
