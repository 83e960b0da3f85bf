"""How values stand in columns: JSON as msgspec writes it; and how rows get there whose last columns are mostly NULL."""

from collections.abc import Sequence
from typing import Any

import msgspec

from aura.lifecycle import FINAL, RunState
from aura.store import Execute

#: The states of runs as SQL lists them: those that are final, and those that are not.
FINAL_STATES = ", ".join(f"'{state}'" for state in sorted(FINAL))
OPEN_STATES = ", ".join(f"'{state}'" for state in RunState if state not in FINAL)

encode = msgspec.json.encode
decode = msgspec.json.decode


def encoded(value: Any) -> bytes | None:
    """JSON of a value; None stays NULL."""
    return None if value is None else encode(value)


def decoded(data: bytes | str | None) -> Any:
    return None if data is None else decode(data)


class Insert:
    """An INSERT of rows whose first column is never NULL and whose last ones mostly are: those are left out.

    Python 3.11 takes longer to bind a NULL than SQLite to keep it.
    """

    def __init__(self, table: str, columns: str, tail: str = "") -> None:
        """``columns`` are in the order of the rows, and those that may be left out have no default but NULL."""
        names = columns.split(", ")
        self._sql = [
            f"INSERT INTO {table} ({', '.join(names[:count])}) VALUES ({','.join('?' * count)}) {tail}"  # noqa: S608
            for count in range(len(names) + 1)
        ]

    def __call__(self, execute: Execute, row: Sequence[Any]) -> None:
        end = len(row)
        while row[end - 1] is None:
            end -= 1
        execute(self._sql[end], row[:end])
