"""blipcalc: molecular dynamics with machine-learned potentials that knows what it does not know.

The names are listed in ``__init__.pyi``, and loaded at first use, so that importing the package is instant.  Everything else
comes through its room, such as ``from blipcalc.properties import phonons``.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
