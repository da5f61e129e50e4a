"""Escaping of text from files, so that no character is a command to a terminal or a page."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return the text with every unprintable character escaped, as ``\x1b``; line ends and tabs stay.

    A terminal takes such characters as commands to move, to colour, or to reverse the direction of writing.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
