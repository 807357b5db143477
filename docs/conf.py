"""Sphinx: these Markdown pages, and the reference from the library's docstrings. `make docs` builds it strictly."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# autodoc imports with TYPE_CHECKING set, under which FastAPI's own classes cannot be made.
import fastapi  # noqa: E402, F401
from docutils import nodes  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

project = "Music Map"
extensions = [
    "myst_parser",  # Markdown
    "sphinx.ext.apidoc",  # a page for each module, made when the docs are built
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Args, Returns, Raises
]
exclude_patterns = ["_build"]
# Fields of several classes have one name; the reference links none of them then.
suppress_warnings = ["ref.python"]
default_role = "code"

html_theme = "furo"
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["music_map.css"]
html_js_files = ["music_map.js"]
html_title = "Music Map"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

apidoc_modules = [
    {
        "path": "../music_map",
        "destination": "reference",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Reference|References):")


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: what is indented (formulas, commands) becomes literal, and no character marks up.

    Runs before napoleon, which reads the sections.
    """
    text, section, literal = [], False, False
    for line in lines:
        indented = line.startswith("    ") or (line.startswith("  ") and not section)
        if line and not line.startswith(" "):
            section = bool(_SECTION.fullmatch(line))
        if line.strip() and indented and not section:
            if not literal:
                while text and not text[-1].strip():
                    text.pop()
                text += ["", "::", ""]
                literal = True
            text.append(f"    {line}")
        elif not line.strip():
            text.append("")
        else:
            if literal:
                text.append("")
                literal = False
            text.append(_escaped(line))
    lines[:] = text


def _escaped(line):
    parts = re.split(r"(`[^`]+`)", line)
    for i, part in enumerate(parts):
        if part.startswith("`") and part.endswith("`") and len(part) > 2:
            parts[i] = f"`{part}`"
        else:
            parts[i] = re.sub(r"([*|\\`]|_(?=\W|$))", r"\\\1", part)
    return "".join(parts)


def inline_math(self, node):
    """A formula as MathML, which browsers draw themselves: nothing is fetched, and a screen reader can read it."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(self, node):
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


# What the theme leaves without a level, a name or a text, for those who hear a page.
_SPOKEN = (
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="Pages">'),
    ('<aside class="toc-drawer', '<aside aria-label="On this page" class="toc-drawer'),
    ('<th class="head"><p></p></th>', '<td class="head"></td>'),
    ('<div id="search-results">', '<h1>Search</h1>\n<div id="search-results">'),
)


def make_accessible(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = spoken = path.read_text(encoding="utf-8")
        for as_is, better in _SPOKEN:
            spoken = spoken.replace(as_is, better)
        if spoken != text:
            path.write_text(spoken, encoding="utf-8")


def setup(app):
    app.connect("build-finished", make_accessible)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", plain_text, priority=100)
