"""Seals of the rows of an ``ase.db``: hashes of the rows that this package wrote.

The seals are in the metadata of the database, ``{"blipcalc": {id: first 64 bits of a SHA-256}}``, so that a removed row is
detected too.  Rows from other programs have no seal, and are not verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ase.db import connect
from ase.db.row import AtomsRow
from ase.io.jsonio import encode

from blipcalc.errors import BlipcalcError, DamagedFileError, DataError

#: key in the metadata
KEY = "blipcalc"
#: keys of a row that do not describe its structure
OWN = {"id", "unique_id", "ctime", "mtime", "user"}
#: largest number of rows in a message
MOST = 10


def seal_rows(database: Any, ids: Iterable[int]) -> None:
    """Seal rows of an open database in the form in which they are read."""
    seals = {str(k): _seal(database.get(id=k)) for k in ids}
    database.metadata = database.metadata | {KEY: database.metadata.get(KEY, {}) | seals}


def verify_rows(path: Path) -> None:
    """Compare the rows of a database with their seals; one without seals passes.

    raises : DamagedFileError for changed or missing rows; DataError for a file that is no database
    """
    try:
        database = connect(path, type="db", use_lock_file=False)
        seals = database.metadata.get(KEY)
        if seals is None:
            return
        found = {str(row.id): _seal(row) for row in database.select()}
        wrong = [k for k in seals if found.get(k) != seals[k]]
    except BlipcalcError:
        raise
    except Exception as error:  # errors of sqlite, of JSON, of arrays that do not fit their bytes
        raise DataError(f"{path} cannot be read as a database: {type(error).__name__}: {error}") from None
    if wrong:
        named = ", ".join(wrong[:MOST]) + " …" * (len(wrong) > MOST)
        raise DamagedFileError(
            f"{path}: rows {named} ({len(wrong)} of {len(seals)} that blipcalc wrote) are not as they were written, or gone. "
            "ase.db reads the others: write those to a new file, and so do with rows that you changed or deleted on purpose"
        )


def _seal(row: AtomsRow) -> str:
    said = {key: value for key, value in vars(row).items() if not key.startswith("_") and key not in OWN}
    said |= {"constraints": row._constraints, "data": row.data, "keys": row._keys}
    text = encode({key: said[key] for key in sorted(said)})
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
