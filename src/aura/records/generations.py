"""The files of plans that runs at rest go on with; they are kept as long as one needs them."""

import os
from collections.abc import Mapping

import msgspec

from aura.records.columns import OPEN_STATES
from aura.store import Execute, Unit

_UNNEEDED = f"""DELETE FROM generation WHERE (plan_name, hash) NOT IN
 (SELECT plan_name, generation FROM run WHERE state IN ({OPEN_STATES}) AND generation IS NOT NULL)"""  # noqa: S608


def keep_generation(plan_name: str, hash: str, files: Mapping[str, bytes]) -> Unit:
    """The unit that keeps a plan's files, part of the unit of a run that needs them.

    If they are not kept yet it lets go of those that no run needs.
    """

    def unit(execute: Execute) -> None:
        if not execute("SELECT 1 FROM generation WHERE plan_name=? AND hash=?", (plan_name, hash)).fetchone():
            drop_generations(execute)  # with a new version only: it looks at all runs that are open
            packed = msgspec.msgpack.encode([(os.fsencode(path), content) for path, content in files.items()])
            execute("INSERT INTO generation VALUES (?,?,?)", (plan_name, hash, packed))

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
