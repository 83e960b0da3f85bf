"""``schedule.yaml``: from its YAML to ``Item``s, with every problem that can be seen without running anything."""

from aura.loading.fields import Fields
from aura.loading.modefile import read_mode
from aura.loading.triggerfile import KINDS, STARTING, Place, read_triggers
from aura.schedule import At, Cron, Every, Item, OnWebhook, Trigger
from aura.task import Mode, ModeKind

KEYS = ("items",)
ITEM_KEYS = ("task", "plan", "inputs", "enabled", "mode", "cooldown", "triggers")


def read_schedule(place: Place) -> dict[str, Item]:
    """Read the file; problems go to the place's reader."""
    reader = place.reader
    fields = Fields(reader, (), reader.document.value, "schedule.yaml", KEYS)
    items = reader.mapping(fields.at("items"), fields.value.get("items", {}), "items")
    if "items" not in fields and isinstance(reader.document.value, dict):
        reader.problem((), "schedule.yaml needs `items`")
    found = reader.identifiers(fields.at("items"), items, "an item")
    return {
        name: _read_item(place, Fields(reader, path, value, f"item {name}", ITEM_KEYS)) for path, name, value in found
    }


def _read_item(place: Place, fields: Fields) -> Item:
    plan_name = fields.text("plan", place.plan_name)
    task_name, inputs = place.task(fields, plan_name)
    triggers = read_triggers(place, fields, KINDS)
    if sum(isinstance(trigger.kind, OnWebhook) for trigger in triggers) > 1:
        fields.wrong("triggers", "an item has one webhook at most: its name is part of the address")
    return Item(
        name=str(fields.path[-1]),
        source=place.reader.source(fields.path),
        plan_name=plan_name,
        task_name=task_name,
        inputs=inputs,
        enabled=fields.boolean("enabled", True),
        mode=_read_mode(place, fields, triggers),
        cooldown=fields.duration("cooldown", 0.0, zero=True),
        triggers=triggers,
    )


def _read_mode(place: Place, fields: Fields, triggers: tuple[Trigger, ...]) -> Mode | None:
    """Read what becomes of a start while the one before runs; with times of its own one runs unless it is said."""
    if "mode" not in fields:
        timed = any(isinstance(trigger.kind, Cron | Every | At) for trigger in triggers)
        return Mode(ModeKind.SINGLE) if timed else None
    mode = read_mode(fields, Mode())
    if mode.key is not None:
        place.check_names((*fields.at("mode"), "key"), mode.key, (*STARTING, "inputs"))
    return mode
