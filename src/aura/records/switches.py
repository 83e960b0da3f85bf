"""Rules and items that somebody has switched on or off."""

from typing import Literal

import msgspec

from aura.store import Execute, Unit

Kind = Literal["rule", "item"]


#: How many are kept: those of rules and plans that are gone count too, since they may come back.
MAX_SWITCHES = 10_000
_DROP_OLDEST = """DELETE FROM switch WHERE (kind, plan_name, name) IN
 (SELECT kind, plan_name, name FROM switch ORDER BY at DESC LIMIT -1 OFFSET ?)"""


class Switch(msgspec.Struct, frozen=True):
    """What somebody has said of a rule, or an item; ``file_enabled`` is what its file said then.

    ``at`` is in Unix seconds, ``by`` is who it was, as it is shown.
    """

    kind: Kind
    plan_name: str
    name: str
    enabled: bool
    file_enabled: bool
    at: float
    by: str


def put_switch(switch: Switch) -> Unit:
    """The unit that keeps it, in the place of a former one, and the last ``MAX_SWITCHES`` of all."""
    row = msgspec.structs.astuple(switch)

    def unit(execute: Execute) -> None:
        execute("INSERT OR REPLACE INTO switch VALUES (?,?,?,?,?,?,?)", row)
        execute(_DROP_OLDEST, (MAX_SWITCHES,))

    return unit


def drop_switch(kind: Kind, plan_name: str, name: str) -> Unit:
    """The unit that forgets it: the file's word counts again. Harmless if there is none."""

    def unit(execute: Execute) -> None:
        execute("DELETE FROM switch WHERE kind=? AND plan_name=? AND name=?", (kind, plan_name, name))

    return unit


def read_switches(execute: Execute) -> list[Switch]:
    """All of them."""
    rows = execute("SELECT kind, plan_name, name, enabled, file_enabled, at, by FROM switch").fetchall()
    return [Switch(kind, plan, name, bool(on), bool(file), at, by) for kind, plan, name, on, file, at, by in rows]
