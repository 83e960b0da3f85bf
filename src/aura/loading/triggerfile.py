"""What ``schedule.yaml`` and ``interrupts.yaml`` have in common: triggers, by kind in one table, and starts of tasks.

Whether the tasks that are named are there and take their inputs is for ``crosscheck``, whether what a poll asks is for
``usecheck``: a ``Place`` collects both for them.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from aura import eventnames
from aura.cron import read_cron
from aura.expressions import Condition, Template, template
from aura.loading.crosscheck import TaskStart
from aura.loading.fields import Fields, Path, Reader, kind_of, members
from aura.loading.planfile import PlanHead, is_timezone
from aura.loading.stepfile import ActionUse
from aura.sandbox import near
from aura.schedule import (
    At,
    Change,
    Cron,
    Debounce,
    Every,
    Expect,
    Kind,
    Misfire,
    OnEvent,
    OnFile,
    OnWebhook,
    Poll,
    Scheme,
    Timed,
    Trigger,
)
from aura.task import IDENTIFIER_PATTERN, Step
from aura.timefilters import to_moment

#: The names that every expression here may use; ``due`` and ``event`` where something is started.
_EVERYWHERE = ("vars", "secrets", "state", "plan", "now")
STARTING = ("due", "event")
_IN_A_TASK = frozenset({"inputs", "run", "steps", "loop", "result", "error"})
#: What is not there in what is rendered once, when a plan is loaded.
_CHANGING = frozenset({"secrets", "state", "now"})
_KEYS_OF_PLAN = ("name", "dir")
#: The shortest period, in seconds.
MIN_PERIOD = 0.1
MISFIRES = tuple(word.value for word in Misfire)
SCHEMES = tuple(word.value for word in Scheme)
CHANGES = tuple(word.value for word in Change)
DEBOUNCE_KEYS = ("for", "key")
FILE_KEYS = ("path", "pattern", "changes", "each")
WEBHOOK_KEYS = ("secret", "scheme")
POLL_KEYS = ("action", "params", "every")
#: Shipped actions that only a run can do: a poll that asked one would fail each time.
NEEDS_RUN = frozenset({"event.wait", "approval.wait", "task.run", "task.start", "stop"})
TIMED_KEYS = ("misfire", "misfire_grace", "jitter")

_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)


class Place(msgspec.Struct, eq=False):
    """The file in which triggers stand, and what is still to be checked of it. ``qualify`` names actions in full."""

    reader: Reader
    plan_name: str
    head: PlanHead
    qualify: Callable[[str], str]
    starts: list[TaskStart] = msgspec.field(default_factory=list)
    uses: list[ActionUse] = msgspec.field(default_factory=list)

    def task(self, fields: Fields, plan_name: str) -> tuple[str, dict[str, Template]]:
        """Read what an item or a rule starts: the name of a task of that plan, and its inputs."""
        task_name = fields.text("task")
        if "task" not in fields and fields.is_mapping:
            self.reader.key_problem(fields.path, f"{fields.path[-1]} says no task")
        inputs = self.templates(fields, "inputs", STARTING)
        self.starts.append(TaskStart(self.reader, fields.at("task"), plan_name, task_name, inputs))
        return task_name, inputs

    def templates(self, fields: Fields, key: str, extra: Collection[str] = ()) -> dict[str, Template]:
        """Read a mapping of values with expressions in them."""
        if key not in fields:
            return {}
        given = self.reader.mapping(fields.at(key), fields.get(key), key)
        return {name: self.template((*fields.at(key), name), value, extra) for name, value in given.items()}

    def template(self, path: Path, value: Any, extra: Collection[str] = ()) -> Template:
        """Read a value with expressions in it, and check their names."""
        made = self.reader.template(path, value)
        self.check_names(path, made, extra)
        return made

    def condition(self, fields: Fields) -> Condition | None:
        """Read the field ``when``."""
        made = fields.condition("when")
        if made is not None:
            self.check_names(fields.at("when"), made, STARTING)
        return made

    def check_names(self, path: Path, used: Template | Condition, extra: Collection[str]) -> None:
        if isinstance(used.value, dict | list) and not used.constant:
            for key, item in members(used.value):
                self.check_names((*path, key), template(item, used.at), extra)
            return
        for name in sorted(used.names):
            wrong = _wrong_name(name, (*_EVERYWHERE, *extra))
            if wrong:
                self.reader.problem(path, wrong)
        known: dict[str, tuple[Collection[str], str]] = {
            "vars": (self.head.vars, "plan.yaml has no variable"),
            "secrets": (self.head.secrets, "plan.yaml does not declare the secret"),
            "plan": (_KEYS_OF_PLAN, "plan has no"),
            "event": (eventnames.KEYS, "an event has no"),
        }
        for root, key in sorted((str(keys[0]), str(keys[1])) for keys in used.paths if len(keys) == 2):
            if root in known and key not in known[root][0]:
                self.reader.problem(path, f"{known[root][1]} {key!r}{near(key, known[root][0])}")


def _wrong_name(name: str, known: Collection[str]) -> str | None:
    if name in known:
        return None
    if name in _IN_A_TASK:
        return f"`{name}` is there only in a task"
    if name in STARTING:
        return f"`{name}` is there only in `when`, in inputs and in the key of a debounce"
    return f"unknown name {name!r}{near(name, known)}"


# -- triggers ---------------------------------------------------------------------------------------------------------


class KindOfTrigger(NamedTuple):
    """How a kind of trigger is read, and which keys may stand beside it; ``when`` always may."""

    read: Callable[[Place, Fields], Kind]
    beside: tuple[str, ...] = ()


def read_triggers(place: Place, owner: Fields, kinds: Mapping[str, KindOfTrigger]) -> tuple[Trigger, ...]:
    """Read the triggers of an item or a rule, which may be of these kinds."""
    value = owner.value.get("triggers", [])
    if not isinstance(value, list):
        owner.wrong("triggers", f"a list of triggers is needed, not {kind_of(value)}")
        return ()
    found = [_read_trigger(place, (*owner.at("triggers"), n), one, kinds) for n, one in enumerate(value)]
    return tuple(trigger for trigger in found if trigger is not None)


def _read_trigger(place: Place, path: Path, value: Any, kinds: Mapping[str, KindOfTrigger]) -> Trigger | None:
    if not isinstance(value, dict):
        place.reader.problem(path, f"a trigger is a mapping such as {{every: 5m}}, not {kind_of(value)}")
        return None
    said = [kind for kind in kinds if kind in value]
    if len(said) != 1:
        _report_kinds(place.reader, path, value, said, kinds)
        return None
    (kind,) = said
    fields = Fields(place.reader, path, value, f"a trigger with {kind}", (kind, *kinds[kind].beside, "when"))
    return Trigger(kinds[kind].read(place, fields), place.condition(fields))


def _report_kinds(
    reader: Reader, path: Path, value: Mapping[str, Any], said: list[str], kinds: Collection[str]
) -> None:
    if said:
        reader.problem(path, f"a trigger says one thing, not {' and '.join(said)}: make them {len(said)} triggers")
        return
    hint = next(filter(None, (near(key, kinds) for key in value)), "")
    reader.problem(path, f"a trigger says one of {', '.join(kinds)}{hint}")


def _period(fields: Fields, key: str) -> float:
    seconds = fields.duration(key, MIN_PERIOD, zero=True)
    if key in fields and seconds < MIN_PERIOD:
        fields.wrong(key, f"{MIN_PERIOD * 1000:g}ms is the shortest time that can be said here")
    return seconds


def _moment(fields: Fields, key: str) -> float:
    """Read a time, in Unix seconds; text without an offset may be anywhere on Earth, and is refused."""
    value = fields.get(key)
    try:
        if not isinstance(value, str):
            raise ValueError(f'a time in quotes is needed, such as "2027-01-01T00:00:00Z", not {kind_of(value)}')
        moment = to_moment(value, None)
        if moment.tzinfo is None:
            raise ValueError(f"{value!r} does not say where: add Z, or an offset such as +01:00")
        return moment.timestamp()
    except (ValueError, OverflowError) as error:
        fields.wrong(key, str(error))
        return 0.0


def _timed(fields: Fields) -> Timed:
    return Timed(
        misfire=Misfire(fields.choice("misfire", Misfire.RUN_ONCE.value, MISFIRES)),
        misfire_grace=fields.duration("misfire_grace", None, zero=True),
        jitter=fields.duration("jitter", 0.0, zero=True),
    )


def _read_cron(_: Place, fields: Fields) -> Cron:
    text, zone = _checked(fields, "cron", read_cron), None
    if "timezone" in fields:
        zone = fields.text("timezone", "UTC")
        if not is_timezone(zone):
            fields.wrong("timezone", f"there is no time zone {zone!r}; an IANA name is needed, such as Europe/Berlin")
    return Cron(text, zone, _timed(fields))


def _read_every(_: Place, fields: Fields) -> Every:
    start = _moment(fields, "from") if "from" in fields else None
    return Every(_period(fields, "every"), start, _timed(fields))


def _read_at(_: Place, fields: Fields) -> At:
    return At(_moment(fields, "at"), _timed(fields))


def _checked(fields: Fields, key: str, read: Callable[[str], str]) -> str:
    """Read a text of which something else knows what it may be."""
    text = fields.text(key)
    if isinstance(fields.get(key), str):
        try:
            return read(text)
        except ValueError as error:
            fields.wrong(key, str(error))
    return text


def _read_event(place: Place, fields: Fields) -> OnEvent:
    pattern = _checked(fields, "event", eventnames.read_pattern)
    if "debounce" not in fields:
        return OnEvent(pattern)
    inner = _inner(place, fields, "debounce", DEBOUNCE_KEYS, "for")
    key = place.template(inner.at("key"), inner.get("key"), STARTING) if "key" in inner else None
    return OnEvent(pattern, Debounce(_period(inner, "for"), key))


def _read_file(place: Place, fields: Fields) -> OnFile:
    inner = _inner(place, fields, "file", FILE_KEYS, "path")
    changes = inner.value.get("changes", ["added", "modified"])
    wrong = [word for word in changes if word not in CHANGES] if isinstance(changes, list) and changes else [changes]
    if wrong:
        hint = near(wrong[0], CHANGES) if isinstance(wrong[0], str) else ""
        inner.wrong("changes", f"a list of {', '.join(CHANGES)} is needed{hint}")
        changes = []
    path = place.template(inner.at("path"), inner.text("path"))
    for name in sorted(path.names & _CHANGING):
        place.reader.problem(inner.at("path"), f"`{name}` is not there in a path: it is made when the plan is loaded")
    pattern = inner.text("pattern", "*")
    if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
        inner.wrong("pattern", "a pattern of names below the path is needed, such as *.csv or **/*.csv")
    return OnFile(path, pattern, frozenset(map(Change, changes)), inner.boolean("each"))


def _read_webhook(place: Place, fields: Fields) -> OnWebhook:
    inner = _inner(place, fields, "webhook", WEBHOOK_KEYS, "secret")
    secret = inner.text("secret")
    if isinstance(inner.get("secret"), str) and not _IDENTIFIER.fullmatch(secret):
        inner.wrong("secret", "the name of a secret is needed, not the secret itself")
    elif secret and secret not in place.head.secrets:
        known = place.head.secrets
        inner.wrong("secret", f"plan.yaml does not declare the secret {secret!r}{near(secret, known)}")
    return OnWebhook(secret, Scheme(inner.choice("scheme", Scheme.AURA.value, SCHEMES)))


def _read_poll(place: Place, fields: Fields) -> Poll:
    inner = _inner(place, fields, "poll", POLL_KEYS, "action", "every")
    params = place.templates(inner, "params")
    action = place.qualify(inner.text("action"))
    if action in NEEDS_RUN:
        what = f"a poll is part of no run, and {action} needs one; it belongs into a task"
        place.reader.problem(inner.at("action"), what)
    step = Step("poll", action, place.reader.source(inner.path), params)
    place.uses.append(ActionUse(step, place.reader, inner.path))
    return Poll(action, params, _period(inner, "every"))


def _read_expect(_: Place, fields: Fields) -> Expect:
    if "within" not in fields:
        fields.reader.key_problem(fields.path, "expect needs `within`, such as {expect: backup.done, within: 26h}")
    return Expect(_checked(fields, "expect", eventnames.read_pattern), _period(fields, "within"))


def _inner(place: Place, fields: Fields, key: str, known: tuple[str, ...], *needed: str) -> Fields:
    inner = Fields(place.reader, fields.at(key), fields.get(key), key, known)
    missing = [name for name in needed if name not in inner]
    if missing and inner.is_mapping:
        place.reader.key_problem(inner.path, f"{key} needs {' and '.join(missing)}")
    return inner


EVENT = KindOfTrigger(_read_event)
POLL = KindOfTrigger(_read_poll)
#: Every kind of trigger that an item of a schedule may have.
KINDS: Mapping[str, KindOfTrigger] = {
    "cron": KindOfTrigger(_read_cron, ("timezone", *TIMED_KEYS)),
    "every": KindOfTrigger(_read_every, ("from", *TIMED_KEYS)),
    "at": KindOfTrigger(_read_at, TIMED_KEYS),
    "event": EVENT._replace(beside=("debounce",)),
    "file": KindOfTrigger(_read_file),
    "webhook": KindOfTrigger(_read_webhook),
    "poll": POLL,
    "expect": KindOfTrigger(_read_expect, ("within",)),
}
