"""The key ``loop`` of a step: over what it goes, or how long, and how.

Whether the names in its expressions are there is for ``stepfile``.
"""

from typing import Any

from aura.expressions import Template, is_whole
from aura.loading.fields import Fields, kind_of
from aura.task import DEFAULT_MAX_ITERATIONS, MAX_ITEMS, Loop

#: The four kinds of loop, of which a step says one.
KINDS = ("for_each", "times", "while", "until")
KEYS = (*KINDS, "delay", "parallelism", "max_iterations", "on_item_failure")
ON_ITEM_FAILURE = ("stop", "continue")
MAX_PARALLELISM = 1000
#: A key → the kinds that it means nothing for, and why.
FOREIGN = {
    "parallelism": (("while", "until"), "its rounds are one after the other"),
    "delay": (("for_each", "times"), "it has no rounds to wait between"),
    "max_iterations": (("for_each", "times"), "it ends with its last item"),
}


def read_loop(fields: Fields) -> Loop | None:
    """Read the field ``loop`` of a step; None if it has none, or it says not what it goes over."""
    if "loop" not in fields:
        return None
    loop = Fields(fields.reader, fields.at("loop"), fields.get("loop"), "loop", KEYS)
    if isinstance(fields.get("loop"), dict):
        _check_kind(loop)
    made = Loop(
        for_each=_read_for_each(loop),
        times=_read_times(loop),
        while_=loop.condition("while"),
        until=loop.condition("until"),
        delay=loop.duration("delay", 0.0, zero=True),
        parallelism=loop.integer("parallelism", 1, 1, MAX_PARALLELISM),
        max_iterations=loop.integer("max_iterations", DEFAULT_MAX_ITERATIONS, 1, MAX_ITEMS),
        stop_on_failure=loop.choice("on_item_failure", "stop", ON_ITEM_FAILURE) == "stop",
    )
    if loop.get("while") is False:
        loop.wrong("while", "false: there would be no round; leave the step out")
    return made


def _check_kind(loop: Fields) -> None:
    """A loop goes by exactly one thing, and has no key that means nothing for it."""
    told = [kind for kind in KINDS if kind in loop]
    if len(told) != 1:
        both = f", not {' and '.join(told)}" if told else ""
        loop.reader.problem(loop.path, f"a loop goes by one of {', '.join(KINDS)}{both}")
        return
    for key, (kinds, reason) in FOREIGN.items():
        if key in loop and told[0] in kinds:
            loop.wrong(key, f"means nothing for a loop with {told[0]}: {reason}")


def _read_for_each(loop: Fields) -> Template | None:
    if "for_each" not in loop:
        return None
    value = loop.get("for_each")
    made = loop.reader.template(loop.at("for_each"), value)
    if not isinstance(value, dict | list) and not is_whole(made.value):
        loop.wrong("for_each", f"a list, a mapping or one whole {{{{ … }}}} is needed, not {kind_of(value)}")
    return made


def _read_times(loop: Fields) -> Template | None:
    if "times" not in loop:
        return None
    value: Any = loop.get("times")
    if isinstance(value, str) and "{{" in value:
        made = loop.reader.template(loop.at("times"), value)
        if is_whole(made.value):
            return made
        loop.wrong("times", "a whole number or one whole {{ … }} is needed")
        return made
    return loop.reader.template(loop.at("times"), loop.integer("times", 0, 0, MAX_ITEMS))
