"""Sphinx configuration: furo, myst-nb, and the API from docstrings.

The notebooks are copied from where they are kept and shown with the outputs that they have.
"""

import re
import shutil
import tomllib
from pathlib import Path

project = "step-saliency"
author = "The step-saliency authors"
copyright = "2026, the step-saliency authors"  # noqa: A001
_ROOT = Path(__file__).parents[1]
_PROJECT = _ROOT / "pyproject.toml"
version = release = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = "step-saliency"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_excludepatterns = ["notebooks/*"]
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = False  # it reads them from the source, where shared options are not
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

_LITERAL = re.compile(r"``[^`]+``|`[^`]+`")


def _escape_marks(app, what, name, obj, options, lines):
    """Docstrings write ``|A|`` and ``2 * x`` as they are meant; reST would read them as marks."""
    for number, line in enumerate(lines):
        kept = _LITERAL.findall(line)
        plain = _LITERAL.split(line)
        escaped = [re.sub(r"([|*])", r"\\\1", part) for part in plain]
        lines[number] = "".join(
            part + literal for part, literal in zip(escaped, [*kept, ""], strict=True)
        )


def _copy_notebooks(app):
    """Put the notebooks where Sphinx looks for pages; times are kept, so that it sees changes."""
    folder = Path(app.srcdir) / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for notebook in (_ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy2(notebook, folder)


def setup(app):
    """Connect what is above."""
    app.connect("builder-inited", _copy_notebooks)
    app.connect("autodoc-process-docstring", _escape_marks, priority=100)
