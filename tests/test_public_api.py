"""What is public stays as it is: its names, and how they are called."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from difflib import unified_diff
from importlib import import_module
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

import dicomnode

ROOT = Path(__file__).resolve().parent.parent


class PublicAPITests(SynchronousTestCase):
    """``docs/_ext/public_api.py`` says what is public."""

    def setUp(self) -> None:
        self.patch(sys, "path", [str(ROOT / "docs" / "_ext"), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        self.addCleanup(sys.modules.pop, "public_api", None)
        self.api: ModuleType = import_module("public_api")

    def test_unchanged(self) -> None:
        """It is as it was when it was written down; ``python docs/_ext/public_api.py`` writes it anew."""
        before = (ROOT / "tests" / "public_api.txt").read_text().splitlines()
        now = self.api.describe().splitlines()
        difference = unified_diff(before, now, "tests/public_api.txt", "as it is now", lineterm="", n=4)
        self.assertEqual(before, now, "\n".join(["the public API is another one:", *difference]))

    def test_package(self) -> None:
        """What the package itself has is at home in a module that is public, but for the version."""
        listed = {name for names in self.api.PUBLIC.values() for name in names.split()}
        self.assertEqual(set(dicomnode.__all__) - listed, {"__version__", "events"})

    def test_documented(self) -> None:
        """What programs of the documentation import is public, and so is what the separate project does."""
        programs = [
            path
            for folder in ("docs/examples", "docs/howto", "tests/userland/triage")
            for pattern in ("*.py", "*.tac")
            for path in (ROOT / folder).rglob(pattern)
        ]
        self.assertGreater(len(programs), 20)
        for path in programs:
            for module, name in imported(ast.parse(path.read_text())):
                inside = f"{module}.{name}".removeprefix("dicomnode.")
                names = dicomnode.__all__ if module == "dicomnode" else self.names(module)
                public = name in names or inside in self.api.PUBLIC
                self.assertTrue(public, f"{path.name}: {module}.{name}")

    def names(self, module: str) -> list[str]:
        listed: str = self.api.PUBLIC.get(module.removeprefix("dicomnode."), "")
        return listed.split()

    def test_page(self) -> None:
        """The page on stability lists each name."""
        page = self.api.names()
        for module, names in self.api.PUBLIC.items():
            self.assertIn(f"``dicomnode.{module}``", page)
            for name in names.split():
                self.assertIn(f"``{name}``", page)


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what a program imports of ours: module and name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dicomnode":
            yield from ((str(node.module), alias.name) for alias in node.names)
