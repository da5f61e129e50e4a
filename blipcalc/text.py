"""Text that may come from a file, for a terminal or a page: nothing in it is a command to either."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with every character that is not printed written out, as ``\x1b``; line ends and tabs stay.

    A terminal takes such characters for commands: to move, to colour, to turn the direction of writing round.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
