"""Pieces of a page; all text is escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as escaped
from importlib import resources

from blipcalc.text import printable

#: nothing but what the page itself holds
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def escape(text: str) -> str:
    """Text as it stands in HTML."""
    return escaped(printable(text))


def package_text(name: str) -> str:
    """A file that stands beside this one."""
    return (resources.files("blipcalc") / "report" / name).read_text(encoding="utf-8")


def page(title: str, body: Iterable[str]) -> str:
    """A whole page of parts that are HTML already."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{package_text('page.css')}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            f"<script>\n{package_text('view.js')}</script>",
            "</body>",
            "</html>\n",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "note") -> str:
    """A paragraph of a class."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>'


def figure(drawing: str, caption: str) -> str:
    """A drawing, HTML already, and how it is read."""
    return f"<figure>\n{drawing}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Short names and what they stand for."""
    return (
        '<dl class="facts">\n'
        + "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
        + "\n</dl>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str]) -> str:
    """A table.

    kinds : of the columns: ``n`` numbers, ``code`` hashes, ``nowrap`` words, or nothing
    """
    lines = ['<div class="wide">', "<table>", "<thead><tr>"]
    for name, kind in zip(head, kinds, strict=True):
        lines.append(f'<th class="n">{escape(name)}</th>' if kind == "n" else f"<th>{escape(name)}</th>")
    lines.append("</tr></thead>\n<tbody>")
    for row in rows:
        cells = [f'<td class="{kind}">{escape(str(cell))}</td>' for cell, kind in zip(row, kinds, strict=True)]
        lines.append("<tr>" + "".join(cells).replace(' class=""', "") + "</tr>")
    return "\n".join([*lines, "</tbody>", "</table>", "</div>"])


def folded(title: str, inside: str) -> str:
    """Something that is shown when it is asked for."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{inside}\n</details>"
