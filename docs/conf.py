"""Sphinx settings: Markdown pages, built with `sphinx-build -W -q docs OUT`."""

from importlib.metadata import version as installed_version

project = "exapt"
author = "The exapt authors"
copyright = "The exapt authors"  # noqa: A001 - Sphinx's word
release = version = installed_version("exapt")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"exapt {release}"
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
