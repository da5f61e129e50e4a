"""Help of every command: an example that parses, and a sentence for every option."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
import typer

from blipcalc.cli.main import app

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence_and_the_example_is_one(name):
    command = COMMANDS[name]
    assert command.help
    assert not [parameter.name for parameter in command.params if not parameter.help]
    program, verb, *words = shlex.split(command.epilog.removeprefix("Example: "))
    assert (program, verb) == ("blipcalc", name)
    known = {option for parameter in command.params for option in parameter.opts}
    given = [word for word in words if word.startswith("-")]
    assert set(given) <= known
    needed = [parameter for parameter in command.params if parameter.required]
    plain = [word for i, word in enumerate(words) if word not in given and not (i and words[i - 1] in given)]
    arguments = [parameter for parameter in needed if parameter.param_type_name == "argument"]
    assert len(plain) >= len(arguments)
    assert all(set(parameter.opts) & set(given) for parameter in needed if parameter not in arguments)


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["--help"], ["train", "-h"]])
def test_the_first_words_do_not_import_torch(words):
    code = f"import sys; sys.argv[1:] = {words!r}\nfrom blipcalc.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
