"""Figures as SVG elements of a page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from resmem._report.words import clean

from .page import Html, element

INSTALL_HINT = "Figures need matplotlib: pip install 'residual-memory[plot]'."


def available() -> bool:
    """Whether figures can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def figure(name: str, draw: Callable[[], Any], says: str) -> Html:
    """Return the figure that ``draw`` makes, or nothing if figures cannot be drawn.

    ``name`` must be unique on the page. ``says`` is the caption, and the text for readers who
    cannot see the figure.
    """
    if not available():
        return Html("")
    return element("figure", _svg(name, draw, says), element("figcaption", says))


def _svg(name: str, draw: Callable[[], Any], says: str) -> Html:
    """Return a figure as SVG: the same bytes for the same figure, text in the reader's fonts."""
    import matplotlib

    written = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A font that lacks a glyph here matters not: the reader's font draws it.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "resmem", "svg.fonttype": "none"})
        draw().savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    _embed(root, f"{name}-")
    root.set("role", "img")
    root.set("aria-label", clean(says))
    return Html(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _embed(root: ElementTree.Element, prefix: str) -> None:
    """Make the SVG part of a page: remove namespaces and size, and make its ids unique."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        for key, value in list(node.attrib.items()):
            del node.attrib[key]
            node.set(key.rpartition("}")[2], _renamed(key.rpartition("}")[2], value, prefix))


def _renamed(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}")
