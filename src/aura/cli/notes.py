"""What a picture of a task says of a step beyond its name: what it wants, when it runs, how often. For all formats."""

from collections.abc import Mapping, Sequence
from typing import Any

from aura.reasons import short, wanted_words

#: A step as ``api.TaskStep`` has it, as a mapping.
Step = Mapping[str, Any]
#: How much of an expression a picture shows, in characters.
MAX_EXPRESSION = 36


def needs_of(step: Step) -> dict[str, list[str]]:
    """What a step waits for → the states that it wants."""
    depends_on = step["depends_on"]
    found: dict[str, list[str]] = depends_on["any"] if is_any(step) else depends_on
    return found


def is_any(step: Step) -> bool:
    """Whether one of what it waits for is enough. No step is called ``any``: depends_on uses that word."""
    return isinstance(step["depends_on"].get("any"), dict)


def wish_words(states: Sequence[str]) -> str:
    """The wanted states as a plan file names them; empty for plain success."""
    return "" if list(states) == ["succeeded"] else " or ".join(wanted_words(states))


def wish_of(step: Step) -> str:
    """What a step waits for beyond the success of all: ``if ping failed``, ``if all ended``, ``if one of: a, b``."""
    needs = needs_of(step)
    if is_any(step):
        return f"if one of: {', '.join(needs)}"
    wishes = {name: wish_words(states) for name, states in needs.items()}
    if len(wishes) > 1 and len(set(wishes.values())) == 1:
        wishes = {"all": next(iter(wishes.values()))}
    said = [f"{name} {wish}" for name, wish in wishes.items() if wish]
    return f"if {', '.join(said)}" if said else ""


def notes_of(step: Step) -> list[str]:
    """Its condition, its loop and its tries, each in a few words."""
    notes = []
    if step.get("when"):
        notes.append(f"when {_expression(step['when'])}")
    if step.get("loop"):
        notes.append(_loop(step["loop"]))
    if step.get("attempts", 1) > 1:
        notes.append(f"up to {step['attempts']} tries")
    return notes


def action_of(step: Step) -> str:
    """What it does: its action, and the task that this runs, if it does."""
    return f"{step['action']} {step['task']}" if step.get("task") else str(step["action"])


def _loop(loop: Mapping[str, Any]) -> str:
    value = _expression(loop["value"])
    match loop["key"]:
        case "for_each":
            said = f"for each of {value}"
        case "times":
            said = f"{value} times"
        case key:
            said = f"{key} {value}"
    return f"{said}, {loop['parallelism']} at once" if loop["parallelism"] > 1 else said


def _expression(value: Any) -> str:
    """An expression without its braces; of a list or a mapping how long it is."""
    if isinstance(value, list | dict):
        return f"{len(value)}"
    text = " ".join(str(value).split())
    return short(text[2:-2].strip() if text.startswith("{{") and text.endswith("}}") else text, MAX_EXPRESSION)
