"""The files of plans that runs go on with; they are kept as long as one needs them.

With them is kept which steps of its tasks may run again after a crash in the middle of them, so that what becomes of a
run can be decided before any plan is loaded.
"""

import os
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from aura.records.columns import OPEN_STATES, encode
from aura.store import Execute, Unit

_UNNEEDED = f"""DELETE FROM generation WHERE (plan_name, hash) NOT IN
 (SELECT plan_name, generation FROM run WHERE state IN ({OPEN_STATES}) AND generation IS NOT NULL)"""  # noqa: S608


class Rule(StrEnum):
    """What may be done with a step that a crash caught in the middle, of a task with ``recovery: resume``."""

    #: Its outcome is unknown, and it must not happen twice.
    NEVER = "never"
    #: It is ``idempotent``.
    AGAIN = "again"
    #: It only runs another task.
    CALL = "call"


#: task → step → what may be done with it; handlers are not named.
TaskRules = Mapping[str, Mapping[str, Rule]]
#: (plan, hash) → the same, of all that is kept.
Again = Mapping[tuple[str, str], TaskRules]


def keep_generation(plan_name: str, hash: str, files: Mapping[str, bytes], again: Callable[[], TaskRules]) -> Unit:
    """The unit that keeps a plan's files, part of the unit of a run that needs them.

    If they are not kept yet it asks which steps may run again, and lets go of what no run needs.
    """

    def unit(execute: Execute) -> None:
        if not execute("SELECT 1 FROM generation WHERE plan_name=? AND hash=?", (plan_name, hash)).fetchone():
            drop_generations(execute)  # with a new version only: it looks at all runs that are open
            packed = msgspec.msgpack.encode([(os.fsencode(path), content) for path, content in files.items()])
            execute("INSERT INTO generation VALUES (?,?,?,?)", (plan_name, hash, packed, encode(again())))

    return unit


def drop_generations(execute: Execute) -> None:
    """Let go of the plans' files that no run needs."""
    execute(_UNNEEDED)


def read_generation(execute: Execute, plan_name: str, hash: str) -> dict[str, bytes] | None:
    """The files of a plan that are kept; None if they are not."""
    row = execute("SELECT files FROM generation WHERE plan_name=? AND hash=?", (plan_name, hash)).fetchone()
    if row is None:
        return None
    pairs = msgspec.msgpack.decode(row[0], type=list[tuple[bytes, bytes]])
    return {os.fsdecode(path): content for path, content in pairs}


def read_again(execute: Execute) -> Again:
    """Which steps may run again of every plan that is kept; what an older Aura has kept says nothing of it."""
    rows = execute("SELECT plan_name, hash, again FROM generation WHERE again IS NOT NULL").fetchall()
    kept = msgspec.json.Decoder(dict[str, dict[str, Rule]]).decode
    return {(plan_name, hash): kept(again) for plan_name, hash, again in rows}
