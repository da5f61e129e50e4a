"""``python -m blipcalc``: the command line, also under torchrun."""

from blipcalc.cli.main import main

main()
