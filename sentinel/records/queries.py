"""Reads the SQL files: numbered migrations, and statements by name. No database here."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "sql"  # beside the package, in a checkout and where it is installed
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"(--.*\n)*")  # between the name and the statement; for people, and not for the server


@functools.cache
def load_queries(dialect: str) -> Mapping[str, str]:
    """The statements of `sql/<dialect>/*.sql`, but for the migrations, by the name in the comment line above each."""
    statements: dict[str, str] = {}
    for file in sorted(file for file in (_FOLDER / dialect).glob("*.sql") if not file.name[0].isdigit()):
        _, *pieces = _NAME.split(file.read_text())
        for name, statement in zip(pieces[::2], pieces[1::2], strict=True):
            statements[name] = _COMMENT.sub("", statement.strip(), count=1)
    return statements


def numbered_by_name(statement: str) -> str:
    """The statement with `%(name)s` for `:name`, as psycopg wants it; casts (`::`) stay, and `%` stays a per cent sign."""
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%"))


@functools.cache
def load_migrations(dialect: str) -> tuple[tuple[int, str, str], ...]:
    """(number, file name, SQL) of each `sql/<dialect>/NNNN_*.sql`, in order."""
    files = [file for file in (_FOLDER / dialect).iterdir() if file.name[:4].isdigit()]
    return tuple((int(file.name[:4]), file.name, file.read_text()) for file in sorted(files, key=lambda file: file.name))
