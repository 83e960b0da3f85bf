"""Who asked for a run, as a test reads it: its kind, the item or rule, and the lines of the plan that say so.

Several triggers of an item may start the same task. What is on record of a run is the event that started it, so the
trigger is the one whose pattern means that; of other kinds it is told only where the item has one alone.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aura.errors import RequestError
from aura.eventnames import matches
from aura.loading.yamlfile import load
from aura.records.reading import get_run
from aura.run import RunRecord
from aura.schedule import Item, OnEvent

if TYPE_CHECKING:
    from aura.testing.world import World

_FILE = "schedule.yaml"
#: What the reason of such a run begins with (``kernel.modes``).
_REPLACED = "replaced by "


def asked_by(world: "World", cause: Mapping[str, Any]) -> str:
    """Who asked for a run: ``event door.opened, item scan (lab/schedule.yaml:2), trigger at lab/schedule.yaml:5``."""
    if cause.get("rule"):
        return f"{cause['kind']} rule {cause['rule']}"
    if not cause.get("item"):
        return str(cause["kind"])
    event = _event_of(world, cause)
    said = f"{cause['kind']} {event}" if event else str(cause["kind"])
    plan_name = cause.get("plan_name") or world.plan_name
    try:
        item = world.plan_of(plan_name).items[cause["item"]]
    except (RequestError, KeyError):  # it is not served any more
        return f"{said}, item {cause['item']}"
    return f"{said}, item {item.name} ({item.source}){_trigger(world, plan_name, item, event)}"


def replaced_by(world: "World", record: RunRecord) -> RunRecord | None:
    """The run that took the place of one, by the mode of its task; None if none did."""
    _, said, cid = (record.reason or "").partition(_REPLACED)
    return get_run(world.backend.execute, cid) if said else None


def _event_of(world: "World", cause: Mapping[str, Any]) -> str | None:
    """The name of the event that started it, if a plan or a client has emitted it."""
    if cause["kind"] != "event" or cause.get("event_id") is None:
        return None
    found = world.backend.execute("SELECT name FROM event WHERE id = ?", (int(cause["event_id"]),)).fetchone()
    return None if found is None else str(found[0])


def _trigger(world: "World", plan_name: str, item: Item, event: str | None) -> str:
    """The line of the trigger of an item that has heard an event."""
    kinds = [trigger.kind for trigger in item.triggers]
    fits = [event and isinstance(kind, OnEvent) and matches(kind.pattern, event) for kind in kinds]
    text = world.file_of(plan_name, _FILE)
    if True not in fits or text is None:
        return ""
    line, _ = load(text, _FILE).position(("items", item.name, "triggers", fits.index(True)))
    return f", trigger at {plan_name}/{_FILE}:{line}"
