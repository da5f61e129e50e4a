"""Make pieces of an HTML page; all text is escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as escaped
from importlib import resources

from blipcalc.text import printable

#: allows only inline styles and scripts
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def escape(text: str) -> str:
    """Return text escaped for HTML."""
    return escaped(printable(text))


def package_text(name: str) -> str:
    """Return the text of a file in this directory."""
    return (resources.files("blipcalc") / "report" / name).read_text(encoding="utf-8")


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page from parts that are HTML already."""
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
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "note") -> str:
    """Return a paragraph of a CSS class."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>'


def figure(drawing: str, caption: str) -> str:
    """Return a figure from a drawing in HTML and a caption."""
    return f"<figure>\n{drawing}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and values."""
    return (
        '<dl class="facts">\n'
        + "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
        + "\n</dl>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str]) -> str:
    """Return a table.

    kinds : of the columns: ``n`` numbers, ``code`` hashes, ``nowrap`` words, or empty
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
    """Return a section that is collapsed until it is opened."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{inside}\n</details>"
