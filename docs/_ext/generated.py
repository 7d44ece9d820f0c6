"""The directive ``generated``: reference and figures that are made from the code when the pages are built.

And signatures as they are written: autodoc would evaluate the annotations, and an interface of
zope's or a union of twenty events is not to be read then.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import machine_figure
import reference
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """``.. generated:: NAME``: what the function of that name gives."""

    required_arguments = 1
    has_content = False
    TEXTS: ClassVar = reference.GENERATED
    FIGURES: ClassVar = machine_figure.GENERATED

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        if name in self.FIGURES:
            return [nodes.raw("", self.FIGURES[name](), format="html")]
        text = StringList(self.TEXTS[name]().splitlines(), source=f"generated {name}")
        node = nodes.Element()
        node.document = self.state.document
        # Titles of what is generated are sections below the one that the directive stands in.
        self.state.nested_parse(text, self.content_offset, node, match_titles=1)
        return node.children


class _Written:
    """A default value that is shown as this text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _as_written(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    if signature is None:
        return None
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    parameters = list(found.parameters.values())
    if what == "method" and parameters and parameters[0].name == "self":
        del parameters[0]
    written = found.replace(
        parameters=[parameter.replace(default=_default(parameter.default)) for parameter in parameters],
        return_annotation=inspect.Signature.empty,
    )
    annotation = found.return_annotation
    result = annotation if isinstance(annotation, str) and what != "class" else None
    return _unquoted(str(written)), result and _unquoted(result)


def _default(value: Any) -> Any:
    if value is not inspect.Parameter.empty:
        if inspect.isfunction(value):
            return _Written(value.__name__)
        if isinstance(value, tuple) and len(value) > 2:
            return _Written("...")
    return value


def _unquoted(signature: str) -> str:
    return signature.replace("'", "")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("generated", Generated)
    app.connect("autodoc-process-signature", _as_written)
    return {"parallel_read_safe": True}
