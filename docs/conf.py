"""Sphinx configuration: `make docs` builds the site into build/docs."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

for package in ("responders", "recsim_env"):  # names imported on first use, for autodoc to find
    module = import_module(package)
    for name in module.__all__:
        setattr(module, name, getattr(module, name))

project = "recsim-env"
author = "The recsim-env developers"
copyright = "The recsim-env developers"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.apidoc",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
]
exclude_patterns = ["_build", "api/*/modules.rst"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

apidoc_modules = [
    {
        "path": f"../{package}",
        "destination": f"api/{package}",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
    for package in ("responders", "recsim_env", "agents")
]
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_mock_imports = ["triton", "ray"]
default_role = "code"  # docstrings write `name` for code
napoleon_use_rtype = False
napoleon_use_ivar = True

nitpicky = True
# References to other projects are not resolved: the site is built without a network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!(responders|recsim_env|agents|benchmarks)\.).*"),
    ("py:.*", r".*\._.*"),  # private base classes
    ("py:.*", r".*\.[A-Z]"),  # type variables
    ("py:exc", r".*"),
]
suppress_warnings = ["ref.python"]  # public names are listed in a package and in its module

pygments_dark_style = "github-dark"

html_theme = "furo"
html_title = "recsim-env"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#c2410c", "color-brand-content": "#b93a06"},
    "dark_css_variables": {"color-brand-primary": "#fb923c", "color-brand-content": "#fb923c"},
}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
