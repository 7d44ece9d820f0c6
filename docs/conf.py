"""How Sphinx builds the documentation: ``sphinx-build -W docs docs/_build/html``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from dicomnode import __version__

project = "dicomnode"
author = "The dicomnode developers"
copyright = "the dicomnode developers"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_build", "examples", "newsfragments"]
# Options are written with two hyphens, which are not to become a dash.
smartquotes = False
nitpicky = False
highlight_language = "python"

autodoc_member_order = "bysource"
# Twisted's docstrings are in another markup.
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_type_aliases = {
    name: name
    for name in (
        *("IAddress", "IAssociation", "IConsumer", "IInstanceWriter", "IOperation", "IProducer"),
        *("IPushProducer", "IService", "IStorage"),
    )
}
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"dicomnode {version}"
html_static_path = ["_static"]
html_css_files = ["dicomnode.css"]
html_show_sphinx = False
html_copy_source = False
