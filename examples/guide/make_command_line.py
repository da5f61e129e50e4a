"""Write ``command_line.md``: usage, help, arguments and options of every ``blipcalc`` command, read from the program itself.

python examples/guide/make_command_line.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from blipcalc.cli.main import app

PAGE = Path(__file__).with_name("command_line.md")
HEAD = """# The command line

After reading this page you can call every `blipcalc` command with its arguments and options.

The program prints the same text: `blipcalc --help`, `blipcalc md --help`; `blipcalc --version` prints the version.
Under each command stand its usage and an example. Commands exit with code 2 for bad input and print the
[name of the error](troubleshooting.md). Exit codes of runs: [monitoring](monitoring.md#exit-codes).

*This page is generated. Do not edit it; run `python examples/guide/make_command_line.py`.*

| command | purpose |
|---|---|
"""


def commands() -> dict[str, Any]:
    """{name: command} as the program knows them."""
    return dict(typer.main.get_command(app).commands)


def is_option(parameter: Any) -> bool:
    """Whether a parameter is an option; else it is an argument."""
    return parameter.opts[0].startswith("-")


def flags(parameter: Any) -> list[str]:
    """All spellings of an option."""
    return [*parameter.opts, *parameter.secondary_opts]


def cell(text: object) -> str:
    """Text as one cell of a table."""
    paragraphs = [" ".join(part.split()) for part in str(text or "").split("\n\n")]
    return "<br>".join(paragraphs).replace("|", "\\|")


def summary(command: Any) -> str:
    """First sentence of the help of a command."""
    first = cell(command.help).partition("<br>")[0]
    return first.partition(". ")[0].rstrip(".") + "."


def usage(name: str, command: Any) -> str:
    """How a command is called."""
    words = ["blipcalc", name]
    for parameter in command.params:
        many = parameter.nargs == -1 or parameter.multiple
        if not is_option(parameter):
            words.append(parameter.name.upper() + ("..." if many else ""))
        elif parameter.required:
            words.append(f"{parameter.opts[0]} {parameter.name.upper()}" + (" ..." if many else ""))
    return " ".join([*words, "[OPTIONS]"])


def default(parameter: Any) -> str:
    """The default of a parameter, in words."""
    if parameter.required:
        return "required"
    if parameter.default is None:
        return ""
    if isinstance(parameter.default, bool):
        return "on" if parameter.default else "off"
    return f"`{parameter.default}`"


def section(name: str, command: Any) -> str:
    """One command."""
    rows = ["| argument or option | default | meaning |", "|---|---|---|"]
    for parameter in sorted(command.params, key=is_option):
        names = " ".join(f"`{flag}`" for flag in flags(parameter)) if is_option(parameter) else parameter.name.upper()
        meaning = cell(parameter.help) + (" (may be repeated)" if is_option(parameter) and parameter.multiple else "")
        rows.append(f"| {names} | {default(parameter)} | {meaning.strip()} |")
    help_text = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    example = command.epilog.partition("Example: ")[2] if command.epilog else ""
    shown = [f"    {usage(name, command)}", *([f"    {example}"] if example else [])]
    return "\n".join([f"## blipcalc {name}", "", help_text, "", *shown, "", *rows, ""])


def page() -> str:
    """The whole page."""
    found = commands()
    index = [f"| [`{name}`](#blipcalc-{name}) | {summary(command)} |" for name, command in found.items()]
    return "\n".join([HEAD.rstrip("\n"), *index, "", *(section(name, one) for name, one in found.items())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
