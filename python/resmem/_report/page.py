"""The elements of an HTML page. Text that is not HTML yet is escaped when it is put into one."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from resmem._report.words import clean


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


Part: TypeAlias = "Html | str"

_EMPTY = {"meta"}  # elements without an end tag


def element(name: str, /, *parts: Part, **attributes: str) -> Html:
    """Return an element; ``class_`` stands for attribute class, ``aria_label`` for aria-label."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(parts)}</{name}>")


def joined(parts: Iterable[Part]) -> Html:
    """Return the parts one after the other."""
    return Html("".join(map(escaped, parts)))


def escaped(part: Part) -> Html:
    """Return any text as HTML; quotes are escaped too."""
    return part if isinstance(part, Html) else Html(html.escape(clean(part)))


def table(head: Sequence[str], rows: Iterable[Sequence[Part]], marked: int = -1) -> Html:
    """Return a table that scrolls on its own if it is wider than the page.

    The first cell of a row is its heading. ``marked``: the number of a row to print bold.
    """
    lines = []
    for at, (name, *cells) in enumerate(rows):
        row = [element("th", name, scope="row"), *(element("td", cell) for cell in cells)]
        lines.append(element("tr", *row, **({"class_": "marked"} if at == marked else {})))
    names = [element("th", name, scope="col") for name in head]
    whole = element("table", element("thead", element("tr", *names)), element("tbody", *lines))
    return element("div", whole, class_="wide", tabindex="0", role="region", aria_label=head[0])


def definitions(terms: Iterable[tuple[str, str]]) -> Html:
    """Return words, each with the sentence that says what it means."""
    pairs = (element("div", element("dt", word), element("dd", says)) for word, says in terms)
    return element("dl", *pairs)


def details(summary: str, *parts: Part, opened: bool = False) -> Html:
    """Return parts that are folded away under a summary until the reader opens them."""
    more = {"open": ""} if opened else {}
    return element("details", element("summary", summary), *parts, **more)


def section(title: str, *parts: Part) -> Html:
    """Return a section: a heading and its parts."""
    return element("section", element("h2", title), *parts)


def paragraph(text: Part, class_: str = "") -> Html:
    """Return a paragraph."""
    return element("p", text, **({"class_": class_} if class_ else {}))


def page(title: str, *parts: Part) -> Html:
    """Return a whole document, which loads nothing from anywhere."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    body = element("body", element("main", element("h1", title), *parts))
    return Html("<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n")


_STYLE = """
:root { --ink: #1f2328; --quiet: #57606a; --line: #d0d7de; --paper: #ffffff;
  --gain: #00598c; --harm: #b04a00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --quiet: #9da7b1; --line: #3d444d; --paper: #14181d;
    --gain: #6cb8ea; --harm: #f2a15f }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 46rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.5rem; border-top: 1px solid var(--line);
  padding-top: 0.9rem }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; overflow-wrap: anywhere }
p, li { max-width: 40rem; overflow-wrap: anywhere }
.verdict { font-size: 1.15rem }
.quiet { color: var(--quiet); font-size: 0.9rem }
.gain { color: var(--gain); font-weight: 600 }
.harm { color: var(--harm); font-weight: 600 }
.wide { overflow-x: auto; margin: 0.8rem 0;  /* shaded where there is more to scroll to */
  background:
    linear-gradient(to right, var(--paper) 30%, transparent) 0 0 / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 30%, transparent) 100% 0 / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--line), transparent) 0 0 / 0.8rem 100% no-repeat scroll,
    linear-gradient(to left, var(--line), transparent) 100% 0 / 0.8rem 100% no-repeat scroll }
table { border-collapse: collapse; font-size: 0.8125rem; font-variant-numeric: tabular-nums }
th, td { padding: 0.3rem 0.5rem 0.3rem 0; text-align: right; vertical-align: top;
  white-space: nowrap; border-bottom: 1px solid var(--line) }
thead th { color: var(--quiet); font-weight: 500; vertical-align: bottom; white-space: normal }
th:first-child { text-align: left; font-weight: 500 }
tbody th { white-space: normal; min-width: 5.5rem }
.marked th, .marked td { font-weight: 700 }
.range { display: block; font-weight: 400 }
dl { margin: 0.8rem 0; max-width: 40rem; color: var(--quiet); font-size: 0.8125rem }
dl div { margin: 0.2rem 0 }
dt { display: inline; font-weight: 600; color: var(--ink) }
dt::after { content: ": " }
dd { display: inline; margin: 0; overflow-wrap: anywhere }
figure { margin: 0.8rem 0; max-width: 30rem }
figure svg { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 6px }
figure svg * { stroke-linejoin: round; stroke-linecap: butt }
figcaption { color: var(--quiet); font-size: 0.9rem }
details { margin: 0.6rem 0 }
summary { cursor: pointer; color: var(--quiet) }
"""
