"""``schedule.yaml`` and ``interrupts.yaml`` as JSON Schema (2020-12), for editors; see ``fileschema``.

Keys, words and bounds come from the tables by which the files are read; a key without its description fails to build.
"""

from collections.abc import Collection, Mapping

from aura import eventnames
from aura.loading import interruptfile, schedulefile, triggerfile
from aura.loading.schemaparts import (
    DIALECT,
    DURATION,
    NAMES,
    TEXT,
    WHOLE_EXPRESSION,
    Schema,
    described,
    mapping,
    mode,
    or_zero,
    ref,
    whole,
)
from aura.run import PRIORITIES

_OBJECT = {"type": "object"}
_FLAG = {"type": "boolean"}
_EVENT = {"type": "string", "pattern": eventnames.PATTERN, "maxLength": eventnames.MAX_LENGTH}
_MOMENT = {"type": "string", "pattern": r"^\s*\d{4}-?\d\d-?\d\d[T ]\d\d[0-9:.,]*(Z|[+-]\d\d(:?\d\d)?)\s*$"}
#: Key → (shape, what it is for).
Rows = Mapping[str, tuple[Schema, str]]


def schedule_schema() -> Schema:
    """The schema of ``schedule.yaml``."""
    return _file("A schedule of Aura", "items", "Named starts of tasks", _shape(schedulefile.ITEM_KEYS, ITEM, ["task"]))


def interrupts_schema() -> Schema:
    """The schema of ``interrupts.yaml``."""
    what = "What stops running work, and how that is handled"
    return _file("Interrupt rules of Aura", "rules", what, _shape(interruptfile.RULE_KEYS, RULE, ["triggers", "task"]))


def _file(title: str, key: str, what: str, member: Schema) -> Schema:
    members = {"type": "object", "propertyNames": NAMES, "additionalProperties": member}
    shape = mapping((key,), {key: described(members, what)}, [key])
    return {"$schema": DIALECT, "title": title, **shape, "$defs": {"duration": DURATION}}


def _shape(keys: Collection[str], rows: Rows, required: Collection[str] = ()) -> Schema:
    return mapping(keys, {key: described(shape, says) for key, (shape, says) in rows.items()}, required)


def _triggers(kinds: Mapping[str, triggerfile.KindOfTrigger]) -> Schema:
    """A list of triggers, each of exactly one kind."""
    keys = {kind: (kind, *made.beside, "when") for kind, made in kinds.items()}
    needed = {"expect": ("expect", "within")}
    one = [_shape(known, TRIGGER, needed.get(kind, [kind])) for kind, known in keys.items()]
    return {"type": "array", "items": {"anyOf": one}}


DEBOUNCE: Rows = {
    "for": (ref("duration"), "So long nothing must have come"),
    "key": (TEXT, "Events for which this text differs do not count together"),
}
FILE: Rows = {
    "path": (TEXT, "A folder; a relative one is below the plan's"),
    "pattern": (TEXT, "Which names below it count, such as *.csv"),
    "changes": ({"type": "array", "items": {"enum": list(triggerfile.CHANGES)}, "minItems": 1}, "Which changes count"),
    "each": (_FLAG, "True: a run for each file; else one for all that have settled"),
}
WEBHOOK: Rows = {
    "secret": ({"type": "string", **NAMES}, "The name of the plan's secret that the caller must know"),
    "scheme": ({"enum": list(triggerfile.SCHEMES)}, "How the caller proves it; aura unless it says otherwise"),
}
POLL: Rows = {
    "action": (TEXT, "One of this plan's actions, or of Aura's; what it gives is event.payload"),
    "params": (_OBJECT, "The action's parameters"),
    "every": (ref("duration"), "The time between two questions"),
}
TRIGGER: Rows = {
    "cron": (
        {"type": "string", "pattern": r"^(@[a-z]+|\s*\S+(\s+\S+){4,5}\s*)$"},
        "Five fields, six with seconds first, or @daily",
    ),
    "timezone": (TEXT, "The IANA name of a time zone; else the plan's"),
    "every": (ref("duration"), "The time between two starts"),
    "from": (_MOMENT, "The first start; the others follow from it"),
    "at": (_MOMENT, "One time, with its offset"),
    "misfire": ({"enum": list(triggerfile.MISFIRES)}, "What becomes of times at which it could not start"),
    "misfire_grace": (or_zero("duration"), "How late a start may be"),
    "jitter": (or_zero("duration"), "A random part of this is added to each time"),
    "event": (_EVENT, "Events of that name start it; * stands for one part, ** for any number"),
    "debounce": (_shape(triggerfile.DEBOUNCE_KEYS, DEBOUNCE, ["for"]), "Events that come close together count as one"),
    "file": (_shape(triggerfile.FILE_KEYS, FILE, ["path"]), "Changes of files start it"),
    "webhook": (
        _shape(triggerfile.WEBHOOK_KEYS, WEBHOOK, ["secret"]),
        "A call of POST /api/hooks/<plan>/<item> starts it",
    ),
    "poll": (_shape(triggerfile.POLL_KEYS, POLL, ["action", "every"]), "An action is asked again and again"),
    "expect": (_EVENT, "It starts if no such event has come"),
    "within": (ref("duration"), "The time in which the event is expected"),
    "when": ({"anyOf": [_FLAG, WHOLE_EXPRESSION]}, "A condition, with due and event"),
}
ITEM: Rows = {
    "task": (TEXT, "What is started"),
    "plan": (TEXT, "The plan of the task, if it is another that this one uses"),
    "inputs": (_OBJECT, "What is given to it; values may hold expressions, with due and event"),
    "enabled": (_FLAG, "False: it starts nothing by itself"),
    "mode": (mode(), "What happens if its run before still runs"),
    "cooldown": (or_zero("duration"), "The shortest time between two starts"),
    "triggers": (_triggers(triggerfile.KINDS), "What starts it; without any it is started by hand alone"),
}
PREEMPTS: Rows = {
    "lanes": ({"type": "array", "items": {"enum": list(interruptfile.LANES)}}, "Lanes"),
    "plans": (
        {"type": "array", "items": {"type": "string", "pattern": f"^{interruptfile.PLANS_PATTERN}$"}},
        "Plans, by name; * stands for any text",
    ),
    "tasks": (
        {"type": "array", "items": {"type": "string", "pattern": f"^{interruptfile.TASKS_PATTERN}$"}},
        "Tasks, by name; * stands for any text",
    ),
    "labels": ({"type": "object", "additionalProperties": TEXT}, "Labels that a run must have"),
    "below_priority": (whole(PRIORITIES.start, PRIORITIES.stop), "Only runs of a lower priority"),
}
RULE: Rows = {
    "triggers": ({**_triggers(interruptfile.KINDS), "minItems": 1}, "What fires it"),
    "task": (TEXT, "The handler: a task of this plan"),
    "inputs": (_OBJECT, "What is given to it; values may hold expressions, with due and event"),
    "preempts": (
        _shape(interruptfile.PREEMPTS_KEYS, PREEMPTS),
        "Which runs it stops: those that all of this fits; the main lane unless it says otherwise",
    ),
    "then": ({"enum": list(interruptfile.THENS)}, "How what was stopped goes on once the handler has ended"),
    "handler_starts": ({"enum": list(interruptfile.HANDLER_STARTS)}, "Whether the handler waits for the clean-up"),
    "grace": (or_zero("duration"), "How long what it stops may take to clean up"),
    "cooldown": (or_zero("duration"), "The shortest time between two firings"),
    "max_pending": (whole(1, interruptfile.MAX_PENDING), "How many firings wait at most"),
    "priority": (
        whole(PRIORITIES.start, PRIORITIES.stop - 1),
        "Among rules; a higher one stops a lower one's handler",
    ),
    "while_running": (
        {"type": "array", "items": {"type": "string", "pattern": f"^{interruptfile.TASK_PATTERN}$"}},
        "It counts only while one of these tasks runs",
    ),
    "enabled": (_FLAG, "False: it does not fire by itself"),
}
