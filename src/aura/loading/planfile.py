"""``plan.yaml``: what a plan says about itself as a whole."""

import re
import zoneinfo
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

from aura.loading.defaults import STEP_KEYS, TASK_KEYS, StepDefaults, TaskDefaults, read_for_step, read_for_task
from aura.loading.fields import IDENTIFIER_RULE, Fields, Path, Reader, is_identifier, kind_of
from aura.plan import GATE_TIMEOUT, Rate, Resource, Semaphore
from aura.task import NAME_PATTERN

#: The keys of plan.yaml.
KEYS = ("title", "description", "timezone", "uses", "vars", "secrets", "resources", "defaults", "reload")
RELOAD_KEYS = ("gate", "gate_timeout")
#: What a new version may have to pass before it is served.
GATES = ("tests",)
#: The longest that it may take, in seconds: meanwhile the versions of other such plans wait.
MAX_GATE_TIMEOUT = 3600.0
RATE_KEYS = ("rate", "per")
#: The most of one resource that there can be, and the most that a rate can give in its time.
MAX_RESOURCE = 1_000_000

_NAME = re.compile(NAME_PATTERN)


class PlanHead(msgspec.Struct, frozen=True):
    """What ``plan.yaml`` says; all of it has a default. ``timezone`` is None where the file does not say one.

    ``uses`` are names of other plans, which need not be there; ``secrets`` those of the secrets that it may read.
    """

    title: str = ""
    description: str = ""
    timezone: str | None = None
    uses: tuple[str, ...] = ()
    vars: dict[str, Any] = {}
    secrets: tuple[str, ...] = ()
    resources: Mapping[str, Resource] = {}
    task_defaults: TaskDefaults = TaskDefaults()
    step_defaults: StepDefaults = StepDefaults()
    gate: Literal["tests"] | None = None
    gate_timeout: float = GATE_TIMEOUT


def read_plan_head(reader: Reader, plan_name: str) -> PlanHead:
    """Read ``plan.yaml`` of a plan; problems go to the reader."""
    fields = Fields(reader, (), reader.document.value, "plan.yaml", KEYS)
    gate, gate_timeout = _read_reload(fields)
    return PlanHead(
        title=fields.text("title"),
        description=fields.text("description"),
        timezone=_read_timezone(fields),
        uses=_read_uses(fields, plan_name),
        vars=_read_vars(fields),
        secrets=_read_secrets(fields),
        resources=_read_resources(fields),
        task_defaults=read_for_task(_defaults_of(fields, "task", TASK_KEYS), TaskDefaults()),
        step_defaults=read_for_step(_defaults_of(fields, "step", STEP_KEYS), StepDefaults()),
        gate=gate,
        gate_timeout=gate_timeout,
    )


def _read_timezone(fields: Fields) -> str | None:
    if "timezone" not in fields:
        return None
    name = fields.text("timezone", "UTC")
    if is_timezone(name):
        return name
    fields.wrong("timezone", f"there is no time zone {name!r}; an IANA name is needed, such as Europe/Berlin")
    return None


@lru_cache(maxsize=256)
def is_timezone(name: str) -> bool:
    """Say whether this is the name of a time zone that this machine knows."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _read_uses(fields: Fields, plan_name: str) -> tuple[str, ...]:
    """Read the names of other plans; whether they are there is known once all plans have been read."""
    value = fields.value.get("uses", [])
    if not isinstance(value, list):
        fields.wrong("uses", f"a list of names of plans is needed, not {kind_of(value)}")
        return ()
    found: list[str] = []
    for index, name in enumerate(value):
        wrong = _wrong_use(name, found, plan_name)
        if wrong is None:
            found.append(name)
        else:
            fields.reader.problem((*fields.at("uses"), index), wrong)
    return tuple(found)


def _wrong_use(name: Any, before: Sequence[str], plan_name: str) -> str | None:
    if not isinstance(name, str):
        return f"the name of a plan is needed, not {kind_of(name)}"
    if not _NAME.fullmatch(name):
        return f"{name!r} cannot be the name of a plan"
    if name == plan_name:
        return "a plan does not use itself: its own actions and tasks are open to it anyway"
    return f"{name} is named twice" if name in before else None


def _read_vars(fields: Fields) -> dict[str, Any]:
    path = fields.at("vars")
    given = fields.reader.mapping(path, fields.get("vars"), "vars") if "vars" in fields else {}
    for at, name, value in fields.reader.identifiers(path, given, "a variable"):
        if isinstance(value, str) and "{{" in value:
            fields.reader.problem(at, f"{name}: a variable is plain data; no {{{{ … }}}} is evaluated in it")
    return given


def _read_secrets(fields: Fields) -> tuple[str, ...]:
    """Read the names of secrets; whether they are there is looked at when they are used."""
    value = fields.value.get("secrets", [])
    if not isinstance(value, list):
        fields.wrong("secrets", f"a list of names of secrets is needed, not {kind_of(value)}")
        return ()
    found: list[str] = []
    for index, name in enumerate(value):
        wrong = _wrong_secret(name, found)
        if wrong is None:
            found.append(name)
        else:
            fields.reader.problem((*fields.at("secrets"), index), wrong)
    return tuple(found)


def _wrong_secret(name: Any, before: Sequence[str]) -> str | None:
    """What is wrong with a name; what it is, is not said: it may be the secret itself."""
    if not isinstance(name, str):
        return f"the name of a secret is needed, not {kind_of(name)}"
    if not is_identifier(name):
        return f"this cannot name a secret, and must not be one; {IDENTIFIER_RULE}"
    return f"{name} is named twice" if name in before else None


def _defaults_of(fields: Fields, kind: str, known: Sequence[str]) -> Fields:
    """The fields of ``defaults.task`` or ``defaults.step``."""
    value = fields.value.get("defaults", {})
    defaults = Fields(Reader(fields.reader.document), fields.at("defaults"), value, "defaults", ("task", "step"))
    if kind == "task":  # what is wrong with both is said once
        fields.reader.problems += defaults.reader.problems
    given = defaults.value.get(kind, {})
    return Fields(fields.reader, defaults.at(kind), given, f"defaults.{kind}", known)


def _read_reload(fields: Fields) -> tuple[Literal["tests"] | None, float]:
    """Read what a new version has to pass before it is served, and how many seconds that may take."""
    if "reload" not in fields:
        return None, GATE_TIMEOUT
    given = Fields(fields.reader, fields.at("reload"), fields.get("reload"), "reload", RELOAD_KEYS)
    if given.is_mapping and "gate" not in given:
        fields.wrong("reload", "say what a new version has to pass: {gate: tests}")
    timeout = given.duration("gate_timeout", GATE_TIMEOUT)
    if timeout > MAX_GATE_TIMEOUT:
        given.wrong("gate_timeout", "an hour is the most: meanwhile the new versions of other such plans wait")
    given.choice("gate", "tests", GATES)
    return "tests", timeout


def _read_resources(fields: Fields) -> dict[str, Resource]:
    """Read how much there is of each of the plan's own resources: a whole number, or a rate."""
    if "resources" not in fields:
        return {}
    reader, path = fields.reader, fields.at("resources")
    given = reader.mapping(path, fields.get("resources"), "resources")
    counts = Fields(reader, path, given, "resources", given)
    found: dict[str, Resource] = {}
    for at, name, value in reader.identifiers(path, given, "a resource"):
        if isinstance(value, dict):
            found[name] = _read_rate(reader, at, name, value)
        else:
            found[name] = Semaphore(counts.integer(name, 1, 1, MAX_RESOURCE))
    return found


def _read_rate(reader: Reader, path: Path, name: str, value: dict[str, Any]) -> Rate:
    rate = Fields(reader, path, value, name, RATE_KEYS)
    for key in RATE_KEYS:
        if key not in rate:
            reader.key_problem(path, f"{name}: a rate says `rate` and `per`, such as {{rate: 60, per: 1m}}")
            break
    per = rate.duration("per", 1.0, zero=True)
    if per == 0:
        rate.wrong("per", "a rate needs some time, such as 1m")
    return Rate(rate.integer("rate", 1, 1, MAX_RESOURCE), per or 1.0)
